//! Implicit GEMM: for a block of pixels, what each reads is copied to a column of a matrix `[channels · taps, pixels]`, and
//! the weight times that matrix is the block's output. The matrix is as large as the block, never as the image, and is laid
//! out as the product reads it.
//!
//! The gradient of the input is the same with other pixels and taps: with stride 2, the input pixels of even rows are
//! reached through some rows of the kernel and those of odd rows through the others, so that each such phase of the input
//! is a convolution of the output's gradient by itself.

#![allow(
    clippy::needless_range_loop,
    clippy::too_many_arguments,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::{borrow::Cow, ops::Range};

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Epilogue, Geometry};
use crate::cpu::{
    matrix::{Finish, Left, Product, Sizes, kernel_rows},
    memory::{Shared, with_scratch},
    simd::{self, Lanes, MOST_LANES, places, prefetch, transpose},
};

/// Most pixels of a block.
const BLOCK: usize = 256;
/// Values of a block's matrices, as far as the block has two registers of pixels: what stays in a second-level cache of
/// 1 MiB.
const MATRIX: usize = 1 << 17;
/// Tasks wanted; fixed, so that sums do not depend on the number of threads.
const TASKS: usize = 32;

/// What pixels read: pixel `(i, j)` and tap `t` meet at `(i, j) · stride + t` of the source, or at nothing.
#[derive(Debug, Clone, Copy)]
struct Reader {
    pixels: [usize; 2],
    stride: [usize; 2],
    /// Height and width of the source.
    source: [usize; 2],
}

impl Reader {
    fn count(&self) -> usize {
        self.pixels[0] * self.pixels[1]
    }

    fn plane(&self) -> usize {
        self.source[0] * self.source[1]
    }
}

type Tap = [isize; 2];

/// The places of a register that come from one row of the source.
#[derive(Clone, Copy)]
struct Part<S: Simd> {
    /// Of the register's first place in a plane; what the masks leave out may be anywhere.
    offset: isize,
    /// Two for the two registers that stride 2 reads.
    masks: [S::m32s; 2],
}

/// How registers of a matrix are filled, for one tap and all channels.
struct Filling<S: Simd> {
    /// Each register's first place of channel 0, and its parts.
    registers: Vec<(usize, Range<usize>)>,
    parts: Vec<Part<S>>,
}

impl<S: Simd> Filling<S> {
    const fn new() -> Self {
        Self { registers: Vec::new(), parts: Vec::new() }
    }

    /// Plans `registers` registers of what `count` pixels from `first` on read at a tap, with zeros after those and
    /// outside of the source. Register `i` is `i · step` places from `place`.
    #[inline(always)]
    fn plan(
        &mut self,
        simd: S,
        reader: &Reader,
        tap: Tap,
        first: usize,
        count: usize,
        registers: usize,
        place: usize,
        step: usize,
    ) {
        let (lanes, [height, width], stride) = (S::F32_LANES, reader.source, reader.stride[1]);
        let (mut row, mut column) = (first / reader.pixels[1], first % reader.pixels[1]);
        for register in 0..registers {
            let begin = self.parts.len();
            let end = count.saturating_sub(register * lanes).min(lanes);
            let mut lane = 0;
            while lane < end {
                let pixels = (reader.pixels[1] - column).min(end - lane);
                let line = (row * reader.stride[0]).wrapping_add_signed(tap[0]);
                let start = (column * stride) as isize + tap[1];
                // Of these pixels the first that is within the row, and the one after the last.
                let low = (-start).max(0).unsigned_abs().div_ceil(stride).min(pixels);
                let high = (width as isize - start).max(0).unsigned_abs().div_ceil(stride).min(pixels);
                if line < height && low < high {
                    let (low, high) = (lane + low, lane + high);
                    let masks = if stride == 2 {
                        let (low, high) = (2 * low, 2 * high - 1);
                        let after = low.saturating_sub(lanes)..high.saturating_sub(lanes);
                        [places(simd, low..high.min(lanes)), places(simd, after)]
                    } else {
                        [places(simd, low..high); 2]
                    };
                    let offset = (line * width) as isize + start - (lane * stride) as isize;
                    self.parts.push(Part { offset, masks });
                }
                lane += pixels;
                column += pixels;
                if column == reader.pixels[1] {
                    (row, column) = (row + 1, 0);
                }
            }
            self.registers.push((place + register * step, begin..self.parts.len()));
        }
    }

