//! Tiles of an image, and where they are read and written.

use crate::{
    conv2d::flex::Geometry,
    cpu::simd::{MOST_LANES, prefetch},
};
use pulp::Simd;

/// Neighbouring tiles of one row of tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// First register value.
    pub lane: usize,
    pub tiles: usize,
    pub image: usize,
    /// Of the first output.
    pub row: usize,
    pub column: usize,
}

impl Geometry {
    /// Rows and columns of tiles of one of the interleaved grids.
    fn tiles(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.output[axis].div_ceil(self.dilation[axis]).div_ceil(4))
    }

    /// Rows and columns of interleaved grids.
    fn grids(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.dilation[axis].min(self.output[axis]))
    }

    pub(super) fn all_tiles(&self) -> usize {
        let [rows, columns] = self.tiles();
        let [grid_rows, grid_columns] = self.grids();
        self.batch * grid_rows * grid_columns * rows * columns
    }

    /// The tiles of the registers that begin with tile `first`.
    pub(super) fn runs(&self, first: usize, lanes: usize, runs: &mut Vec<Run>) {
        runs.clear();
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
    }

    /// Reads `HEIGHT` rows of `4·tiles + HALO` columns for each of the registers' tiles, zeros outside of the plane.
    ///
    /// If the tiles of a register are neighbours, a line is these columns, from the image itself where it can be, else a
    /// copy. If not, a line is the first four columns of each tile and, from [`APART`] on, the four columns after those.
    /// Returns where the latter begin.
    #[inline(always)]
    pub(super) fn lines<S: Simd, const HEIGHT: usize, const HALO: usize>(
        &self,
        _: S,
        source: &Source,
        channel: usize,
        runs: &[Run],
        copies: &mut [Line; HEIGHT],
        lines: &mut [*const f32; HEIGHT],
    ) -> usize {
        let lanes = S::F32_LANES;
        let [height, width] = source.size;
        let [step_row, step_column] = self.dilation;
        for run in runs {
            let plane = (run.image * source.channels + channel) * height * width;
            for a in 0..HEIGHT {
                let row = (run.row + a * step_row).wrapping_sub(source.padding[0]);
                let line = if row < height { &source.values[plane + row * width..][..width] } else { &[] };
                if run.tiles == lanes {
                    let inside = row < height
                        && run.column >= source.padding[1]
                        && run.column - source.padding[1] + 4 * lanes + HALO <= width;
                    if step_column == 1 && inside {
                        // Registers are read to their end, which may lie in the next row, but not past the last.
                        let start = plane + row * width + run.column - source.padding[1];
                        if start + 5 * lanes + HALO <= source.values.len() {
                            lines[a] = source.values[start..].as_ptr();
                            continue;
                        }
                    }
                    self.fetch(line, run.column, source.padding[1], &mut copies[a].0[..4 * lanes + HALO]);
                } else {
                    let (main, halo) = copies[a].0.split_at_mut(APART);
                    let columns = 4 * run.lane..4 * (run.lane + run.tiles);
                    self.fetch(line, run.column, source.padding[1], &mut main[columns.clone()]);
                    if HALO > 0 {
                        let next = run.column + 4 * step_column;
                        self.fetch(line, next, source.padding[1], &mut halo[columns]);
                    }
                }
                lines[a] = copies[a].0.as_ptr();
            }
        }
        if runs[0].tiles == lanes { 4 } else { APART }
    }

    /// Asks for the lines of a channel that are read soon: they are too far apart for the processor to guess.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(&self, source: &Source, channel: usize, run: &Run) {
        let [height, width] = source.size;
        let plane = (run.image * source.channels + channel) * height;
        for a in 0..6 {
            let row = (plane + run.row + a * self.dilation[0]).wrapping_sub(source.padding[0]);
            let start = row.wrapping_mul(width).wrapping_add(run.column).wrapping_sub(source.padding[1]);
            for offset in (0..4 * S::F32_LANES + 2).step_by(16) {
                prefetch(source.values.as_ptr().wrapping_add(start).wrapping_add(offset));
            }
        }
    }

    /// The values of a line from a column on that is counted with `padding` zeros before the line.
    #[inline(always)]
    fn fetch(&self, line: &[f32], column: usize, padding: usize, values: &mut [f32]) {
        let (step, count) = (self.dilation[1], values.len());
        if step > 1 {
            let start = padding.saturating_sub(column).div_ceil(step).min(count);
            let end = (line.len() + padding).saturating_sub(column).div_ceil(step).clamp(start, count);
            values[..start].fill(0.0);
            values[end..].fill(0.0);
            if end > start {
                let line = line[column + start * step - padding..].iter().step_by(step);
                for (value, from) in values[start..end].iter_mut().zip(line) {
                    *value = *from;
                }
            }
            return;
        }
        // Values before `start` and from `end` on are padding.
        let start = padding.saturating_sub(column).min(count);
        let end = (line.len() + padding).saturating_sub(column).clamp(start, count);
        values[..start].fill(0.0);
        if end > start {
            let from = column + start - padding;
            copy_values(&line[from..from + end - start], &mut values[start..end]);
        }
        values[end..].fill(0.0);
    }
}

/// A tensor that tiles are read from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub values: &'a [f32],
    pub channels: usize,
    pub size: [usize; 2],
    /// Zeros before the first row and column.
    pub padding: [usize; 2],
}

/// Where the second part of a [`Line`] begins.
pub(super) const APART: usize = 5 * MOST_LANES;

/// Columns of a register's tiles.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(pub [f32; 2 * APART]);

impl Line {
    pub const EMPTY: Self = Self([0.0; 2 * APART]);
}

/// Copies; the lengths that rows of whole registers have without a call.
#[inline(always)]
fn copy_values(from: &[f32], to: &mut [f32]) {
    #[inline(always)]
    fn fixed<const N: usize>(from: &[f32], to: &mut [f32]) {
        let to: &mut [f32; N] = (&mut to[..N]).try_into().expect("the size");
        *to = from[..N].try_into().expect("the size");
    }
    match from.len() {
        66 => fixed::<66>(from, to),
        65 => fixed::<65>(from, to),
        64 => fixed::<64>(from, to),
        32 => fixed::<32>(from, to),
        31 => fixed::<31>(from, to),
        30 => fixed::<30>(from, to),
        16 => fixed::<16>(from, to),
        _ => to.copy_from_slice(from),
    }
}

/// Writes values to a row of the output from the run's column on, as far as they are within it.
///
/// # Safety
/// `row` has the output's columns.
#[inline(always)]
pub(super) unsafe fn store(geometry: &Geometry, run: &Run, values: &[f32], row: *mut f32) {
    let step = geometry.dilation[1];
    let columns = geometry.output[1].saturating_sub(run.column).div_ceil(step).min(values.len());
    // SAFETY: the columns are within the row.
    unsafe {
        let target = row.add(run.column.min(geometry.output[1]));
        if step == 1 {
            copy_values(&values[..columns], std::slice::from_raw_parts_mut(target, columns));
        } else {
            for (b, value) in values[..columns].iter().enumerate() {
                target.add(b * step).write(*value);
            }
        }
    }
}
