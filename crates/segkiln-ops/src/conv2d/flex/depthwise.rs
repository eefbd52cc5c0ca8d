//! Convolutions of each channel by itself. A plane is copied once with its padding, columns that are a stride apart side
//! by side, so that every tap of every stride reads whole registers; the gradient of the input goes the same way back.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Epilogue, Geometry};
use crate::cpu::{
    memory::{Shared, with_scratch},
    simd::{self, Lanes, MOST_LANES},
};

/// Registers of an output row that are computed together.
const REGISTERS: usize = 4;
/// Rows that are added up in f32 before they go into an f64 sum.
const ROWS: usize = 8;

/// A plane with its padding: `[row][phase][column]`, where the column of the image is `column · stride + phase`.
#[derive(Clone, Copy)]
struct Padded {
    rows: usize,
    phases: usize,
    /// Columns of a phase, with room for whole registers past the last.
    width: usize,
}

impl Padded {
    fn new(geometry: &Geometry) -> Self {
        let reach = [0, 1].map(|axis| geometry.dilation[axis] * (geometry.kernel[axis] - 1));
        Self {
            rows: (geometry.output[0] - 1) * geometry.stride[0] + reach[0] + 1,
            phases: geometry.stride[1],
            width: geometry.output[1] + reach[1] / geometry.stride[1] + 1 + REGISTERS * MOST_LANES,
        }
    }

    fn len(&self) -> usize {
        self.rows * self.phases * self.width
    }

    /// Where output row `row` reads its first column at a tap.
    fn at(&self, geometry: &Geometry, row: usize, tap: usize) -> usize {
        let column = tap % geometry.kernel[1] * geometry.dilation[1];
        let row = row * geometry.stride[0] + tap / geometry.kernel[1] * geometry.dilation[0];
        (row * self.phases + column % self.phases) * self.width + column / self.phases
    }

    /// For each row of the image and phase: its row, the row's and the phase's columns, first and step in the image.
    fn rows(&self, geometry: &Geometry) -> impl Iterator<Item = (usize, Range<usize>, usize)> {
        let (padded, padding, [height, width]) = (*self, geometry.padding, geometry.input);
        (0..padded.rows * padded.phases).filter_map(move |index| {
            let (row, phase) = ((index / padded.phases).wrapping_sub(padding[0]), index % padded.phases);
            // The first column of the phase that is in the image.
            let skipped = padding[1].saturating_sub(phase).div_ceil(padded.phases);
            let first = skipped * padded.phases + phase - padding[1];
            let count = width.saturating_sub(first).div_ceil(padded.phases).min(padded.width.saturating_sub(skipped));
            let start = index * padded.width + skipped;
            (row < height && count > 0).then(|| (row * width + first, start..start + count, padded.phases))
        })
    }

    fn fill(&self, geometry: &Geometry, plane: &[f32], values: &mut [f32]) {
        values.fill(0.0);
        for (first, range, step) in self.rows(geometry) {
            let values = &mut values[range];
            if step == 1 {
                values.copy_from_slice(&plane[first..first + values.len()]);
            } else {
                for (value, from) in values.iter_mut().zip(plane[first..].iter().step_by(step)) {
                    *value = *from;
                }
            }
        }
    }

    fn empty(&self, geometry: &Geometry, values: &[f32], plane: &mut [f32]) {
        plane.fill(0.0);
        for (first, range, step) in self.rows(geometry) {
            for (value, to) in values[range].iter().zip(plane[first..].iter_mut().step_by(step)) {
                *to = *value;
            }
        }
    }
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Option<Epilogue>, output: Shared) {
    let (arch, padded) = (simd::arch(), Padded::new(geometry));
    let (channels, taps) = (geometry.channels[0], geometry.taps());
    let (plane, output_plane) = (geometry.input_plane(), geometry.output_plane());
    (0..geometry.batch * channels).into_par_iter().for_each(|index| {
        let channel = index % channels;
        with_scratch([padded.len()], |[values]| {
            let x = &x[index * plane..][..plane];
            // SAFETY: every plane of the output is written by one task.
            let output = unsafe { std::slice::from_raw_parts_mut(output.at(index * output_plane), output_plane) };
            let weight = &weight[channel * taps..][..taps];
            arch.dispatch(Forward { geometry, padded, x, weight, values, output });
            if let Some(epilogue) = epilogue {
                epilogue.apply(channel, output);
            }
        });
    });
}

/// Writes the gradient of the input to `output`.
pub(super) fn input_gradient(
    geometry: &Geometry,
    weight: &[f32],
    grad: &[f32],
    epilogue: Option<Epilogue>,
    output: Shared,
) {
    let (arch, padded) = (simd::arch(), Padded::new(geometry));
    let (channels, taps) = (geometry.channels[0], geometry.taps());
    let (plane, output_plane) = (geometry.input_plane(), geometry.output_plane());
    (0..geometry.batch * channels).into_par_iter().for_each(|index| {
        with_scratch([padded.len(), geometry.output[1] + MOST_LANES], |[values, line]| {
            let grad = &grad[index * output_plane..][..output_plane];
            let weight = &weight[index % channels * taps..][..taps];
            // SAFETY: every plane of the output is written by one task.
            let output = unsafe { std::slice::from_raw_parts_mut(output.at(index * plane), plane) };
            arch.dispatch(InputGradient { geometry, padded, grad, weight, values, line, output });
            if let Some(epilogue) = epilogue {
                epilogue.apply(index % channels, output);
            }
        });
    });
}