    /// Fills the registers for each plane of `x` and forgets them; from a plane to the next places are `step` apart.
    ///
    /// # Safety
    /// The matrix has all places.
    #[inline(always)]
    unsafe fn fill(&mut self, simd: S, reader: &Reader, x: &[f32], matrix: &mut [f32], step: usize, ahead: bool) {
        let (plane, lanes) = (reader.plane(), S::F32_LANES);
        for (channel, x) in x.chunks_exact(plane).enumerate() {
            for (place, parts) in &self.registers {
                let mut value = Lanes::splat(simd, 0.0);
                for index in parts.clone() {
                    let Part { offset, masks } = self.parts[index];
                    let from = x.as_ptr().wrapping_offset(offset);
                    if ahead {
                        prefetch(from.wrapping_add(2 * plane));
                    }
                    // SAFETY: the masks keep to the plane.
                    value = value.or(unsafe {
                        match reader.stride[1] {
                            1 => Lanes::load_masked(simd, from, masks[0]),
                            2 => {
                                let next = Lanes::load_masked(simd, from.wrapping_add(lanes), masks[1]);
                                Lanes::load_masked(simd, from, masks[0]).unzip(next)[0]
                            }
                            stride => {
                                let mut values = [0.0f32; MOST_LANES];
                                for lane in 0..lanes {
                                    let index = offset.wrapping_add_unsigned(lane * stride) as usize;
                                    values[lane] = if index < plane { x[index] } else { 0.0 };
                                }
                                Lanes::load_masked(simd, values.as_ptr(), masks[0])
                            }
                        }
                    });
                }
                // SAFETY: the caller's promise.
                unsafe { value.store(matrix.as_mut_ptr().add(place + channel * step)) };
            }
        }
        self.registers.clear();
        self.parts.clear();
    }
}

impl Geometry {
    /// Output pixels and the input.
    fn reader(&self) -> Reader {
        if self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0] && self.input == self.output {
            // One long row: no register is made of two.
            let row = [1, self.output_plane()];
            return Reader { pixels: row, stride: [1, 1], source: row };
        }
        Reader { pixels: self.output, stride: self.stride, source: self.input }
    }

    /// What taps add to the place that an output pixel reads.
    fn offsets(&self) -> Vec<Tap> {
        let offset = |axis: usize, tap: usize| (tap * self.dilation[axis]) as isize - self.padding[axis] as isize;
        (0..self.taps()).map(|tap| [offset(0, tap / self.kernel[1]), offset(1, tap % self.kernel[1])]).collect()
    }

    /// Channels in and out of a group.
    fn group_channels(&self) -> [usize; 2] {
        self.channels.map(|channels| channels / self.groups)
    }
}

/// Some of the target's pixels, which all have the same taps.
struct Phase<'a> {
    /// Index of the taps.
    taps: usize,
    /// `[group][channel written][channel read][tap]`
    weight: Cow<'a, [f32]>,
}

/// A convolution as products of weights and what pixels read.
struct Sweep<'a> {
    batch: usize,
    groups: usize,
    /// Channels that are read and that are written, of a group.
    channels: [usize; 2],
    reader: Reader,
    taps: Vec<Vec<Tap>>,
    /// Height and width of the target, in which pixel `(i, j)` is written to `(i, j) · step` and, row by row, the places
    /// after it, one for each phase.
    target: [usize; 2],
    step: [usize; 2],
    phases: Vec<Phase<'a>>,
    epilogue: Option<Epilogue<'a>>,
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Option<Epilogue>, output: Shared) {
    let sweep = Sweep {
        batch: geometry.batch,
        groups: geometry.groups,
        channels: geometry.group_channels(),
        reader: geometry.reader(),
        taps: vec![geometry.offsets()],
        target: geometry.output,
        step: [1, 1],
        phases: vec![Phase { taps: 0, weight: weight.into() }],
        epilogue,
    };
    sweep.run(x, output);
}

