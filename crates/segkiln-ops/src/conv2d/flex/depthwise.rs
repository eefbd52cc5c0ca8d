//! Depthwise convolution: each channel by itself, a [`Band`] of rows at a time.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops: closures and iterators may stay calls"
)]

use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, band::Band, phases::PhaseTap};
use crate::cpu::{
    memory::{as_uninit, with_scratch},
    simd::{self, Lanes, MOST_LANES},
    threads::for_each_chunk,
};

/// Values of a band that stays in a first-level cache: 24 KiB of 32.
const SMALL_BAND: usize = 6 << 10;
/// Values of a band where a kernel spans so many rows that most of a small band would be copied twice: 256 KiB, which stay in a
/// second-level cache.
const LARGE_BAND: usize = 1 << 16;
/// Output rows that are computed together. With more, sums and weights do not fit the registers: four rows were 30 % slower with
/// AVX2.
const ROWS: usize = 2;
/// Registers that are added up in f32 before they go into an f64 sum.
const CHUNK: usize = 512;

/// Returns a band of as many rows as stay in a cache, but at least [`ROWS`].
fn cached_band(geometry: &Geometry) -> Band {
    let reach = geometry.dilation[0] * (geometry.kernel[0] - 1);
    let row = Band::new(geometry, ROWS).row();
    let len = if row.saturating_mul(2 * reach) <= SMALL_BAND { SMALL_BAND } else { LARGE_BAND };
    let rows = (len / row).saturating_sub(reach) / geometry.stride[0];
    Band::new(geometry, rows.clamp(ROWS, geometry.output[0].max(ROWS)).next_multiple_of(ROWS))
}

/// Returns whether a band has room for the rows that the kernel spans.
pub(super) fn fits_band(geometry: &Geometry) -> bool {
    cached_band(geometry).len() <= LARGE_BAND
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let (arch, band) = (simd::arch(), cached_band(geometry));
    let (channels, taps, plane) = (geometry.channels.input, geometry.taps(), geometry.input_plane());
    for_each_chunk(output, geometry.output_plane(), |index, output| {
        let channel = index % channels;
        with_scratch([band.len()], |[values]| {
            let x = &x[index * plane..][..plane];
            let weight = &weight[channel * taps..][..taps];
            arch.dispatch(Forward { geometry, band, x, weight, channel, epilogue, values, output });
        });
    });
}

/// Writes the gradient of the input to `output`, after the epilogue.
pub(super) fn input_gradient(
    geometry: &Geometry,
    weight: &[f32],
    grad: &[f32],
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let taps = geometry.taps();
    if let Some(adjoint) = geometry.adjoint() {
        let turned: Vec<f32> = weight.chunks_exact(taps).flat_map(|kernel| kernel.iter().rev().copied()).collect();
        return forward(&adjoint, grad, &turned, epilogue, output);
    }
    let (reader, phases) = geometry.gradient_reader();
    let (arch, band, channels) = (simd::arch(), cached_band(&reader), geometry.channels.input);
    // Offset in the band and tap, by phase.
    let offset = |(tap, [row, column]): &PhaseTap| (row * band.row() + column, *tap);
    let phases: Vec<Vec<_>> = phases.iter().map(|taps| taps.iter().map(offset).collect()).collect();
    let output_plane = geometry.output_plane();
    for_each_chunk(output, geometry.input_plane(), |index, output| {
        with_scratch([band.len()], |[values]| {
            let grad = &grad[index * output_plane..][..output_plane];
            let weight = &weight[index % channels * taps..][..taps];
            arch.dispatch(InputGradient {
                geometry,
                reader: &reader,
                band,
                phases: &phases,
                grad,
                weight,
                values,
                output: &mut *output,
            });
            if let Some(epilogue) = epilogue {
                // SAFETY: the kernel has written every row of the plane.
                epilogue.apply(index % channels, unsafe { output.assume_init_mut() });
            }
        });
    });
}

