//! Attention U-Net: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", 2018,
//! <https://arxiv.org/abs/1804.03999>. The gate works at the skip's resolution on the already up-sampled signal, as the
//! common PyTorch implementations do.

use burn::{
    module::Module,
    nn::conv::Conv2d,
    tensor::{
        Device, Tensor,
        activation::{relu, sigmoid},
    },
};

use super::Encoder;
use crate::layers::{
    Activation, ConvBlock, ConvBlockConfig, DoubleConv, NormConfig, Upsample, conv2d, pad_to_multiple,
};
use crate::segmentation::{SegmentationNetwork, owned};
use crate::trace;

super::plain_config! {
    /// Configuration of an [`AttentionUNet`].
    AttentionUNetConfig of AttentionUNet, base 64, padding |_config| 1;
}

impl AttentionUNetConfig {
    /// The network with random weights.
    pub fn init(&self, device: &Device) -> AttentionUNet {
        let blocks = self.blocks();
        let levels = || (0..self.depth).rev();
        AttentionUNet {
            encoder: blocks.encoder(device),
            up: levels()
                .map(|level| self.upsample.init(blocks.channels(level + 1), blocks.channels(level), device))
                .collect(),
            gates: levels().map(|level| AttentionGate::new(blocks.channels(level), &self.norm, device)).collect(),
            decoder: levels().map(|level| blocks.double_conv(2 * blocks.channels(level), level, device)).collect(),
            head: blocks.head(self.classes, device),
        }
    }
}

/// Weighs a skip's pixels by how well they go with the signal from below: `x · σ(ψ(relu(W_x x + W_g g)))`.
#[derive(Module, Debug)]
pub struct AttentionGate {
    /// `W_g`, 1×1 with norm, on the gating signal.
    pub signal: ConvBlock,
    /// `W_x`, 1×1 with norm, on the skip.
    pub skip: ConvBlock,
    /// `ψ`, 1×1 to one channel, with norm.
    pub psi: ConvBlock,
}

impl AttentionGate {
    fn new(channels: usize, norm: &NormConfig, device: &Device) -> Self {
        let inner = (channels / 2).max(1);
        // The gates' few channels, down to ψ's single one, are one group.
        let norm = if let NormConfig::Group { .. } = norm { NormConfig::Group { groups: 1 } } else { norm.clone() };
        let project = |from, to| {
            ConvBlockConfig::new(from, to)
                .with_kernel(1)
                .with_padding(0)
                .with_norm(norm.clone())
                .with_activation(Activation::Identity)
                .init(device)
        };
        Self { signal: project(channels, inner), skip: project(channels, inner), psi: project(inner, 1) }
    }

    /// # Shapes
    /// - `signal`, `skip`: `[n, channels, h, w]`
    /// - output: the weighed skip, of the same shape
    ///
    /// [`LayerMaps`](crate::LayerMaps) has the weights, from 0 to 1, as the map of `psi`.
    pub fn forward(&self, signal: Tensor<4>, skip: Tensor<4>) -> Tensor<4> {
        let joined = relu(self.signal.forward(signal) + self.skip.forward(skip.clone()));
        let weights = trace::module(&self.psi, sigmoid(self.psi.forward(joined)));
        trace::module(self, skip * weights)
    }
}

/// The network; see [`AttentionUNetConfig`].
#[derive(Module, Debug)]
pub struct AttentionUNet {
    /// Contracting path.
    pub encoder: Encoder,
    /// Up-sampling of the expanding path, deepest first.
    pub up: Vec<Upsample>,
    /// Gates of the skips, deepest first.
    pub gates: Vec<AttentionGate>,
    /// Convolutions of the expanding path, deepest first.
    pub decoder: Vec<DoubleConv>,
    /// 1×1 convolution to the logits.
    pub head: Conv2d,
}

impl AttentionUNet {
    /// # Shapes
    /// `[batch, in_channels, height, width]` → logits `[batch, classes, height, width]`, any height and width
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, _, height, width] = x.dims();
        let (mut features, mut x) = self.encoder.forward(pad_to_multiple(x, 1 << self.up.len()));
        for ((up, gate), decoder) in self.up.iter().zip(&self.gates).zip(&self.decoder) {
            let below = up.forward(x);
            let skip = gate.forward(below.clone(), features.pop().expect("as many levels down as up"));
            x = decoder.forward([skip, below]);
        }
        let logits = conv2d(&self.head, x);
        let [_, classes, _, _] = logits.dims();
        logits.slice([0..n, 0..classes, 0..height, 0..width])
    }
}

impl SegmentationNetwork for AttentionUNet {
    type Config = AttentionUNetConfig;

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["head."])
    }
}
