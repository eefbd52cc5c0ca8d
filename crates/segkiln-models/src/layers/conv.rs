use burn::{
    config::Config,
    module::{Module, Param},
    nn::{
        PaddingConfig2d,
        activation::{Activation, ActivationConfig},
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Tensor,
        ops::{ConvOptions, MaxPoolOptions},
    },
};

use segkiln_ops::conv2d_affine;

use super::{
    Norm, NormConfig,
    norm::{affine, batch_train, trains},
};

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
    /// Zeros around the input: `kernel / 2` keeps height and width, 0 is a valid convolution.
    #[config(default = 1)]
    pub padding: usize,
    /// What follows the convolution. With a norm the convolution has no bias, which the norm's shift replaces.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
    /// What follows the norm.
    #[config(default = "ActivationConfig::Relu")]
    pub activation: ActivationConfig,
}

impl ConvBlockConfig {
    /// A block with random weights (Kaiming uniform, PyTorch's default).
    pub fn init(&self, device: &Device) -> ConvBlock {
        let norm = self.norm.init(self.out_channels, device);
        ConvBlock {
            conv: Conv2dConfig::new([self.in_channels, self.out_channels], [self.kernel; 2])
                .with_padding(PaddingConfig2d::Explicit(self.padding, self.padding, self.padding, self.padding))
                .with_bias(norm.is_none())
                .init(device),
            norm,
            activation: self.activation.init(device),
        }
    }
}

/// Convolution, normalisation, activation.
#[derive(Module, Debug)]
pub struct ConvBlock {
    /// The convolution.
    pub conv: Conv2d,
    /// The normalisation, if there is one.
    pub norm: Option<Norm>,
    /// The activation.
    pub activation: Activation,
}

impl ConvBlock {
    /// # Shapes
    /// - `x`: `[batch, in_channels, height, width]`
    /// - output: `[batch, out_channels, height', width']`, the same height and width where the padding is `kernel / 2`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let relu = matches!(self.activation, Activation::Relu(_));
        match &self.norm {
            // Where they can be, norm and ReLU are computed with what is before them, and not in passes of their own.
            Some(Norm::Batch(norm)) => {
                let x = match (trains(norm, &x), options(&self.conv)) {
                    (true, _) => batch_train(norm, conv2d(&self.conv, x), relu),
                    (false, Some(options)) if self.conv.bias.is_none() => {
                        let [scale, shift] = affine(norm, &x.device());
                        let range = relu.then_some([0.0, f32::INFINITY]);
                        conv2d_affine(x, self.conv.weight.val(), scale, shift, range, options)
                    }
                    (false, _) => {
                        let x = norm.forward(conv2d(&self.conv, x));
                        if relu { self.activation.forward(x) } else { x }
                    }
                };
                if relu { x } else { self.activation.forward(x) }
            }
            Some(norm) => self.activation.forward(norm.forward(conv2d(&self.conv, x))),
            None => self.activation.forward(conv2d(&self.conv, x)),
        }
    }
}

/// Every convolution of every network: Burn's layer, computed by [`segkiln_ops::conv2d()`].
pub fn conv2d(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    match options(conv) {
        Some(options) => segkiln_ops::conv2d(x, conv.weight.val(), conv.bias.as_ref().map(Param::val), options),
        None => conv.forward(x),
    }
}

/// None where the padding depends on the image.
fn options(conv: &Conv2d) -> Option<ConvOptions<2>> {
    let padding = match conv.padding {
        PaddingConfig2d::Valid => [(0, 0), (0, 0)],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
        PaddingConfig2d::Same => return None,
    };
    Some(ConvOptions { stride: conv.stride, padding, dilation: conv.dilation, groups: conv.groups })
}

/// 2×2 max pooling with stride 2; an odd last row or column is dropped, as PyTorch does.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, h / 2, w / 2]`
pub fn max_pool2d(x: Tensor<4>) -> Tensor<4> {
    segkiln_ops::max_pool2d(x, MaxPoolOptions::new([2, 2]))
}