/// Writes the gradient of the input to `output`, after the epilogue: a transposed convolution.
pub(super) fn input_gradient(
    geometry: &Geometry,
    weight: &[f32],
    grad: &[f32],
    epilogue: Option<Epilogue>,
    output: Shared,
) {
    let [channels_in, channels_out] = geometry.group_channels();
    // Along an axis: taps that reach the input's rows (columns) `first + i · stride`, and from how far.
    let reach = |axis: usize, first: usize| {
        let stride = geometry.stride[axis] as isize;
        (0..geometry.kernel[axis]).filter_map(move |tap| {
            let offset = (first + geometry.padding[axis]) as isize - (tap * geometry.dilation[axis]) as isize;
            (offset.rem_euclid(stride) == 0).then_some((tap, offset.div_euclid(stride)))
        })
    };
    let (mut taps, mut phases): (Vec<Vec<Tap>>, Vec<Phase>) = (Vec::new(), Vec::new());
    for row in 0..geometry.stride[0] {
        for column in 0..geometry.stride[1] {
            let both = reach(0, row).flat_map(|row| reach(1, column).map(move |column| (row, column)));
            let (kernel, offsets): (Vec<usize>, Vec<Tap>) =
                both.map(|(row, column)| (row.0 * geometry.kernel[1] + column.0, [row.1, column.1])).unzip();
            let index = taps.iter().position(|taps| *taps == offsets).unwrap_or_else(|| {
                taps.push(offsets);
                taps.len() - 1
            });
            let weight = transposed(weight, geometry.groups, [channels_in, channels_out], geometry.taps(), &kernel);
            phases.push(Phase { taps: index, weight: weight.into() });
        }
    }
    let mut reader = Reader {
        pixels: [0, 1].map(|axis| geometry.input[axis].div_ceil(geometry.stride[axis])),
        stride: [1, 1],
        source: geometry.output,
    };
    if geometry.stride == [1, 1] {
        reader = geometry.adjoint().map_or(reader, |adjoint| adjoint.reader());
    }
    let sweep = Sweep {
        batch: geometry.batch,
        groups: geometry.groups,
        channels: [channels_out, channels_in],
        reader,
        taps,
        target: geometry.input,
        step: geometry.stride,
        phases,
        epilogue,
    };
    sweep.run(grad, output);
}

/// The weight as `[group][channel in][channel out][tap]`, with some of the taps.
fn transposed(
    weight: &[f32],
    groups: usize,
    [channels_in, channels_out]: [usize; 2],
    taps: usize,
    kernel: &[usize],
) -> Vec<f32> {
    /// Channels in a task, whose values share cache lines.
    const CHUNK: usize = 16;
    let depth = channels_out * kernel.len();
    let mut result = vec![0.0f32; groups * channels_in * depth];
    if depth == 0 {
        return result;
    }
    result.par_chunks_mut(channels_in * depth).zip(weight.par_chunks(channels_out * channels_in * taps)).for_each(
        |(result, weight)| {
            result.par_chunks_mut(CHUNK * depth).enumerate().for_each(|(chunk, result)| {
                for out in 0..channels_out {
                    for (index, result) in result.chunks_exact_mut(depth).enumerate() {
                        let weight = &weight[(out * channels_in + chunk * CHUNK + index) * taps..][..taps];
                        for (value, tap) in result[out * kernel.len()..].iter_mut().zip(kernel) {
                            *value = weight[*tap];
                        }
                    }
                }
            });
        },
    );
    result
}

