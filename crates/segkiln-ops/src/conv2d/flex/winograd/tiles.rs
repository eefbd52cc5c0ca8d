//! Tiles of an image: which pixels they read, and which they write.

use std::mem::MaybeUninit;

use pulp::Simd;

use crate::{
    conv2d::flex::{Geometry, Planes},
    cpu::{
        disjoint::Part,
        memory::{as_maybe, as_uninit},
        simd::{MOST_LANES, prefetch},
    },
};

/// Neighboring tiles of one row of tiles, within a register of tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The first tile's lane of the register.
    pub lane: usize,
    /// Number of tiles.
    pub tiles: usize,
    pub image: usize,
    /// Row of the first pixel that is read, counted with the padding; divided by the stride, row of the first output.
    pub row: usize,
    /// Column, likewise.
    pub column: usize,
}

impl Geometry {
    /// Returns the rows and columns of tiles of one of the interleaved grids.
    fn tiles(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.output[axis].div_ceil(self.dilation[axis]).div_ceil(4 / self.stride[axis]))
    }

    /// Returns the rows and columns of interleaved grids: pixels that are a dilation apart are one grid.
    pub(super) fn grids(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.dilation[axis].min(self.output[axis]))
    }

    /// Returns the number of tiles of all grids of all images.
    pub(super) fn all_tiles(&self) -> usize {
        let [rows, columns] = self.tiles();
        let [grid_rows, grid_columns] = self.grids();
        self.batch * grid_rows * grid_columns * rows * columns
    }

    /// Returns the tiles of the register that begins with tile `first`, cut at the ends of rows of tiles.
    pub(super) fn runs(&self, first: usize, lanes: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        let ([rows, columns], [grid_rows, grid_columns]) = (self.tiles(), self.grids());
        let (mut tile, end) = (first, (first + lanes).min(self.all_tiles()));
        while tile < end {
            let column = tile % columns;
            let tiles = (columns - column).min(end - tile);
            let row = tile / columns % rows;
            let grid = tile / columns / rows % (grid_rows * grid_columns);
            runs.push(Run {
                lane: tile - first,
                tiles,
                image: tile / columns / rows / (grid_rows * grid_columns),
                row: 4 * row * self.dilation[0] + grid / grid_columns,
                column: 4 * column * self.dilation[1] + grid % grid_columns,
            });
            tile += tiles;
        }
        runs
    }
}

/// The tensor that tiles read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub planes: Planes<'a>,
    pub size: [usize; 2],
    /// Zeros before the first row and column.
    pub padding: [usize; 2],
}

/// Begin of the second part of a [`Line`].
pub(super) const APART: usize = 5 * MOST_LANES;

/// Columns of a register's tiles: all in a row if the tiles are neighbors; else the first four of each tile, and from [`APART`] on
/// those after them (the halo).
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(pub [f32; 2 * APART]);

impl Line {
    pub const EMPTY: Self = Self([0.0; 2 * APART]);
}

/// Values that follow each other in the image, a dilation apart, and are copied to a line.
#[derive(Clone, Copy)]
struct Segment {
    /// Index of the line.
    line: usize,
    /// Offset in the line.
    target: usize,
    image: usize,
    /// Offset in the plane.
    source: usize,
    len: usize,
}

/// The `HEIGHT` rows of `4·tiles + HALO` columns that the tiles of a register read.
pub(super) struct Window<'a, const HEIGHT: usize, const HALO: usize> {
    source: Source<'a>,
    /// Dilation along a row.
    step: usize,
    run: Run,
    /// Dilation along a column.
    dilation: usize,
    /// Whether the tiles are neighbors.
    joined: bool,
    /// Offset of the lines in a plane if they can be read there, without a copy.
    inside: Option<usize>,
    segments: Vec<Segment>,
    copies: [Line; HEIGHT],
}

impl<'a, const HEIGHT: usize, const HALO: usize> Window<'a, HEIGHT, HALO> {
    /// Returns the window of the register that begins with tile `first`.
    pub fn new<S: Simd>(_: S, geometry: &Geometry, source: Source<'a>, first: usize) -> Self {
        let (lanes, [height, width], [step_row, step]) = (S::F32_LANES, source.size, geometry.dilation);
        let runs = geometry.runs(first, lanes);
        let run = runs[0];
        let joined = run.tiles == lanes;
        let mut window = Self {
            source,
            step,
            run,
            dilation: step_row,
            joined,
            inside: None,
            segments: Vec::new(),
            copies: [Line::EMPTY; HEIGHT],
        };
        let top = run.row.wrapping_sub(source.padding[0]);
        let left = run.column.wrapping_sub(source.padding[1]);
        let bottom = top.wrapping_add((HEIGHT - 1) * step_row);
        let start = top.wrapping_mul(width).wrapping_add(left);
        // Registers are read to their end, which may lie in the next row, but not past the tensor.
        let last = start.wrapping_add((HEIGHT - 1) * step_row * width);
        let fits = source.planes.follow(run.image, last.saturating_add(5 * lanes + HALO), height * width);
        if joined
            && step == 1
            && top < height
            && bottom < height
            && left < width
            && left + 4 * lanes + HALO <= width
            && fits
        {
            window.inside = Some(start);
            return window;
        }
        for run in &runs {
            for line in 0..HEIGHT {
                let row = (run.row + line * step_row).wrapping_sub(source.padding[0]);
                if row >= height {
                    continue;
                }
                let row = (line, run.image, row * width);
                if joined {
                    window.add_segment(row, run.column, 0, 4 * lanes + HALO);
                } else {
                    window.add_segment(row, run.column, 4 * run.lane, 4 * run.tiles);
                    if HALO > 0 {
                        window.add_segment(row, run.column + 4 * step, APART + 4 * run.lane, 4 * run.tiles);
                    }
                }
            }
        }
        window
    }

