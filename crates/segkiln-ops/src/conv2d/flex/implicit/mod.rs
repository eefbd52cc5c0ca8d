//! Implicit GEMM: for a block of pixels, the values that each reads are copied to a column of a matrix `[channels · taps, pixels]`
//! (im2col), and the weight times that matrix is the block's output. The matrix is as large as the block, never as the image,
//! and is laid out as the product reads it.
//!
//! The gradient of the input is the same for each of its [phases](super::phases).

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::{borrow::Cow, mem::MaybeUninit, ops::Range};

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, TASKS, geometry::Channels, phases::interleave};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    matrix::{Finish, Left, Product, RegisterSizes, Strided, kernel_rows},
    memory::with_scratch,
    simd::{self, prefetch},
    threads::for_each,
};

mod filling;
mod weight_gradient;

pub(super) use filling::{Filling, Reader, Tap};
pub(super) use weight_gradient::weight_gradient;

/// Most pixels of a block. There are twice as many where its matrix is then at most half of [`MATRIX`] and there are blocks
/// enough, which saved 3 to 5 %: memory is faster the more of a plane is read and written at once.
const BLOCK: usize = 256;
/// Values of a block's matrices, if the block has more than two registers of pixels: 512 KiB, half of Zen 4's second-level cache.
/// Smaller ones for the 512 KiB of Zen 3 gained nothing, and cost 2048 → 256 channels, 1×1, a quarter.
const MATRIX: usize = 1 << 17;

/// Panels of a fully connected layer's weight that are copied together: a cache line of the widest ones' rows.
const PANELS: usize = 2;

/// The target's pixels that have the same taps; a convolution has one phase.
struct Phase<'a> {
    /// Index in [`Convolution::taps`].
    taps: usize,
    /// `[group][channel written][channel read][tap]`
    weight: Cow<'a, [f32]>,
}

/// A weight of a convolution as it lies in memory.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// `[group][channel written][channel read][tap]`
    Convolution,
    /// `[channel read][channel written]`, of a 1×1 kernel without groups: a fully connected layer's.
    Linear,
}

/// A convolution, or the gradient of its input, as products of weights and matrices of what pixels read.
struct Convolution<'a> {
    batch: usize,
    groups: usize,
    /// Channels of a group that are read and written.
    channels: Channels,
    reader: Reader,
    /// The taps of the phases; phases may share them.
    taps: Vec<Vec<Tap>>,
    /// Height and width of the target. Pixel `(i, j)` of phase `(a, b)` is the target's `(i, j) · step + (a, b)`.
    target: [usize; 2],
    step: [usize; 2],
    phases: Vec<Phase<'a>>,
    /// That of the phases' weights.
    layout: Layout,
    epilogue: Option<Epilogue<'a>>,
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    layout: Layout,
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let convolution = Convolution {
        batch: geometry.batch,
        groups: geometry.groups,
        channels: geometry.group_channels(),
        reader: geometry.reader(),
        taps: vec![geometry.offsets()],
        target: geometry.output,
        step: [1, 1],
        phases: vec![Phase { taps: 0, weight: weight.into() }],
        layout,
        epilogue,
    };
    convolution.run(x, output);
}