impl Sweep<'_> {
    fn run(&self, x: &[f32], output: Shared) {
        let arch = simd::arch();
        let [lanes, step] = arch.dispatch(Sizes);
        let rows = self.channels[0] * self.taps.iter().map(Vec::len).sum::<usize>();
        let width = 2 * lanes;
        let size = (MATRIX / rows.max(1) / width * width).clamp(width, BLOCK);
        let pixels = self.reader.count();
        let blocks = pixels.div_ceil(size);
        // Where there are few pixels, channels are shared out too.
        let panels = self.channels[1].div_ceil(step);
        let parts = TASKS.div_ceil(self.batch * self.groups * blocks).min(panels.div_ceil(8)).max(1);
        let per_part = panels.div_ceil(parts) * step;
        (0..self.batch * self.groups * blocks * parts).into_par_iter().for_each(|task| {
            let (part, block) = (task % parts, task / parts);
            let first = block % blocks * size;
            let channels = part * per_part..((part + 1) * per_part).min(self.channels[1]);
            with_scratch([rows * size], |[matrix]| {
                arch.dispatch(Block {
                    sweep: self,
                    x,
                    image: block / blocks / self.groups,
                    group: block / blocks % self.groups,
                    pixels: first..(first + size).min(pixels),
                    channels,
                    matrix,
                    output,
                });
            });
        });
    }
}

