//! Two-dimensional convolution, as PyTorch's `conv2d` computes it.
//!
//! Burn's own convolution on the CPU lays out the whole input as a matrix, and computes the gradient of the weight as a convolution
//! with a kernel as large as the image. Here a layer's shape chooses one of several methods, for the convolution and for both
//! gradients: Winograd's filtering for 3×3 kernels, kernels of its own for depthwise convolutions, and products of blocks that stay
//! in the cache for all others. `flex/mod.rs` is a guide to them, and the environment variable `SEGKILN_EXPLAIN_PLAN=1` prints on
//! stderr, once for each shape, which method was chosen and why. Other backends compute with Burn's operators.
//!
//! With Winograd's filtering a value that is not finite makes all outputs of its 4×4 tiles not finite.

use burn::{
    backend::{Backend, Dispatch, TensorMetadata, backend_extension, ops::ModuleOps, tensor::FloatTensor},
    tensor::{Device, Shape, Tensor, ops::ConvOptions},
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
pub(crate) mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// One tensor, or two whose channels are concatenated, as by a skip connection. Backends that can read both where they lie make no
/// copy.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::Joined;
///
/// let device = Device::default();
/// let [skip, below] = [2, 3].map(|channels| Tensor::<4>::ones([1, channels, 8, 8], &device));
/// assert_eq!(Joined::from(skip.clone()).dims(), [1, 2, 8, 8]);
/// assert_eq!(Joined::from([skip.clone(), below.clone()]).dims(), [1, 5, 8, 8]);
/// assert_eq!(Joined::from(vec![skip.clone(), skip, below]).dims(), [1, 7, 8, 8]);
/// ```
#[derive(Debug, Clone)]
pub struct Joined {
    first: Tensor<4>,
    second: Option<Tensor<4>>,
}

impl From<Tensor<4>> for Joined {
    fn from(first: Tensor<4>) -> Self {
        Self { first, second: None }
    }
}

impl From<[Tensor<4>; 2]> for Joined {
    /// # Panics
    /// If the tensors differ in more than the channels.
    fn from([first, second]: [Tensor<4>; 2]) -> Self {
        joined_dims(first.dims(), second.dims());
        Self { first, second: Some(second) }
    }
}

impl From<Vec<Tensor<4>>> for Joined {
    /// Concatenates the channels of the tensors. Of more than two, the first or the last is not copied, whichever has more channels.
    ///
    /// # Panics
    /// If there is none, or they differ in more than the channels.
    fn from(mut tensors: Vec<Tensor<4>>) -> Self {
        let channels = |tensor: Option<&Tensor<4>>| tensor.map(|tensor| tensor.dims()[1]);
        if channels(tensors.first()) > channels(tensors.last()) {
            let others = tensors.split_off(1);
            return Self::from([tensors.remove(0), Tensor::cat(others, 1)]);
        }
        match (tensors.pop().expect("at least one tensor"), tensors.len()) {
            (one, 0) => one.into(),
            (last, 1) => [tensors.remove(0), last].into(),
            (last, _) => [Tensor::cat(tensors, 1), last].into(),
        }
    }
}

/// Returns the dimensions of two tensors whose channels are concatenated.
fn joined_dims(first: [usize; 4], second: [usize; 4]) -> [usize; 4] {
    let fit = first[0] == second[0] && first[2..] == second[2..];
    assert!(fit, "{first:?} and {second:?} differ in more than the channels");
    [first[0], first[1] + second[1], first[2], first[3]]
}

impl Joined {
    /// Returns `[batch, channels of both, height, width]`.
    pub fn dims(&self) -> [usize; 4] {
        match &self.second {
            None => self.first.dims(),
            Some(second) => joined_dims(self.first.dims(), second.dims()),
        }
    }

    /// Applies `f` to each tensor.
    #[must_use]
    pub fn map(self, f: impl Fn(Tensor<4>) -> Tensor<4>) -> Self {
        Self { first: f(self.first), second: self.second.map(f) }
    }

    /// The tensors, one or two.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor<4>> {
        std::iter::once(&self.first).chain(&self.second)
    }

    /// Returns whether gradients of either tensor are tracked.
    pub fn is_autodiff(&self) -> bool {
        self.first.is_autodiff() || self.second.as_ref().is_some_and(Tensor::is_autodiff)
    }

    /// Returns both tensors.
    #[cfg(feature = "flex")]
    pub(crate) fn into_parts(self) -> (Tensor<4>, Option<Tensor<4>>) {
        (self.first, self.second)
    }

    /// Returns the device of both tensors.
    pub fn device(&self) -> Device {
        self.first.device()
    }
}

