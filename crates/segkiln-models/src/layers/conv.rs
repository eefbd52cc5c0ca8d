use burn::{
    config::Config,
    module::{Module, Param},
    nn::{
        Initializer, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Tensor,
        ops::{ConvOptions, MaxPoolOptions},
    },
};
use segkiln_ops::{Joined, conv2d_affine};

use super::{
    Activation, Norm, NormConfig,
    norm::{batch_train, trains},
};
use crate::{precision, summary::count, trace};

/// Configuration of a [`ConvBlock`].
#[derive(Config, Debug)]
pub struct ConvBlockConfig {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Side of the square kernel.
    #[config(default = 3)]
    pub kernel: usize,
    /// Pixels from one output to the next.
    #[config(default = 1)]
    pub stride: usize,
    /// Zeros around the input: `kernel / 2 · dilation` keeps height and width at stride 1, 0 is a valid convolution.
    #[config(default = 1)]
    pub padding: usize,
    /// TensorFlow's padding instead: as many zeros as make the output `⌈side / stride⌉` pixels, of an odd number one more
    /// at the lower or right border.
    #[config(default = false)]
    pub same_padding: bool,
    /// Pixels from one tap of the kernel to the next.
    #[config(default = 1)]
    pub dilation: usize,
    /// Groups of channels that do not see each other; as many as channels for a depthwise convolution.
    #[config(default = 1)]
    pub groups: usize,
    /// Initializer of the weight; by default PyTorch's, Kaiming uniform.
    #[config(default = "default_initializer()")]
    pub initializer: Initializer,
    /// Norm after the convolution. With one, the convolution has no bias, which the norm's shift replaces.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
    /// Activation after the norm.
    #[config(default = "Activation::Relu")]
    pub activation: Activation,
}

/// PyTorch's: uniform within `1 / √fan_in`.
pub(crate) fn default_initializer() -> Initializer {
    Initializer::KaimingUniform { gain: 1.0 / 3f64.sqrt(), fan_out_only: false }
}

impl ConvBlockConfig {
    /// A kernel of odd side, dilated, with the padding that keeps height and width at a stride of 1.
    pub fn with_centered_kernel(self, kernel: usize, dilation: usize) -> Self {
        self.with_kernel(kernel).with_padding(kernel / 2 * dilation).with_dilation(dilation)
    }

    /// A block with random weights.
    pub fn init(&self, device: &Device) -> ConvBlock {
        let norm = self.norm.init(self.out_channels, device);
        let padding = match self.same_padding {
            true => PaddingConfig2d::Same,
            false => PaddingConfig2d::Explicit(self.padding, self.padding, self.padding, self.padding),
        };
        ConvBlock {
            conv: Conv2dConfig::new([self.in_channels, self.out_channels], [self.kernel; 2])
                .with_stride([self.stride; 2])
                .with_padding(padding)
                .with_dilation([self.dilation; 2])
                .with_groups(self.groups)
                .with_initializer(self.initializer.clone())
                .with_bias(norm.is_none())
                .init(device),
            norm,
            activation: self.activation,
        }
    }
}

/// Convolution, normalization, activation.
#[derive(Module, Debug)]
pub struct ConvBlock {
    /// The convolution.
    pub conv: Conv2d,
    /// The normalization, if there is one.
    pub norm: Option<Norm>,
    /// The activation.
    #[module(skip)]
    pub activation: Activation,
}

impl ConvBlock {
    /// The block whose convolution's bias, if it has one, begins at zero.
    pub fn with_zero_bias(mut self, device: &Device) -> Self {
        self.conv = zero_bias(self.conv, device);
        self
    }

    /// # Shapes
    /// - `x`: `[batch, in_channels, height, width]`, or an array of two tensors that have these channels together
    /// - output: `[batch, out_channels, height', width']`, the same height and width where stride is 1 and the padding
    ///   `kernel / 2 · dilation`
    pub fn forward(&self, x: impl Into<Joined>) -> Tensor<4> {
        conv_norm(&self.conv, self.norm.as_ref(), self.activation, x)
    }
}

