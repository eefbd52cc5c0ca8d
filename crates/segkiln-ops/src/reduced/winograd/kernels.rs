//! Kernels, transformed and packed.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use burn::tensor::bf16;

use super::{
    super::{
        product::{Bf16, PANEL, Shorts, panel_width},
        unit::{LANES, Task, Unit, UnitKind},
    },
    Form, POINTS, SIDE,
};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    threads::for_each,
};

/// Transformed kernels: `[panel of output channels][point][pair of input channels][output channel][2]`.
#[derive(Debug)]
pub(in super::super) struct Kernels<F: Form> {
    values: Vec<F::Right>,
    pub(super) channels: [usize; 2],
    /// Scales of the integer products, `[point][output channel]`; 1 for floats.
    pub(super) factors: Vec<f32>,
}

/// `G g` along one axis.
#[inline(always)]
unsafe fn kernel_column<U: Unit>(unit: U, [g0, g1, g2]: [U::Float; 3]) -> [U::Float; SIDE] {
    const A: f32 = Bf16::A;
    const B: f32 = Bf16::B;
    // SAFETY: the caller's promise.
    unsafe {
        let [scale_a, scale_b] = [unit.splat(scale(A, B)), unit.splat(scale(B, A))];
        let even_a = unit.mul(scale_a, unit.add(g0, unit.mul(unit.splat(A * A), g2)));
        let even_b = unit.mul(scale_b, unit.add(g0, unit.mul(unit.splat(B * B), g2)));
        let odd_a = unit.mul(unit.splat(scale(A, B) * A), g1);
        let odd_b = unit.mul(unit.splat(scale(B, A) * B), g1);
        [
            unit.mul(unit.splat(1.0 / (A * A * B * B)), g0),
            unit.add(even_a, odd_a),
            unit.sub(even_a, odd_a),
            unit.add(even_b, odd_b),
            unit.sub(even_b, odd_b),
            g2,
        ]
    }
}

/// Factor of the rows of `G` for a point and its negative.
const fn scale(point: f32, other: f32) -> f32 {
    1.0 / (2.0 * point * point * (point * point - other * other))
}

/// `G^T s` along one axis, where the gradient of a kernel is transformed back.
#[inline(always)]
pub(super) unsafe fn kernel_gradient_column<U: Unit>(
    unit: U,
    [s0, s1, s2, s3, s4, s5]: [U::Float; SIDE],
) -> [U::Float; 3] {
    const A: f32 = Bf16::A;
    const B: f32 = Bf16::B;
    // SAFETY: the caller's promise.
    unsafe {
        let [scale_a, scale_b] = [unit.splat(scale(A, B)), unit.splat(scale(B, A))];
        let (even_a, even_b) = (unit.mul(scale_a, unit.add(s1, s2)), unit.mul(scale_b, unit.add(s3, s4)));
        let (odd_a, odd_b) = (unit.mul(scale_a, unit.sub(s1, s2)), unit.mul(scale_b, unit.sub(s3, s4)));
        let first = unit.splat(1.0 / (A * A * B * B));
        [
            unit.mul_add(first, s0, unit.add(even_a, even_b)),
            unit.mul_add(unit.splat(A), odd_a, unit.mul(unit.splat(B), odd_b)),
            unit.mul_add(unit.splat(A * A), even_a, unit.mul_add(unit.splat(B * B), even_b, s5)),
        ]
    }
}

/// `G g` along one axis, without the [`FRACTIONS`].
fn kernel_column_of_integers([g0, g1, g2]: [f32; 3]) -> [f32; SIDE] {
    let (even_a, even_b) = (g0 + g2, g0 + 4.0 * g2);
    [g0, even_a + g1, even_a - g1, even_b + 2.0 * g1, even_b - 2.0 * g1, g2]
}

/// Common fraction of each row of `G` for the points 0, ±1, ±2 and infinity.
const FRACTIONS: [f32; SIDE] = [1.0 / 4.0, -1.0 / 6.0, -1.0 / 6.0, 1.0 / 24.0, 1.0 / 24.0, 1.0];

/// Sums of the positive and of the negative factors in the rows of `B^T` for these points.
const REACH: [[i64; 2]; SIDE] = [[5, 5], [2, 8], [5, 5], [3, 3], [3, 3], [5, 5]];

