use burn::{
    config::Config,
    module::{Module, Param},
    nn::{
        Initializer, PaddingConfig3d,
        conv::{Conv3d, Conv3dConfig, ConvTranspose3d, ConvTranspose3dConfig},
    },
    tensor::{
        Device, Tensor,
        ops::{ConvOptions, ConvTransposeOptions, MaxPoolOptions},
    },
};
use segkiln_ops::{batch_norm_train, conv3d_affine, slices, volumes};

use super::{
    Activation, Norm, NormConfig, default_initializer, mirror_pad,
    norm::{batch_train, trains},
};
use crate::summary::count;

/// Configuration of a [`ConvBlock3d`].
#[derive(Config, Debug)]
pub struct ConvBlock3dConfig {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Side of the kernel; zeros around the input keep depth, height and width.
    #[config(default = 3)]
    pub kernel: usize,
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

impl ConvBlock3dConfig {
    /// A block with random weights.
    pub fn init(&self, device: &Device) -> ConvBlock3d {
        let norm = self.norm.init(self.out_channels, device);
        let padding = self.kernel / 2;
        ConvBlock3d {
            conv: Conv3dConfig::new([self.in_channels, self.out_channels], [self.kernel; 3])
                .with_padding(PaddingConfig3d::Explicit(padding, padding, padding))
                .with_initializer(self.initializer.clone())
                .with_bias(norm.is_none())
                .init(device),
            norm,
            activation: self.activation,
        }
    }
}

/// Convolution of volumes, normalization, activation.
#[derive(Module, Debug)]
pub struct ConvBlock3d {
    /// The convolution.
    pub conv: Conv3d,
    /// The normalization, if there is one.
    pub norm: Option<Norm>,
    /// The activation.
    #[module(skip)]
    pub activation: Activation,
}

impl ConvBlock3d {
    /// # Shapes
    /// `[batch, in_channels, depth, height, width]` → `[batch, out_channels, depth, height, width]`
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let Self { conv, norm, activation } = self;
        let device = x.device();
        let range = activation.range();
        let affine = match (norm, &conv.bias) {
            (Some(Norm::Batch(norm)), _) if trains(norm, &device) => None,
            (Some(norm), None) => norm.affine(&device),
            (None, Some(bias)) => Some([bias.val().ones_like(), bias.val()]),
            _ => None,
        };
        if let Some([scale, shift]) = affine.filter(|_| !device.is_autodiff()) {
            let y = conv3d_affine(x, conv.weight.val(), scale, shift, range, options(conv));
            count_conv(conv, &y);
            return if range.is_some() { y } else { activate(*activation, y) };
        }
        let y = conv3d(conv, x);
        match norm {
            Some(norm) => normalize(norm, *activation, y),
            None => activate(*activation, y),
        }
    }
}

/// Applies an activation slice by slice.
fn activate(activation: Activation, x: Tensor<5>) -> Tensor<5> {
    let batch = x.dims()[0];
    volumes(activation.forward(slices(x)), batch)
}

/// Normalizes and activates volumes slice by slice, in the order in which convolutions write them.
fn normalize(norm: &Norm, activation: Activation, x: Tensor<5>) -> Tensor<5> {
    let ([batch, _, depth, height, width], relu) = (x.dims(), activation == Activation::Relu);
    let y = match norm {
        Norm::Batch(norm) if trains(norm, &x.device()) => volumes(batch_train(norm, slices(x), relu), batch),
        // The statistics of a batch of one volume are the volume's.
        Norm::Instance(norm) if depth * height * width > 1 => {
            let device = x.device();
            let channels = x.dims()[1];
            let gamma = norm.gamma.as_ref().map_or_else(|| Tensor::ones([channels], &device), Param::val);
            let beta = norm.beta.as_ref().map_or_else(|| Tensor::zeros([channels], &device), Param::val);
            let one = |x| batch_norm_train(x, gamma.clone(), beta.clone(), norm.epsilon, relu).output;
            let x = slices(x);
            let volume = |index: usize| one(x.clone().narrow(0, index * depth, depth));
            let y = if batch == 1 { one(x.clone()) } else { Tensor::cat((0..batch).map(volume).collect(), 0) };
            volumes(y, batch)
        }
        Norm::Group(norm) => return activate(activation, norm.forward(x)),
        norm => return volumes(activation.forward(norm.forward(slices(x))), batch),
    };
    if relu { y } else { activate(activation, y) }
}

