//! The gradient of the weight: products of the output's gradient and of what blocks of pixels read.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::filling::{Filling, Reader, Tap};
use crate::{
    conv2d::flex::{Geometry, TASKS},
    cpu::{
        matrix::{Finish, Left, Product, Sizes, Strided, kernel_rows},
        memory::{Shared, Temporary, with_scratch},
        simd::{self, Lanes, MOST_LANES, transpose},
        threads::{for_each, for_each_chunk},
    },
};

/// Pixels of a block whose weights' gradient is computed.
const BLOCK: usize = 64;
/// Matrix rows, or three channels if they are more, and output channels whose weights' gradients are one task.
const CHUNK: [usize; 2] = [128, 256];

/// Channels whose matrix rows are one task: those that fill registers best.
fn chunk_channels(taps: usize, lanes: usize) -> usize {
    let most = (CHUNK[0] / taps).max(3);
    let waste = |channels: &usize| (channels * taps).next_multiple_of(lanes) * 1000 / (channels * taps);
    (1..=most).rev().min_by_key(waste).unwrap_or(1)
}

/// The gradient of the weight, `[channels_out, channels_in / groups, kernel_height, kernel_width]`.
pub(in crate::conv2d::flex) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let arch = simd::arch();
    let [lanes, _] = arch.dispatch(Sizes);
    let [channels_in, channels_out] = geometry.group_channels();
    let (reader, taps) = (geometry.reader(), geometry.offsets());
    let chunk = [chunk_channels(taps.len(), lanes).min(channels_in), CHUNK[1].min(channels_out)];
    let chunks = [channels_in.div_ceil(chunk[0]), channels_out.div_ceil(chunk[1])];
    let per_image = reader.count().div_ceil(BLOCK);
    let blocks = geometry.batch * per_image;
    let others = chunks[0] * chunks[1] * geometry.groups;
    let per_part = blocks.div_ceil(TASKS.div_ceil(others)).max(4);
    let parts = blocks.div_ceil(per_part);
    // `[channel out][matrix row]`, of the first part and of the others.
    let len = geometry.channels[1] * channels_in * taps.len();
    let mut gradient: Vec<f32> = Vec::with_capacity(len);
    // SAFETY: every task writes its channels of its part before they are read.
    let mut rest = unsafe { Temporary::new((parts - 1) * len) };
    let targets = [Shared(gradient.as_mut_ptr()), Shared(rest.as_mut_ptr())];
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
                // SAFETY: the part's sums are within the buffer.
                target: if part == 0 { targets[0] } else { Shared(unsafe { targets[1].at((part - 1) * len) }) },
            });
        });
    });
    // SAFETY: the tasks of the first part have written all channels.
    unsafe { gradient.set_len(len) };
    for_each_chunk(&mut gradient, 4096, |chunk, gradient| {
        for part in rest.chunks_exact(len) {
            for (value, other) in gradient.iter_mut().zip(&part[chunk * 4096..]) {
                *value += other;
            }
        }
    });
    gradient
}

/// Adds up the products of the output's gradient and of what blocks of pixels read: `[channel out][matrix row]`.
struct Correlate<'a> {
    geometry: &'a Geometry,
    reader: Reader,
    taps: &'a [Tap],
    group: usize,
    x: &'a [f32],
    grad: &'a [f32],
    /// Channels of the group.
    ins: Range<usize>,
    outs: Range<usize>,
    per_image: usize,
    blocks: Range<usize>,
    /// Scratch; sums are added up here, where they are close to each other.
    sums: &'a mut [f32],
    matrix: &'a mut [f32],
    turned: &'a mut [f32],
    target: Shared,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, reader, taps, group, x, grad, ins, outs, per_image, blocks, sums, matrix, turned, target } =
            self;
        let lanes = S::F32_LANES;
        let [channels_in, channels_out] = geometry.group_channels();
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
            let place = |tap: usize, register: usize| tap * BLOCK + register * lanes;
            let read = first..first + count;
            let filling = Filling::new(simd, &reader, taps, read, BLOCK / lanes, place);
            let x = &x[(planes * channels_in + ins.start) * plane..][..ins.len() * plane];
            // SAFETY: the matrix has a block for each row.
            unsafe { filling.fill(simd, &reader, x, matrix, taps.len() * BLOCK) };
            // `[pair of registers of rows][pixel][row]`
            for register in 0..registers {
                let (pair, panel) = (register / 2, (registers - register / 2 * 2).min(2) * lanes);
                for offset in (0..BLOCK).step_by(lanes) {
                    let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
                    // SAFETY: both arrays have a block for each row of whole registers.
                    unsafe {
                        for row in 0..lanes {
                            let place = (register * lanes + row) * BLOCK + offset;
                            square[row] = Lanes::load(simd, matrix.as_ptr().add(place));
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
            let place = (group * channels_out + out) * all_rows + ins.start * taps.len();
            // SAFETY: these sums are this task's.
            unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), target.at(place), rows) };
        }
    }
}
