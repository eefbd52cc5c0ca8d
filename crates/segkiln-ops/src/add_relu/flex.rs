use burn::backend::{Flex, tensor::FloatTensor};
use pulp::Simd;

use super::{AddReluOps, backward, forward};
use crate::cpu::{
    memory::all_f32,
    pairwise::{Pairwise, pairwise},
    simd::Lanes,
};

impl AddReluOps for Flex {
    fn add_relu(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        if all_f32(&[&x, &y]) { pairwise(x, y, AddRelu::<false>) } else { forward::<Flex>(x, y) }
    }

    fn add_relu_backward(output: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if all_f32(&[&output, &grad]) {
            pairwise(output, grad, AddRelu::<true>)
        } else {
            backward::<Flex>(output, grad)
        }
    }
}

/// `max(x + y, 0)`; or, with `MASK`, `y` where `x` is positive.
#[derive(Clone, Copy)]
struct AddRelu<const MASK: bool>;

impl<const MASK: bool> Pairwise for AddRelu<MASK> {
    #[inline(always)]
    fn apply<S: Simd>(self, x: Lanes<S>, y: Lanes<S>) -> Lanes<S> {
        let simd = x.0;
        let zero = Lanes::splat(simd, 0.0);
        if MASK {
            return Lanes(simd, simd.select_f32s(simd.greater_than_f32s(x.1, zero.1), y.1, zero.1));
        }
        // NaN stays NaN.
        (x + y).max(zero)
    }
}
