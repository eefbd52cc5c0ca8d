//! DeepLabV3: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
//! <https://arxiv.org/abs/1706.05587>; as torchvision has it.

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
    fcn::{FcnHead, with_aux_classifier},
    layers::{ConvBlock, ConvBlockConfig, conv2d, default_initializer},
};

/// Configuration of a [`DeepLabV3`].
#[derive(Config, Debug)]
pub struct DeepLabV3Config {
    /// Backbone. In torchvision's, the last two stages dilate.
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Dilations of the pyramid's convolutions.
    #[config(default = "vec![12, 24, 36]")]
    pub rates: Vec<usize>,
    /// Channels of the pyramid.
    #[config(default = 256)]
    pub channels: usize,
    /// Whether a second head, of [`Fcn`](crate::fcn::Fcn), learns from an earlier map.
    #[config(default = false)]
    pub aux: bool,
}

impl DeepLabV3Config {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        super::check(&self.rates, self.channels)
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> DeepLabV3 {
        let channels = self.backbone.channels();
        let stages = [self.backbone.aux_stage(), channels.len() - 1];
        DeepLabV3 {
            backbone: self.backbone.init(device),
            classifier: DeepLabHead {
                aspp: Aspp::new([channels[stages[1]], self.channels], &self.rates, false, device),
                block: ConvBlockConfig::new(self.channels, self.channels).init(device),
                classifier: Conv2dConfig::new([self.channels, self.classes], [1, 1])
                    .with_initializer(default_initializer())
                    .init(device),
            },
            aux_classifier: self.aux.then(|| FcnHead::new(channels[stages[0]], self.classes, device)),
            stages,
        }
    }
}

/// The network; see [`DeepLabV3Config`].
#[derive(Module, Debug)]
pub struct DeepLabV3 {
    /// Backbone.
    pub backbone: Backbone,
    /// Head on the last map.
    pub classifier: DeepLabHead,
    /// Auxiliary head on an earlier map.
    pub aux_classifier: Option<FcnHead>,
    /// Backbone stages of the earlier map and the last.
    #[module(skip)]
    stages: [usize; 2],
}

/// Pyramid, 3×3, 1×1 to the classes.
#[derive(Module, Debug)]
pub struct DeepLabHead {
    /// Atrous spatial pyramid pooling.
    pub aspp: Aspp,
    /// 3×3.
    pub block: ConvBlock,
    /// 1×1.
    pub classifier: Conv2d,
}

impl DeepLabHead {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(&self.classifier, self.block.forward(self.aspp.forward(x)))
    }
}

with_aux_classifier!(DeepLabV3Config => DeepLabV3, "deeplabv3", super::TORCH_NAMES);
