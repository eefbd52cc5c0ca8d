//! A block of values is a task.

use burn::backend::{Flex, flex::FlexTensor, tensor::FloatTensor};
use pulp::{Simd, WithSimd};

use super::{AddReluOps, backward, forward};
use crate::cpu::{
    memory::{Memory, Shared, all_f32, contiguous, written},
    simd::{self, Lanes},
    threads::for_each,
};

/// Values of a task.
const BLOCK: usize = 1 << 16;

impl AddReluOps for Flex {
    fn add_relu(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        if all_f32(&[&x, &y]) { combined::<false>(x.to_contiguous(), y.to_contiguous()) } else { forward::<Flex>(x, y) }
    }

    fn add_relu_backward(output: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if all_f32(&[&output, &grad]) {
            combined::<true>(output, contiguous(grad))
        } else {
            backward::<Flex>(output, grad)
        }
    }
}

/// The sum's positive part; or, if `MASK`, the second where the first is positive.
fn combined<const MASK: bool>(x: FlexTensor, y: FlexTensor) -> FlexTensor {
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
                arch.dispatch(Combine::<MASK> { x: &x[start..end], y: &y[start..end], target });
            });
        })
    }
}

struct Combine<'a, const MASK: bool> {
    x: &'a [f32],
    y: &'a [f32],
    target: Shared,
}

impl<const MASK: bool> WithSimd for Combine<'_, MASK> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, y, target } = self;
        let zero = Lanes::splat(simd, 0.0);
        let mut at = 0;
        while at + S::F32_LANES <= x.len() {
            // SAFETY: both summands and the target have a register's values here.
            unsafe {
                let (a, b) = (Lanes::load(simd, x.as_ptr().add(at)), Lanes::load(simd, y.as_ptr().add(at)));
                let value = if MASK {
                    Lanes(simd, simd.select_f32s(simd.greater_than_f32s(a.1, zero.1), b.1, zero.1))
                } else {
                    let sum = a + b;
                    // What is not a number stays so.
                    Lanes(simd, simd.select_f32s(simd.less_than_f32s(sum.1, zero.1), zero.1, sum.1))
                };
                value.store(target.at(at));
            }
            at += S::F32_LANES;
        }
        for at in at..x.len() {
            let sum = x[at] + y[at];
            let value = match MASK {
                true if x[at] > 0.0 => y[at],
                false if sum >= 0.0 || sum.is_nan() => sum,
                _ => 0.0,
            };
            // SAFETY: the target has as many values.
            unsafe { target.at(at).write(value) };
        }
    }
}
