//! DeepLabV3+: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018,
//! <https://arxiv.org/abs/1802.02611>; as segmentation_models_pytorch has it.

use burn::{
    config::Config,
    module::Module,
    nn::conv::{Conv2d, Conv2dConfig},
    tensor::{Device, Tensor},
};

use super::Aspp;
use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{ConvBlock, ConvBlockConfig, NormConfig, SeparableConv, conv2d, default_initializer, resize_to},
    segmentation::{SegmentationNetwork, is_on_timm, on_backbone, owned, unused_stages},
};

/// Configuration of a [`DeepLabV3Plus`].
#[derive(Config, Debug)]
pub struct DeepLabV3PlusConfig {
    /// Backbone. segmentation_models_pytorch's has an output stride of 16; see [`BackboneConfig::with_output_stride`].
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Dilations of the pyramid's convolutions.
    #[config(default = "vec![12, 24, 36]")]
    pub rates: Vec<usize>,
    /// Channels of the pyramid and of the decoder.
    #[config(default = 256)]
    pub channels: usize,
    /// Whether the pyramid's dilated convolutions are separable.
    #[config(default = true)]
    pub separable: bool,
}

/// Channels of the map of details, as in the paper.
const DETAILS: usize = 48;

impl DeepLabV3PlusConfig {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        super::check(&self.rates, self.channels)
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> DeepLabV3Plus {
        let [details, .., last] = self.backbone.pyramid_stages();
        let of = self.backbone.channels();
        let norm = NormConfig::default();
        let to = self.channels;
        DeepLabV3Plus {
            encoder: self.backbone.init(device),
            decoder: DeepLabV3PlusDecoder {
                aspp: Aspp::new([of[last], to], &self.rates, self.separable, device),
                refine: SeparableConv::new([to, to], 1, &norm, device),
                details: ConvBlockConfig::new(of[details], DETAILS).with_kernel(1).with_padding(0).init(device),
                fuse: SeparableConv::new([DETAILS + to, to], 1, &norm, device),
            },
            segmentation_head: Conv2dConfig::new([to, self.classes], [1, 1])
                .with_initializer(default_initializer())
                .init(device),
            stages: [details, last],
        }
    }
}

/// The network; see [`DeepLabV3PlusConfig`].
#[derive(Module, Debug)]
pub struct DeepLabV3Plus {
    /// Backbone.
    pub encoder: Backbone,
    /// Decoder, which fuses an early map and the last.
    pub decoder: DeepLabV3PlusDecoder,
    /// 1×1 to the classes.
    pub segmentation_head: Conv2d,
    /// Backbone stages of the early map and the last.
    #[module(skip)]
    pub(crate) stages: [usize; 2],
}

impl DeepLabV3Plus {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let mut maps = self.encoder.forward(x, &self.stages);
        let (last, details) = (maps.remove(1), maps.remove(0));
        let logits = conv2d(&self.segmentation_head, self.decoder.forward(details, last));
        resize_to(logits, [height, width], true)
    }
}

/// Pyramid of the last map, enlarged, with an early map's details.
#[derive(Module, Debug)]
pub struct DeepLabV3PlusDecoder {
    /// Atrous spatial pyramid pooling.
    pub aspp: Aspp,
    /// 3×3 of the pyramid.
    pub refine: SeparableConv,
    /// 1×1 of the early map, to few channels.
    pub details: ConvBlock,
    /// 3×3 of both.
    pub fuse: SeparableConv,
}

impl DeepLabV3PlusDecoder {
    fn forward(&self, details: Tensor<4>, last: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = details.dims();
        let pyramid = self.refine.forward(self.aspp.forward(last));
        let pyramid = resize_to(pyramid, [height, width], true);
        self.fuse.forward(Tensor::cat(vec![pyramid, self.details.forward(details)], 1))
    }
}

on_backbone!(DeepLabV3PlusConfig => DeepLabV3Plus, "deeplabv3plus", |backbone, name| {
    let backbone = backbone.with_output_stride(16)?;
    Ok(if is_on_timm(name, "deeplabv3plus") { backbone.with_timm_layout() } else { backbone })
});

impl SegmentationNetwork for DeepLabV3Plus {
    type Config = DeepLabV3PlusConfig;

    const TORCH_NAMES: crate::weights::TorchNames = super::TORCH_NAMES;

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.encoder)
    }

    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        vec![&mut self.encoder]
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["segmentation_head."])
    }

    fn unused_tensors(&self) -> Vec<String> {
        unused_stages(&self.encoder, Some(self.stages[1]))
    }
}
