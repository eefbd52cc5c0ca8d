//! Implicit GEMM: for a block of pixels, what each reads is copied to a column of a matrix `[channels · taps, pixels]`, and
//! the weight times that matrix is the block's output. The matrix is as large as the block, never as the image, and is laid
//! out as the product reads it.
//!
//! The gradient of the input is the same with other pixels and taps: with stride 2, the input pixels of even rows are
//! reached through some rows of the kernel and those of odd rows through the others, so that each such phase of the input
//! is a convolution of the output's gradient by itself.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::{borrow::Cow, ops::Range};

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, TASKS};
use crate::cpu::{
    matrix::{Finish, Left, Product, Sizes, Strided, kernel_rows},
    memory::{Shared, with_scratch},
    simd::{self, Lanes},
    threads::for_each,
};

mod filling;
mod weight_gradient;

pub(super) use filling::{Filling, Reader, Tap};
pub(super) use weight_gradient::weight_gradient;

/// Most pixels of a block; twice as many where its matrix is then no more than half of [`MATRIX`] and there are blocks enough:
/// memory is faster the more it reads and writes of a plane at once.
const BLOCK: usize = 256;
/// Values of a block's matrices, as far as the block has two registers of pixels: what stays in a second-level cache of
/// 1 MiB.
const MATRIX: usize = 1 << 17;

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
    let (mut taps, mut phases): (Vec<Vec<Tap>>, Vec<Phase>) = (Vec::new(), Vec::new());
    for row in 0..geometry.stride[0] {
        for column in 0..geometry.stride[1] {
            let (kernel, offsets): (Vec<usize>, Vec<Tap>) = geometry.reaching([row, column]).into_iter().unzip();
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
pub(super) fn transposed(
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
    // A few channels out at a time, so that neither side's lines push each other out of the cache.
    let chunks = channels_in.div_ceil(CHUNK);
    let target = Shared(result.as_mut_ptr());
    for_each(groups * chunks, |task| {
        let (group, first) = (task / chunks, task % chunks * CHUNK);
        let weight = &weight[group * channels_out * channels_in * taps..];
        for outs in (0..channels_out).step_by(CHUNK / 2) {
            for channel in first..channels_in.min(first + CHUNK) {
                for out in outs..channels_out.min(outs + CHUNK / 2) {
                    let weight = &weight[(out * channels_in + channel) * taps..][..taps];
                    let place = (group * channels_in + channel) * depth + out * kernel.len();
                    for (index, tap) in kernel.iter().enumerate() {
                        // SAFETY: within the result; this channel is this task's.
                        unsafe { target.at(place + index).write(weight[*tap]) };
                    }
                }
            }
        }
    });
    result
}

impl Sweep<'_> {
    fn run(&self, x: &[f32], output: Shared) {
        let arch = simd::arch();
        let [lanes, step] = arch.dispatch(Sizes);
        let rows = self.channels[0] * self.taps.iter().map(Vec::len).sum::<usize>();
        let width = 2 * lanes;
        let pixels = self.reader.count();
        let size = |values: usize, most: usize| (values / rows.max(1) / width * width).clamp(width, most);
        let many = self.batch * self.groups * pixels >= 2 * BLOCK * TASKS;
        let size = size(MATRIX, BLOCK).max(if many { size(MATRIX / 2, 2 * BLOCK) } else { 0 });
        let blocks = pixels.div_ceil(size);
        // Where there are few pixels, channels are shared out too.
        let panels = self.channels[1].div_ceil(step);
        let parts = TASKS.div_ceil(self.batch * self.groups * blocks).min(panels.div_ceil(8)).max(1);
        let per_part = panels.div_ceil(parts) * step;
        let parts = self.channels[1].div_ceil(per_part);
        // Groups are filled alike.
        let per_task = (self.batch * self.groups * blocks / (2 * TASKS)).clamp(1, self.groups);
        let sets = self.groups.div_ceil(per_task);
        for_each(self.batch * sets * blocks * parts, |task| {
            let (part, set, block) = (task % parts, task / parts % sets, task / parts / sets);
            let first = block % blocks * size;
            let groups = set * per_task..((set + 1) * per_task).min(self.groups);
            let channels = part * per_part..((part + 1) * per_part).min(self.channels[1]);
            with_scratch([rows * size], |[matrix]| {
                arch.dispatch(Block {
                    sweep: self,
                    x,
                    image: block / blocks,
                    groups,
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
    groups: Range<usize>,
    pixels: Range<usize>,
    /// That are written, of each group.
    channels: Range<usize>,
    /// Scratch, `[taps][pair of registers][channel, tap][pixel]`.
    matrix: &'a mut [f32],
    output: Shared,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (sweep, lanes) = (self.sweep, S::F32_LANES);
        let (read, pairs, plane) = (sweep.channels[0], self.pixels.len().div_ceil(2 * lanes), sweep.reader.plane());
        let mut fillings = Vec::with_capacity(sweep.taps.len());
        for taps in &sweep.taps {
            let place = |tap: usize, register: usize| {
                (register / 2 * read * taps.len() + tap) * 2 * lanes + register % 2 * lanes
            };
            fillings.push(Filling::new(simd, &sweep.reader, taps, self.pixels.clone(), 2 * pairs, place));
        }
        for group in self.groups.clone() {
            let x = &self.x[(self.image * sweep.groups + group) * read * plane..][..read * plane];
            let mut matrix = &mut self.matrix[..];
            for (taps, filling) in sweep.taps.iter().zip(&fillings) {
                let (this, rest) = std::mem::take(&mut matrix).split_at_mut(pairs * read * taps.len() * 2 * lanes);
                matrix = rest;
                // SAFETY: the matrix has a row for each channel and tap.
                unsafe { filling.fill(simd, &sweep.reader, x, this, taps.len() * 2 * lanes) };
            }
            if sweep.step == [1, 1] {
                self.multiply(simd, group);
            } else {
                for row in 0..sweep.step[0] {
                    self.multiply_phases(simd, group, row);
                }
            }
        }
    }
}

impl Block<'_> {
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
    fn finish(&self, group: usize, channel: usize) -> Finish<'_> {
        Epilogue::finish(self.sweep.epilogue, group * self.sweep.channels[1] + channel)
    }

    /// A target that has the reader's pixels, in the same order.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S, group: usize) {
        let (sweep, width) = (self.sweep, 2 * S::F32_LANES);
        let (phase, plane) = (&sweep.phases[0], sweep.target[0] * sweep.target[1]);
        let (depth, matrix) = self.matrix::<S>(phase);
        let weight = &phase.weight[group * sweep.channels[1] * depth..];
        let first_plane = (self.image * sweep.groups + group) * sweep.channels[1];
        for first in self.channels.clone().step_by(kernel_rows::<S>()) {
            let rows = kernel_rows::<S>().min(self.channels.end - first);
            for (pair, pixel) in self.pixels.clone().step_by(width).enumerate() {
                // SAFETY: the weight has `depth` values a row, the matrix as many rows, and these pixels of the planes
                // are written here only.
                unsafe {
                    let product = Product {
                        depth,
                        left: Left::Rows(weight[first * depth..].as_ptr(), depth),
                        right: Strided(matrix[pair * depth * width..].as_ptr(), width),
                        output: self.output.at((first_plane + first) * plane + pixel),
                        output_stride: plane,
                        rows,
                        columns: width.min(self.pixels.end - pixel),
                    };
                    product.compute(simd, self.finish(group, first));
                }
            }
        }
    }

    /// The phases of one row: products of neighbouring columns are put side by side before they are written.
    #[inline(always)]
    fn multiply_phases<S: Simd>(&self, simd: S, group: usize, phase_row: usize) {
        let (sweep, width) = (self.sweep, 2 * S::F32_LANES);
        let ([height, target_width], [_, columns]) = (sweep.target, sweep.step);
        let phases = &sweep.phases[phase_row * columns..][..columns];
        let first_plane = (self.image * sweep.groups + group) * sweep.channels[1];
        let mut matrices = Vec::with_capacity(columns);
        for phase in phases {
            matrices.push(self.matrix::<S>(phase));
        }
        let mut products = vec![0.0f32; columns * 8 * width];
        let mut line = vec![0.0f32; columns * width];
        for first in self.channels.clone().step_by(kernel_rows::<S>()) {
            let rows = kernel_rows::<S>().min(self.channels.end - first);
            for (pair, pixel) in self.pixels.clone().step_by(width).enumerate() {
                let count = width.min(self.pixels.end - pixel);
                for (index, products) in products.chunks_exact_mut(8 * width).enumerate() {
                    let (phase, (depth, matrix)) = (&phases[index], matrices[index]);
                    let weight = &phase.weight[group * sweep.channels[1] * depth..];
                    let product = Product {
                        depth,
                        left: Left::Rows(weight[first * depth..].as_ptr(), depth),
                        right: Strided(matrix[pair * depth * width..].as_ptr(), width),
                        output: products.as_mut_ptr(),
                        output_stride: width,
                        rows,
                        columns: width,
                    };
                    // SAFETY: the weight has `depth` values a row, the matrix as many rows, and products eight of a pair.
                    unsafe { product.compute(simd, self.finish(group, first)) };
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
