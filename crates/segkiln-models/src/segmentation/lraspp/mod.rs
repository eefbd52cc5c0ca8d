//! Lite reduced atrous spatial pyramid pooling: Howard et al., "Searching for MobileNetV3", ICCV 2019,
//! <https://arxiv.org/abs/1905.02244>; as torchvision has it.

use burn::{
    config::Config,
    module::Module,
    nn::conv::{Conv2d, Conv2dConfig},
    tensor::{Device, Tensor, activation::sigmoid},
};

use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{ConvBlock, ConvBlockConfig, conv2d, default_initializer, global_avg_pool2d, resize_to},
    segmentation::{SegmentationNetwork, on_backbone, owned},
    weights::{TorchName, TorchNames},
};

/// Configuration of an [`LrAspp`].
#[derive(Config, Debug)]
pub struct LrAsppConfig {
    /// Backbone. torchvision's is a MobileNetV3 that dilates.
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Channels that the last map is brought to.
    #[config(default = 128)]
    pub channels: usize,
}

impl LrAsppConfig {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        match self.channels {
            1..=8192 => Ok(()),
            channels => Err(ConfigError::new("channels", format!("must be from 1 to 8192, are {channels}"))),
        }
    }

    /// The network with random weights (PyTorch's default).
    pub fn init(&self, device: &Device) -> LrAspp {
        let channels = self.backbone.channels();
        let stages = [self.backbone.aux_stage(), channels.len() - 1];
        let [low, high] = stages.map(|stage| channels[stage]);
        let one = |from, to| Conv2dConfig::new([from, to], [1, 1]).with_initializer(default_initializer());
        LrAspp {
            backbone: self.backbone.init(device),
            classifier: LrAsppHead {
                cbr: ConvBlockConfig::new(high, self.channels).with_kernel(1).with_padding(0).init(device),
                scale: one(high, self.channels).with_bias(false).init(device),
                low_classifier: one(low, self.classes).init(device),
                high_classifier: one(self.channels, self.classes).init(device),
            },
            stages,
        }
    }
}

/// The network; see [`LrAsppConfig`].
#[derive(Module, Debug)]
pub struct LrAspp {
    /// Backbone.
    pub backbone: Backbone,
    /// Head that computes the logits from two maps.
    pub classifier: LrAsppHead,
    /// Backbone stages of the map of stride 8 and the last.
    #[module(skip)]
    stages: [usize; 2],
}

impl LrAspp {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let mut maps = self.backbone.forward(x, &self.stages);
        let (high, low) = (maps.remove(1), maps.remove(0));
        resize_to(self.classifier.forward(low, high), [height, width], false)
    }
}

/// The last map weighed by its means, and an earlier one's details.
#[derive(Module, Debug)]
pub struct LrAsppHead {
    /// 1×1 of the last map.
    pub cbr: ConvBlock,
    /// 1×1 of its means, to what each channel weighs.
    pub scale: Conv2d,
    /// 1×1 of the earlier map.
    pub low_classifier: Conv2d,
    /// 1×1 of the last map's channels.
    pub high_classifier: Conv2d,
}

impl LrAsppHead {
    fn forward(&self, low: Tensor<4>, high: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = low.dims();
        let scale = sigmoid(conv2d(&self.scale, global_avg_pool2d(high.clone())));
        // A 1×1 convolution and a resize commute; before the resize it is a quarter of the work.
        let high = conv2d(&self.high_classifier, self.cbr.forward(high) * scale);
        conv2d(&self.low_classifier, low) + resize_to(high, [height, width], false)
    }
}

on_backbone!(LrAsppConfig => LrAspp, "lraspp", |backbone, _| Ok(backbone.with_torchvision_dilation()));

impl SegmentationNetwork for LrAspp {
    type Config = LrAsppConfig;

    const TORCH_NAMES: TorchNames =
        &[("LrAspp", "backbone", TorchName::Layers("backbone")), ("LrAsppHead", "scale", TorchName::Is("scale.1"))];

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
        owned(&["classifier.low_classifier.", "classifier.high_classifier."])
    }
}
