use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};
use segkiln_ops::Joined;

use super::{Activation, ConvBlock, ConvBlockConfig, NormConfig};

/// Configuration of a [`DoubleConv`].
#[derive(Config, Debug)]
pub struct DoubleConvConfig {
    /// Input channels.
    pub in_channels: usize,
    /// Channels of both convolutions' outputs.
    pub out_channels: usize,
    /// Zeros around each convolution's input: 1 keeps height and width, 0 takes four pixels from each.
    #[config(default = 1)]
    pub padding: usize,
    /// Normalization after each convolution.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
    /// Activation after each normalization.
    #[config(default = "Activation::Relu")]
    pub activation: Activation,
}

impl DoubleConvConfig {
    /// The block with random weights.
    pub fn init(&self, device: &Device) -> DoubleConv {
        let block = |in_channels| {
            ConvBlockConfig::new(in_channels, self.out_channels)
                .with_padding(self.padding)
                .with_norm(self.norm.clone())
                .with_activation(self.activation)
                .init(device)
        };
        DoubleConv { first: block(self.in_channels), second: block(self.out_channels) }
    }
}

/// Two 3×3 convolution blocks, the unit of all U-Nets.
#[derive(Module, Debug)]
pub struct DoubleConv {
    /// Block from the input channels to the output channels.
    pub first: ConvBlock,
    /// Block from the output channels to as many.
    pub second: ConvBlock,
}

impl DoubleConv {
    /// # Shapes
    /// - `x`: `[batch, in_channels, height, width]`, or an array of two tensors that have these channels together
    /// - output: `[batch, out_channels, height, width]`, both sides 4 less without padding
    pub fn forward(&self, x: impl Into<Joined>) -> Tensor<4> {
        self.second.forward(self.first.forward(x))
    }
}
