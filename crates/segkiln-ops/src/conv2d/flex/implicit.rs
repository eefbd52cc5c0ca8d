//! Implicit GEMM: for a block of pixels, what each reads is copied to a column of a matrix
//! `[channels_in · taps, pixels]`, and the weight times that matrix is the block's output. The matrix is as large as the
//! block, never as the image, and is laid out as the kernel of the product reads it.
//!
//! The gradient of the input is the same with other pixels and taps: with stride 2, the input pixels of even rows are
//! reached through some rows of the kernel and those of odd rows through the others, so that each such grid of the input
//! is a convolution of the output's gradient by itself.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Epilogue, Geometry};
use crate::simd::{
    self, Lanes, MOST_LANES, Shared, Sizes, kernel, kernel_rows, prefetch, transpose, uninit, with_scratch,
};

/// Pixels of a block whose weights' gradient is computed.
const BLOCK: usize = 64;
/// Values of a block's matrix, as far as it has no fewer than [`BLOCK`] pixels: what stays in the second-level cache.
const MATRIX: usize = 1 << 17;
/// Matrix rows whose weights' gradients are one task.
const CHUNK: usize = 64;
/// Tasks wanted; fixed, so that sums do not depend on the number of threads.
const TASKS: usize = 32;

/// Pixels and what they read: pixel `(i, j)` and tap `t` meet at `i · stride + taps[t]` of the source, or at nothing.
#[derive(Debug, Clone)]
struct Grid {
    pixels: [usize; 2],
    stride: [usize; 2],
    taps: Vec<[isize; 2]>,
    /// Height and width of the source.
    source: [usize; 2],
}

impl Grid {
    fn count(&self) -> usize {
        self.pixels[0] * self.pixels[1]
    }

    fn source_plane(&self) -> usize {
        self.source[0] * self.source[1]
    }

    /// Whether pixels read themselves.
    fn is_identity(&self) -> bool {
        self.pixels == self.source && self.stride == [1, 1] && self.taps == [[0, 0]]
    }

    /// What `values.len()` pixels from `first` on read of a plane at a tap.
    #[inline(always)]
    fn gather<S: Simd>(&self, simd: S, plane: &[f32], tap: [isize; 2], first: usize, values: &mut [f32]) {
        let ([height, width], step) = (self.source, self.stride[1]);
        let mut done = 0;
        while done < values.len() {
            let (row, column) = ((first + done) / self.pixels[1], (first + done) % self.pixels[1]);
            let count = (self.pixels[1] - column).min(values.len() - done);
            let piece = &mut values[done..done + count];
            done += count;
            let row = (row * self.stride[0]).wrapping_add_signed(tap[0]);
            if row >= height {
                piece.fill(0.0);
                continue;
            }
            let column = (column * step) as isize + tap[1];
            // Values before `start` and from `end` on are outside.
            let start = (-column).max(0).unsigned_abs().div_ceil(step).min(count);
            let end = (width as isize - column).max(0).unsigned_abs().div_ceil(step).clamp(start, count);
            piece[..start].fill(0.0);
            piece[end..].fill(0.0);
            if end > start {
                let line = &plane[row * width..][..width][(column + (start * step) as isize) as usize..];
                copy_every(simd, line, step, &mut piece[start..end]);
            }
        }
    }
}

/// Every `step`-th value of `line`.
#[inline(always)]
fn copy_every<S: Simd>(simd: S, line: &[f32], step: usize, values: &mut [f32]) {
    assert!(line.len() > (values.len() - 1) * step);
    let mut done = 0;
    // SAFETY: a register of the values is left, and as many times `step` of the line.
    unsafe {
        let (line, target) = (line.as_ptr(), values.as_mut_ptr());
        if step == 1 {
            while done + S::F32_LANES <= values.len() {
                Lanes::load(simd, line.add(done)).store(target.add(done));
                done += S::F32_LANES;
            }
        } else if step == 2 {
            // The last register's pair may reach past the line by a value.
            while done + S::F32_LANES < values.len() {
                let pair = line.add(2 * done);
                let [even, _] = Lanes::load(simd, pair).unzip(Lanes::load(simd, pair.add(S::F32_LANES)));
                even.store(target.add(done));
                done += S::F32_LANES;
            }
        }
    }
    for (value, from) in values[done..].iter_mut().zip(line[done * step..].iter().step_by(step)) {
        *value = *from;
    }
}