/// The gradient of the weight, `[channels, 1, kernel_height, kernel_width]`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (arch, band) = (simd::arch(), cached_band(geometry));
    let (channels, taps) = (geometry.channels.input, geometry.taps());
    let mut gradient = vec![0.0f32; channels * taps];
    for_each_chunk(&mut gradient, taps, |channel, gradient| {
        with_scratch([band.len()], |[values]| {
            arch.dispatch(WeightGradient { geometry, band, x, grad, channel, values, gradient });
        });
    });
    gradient
}

/// One plane of the output.
struct Forward<'a> {
    geometry: &'a Geometry,
    band: Band,
    x: &'a [f32],
    weight: &'a [f32],
    channel: usize,
    epilogue: Option<Epilogue<'a>>,
    /// Scratch.
    values: &'a mut [f32],
    output: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Geometry { kernel, stride, dilation, .. } = *self.geometry;
        assert!(self.output.len() == self.geometry.output_plane() && self.weight.len() == self.geometry.taps());
        match (kernel, stride, dilation) {
            ([3, 3], [1, 1], [1, 1]) => self.run::<S, 3, 1>(simd),
            ([3, 3], [2, 2], [1, 1]) => self.run::<S, 3, 2>(simd),
            ([5, 5], [1, 1], [1, 1]) => self.run::<S, 5, 1>(simd),
            ([5, 5], [2, 2], [1, 1]) => self.run::<S, 5, 2>(simd),
            ([7, 7], [1, 1], [1, 1]) => self.run::<S, 7, 1>(simd),
            _ => self.run_any(simd),
        }
    }
}

