//! Winograd's minimal filtering F(4×4, 3×3) for 3×3 convolutions of stride 1: Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks", CVPR 2016, <https://arxiv.org/abs/1509.09308>.
//!
//! A tile of 4×4 outputs depends on 6×6 inputs. Tiles and kernels are transformed to 36 values each (`B^T d B`, `G g G^T`),
//! multiplied and summed over channels, which is 36 matrix products, and transformed back (`A^T m A`): a quarter of the
//! multiplications of the definition. A register holds the same value of several tiles; tiles are numbered along rows, so
//! that with NCHW tensors registers are filled from contiguous memory.
//!
//! A dilated convolution is several plain ones on interleaved grids of the image.

#![allow(
    clippy::manual_map,
    clippy::needless_range_loop,
    clippy::too_many_arguments,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Epilogue, Geometry, Kernels};
use crate::simd::{
    self, Lanes, MOST_LANES, Shared, Sizes, kernel, kernel_rows, prefetch, transpose, uninit, unzip4, with_scratch,
    zip4,
};

/// Values of a transformed tile or kernel.
const POINTS: usize = 36;
/// Added between the planes of points, so that a tile's points do not share a set of the first-level cache.
const SKEW: usize = 16;
/// Values of the transformed input and output of a block of tiles: what stays in a second-level cache of 1 MiB.
const BLOCK: usize = 3 << 16;