/// The gradient of the weight, `[channels, 1, kernel_height, kernel_width]`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (arch, padded) = (simd::arch(), Padded::new(geometry));
    let (channels, taps) = (geometry.channels[0], geometry.taps());
    let mut gradient = vec![0.0f32; channels * taps];
    gradient.par_chunks_exact_mut(taps).enumerate().for_each(|(channel, gradient)| {
        with_scratch([padded.len(), 2 * MOST_LANES], |[values, line]| {
            arch.dispatch(WeightGradient { geometry, padded, x, grad, channel, values, line, gradient });
        });
    });
    gradient
}

/// One plane of the output.
struct Forward<'a> {
    geometry: &'a Geometry,
    padded: Padded,
    x: &'a [f32],
    weight: &'a [f32],
    /// Scratch.
    values: &'a mut [f32],
    output: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, padded, x, weight, values, output } = self;
        padded.fill(geometry, x, values);
        let [height, width] = geometry.output;
        for row in 0..height {
            for column in (0..width).step_by(REGISTERS * S::F32_LANES) {
                let mut sums = [Lanes::splat(simd, 0.0); REGISTERS];
                for (tap, weight) in weight.iter().enumerate() {
                    let weight = Lanes::splat(simd, *weight);
                    let start = padded.at(geometry, row, tap) + column;
                    for (register, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: a phase has room for whole registers past its last column.
                        let value = unsafe { Lanes::load(simd, values.as_ptr().add(start + register * S::F32_LANES)) };
                        *sum = value.mul_add(weight, *sum);
                    }
                }
                let output = &mut output[row * width + column..(row + 1) * width];
                for (register, sum) in sums.iter().enumerate() {
                    let offset = register * S::F32_LANES;
                    if offset + S::F32_LANES <= output.len() {
                        // SAFETY: the row has a register left.
                        unsafe { sum.store(output.as_mut_ptr().add(offset)) };
                    } else if offset < output.len() {
                        let mut last = [0.0f32; MOST_LANES];
                        // SAFETY: the array holds at least a register.
                        unsafe { sum.store(last.as_mut_ptr()) };
                        let rest = output.len() - offset;
                        output[offset..].copy_from_slice(&last[..rest]);
                    }
                }
            }
        }
    }
}

/// One plane of the input's gradient.
struct InputGradient<'a> {
    geometry: &'a Geometry,
    padded: Padded,
    grad: &'a [f32],
    weight: &'a [f32],
    /// Scratch.
    values: &'a mut [f32],
    line: &'a mut [f32],
    output: &'a mut [f32],
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, padded, grad, weight, values, line, output } = self;
        let [height, width] = geometry.output;
        values.fill(0.0);
        line.fill(0.0);
        for row in 0..height {
            line[..width].copy_from_slice(&grad[row * width..][..width]);
            for (tap, weight) in weight.iter().enumerate() {
                let weight = Lanes::splat(simd, *weight);
                let start = padded.at(geometry, row, tap);
                for column in (0..width).step_by(S::F32_LANES) {
                    // SAFETY: the line and a phase have room for a whole register past the last column.
                    unsafe {
                        let target = values.as_mut_ptr().add(start + column);
                        let grad = Lanes::load(simd, line.as_ptr().add(column));
                        grad.mul_add(weight, Lanes::load(simd, target)).store(target);
                    }
                }
            }
        }
        padded.empty(geometry, values, output);
    }
}

/// One channel of the weight's gradient.
struct WeightGradient<'a> {
    geometry: &'a Geometry,
    padded: Padded,
    x: &'a [f32],
    grad: &'a [f32],
    channel: usize,
    /// Scratch.
    values: &'a mut [f32],
    line: &'a mut [f32],
    gradient: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, padded, x, grad, channel, values, line, gradient } = self;
        let [height, width] = geometry.output;
        let (plane, output_plane) = (geometry.input_plane(), geometry.output_plane());
        let mut totals = vec![0.0f64; gradient.len()];
        line.fill(0.0);
        for image in 0..geometry.batch {
            let index = image * geometry.channels[0] + channel;
            padded.fill(geometry, &x[index * plane..][..plane], values);
            let grad = &grad[index * output_plane..][..output_plane];
            for first in (0..height).step_by(ROWS) {
                for (tap, total) in totals.iter_mut().enumerate() {
                    let mut sum = Lanes::splat(simd, 0.0);
                    for row in first..(first + ROWS).min(height) {
                        let start = padded.at(geometry, row, tap);
                        let grad = &grad[row * width..][..width];
                        let whole = width / S::F32_LANES * S::F32_LANES;
                        for column in (0..whole).step_by(S::F32_LANES) {
                            // SAFETY: the row has a register left, and a phase room for one.
                            unsafe {
                                let grad = Lanes::load(simd, grad.as_ptr().add(column));
                                sum = grad.mul_add(Lanes::load(simd, values.as_ptr().add(start + column)), sum);
                            }
                        }
                        if whole < width {
                            // Zeros after the row's end on both sides: beyond it there may be infinities.
                            let rest = width - whole;
                            line[..rest].copy_from_slice(&grad[whole..]);
                            line[MOST_LANES..][..rest].copy_from_slice(&values[start + whole..][..rest]);
                            // SAFETY: the line has a register from each place.
                            unsafe {
                                let grad = Lanes::load(simd, line.as_ptr());
                                sum = grad.mul_add(Lanes::load(simd, line.as_ptr().add(MOST_LANES)), sum);
                            }
                        }
                    }
                    *total += f64::from(simd.reduce_sum_f32s(sum.1));
                }
            }
        }
        for (gradient, total) in gradient.iter_mut().zip(totals) {
            *gradient = total as f32;
        }
    }
}