impl Forward<'_> {
    /// [`ROWS`] rows of the output at once, for a square kernel.
    #[inline(always)]
    fn run<S: Simd, const KERNEL: usize, const STRIDE: usize>(self, simd: S) {
        let (band, [height, width]) = (self.band, self.geometry.output);
        let output: *mut f32 = self.output.as_mut_ptr().cast();
        let masks = band.masks(simd, self.geometry, band.columns(self.geometry));
        let mut weight = [[Lanes::splat(simd, 0.0); KERNEL]; KERNEL];
        for a in 0..KERNEL {
            for b in 0..KERNEL {
                weight[a][b] = Lanes::splat(simd, self.weight[a * KERNEL + b]);
            }
        }
        for first in (0..height).step_by(band.outputs) {
            // SAFETY: only initialized values are written.
            band.fill(simd, self.geometry, &masks, self.x, first, unsafe { as_uninit(self.values) });
            for row in (0..band.outputs.min(height - first)).step_by(ROWS) {
                for column in (0..width).step_by(S::F32_LANES) {
                    let values = self.values[row * STRIDE * band.row() + column..].as_ptr();
                    // Two parts of each row's sum: one alone would wait for itself.
                    let mut sums = [[Lanes::splat(simd, 0.0); 2]; ROWS];
                    // Each value is loaded once, and few weights are in use at a time.
                    for b in 0..KERNEL {
                        for phase in 0..STRIDE {
                            for i in 0..ROWS + (KERNEL - 1) / STRIDE {
                                if i * STRIDE + phase >= (ROWS - 1) * STRIDE + KERNEL {
                                    continue;
                                }
                                let offset = (i * STRIDE + phase) * band.row() + b % STRIDE * band.width + b / STRIDE;
                                // SAFETY: the band has the rows of whole blocks of `ROWS`, and a phase room for a
                                // register from its last column on.
                                let value = unsafe { Lanes::load(simd, values.add(offset)) };
                                for j in 0..KERNEL.div_ceil(STRIDE) {
                                    let a = j * STRIDE + phase;
                                    if a < KERNEL && i >= j && i - j < ROWS {
                                        let sum = &mut sums[i - j][b % 2];
                                        *sum = value.mul_add(weight[a][b], *sum);
                                    }
                                }
                            }
                        }
                    }
                    // Rows past the last are stored too, elsewhere: if they were skipped, the compiler would compute the sums
                    // of each row only after the test, one after the other.
                    let mut nowhere = [0.0f32; MOST_LANES];
                    for q in 0..ROWS {
                        let target = match first + row + q < height {
                            // SAFETY: the row and the column are within the plane, as long as the output by the assertion.
                            true => unsafe { output.add((first + row + q) * width + column) },
                            false => nowhere.as_mut_ptr(),
                        };
                        // SAFETY: there is room for the rest of the row, or for a register.
                        unsafe { self.finish(simd, sums[q][0] + sums[q][1], target, width - column) };
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn run_any<S: Simd>(self, simd: S) {
        let (band, [height, width]) = (self.band, self.geometry.output);
        let masks = band.masks(simd, self.geometry, band.columns(self.geometry));
        let output: *mut f32 = self.output.as_mut_ptr().cast();
        let offsets: Vec<usize> = (0..self.weight.len()).map(|tap| band.tap_offset(self.geometry, tap)).collect();
        for first in (0..height).step_by(band.outputs) {
            // SAFETY: only initialized values are written.
            band.fill(simd, self.geometry, &masks, self.x, first, unsafe { as_uninit(self.values) });
            for row in 0..band.outputs.min(height - first) {
                for column in (0..width).step_by(S::F32_LANES) {
                    let values = self.values[row * self.geometry.stride[0] * band.row() + column..].as_ptr();
                    let mut sum = Lanes::splat(simd, 0.0);
                    for (offset, weight) in offsets.iter().zip(self.weight) {
                        // SAFETY: a phase has room for a register from its last column on.
                        let value = unsafe { Lanes::load(simd, values.add(*offset)) };
                        sum = value.scaled_plus(*weight, sum);
                    }
                    // SAFETY: there is room for the rest of the row.
                    unsafe { self.finish(simd, sum, output.add((first + row) * width + column), width - column) };
                }
            }
        }
    }

    /// Applies the epilogue and writes a register, or its first `count` values if it has more.
    ///
    /// # Safety
    /// `target` has room for so many values.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, mut sum: Lanes<S>, target: *mut f32, count: usize) {
        if let Some(epilogue) = self.epilogue {
            sum = epilogue.lanes(simd, self.channel).apply(sum);
        }
        // SAFETY: the caller's promise.
        unsafe {
            if count >= S::F32_LANES {
                sum.store(target);
            } else {
                sum.store_first(target, count);
            }
        }
    }
}

/// One plane of the gradient of a strided convolution's input.
struct InputGradient<'a> {
    geometry: &'a Geometry,
    reader: &'a Geometry,
    band: Band,
    phases: &'a [Vec<(usize, usize)>],
    grad: &'a [f32],
    weight: &'a [f32],
    /// Scratch.
    values: &'a mut [f32],
    output: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, reader, band, phases, grad, weight, values, output } = self;
        let ([height, width], [step_row, step], lanes) = (geometry.input, geometry.stride, S::F32_LANES);
        let mut line = vec![0.0f32; step * lanes];
        let masks = band.masks(simd, reader, band.columns(reader));
        for first in (0..reader.output[0]).step_by(band.outputs) {
            // SAFETY: only initialized values are written.
            band.fill(simd, reader, &masks, grad, first, unsafe { as_uninit(values) });
            let rows = first * step_row..height.min((first + band.outputs) * step_row);
            for (row, output) in rows.clone().zip(output[rows.start * width..].chunks_exact_mut(width)) {
                let phases = &phases[row % step_row * step..][..step];
                for column in (0..reader.output[1]).step_by(lanes) {
                    let from = values[(row / step_row - first) * band.row() + column..].as_ptr();
                    let sum = |phase: usize| {
                        let mut sum = Lanes::splat(simd, 0.0);
                        for (offset, tap) in &phases[phase] {
                            // SAFETY: a phase has room for a register from its last column on.
                            sum = unsafe { Lanes::load(simd, from.add(*offset)) }.scaled_plus(weight[*tap], sum);
                        }
                        sum
                    };
                    let output = &mut output[column * step..];
                    let count = output.len().min(step * lanes);
                    // SAFETY: the line has a register for each phase.
                    unsafe {
                        if step == 2 {
                            let [low, high] = sum(0).zip(sum(1));
                            low.store(line.as_mut_ptr());
                            high.store(line.as_mut_ptr().add(lanes));
                        } else {
                            let mut values = [0.0f32; MOST_LANES];
                            for phase in 0..step {
                                sum(phase).store(values.as_mut_ptr());
                                for lane in 0..lanes {
                                    line[lane * step + phase] = values[lane];
                                }
                            }
                        }
                    }
                    output[..count].write_copy_of_slice(&line[..count]);
                }
            }
        }
    }
}