/// Convolves `x` with `weight` and adds `bias`.
///
/// # Shapes
/// - `x`: `[batch, channels_in, height, width]`, or an array of two tensors that have these channels together
/// - `weight`: `[channels_out, channels_in / groups, kernel_height, kernel_width]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, height', width']`
///
/// # Panics
/// If the shapes do not fit, or the kernel is larger than the padded input.
///
/// ```
/// use burn::tensor::{Device, Tensor, ops::ConvOptions};
/// use segkiln_ops::conv2d;
///
/// let device = Device::default();
/// let x = Tensor::<4>::ones([1, 2, 5, 5], &device);
/// let weight = Tensor::<4>::ones([1, 2, 3, 3], &device);
/// let y = conv2d(x, weight, None, ConvOptions::new([1, 1], [0, 0], [1, 1], 1));
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [18.0; 9]);
/// ```
pub fn conv2d(x: impl Into<Joined>, weight: Tensor<4>, bias: Option<Tensor<1>>, options: ConvOptions<2>) -> Tensor<4> {
    let x = x.into();
    if let Some(bias) = &bias {
        let [channels_out, ..] = weight.dims();
        assert_eq!(bias.dims(), [channels_out], "bias of {channels_out} channels");
    }
    if let Some(bias) = &bias
        && (!x.is_autodiff() || !weight.is_autodiff() && !bias.is_autodiff())
    {
        return conv2d_affine(x, weight, bias.ones_like(), bias.clone(), None, options);
    }
    let (x, more, weight) = (x.first.into_dispatch(), x.second.map(Tensor::into_dispatch), weight.into_dispatch());
    let y = Tensor::from_dispatch(match more {
        None => <Dispatch as Conv2dOps>::convolve(x, weight, options),
        Some(more) => <Dispatch as Conv2dOps>::convolve_joined(x, more, weight, options),
    });
    match bias {
        Some(bias) => {
            let channels = bias.dims()[0];
            y + bias.reshape([1, channels, 1, 1])
        }
        None => y,
    }
}

/// [`conv2d`] in mixed precision, for training: the factors of the convolution and of both its gradients are rounded to bf16,
/// sums, outputs and gradients are f32. Autodiff keeps `x` as bf16, in half the memory.
///
/// Where the backend has no kernels for it that are faster than those of f32, this is [`conv2d`]: on the CPU without dot
/// products of bf16 (AVX512-BF16), with groups, and with channels that are no multiple of 16.
///
/// # Shapes
/// As [`conv2d`].
///
/// # Panics
/// As [`conv2d`].
///
/// ```
/// use burn::tensor::{Device, Tensor, ops::ConvOptions};
/// use segkiln_ops::conv2d_bf16;
///
/// let device = Device::default().autodiff();
/// let x = Tensor::<4>::ones([1, 16, 5, 5], &device);
/// let weight = Tensor::<4>::ones([16, 16, 3, 3], &device).require_grad();
/// let y = conv2d_bf16(x, weight.clone(), None, ConvOptions::new([1, 1], [0, 0], [1, 1], 1));
/// let gradients = y.sum().backward();
/// let gradient = weight.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
/// assert!(gradient.iter().all(|value| (value - 9.0).abs() < 0.1));
/// ```
pub fn conv2d_bf16(
    x: impl Into<Joined>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let Joined { first, second } = x.into();
    if let Some(bias) = &bias {
        let [channels_out, ..] = weight.dims();
        assert_eq!(bias.dims(), [channels_out], "bias of {channels_out} channels");
    }
    let (x, more, weight) = (first.into_dispatch(), second.map(Tensor::into_dispatch), weight.into_dispatch());
    let y = Tensor::from_dispatch(match more {
        None => <Dispatch as Conv2dOps>::convolve_bf16(x, weight, options),
        Some(more) => <Dispatch as Conv2dOps>::convolve_joined_bf16(x, more, weight, options),
    });
    match bias {
        Some(bias) => {
            let channels = bias.dims()[0];
            y + bias.reshape([1, channels, 1, 1])
        }
        None => y,
    }
}