/// Convolution, normalization, activation: computed at once where they can be, and not in passes of their own.
pub fn conv_norm(conv: &Conv2d, norm: Option<&Norm>, activation: Activation, x: impl Into<Joined>) -> Tensor<4> {
    let x = x.into();
    let layers = [Some(conv.weight.id), norm.and_then(Norm::id)];
    let y = match trace::splits(&layers, || output_shape(conv, &x)) {
        false => fused(conv, norm, activation, x),
        true => {
            let y = trace::fused(layers[0], convolve(conv, x));
            let y = trace::fused(layers[1], norm.map_or(y.clone(), |norm| norm.forward(y)));
            activation.forward(y)
        }
    };
    trace::around(&conv.weight, y)
}

fn fused(conv: &Conv2d, norm: Option<&Norm>, activation: Activation, x: Joined) -> Tensor<4> {
    let range = activation.range();
    // What a convolution does while its output is in the cache, if only its input may have a gradient.
    if !x.is_autodiff() || is_constant(conv, norm, &x.device()) {
        let device = x.device();
        let affine = match (norm, &conv.bias) {
            (Some(norm), None) => norm.affine(&device),
            (None, Some(bias)) => Some([bias.val().ones_like(), bias.val()]),
            _ => None,
        };
        if let Some([scale, shift]) = affine {
            let bounded = range.is_some() || activation == Activation::Identity;
            let y = convolve_affine(conv, x, range, bounded, || [scale.clone(), shift.clone()]);
            return if range.is_some() { y } else { activation.forward(y) };
        }
    }
    let y = convolve(conv, x);
    match norm {
        Some(Norm::Batch(norm)) if trains(norm, &y.device()) => {
            let relu = activation == Activation::Relu;
            let y = batch_train(norm, y, relu);
            if relu { y } else { activation.forward(y) }
        }
        Some(norm) => activation.forward(norm.forward(y)),
        None => activation.forward(y),
    }
}

/// The convolution without its bias, times the scale plus the shift that `affine` returns, clamped to `range`. A session keeps the
/// output reduced only if `keep`.
fn convolve_affine(
    conv: &Conv2d,
    x: Joined,
    range: Option<[f32; 2]>,
    keep: bool,
    affine: impl Fn() -> [Tensor<1>; 2],
) -> Tensor<4> {
    let options = options(conv, &x);
    let y = match precision::convolve(conv, &x, &options, range, [true, keep], &affine) {
        Some(y) => y,
        None => {
            let [scale, shift] = affine();
            let (x, weight) = factors(conv, x);
            conv2d_affine(x, weight, scale, shift, range, options)
        }
    };
    count_conv(conv, &y);
    y
}

/// A convolution and its activation; the convolution's map is visible by itself.
pub(super) fn convolve_activated(conv: &Conv2d, activation: Activation, x: Tensor<4>) -> Tensor<4> {
    match trace::is_active() {
        true => activation.forward(conv2d(conv, x)),
        false => fused(conv, None, activation, x.into()),
    }
}

/// A convolution whose output channels are multiplied by `scale`.
pub(super) fn convolve_scaled(conv: &Conv2d, scale: Tensor<1>, x: Tensor<4>) -> Tensor<4> {
    let learns = x.is_autodiff() && (scale.is_autodiff() || !is_constant(conv, None, &x.device()));
    if let Some(bias) = &conv.bias
        && !learns
        && !trace::is_active()
    {
        let shift = bias.val() * scale.clone();
        return convolve_affine(conv, x.into(), None, false, || [scale.clone(), shift.clone()]);
    }
    let channels = scale.dims()[0];
    conv2d(conv, x) * scale.reshape([1, channels, 1, 1])
}

/// Whether neither learns, also where other layers do.
fn is_constant(conv: &Conv2d, norm: Option<&Norm>, device: &Device) -> bool {
    let bias = conv.bias.as_ref().is_some_and(|bias| bias.val().is_autodiff());
    !bias && !conv.weight.val().is_autodiff() && !matches!(norm, Some(Norm::Batch(norm)) if trains(norm, device))
}

/// The convolution whose bias, if it has one, begins at zero; the old one need not have values yet.
pub fn zero_bias(mut conv: Conv2d, device: &Device) -> Conv2d {
    conv.bias = conv.bias.map(|bias| Initializer::Zeros.init(bias.lazy_shape(), device));
    conv
}

