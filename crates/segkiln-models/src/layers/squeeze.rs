use burn::{
    module::Module,
    nn::conv::{Conv2d, Conv2dConfig},
    tensor::{Device, Tensor, activation::relu},
};

use super::{Activation, conv2d, default_initializer, global_avg_pool2d};

/// Weighs channels by what the whole image has of all of them: Hu et al., CVPR 2018, <https://arxiv.org/abs/1709.01507>.
#[derive(Module, Debug)]
pub struct SqueezeExcitation {
    /// 1×1, to fewer channels.
    pub fc1: Conv2d,
    /// 1×1, back.
    pub fc2: Conv2d,
    /// What makes weights of the last values.
    #[module(skip)]
    pub scale: Activation,
}

impl SqueezeExcitation {
    /// With random weights.
    pub fn new(channels: usize, squeezed: usize, scale: Activation, device: &Device) -> Self {
        let conv =
            |from, to| Conv2dConfig::new([from, to], [1, 1]).with_initializer(default_initializer()).init(device);
        Self { fc1: conv(channels, squeezed), fc2: conv(squeezed, channels), scale }
    }

    /// # Shapes
    /// `[n, c, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mean = global_avg_pool2d(x.clone());
        let weights = self.scale.forward(conv2d(&self.fc2, relu(conv2d(&self.fc1, mean))));
        x * weights
    }
}
