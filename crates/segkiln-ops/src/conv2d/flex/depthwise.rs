//! Convolutions of each channel by itself, a [`Band`] of rows at a time.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops: closures and iterators may stay calls"
)]

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, band::Band};
use crate::cpu::{
    memory::{Shared, with_scratch},
    simd::{self, Lanes, MOST_LANES},
    threads::{for_each, for_each_chunk},
};

/// Values of a band: what stays in a first-level cache or, where a kernel reaches over many rows, in a second-level one.
const BAND: [usize; 2] = [6 << 10, 1 << 16];
/// Output rows that are computed together: with more, sums and weights have too few registers.
const ROWS: usize = 2;
/// Registers that are added up in f32 before they go into an f64 sum.
const CHUNK: usize = 512;

/// As many rows as stay in a cache, but at least [`ROWS`].
fn cached(geometry: &Geometry) -> Band {
    let reach = geometry.dilation[0] * (geometry.kernel[0] - 1);
    let row = Band::new(geometry, ROWS).row();
    let len = if row.saturating_mul(2 * reach) <= BAND[0] { BAND[0] } else { BAND[1] };
    let rows = (len / row).saturating_sub(reach) / geometry.stride[0];
    Band::new(geometry, rows.clamp(ROWS, geometry.output[0].max(ROWS)).next_multiple_of(ROWS))
}

