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
    fcn::{FcnHead, with_aux},
    layers::{ConvBlock, ConvBlockConfig, conv2d, default_initializer},
    segmentation::{HeadLogits, SegmentationNetwork, auxiliary, on_backbone, owned},
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

impl DeepLabV3 {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        with_aux(&self.backbone, self.stages, None, x, |map| self.classifier.forward(map)).remove(0)
    }

    /// The logits of the auxiliary head, if there is one, then those that count.
    ///
    /// # Shapes
    /// `[n, in_channels, h, w]` → at least one `[n, classes, h, w]`
    pub fn forward_all(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        with_aux(&self.backbone, self.stages, self.aux_classifier.as_ref(), x, |map| self.classifier.forward(map))
    }
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

on_backbone!(DeepLabV3Config => DeepLabV3, "deeplabv3", |backbone, _| Ok(backbone.with_torchvision_dilation()),
    fn with_aux(self, aux: bool) -> Self {
        Self { aux, ..self }
    }
);

impl SegmentationNetwork for DeepLabV3 {
    type Config = DeepLabV3Config;

    const TORCH_NAMES: crate::weights::TorchNames = super::TORCH_NAMES;

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        vec![&mut self.backbone]
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["classifier.4.", "aux_classifier.4."])
    }

    fn forward_heads(&self, x: Tensor<4>) -> Vec<HeadLogits> {
        auxiliary(self.forward_all(x))
    }

    fn training_tensors(&self) -> Vec<String> {
        owned(if self.aux_classifier.is_some() { &[] } else { &["aux_classifier."] })
    }
}