/// Where pixels are written: pixel `(i, j)` to `i · step + first` of a plane of the target.
#[derive(Debug, Clone, Copy)]
struct Places {
    size: [usize; 2],
    step: [usize; 2],
    first: [usize; 2],
}

impl Geometry {
    /// Output pixels and the input.
    fn grid(&self) -> Grid {
        let offset = |axis: usize, tap: usize| (tap * self.dilation[axis]) as isize - self.padding[axis] as isize;
        let taps = (0..self.taps()).map(|tap| [offset(0, tap / self.kernel[1]), offset(1, tap % self.kernel[1])]);
        Grid { pixels: self.output, stride: self.stride, taps: taps.collect(), source: self.input }
    }

    /// Channels in and out of a group.
    fn group_channels(&self) -> [usize; 2] {
        self.channels.map(|channels| channels / self.groups)
    }
}

/// `[panel of step rows][depth][row]`, with zeros for the rows that the last panel lacks.
fn packed(rows: usize, depth: usize, step: usize, value: impl Fn(usize, usize) -> f32 + Sync) -> Vec<f32> {
    let mut packed = vec![0.0f32; rows.next_multiple_of(step) * depth];
    packed.par_chunks_exact_mut((step * depth).max(1)).enumerate().for_each(|(panel, packed)| {
        for (p, packed) in packed.chunks_exact_mut(step).enumerate() {
            for (i, packed) in packed.iter_mut().enumerate().take(rows - panel * step) {
                *packed = value(panel * step + i, p);
            }
        }
    });
    packed
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Epilogue, output: Shared) {
    let [_, step] = simd::arch().dispatch(Sizes);
    let [channels_in, channels_out] = geometry.group_channels();
    let depth = channels_in * geometry.taps();
    let places = Places { size: geometry.output, step: [1, 1], first: [0, 0] };
    let grid = geometry.grid();
    for group in 0..geometry.groups {
        let weight = &weight[group * channels_out * depth..];
        let panels = packed(channels_out, depth, step, |row, p| weight[row * depth + p]);
        let sizes = [channels_in, channels_out];
        convolve(&grid, geometry.batch, geometry.groups, group, sizes, &panels, x, places, epilogue, output);
    }
}

/// Writes the gradient of the input to `output`.
pub(super) fn input_gradient(geometry: &Geometry, weight: &[f32], grad: &[f32], output: Shared) {
    let [_, step] = simd::arch().dispatch(Sizes);
    let [channels_in, channels_out] = geometry.group_channels();
    let taps = geometry.taps();
    // Along an axis: taps that reach the input's rows (columns) `first + i · stride`, and from how far.
    let reach = |axis: usize, first: usize| -> Vec<(usize, isize)> {
        let stride = geometry.stride[axis] as isize;
        (0..geometry.kernel[axis])
            .filter_map(|tap| {
                let offset = (first + geometry.padding[axis]) as isize - (tap * geometry.dilation[axis]) as isize;
                (offset.rem_euclid(stride) == 0).then_some((tap, offset.div_euclid(stride)))
            })
            .collect()
    };
    for first_row in 0..geometry.stride[0].min(geometry.input[0]) {
        for first_column in 0..geometry.stride[1].min(geometry.input[1]) {
            let rows = reach(0, first_row);
            let columns = reach(1, first_column);
            let both = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
            let (kernel, offsets): (Vec<usize>, Vec<[isize; 2]>) =
                both.map(|(row, column)| (row.0 * geometry.kernel[1] + column.0, [row.1, column.1])).unzip();
            let first = [first_row, first_column];
            let pixels = [0, 1].map(|axis| (geometry.input[axis] - first[axis]).div_ceil(geometry.stride[axis]));
            let grid = Grid { pixels, stride: [1, 1], taps: offsets, source: geometry.output };
            let places = Places { size: geometry.input, step: geometry.stride, first };
            let depth = channels_out * kernel.len();
            for group in 0..geometry.groups {
                let weight = &weight[group * channels_out * channels_in * taps..];
                let panels = packed(channels_in, depth, step, |row, p| {
                    weight[(p / kernel.len() * channels_in + row) * taps + kernel[p % kernel.len()]]
                });
                let sizes = [channels_out, channels_in];
                let epilogue = Epilogue::default();
                convolve(&grid, geometry.batch, geometry.groups, group, sizes, &panels, grad, places, epilogue, output);
            }
        }
    }
}

