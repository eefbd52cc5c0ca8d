//! Sum and ReLU in one pass: the end of a residual block.
//!
//! Burn computes them in two passes on one thread of the CPU, which took a tenth of a ResNet's time.

use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        ops::{ActivationOps, FloatTensorOps},
        tensor::FloatTensor,
    },
    tensor::Tensor,
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// `max(x + y, 0)`.
///
/// # Shapes
/// `x` and `y` have one shape, `[batch, channels, height, width]`, and so has the output.
///
/// # Panics
/// If the shapes differ.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::add_relu;
///
/// let device = Device::default();
/// let x = Tensor::<4>::from_floats([[[[1.0, -3.0]]]], &device);
/// let y = Tensor::<4>::from_floats([[[[1.0, 2.0]]]], &device);
/// assert_eq!(add_relu(x, y).into_data().try_to_vec::<f32>().unwrap(), [2.0, 0.0]);
/// ```
pub fn add_relu(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    assert_eq!(x.dims(), y.dims(), "both summands have one shape");
    Tensor::from_dispatch(<Dispatch as AddReluOps>::add_relu(x.into_dispatch(), y.into_dispatch()))
}

/// Backend operators behind [`add_relu`]; the defaults are Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait AddReluOps: Backend {
    /// `max(x + y, 0)`
    #[fusion(default)]
    fn add_relu(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        forward::<Self>(x, y)
    }

    /// Gradient of either summand: `grad` where the output is above 0.
    #[fusion(default)]
    fn add_relu_backward(output: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        backward::<Self>(output, grad)
    }
}

/// [`AddReluOps::add_relu`] with Burn's operators.
fn forward<B: Backend>(x: FloatTensor<B>, y: FloatTensor<B>) -> FloatTensor<B> {
    <B as ActivationOps<B>>::relu(<B as FloatTensorOps<B>>::float_add(x, y))
}

/// [`AddReluOps::add_relu_backward`] with Burn's operators.
fn backward<B: Backend>(output: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    <B as ActivationOps<B>>::relu_backward(output, grad)
}

#[cfg(test)]
mod tests;
