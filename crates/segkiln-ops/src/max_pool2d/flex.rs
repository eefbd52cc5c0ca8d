//! A plane (one channel of one image) is a task.

use std::mem::MaybeUninit;

use burn::backend::{Flex, tensor::FloatTensor};
use pulp::{Simd, WithSimd};

use super::{MaxPool2dOps, backward, forward};
use crate::cpu::{
    memory::{Memory, all_f32, contiguous, values, written},
    simd::{self, Lanes},
    threads::for_each_chunk,
};

impl MaxPool2dOps for Flex {
    fn max_pool_2x2(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x]) {
            return forward::<Flex>(x);
        }
        let x = x.to_contiguous();
        let [batch, channels, height, width] = x.layout().shape().dims();
        let (x, arch, len) = (values(&x), simd::arch(), height * width);
        // SAFETY: the chunks are all planes, and each is written from its begin to its end.
        unsafe {
            written([batch, channels, height / 2, width / 2], Memory::Pooled, |target| {
                for_each_chunk(target, (height / 2) * (width / 2), |plane, target| {
                    arch.dispatch(MaxPool { x: &x[plane * len..][..len], size: [height, width], target });
                });
            })
        }
    }

    fn max_pool_2x2_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x, &grad]) {
            return backward::<Flex>(x, grad);
        }
        let (x, grad) = (x.to_contiguous(), contiguous(grad));
        let [batch, channels, height, width] = x.layout().shape().dims();
        let shape = [batch, channels, height / 2, width / 2];
        assert_eq!(grad.layout().shape().dims::<4>(), shape, "the gradient's shape is not the output's");
        let (x, grad, arch) = (values(&x), values(&grad), simd::arch());
        let (len, pooled_len) = (height * width, (height / 2) * (width / 2));
        // SAFETY: the chunks are all planes, and each is written from its begin to its end.
        unsafe {
            written([batch, channels, height, width], Memory::Allocated, |target| {
                for_each_chunk(target, len, |plane, target| {
                    let (x, grad) = (&x[plane * len..][..len], &grad[plane * pooled_len..][..pooled_len]);
                    arch.dispatch(MaxPoolBackward { x, grad, size: [height, width], target });
                });
            })
        }
    }
}

/// Loads the four values of each of a register's windows, row by row.
///
/// # Safety
/// Two registers' values can be read from both rows.
#[inline(always)]
unsafe fn windows<S: Simd>(simd: S, upper: *const f32, lower: *const f32) -> [Lanes<S>; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b] = Lanes::load(simd, upper).unzip(Lanes::load(simd, upper.add(S::F32_LANES)));
        let [c, d] = Lanes::load(simd, lower).unzip(Lanes::load(simd, lower.add(S::F32_LANES)));
        [a, b, c, d]
    }
}

/// Returns whether `next` replaces the largest value so far: it is larger, or NaN.
#[inline(always)]
fn is_larger<S: Simd>(next: Lanes<S>, largest: Lanes<S>) -> S::m32s {
    let simd = next.0;
    simd.or_m32s(simd.greater_than_f32s(next.1, largest.1), simd.not_m32s(simd.equal_f32s(next.1, next.1)))
}

/// The largest values of one plane's windows.
struct MaxPool<'a> {
    x: &'a [f32],
    /// Height and width of the plane.
    size: [usize; 2],
    target: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for MaxPool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, size: [height, width], target } = self;
        let columns = width / 2;
        for row in 0..height / 2 {
            let (upper, lower) = (&x[2 * row * width..][..width], &x[(2 * row + 1) * width..][..width]);
            let target = &mut target[row * columns..][..columns];
            let mut column = 0;
            while column + S::F32_LANES <= columns {
                // SAFETY: both rows have two values for each of these columns, and the target one.
                unsafe {
                    let [mut largest, b, c, d] =
                        windows(simd, upper.as_ptr().add(2 * column), lower.as_ptr().add(2 * column));
                    for next in [b, c, d] {
                        largest = Lanes(simd, simd.select_f32s(is_larger(next, largest), next.1, largest.1));
                    }
                    largest.store(target.as_mut_ptr().cast::<f32>().add(column));
                }
                column += S::F32_LANES;
            }
            for column in column..columns {
                let mut largest = upper[2 * column];
                for next in [upper[2 * column + 1], lower[2 * column], lower[2 * column + 1]] {
                    if next > largest || next.is_nan() {
                        largest = next;
                    }
                }
                target[column].write(largest);
            }
        }
    }
}

/// The gradient of one plane.
struct MaxPoolBackward<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    /// Height and width of the plane.
    size: [usize; 2],
    target: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for MaxPoolBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, grad, size: [height, width], target } = self;
        let columns = width / 2;
        let zero = Lanes::splat(simd, 0.0);
        for row in 0..height / 2 {
            let (upper, lower) = (&x[2 * row * width..][..width], &x[(2 * row + 1) * width..][..width]);
            let (upper_target, lower_target) = target[2 * row * width..][..2 * width].split_at_mut(width);
            let grad = &grad[row * columns..][..columns];
            let mut column = 0;
            while column + S::F32_LANES <= columns {
                // SAFETY: all rows have two values for each of these columns, and the gradient one.
                unsafe {
                    let [a, b, c, d] = windows(simd, upper.as_ptr().add(2 * column), lower.as_ptr().add(2 * column));
                    let grad = Lanes::load(simd, grad.as_ptr().add(column));
                    let pick = |mask, yes: Lanes<S>, no: Lanes<S>| Lanes(simd, simd.select_f32s(mask, yes.1, no.1));
                    // Each candidate in turn takes the gradient from those before.
                    let take_b = is_larger(b, a);
                    let largest = pick(take_b, b, a);
                    let take_c = is_larger(c, largest);
                    let largest = pick(take_c, c, largest);
                    let take_d = is_larger(d, largest);
                    let grad_d = pick(take_d, grad, zero);
                    let rest = pick(take_d, zero, grad);
                    let grad_c = pick(take_c, rest, zero);
                    let rest = pick(take_c, zero, rest);
                    let grad_b = pick(take_b, rest, zero);
                    let grad_a = pick(take_b, zero, rest);
                    let (upper, lower): (*mut f32, *mut f32) =
                        (upper_target.as_mut_ptr().cast(), lower_target.as_mut_ptr().cast());
                    for (pair, target) in [(grad_a.zip(grad_b), upper), (grad_c.zip(grad_d), lower)] {
                        pair[0].store(target.add(2 * column));
                        pair[1].store(target.add(2 * column + S::F32_LANES));
                    }
                }
                column += S::F32_LANES;
            }
            for column in column..columns {
                let window = [upper[2 * column], upper[2 * column + 1], lower[2 * column], lower[2 * column + 1]];
                let mut largest = 0;
                for next in 1..4 {
                    if window[next] > window[largest] || window[next].is_nan() {
                        largest = next;
                    }
                }
                let mut values = [0.0; 4];
                values[largest] = grad[column];
                upper_target[2 * column..][..2].write_copy_of_slice(&values[..2]);
                lower_target[2 * column..][..2].write_copy_of_slice(&values[2..]);
            }
            if width % 2 == 1 {
                upper_target[width - 1].write(0.0);
                lower_target[width - 1].write(0.0);
            }
        }
        if height % 2 == 1 {
            target[(height - 1) * width..].fill(MaybeUninit::new(0.0));
        }
    }
}