/// One group of channels.
#[allow(clippy::too_many_arguments)]
fn convolve(
    grid: &Grid,
    batch: usize,
    groups: usize,
    group: usize,
    channels: [usize; 2],
    panels: &[f32],
    x: &[f32],
    places: Places,
    epilogue: Epilogue,
    output: Shared,
) {
    let arch = simd::arch();
    let [_, step] = arch.dispatch(Sizes);
    let depth = channels[0] * grid.taps.len();
    let size = (MATRIX / depth.max(1) / BLOCK * BLOCK).clamp(BLOCK, 4 * BLOCK);
    let blocks = grid.count().div_ceil(size);
    // Where there are few pixels, output channels are shared out too.
    let all = channels[1].div_ceil(step);
    let parts = TASKS.div_ceil(batch * blocks).min(all.div_ceil(8)).max(1);
    let per_part = all.div_ceil(parts);
    (0..batch * blocks * parts).into_par_iter().for_each(|task| {
        let (part, block) = (task % parts, task / parts);
        let range = part * per_part..((part + 1) * per_part).min(all);
        let (image, first) = (block / blocks, block % blocks * size);
        let count = size.min(grid.count() - first);
        with_scratch([depth * size], |[matrix]| {
            arch.dispatch(Multiply {
                grid,
                groups,
                group,
                image,
                channels,
                panels,
                range,
                x,
                first,
                count,
                matrix,
                places,
                epilogue,
                output,
            });
        });
    });
}

