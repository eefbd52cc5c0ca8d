use burn::backend::{Flex, flex::FlexTensor, tensor::FloatTensor};
use pulp::Simd;

use super::{Gate, GatedOps, backward, forward};
use crate::cpu::{
    memory::all_f32,
    pairwise::{Pairwise, pairwise},
    simd::Lanes,
};

impl GatedOps for Flex {
    fn gated(x: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return forward::<Flex>(x, gate);
        }
        let x = x.to_contiguous();
        computed::<false>(x.clone(), x, gate)
    }

    fn gated_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self> {
        if all_f32(&[&x, &grad]) { computed::<true>(x, grad, gate) } else { backward::<Flex>(x, grad, gate) }
    }
}

/// Computes `y · g(x)`; or, with `SLOPE`, `y` times the derivative of `x · g(x)`.
fn computed<const SLOPE: bool>(x: FlexTensor, y: FlexTensor, gate: Gate) -> FlexTensor {
    match gate {
        Gate::HardSwish => pairwise(x, y, HardSwish::<SLOPE>),
        Gate::Silu => pairwise(x, y, Silu::<SLOPE>),
        Gate::Gelu => pairwise(x, y, Gelu::<SLOPE>),
    }
}

#[derive(Clone, Copy)]
struct HardSwish<const SLOPE: bool>;

impl<const SLOPE: bool> Pairwise for HardSwish<SLOPE> {
    #[inline(always)]
    fn apply<S: Simd>(self, x: Lanes<S>, y: Lanes<S>) -> Lanes<S> {
        let simd = x.0;
        let [zero, half, one, three, six] = [0.0, 0.5, 1.0, 3.0, 6.0].map(|value| Lanes::splat(simd, value));
        if !SLOPE {
            return y.times((x + three).max(zero).min(six) * (1.0 / 6.0));
        }
        let low = simd.less_than_or_equal_f32s(x.1, (zero - three).1);
        let high = simd.greater_than_or_equal_f32s(x.1, three.1);
        let slope = simd.select_f32s(low, zero.1, x.scaled_plus(1.0 / 3.0, half).1);
        y.times(Lanes(simd, simd.select_f32s(high, one.1, slope)))
    }
}

#[derive(Clone, Copy)]
struct Silu<const SLOPE: bool>;

impl<const SLOPE: bool> Pairwise for Silu<SLOPE> {
    #[inline(always)]
    fn apply<S: Simd>(self, x: Lanes<S>, y: Lanes<S>) -> Lanes<S> {
        let simd = x.0;
        let [zero, one] = [0.0, 1.0].map(|value| Lanes::splat(simd, value));
        // e^-|x| is at most 1, so it cannot overflow.
        let small = (zero - Lanes(simd, simd.abs_f32s(x.1))).exp();
        let upper = one.over(one + small);
        let below = simd.less_than_f32s(x.1, zero.1);
        let sigmoid = Lanes(simd, simd.select_f32s(below, small.times(upper).1, upper.1));
        y.times(if SLOPE { sigmoid.times(x.mul_add(one - sigmoid, one)) } else { sigmoid })
    }
}

#[derive(Clone, Copy)]
struct Gelu<const SLOPE: bool>;

impl<const SLOPE: bool> Pairwise for Gelu<SLOPE> {
    #[inline(always)]
    fn apply<S: Simd>(self, x: Lanes<S>, y: Lanes<S>) -> Lanes<S> {
        // Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26: the tail of the error function to 1.5e-7.
        const FACTOR: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
        const SERIES: [f32; 5] = [1.061_405_4, -1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6];
        let simd = x.0;
        let [zero, one] = [0.0, 1.0].map(|value| Lanes::splat(simd, value));
        let t = one.over(Lanes(simd, simd.abs_f32s(x.1)).scaled_plus(FACTOR, one));
        let mut sum = zero;
        for coefficient in SERIES {
            sum = sum.mul_add(t, Lanes::splat(simd, coefficient));
        }
        let density = (x.times(x) * -0.5).exp();
        let tail = sum.times(t).times(density) * 0.5;
        let below = simd.less_than_f32s(x.1, zero.1);
        let gate = Lanes(simd, simd.select_f32s(below, tail.1, (one - tail).1));
        // The density is this times `1 / √(2π)`.
        y.times(if SLOPE { x.times(density).scaled_plus(0.398_942_3, gate) } else { gate })
    }
}