/// Convolves `x` with `weight`, multiplies by `scale`, adds `shift` and clamps to `range`, in one pass where the backend can: a
/// convolution with its batch normalization and ReLU at inference. With gradients it is one pass too, as long as they are those
/// of `x` alone.
///
/// # Shapes
/// As [`conv2d`]; `scale` and `shift`: `[channels_out]`.
///
/// # Panics
/// As [`conv2d`].
///
/// ```
/// use burn::tensor::{Device, Tensor, ops::ConvOptions};
/// use segkiln_ops::conv2d_affine;
///
/// let device = Device::default();
/// let x = Tensor::<4>::ones([1, 2, 5, 5], &device);
/// let weight = Tensor::<4>::ones([1, 2, 3, 3], &device);
/// let (scale, shift) = (Tensor::from_floats([2.0], &device), Tensor::from_floats([-30.0], &device));
/// let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
/// let y = conv2d_affine(x, weight, scale, shift, Some([0.0, 5.0]), options);
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [5.0; 9]); // 18 · 2 - 30 = 6
/// ```
pub fn conv2d_affine(
    x: impl Into<Joined>,
    weight: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    range: Option<[f32; 2]>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let [channels_out, ..] = weight.dims();
    assert_eq!(scale.dims(), [channels_out], "scale of {channels_out} channels");
    assert_eq!(shift.dims(), [channels_out], "shift of {channels_out} channels");
    let x = x.into();
    let (x, more, weight) = (x.first.into_dispatch(), x.second.map(Tensor::into_dispatch), weight.into_dispatch());
    let (scale, shift) = (scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(match more {
        None => <Dispatch as Conv2dOps>::convolve_affine(x, weight, scale, shift, range, options),
        Some(more) => <Dispatch as Conv2dOps>::convolve_joined_affine(x, more, weight, scale, shift, range, options),
    })
}

/// Backend operators behind [`conv2d`]; the defaults are Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait Conv2dOps: Backend {
    /// Convolution without bias.
    #[fusion(default)]
    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        <Self as ModuleOps<Self>>::conv2d(x, weight, None, options)
    }

    /// Convolution times `scale` plus `shift`, one of each a channel, clamped to `range`.
    #[fusion(default)]
    fn convolve_affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        range: Option<[f32; 2]>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        affine::<Self>(Self::convolve(x, weight, options), scale, shift, range)
    }

    /// Whether two tensors' channels are convolved and differentiated without concatenating them.
    const JOINS: bool = false;

    /// [`convolve`](Self::convolve) of the channels of `x` and of `more`.
    #[fusion(default)]
    fn convolve_joined(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::convolve(Self::float_cat(vec![x, more], 1), weight, options)
    }

    /// [`convolve_affine`](Self::convolve_affine) of the channels of `x` and of `more`.
    #[fusion(default)]
    fn convolve_joined_affine(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        range: Option<[f32; 2]>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::convolve_affine(Self::float_cat(vec![x, more], 1), weight, scale, shift, range, options)
    }

    /// Gradient of the input.
    #[fusion(default)]
    fn convolve_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        <Self as ModuleOps<Self>>::conv2d_x_backward(x, weight, grad, options)
    }

    /// Gradient of the weight.
    #[fusion(default)]
    fn convolve_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        <Self as ModuleOps<Self>>::conv2d_weight_backward(x, weight, grad, options)
    }

    /// Whether the shapes of an input and a weight are convolved faster with factors of bf16 than of f32. What follows is only
    /// called with shapes that are.
    const FITS_BF16: fn([usize; 4], [usize; 4], &ConvOptions<2>) -> bool = |_, _, _| false;

    /// A tensor in the form that is multiplied and that autodiff keeps.
    #[fusion(default)]
    fn bf16_factors(x: FloatTensor<Self>) -> FloatTensor<Self> {
        x
    }

    /// [`convolve`](Self::convolve) with factors of bf16.
    #[fusion(default)]
    fn convolve_bf16(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        Self::convolve(x, weight, options)
    }

    /// [`convolve_joined`](Self::convolve_joined) with factors of bf16.
    #[fusion(default)]
    fn convolve_joined_bf16(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::convolve_joined(x, more, weight, options)
    }

    /// [`convolve_x_backward`](Self::convolve_x_backward) with factors of bf16.
    #[fusion(default)]
    fn convolve_bf16_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::convolve_x_backward(x, weight, grad, options)
    }

    /// [`convolve_weight_backward`](Self::convolve_weight_backward) with factors of bf16.
    #[fusion(default)]
    fn convolve_bf16_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::convolve_weight_backward(x, weight, grad, options)
    }
}

/// `clamp(x · scale + shift, range)`, with a scale and a shift a channel; `x` is of images or of volumes.
pub(crate) fn affine<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    shift: FloatTensor<B>,
    range: Option<[f32; 2]>,
) -> FloatTensor<B> {
    let axes = x.shape().num_dims();
    let by_channel = |values: FloatTensor<B>| {
        let mut shape = vec![1; axes];
        shape[1] = values.shape()[0];
        B::float_reshape(values, Shape::from(shape))
    };
    let y = B::float_add(B::float_mul(x, by_channel(scale)), by_channel(shift));
    match range {
        Some([low, high]) => B::float_clamp(y, low.into(), high.into()),
        None => y,
    }
}

#[cfg(test)]
mod tests;
