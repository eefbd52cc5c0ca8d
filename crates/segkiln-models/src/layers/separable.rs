use burn::{
    module::Module,
    nn::{
        PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use super::{Activation, Norm, NormConfig, conv_norm, conv2d, default_initializer};

/// A convolution of each channel by itself, then 1×1 to the output channels: Chollet, CVPR 2017,
/// <https://arxiv.org/abs/1610.02357>. Norm and activation follow the second.
#[derive(Module, Debug)]
pub struct SeparableConv {
    /// 3×3, of each channel.
    pub depthwise: Conv2d,
    /// 1×1.
    pub pointwise: Conv2d,
    /// Its norm.
    pub norm: Option<Norm>,
}

impl SeparableConv {
    /// 3×3 with random weights (PyTorch's default), followed by ReLU.
    pub fn new(channels: [usize; 2], dilation: usize, norm: &NormConfig, device: &Device) -> Self {
        let [from, to] = channels;
        let norm = norm.init(to, device);
        Self {
            depthwise: Conv2dConfig::new([from, from], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(dilation, dilation, dilation, dilation))
                .with_dilation([dilation; 2])
                .with_groups(from)
                .with_bias(false)
                .with_initializer(default_initializer())
                .init(device),
            pointwise: Conv2dConfig::new([from, to], [1, 1])
                .with_bias(norm.is_none())
                .with_initializer(default_initializer())
                .init(device),
            norm,
        }
    }

    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, out_channels, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv_norm(&self.pointwise, self.norm.as_ref(), Activation::Relu, conv2d(&self.depthwise, x))
    }
}