/// The outputs of a block of pixels.
struct Block<'a> {
    sweep: &'a Sweep<'a>,
    x: &'a [f32],
    image: usize,
    group: usize,
    pixels: Range<usize>,
    /// That are written, of the group.
    channels: Range<usize>,
    /// Scratch, `[taps][pair of registers][channel, tap][pixel]`.
    matrix: &'a mut [f32],
    output: Shared,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        self.fill(simd);
        if self.sweep.step == [1, 1] {
            self.multiply(simd);
        } else {
            for row in 0..self.sweep.step[0] {
                self.multiply_phases(simd, row);
            }
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn fill<S: Simd>(&mut self, simd: S) {
        let Self { sweep, x, image, group, pixels, matrix, .. } = self;
        let (width, reader) = (2 * S::F32_LANES, &sweep.reader);
        let (read, pairs) = (sweep.channels[0], pixels.len().div_ceil(width));
        let x = &x[(*image * sweep.groups + *group) * read * reader.plane()..][..read * reader.plane()];
        let mut matrix = &mut matrix[..];
        let mut filling = Filling::new();
        for taps in &sweep.taps {
            let depth = read * taps.len();
            let (this, rest) = std::mem::take(&mut matrix).split_at_mut(pairs * depth * width);
            matrix = rest;
            for (tap, offset) in taps.iter().enumerate() {
                for pair in 0..pairs {
                    let (first, count) = (pixels.start + pair * width, pixels.len() - pair * width);
                    let place = (pair * depth + tap) * width;
                    filling.plan(simd, reader, *offset, first, count, 2, place, S::F32_LANES);
                }
                // SAFETY: the matrix has `depth` rows a pair. Planes are too far apart for the processor to guess.
                unsafe { filling.fill(simd, reader, x, this, taps.len() * width, taps.len() == 1) };
            }
        }
    }

    /// Depth and matrix of a phase.
    #[inline(always)]
    fn matrix<S: Simd>(&self, phase: &Phase) -> (usize, &[f32]) {
        let width = 2 * S::F32_LANES;
        let pairs = self.pixels.len().div_ceil(width);
        let rows = |taps: &[Vec<Tap>]| taps.iter().map(|taps| self.sweep.channels[0] * taps.len()).sum::<usize>();
        let before = rows(&self.sweep.taps[..phase.taps]);
        let depth = rows(&self.sweep.taps[phase.taps..=phase.taps]);
        (depth, &self.matrix[before * pairs * width..][..depth * pairs * width])
    }

    /// The epilogue of channels from `channel` on of the group.
    #[inline(always)]
    fn finish(&self, channel: usize) -> Finish<'_> {
        let first = self.group * self.sweep.channels[1] + channel;
        match self.sweep.epilogue {
            Some(Epilogue { scale, shift, range }) => {
                Finish::Affine { scale: &scale[first..], shift: &shift[first..], range }
            }
            None => Finish::Store,
        }
    }

    /// A target that has the reader's pixels, in the same order.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S) {
        let (sweep, width) = (self.sweep, 2 * S::F32_LANES);
        let (phase, plane) = (&sweep.phases[0], sweep.target[0] * sweep.target[1]);
        let (depth, matrix) = self.matrix::<S>(phase);
        let weight = &phase.weight[self.group * sweep.channels[1] * depth..];
        let first_plane = (self.image * sweep.groups + self.group) * sweep.channels[1];
        for first in self.channels.clone().step_by(kernel_rows::<S>()) {
            let rows = kernel_rows::<S>().min(self.channels.end - first);
            for (pair, pixel) in self.pixels.clone().step_by(width).enumerate() {
                // SAFETY: the weight has `depth` values a row, the matrix as many rows, and these pixels of the planes
                // are written here only.
                unsafe {
                    let product = Product {
                        depth,
                        left: Left::Rows(weight[first * depth..].as_ptr(), depth),
                        right: matrix[pair * depth * width..].as_ptr(),
                        right_stride: width,
                        output: self.output.at((first_plane + first) * plane + pixel),
                        output_stride: plane,
                        rows,
                        columns: width.min(self.pixels.end - pixel),
                    };
                    product.compute(simd, self.finish(first));
                }
            }
        }
    }

    /// The phases of one row: products of neighbouring columns are put side by side before they are written.
    #[inline(always)]
    fn multiply_phases<S: Simd>(&self, simd: S, phase_row: usize) {
        let (sweep, width) = (self.sweep, 2 * S::F32_LANES);
        let ([height, target_width], [_, columns]) = (sweep.target, sweep.step);
        let phases = &sweep.phases[phase_row * columns..][..columns];
        let first_plane = (self.image * sweep.groups + self.group) * sweep.channels[1];
        let mut products = vec![0.0f32; columns * 8 * width];
        let mut line = vec![0.0f32; columns * width];
        for first in self.channels.clone().step_by(kernel_rows::<S>()) {
            let rows = kernel_rows::<S>().min(self.channels.end - first);
            for (pair, pixel) in self.pixels.clone().step_by(width).enumerate() {
                let count = width.min(self.pixels.end - pixel);
                for (phase, products) in phases.iter().zip(products.chunks_exact_mut(8 * width)) {
                    let (depth, matrix) = self.matrix::<S>(phase);
                    let weight = &phase.weight[self.group * sweep.channels[1] * depth..];
                    let product = Product {
                        depth,
                        left: Left::Rows(weight[first * depth..].as_ptr(), depth),
                        right: matrix[pair * depth * width..].as_ptr(),
                        right_stride: width,
                        output: products.as_mut_ptr(),
                        output_stride: width,
                        rows,
                        columns: width,
                    };
                    // SAFETY: the weight has `depth` values a row, the matrix as many rows, and products eight of a pair.
                    unsafe { product.compute(simd, self.finish(first)) };
                }
                for row in 0..rows {
                    if columns == 2 {
                        for half in 0..2 {
                            let place = half * S::F32_LANES;
                            // SAFETY: the products have two phases of eight rows of a pair, and a line two pairs.
                            unsafe {
                                let even = Lanes::load(simd, products[row * width + place..].as_ptr());
                                let odd = Lanes::load(simd, products[(8 + row) * width + place..].as_ptr());
                                for (index, values) in even.zip(odd).into_iter().enumerate() {
                                    values.store(line[2 * place + index * S::F32_LANES..].as_mut_ptr());
                                }
                            }
                        }
                    } else {
                        for column in 0..columns {
                            for index in 0..width {
                                line[index * columns + column] = products[(column * 8 + row) * width + index];
                            }
                        }
                    }
                    let plane = (first_plane + first + row) * height * target_width;
                    let mut done = 0;
                    while done < count {
                        let (i, j) = ((pixel + done) / sweep.reader.pixels[1], (pixel + done) % sweep.reader.pixels[1]);
                        let pixels = (sweep.reader.pixels[1] - j).min(count - done);
                        let (row, column) = (i * sweep.step[0] + phase_row, j * columns);
                        if row < height {
                            let values = &line[done * columns..][..(pixels * columns).min(target_width - column)];
                            // SAFETY: these places of the row are written here only.
                            unsafe {
                                let target = self.output.at(plane + row * target_width + column);
                                std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len());
                            }
                        }
                        done += pixels;
                    }
                }
            }
        }
    }
}

