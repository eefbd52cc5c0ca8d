//! A block of values is a task.

use burn::backend::{Flex, flex::FlexTensor, tensor::FloatTensor};
use pulp::{Simd, WithSimd};

use super::{Gate, GatedOps, backward, forward};
use crate::cpu::{
    memory::{Memory, Shared, all_f32, contiguous, written},
    simd::{self, Lanes},
    threads::for_each,
};

/// Values of a task.
const BLOCK: usize = 1 << 15;

impl GatedOps for Flex {
    fn gated(x: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self> {
        if all_f32(&[&x]) {
            let x = x.to_contiguous();
            computed::<false>(x.clone(), x, gate)
        } else {
            forward::<Flex>(x, gate)
        }
    }

    fn gated_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self> {
        if all_f32(&[&x, &grad]) {
            computed::<true>(x.to_contiguous(), contiguous(grad), gate)
        } else {
            backward::<Flex>(x, grad, gate)
        }
    }
}

/// The activation; or, if `SLOPE`, the second times the slope at the first.
fn computed<const SLOPE: bool>(x: FlexTensor, y: FlexTensor, gate: Gate) -> FlexTensor {
    let shape: [usize; 4] = x.layout().shape().dims();
    let len = shape.iter().product::<usize>();
    let (x, y): (&[f32], &[f32]) =
        (&x.storage()[x.layout().start_offset()..], &y.storage()[y.layout().start_offset()..]);
    let (x, y) = (&x[..len], &y[..len]);
    let arch = simd::arch();
    // SAFETY: the blocks are all of the values, and each has its own.
    unsafe {
        written(shape, Memory::Pooled, |target| {
            for_each(len.div_ceil(BLOCK), |block| {
                let range = block * BLOCK..len.min((block + 1) * BLOCK);
                let target = Shared(target.at(range.start));
                let (x, y) = (&x[range.clone()], &y[range]);
                match gate {
                    Gate::HardSwish => arch.dispatch(Compute::<0, SLOPE> { x, y, target }),
                    Gate::Silu => arch.dispatch(Compute::<1, SLOPE> { x, y, target }),
                    Gate::Gelu => arch.dispatch(Compute::<2, SLOPE> { x, y, target }),
                }
            });
        })
    }
}

/// `GATE` is the [`Gate`]'s number.
struct Compute<'a, const GATE: u8, const SLOPE: bool> {
    x: &'a [f32],
    y: &'a [f32],
    target: Shared,
}

impl<const GATE: u8, const SLOPE: bool> WithSimd for Compute<'_, GATE, SLOPE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, y, target } = self;
        for at in (0..x.len()).step_by(S::F32_LANES) {
            let count = x.len() - at;
            // SAFETY: both inputs and the target have a register's values here, or `count`.
            unsafe {
                let (x, y) = (x.as_ptr().add(at), y.as_ptr().add(at));
                if count >= S::F32_LANES {
                    let factor = factor::<S, GATE, SLOPE>(Lanes::load(simd, x));
                    Lanes::load(simd, y).times(factor).store(target.at(at));
                } else {
                    let factor = factor::<S, GATE, SLOPE>(Lanes::load_first(simd, x, count));
                    Lanes::load_first(simd, y, count).times(factor).store_first(target.at(at), count);
                }
            }
        }
    }
}

/// The gate, or the slope of `x` times the gate.
#[inline(always)]
fn factor<S: Simd, const GATE: u8, const SLOPE: bool>(x: Lanes<S>) -> Lanes<S> {
    let simd = x.0;
    let splat = |value| Lanes::splat(simd, value);
    let (zero, one) = (splat(0.0), splat(1.0));
    match GATE {
        0 if SLOPE => {
            let low = simd.less_than_or_equal_f32s(x.1, splat(-3.0).1);
            let high = simd.greater_than_or_equal_f32s(x.1, splat(3.0).1);
            let slope = simd.select_f32s(low, zero.1, x.scaled_plus(1.0 / 3.0, splat(0.5)).1);
            Lanes(simd, simd.select_f32s(high, one.1, slope))
        }
        0 => (x + splat(3.0)).max(zero).min(splat(6.0)) * (1.0 / 6.0),
        1 => {
            // Of the exponential that is no more than 1: that becomes 0 where it should.
            let small = (zero - Lanes(simd, simd.abs_f32s(x.1))).exp();
            let upper = one.over(one + small);
            let below = simd.less_than_f32s(x.1, zero.1);
            let sigmoid = Lanes(simd, simd.select_f32s(below, small.times(upper).1, upper.1));
            if SLOPE { sigmoid.times(x.mul_add(one - sigmoid, one)) } else { sigmoid }
        }
        _ => {
            // Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26: the tail of the error function to 1.5e-7.
            const FACTOR: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
            const SERIES: [f32; 5] = [1.061_405_4, -1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6];
            let t = one.over(Lanes(simd, simd.abs_f32s(x.1)).scaled_plus(FACTOR, one));
            let mut sum = zero;
            for coefficient in SERIES {
                sum = sum.mul_add(t, splat(coefficient));
            }
            let density = (x.times(x) * -0.5).exp();
            let tail = sum.times(t).times(density) * 0.5;
            let below = simd.less_than_f32s(x.1, zero.1);
            let gate = Lanes(simd, simd.select_f32s(below, tail.1, (one - tail).1));
            // The density is this times `1 / √(2π)`.
            if SLOPE { x.times(density).scaled_plus(0.398_942_3, gate) } else { gate }
        }
    }
}
