//! Kernels on few channels: an image is copied once, with its padding, and columns that a stride takes by turns apart, so that
//! what neighbouring pixels read lies in a row. Of that the matrix of a product is made by plain copies; the implicit GEMM
//! would look for the image's borders at each tap, which for few channels takes as long as the product.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, TASKS};
use crate::cpu::{
    matrix::{Left, Product, kernel_rows},
    memory::{Shared, Temporary, with_scratch},
    simd::{self, Lanes, MOST_LANES},
    threads::for_each,
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
    let width = geometry.output[1];
    let depth = geometry.channels[0] * geometry.taps();
    let copy = Padded::new(geometry);
    let plane = copy.rows.saturating_mul(copy.phases.saturating_mul(copy.columns));
    let small = plane.saturating_mul(copy.channels) <= COPIES
        && plane <= 4 * geometry.input_plane().max(geometry.output_plane());
    let full = 8 * width.next_multiple_of(MOST_LANES) <= 9 * width;
    geometry.groups == 1 && geometry.taps() > 1 && depth <= DEPTH && small && full
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Option<Epilogue>, output: Shared) {
    let arch = simd::arch();
    let copy = Padded::new(geometry);
    let [channels, _] = geometry.channels;
    let most = (COPIES / copy.image()).clamp(1, geometry.batch);
    for first in (0..geometry.batch).step_by(most) {
        let images = most.min(geometry.batch - first);
        // Registers are read past the end of the last row.
        let len = images * copy.image();
        // SAFETY: all values are written.
        let mut copies = unsafe { Temporary::new(len + 2 * MOST_LANES) };
        copies[len..].fill(0.0);
        let target = Shared(copies.as_mut_ptr());
        let planes = x.chunks_exact(geometry.input_plane()).skip(first * channels);
        let planes: Vec<&[f32]> = planes.take(images * channels).collect();
        for_each(planes.len(), |plane| {
            // SAFETY: each task has its plane of the copies.
            let target = Shared(unsafe { target.at(plane * copy.plane()) });
            arch.dispatch(CopyPlane { geometry, copy, source: planes[plane], target });
        });
        let rows = images * geometry.output[0];
        let per_task = rows.div_ceil(2 * TASKS);
        let places = &copy.places(geometry);
        for_each(rows.div_ceil(per_task), |task| {
            let rows = task * per_task..((task + 1) * per_task).min(rows);
            with_scratch([places.len() * BLOCK], |[matrix]| {
                let copies = &copies;
                arch.dispatch(Rows { geometry, copy, copies, places, first, rows, weight, epilogue, matrix, output });
            });
        });
    }
}

/// How an image is copied: `[channel][row][phase of columns][column]`.
#[derive(Clone, Copy)]
struct Padded {
    channels: usize,
    rows: usize,
    phases: usize,
    columns: usize,
}

impl Padded {
    fn new(geometry: &Geometry) -> Self {
        let reach = |axis: usize| geometry.dilation[axis] * (geometry.kernel[axis] - 1);
        Self {
            channels: geometry.channels[0],
            rows: (geometry.output[0] - 1) * geometry.stride[0] + reach(0) + 1,
            phases: geometry.stride[1],
            columns: geometry.output[1] + reach(1) / geometry.stride[1],
        }
    }

    fn row(&self) -> usize {
        self.phases * self.columns
    }

    fn plane(&self) -> usize {
        self.rows * self.row()
    }

    fn image(&self) -> usize {
        self.channels * self.plane()
    }

    /// Where an output pixel's channels and taps lie, from its first.
    fn places(&self, geometry: &Geometry) -> Vec<usize> {
        let mut places = Vec::with_capacity(self.channels * geometry.taps());
        for channel in 0..self.channels {
            for tap in 0..geometry.taps() {
                let row = tap / geometry.kernel[1] * geometry.dilation[0];
                let column = tap % geometry.kernel[1] * geometry.dilation[1];
                let (phase, column) = (column % self.phases, column / self.phases);
                places.push(channel * self.plane() + row * self.row() + phase * self.columns + column);
            }
        }
        places
    }
}

/// Copies a plane of the input.
struct CopyPlane<'a> {
    geometry: &'a Geometry,
    copy: Padded,
    source: &'a [f32],
    target: Shared,
}

impl WithSimd for CopyPlane<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { geometry, copy, source, target } = self;
        let ([height, width], [top, left], [_, stride]) = (geometry.input, geometry.padding, geometry.stride);
        for row in 0..copy.rows {
            for phase in 0..copy.phases {
                // SAFETY: the target has all rows and phases of the plane.
                let target = unsafe {
                    let target = target.at(row * copy.row() + phase * copy.columns);
                    std::slice::from_raw_parts_mut(target, copy.columns)
                };
                if row < top || row - top >= height {
                    target.fill(0.0);
                    continue;
                }
                let source = &source[(row - top) * width..][..width];
                // Of these columns the first that is within the row, and the one after the last.
                let start = left.saturating_sub(phase).div_ceil(stride).min(copy.columns);
                let end = (width + left).saturating_sub(phase).div_ceil(stride).clamp(start, copy.columns);
                target[..start].fill(0.0);
                target[end..].fill(0.0);
                if start == end {
                    continue;
                }
                let source = &source[start * stride + phase - left..];
                let target = &mut target[start..end];
                if stride == 1 {
                    target.copy_from_slice(&source[..target.len()]);
                } else {
                    let source = &source[..(target.len() - 1) * stride + 1];
                    for column in 0..target.len() {
                        target[column] = source[column * stride];
                    }
                }
            }
        }
    }
}

/// Some rows of the output, counted over the copied images.
struct Rows<'a> {
    geometry: &'a Geometry,
    copy: Padded,
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
        let Self { geometry, copy, copies, places, first, rows, weight, epilogue, matrix, output } = self;
        let ([height, width], plane) = (geometry.output, geometry.output_plane());
        let (channels_out, step, lanes) = (geometry.channels[1], kernel_rows::<S>(), S::F32_LANES);
        let (depth, pair) = (places.len(), 2 * lanes);
        assert!(matrix.len() >= depth * BLOCK && BLOCK.is_multiple_of(pair));
        for row in rows {
            let (image, row) = (row / height, row % height);
            let begin = image * copy.image() + row * geometry.stride[0] * copy.row();
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
                            right: matrix[pixel * depth..].as_ptr(),
                            right_stride: pair,
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