/// Pixels of a block whose weights' gradient is computed.
const GRADIENT_BLOCK: usize = 64;
/// Matrix rows and output channels whose weights' gradients are one task.
const CHUNK: [usize; 2] = [64, 256];

/// The gradient of the weight, `[channels_out, channels_in / groups, kernel_height, kernel_width]`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let arch = simd::arch();
    let [channels_in, channels_out] = geometry.group_channels();
    let (reader, taps) = (geometry.reader(), geometry.offsets());
    let rows = channels_in * taps.len();
    let chunks = [rows.div_ceil(CHUNK[0]), channels_out.div_ceil(CHUNK[1])];
    let per_image = reader.count().div_ceil(GRADIENT_BLOCK);
    let blocks = geometry.batch * per_image;
    let others = chunks[0] * chunks[1] * geometry.groups;
    let per_part = blocks.div_ceil(TASKS.div_ceil(others)).max(4);
    let parts = blocks.div_ceil(per_part);
    // `[part][channel out][matrix row]`
    let len = geometry.channels[1] * rows;
    let mut sums: Vec<f32> = Vec::with_capacity(parts * len);
    let target = Shared(sums.as_mut_ptr());
    (0..others * parts).into_par_iter().for_each(|task| {
        let (part, group) = (task % parts, task / parts / (chunks[0] * chunks[1]));
        let (chunk_row, chunk_out) = (task / parts % chunks[0], task / parts / chunks[0] % chunks[1]);
        let range = |chunk: usize, size: usize, all: usize| chunk * size..((chunk + 1) * size).min(all);
        let outs = range(chunk_out, CHUNK[1], channels_out);
        let rows_range = range(chunk_row, CHUNK[0], rows);
        let width = CHUNK[0].min(rows).next_multiple_of(MOST_LANES) * GRADIENT_BLOCK;
        with_scratch([outs.len() * GRADIENT_BLOCK, width, width], |[grads, matrix, turned]| {
            arch.dispatch(Correlate {
                geometry,
                reader,
                taps: &taps,
                group,
                x,
                grad,
                outs,
                rows: rows_range,
                per_image,
                blocks: range(part, per_part, blocks),
                grads,
                matrix,
                turned,
                // SAFETY: the part's sums are within the buffer.
                target: Shared(unsafe { target.at(part * len) }),
            });
        });
    });
    // SAFETY: every task has written its rows and channels of its part.
    unsafe { sums.set_len(parts * len) };
    let (first, others) = sums.split_at_mut(len);
    first.par_chunks_mut(4096).enumerate().for_each(|(chunk, first)| {
        for other in others.chunks_exact(len) {
            for (value, other) in first.iter_mut().zip(&other[chunk * 4096..]) {
                *value += other;
            }
        }
    });
    sums.truncate(len);
    sums
}

