use burn::{
    module::Module,
    nn::conv::{Conv2d, Conv2dConfig},
    tensor::{Device, Tensor},
};

use super::{Activation, conv2d, default_initializer, global_avg_pool2d};
use crate::trace;

/// Scales each channel by a gate computed from global channel averages: Hu et al., CVPR 2018,
/// <https://arxiv.org/abs/1709.01507>.
#[derive(Module, Debug)]
pub struct SqueezeExcitation {
    /// 1×1, to fewer channels.
    pub fc1: Conv2d,
    /// 1×1, back.
    pub fc2: Conv2d,
    /// Activations after the first convolution and after the second, which gives the gates.
    #[module(skip)]
    pub activations: [Activation; 2],
}

impl SqueezeExcitation {
    /// Creates a block for this many channels that squeezes them to fewer, with random weights.
    pub fn new([channels, squeezed]: [usize; 2], activations: [Activation; 2], device: &Device) -> Self {
        let conv =
            |from, to| Conv2dConfig::new([from, to], [1, 1]).with_initializer(default_initializer()).init(device);
        Self { fc1: conv(channels, squeezed), fc2: conv(squeezed, channels), activations }
    }

    /// # Shapes
    /// `[n, c, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mean = global_avg_pool2d(x.clone());
        let [inner, scale] = self.activations;
        trace::module(self, x * scale.forward(conv2d(&self.fc2, inner.forward(conv2d(&self.fc1, mean)))))
    }
}