/// Writes the gradient of the input to `output`, after the epilogue: a transposed convolution.
pub(super) fn input_gradient(
    geometry: &Geometry,
    weight: &[f32],
    grad: &[f32],
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let (mut taps, mut phases): (Vec<Vec<Tap>>, Vec<Phase>) = (Vec::new(), Vec::new());
    for row in 0..geometry.stride[0] {
        for column in 0..geometry.stride[1] {
            let (kernel, offsets): (Vec<usize>, Vec<Tap>) = geometry.taps_of_phase([row, column]).into_iter().unzip();
            let index = taps.iter().position(|taps| *taps == offsets).unwrap_or_else(|| {
                taps.push(offsets);
                taps.len() - 1
            });
            phases.push(Phase { taps: index, weight: geometry.transposed_weight(weight, &kernel).into() });
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
    let convolution = Convolution {
        batch: geometry.batch,
        groups: geometry.groups,
        channels: geometry.group_channels().swapped(),
        reader,
        taps,
        target: geometry.input,
        step: geometry.stride,
        phases,
        layout: Layout::Convolution,
        epilogue,
    };
    convolution.run(grad, output);
}

impl Convolution<'_> {
    fn run(&self, x: &[f32], output: &mut [MaybeUninit<f32>]) {
        let (arch, output) = (simd::arch(), Disjoint::new(output));
        let RegisterSizes { lanes, rows: step } = RegisterSizes::of(arch);
        let rows = self.channels.input * self.taps.iter().map(Vec::len).sum::<usize>();
        let width = 2 * lanes;
        let pixels = self.reader.count();
        let size = |values: usize, most: usize| (values / rows.max(1) / width * width).clamp(width, most);
        let many = self.batch * self.groups * pixels >= 2 * BLOCK * TASKS;
        let size = size(MATRIX, BLOCK).max(if many { size(MATRIX / 2, 2 * BLOCK) } else { 0 });
        let blocks = pixels.div_ceil(size);
        let panel_size = match self.layout {
            Layout::Convolution => 0,
            Layout::Linear => PANELS * rows * step,
        };
        // Where there are few pixels, tasks share the output channels too.
        let panels = self.channels.output.div_ceil(step);
        let parts = TASKS.div_ceil(self.batch * self.groups * blocks).min(panels.div_ceil(8)).max(1);
        let per_part = panels.div_ceil(parts) * step;
        let parts = self.channels.output.div_ceil(per_part);
        // Groups share the preparation of the filling.
        let per_task = (self.batch * self.groups * blocks / (2 * TASKS)).clamp(1, self.groups);
        let sets = self.groups.div_ceil(per_task);
        for_each(self.batch * sets * blocks * parts, |task| {
            let (part, set, block) = (task % parts, task / parts % sets, task / parts / sets);
            let first = block % blocks * size;
            let groups = set * per_task..((set + 1) * per_task).min(self.groups);
            let channels = part * per_part..((part + 1) * per_part).min(self.channels.output);
            with_scratch([rows * size, panel_size], |[matrix, panels]| {
                // SAFETY: each task has its pixels of its channels of its groups.
                let output = unsafe { output.part() };
                arch.dispatch(Block {
                    convolution: self,
                    x,
                    image: block / blocks,
                    groups,
                    pixels: first..(first + size).min(pixels),
                    channels,
                    matrix,
                    panels,
                    output,
                });
            });
        });
    }
}

/// Copies columns of a matrix of `all` columns to [`PANELS`] panels `[row][column]` of `STEP` columns each; what lies beyond the last
/// column is filled with zeros.
#[inline(always)]
fn pack<const STEP: usize>(matrix: &[f32], all: usize, columns: Range<usize>, panels: &mut [f32]) {
    /// Rows that are fetched ahead: they are too far apart for the processor to guess.
    const AHEAD: usize = 24;
    let (first, second) = panels.split_at_mut(panels.len() / PANELS);
    let targets = first.as_chunks_mut::<STEP>().0.iter_mut().zip(second.as_chunks_mut::<STEP>().0);
    for (row, (first, second)) in matrix.chunks_exact(all).zip(targets) {
        prefetch(row.as_ptr().wrapping_add(AHEAD * all + columns.start));
        let values = &row[columns.clone()];
        match values.as_chunks::<STEP>() {
            ([a, b], []) => (*first, *second) = (*a, *b),
            _ => {
                for (index, place) in first.iter_mut().chain(second).enumerate() {
                    *place = values.get(index).copied().unwrap_or(0.0);
                }
            }
        }
    }
}

/// The outputs of a block of pixels.
struct Block<'a> {
    convolution: &'a Convolution<'a>,
    x: &'a [f32],
    image: usize,
    groups: Range<usize>,
    pixels: Range<usize>,
    /// Channels of each group that are written.
    channels: Range<usize>,
    /// Scratch, `[taps][pair of registers][channel, tap][pixel]`.
    matrix: &'a mut [f32],
    /// Scratch for [`PANELS`] panels of a weight that lies as a fully connected layer's.
    panels: &'a mut [f32],
    output: Part<'a>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let panels = std::mem::take(&mut self.panels);
        let (convolution, lanes) = (self.convolution, S::F32_LANES);
        let (read, pairs, plane) =
            (convolution.channels.input, self.pixels.len().div_ceil(2 * lanes), convolution.reader.plane());
        let mut fillings = Vec::with_capacity(convolution.taps.len());
        for taps in &convolution.taps {
            let target = |tap: usize, register: usize| {
                (register / 2 * read * taps.len() + tap) * 2 * lanes + register % 2 * lanes
            };
            fillings.push(Filling::new(simd, &convolution.reader, taps, self.pixels.clone(), 2 * pairs, target));
        }
        for group in self.groups.clone() {
            let x = &self.x[(self.image * convolution.groups + group) * read * plane..][..read * plane];
            let mut matrix = &mut self.matrix[..];
            for (taps, filling) in convolution.taps.iter().zip(&fillings) {
                let (this, rest) = std::mem::take(&mut matrix).split_at_mut(pairs * read * taps.len() * 2 * lanes);
                matrix = rest;
                // SAFETY: the matrix has a row of `pairs` pairs of registers for each channel and tap.
                unsafe { filling.fill(simd, &convolution.reader, x, this, taps.len() * 2 * lanes) };
            }
            if convolution.step == [1, 1] {
                self.multiply(simd, group, panels);
            } else {
                for row in 0..convolution.step[0] {
                    self.multiply_phases(simd, group, row);
                }
            }
        }
    }
}