/// Neighbouring tiles of one row of tiles.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// First register value.
    lane: usize,
    tiles: usize,
    image: usize,
    /// Of the first output.
    row: usize,
    column: usize,
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

    fn all_tiles(&self) -> usize {
        let [rows, columns] = self.tiles();
        let [grid_rows, grid_columns] = self.grids();
        self.batch * grid_rows * grid_columns * rows * columns
    }

    /// The tiles of the registers that begin with tile `first`.
    fn runs(&self, first: usize, lanes: usize, runs: &mut Vec<Run>) {
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
    fn lines<S: Simd, const HEIGHT: usize, const HALO: usize>(
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
    fn prefetch<S: Simd>(&self, source: &Source, channel: usize, run: &Run) {
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
struct Source<'a> {
    values: &'a [f32],
    channels: usize,
    size: [usize; 2],
    /// Zeros before the first row and column.
    padding: [usize; 2],
}

/// Where the second part of a [`Line`] begins.
const APART: usize = 5 * MOST_LANES;

/// Columns of a register's tiles.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; 2 * APART]);

impl Line {
    const EMPTY: Self = Self([0.0; 2 * APART]);
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

/// `B^T d`, for a column of six.
#[inline(always)]
fn input_column<S: Simd>([d0, d1, d2, d3, d4, d5]: [Lanes<S>; 6]) -> [Lanes<S>; 6] {
    let (even, odd) = (d2.scaled_plus(-4.0, d4), d1.scaled_plus(-4.0, d3));
    let (even_2, odd_2) = (d4 - d2, (d3 - d1) * 2.0);
    [
        d0.scaled_plus(4.0, d2.scaled_plus(-5.0, d4)),
        even + odd,
        even - odd,
        even_2 + odd_2,
        even_2 - odd_2,
        d1.scaled_plus(4.0, d3.scaled_plus(-5.0, d5)),
    ]
}

/// `A^T m`, for a column of six.
#[inline(always)]
fn output_column<S: Simd>([m0, m1, m2, m3, m4, m5]: [Lanes<S>; 6]) -> [Lanes<S>; 4] {
    let (sum, difference) = (m1 + m2, m1 - m2);
    let (sum_2, difference_2) = (m3 + m4, m3 - m4);
    [
        m0 + sum + sum_2,
        difference_2.scaled_plus(2.0, difference),
        sum_2.scaled_plus(4.0, sum),
        difference_2.scaled_plus(8.0, difference) + m5,
    ]
}

/// `A y`, for a column of four: the adjoint of [`output_column`].
#[inline(always)]
fn gradient_column<S: Simd>([y0, y1, y2, y3]: [Lanes<S>; 4]) -> [Lanes<S>; 6] {
    let (even, odd) = (y0 + y2, y1 + y3);
    let even_2 = y2.scaled_plus(4.0, y0);
    let odd_2 = y3.scaled_plus(4.0, y1) * 2.0;
    [y0, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, y3]
}

/// `G g`, for a column of three.
#[inline(always)]
fn kernel_column([g0, g1, g2]: [f32; 3]) -> [f32; 6] {
    let (even, odd) = ((g0 + g2) * (-1.0 / 6.0), g1 * (-1.0 / 6.0));
    let (even_2, odd_2) = (g0 * (1.0 / 24.0) + g2 * (1.0 / 6.0), g1 * (1.0 / 12.0));
    [g0 * 0.25, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, g2]
}

/// `G^T u`, for a column of six: the adjoint of [`kernel_column`].
#[inline(always)]
fn kernel_gradient_column([u0, u1, u2, u3, u4, u5]: [f32; 6]) -> [f32; 3] {
    let (sum, difference) = ((u1 + u2) * (-1.0 / 6.0), (u1 - u2) * (-1.0 / 6.0));
    let (sum_2, difference_2) = (u3 + u4, u3 - u4);
    [u0 * 0.25 + sum + sum_2 * (1.0 / 24.0), difference + difference_2 * (1.0 / 12.0), sum + sum_2 * (1.0 / 6.0) + u5]
}

/// Where a matrix of points for channels and tiles lies: `[point][panel of two registers][channel][tile]`.
#[derive(Clone, Copy)]
struct Panels {
    channels: usize,
    /// Registers a channel.
    vectors: usize,
    lanes: usize,
}

impl Panels {
    fn plane(&self) -> usize {
        self.channels * self.vectors * self.lanes + SKEW
    }

    fn len(&self) -> usize {
        POINTS * self.plane()
    }

    fn width(&self, panel: usize) -> usize {
        (self.vectors - 2 * panel).min(2)
    }

    fn panel(&self, panel: usize) -> usize {
        2 * panel * self.lanes * self.channels
    }

    fn at(&self, channel: usize, vector: usize) -> usize {
        let panel = vector / 2;
        self.panel(panel) + (channel * self.width(panel) + vector % 2) * self.lanes
    }
}

/// The points of a register's tiles for one channel.
#[inline(always)]
fn input_points<S: Simd>(
    simd: S,
    geometry: &Geometry,
    source: &Source,
    channel: usize,
    runs: &[Run],
    copies: &mut [Line; 6],
    halves: &mut [Line; 6],
    mut store: impl FnMut(usize, Lanes<S>),
) {
    let lanes = S::F32_LANES;
    let mut lines = [std::ptr::null(); 6];
    let halo = geometry.lines::<S, 6, 2>(simd, source, channel, runs, copies, &mut lines);
    let (main, after) = if halo == APART { (4, 4) } else { ((4 * lanes + 2).div_ceil(lanes), 0) };
    for index in 0..main + after {
        let offset = if index < main { index * lanes } else { APART + (index - main) * lanes };
        // SAFETY: `lines` gives pointers to as many values.
        unsafe {
            let [d0, d1, d2, d3, d4, d5] = lines;
            let column = input_column([
                Lanes::load(simd, d0.add(offset)),
                Lanes::load(simd, d1.add(offset)),
                Lanes::load(simd, d2.add(offset)),
                Lanes::load(simd, d3.add(offset)),
                Lanes::load(simd, d4.add(offset)),
                Lanes::load(simd, d5.add(offset)),
            ]);
            for a in 0..6 {
                column[a].store(halves[a].0.as_mut_ptr().add(offset));
            }
        }
    }
    for a in 0..6 {
        // SAFETY: four registers of columns and, from `halo` on, four of those after.
        let row = unsafe {
            let line = halves[a].0.as_ptr();
            let [d0, d1, d2, d3] = unzip4(four(simd, line));
            let [d4, d5, ..] = unzip4(four(simd, line.add(halo)));
            input_column([d0, d1, d2, d3, d4, d5])
        };
        for b in 0..6 {
            store(a * 6 + b, row[b]);
        }
    }
}

/// # Safety
/// There are four registers' values.
#[inline(always)]
unsafe fn four<S: Simd>(simd: S, line: *const f32) -> [Lanes<S>; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            Lanes::load(simd, line),
            Lanes::load(simd, line.add(S::F32_LANES)),
            Lanes::load(simd, line.add(2 * S::F32_LANES)),
            Lanes::load(simd, line.add(3 * S::F32_LANES)),
        ]
    }
}

/// The points of the gradient of a register's tiles for one channel.
#[inline(always)]
fn gradient_points<S: Simd>(
    simd: S,
    geometry: &Geometry,
    source: &Source,
    channel: usize,
    runs: &[Run],
    copies: &mut [Line; 4],
    halves: &mut [Line; 6],
    mut store: impl FnMut(usize, Lanes<S>),
) {
    let lanes = S::F32_LANES;
    let mut lines = [std::ptr::null(); 4];
    geometry.lines::<S, 4, 0>(simd, source, channel, runs, copies, &mut lines);
    for offset in [0, lanes, 2 * lanes, 3 * lanes] {
        // SAFETY: `lines` gives pointers to as many values.
        unsafe {
            let [y0, y1, y2, y3] = lines;
            let column = gradient_column([
                Lanes::load(simd, y0.add(offset)),
                Lanes::load(simd, y1.add(offset)),
                Lanes::load(simd, y2.add(offset)),
                Lanes::load(simd, y3.add(offset)),
            ]);
            for a in 0..6 {
                column[a].store(halves[a].0.as_mut_ptr().add(offset));
            }
        }
    }
    for a in 0..6 {
        // SAFETY: four registers of columns.
        let row = gradient_column(unzip4(unsafe { four(simd, halves[a].0.as_ptr()) }));
        for b in 0..6 {
            store(a * 6 + b, row[b]);
        }
    }
}

/// Transforms the patches of `vectors` registers of tiles from tile `first` in some channels.
struct TransformInput<'a> {
    geometry: &'a Geometry,
    source: Source<'a>,
    channels: Range<usize>,
    first_tile: usize,
    panels: Panels,
    target: Shared,
}