/// Whether a band has room for what the kernel reaches over.
pub(super) fn fits(geometry: &Geometry) -> bool {
    cached(geometry).len() <= BAND[1]
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Option<Epilogue>, output: Shared) {
    let (arch, band) = (simd::arch(), cached(geometry));
    let (channels, taps) = (geometry.channels[0], geometry.taps());
    let (plane, output_plane) = (geometry.input_plane(), geometry.output_plane());
    for_each(geometry.batch * channels, |index| {
        let channel = index % channels;
        with_scratch([band.len()], |[values]| {
            let x = &x[index * plane..][..plane];
            // SAFETY: every plane of the output is written by one task.
            let output = Shared(unsafe { output.at(index * output_plane) });
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
    output: Shared,
) {
    let taps = geometry.taps();
    if let Some(adjoint) = geometry.adjoint() {
        let turned: Vec<f32> = weight.chunks_exact(taps).flat_map(|kernel| kernel.iter().rev().copied()).collect();
        return forward(&adjoint, grad, &turned, epilogue, output);
    }
    let (reader, phases) = geometry.gradient_reader();
    let (arch, band, channels) = (simd::arch(), cached(&reader), geometry.channels[0]);
    // Place and tap, by phase.
    let place = |(tap, [row, column]): &(usize, [usize; 2])| (row * band.row() + column, *tap);
    let phases: Vec<Vec<_>> = phases.iter().map(|taps| taps.iter().map(place).collect()).collect();
    let (plane, output_plane) = (geometry.input_plane(), geometry.output_plane());
    for_each(geometry.batch * channels, |index| {
        with_scratch([band.len()], |[values]| {
            let grad = &grad[index * output_plane..][..output_plane];
            let weight = &weight[index % channels * taps..][..taps];
            // SAFETY: every plane of the output is written by one task.
            let output = unsafe { std::slice::from_raw_parts_mut(output.at(index * plane), plane) };
            arch.dispatch(InputGradient {
                geometry,
                reader: &reader,
                band,
                phases: &phases,
                grad,
                weight,
                values,
                output,
            });
            if let Some(epilogue) = epilogue {
                epilogue.apply(index % channels, output);
            }
        });
    });
}

/// The gradient of the weight, `[channels, 1, kernel_height, kernel_width]`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (arch, band) = (simd::arch(), cached(geometry));
    let (channels, taps) = (geometry.channels[0], geometry.taps());
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
    output: Shared,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Geometry { kernel, stride, dilation, .. } = *self.geometry;
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
        let masks = band.masks(simd, self.geometry, band.columns(self.geometry));
        let mut weight = [[Lanes::splat(simd, 0.0); KERNEL]; KERNEL];
        for a in 0..KERNEL {
            for b in 0..KERNEL {
                weight[a][b] = Lanes::splat(simd, self.weight[a * KERNEL + b]);
            }
        }
        for first in (0..height).step_by(band.outputs) {
            band.fill(simd, self.geometry, &masks, self.x, first, self.values);
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
                                let place = (i * STRIDE + phase) * band.row() + b % STRIDE * band.width + b / STRIDE;
                                // SAFETY: the band has the rows of whole blocks of `ROWS`, and a phase room for a
                                // register from its last column on.
                                let value = unsafe { Lanes::load(simd, values.add(place)) };
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
                    // Rows past the last are written too, elsewhere: were they left out, the compiler would compute the
                    // sums of each row only once it is known to be wanted, one after the other.
                    let mut nowhere = [0.0f32; MOST_LANES];
                    for q in 0..ROWS {
                        let target = match first + row + q < height {
                            // SAFETY: the places are within the plane.
                            true => unsafe { self.output.at((first + row + q) * width + column) },
                            false => nowhere.as_mut_ptr(),
                        };
                        // SAFETY: there is room for what is left of the row.
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
        let places: Vec<usize> = (0..self.weight.len()).map(|tap| band.tap(self.geometry, tap)).collect();
        for first in (0..height).step_by(band.outputs) {
            band.fill(simd, self.geometry, &masks, self.x, first, self.values);
            for row in 0..band.outputs.min(height - first) {
                for column in (0..width).step_by(S::F32_LANES) {
                    let values = self.values[row * self.geometry.stride[0] * band.row() + column..].as_ptr();
                    let mut sum = Lanes::splat(simd, 0.0);
                    for (place, weight) in places.iter().zip(self.weight) {
                        // SAFETY: a phase has room for a register from its last column on.
                        let value = unsafe { Lanes::load(simd, values.add(*place)) };
                        sum = value.scaled_plus(*weight, sum);
                    }
                    // SAFETY: the places are within the row.
                    unsafe { self.finish(simd, sum, self.output.at((first + row) * width + column), width - column) };
                }
            }
        }
    }

    /// Writes a register, or its first `count` values if it has more.
    ///
    /// # Safety
    /// There is room for so many values.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, mut sum: Lanes<S>, target: *mut f32, count: usize) {
        if let Some(Epilogue { scale, shift, range: [low, high] }) = self.epilogue {
            let [scale, shift] = [scale, shift].map(|values| Lanes::splat(simd, values[self.channel]));
            sum = sum.mul_add(scale, shift).max(Lanes::splat(simd, low)).min(Lanes::splat(simd, high));
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

/// One plane of the input's gradient, where there is a stride.
struct InputGradient<'a> {
    geometry: &'a Geometry,
    reader: &'a Geometry,
    band: Band,
    phases: &'a [Vec<(usize, usize)>],
    grad: &'a [f32],
    weight: &'a [f32],
    /// Scratch.
    values: &'a mut [f32],
    output: &'a mut [f32],
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
            band.fill(simd, reader, &masks, grad, first, values);
            let rows = first * step_row..height.min((first + band.outputs) * step_row);
            for (row, output) in rows.clone().zip(output[rows.start * width..].chunks_exact_mut(width)) {
                let phases = &phases[row % step_row * step..][..step];
                for column in (0..reader.output[1]).step_by(lanes) {
                    let from = values[(row / step_row - first) * band.row() + column..].as_ptr();
                    let sum = |phase: usize| {
                        let mut sum = Lanes::splat(simd, 0.0);
                        for (place, tap) in &phases[phase] {
                            // SAFETY: a phase has room for a register from its last column on.
                            sum = unsafe { Lanes::load(simd, from.add(*place)) }.scaled_plus(weight[*tap], sum);
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
                    output[..count].copy_from_slice(&line[..count]);
                }
            }
        }
    }
}

/// One channel of the weight's gradient.
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
        let all_places: Vec<usize> = (0..gradient.len()).map(|tap| band.tap(geometry, tap)).collect();
        let mut totals = vec![0.0f64; gradient.len()];
        let rows_a_chunk = (CHUNK / width.div_ceil(lanes)).max(1);
        let masks = band.masks(simd, geometry, band.columns(geometry));
        for image in 0..geometry.batch {
            let index = image * geometry.channels[0] + channel;
            let (x, grad) = (&x[index * plane..][..plane], &grad[index * output_plane..][..output_plane]);
            for first in (0..height).step_by(band.outputs) {
                band.fill(simd, geometry, &masks, x, first, values);
                let end = height.min(first + band.outputs);
                for begin in (first..end).step_by(rows_a_chunk) {
                    for (places, totals) in all_places.chunks_exact(TAPS).zip(totals.chunks_exact_mut(TAPS)) {
                        let mut offsets = [0; TAPS];
                        offsets.copy_from_slice(places);
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