/// Adds up the products of the output's gradient and of what blocks of pixels read: `[channel out][matrix row]`.
struct Correlate<'a> {
    geometry: &'a Geometry,
    reader: Reader,
    taps: &'a [Tap],
    group: usize,
    x: &'a [f32],
    grad: &'a [f32],
    /// Channels out, of the group.
    outs: Range<usize>,
    /// Of the matrix.
    rows: Range<usize>,
    per_image: usize,
    blocks: Range<usize>,
    /// Scratch.
    grads: &'a mut [f32],
    matrix: &'a mut [f32],
    turned: &'a mut [f32],
    target: Shared,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            geometry,
            reader,
            taps,
            group,
            x,
            grad,
            outs,
            rows,
            per_image,
            blocks,
            grads,
            matrix,
            turned,
            target,
        } = self;
        let (lanes, block_lanes) = (S::F32_LANES, GRADIENT_BLOCK / S::F32_LANES);
        let [channels_in, channels_out] = geometry.group_channels();
        let (plane, pixels, depth) = (reader.plane(), reader.count(), channels_in * taps.len());
        let registers = rows.len().div_ceil(lanes);
        assert!(grads.len() >= outs.len() * GRADIENT_BLOCK);
        assert!(matrix.len() >= registers * lanes * GRADIENT_BLOCK && turned.len() >= matrix.len());
        matrix.fill(0.0);
        let begin = blocks.start;
        let mut filling = Filling::new();
        for block in blocks {
            let (image, first) = (block / per_image, block % per_image * GRADIENT_BLOCK);
            let count = GRADIENT_BLOCK.min(pixels - first);
            let planes = image * geometry.groups + group;
            for (out, grads) in outs.clone().zip(grads.chunks_exact_mut(GRADIENT_BLOCK)) {
                let start = (planes * channels_out + out) * pixels + first;
                grads[..count].copy_from_slice(&grad[start..][..count]);
                grads[count..].fill(0.0);
            }
            for tap in 0..taps.len() {
                // The rows of this tap: `channel · taps + tap`.
                let from = rows.start.saturating_sub(tap).div_ceil(taps.len());
                let to = rows.end.saturating_sub(tap).div_ceil(taps.len());
                if from < to {
                    let place = (from * taps.len() + tap - rows.start) * GRADIENT_BLOCK;
                    filling.plan(simd, &reader, taps[tap], first, count, block_lanes, place, lanes);
                    let x = &x[(planes * channels_in + from) * plane..][..(to - from) * plane];
                    // SAFETY: the matrix has a block for each row.
                    unsafe { filling.fill(simd, &reader, x, matrix, taps.len() * GRADIENT_BLOCK, false) };
                }
            }
            // `[pair of registers of rows][pixel][row]`
            for register in 0..registers {
                let (pair, panel) = (register / 2, (registers - register / 2 * 2).min(2) * lanes);
                for offset in (0..GRADIENT_BLOCK).step_by(lanes) {
                    let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
                    // SAFETY: both arrays have a block for each row of whole registers.
                    unsafe {
                        for row in 0..lanes {
                            let place = (register * lanes + row) * GRADIENT_BLOCK + offset;
                            square[row] = Lanes::load(simd, matrix.as_ptr().add(place));
                        }
                        transpose(&mut square);
                        let start = 2 * pair * lanes * GRADIENT_BLOCK + register % 2 * lanes;
                        for row in 0..lanes {
                            square[row].store(turned.as_mut_ptr().add(start + (offset + row) * panel));
                        }
                    }
                }
            }
            for out in (0..outs.len()).step_by(kernel_rows::<S>()) {
                for pair in 0..registers.div_ceil(2) {
                    let row = rows.start + 2 * pair * lanes;
                    let channel = group * channels_out + outs.start + out;
                    // SAFETY: the sizes were compared above; these sums are this task's.
                    unsafe {
                        let product = Product {
                            depth: GRADIENT_BLOCK,
                            left: Left::Rows(grads[out * GRADIENT_BLOCK..].as_ptr(), GRADIENT_BLOCK),
                            right: turned[2 * pair * lanes * GRADIENT_BLOCK..].as_ptr(),
                            right_stride: (registers - 2 * pair).min(2) * lanes,
                            output: target.at(channel * depth + row),
                            output_stride: depth,
                            rows: kernel_rows::<S>().min(outs.len() - out),
                            columns: (2 * lanes).min(rows.end - row),
                        };
                        product.compute(simd, if block > begin { Finish::Add } else { Finish::Store });
                    }
                }
            }
        }
    }
}
