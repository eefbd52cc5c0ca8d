//! Layer normalization of each pixel's channels: Ba et al., "Layer Normalization", 2016, <https://arxiv.org/abs/1607.06450>; as
//! ConvNeXt and SegFormer have it.
//!
//! Burn normalizes the last axis, so that maps are turned round before and after. On the CPU blocks of pixels are read where they
//! lie and normalized in the cache. Other backends, and networks whose gradients are tracked, compute with Burn's operators.

use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        ops::{FloatTensorOps, ModuleOps},
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

/// Computes `γ · (x − mean) / √(variance + ε) + β` with mean and biased variance of each pixel's channels.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`, and so is the output
/// - `gamma`, `beta`: `[channels]`
///
/// # Panics
/// If the shapes do not fit.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::layer_norm2d;
///
/// let device = Device::default();
/// let x = Tensor::<4>::from_floats([[[[1.0]], [[3.0]]]], &device);
/// let y = layer_norm2d(x, Tensor::ones([2], &device), Tensor::zeros([2], &device), 0.0);
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [-1.0, 1.0]);
/// ```
pub fn layer_norm2d(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<4> {
    let channels = x.dims()[1];
    assert_eq!(gamma.dims(), [channels], "gamma of {channels} channels");
    assert_eq!(beta.dims(), [channels], "beta of {channels} channels");
    let (x, gamma, beta) = (x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch());
    Tensor::from_dispatch(<Dispatch as LayerNorm2dOps>::layer_norm2d(x, gamma, beta, epsilon))
}

/// Backend operator behind [`layer_norm2d`]; the default is Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait LayerNorm2dOps: Backend {
    /// The normalized map.
    #[fusion(default)]
    fn layer_norm2d(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        forward::<Self>(x, gamma, beta, epsilon)
    }
}

/// [`LayerNorm2dOps::layer_norm2d`] with Burn's operators.
fn forward<B: Backend>(x: FloatTensor<B>, gamma: FloatTensor<B>, beta: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    let x = <B as FloatTensorOps<B>>::float_permute(x, &[0, 2, 3, 1]);
    let y = <B as ModuleOps<B>>::layer_norm(x, gamma, Some(beta), epsilon);
    <B as FloatTensorOps<B>>::float_permute(y, &[0, 3, 1, 2])
}

#[cfg(test)]
mod tests;