/// Every convolution of every network: Burn's layer, computed by [`segkiln_ops::conv2d()`].
pub fn conv2d(conv: &Conv2d, x: impl Into<Joined>) -> Tensor<4> {
    trace::tap(&conv.weight, convolve(conv, x.into()))
}

fn convolve(conv: &Conv2d, x: Joined) -> Tensor<4> {
    let options = options(conv, &x);
    let affine = || {
        let bias = conv.bias.as_ref().map(Param::val);
        let bias = bias.unwrap_or_else(|| Tensor::zeros([conv.weight.dims()[0]], &conv.weight.device()));
        [bias.ones_like(), bias]
    };
    // What takes it may be no layer, so it is f32.
    if let Some(y) = precision::convolve(conv, &x, &options, None, [false, false], affine) {
        count_conv(conv, &y);
        return y;
    }
    let (x, weight) = factors(conv, x);
    let bias = conv.bias.as_ref().map(Param::val);
    let y = if x.is_autodiff() && precision::trains_in_bf16() {
        segkiln_ops::conv2d_bf16(x, weight, bias, options)
    } else {
        segkiln_ops::conv2d(x, weight, bias, options)
    };
    count_conv(conv, &y);
    y
}

/// The factors of a convolution outside of a session.
fn factors(conv: &Conv2d, x: Joined) -> (Joined, Tensor<4>) {
    precision::factors(precision::full_joined(x), conv.weight.val(), 0, conv.groups)
}

fn output_shape(conv: &Conv2d, x: &Joined) -> [usize; 4] {
    let options = options(conv, x);
    let [n, _, height, width] = x.dims();
    let side = |axis: usize, size: usize| {
        let (before, after) = options.padding[axis];
        let reach = options.dilation[axis] * (conv.kernel_size[axis] - 1) + 1;
        (size + before + after).saturating_sub(reach) / options.stride[axis] + 1
    };
    [n, conv.weight.lazy_shape()[0], side(0, height), side(1, width)]
}

fn count_conv(conv: &Conv2d, y: &Tensor<4>) {
    let [n, _, height, width] = y.dims();
    count(&conv.weight, n * height * width, y);
}

fn options(conv: &Conv2d, x: &Joined) -> ConvOptions<2> {
    let [_, _, height, width] = x.dims();
    let same = |axis: usize, size: usize| {
        let (stride, reach) = (conv.stride[axis], conv.dilation[axis] * (conv.kernel_size[axis] - 1));
        let missing = ((size.div_ceil(stride) - 1) * stride + reach + 1).saturating_sub(size);
        (missing / 2, missing.div_ceil(2))
    };
    let padding = match conv.padding {
        PaddingConfig2d::Valid => [(0, 0), (0, 0)],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
        PaddingConfig2d::Same => [same(0, height), same(1, width)],
    };
    ConvOptions { stride: conv.stride, padding, dilation: conv.dilation, groups: conv.groups }
}

/// 2×2 max pooling with stride 2; an odd last row or column is dropped, as PyTorch does.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, h / 2, w / 2]`
pub fn max_pool2d(x: Tensor<4>) -> Tensor<4> {
    pool(x, 2, 2, 0)
}

/// 3×3 max pooling with stride 1 and padding 1, which keeps height and width.
///
/// # Shapes
/// `[n, c, h, w]` → the same
pub fn max_pool2d_same(x: Tensor<4>) -> Tensor<4> {
    pool(x, 3, 1, 1)
}

/// 3×3 max pooling with stride 2 and padding 1, of ResNet's stem.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, ⌈h / 2⌉, ⌈w / 2⌉]`
pub fn max_pool2d_overlapping(x: Tensor<4>) -> Tensor<4> {
    pool(x, 3, 2, 1)
}

fn pool(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    if let Some(y) = precision::max_pool2d(&x, kernel, stride, padding) {
        return y;
    }
    let options = MaxPoolOptions::new([kernel; 2]);
    let options = MaxPoolOptions { stride: [stride; 2], padding: [(padding, padding); 2], ..options };
    segkiln_ops::max_pool2d(precision::full(x), options)
}

/// The sum's positive part, where a residual block ends.
///
/// # Shapes
/// `[n, c, h, w]` twice → the same
pub fn add_relu(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    match precision::add_relu(&x, &y) {
        Some(sum) => sum,
        None => segkiln_ops::add_relu(precision::full(x), precision::full(y)),
    }
}