/// The largest magnitude of a point of a tile of values from 0 to 255, or of their differences from one of these.
fn largest(point: usize) -> i64 {
    let [[p, n], [q, m]] = [REACH[point / SIDE], REACH[point % SIDE]];
    255 * (p * q + n * m).max(p * m + n * q)
}

/// Transforms `[3][3]` along both axes.
fn both_axes(kernel: &[f32], column: impl Fn([f32; 3]) -> [f32; SIDE]) -> [f32; POINTS] {
    let columns = [0, 1, 2].map(|b| column([kernel[b], kernel[3 + b], kernel[6 + b]]));
    let mut points = [0.0; POINTS];
    for a in 0..SIDE {
        points[a * SIDE..][..SIDE].copy_from_slice(&column(columns.map(|column| column[a])));
    }
    points
}

impl<F: Form> Kernels<F> {
    /// Kernels of which `transform` makes all points of an output channel, `[input channel][point]`, and their units.
    fn pack(
        channels: [usize; 2],
        transform: impl Fn(usize, &mut [[F::Right; POINTS]]) -> [f32; POINTS] + Sync,
    ) -> Self {
        let [channels_in, channels_out] = channels;
        let padded = channels_out.next_multiple_of(LANES);
        let mut values = vec![F::Right::default(); padded * POINTS * channels_in];
        let mut factors = vec![0f32; padded * POINTS];
        let (target, units) = (Disjoint::of(&mut values), Disjoint::of(&mut factors));
        for_each(padded.div_ceil(PANEL), |panel| {
            let first = panel * PANEL;
            let width = panel_width(padded, first);
            let mut points = vec![[F::Right::default(); POINTS]; channels_in];
            // SAFETY: each task has its panel of kernels.
            let (target, units) = unsafe { (target.part(), units.part()) };
            for out in first..channels_out.min(first + width) {
                let factors = transform(out, &mut points);
                for (point, factor) in factors.into_iter().enumerate() {
                    // SAFETY: the part has the value.
                    unsafe { units.at(point * padded + out, 1).write(factor) };
                }
                for (channel, points) in points.iter().enumerate() {
                    for (point, value) in points.iter().enumerate() {
                        let panel = first * POINTS * channels_in;
                        let point = point * channels_in * width;
                        let place = panel + point + channel / 2 * 2 * width + 2 * (out - first) + channel % 2;
                        // SAFETY: the part has the value.
                        unsafe { target.at(place, 1).write(*value) };
                    }
                }
            }
        });
        Self { values, channels, factors }
    }

    /// Returns the kernels of a panel and point.
    pub(super) fn at(&self, first: usize, width: usize, point: usize) -> *const u8 {
        let channels_in = self.channels[0];
        self.values[first * POINTS * channels_in + point * channels_in * width..].as_ptr().cast()
    }
}

/// 3×3 kernels in a weight.
#[derive(Clone, Copy)]
pub(in super::super) struct Taps<'a> {
    values: &'a [f32],
    /// Values from an input channel to the next, and from an output channel to the next.
    steps: [usize; 2],
    /// Whether the taps are read from the last to the first.
    turned: bool,
}

impl<'a> Taps<'a> {
    /// From `[output channel][input channel][3][3]`.
    pub fn new(values: &'a [f32], channels_in: usize) -> Self {
        Self { values, steps: [9, 9 * channels_in], turned: false }
    }

    /// Kernels of the gradient of the input, whose input channels are the output channels of the weight.
    pub fn turned(self) -> Self {
        let [input, output] = self.steps;
        Self { values: self.values, steps: [output, input], turned: !self.turned }
    }

    #[inline(always)]
    fn at(&self, input: usize, output: usize) -> [f32; 9] {
        let place = input * self.steps[0] + output * self.steps[1];
        let mut taps = [0.0; 9];
        taps.copy_from_slice(&self.values[place..place + 9]);
        if self.turned {
            taps.reverse();
        }
        taps
    }
}

