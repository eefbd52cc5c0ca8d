//! Products from a padded copy, for few input channels: an image is copied once with its padding, as a [`Band`] of each plane, so
//! that values that neighboring pixels read lie in a row. Then the matrix of a product is made by plain copies. The implicit GEMM
//! looks for the image's borders at each tap, which for a network's first convolution takes as long as the product.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::{mem::MaybeUninit, ops::Range};

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, TASKS, band::Band};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    matrix::{Left, Product, Strided, kernel_rows},
    memory::{Temporary, with_scratch},
    simd::{self, Lanes},
    threads::{for_each, for_each_chunk},
};

/// Most products for an output; with more, the implicit GEMM's search for borders is a small part of the time.
const DEPTH: usize = 256;
/// Pixels of a row that are multiplied together: with [`DEPTH`] a matrix of 256 KiB, which stays in the second-level cache.
const BLOCK: usize = 256;
/// Values of copies that are in memory at once: 32 MiB.
const COPIES: usize = 1 << 23;

/// Returns whether an image's padded copy has room in memory and is worth it: registers are filled from one row of the output, so
/// most of them should be full; and the copy should not be much larger than the image, as it is with the padding of a large
/// dilation.
pub(super) fn fits(geometry: &Geometry) -> bool {
    let channels = geometry.channels.input;
    let plane = Band::new(geometry, geometry.output[0]).len();
    let small =
        plane.saturating_mul(channels) <= COPIES && plane <= 4 * geometry.input_plane().max(geometry.output_plane());
    let few = geometry.taps() > 1 && channels * geometry.taps() <= DEPTH;
    few && small && geometry.fills_registers()
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let (arch, channels) = (simd::arch(), geometry.channels.input);
    let output = Disjoint::new(output);
    // A whole plane.
    let band = Band::new(geometry, geometry.output[0]);
    let offset = |index: usize| {
        let (channel, tap) = (index / geometry.taps(), index % geometry.taps());
        channel * band.len() + band.tap_offset(geometry, tap)
    };
    let offsets: &Vec<usize> = &(0..channels * geometry.taps()).map(offset).collect();
    let most = (COPIES / (channels * band.len())).clamp(1, geometry.batch);
    for first in (0..geometry.batch).step_by(most) {
        let images = most.min(geometry.batch - first);
        let mut copies = Temporary::new(images * channels * band.len());
        for_each_chunk(copies.as_mut_slice(), band.len(), |plane, values| {
            let plane = (first * channels + plane) * geometry.input_plane();
            let source = &x[plane..][..geometry.input_plane()];
            arch.dispatch(CopyPlane { geometry, band, source, values });
        });
        let rows = images * geometry.output[0];
        let per_task = rows.div_ceil(2 * TASKS);
        for_each(rows.div_ceil(per_task), |task| {
            let rows = task * per_task..((task + 1) * per_task).min(rows);
            with_scratch([offsets.len() * BLOCK], |[matrix]| {
                let copies = copies.as_slice();
                // SAFETY: each task has its rows of all channels.
                let output = unsafe { output.part() };
                arch.dispatch(Rows { geometry, band, copies, offsets, first, rows, weight, epilogue, matrix, output });
            });
        });
    }
}

/// Copies a plane of the input.
struct CopyPlane<'a> {
    geometry: &'a Geometry,
    band: Band,
    source: &'a [f32],
    values: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for CopyPlane<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, band, source, values } = self;
        let masks = band.masks(simd, geometry, band.row());
        band.fill(simd, geometry, &masks, source, 0, values);
    }
}

/// Some rows of the output, counted over the copied images.
struct Rows<'a> {
    geometry: &'a Geometry,
    band: Band,
    /// Planes whose every value was written by [`CopyPlane`].
    copies: &'a [MaybeUninit<f32>],
    /// Offsets of the channels and taps that a pixel reads from the pixel's first value.
    offsets: &'a [usize],
    /// The first image that is copied.
    first: usize,
    rows: Range<usize>,
    weight: &'a [f32],
    epilogue: Option<Epilogue<'a>>,
    /// Scratch, `[pair of registers][channel, tap][pixel]`.
    matrix: &'a mut [f32],
    output: Part<'a>,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, band, copies, offsets, first, rows, weight, epilogue, matrix, output } = self;
        let ([height, width], plane) = (geometry.output, geometry.output_plane());
        let (channels_out, step, lanes) = (geometry.channels.output, kernel_rows::<S>(), S::F32_LANES);
        let (depth, pair) = (offsets.len(), 2 * lanes);
        assert!(weight.len() == channels_out * depth);
        assert!(matrix.len() >= depth * BLOCK && BLOCK.is_multiple_of(pair));
        for row in rows {
            let (image, row) = (row / height, row % height);
            let begin = image * geometry.channels.input * band.len() + row * geometry.stride[0] * band.row();
            for column in (0..width).step_by(BLOCK) {
                let count = BLOCK.min(width - column);
                for p in 0..depth {
                    let source = &copies[begin + column + offsets[p]..][..count.next_multiple_of(lanes)];
                    for register in 0..count.div_ceil(lanes) {
                        let offset = (register / 2 * depth + p) * pair + register % 2 * lanes;
                        // SAFETY: the source has whole registers, all written, and the matrix all pairs of a block.
                        unsafe {
                            let values = Lanes::load(simd, source.as_ptr().cast::<f32>().add(register * lanes));
                            values.store(matrix.as_mut_ptr().add(offset));
                        }
                    }
                }
                for channel in (0..channels_out).step_by(step) {
                    let finish = Epilogue::finish(epilogue, channel);
                    let target = ((first + image) * channels_out + channel) * plane + row * width + column;
                    let rows = step.min(channels_out - channel);
                    for pixel in (0..count).step_by(pair) {
                        let columns = pair.min(count - pixel);
                        let product = Product {
                            depth,
                            left: Left::Rows(weight[channel * depth..].as_ptr(), depth),
                            right: Strided(matrix[pixel * depth..].as_ptr(), pair),
                            output: output.rows(target + pixel, plane, rows, columns),
                            output_stride: plane,
                            rows,
                            columns,
                        };
                        // SAFETY: the weight has `depth` values a row, the matrix as many rows of a pair, and the output
                        // these pixels of as many planes.
                        unsafe { product.compute(simd, finish) };
                    }
                }
            }
        }
    }
}
