//! Three-dimensional convolution, as PyTorch's `conv3d` computes it.
//!
//! On the CPU a volume lies in memory slice by slice, `[batch, depth, channels, height, width]`, and is handed out as a view of the
//! usual shape. As many neighboring slices as the kernel is deep are then the channels of one image, and the next image begins
//! one slice later: the convolution is that of [`conv2d`](mod@crate::conv2d) on images that overlap, by the same methods and
//! without a copy. Other backends compute with Burn's operators.

use burn::{
    backend::{Backend, Dispatch, backend_extension, ops::ModuleOps, tensor::FloatTensor},
    tensor::{Tensor, ops::ConvOptions},
};

use crate::conv2d::affine;

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// Convolves `x` with `weight` and adds `bias`.
///
/// # Shapes
/// - `x`: `[batch, channels_in, depth, height, width]`
/// - `weight`: `[channels_out, channels_in / groups, kernel_depth, kernel_height, kernel_width]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, depth', height', width']`
///
/// # Panics
/// If the shapes do not fit, or the kernel is larger than the padded input.
///
/// ```
/// use burn::tensor::{Device, Tensor, ops::ConvOptions};
/// use segkiln_ops::conv3d;
///
/// let device = Device::default();
/// let x = Tensor::<5>::ones([1, 2, 4, 5, 5], &device);
/// let weight = Tensor::<5>::ones([1, 2, 3, 3, 3], &device);
/// let y = conv3d(x, weight, None, ConvOptions::new([1; 3], [0; 3], [1; 3], 1));
/// assert_eq!(y.dims(), [1, 1, 2, 3, 3]);
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [54.0; 18]);
/// ```
pub fn conv3d(x: Tensor<5>, weight: Tensor<5>, bias: Option<Tensor<1>>, options: ConvOptions<3>) -> Tensor<5> {
    let [channels_out, ..] = weight.dims();
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [channels_out], "bias of {channels_out} channels");
        if !x.is_autodiff() && !weight.is_autodiff() && !bias.is_autodiff() {
            return conv3d_affine(x, weight, bias.ones_like(), bias.clone(), None, options);
        }
    }
    let y =
        Tensor::from_dispatch(<Dispatch as Conv3dOps>::convolve3d(x.into_dispatch(), weight.into_dispatch(), options));
    match bias {
        Some(bias) => y + bias.reshape([1, channels_out, 1, 1, 1]),
        None => y,
    }
}

/// Convolves `x` with `weight`, multiplies by `scale`, adds `shift` and clamps to `range`, in one pass where the backend can: a
/// convolution with its batch normalization and ReLU at inference.
///
/// # Shapes
/// As [`conv3d`]; `scale` and `shift`: `[channels_out]`.
///
/// # Panics
/// As [`conv3d`].
pub fn conv3d_affine(
    x: Tensor<5>,
    weight: Tensor<5>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    range: Option<[f32; 2]>,
    options: ConvOptions<3>,
) -> Tensor<5> {
    let [channels_out, ..] = weight.dims();
    assert_eq!(scale.dims(), [channels_out], "scale of {channels_out} channels");
    assert_eq!(shift.dims(), [channels_out], "shift of {channels_out} channels");
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let (scale, shift) = (scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Conv3dOps>::convolve3d_affine(x, weight, scale, shift, range, options))
}

/// Backend operators behind [`conv3d`]; the defaults are Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait Conv3dOps: Backend {
    /// Convolution without bias.
    #[fusion(default)]
    fn convolve3d(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<3>) -> FloatTensor<Self> {
        <Self as ModuleOps<Self>>::conv3d(x, weight, None, options)
    }

    /// Convolution times `scale` plus `shift`, one of each a channel, clamped to `range`.
    #[fusion(default)]
    fn convolve3d_affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        range: Option<[f32; 2]>,
        options: ConvOptions<3>,
    ) -> FloatTensor<Self> {
        affine::<Self>(Self::convolve3d(x, weight, options), scale, shift, range)
    }

    /// Gradient of the input.
    #[fusion(default)]
    fn convolve3d_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<3>,
    ) -> FloatTensor<Self> {
        <Self as ModuleOps<Self>>::conv3d_x_backward(x, weight, grad, options)
    }

    /// Gradient of the weight.
    #[fusion(default)]
    fn convolve3d_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<3>,
    ) -> FloatTensor<Self> {
        <Self as ModuleOps<Self>>::conv3d_weight_backward(x, weight, grad, options)
    }
}

#[cfg(test)]
mod tests;