impl WithSimd for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, source, channels, first_tile, panels, target } = self;
        let stride = panels.plane();
        let (mut copies, mut halves) = ([Line::EMPTY; 6], [Line::EMPTY; 6]);
        let mut runs = vec![Vec::new(); panels.vectors];
        for (vector, runs) in runs.iter_mut().enumerate() {
            geometry.runs(first_tile + vector * S::F32_LANES, S::F32_LANES, runs);
        }
        for channel in channels {
            for (vector, runs) in runs.iter().enumerate() {
                geometry.prefetch::<S>(&source, channel + 1, &runs[0]);
                // SAFETY: the target has all panels, and this channel and register are written here only.
                unsafe {
                    let target = target.at(panels.at(channel, vector));
                    input_points(simd, geometry, &source, channel, runs, &mut copies, &mut halves, |point, value| {
                        value.store(target.add(point * stride));
                    });
                }
            }
        }
    }
}

/// Transforms the kernels of `rows` output channels from `first`: `[point][kernel_rows channels out][channel in][row]`.
struct TransformKernels<'a> {
    kernels: Kernels<'a>,
    channels_in: usize,
    /// Output channels.
    rows: Range<usize>,
    /// From a point to the next.
    stride: usize,
    target: Shared,
}

impl WithSimd for TransformKernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        if const { kernel_rows::<S>() == 8 } { self.run::<8>() } else { self.run::<4>() }
    }
}

