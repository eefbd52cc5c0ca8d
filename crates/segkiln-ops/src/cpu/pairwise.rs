//! Functions of two tensors, value by value.

use std::mem::MaybeUninit;

use burn::backend::flex::FlexTensor;
use pulp::{Simd, WithSimd};

use super::{
    memory::{Memory, contiguous, values, written},
    simd::{self, Lanes},
    threads::for_each_chunk,
};

/// Values of a task: 128 KiB, so that a task takes some ten microseconds.
const BLOCK: usize = 1 << 15;

/// A function of two values.
pub(crate) trait Pairwise: Copy + Sync {
    /// Applies the function to each pair of values of two registers. Implementations are `#[inline(always)]`.
    fn apply<S: Simd>(self, x: Lanes<S>, y: Lanes<S>) -> Lanes<S>;
}

/// Applies `function` to two tensors of f32 of one shape, `[batch, channels, height, width]`.
pub(crate) fn pairwise(x: FlexTensor, y: FlexTensor, function: impl Pairwise) -> FlexTensor {
    let (x, y) = (x.to_contiguous(), contiguous(y));
    let shape: [usize; 4] = x.layout().shape().dims();
    assert_eq!(shape, y.layout().shape().dims::<4>(), "both tensors have one shape");
    let (x, y) = (values(&x), values(&y));
    let arch = simd::arch();
    // SAFETY: the chunks are all of the values, and each is written from its begin to its end.
    unsafe {
        written(shape, Memory::Pooled, |target| {
            for_each_chunk(target, BLOCK, |block, target| {
                let range = block * BLOCK..block * BLOCK + target.len();
                arch.dispatch(Block { x: &x[range.clone()], y: &y[range], function, target });
            });
        })
    }
}

/// Writes `function` of as many values as `target` has.
struct Block<'a, F> {
    x: &'a [f32],
    y: &'a [f32],
    function: F,
    target: &'a mut [MaybeUninit<f32>],
}

impl<F: Pairwise> WithSimd for Block<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, y, function, target } = self;
        assert!(x.len() == y.len() && x.len() == target.len());
        let target: *mut f32 = target.as_mut_ptr().cast();
        for at in (0..x.len()).step_by(S::F32_LANES) {
            let count = x.len() - at;
            // SAFETY: both inputs and the target have `count` values from here on.
            unsafe {
                let (x, y) = (x.as_ptr().add(at), y.as_ptr().add(at));
                if count >= S::F32_LANES {
                    function.apply(Lanes::load(simd, x), Lanes::load(simd, y)).store(target.add(at));
                } else {
                    let [x, y] = [x, y].map(|values| Lanes::load_first(simd, values, count));
                    function.apply(x, y).store_first(target.add(at), count);
                }
            }
        }
    }
}