/// The gradient of one channel's weight.
struct WeightGradient<'a> {
    geometry: &'a Geometry,
    band: Band,
    x: &'a [f32],
    grad: &'a [f32],
    channel: usize,
    /// Scratch.
    values: &'a mut [f32],
    gradient: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.gradient.len() {
            25 if S::REGISTER_COUNT >= 32 => self.run::<S, 25>(simd),
            taps if taps.is_multiple_of(9) => self.run::<S, 9>(simd),
            taps if taps.is_multiple_of(7) => self.run::<S, 7>(simd),
            taps if taps.is_multiple_of(5) => self.run::<S, 5>(simd),
            _ => self.run::<S, 1>(simd),
        }
    }
}

impl WeightGradient<'_> {
    /// `TAPS` sums at a time.
    #[inline(always)]
    fn run<S: Simd, const TAPS: usize>(self, simd: S) {
        let Self { geometry, band, x, grad, channel, values, gradient } = self;
        let ([height, width], lanes) = (geometry.output, S::F32_LANES);
        let (plane, output_plane) = (geometry.input_plane(), geometry.output_plane());
        let all_offsets: Vec<usize> = (0..gradient.len()).map(|tap| band.tap_offset(geometry, tap)).collect();
        let mut totals = vec![0.0f64; gradient.len()];
        let rows_a_chunk = (CHUNK / width.div_ceil(lanes)).max(1);
        let masks = band.masks(simd, geometry, band.columns(geometry));
        for image in 0..geometry.batch {
            let index = image * geometry.channels.input + channel;
            let (x, grad) = (&x[index * plane..][..plane], &grad[index * output_plane..][..output_plane]);
            for first in (0..height).step_by(band.outputs) {
                // SAFETY: only initialized values are written.
                band.fill(simd, geometry, &masks, x, first, unsafe { as_uninit(values) });
                let end = height.min(first + band.outputs);
                for begin in (first..end).step_by(rows_a_chunk) {
                    for (tap_offsets, totals) in all_offsets.chunks_exact(TAPS).zip(totals.chunks_exact_mut(TAPS)) {
                        let mut offsets = [0; TAPS];
                        offsets.copy_from_slice(tap_offsets);
                        let mut sums = [Lanes::splat(simd, 0.0); TAPS];
                        for row in begin..end.min(begin + rows_a_chunk) {
                            let line = (row - first) * geometry.stride[0] * band.row();
                            for column in (0..width).step_by(lanes) {
                                let values = values[line + column..].as_ptr();
                                let from = grad[row * width + column..].as_ptr();
                                let count = width - column;
                                // SAFETY: the gradients are within the row, and a phase has room for a register from its
                                // last column on.
                                unsafe {
                                    if count >= lanes {
                                        let grad = Lanes::load(simd, from);
                                        for tap in 0..TAPS {
                                            let value = Lanes::load(simd, values.add(offsets[tap]));
                                            sums[tap] = grad.mul_add(value, sums[tap]);
                                        }
                                        continue;
                                    }
                                    // Zeros after the row's end on both sides: beyond it there may be infinities.
                                    let grad = Lanes::load_first(simd, from, count);
                                    for tap in 0..TAPS {
                                        let value = Lanes::load_first(simd, values.add(offsets[tap]), count);
                                        sums[tap] = grad.mul_add(value, sums[tap]);
                                    }
                                }
                            }
                        }
                        for tap in 0..TAPS {
                            totals[tap] += f64::from(simd.reduce_sum_f32s(sums[tap].1));
                        }
                    }
                }
            }
        }
        for (gradient, total) in gradient.iter_mut().zip(totals) {
            *gradient = total as f32;
        }
    }
}