impl TransformKernels<'_> {
    #[inline(always)]
    fn run<const ROWS: usize>(self) {
        let Self { kernels, channels_in, rows, stride, target } = self;
        let mut offset = 0;
        let mut taps = [[0.0f32; ROWS]; 9];
        for first in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - first);
            if count < ROWS {
                taps = [[0.0; ROWS]; 9];
            }
            for channel in 0..channels_in {
                let base = first * kernels.strides[0] + channel * kernels.strides[1];
                for row in 0..count {
                    let kernel = &kernels.values[base + row * kernels.strides[0]..][..9];
                    for tap in 0..9 {
                        taps[if kernels.turned { 8 - tap } else { tap }][row] = kernel[tap];
                    }
                }
                let mut points = [[0.0f32; ROWS]; POINTS];
                for row in 0..ROWS {
                    let mut half = [[0.0f32; 6]; 3];
                    for b in 0..3 {
                        half[b] = kernel_column([taps[b][row], taps[3 + b][row], taps[6 + b][row]]);
                    }
                    for a in 0..6 {
                        let line = kernel_column([half[0][a], half[1][a], half[2][a]]);
                        for b in 0..6 {
                            points[a * 6 + b][row] = line[b];
                        }
                    }
                }
                for (point, values) in points.iter().enumerate() {
                    // SAFETY: the target has `stride` values a point, of which this panel's are written here only.
                    unsafe { target.at(point * stride + offset).cast::<[f32; ROWS]>().write_unaligned(*values) };
                }
                offset += ROWS;
            }
        }
    }
}

/// Multiplies transformed kernels and tiles, transforms back and stores.
struct Multiply<'a> {
    geometry: &'a Geometry,
    /// Of output channels `rows`.
    kernels: &'a [f32],
    kernels_stride: usize,
    rows: Range<usize>,
    tiles: &'a [f32],
    panels: Panels,
    first_tile: usize,
    /// Scratch.
    products: &'a mut [f32],
    epilogue: Epilogue<'a>,
    output: Shared,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, kernels, kernels_stride, rows, tiles, panels, first_tile, products, epilogue, output } =
            self;
        let (lanes, step) = (S::F32_LANES, kernel_rows::<S>());
        let width = panels.vectors * lanes;
        let channels_in = geometry.channels[0];
        let products_stride = rows.len() * width + SKEW;
        assert!(products.len() >= POINTS * products_stride);
        assert!(kernels.len() >= (POINTS - 1) * kernels_stride + rows.len().next_multiple_of(step) * channels_in);
        assert!(tiles.len() >= panels.len());
        for point in 0..POINTS {
            for (index, row) in (0..rows.len()).step_by(step).enumerate() {
                for panel in 0..panels.vectors.div_ceil(2) {
                    let vectors = panels.width(panel);
                    // SAFETY: the sizes were compared above.
                    unsafe {
                        kernel(
                            simd,
                            channels_in,
                            kernels.as_ptr().add(point * kernels_stride + index * step * channels_in),
                            [1, step],
                            tiles.as_ptr().add(point * panels.plane() + panels.panel(panel)),
                            vectors * lanes,
                            products.as_mut_ptr().add(point * products_stride + row * width + 2 * panel * lanes),
                            width,
                            step.min(rows.len() - row),
                            vectors,
                            false,
                        );
                    }
                }
            }
        }

        let mut runs = Vec::new();
        let range = match epilogue.range {
            Some([low, high]) => Some([Lanes::splat(simd, low), Lanes::splat(simd, high)]),
            None => None,
        };
        let mut line = Line::EMPTY;
        for vector in 0..panels.vectors {
            geometry.runs(first_tile + vector * lanes, lanes, &mut runs);
            for row in 0..rows.len() {
                let channel = rows.start + row;
                let source = products[row * width + vector * lanes..].as_ptr();
                let mut half = [[Lanes::splat(simd, 0.0); 6]; 4];
                for b in 0..6 {
                    // SAFETY: the products have all points of this row and register.
                    let column = unsafe {
                        output_column([
                            Lanes::load(simd, source.add(b * products_stride)),
                            Lanes::load(simd, source.add((6 + b) * products_stride)),
                            Lanes::load(simd, source.add((12 + b) * products_stride)),
                            Lanes::load(simd, source.add((18 + b) * products_stride)),
                            Lanes::load(simd, source.add((24 + b) * products_stride)),
                            Lanes::load(simd, source.add((30 + b) * products_stride)),
                        ])
                    };
                    for a in 0..4 {
                        half[a][b] = column[a];
                    }
                }
                let shift = Lanes::splat(simd, epilogue.shift.map_or(0.0, |shift| shift[channel]));
                let scale = Lanes::splat(simd, epilogue.scale.map_or(1.0, |scale| scale[channel]));
                for a in 0..4 {
                    let mut pixels = output_column(half[a]);
                    for value in &mut pixels {
                        *value = value.mul_add(scale, shift);
                        if let Some([low, high]) = range {
                            *value = value.max(low).min(high);
                        }
                    }
                    let pixels = zip4(pixels);
                    let run = &runs[0];
                    let row = run.row + a * geometry.dilation[0];
                    let plane = (run.image * geometry.channels[1] + channel) * geometry.output_plane();
                    let inside = row < geometry.output[0] && run.column + 4 * lanes <= geometry.output[1];
                    if run.tiles == lanes && geometry.dilation[1] == 1 && inside {
                        for (index, pixels) in pixels.iter().enumerate() {
                            // SAFETY: row and columns are within the plane, and tiles of other tasks are elsewhere in it.
                            unsafe {
                                pixels.store(output.at(plane + row * geometry.output[1] + run.column + index * lanes));
                            }
                        }
                        continue;
                    }
                    for (index, pixels) in pixels.iter().enumerate() {
                        // SAFETY: a line holds four registers.
                        unsafe { pixels.store(line.0.as_mut_ptr().add(index * lanes)) };
                    }
                    for run in &runs {
                        let row = run.row + a * geometry.dilation[0];
                        if row < geometry.output[0] {
                            let plane = (run.image * geometry.channels[1] + channel) * geometry.output_plane();
                            let values = &line.0[4 * run.lane..4 * (run.lane + run.tiles)];
                            // SAFETY: the row is within the output, and tiles of other tasks are elsewhere in it.
                            unsafe { store(geometry, run, values, output.at(plane + row * geometry.output[1])) };
                        }
                    }
                }
            }
        }
    }
}