/// Every convolution of volumes: Burn's layer, computed by [`segkiln_ops::conv3d()`].
///
/// # Shapes
/// `[n, in_channels, d, h, w]` → `[n, out_channels, d', h', w']`
pub fn conv3d(conv: &Conv3d, x: Tensor<5>) -> Tensor<5> {
    let y = segkiln_ops::conv3d(x, conv.weight.val(), conv.bias.as_ref().map(Param::val), options(conv));
    count_conv(conv, &y);
    y
}

fn count_conv(conv: &Conv3d, y: &Tensor<5>) {
    let [n, _, depth, height, width] = y.dims();
    count(&conv.weight, n * depth * height * width, y);
}

fn options(conv: &Conv3d) -> ConvOptions<3> {
    let padding = match conv.padding {
        PaddingConfig3d::Valid => [0; 3],
        PaddingConfig3d::Explicit(depth, height, width) => [depth, height, width],
        // Burn allows it for odd kernels.
        PaddingConfig3d::Same => [0, 1, 2].map(|axis| conv.dilation[axis] * (conv.kernel_size[axis] / 2)),
    };
    ConvOptions::new(conv.stride, padding, conv.dilation, conv.groups)
}

/// A layer that doubles depth, height and width: a 2×2×2 transposed convolution with stride 2.
pub fn doubling3d(in_channels: usize, out_channels: usize, device: &Device) -> ConvTranspose3d {
    ConvTranspose3dConfig::new([in_channels, out_channels], [2; 3]).with_stride([2; 3]).init(device)
}

/// Every transposed convolution of volumes: Burn's layer, computed by [`segkiln_ops::conv_transpose3d()`].
///
/// # Shapes
/// `[n, in_channels, d, h, w]` → `[n, out_channels, d', h', w']`
pub fn conv_transpose3d(conv: &ConvTranspose3d, x: Tensor<5>) -> Tensor<5> {
    let options = ConvTransposeOptions::new(conv.stride, conv.padding, conv.padding_out, conv.dilation, conv.groups);
    let [n, _, depth, height, width] = x.dims();
    let y = segkiln_ops::conv_transpose3d(x, conv.weight.val(), conv.bias.as_ref().map(Param::val), options);
    count(&conv.weight, n * depth * height * width, &y);
    y
}

/// 2×2×2 max pooling with stride 2; an odd last slice, row or column is dropped, as PyTorch does.
///
/// # Shapes
/// `[n, c, d, h, w]` → `[n, c, d / 2, h / 2, w / 2]`
pub fn max_pool3d(x: Tensor<5>) -> Tensor<5> {
    segkiln_ops::max_pool3d(x, MaxPoolOptions::new([2; 3]))
}

/// Concatenates the channels of volumes of one size.
pub fn cat_channels3d(parts: [Tensor<5>; 2]) -> Tensor<5> {
    let batch = parts[0].dims()[0];
    volumes(Tensor::cat(parts.map(slices).into(), 1), batch)
}

/// Mirrors the last slices, rows and columns until all sides are multiples of `multiple`.
///
/// # Shapes
/// `[n, c, d, h, w]` → `[n, c, d', h', w']`
pub fn pad_to_multiple3d(x: Tensor<5>, multiple: usize) -> Tensor<5> {
    let [batch, channels, depth, height, width] = x.dims();
    let [deeper, taller, wider] = [depth, height, width].map(|side| side.next_multiple_of(multiple) - side);
    if [deeper, taller, wider] == [0; 3] {
        return x;
    }
    let x = mirror_pad(slices(x), [0, taller], [0, wider]);
    let [_, _, height, width] = x.dims();
    // A volume as an image whose rows are slices.
    let x = mirror_pad(x.reshape([batch, 1, depth, channels * height * width]), [0, deeper], [0, 0]);
    volumes(x.reshape([batch * (depth + deeper), channels, height, width]), batch)
}