/// The output of a block of pixels.
struct Multiply<'a> {
    grid: &'a Grid,
    groups: usize,
    group: usize,
    image: usize,
    /// In and out, of the group.
    channels: [usize; 2],
    panels: &'a [f32],
    /// Panels.
    range: std::ops::Range<usize>,
    x: &'a [f32],
    first: usize,
    /// Pixels.
    count: usize,
    /// Scratch.
    matrix: &'a mut [f32],
    places: Places,
    epilogue: Epilogue<'a>,
    output: Shared,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            grid,
            groups,
            group,
            image,
            channels,
            panels,
            range,
            x,
            first,
            count,
            matrix,
            places,
            epilogue,
            output,
        } = self;
        let (step, width) = (kernel_rows::<S>(), 2 * S::F32_LANES);
        let [channels_in, channels_out] = channels;
        let (taps, plane) = (grid.taps.len(), grid.source_plane());
        let depth = channels_in * taps;
        let (pairs, is_identity) = (count.div_ceil(width), grid.is_identity());
        // `[pair of registers][channel, tap][pixel]`
        for channel in 0..channels_in {
            let source = &x[((image * groups + group) * channels_in + channel) * plane..][..plane];
            if is_identity {
                // Two channels ahead: planes are too far apart for the processor to guess.
                for offset in (0..count).step_by(16) {
                    prefetch(source.as_ptr().wrapping_add(2 * plane + first + offset));
                }
            }
            for (tap, offsets) in grid.taps.iter().enumerate() {
                for pair in 0..pairs {
                    let row = &mut matrix[(pair * depth + channel * taps + tap) * width..][..width];
                    let pixels = width.min(count - pair * width);
                    let start = first + pair * width;
                    match is_identity {
                        true => copy_every(simd, &source[start..start + pixels], 1, &mut row[..pixels]),
                        false => grid.gather(simd, source, *offsets, start, &mut row[..pixels]),
                    }
                    row[pixels..].fill(0.0);
                }
            }
        }
        let target_plane = places.size[0] * places.size[1];
        let mut products = [0.0f32; 8 * 2 * MOST_LANES];
        for panel in range {
            let weights = &panels[panel * step * depth..][..step * depth];
            for pair in 0..pairs {
                let rhs = matrix[pair * depth * width..][..depth * width].as_ptr();
                // SAFETY: a panel has `step` rows of `depth`, the matrix `depth` rows, and the products have room.
                unsafe {
                    let products = products.as_mut_ptr();
                    kernel(simd, depth, weights.as_ptr(), [1, step], rhs, width, products, width, step, 2, false);
                }
                let pixels = width.min(count - pair * width);
                for row in 0..step.min(channels_out - panel * step) {
                    let channel = group * channels_out + panel * step + row;
                    let products = &mut products[row * width..][..pixels];
                    if !epilogue.is_none() {
                        epilogue.apply(channel, products);
                    }
                    let start = (image * groups * channels_out + channel) * target_plane;
                    let first = first + pair * width;
                    if places.step == [1, 1] {
                        // SAFETY: these pixels of the plane are written here only.
                        unsafe { std::ptr::copy_nonoverlapping(products.as_ptr(), output.at(start + first), pixels) };
                        continue;
                    }
                    for (index, value) in products.iter().enumerate() {
                        let (row, column) = ((first + index) / grid.pixels[1], (first + index) % grid.pixels[1]);
                        let row = row * places.step[0] + places.first[0];
                        let column = column * places.step[1] + places.first[1];
                        // SAFETY: as above.
                        unsafe { output.at(start + row * places.size[1] + column).write(*value) };
                    }
                }
            }
        }
    }
}

/// The gradient of the weight, `[channels_out, channels_in / groups, kernel_height, kernel_width]`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let arch = simd::arch();
    let [lanes, step] = arch.dispatch(Sizes);
    let [channels_in, channels_out] = geometry.group_channels();
    let grid = geometry.grid();
    let rows = channels_in * geometry.taps();
    let chunks = rows.div_ceil(CHUNK);
    let per_image = grid.count().div_ceil(BLOCK);
    let blocks = geometry.batch * per_image;
    let per_part = blocks.div_ceil(TASKS.div_ceil(chunks * geometry.groups)).max(4);
    let parts = blocks.div_ceil(per_part);
    let width = CHUNK.min(rows).next_multiple_of(lanes);
    let size = channels_out * width;
    let mut gradient = vec![0.0f32; geometry.channels[1] * rows];
    // `[group][chunk][part][channel out][matrix row]`
    let mut sums = uninit(geometry.groups * chunks * parts * size);
    sums.par_chunks_exact_mut(size).enumerate().for_each(|(task, sums)| {
        let (part, chunk, group) = (task % parts, task / parts % chunks, task / parts / chunks);
        let range = part * per_part..((part + 1) * per_part).min(blocks);
        let grads = channels_out.next_multiple_of(step) * BLOCK;
        with_scratch([grads, width * BLOCK, width * BLOCK], |[grads, matrix, turned]| {
            arch.dispatch(Correlate {
                grid: &grid,
                groups: geometry.groups,
                group,
                channels: [channels_in, channels_out],
                x,
                grad,
                first_row: chunk * CHUNK,
                rows: CHUNK.min(rows - chunk * CHUNK),
                width,
                per_image,
                blocks: range,
                grads,
                matrix,
                turned,
                sums,
            });
        });
    });
    gradient.par_chunks_exact_mut(rows).enumerate().for_each(|(channel, gradient)| {
        let (group, channel) = (channel / channels_out, channel % channels_out);
        for (chunk, gradient) in gradient.chunks_mut(CHUNK).enumerate() {
            for part in 0..parts {
                let sums = &sums[((group * chunks + chunk) * parts + part) * size + channel * width..];
                for (value, sum) in gradient.iter_mut().zip(sums) {
                    *value += sum;
                }
            }
        }
    });
    gradient
}