impl Kernels<Bf16> {
    /// Transforms kernels of these input and output channels; input channels are a multiple of 16.
    pub fn new(kind: UnitKind, taps: Taps<'_>, channels: [usize; 2]) -> Self {
        let [channels_in, channels_out] = channels;
        let padded = channels_out.next_multiple_of(LANES);
        let mut values = vec![bf16::ZERO; padded * POINTS * channels_in];
        let target = Disjoint::of(&mut values);
        for_each(padded.div_ceil(PANEL), |panel| {
            // SAFETY: each task has its panel.
            let target = unsafe { target.part() };
            kind.dispatch(Transform { taps, channels, first: panel * PANEL, target });
        });
        Self { values, channels, factors: vec![1.0; padded * POINTS] }
    }
}

/// Transforms the kernels of a panel.
struct Transform<'a> {
    taps: Taps<'a>,
    channels: [usize; 2],
    /// The first output channel.
    first: usize,
    target: Part<'a, bf16>,
}

impl Task for Transform<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { taps, channels: [channels_in, channels_out], first, target } = self;
        let width = panel_width(channels_out.next_multiple_of(LANES), first);
        for register in (0..width).step_by(LANES) {
            for pair in 0..channels_in / 2 {
                let mut kernels = [[[0.0f32; LANES]; 9]; 2];
                for lane in 0..LANES.min(channels_out.saturating_sub(first + register)) {
                    for half in 0..2 {
                        let values = taps.at(2 * pair + half, first + register + lane);
                        for tap in 0..9 {
                            kernels[half][tap][lane] = values[tap];
                        }
                    }
                }
                // SAFETY: the arrays have a register's values, and the part a register's pairs.
                unsafe {
                    let mut halves = [[[unit.splat(0.0); 3]; SIDE]; 2];
                    for half in 0..2 {
                        for b in 0..3 {
                            let mut column = [unit.splat(0.0); 3];
                            for a in 0..3 {
                                column[a] = unit.load(kernels[half][3 * a + b].as_ptr());
                            }
                            let column = kernel_column(unit, column);
                            for a in 0..SIDE {
                                halves[half][a][b] = column[a];
                            }
                        }
                    }
                    for a in 0..SIDE {
                        let (even, odd) = (kernel_column(unit, halves[0][a]), kernel_column(unit, halves[1][a]));
                        for b in 0..SIDE {
                            let panel = (first * POINTS + (a * SIDE + b) * width) * channels_in;
                            let place = panel + 2 * (pair * width + register);
                            unit.store_pairs(even[b], odd[b], target.at(place, 2 * LANES));
                        }
                    }
                }
            }
        }
    }
}

impl Kernels<Shorts> {
    /// From `[output channel][input channel][3][3]`; input channels are a multiple of 16. An input channel's weights are
    /// multiplied with `units` of it, at most 1: what its activations' scale is in parts of the largest.
    pub fn of_integers(weight: &[i8], channels: [usize; 2], units: &[f32]) -> Self {
        let exact = units.iter().all(|unit| *unit == 1.0);
        Self::pack(channels, |out, points| {
            let kernels = weight[out * channels[0] * 9..][..channels[0] * 9].chunks_exact(9);
            let transformed: Vec<[f32; POINTS]> = kernels
                .zip(units)
                .map(|(kernel, unit)| {
                    let kernel: [f32; 9] = std::array::from_fn(|tap| f32::from(kernel[tap]));
                    both_axes(&kernel, kernel_column_of_integers).map(|value| value * unit)
                })
                .collect();
            std::array::from_fn(|point| {
                let magnitudes = || transformed.iter().map(|points| f64::from(points[point].abs()));
                let (most, sum) = (magnitudes().fold(0.0, f64::max), magnitudes().sum::<f64>());
                // Rounding adds at most a half to each.
                let fits = |bits: i32| {
                    let factor = f64::from(bits).exp2();
                    let total = sum * factor + transformed.len() as f64 / 2.0;
                    most * factor + 0.5 <= f64::from(i16::MAX) && total * largest(point) as f64 <= f64::from(i32::MAX)
                };
                // Integers need no bits after the point.
                let bits = (-24..=if exact { 0 } else { 12 }).rev().find(|bits| fits(*bits)).unwrap_or(-24);
                let factor = (bits as f32).exp2();
                for (points, transformed) in points.iter_mut().zip(&transformed) {
                    points[point] = (transformed[point] * factor).round_ties_even() as i16;
                }
                FRACTIONS[point / SIDE] * FRACTIONS[point % SIDE] / factor
            })
        })
    }
}
