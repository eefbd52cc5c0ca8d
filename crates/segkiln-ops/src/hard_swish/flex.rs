//! A block of values is a task.

use burn::backend::{Flex, flex::FlexTensor, tensor::FloatTensor};
use pulp::{Simd, WithSimd};

use super::{HardSwishOps, backward, forward};
use crate::cpu::{
    memory::{Memory, Shared, all_f32, contiguous, written},
    simd::{self, Lanes},
    threads::for_each,
};

/// Values of a task.
const BLOCK: usize = 1 << 16;

impl HardSwishOps for Flex {
    fn hard_swish(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if all_f32(&[&x]) {
            let x = x.to_contiguous();
            computed::<false>(x.clone(), x)
        } else {
            forward::<Flex>(x)
        }
    }

    fn hard_swish_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if all_f32(&[&x, &grad]) {
            computed::<true>(x.to_contiguous(), contiguous(grad))
        } else {
            backward::<Flex>(x, grad)
        }
    }
}

/// The activation; or, if `SLOPE`, the second times the slope at the first.
fn computed<const SLOPE: bool>(x: FlexTensor, y: FlexTensor) -> FlexTensor {
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
                let start = block * BLOCK;
                let end = len.min(start + BLOCK);
                let target = Shared(target.at(start));
                arch.dispatch(Compute::<SLOPE> { x: &x[start..end], y: &y[start..end], target });
            });
        })
    }
}

struct Compute<'a, const SLOPE: bool> {
    x: &'a [f32],
    y: &'a [f32],
    target: Shared,
}

impl<const SLOPE: bool> WithSimd for Compute<'_, SLOPE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, y, target } = self;
        let [zero, one, three, six] = [0.0, 1.0, 3.0, 6.0].map(|value| Lanes::splat(simd, value));
        let half = Lanes::splat(simd, 0.5);
        let mut at = 0;
        while at + S::F32_LANES <= x.len() {
            // SAFETY: both inputs and the target have a register's values here.
            unsafe {
                let (a, b) = (Lanes::load(simd, x.as_ptr().add(at)), Lanes::load(simd, y.as_ptr().add(at)));
                let factor = if SLOPE {
                    let inner = a * (1.0 / 3.0) + half;
                    let low = simd.less_than_or_equal_f32s(a.1, (zero - three).1);
                    let high = simd.greater_than_or_equal_f32s(a.1, three.1);
                    let slope = simd.select_f32s(low, zero.1, inner.1);
                    Lanes(simd, simd.select_f32s(high, one.1, slope))
                } else {
                    (a + three).max(zero).min(six) * (1.0 / 6.0)
                };
                Lanes(simd, simd.mul_f32s(b.1, factor.1)).store(target.at(at));
            }
            at += S::F32_LANES;
        }
        for at in at..x.len() {
            let factor = match SLOPE {
                true if x[at] <= -3.0 => 0.0,
                true if x[at] >= 3.0 => 1.0,
                true => x[at] * (1.0 / 3.0) + 0.5,
                false => (x[at] + 3.0).clamp(0.0, 6.0) * (1.0 / 6.0),
            };
            // SAFETY: the target has as many values.
            unsafe { target.at(at).write(y[at] * factor) };
        }
    }
}
