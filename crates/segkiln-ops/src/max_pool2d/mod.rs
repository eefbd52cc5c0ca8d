//! Two-dimensional max pooling, as PyTorch's `max_pool2d` computes it.
//!
//! On the CPU, pooling with windows of 2×2 side by side has kernels of its own, which find the largest value again in the backward
//! pass and store no indices. All other pooling is Burn's.

use burn::{
    backend::{Backend, Dispatch, TensorMetadata, backend_extension, get_device_settings, tensor::FloatTensor},
    tensor::{Tensor, ops::MaxPoolOptions},
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// Returns the largest value of each window. Of equal values, the first one row by row gets the gradient.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - output: `[batch, channels, height', width']`
///
/// ```
/// use burn::tensor::{Device, Tensor, ops::MaxPoolOptions};
/// use segkiln_ops::max_pool2d;
///
/// let x = Tensor::<4>::from_floats([[[[1.0, 2.0, 0.0], [4.0, 3.0, 9.0]]]], &Device::default());
/// let y = max_pool2d(x, MaxPoolOptions::new([2, 2]));
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [4.0]);
/// ```
pub fn max_pool2d(x: Tensor<4>, options: MaxPoolOptions<2>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if is_2x2(&options) && height >= 2 && width >= 2 {
        Tensor::from_dispatch(<Dispatch as MaxPool2dOps>::max_pool_2x2(x.into_dispatch()))
    } else {
        burn::tensor::module::max_pool2d(x, options)
    }
}

/// Returns whether windows are 2×2 side by side, without padding; an odd last row or column is dropped then.
fn is_2x2(options: &MaxPoolOptions<2>) -> bool {
    let MaxPoolOptions { kernel_size, stride, padding, dilation, ceil_mode } = options;
    *kernel_size == [2, 2] && *stride == [2, 2] && *padding == [(0, 0); 2] && *dilation == [1, 1] && !ceil_mode
}

/// Backend operators behind [`max_pool2d`]; the defaults are Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait MaxPool2dOps: Backend {
    /// Max pooling with windows of 2×2 side by side.
    #[fusion(default)]
    fn max_pool_2x2(x: FloatTensor<Self>) -> FloatTensor<Self> {
        forward::<Self>(x)
    }

    /// Gradient of `x`.
    #[fusion(default)]
    fn max_pool_2x2_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        backward::<Self>(x, grad)
    }
}

/// [`MaxPool2dOps::max_pool_2x2`] with Burn's operators.
fn forward<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::max_pool2d(x, [2, 2], [2, 2], [0, 0], [1, 1], false)
}

/// [`MaxPool2dOps::max_pool_2x2_backward`] with Burn's operators.
fn backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let kind = get_device_settings::<B>(&x.device()).int_dtype;
    let pooled = B::max_pool2d_with_indices(x.clone(), [2, 2], [2, 2], [0, 0], [1, 1], false, kind);
    B::max_pool2d_with_indices_backward(x, [2, 2], [2, 2], [0, 0], [1, 1], false, grad, pooled.indices).x_grad
}

#[cfg(test)]
mod tests;
