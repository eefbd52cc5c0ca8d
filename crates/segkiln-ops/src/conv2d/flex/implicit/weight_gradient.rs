//! The gradient of the weight: products of the output's gradient and the matrices of what blocks of pixels read.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::filling::{Filling, Reader, Tap};
use crate::{
    conv2d::flex::{Geometry, TASKS, geometry::Channels},
    cpu::{
        disjoint::{Disjoint, Part},
        matrix::{Finish, Left, Product, RegisterSizes, Strided, kernel_rows},
        memory::{Temporary, with_scratch, written_vec},
        simd::{self, Lanes, MOST_LANES, transpose},
        threads::{for_each, for_each_chunk},
    },
};

/// Pixels of a block.
const BLOCK: usize = 64;
/// Matrix rows (input channels × taps) of a task, or those of three channels if they are more: with [`BLOCK`] a matrix of 32 KiB.
const MATRIX_ROWS: usize = 128;
/// Output channels of a task.
const OUTPUTS: usize = 256;

/// Returns the number of input channels of a task: up to [`MATRIX_ROWS`], and those that fill registers best.
fn chunk_channels(taps: usize, lanes: usize) -> usize {
    let most = (MATRIX_ROWS / taps).max(3);
    let waste = |channels: &usize| (channels * taps).next_multiple_of(lanes) * 1000 / (channels * taps);
    (1..=most).rev().min_by_key(waste).unwrap_or(1)
}

/// The gradient of the weight, `[channels_out, channels_in / groups, kernel_height, kernel_width]`.
pub(in crate::conv2d::flex) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let arch = simd::arch();
    let lanes = RegisterSizes::of(arch).lanes;
    let Channels { input: channels_in, output: channels_out } = geometry.group_channels();
    let (reader, taps) = (geometry.reader(), geometry.offsets());
    let chunk = [chunk_channels(taps.len(), lanes).min(channels_in), OUTPUTS.min(channels_out)];
    let chunks = [channels_in.div_ceil(chunk[0]), channels_out.div_ceil(chunk[1])];
    let per_image = reader.count().div_ceil(BLOCK);
    let blocks = geometry.batch * per_image;
    let others = chunks[0] * chunks[1] * geometry.groups;
    let per_part = blocks.div_ceil(TASKS.div_ceil(others)).max(4);
    let parts = blocks.div_ceil(per_part);
    // `[output channel][matrix row]`, of the first part and of the others.
    let len = geometry.channels.output * channels_in * taps.len();
    let mut rest = Temporary::new((parts - 1) * len);
    // SAFETY: the tasks of the first part write all channels.
    let mut gradient = unsafe {
        written_vec(len, |first| {
            let targets = [Disjoint::new(first), Disjoint::new(rest.as_mut_slice())];
            for_each(others * parts, |task| {
                let (part, group) = (task % parts, task / parts / (chunks[0] * chunks[1]));
                let (chunk_in, chunk_out) = (task / parts % chunks[0], task / parts / chunks[0] % chunks[1]);
                let range = |index: usize, size: usize, all: usize| index * size..((index + 1) * size).min(all);
                let width = (chunk[0] * taps.len()).next_multiple_of(lanes);
                with_scratch([chunk[1] * width, width * BLOCK, width * BLOCK], |[sums, matrix, turned]| {
                    arch.dispatch(Correlate {
                        geometry,
                        reader,
                        taps: &taps,
                        group,
                        x,
                        grad,
                        ins: range(chunk_in, chunk[0], channels_in),
                        outs: range(chunk_out, chunk[1], channels_out),
                        per_image,
                        blocks: range(part, per_part, blocks),
                        sums,
                        matrix,
                        turned,
                        // Each task has its channels of its part.
                        target: if part == 0 { targets[0].part() } else { targets[1].part().skip((part - 1) * len) },
                    });
                });
            });
        })
    };
    // SAFETY: the tasks of the other parts have written all channels of them.
    let rest = unsafe { rest.as_slice().assume_init_ref() };
    for_each_chunk(&mut gradient, 4096, |chunk, gradient| {
        for part in rest.chunks_exact(len) {
            for (value, other) in gradient.iter_mut().zip(&part[chunk * 4096..]) {
                *value += other;
            }
        }
    });
    gradient
}

