//! Groups of few channels: a [`Band`] of rows of a group's planes is copied, and the product reads what pixels see where it
//! lies there. A matrix as the implicit GEMM makes would be read for so few output channels that making it costs more.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, band::Band};
use crate::cpu::{
    matrix::{Left, Places, Product, kernel_rows},
    memory::{Shared, with_scratch},
    simd::{self, MOST_LANES},
    threads::for_each,
};

/// Most products for an output, and most output channels of a group: of more, making a matrix is a small part.
const DEPTH: usize = 256;
const CHANNELS: usize = 16;
/// Values of a group's bands: a part of a second-level cache.
const BANDS: usize = 1 << 14;

/// As many rows as [`BANDS`] has room for, and at least one.
fn cached(geometry: &Geometry) -> Band {
    let [channels, _] = geometry.group_channels();
    let reach = geometry.dilation[0] * (geometry.kernel[0] - 1);
    let rows = (BANDS / channels / Band::new(geometry, 1).row()).saturating_sub(reach) / geometry.stride[0];
    Band::new(geometry, rows.clamp(1, geometry.output[0]))
}

/// Whether a convolution can be computed here, and should: registers are filled from one row of the output, and most of them
/// should be full.
pub(super) fn fits(geometry: &Geometry) -> bool {
    let ([channels_in, channels_out], width) = (geometry.group_channels(), geometry.output[1]);
    let full = 8 * width.next_multiple_of(MOST_LANES) <= 9 * width;
    geometry.groups > 1
        && geometry.taps() > 1
        && channels_in * geometry.taps() <= DEPTH
        && channels_out <= CHANNELS
        && full
        && channels_in.saturating_mul(cached(geometry).len()) <= 4 * BANDS
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Option<Epilogue>, output: Shared) {
    let (arch, band, taps) = (simd::arch(), cached(geometry), geometry.taps());
    let [channels_in, _] = geometry.group_channels();
    // Where an output pixel's channels and taps lie, from its first.
    let place = |index: usize| index / taps * band.len() + band.tap(geometry, index % taps);
    let places: &Vec<usize> = &(0..channels_in * taps).map(place).collect();
    let bands = geometry.output[0].div_ceil(band.outputs);
    for_each(geometry.batch * geometry.groups * bands, |task| {
        let (index, first) = (task / bands, task % bands * band.outputs);
        with_scratch([channels_in * band.len()], |[values]| {
            arch.dispatch(Rows { geometry, band, places, x, index, first, weight, epilogue, values, output });
        });
    });
}

/// Some rows of a group's output.
struct Rows<'a> {
    geometry: &'a Geometry,
    band: Band,
    /// Where a pixel's channels and taps lie.
    places: &'a [usize],
    x: &'a [f32],
    /// The group, counted over the images.
    index: usize,
    /// The first row.
    first: usize,
    weight: &'a [f32],
    epilogue: Option<Epilogue<'a>>,
    /// Scratch: the bands of the channels.
    values: &'a mut [f32],
    output: Shared,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, band, places, x, index, first, weight, epilogue, values, output } = self;
        let ([height, width], plane, input_plane) = (geometry.output, geometry.output_plane(), geometry.input_plane());
        let ([channels_in, channels_out], depth) = (geometry.group_channels(), places.len());
        let (step, pair) = (kernel_rows::<S>(), 2 * S::F32_LANES);
        let masks = band.masks(simd, geometry, band.columns(geometry));
        for (channel, values) in values.chunks_exact_mut(band.len()).enumerate().take(channels_in) {
            let x = &x[(index * channels_in + channel) * input_plane..][..input_plane];
            band.fill(simd, geometry, &masks, x, first, values);
        }
        let group = index % geometry.groups;
        let weight = &weight[group * channels_out * depth..][..channels_out * depth];
        for row in 0..band.outputs.min(height - first) {
            let begin = row * geometry.stride[0] * band.row();
            for channel in (0..channels_out).step_by(step) {
                let finish = Epilogue::finish(epilogue, group * channels_out + channel);
                let target = (index * channels_out + channel) * plane + (first + row) * width;
                for column in (0..width).step_by(pair) {
                    let product = Product {
                        depth,
                        left: Left::Rows(weight[channel * depth..].as_ptr(), depth),
                        right: Places(values[begin + column..].as_ptr(), places),
                        // SAFETY: within the output; these pixels of the row are this task's.
                        output: unsafe { output.at(target + column) },
                        output_stride: plane,
                        rows: step.min(channels_out - channel),
                        columns: pair.min(width - column),
                    };
                    // SAFETY: the weight has `depth` values a row, the bands whole registers from each place on, and the output
                    // these pixels of as many planes.
                    unsafe { product.compute(simd, finish) };
                }
            }
        }
    }
}