/// Writes values to a row of the output from the run's column on, as far as they are within it.
///
/// # Safety
/// `row` has the output's columns.
#[inline(always)]
unsafe fn store(geometry: &Geometry, run: &Run, values: &[f32], row: *mut f32) {
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

/// Products for each pair of channels.
pub(super) fn products(geometry: &Geometry) -> usize {
    POINTS * geometry.all_tiles()
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], kernels: Kernels, epilogue: Epilogue, output: Shared) {
    let arch = simd::arch();
    let [lanes, step] = arch.dispatch(Sizes);
    let [channels_in, channels_out] = geometry.channels;
    let tiles = geometry.all_tiles();
    let source = Source { values: x, channels: channels_in, size: geometry.input, padding: geometry.padding };
    let vectors = tiles.div_ceil(lanes);
    let padded_out = channels_out.next_multiple_of(step);
    // Registers a block.
    let most = (BLOCK / (POINTS * (channels_in + channels_out.min(64)) * lanes)).clamp(2, 8);
    let blocks = vectors.div_ceil(most);
    if vectors * lanes < padded_out {
        // Few tiles: all are transformed first, and the tasks are output channels.
        let panels = Panels { channels: channels_in, vectors, lanes };
        let mut transformed = uninit(panels.len());
        let target = Shared(transformed.as_mut_ptr());
        let chunk = 16;
        (0..channels_in.div_ceil(chunk)).into_par_iter().for_each(|index| {
            let channels = index * chunk..(index * chunk + chunk).min(channels_in);
            arch.dispatch(TransformInput { geometry, source, channels, first_tile: 0, panels, target });
        });
        let tiles = &transformed;
        let chunk = step * (BLOCK / (POINTS * channels_in * step)).clamp(1, 4);
        (0..channels_out.div_ceil(chunk)).into_par_iter().for_each(|index| {
            let rows = index * chunk..(index * chunk + chunk).min(channels_out);
            let stride = rows.len().next_multiple_of(step) * channels_in + SKEW;
            let products = POINTS * (rows.len() * vectors * lanes + SKEW);
            with_scratch([POINTS * stride, products], |[transformed, products]| {
                let target = Shared(transformed.as_mut_ptr());
                arch.dispatch(TransformKernels { kernels, channels_in, rows: rows.clone(), stride, target });
                arch.dispatch(Multiply {
                    geometry,
                    kernels: transformed,
                    kernels_stride: stride,
                    rows,
                    tiles,
                    panels,
                    first_tile: 0,
                    products,
                    epilogue,
                    output,
                });
            });
        });
    } else {
        // All kernels are transformed first, and the tasks are blocks of tiles. `[chunk][point][...]`
        let chunk = 64.min(padded_out);
        let stride = chunk * channels_in + SKEW;
        let mut transformed = uninit(channels_out.div_ceil(chunk) * POINTS * stride);
        let target = Shared(transformed.as_mut_ptr());
        (0..padded_out / step).into_par_iter().for_each(|panel| {
            let rows = panel * step..(panel * step + step).min(channels_out);
            let (index, row) = (rows.start / chunk, rows.start % chunk);
            // SAFETY: within the buffer; each task has its panel.
            let target = Shared(unsafe { target.at(index * POINTS * stride + row * channels_in) });
            arch.dispatch(TransformKernels { kernels, channels_in, rows, stride, target });
        });
        let per_block = vectors.div_ceil(blocks);
        (0..vectors.div_ceil(per_block)).into_par_iter().for_each(|block| {
            let first = block * per_block;
            let vectors = per_block.min(vectors - first);
            let panels = Panels { channels: channels_in, vectors, lanes };
            let first_tile = first * lanes;
            let products = POINTS * (chunk * vectors * lanes + SKEW);
            with_scratch([panels.len(), products], |[tiles, products]| {
                let target = Shared(tiles.as_mut_ptr());
                let channels = 0..channels_in;
                arch.dispatch(TransformInput { geometry, source, channels, first_tile, panels, target });
                for (index, kernels) in transformed.chunks_exact(POINTS * stride).enumerate() {
                    arch.dispatch(Multiply {
                        geometry,
                        kernels,
                        kernels_stride: stride,
                        rows: index * chunk..(index * chunk + chunk).min(channels_out),
                        tiles,
                        panels,
                        first_tile,
                        products,
                        epilogue,
                        output,
                    });
                }
            });
        });
    }
}