/// Sums the products of the output's gradient and the matrices of blocks of pixels: `[output channel][matrix row]`.
struct Correlate<'a> {
    geometry: &'a Geometry,
    reader: Reader,
    taps: &'a [Tap],
    group: usize,
    x: &'a [f32],
    grad: &'a [f32],
    /// Input channels of the group.
    ins: Range<usize>,
    /// Output channels of the group.
    outs: Range<usize>,
    per_image: usize,
    blocks: Range<usize>,
    /// Scratch: the sums, close to each other.
    sums: &'a mut [f32],
    /// Scratch: `[matrix row][pixel]`.
    matrix: &'a mut [f32],
    /// Scratch: the matrix as the product reads it, `[pair of registers of rows][pixel][row]`.
    turned: &'a mut [f32],
    target: Part<'a>,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, reader, taps, group, x, grad, ins, outs, per_image, blocks, sums, matrix, turned, target } =
            self;
        let lanes = S::F32_LANES;
        let Channels { input: channels_in, output: channels_out } = geometry.group_channels();
        let (plane, pixels) = (reader.plane(), reader.count());
        let (rows, all_rows) = (ins.len() * taps.len(), channels_in * taps.len());
        let registers = rows.div_ceil(lanes);
        let width = registers * lanes;
        assert!(sums.len() >= outs.len() * width);
        assert!(matrix.len() >= registers * lanes * BLOCK && turned.len() >= matrix.len());
        matrix.fill(0.0);
        let begin = blocks.start;
        for block in blocks {
            let (image, first) = (block / per_image, block % per_image * BLOCK);
            let count = BLOCK.min(pixels - first);
            let planes = image * geometry.groups + group;
            let grad = &grad[(planes * channels_out + outs.start) * pixels..][..outs.len() * pixels];
            let target = |tap: usize, register: usize| tap * BLOCK + register * lanes;
            let read = first..first + count;
            let filling = Filling::new(simd, &reader, taps, read, BLOCK / lanes, target);
            let x = &x[(planes * channels_in + ins.start) * plane..][..ins.len() * plane];
            // SAFETY: the matrix has a block for each channel and tap, by the assertion.
            unsafe { filling.fill(simd, &reader, x, matrix, taps.len() * BLOCK) };
            for register in 0..registers {
                let (pair, panel) = (register / 2, (registers - register / 2 * 2).min(2) * lanes);
                for offset in (0..BLOCK).step_by(lanes) {
                    let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
                    // SAFETY: both arrays have a block for each row of whole registers.
                    unsafe {
                        for row in 0..lanes {
                            let start = (register * lanes + row) * BLOCK + offset;
                            square[row] = Lanes::load(simd, matrix.as_ptr().add(start));
                        }
                        transpose(&mut square);
                        let start = 2 * pair * lanes * BLOCK + register % 2 * lanes;
                        for row in 0..lanes {
                            square[row].store(turned.as_mut_ptr().add(start + (offset + row) * panel));
                        }
                    }
                }
            }
            for out in (0..outs.len()).step_by(kernel_rows::<S>()) {
                for pair in 0..registers.div_ceil(2) {
                    let row = 2 * pair * lanes;
                    let columns = (2 * lanes).min(width - row);
                    let product = Product {
                        depth: count,
                        left: Left::Rows(grad[out * pixels + first..].as_ptr(), pixels),
                        right: Strided(turned[row * BLOCK..].as_ptr(), columns),
                        output: sums[out * width + row..].as_mut_ptr(),
                        output_stride: width,
                        rows: kernel_rows::<S>().min(outs.len() - out),
                        columns,
                    };
                    // SAFETY: the sizes were compared above; the gradient has `count` more pixels of these channels.
                    unsafe { product.compute(simd, if block > begin { Finish::Add } else { Finish::Store }) };
                }
            }
        }
        for (out, sums) in outs.zip(sums.chunks_exact(width)) {
            let target = target.at((group * channels_out + out) * all_rows + ins.start * taps.len(), rows);
            // SAFETY: both have a row's values, and the target is not scratch memory.
            unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), target, rows) };
        }
    }
}
