//! Hard swish in one pass: the activation of MobileNetV3.
//!
//! Burn computes it in four passes on one thread of the CPU, which for LR-ASPP is a third of the whole.

use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        ops::{ActivationOps, FloatTensorOps},
        tensor::FloatTensor,
    },
    tensor::{Shape, Tensor},
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// `x · min(max(x + 3, 0), 6) / 6`: Howard et al., "Searching for MobileNetV3", ICCV 2019, <https://arxiv.org/abs/1905.02244>.
///
/// # Shapes
/// Any → the same
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::hard_swish;
///
/// let x = Tensor::<1>::from_floats([-4.0, -1.5, 0.0, 3.0, 5.0], &Device::default());
/// assert_eq!(hard_swish(x).into_data().try_to_vec::<f32>().unwrap(), [0.0, -0.375, 0.0, 3.0, 5.0]);
/// ```
pub fn hard_swish<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let shape: Shape = x.shape();
    // A 0 in a reshape means another thing to Burn.
    if shape.num_elements() == 0 {
        return x;
    }
    let values = x.reshape([1, 1, 1, shape.num_elements()]);
    let y: Tensor<4> = Tensor::from_dispatch(<Dispatch as HardSwishOps>::hard_swish(values.into_dispatch()));
    y.reshape(shape)
}

/// What a backend provides for [`hard_swish`]; where it provides nothing, Burn's operators are used.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait HardSwishOps: Backend {
    /// Of each value.
    #[fusion(default)]
    fn hard_swish(x: FloatTensor<Self>) -> FloatTensor<Self> {
        forward::<Self>(x)
    }

    /// The gradient of `x`: `grad` times 0 up to -3, times 1 from 3 on, between them times `x / 3 + 1 / 2`.
    #[fusion(default)]
    fn hard_swish_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        backward::<Self>(x, grad)
    }
}

/// `min(max(x + 3, 0), 6) / 6`
fn gate<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let gate = <B as FloatTensorOps<B>>::float_add_scalar(x, 3.0.into());
    let gate = <B as FloatTensorOps<B>>::float_clamp(gate, 0.0.into(), 6.0.into());
    <B as FloatTensorOps<B>>::float_div_scalar(gate, 6.0.into())
}

/// [`HardSwishOps::hard_swish`] with Burn's operators.
fn forward<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    <B as FloatTensorOps<B>>::float_mul(x.clone(), gate::<B>(x))
}

/// [`HardSwishOps::hard_swish_backward`] with Burn's operators: of a product, one factor at a time.
fn backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let of_factor = <B as FloatTensorOps<B>>::float_mul(grad.clone(), gate::<B>(x.clone()));
    // Where -3 < x < 3, the gate has a slope.
    let above = <B as FloatTensorOps<B>>::float_add_scalar(x.clone(), 3.0.into());
    let below = <B as FloatTensorOps<B>>::float_neg(<B as FloatTensorOps<B>>::float_sub_scalar(x.clone(), 3.0.into()));
    let inside = <B as ActivationOps<B>>::relu_backward(below, <B as ActivationOps<B>>::relu_backward(above, grad));
    let of_gate =
        <B as FloatTensorOps<B>>::float_div_scalar(<B as FloatTensorOps<B>>::float_mul(inside, x), 6.0.into());
    <B as FloatTensorOps<B>>::float_add(of_factor, of_gate)
}

#[cfg(test)]
mod tests;