/// Channels whose weights' gradients are one task.
const CHUNK: usize = 64;
/// Tasks wanted; fixed, so that sums do not depend on the number of threads.
const TASKS: usize = 32;
/// Registers of tiles that are transformed before they are multiplied.
const GRADIENT_VECTORS: usize = 2;

/// Adds up the products of transformed tiles of the input and of the output's gradient:
/// `[point][channel out][channel in]`.
struct Correlate<'a> {
    geometry: &'a Geometry,
    x: Source<'a>,
    grad: Source<'a>,
    channels_out: Range<usize>,
    channels_in: Range<usize>,
    /// Registers of tiles.
    vectors: Range<usize>,
    /// Scratch.
    inputs: &'a mut [f32],
    grads: &'a mut [f32],
    sums: &'a mut [f32],
}

/// Sizes of a [`Correlate`] and its arrays.
struct Correlation {
    /// Channels in, in whole registers.
    width: usize,
    /// From a point to the next.
    inputs: usize,
    grads: usize,
    sums: usize,
}

impl Correlation {
    fn new(lanes: usize, step: usize, channels_out: usize, channels_in: usize) -> Self {
        let width = channels_in.next_multiple_of(lanes);
        let tiles = GRADIENT_VECTORS * lanes;
        Self {
            width,
            inputs: width * tiles + SKEW,
            grads: channels_out.next_multiple_of(step) * tiles + SKEW,
            sums: channels_out * width + SKEW,
        }
    }
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, x, grad, channels_out, channels_in, vectors, inputs, grads, sums } = self;
        let (lanes, step) = (S::F32_LANES, kernel_rows::<S>());
        let sizes = Correlation::new(lanes, step, channels_out.len(), channels_in.len());
        assert!(inputs.len() >= POINTS * sizes.inputs && grads.len() >= POINTS * sizes.grads);
        assert!(sums.len() >= POINTS * sizes.sums);
        let (mut runs, mut halves) = (Vec::new(), [Line::EMPTY; 6]);
        // Points of a register of channels by a register of tiles.
        let mut square = [[0.0f32; MOST_LANES * MOST_LANES]; POINTS];
        let panels = sizes.width / lanes;
        let begin = vectors.start;
        for first in vectors.clone().step_by(GRADIENT_VECTORS) {
            let count = GRADIENT_VECTORS.min(vectors.end - first);
            for index in 0..count {
                geometry.runs((first + index) * lanes, lanes, &mut runs);
                let mut copies = [Line::EMPTY; 6];
                let mut gradient_copies = [Line::EMPTY; 4];
                for panel in 0..panels {
                    let channels = channels_in.len().min((panel + 1) * lanes) - panel * lanes;
                    for row in 0..channels {
                        let channel = channels_in.start + panel * lanes + row;
                        // SAFETY: a square has as many rows of a register.
                        unsafe {
                            let square = square.as_mut_ptr().cast::<f32>().add(row * lanes);
                            input_points(
                                simd,
                                geometry,
                                &x,
                                channel,
                                &runs,
                                &mut copies,
                                &mut halves,
                                |point, value| {
                                    value.store(square.add(point * MOST_LANES * MOST_LANES));
                                },
                            );
                        }
                    }
                    for (point, square) in square.iter().enumerate() {
                        let mut rows = [Lanes::splat(simd, 0.0); MOST_LANES];
                        // SAFETY: a square has as many registers, and the panel of inputs as many rows from this on.
                        unsafe {
                            for row in 0..channels {
                                rows[row] = Lanes::load(simd, square.as_ptr().add(row * lanes));
                            }
                            transpose(&mut rows);
                            // `[point][panel of two registers of channels][tile][channel]`
                            let pair = panel / 2;
                            let width = (panels - 2 * pair).min(2) * lanes;
                            let start = point * sizes.inputs + 2 * pair * lanes * GRADIENT_VECTORS * lanes;
                            for row in 0..lanes {
                                let place = start + (index * lanes + row) * width + panel % 2 * lanes;
                                rows[row].store(inputs.as_mut_ptr().add(place));
                            }
                        }
                    }
                }
                for row in 0..channels_out.len() {
                    // SAFETY: the array has all points of this channel and register.
                    unsafe {
                        let target = grads.as_mut_ptr().add((row * GRADIENT_VECTORS + index) * lanes);
                        let channel = channels_out.start + row;
                        let (copies, halves) = (&mut gradient_copies, &mut halves);
                        gradient_points(simd, geometry, &grad, channel, &runs, copies, halves, |point, value| {
                            value.store(target.add(point * sizes.grads));
                        });
                    }
                }
            }
            for point in 0..POINTS {
                for row in (0..channels_out.len()).step_by(step) {
                    for pair in 0..panels.div_ceil(2) {
                        let vectors = (panels - 2 * pair).min(2);
                        // SAFETY: the sizes were compared above.
                        unsafe {
                            kernel(
                                simd,
                                count * lanes,
                                grads.as_ptr().add(point * sizes.grads + row * GRADIENT_VECTORS * lanes),
                                [GRADIENT_VECTORS * lanes, 1],
                                inputs.as_ptr().add(point * sizes.inputs + 2 * pair * lanes * GRADIENT_VECTORS * lanes),
                                vectors * lanes,
                                sums.as_mut_ptr().add(point * sizes.sums + row * sizes.width + 2 * pair * lanes),
                                sizes.width,
                                step.min(channels_out.len() - row),
                                vectors,
                                first > begin,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The gradient of the kernels, `[channels out, channels in, 3, 3]`, from the input and the output's gradient.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let arch = simd::arch();
    let [lanes, step] = arch.dispatch(Sizes);
    let [channels_in, channels_out] = geometry.channels;
    let x = Source { values: x, channels: channels_in, size: geometry.input, padding: geometry.padding };
    let grad = Source { values: grad, channels: channels_out, size: geometry.output, padding: [0, 0] };
    let vectors = geometry.all_tiles().div_ceil(lanes);
    let chunks = [channels_out.div_ceil(CHUNK), channels_in.div_ceil(CHUNK)];
    let wanted = TASKS.div_ceil(chunks[0] * chunks[1]).min(vectors.div_ceil(8));
    let per_part = vectors.div_ceil(wanted).next_multiple_of(GRADIENT_VECTORS);
    let parts = vectors.div_ceil(per_part);
    let range = |chunk: usize, channels: usize| chunk * CHUNK..((chunk + 1) * CHUNK).min(channels);

    let mut gradient = vec![0.0f32; channels_out * channels_in * 9];
    let target = Shared(gradient.as_mut_ptr());
    let size = |out: usize, input: usize| {
        let sizes = Correlation::new(lanes, step, range(out, channels_out).len(), range(input, channels_in).len());
        POINTS * sizes.sums
    };
    let most = size(0, 0);
    let finish = |out: usize, input: usize, sums: &[f32]| {
        let (outs, inputs) = (range(out, channels_out), range(input, channels_in));
        let sizes = Correlation::new(lanes, step, outs.len(), inputs.len());
        arch.dispatch(KernelGradient { outs, inputs, channels_in, sizes, sums, target });
    };
    let correlate = |out: usize, input: usize, part: usize, sums: &mut [f32]| {
        let (channels_out, channels_in) = (range(out, channels_out), range(input, channels_in));
        let sizes = Correlation::new(lanes, step, channels_out.len(), channels_in.len());
        let vectors = part * per_part..((part + 1) * per_part).min(vectors);
        with_scratch([POINTS * sizes.inputs, POINTS * sizes.grads], |[inputs, grads]| {
            arch.dispatch(Correlate { geometry, x, grad, channels_out, channels_in, vectors, inputs, grads, sums });
        });
    };
    let pairs = chunks[0] * chunks[1];
    if parts == 1 {
        (0..pairs).into_par_iter().for_each(|pair| {
            let (out, input) = (pair / chunks[1], pair % chunks[1]);
            let mut sums = uninit(size(out, input));
            correlate(out, input, 0, &mut sums);
            finish(out, input, &sums);
        });
    } else {
        let mut sums = uninit(pairs * parts * most);
        sums.par_chunks_exact_mut(most).enumerate().for_each(|(task, sums)| {
            let (pair, part) = (task / parts, task % parts);
            correlate(pair / chunks[1], pair % chunks[1], part, sums);
        });
        sums.par_chunks_exact_mut(parts * most).enumerate().for_each(|(pair, sums)| {
            let (out, input) = (pair / chunks[1], pair % chunks[1]);
            let (total, others) = sums.split_at_mut(most);
            let len = size(out, input);
            for other in others.chunks_exact(most) {
                // Between the planes of points nothing was written.
                for (total, other) in total[..len].chunks_exact_mut(len / POINTS).zip(other.chunks_exact(len / POINTS))
                {
                    let written = total.len() - SKEW;
                    for (total, other) in total[..written].iter_mut().zip(other) {
                        *total += other;
                    }
                }
            }
            finish(out, input, total);
        });
    }
    gradient
}

/// Transforms sums of points back to kernels.
struct KernelGradient<'a> {
    outs: Range<usize>,
    inputs: Range<usize>,
    channels_in: usize,
    sizes: Correlation,
    sums: &'a [f32],
    target: Shared,
}

impl WithSimd for KernelGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { outs, inputs, channels_in, sizes, sums, target } = self;
        assert!(sums.len() >= (POINTS - 1) * sizes.sums + outs.len() * sizes.width);
        for (row, out) in outs.enumerate() {
            for (column, input) in inputs.clone().enumerate() {
                let mut half = [[0.0f32; 6]; 3];
                for b in 0..6 {
                    let mut points = [0.0; 6];
                    for a in 0..6 {
                        points[a] = sums[(a * 6 + b) * sizes.sums + row * sizes.width + column];
                    }
                    let points = kernel_gradient_column(points);
                    for a in 0..3 {
                        half[a][b] = points[a];
                    }
                }
                for a in 0..3 {
                    let taps = kernel_gradient_column(half[a]);
                    // SAFETY: within the gradient; every task has its own channels.
                    unsafe { target.at((out * channels_in + input) * 9 + 3 * a).cast::<[f32; 3]>().write(taps) };
                }
            }
        }
    }
}
