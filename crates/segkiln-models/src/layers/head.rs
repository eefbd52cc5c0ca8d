use burn::{
    nn::{
        Initializer, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::Device,
};

use super::zero_bias;

/// Initializer of decoders: Kaiming uniform.
pub(crate) fn decoder_initializer() -> Initializer {
    Initializer::KaimingUniform { gain: 2f64.sqrt(), fan_out_only: false }
}

/// The convolution to the logits, which begins Xavier uniform.
pub(crate) fn segmentation_head(channels: usize, classes: usize, kernel: usize, device: &Device) -> Conv2d {
    let padding = kernel / 2;
    let conv = Conv2dConfig::new([channels, classes], [kernel; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .with_initializer(Initializer::XavierUniform { gain: 1.0 })
        .init(device);
    zero_bias(conv, device)
}
