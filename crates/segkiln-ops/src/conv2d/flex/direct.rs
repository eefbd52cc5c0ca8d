//! Kernels on few channels: an image is copied once, as a [`Band`] of each plane, so that what neighbouring pixels read lies in
//! a row. Of that the matrix of a product is made by plain copies; the implicit GEMM would look for the image's borders at
//! each tap, which for few channels takes as long as the product.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, TASKS, band::Band};
use crate::cpu::{
    matrix::{Left, Product, Strided, kernel_rows},
    memory::{Shared, Temporary, with_scratch},
    simd::{self, Lanes},
    threads::{for_each, for_each_chunk},
};

/// Most products for an output: of more, copying is a small part.
const DEPTH: usize = 256;
/// Pixels of a row that are multiplied together; a product's matrix stays in the second-level cache.
const BLOCK: usize = 256;
/// Values of copies that are in memory at once: 32 MiB.
const COPIES: usize = 1 << 23;

/// Whether a convolution can be computed here, and should: registers are filled from one row of the output, and most of
/// them should be full. The copy of an image has its bound, and is not much larger than the image, as it would be with the
/// padding of a large dilation.
pub(super) fn fits(geometry: &Geometry) -> bool {
    let channels = geometry.channels[0];
    let plane = Band::new(geometry, geometry.output[0]).len();
    let small =
        plane.saturating_mul(channels) <= COPIES && plane <= 4 * geometry.input_plane().max(geometry.output_plane());
    let few = geometry.taps() > 1 && channels * geometry.taps() <= DEPTH;
    geometry.groups == 1 && few && small && geometry.fills_registers()
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Option<Epilogue>, output: Shared) {
    let (arch, channels) = (simd::arch(), geometry.channels[0]);
    // A whole plane.
    let band = Band::new(geometry, geometry.output[0]);
    // Where an output pixel's channels and taps lie, from its first.
    let place = |index: usize| {
        let (channel, tap) = (index / geometry.taps(), index % geometry.taps());
        channel * band.len() + band.tap(geometry, tap)
    };
    let places: &Vec<usize> = &(0..channels * geometry.taps()).map(place).collect();
    let most = (COPIES / (channels * band.len())).clamp(1, geometry.batch);
    for first in (0..geometry.batch).step_by(most) {
        let images = most.min(geometry.batch - first);
        // SAFETY: all values are written.
        let mut copies = unsafe { Temporary::new(images * channels * band.len()) };
        for_each_chunk(&mut copies, band.len(), |plane, values| {
            let plane = (first * channels + plane) * geometry.input_plane();
            let source = &x[plane..][..geometry.input_plane()];
            arch.dispatch(CopyPlane { geometry, band, source, values });
        });
        let rows = images * geometry.output[0];
        let per_task = rows.div_ceil(2 * TASKS);
        for_each(rows.div_ceil(per_task), |task| {
            let rows = task * per_task..((task + 1) * per_task).min(rows);
            with_scratch([places.len() * BLOCK], |[matrix]| {
                let copies = &copies;
                arch.dispatch(Rows { geometry, band, copies, places, first, rows, weight, epilogue, matrix, output });
            });
        });
    }
}

/// Copies a plane of the input.
struct CopyPlane<'a> {
    geometry: &'a Geometry,
    band: Band,
    source: &'a [f32],
    values: &'a mut [f32],
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
    copies: &'a [f32],
    /// Where a pixel's channels and taps lie.
    places: &'a [usize],
    /// The first image that is copied.
    first: usize,
    rows: Range<usize>,
    weight: &'a [f32],
    epilogue: Option<Epilogue<'a>>,
    /// Scratch, `[pair of registers][channel, tap][pixel]`.
    matrix: &'a mut [f32],
    output: Shared,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, band, copies, places, first, rows, weight, epilogue, matrix, output } = self;
        let ([height, width], plane) = (geometry.output, geometry.output_plane());
        let (channels_out, step, lanes) = (geometry.channels[1], kernel_rows::<S>(), S::F32_LANES);
        let (depth, pair) = (places.len(), 2 * lanes);
        assert!(matrix.len() >= depth * BLOCK && BLOCK.is_multiple_of(pair));
        for row in rows {
            let (image, row) = (row / height, row % height);
            let begin = image * geometry.channels[0] * band.len() + row * geometry.stride[0] * band.row();
            for column in (0..width).step_by(BLOCK) {
                let count = BLOCK.min(width - column);
                for p in 0..depth {
                    let source = &copies[begin + column + places[p]..][..count.next_multiple_of(lanes)];
                    for register in 0..count.div_ceil(lanes) {
                        let place = (register / 2 * depth + p) * pair + register % 2 * lanes;
                        // SAFETY: the source has whole registers, and the matrix all pairs of a block.
                        unsafe {
                            let values = Lanes::load(simd, source.as_ptr().add(register * lanes));
                            values.store(matrix.as_mut_ptr().add(place));
                        }
                    }
                }
                for channel in (0..channels_out).step_by(step) {
                    let finish = Epilogue::finish(epilogue, channel);
                    let target = ((first + image) * channels_out + channel) * plane + row * width + column;
                    for pixel in (0..count).step_by(pair) {
                        let product = Product {
                            depth,
                            left: Left::Rows(weight[channel * depth..].as_ptr(), depth),
                            right: Strided(matrix[pixel * depth..].as_ptr(), pair),
                            // SAFETY: within the output; these pixels of the row are this task's.
                            output: unsafe { output.at(target + pixel) },
                            output_stride: plane,
                            rows: step.min(channels_out - channel),
                            columns: pair.min(count - pixel),
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