/// Adds up the products of the output's gradient and of what blocks of pixels read: `[channel out][matrix row]`.
struct Correlate<'a> {
    grid: &'a Grid,
    groups: usize,
    group: usize,
    /// In and out, of the group.
    channels: [usize; 2],
    x: &'a [f32],
    grad: &'a [f32],
    first_row: usize,
    rows: usize,
    /// Matrix rows, in whole registers.
    width: usize,
    per_image: usize,
    blocks: std::ops::Range<usize>,
    /// Scratch.
    grads: &'a mut [f32],
    matrix: &'a mut [f32],
    turned: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            grid,
            groups,
            group,
            channels: [channels_in, channels_out],
            x,
            grad,
            first_row,
            rows,
            width,
            per_image,
            blocks,
            grads,
            matrix,
            turned,
            sums,
        } = self;
        let (step, lanes) = (kernel_rows::<S>(), S::F32_LANES);
        let (taps, plane, pixels) = (grid.taps.len(), grid.source_plane(), grid.count());
        let registers = width / lanes;
        assert!(grads.len() >= channels_out.next_multiple_of(step) * BLOCK && sums.len() >= channels_out * width);
        assert!(matrix.len() >= width * BLOCK && turned.len() >= width * BLOCK);
        matrix.fill(0.0);
        let begin = blocks.start;
        for block in blocks {
            let (image, first) = (block / per_image, block % per_image * BLOCK);
            let count = BLOCK.min(pixels - first);
            for (channel, grads) in grads.chunks_exact_mut(BLOCK).enumerate().take(channels_out) {
                let start = ((image * groups + group) * channels_out + channel) * pixels + first;
                grads[..count].copy_from_slice(&grad[start..][..count]);
                grads[count..].fill(0.0);
            }
            for (row, matrix) in matrix.chunks_exact_mut(BLOCK).enumerate().take(rows) {
                let (channel, tap) = ((first_row + row) / taps, (first_row + row) % taps);
                let source = &x[((image * groups + group) * channels_in + channel) * plane..][..plane];
                grid.gather(simd, source, grid.taps[tap], first, &mut matrix[..count]);
                matrix[count..].fill(0.0);
            }
            // `[pair of registers of rows][pixel][row]`
            for register in 0..registers {
                let pair = register / 2;
                let panel = (registers - 2 * pair).min(2) * lanes;
                for offset in (0..BLOCK).step_by(lanes) {
                    let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
                    // SAFETY: both arrays have `width` rows of a block.
                    unsafe {
                        for (row, square) in square.iter_mut().enumerate().take(lanes) {
                            *square = Lanes::load(simd, matrix.as_ptr().add((register * lanes + row) * BLOCK + offset));
                        }
                        transpose(&mut square);
                        let start = 2 * pair * lanes * BLOCK + register % 2 * lanes;
                        for (row, square) in square.iter().enumerate().take(lanes) {
                            square.store(turned.as_mut_ptr().add(start + (offset + row) * panel));
                        }
                    }
                }
            }
            for channel in (0..channels_out).step_by(step) {
                for pair in 0..registers.div_ceil(2) {
                    let vectors = (registers - 2 * pair).min(2);
                    // SAFETY: the sizes were compared above.
                    unsafe {
                        kernel(
                            simd,
                            BLOCK,
                            grads.as_ptr().add(channel * BLOCK),
                            [BLOCK, 1],
                            turned.as_ptr().add(2 * pair * lanes * BLOCK),
                            vectors * lanes,
                            sums.as_mut_ptr().add(channel * width + 2 * pair * lanes),
                            width,
                            step.min(channels_out - channel),
                            vectors,
                            block > begin,
                        );
                    }
                }
            }
        }
    }
}
