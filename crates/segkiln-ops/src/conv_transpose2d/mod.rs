//! Two-dimensional transposed convolution, as PyTorch's `conv_transpose2d` computes it.
//!
//! On the CPU it is the gradient of [`conv2d`](mod@crate::conv2d)'s input; other backends compute with Burn's operators.

use burn::{
    backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor},
    tensor::{Tensor, ops::ConvTransposeOptions},
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// Computes the transposed convolution of `x` with `weight`, plus `bias`.
///
/// # Shapes
/// - `x`: `[batch, channels_in, height, width]`
/// - `weight`: `[channels_in, channels_out / groups, kernel_height, kernel_width]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, height', width']`
///
/// # Panics
/// If the shapes do not fit.
///
/// ```
/// use burn::tensor::{Device, Tensor, ops::ConvTransposeOptions};
/// use segkiln_ops::conv_transpose2d;
///
/// let device = Device::default();
/// let x = Tensor::<4>::from_floats([[[[1.0, 2.0]]]], &device);
/// let weight = Tensor::<4>::from_floats([[[[1.0, 10.0], [100.0, 1000.0]]]], &device);
/// let y = conv_transpose2d(x, weight, None, ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1));
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [1.0, 10.0, 2.0, 20.0, 100.0, 1000.0, 200.0, 2000.0]);
/// ```
pub fn conv_transpose2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvTransposeOptions<2>,
) -> Tensor<4> {
    let [_, channels_out, _, _] = weight.dims();
    let channels_out = channels_out * options.groups;
    let bias = bias.unwrap_or_else(|| Tensor::zeros([channels_out], (&x.device(), x.dtype())));
    assert_eq!(bias.dims(), [channels_out], "bias of {channels_out} channels");
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ConvTranspose2dOps>::convolve_transposed(x, weight, bias, options))
}

/// Backend operators behind [`conv_transpose2d`]; the defaults are Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait ConvTranspose2dOps: Backend {
    /// Transposed convolution plus `bias`.
    #[fusion(default)]
    fn convolve_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvTransposeOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv_transpose2d(x, weight, Some(bias), options)
    }

    /// Gradient of `x`; of `x` itself only the shape is used.
    #[fusion(default)]
    fn convolve_transposed_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvTransposeOptions<2>,
    ) -> FloatTensor<Self> {
        let _ = x;
        Self::conv_transpose2d_x_backward(weight, grad, options)
    }

    /// Gradient of the weight.
    #[fusion(default)]
    fn convolve_transposed_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvTransposeOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv_transpose2d_weight_backward(x, weight, grad, options)
    }

    /// Gradient of the bias.
    #[fusion(default)]
    fn convolve_transposed_bias_backward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::conv_transpose2d_bias_backward(x, bias, grad)
    }
}

#[cfg(test)]
mod tests;
