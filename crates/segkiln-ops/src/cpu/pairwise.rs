//! Functions of the values of two tensors, pair by pair.

use burn::backend::flex::FlexTensor;
use pulp::{Simd, WithSimd};

use super::{
    memory::{Memory, Shared, contiguous, written},
    simd::{self, Lanes},
    threads::for_each,
};

/// Values of a task.
const BLOCK: usize = 1 << 15;

/// A function of two values.
pub(crate) trait Pairwise: Copy + Sync {
    /// Of each pair in two registers; to be inlined always.
    fn apply<S: Simd>(self, x: Lanes<S>, y: Lanes<S>) -> Lanes<S>;
}

/// `function` of two tensors of f32 of one shape.
pub(crate) fn pairwise(x: FlexTensor, y: FlexTensor, function: impl Pairwise) -> FlexTensor {
    let (x, y) = (x.to_contiguous(), contiguous(y));
    let shape: [usize; 4] = x.layout().shape().dims();
    let (x, y): (&[f32], &[f32]) = (x.storage(), y.storage());
    let len = x.len();
    assert_eq!(len, y.len());
    let arch = simd::arch();
    // SAFETY: the blocks are all of the values, and each has its own.
    unsafe {
        written(shape, Memory::Pooled, |target| {
            for_each(len.div_ceil(BLOCK), |block| {
                let range = block * BLOCK..len.min((block + 1) * BLOCK);
                let target = Shared(target.at(range.start));
                arch.dispatch(Block { x: &x[range.clone()], y: &y[range], function, target });
            });
        })
    }
}

struct Block<'a, F> {
    x: &'a [f32],
    y: &'a [f32],
    function: F,
    target: Shared,
}

impl<F: Pairwise> WithSimd for Block<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, y, function, target } = self;
        for at in (0..x.len()).step_by(S::F32_LANES) {
            let count = x.len() - at;
            // SAFETY: both inputs and the target have a register's values here, or `count`.
            unsafe {
                let (x, y) = (x.as_ptr().add(at), y.as_ptr().add(at));
                if count >= S::F32_LANES {
                    function.apply(Lanes::load(simd, x), Lanes::load(simd, y)).store(target.at(at));
                } else {
                    let [x, y] = [x, y].map(|values| Lanes::load_first(simd, values, count));
                    function.apply(x, y).store_first(target.at(at), count);
                }
            }
        }
    }
}