impl Block<'_> {
    /// Returns the depth of a phase's product, and its matrix.
    #[inline(always)]
    fn matrix<S: Simd>(&self, phase: &Phase) -> (usize, &[f32]) {
        let width = 2 * S::F32_LANES;
        let pairs = self.pixels.len().div_ceil(width);
        let rows =
            |taps: &[Vec<Tap>]| taps.iter().map(|taps| self.convolution.channels.input * taps.len()).sum::<usize>();
        let before = rows(&self.convolution.taps[..phase.taps]);
        let depth = rows(&self.convolution.taps[phase.taps..=phase.taps]);
        (depth, &self.matrix[before * pairs * width..][..depth * pairs * width])
    }

    /// Returns the epilogue of a group's channels from `channel` on.
    #[inline(always)]
    fn finish(&self, group: usize, channel: usize) -> Finish<'_> {
        Epilogue::finish(self.convolution.epilogue, group * self.convolution.channels.output + channel)
    }

    /// Computes the outputs of a convolution of one phase, whose pixels are the target's in the same order.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S, group: usize, panels: &mut [f32]) {
        let (convolution, width) = (self.convolution, 2 * S::F32_LANES);
        let (phase, plane) = (&convolution.phases[0], convolution.target[0] * convolution.target[1]);
        let (depth, matrix) = self.matrix::<S>(phase);
        let weight = &phase.weight[group * convolution.channels.output * depth..];
        let first_plane = (self.image * convolution.groups + group) * convolution.channels.output;
        for (panel, first) in self.channels.clone().step_by(kernel_rows::<S>()).enumerate() {
            let rows = kernel_rows::<S>().min(self.channels.end - first);
            let left = match convolution.layout {
                Layout::Convolution => Left::Rows(weight[first * depth..].as_ptr(), depth),
                Layout::Linear => {
                    let size = depth * kernel_rows::<S>();
                    if panel.is_multiple_of(PANELS) {
                        let columns = first..self.channels.end.min(first + PANELS * kernel_rows::<S>());
                        let panels = &mut panels[..PANELS * size];
                        match kernel_rows::<S>() {
                            8 => pack::<8>(weight, convolution.channels.output, columns, panels),
                            _ => pack::<6>(weight, convolution.channels.output, columns, panels),
                        }
                    }
                    Left::Panel(panels[panel % PANELS * size..].as_ptr())
                }
            };
            for (pair, pixel) in self.pixels.clone().step_by(width).enumerate() {
                let columns = width.min(self.pixels.end - pixel);
                let product = Product {
                    depth,
                    left,
                    right: Strided(matrix[pair * depth * width..].as_ptr(), width),
                    output: self.output.rows((first_plane + first) * plane + pixel, plane, rows, columns),
                    output_stride: plane,
                    rows,
                    columns,
                };
                // SAFETY: the weight has `depth` values for each of these channels, the matrix as many rows, and the output these pixels
                // of the planes.
                unsafe { product.compute(simd, self.finish(group, first)) };
            }
        }
    }

    /// Computes the outputs of the phases of one row; products of neighboring columns are interleaved before they are written.
    #[inline(always)]
    fn multiply_phases<S: Simd>(&self, simd: S, group: usize, phase_row: usize) {
        let (convolution, width) = (self.convolution, 2 * S::F32_LANES);
        let ([height, target_width], [_, columns]) = (convolution.target, convolution.step);
        let phases = &convolution.phases[phase_row * columns..][..columns];
        let first_plane = (self.image * convolution.groups + group) * convolution.channels.output;
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
                    let weight = &phase.weight[group * convolution.channels.output * depth..];
                    let product = Product {
                        depth,
                        left: Left::Rows(weight[first * depth..].as_ptr(), depth),
                        right: Strided(matrix[pair * depth * width..].as_ptr(), width),
                        output: products.as_mut_ptr(),
                        output_stride: width,
                        rows,
                        columns: width,
                    };
                    // SAFETY: the weight has `depth` values a row, the matrix as many rows, and the products eight of a pair.
                    unsafe { product.compute(simd, self.finish(group, first)) };
                }
                for row in 0..rows {
                    let of_phase = |column: usize| products[(column * 8 + row) * width..][..width].as_ptr();
                    // SAFETY: the products have eight rows of a pair of registers for each phase, and a line as many pairs.
                    unsafe { interleave(simd, columns, of_phase, width, line.as_mut_ptr()) };
                    let plane = (first_plane + first + row) * height * target_width;
                    let mut done = 0;
                    while done < count {
                        let (i, j) = (
                            (pixel + done) / convolution.reader.pixels[1],
                            (pixel + done) % convolution.reader.pixels[1],
                        );
                        let pixels = (convolution.reader.pixels[1] - j).min(count - done);
                        let (row, column) = (i * convolution.step[0] + phase_row, j * columns);
                        if row < height {
                            let values = &line[done * columns..][..(pixels * columns).min(target_width - column)];
                            let target = self.output.at(plane + row * target_width + column, values.len());
                            // SAFETY: both have as many values, and the output is not the line.
                            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len()) };
                        }
                        done += pixels;
                    }
                }
            }
        }
    }
}