    /// Adds the part that is within the image of `count` columns from `column` on, counted with the padding.
    fn add_segment(&mut self, (line, image, row): (usize, usize, usize), column: usize, target: usize, count: usize) {
        let ([_, padding], [_, width]) = (self.source.padding, self.source.size);
        // Values before `start` and from `end` on are padding.
        let start = padding.saturating_sub(column).div_ceil(self.step).min(count);
        let end = (width + padding).saturating_sub(column).div_ceil(self.step).clamp(start, count);
        if end > start {
            let source = row + column + start * self.step - padding;
            self.segments.push(Segment { line, target: target + start, image, source, len: end - start });
        }
    }

    /// Returns pointers to the lines of a channel, in the tensor itself if possible, and the offset of the columns after each tile's
    /// first four: 4 if the tiles are neighbors, else [`APART`]. From that offset on there are four registers' values, and in the
    /// tensor `HALO` more than four registers' from the begin on.
    #[inline(always)]
    pub fn lines(&mut self, channel: usize) -> ([*const f32; HEIGHT], usize) {
        let [height, width] = self.source.size;
        let (values, step, channel) = self.source.planes.of(channel);
        let plane = |image: usize| (image * step + channel) * height * width;
        let mut lines = [std::ptr::null(); HEIGHT];
        if let Some(start) = self.inside {
            for (line, pointer) in lines.iter_mut().enumerate() {
                *pointer = values[plane(self.run.image) + start + line * self.dilation * width..].as_ptr();
            }
            return (lines, 4);
        }
        for segment in &self.segments {
            let Segment { line, target, image, source, len } = *segment;
            let to = &mut self.copies[line].0[target..target + len];
            let from = &values[plane(image) + source..];
            if self.step == 1 {
                // SAFETY: only initialized values are written.
                copy_values(&from[..len], unsafe { as_uninit(to) });
            } else {
                let from = &from[..(len - 1) * self.step + 1];
                for (index, value) in to.iter_mut().enumerate() {
                    *value = from[index * self.step];
                }
            }
        }
        for (pointer, copy) in lines.iter_mut().zip(&self.copies) {
            *pointer = copy.0.as_ptr();
        }
        (lines, if self.joined { 4 } else { APART })
    }

    /// Prefetches the lines of a channel that is read soon: they are too far apart for the processor to guess.
    #[inline(always)]
    pub fn prefetch<S: Simd>(&self, _: S, channel: usize) {
        let (Run { image, row, column, .. }, [height, width]) = (self.run, self.source.size);
        let (values, step, channel) = self.source.planes.of(channel);
        let plane = (image * step + channel) * height;
        for line in 0..HEIGHT {
            let row = (plane + row + line * self.dilation).wrapping_sub(self.source.padding[0]);
            let start = row.wrapping_mul(width).wrapping_add(column).wrapping_sub(self.source.padding[1]);
            for offset in (0..4 * S::F32_LANES + HALO).step_by(16) {
                prefetch(values.as_ptr().wrapping_add(start).wrapping_add(offset));
            }
        }
    }
}

/// Copies values, without a call for the lengths of rows of whole registers.
#[inline(always)]
fn copy_values(from: &[f32], to: &mut [MaybeUninit<f32>]) {
    #[inline(always)]
    fn fixed<const N: usize>(from: &[f32], to: &mut [MaybeUninit<f32>]) {
        let to: &mut [MaybeUninit<f32>; N] = (&mut to[..N]).try_into().expect("the size");
        let from: &[MaybeUninit<f32>; N] = as_maybe(&from[..N]).try_into().expect("the size");
        *to = *from;
    }
    match from.len() {
        66 => fixed::<66>(from, to),
        65 => fixed::<65>(from, to),
        64 => fixed::<64>(from, to),
        32 => fixed::<32>(from, to),
        31 => fixed::<31>(from, to),
        30 => fixed::<30>(from, to),
        16 => fixed::<16>(from, to),
        _ => to.copy_from_slice(as_maybe(from)),
    }
}

/// Writes values to a row of the output from a column on, a dilation apart, as far as they are within the row.
#[inline(always)]
pub(super) fn store(geometry: &Geometry, column: usize, values: &[f32], row: Part) {
    let step = geometry.dilation[1];
    let columns = geometry.output[1].saturating_sub(column).div_ceil(step).min(values.len());
    if columns == 0 {
        return;
    }
    if step == 1 {
        let target = row.at(column, columns);
        // SAFETY: these values of the output are this part's, and need not be initialized.
        let target: &mut [MaybeUninit<f32>] = unsafe { std::slice::from_raw_parts_mut(target.cast(), columns) };
        copy_values(&values[..columns], target);
    } else {
        let target = row.rows(column, step, columns, 1);
        for (b, value) in values[..columns].iter().enumerate() {
            // SAFETY: the row has as many columns, `step` apart.
            unsafe { target.add(b * step).write(*value) };
        }
    }
}
