//! DeepLabV1: Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", ICLR 2015,
//! <https://arxiv.org/abs/1412.7062>; the variant of large field of view, DeepLab-LargeFOV. Its random field is
//! `segkiln_data::DenseCrf`.

use burn::{
    config::Config,
    module::Module,
    nn::{
        Dropout, DropoutConfig,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{Activation, conv_norm, conv2d, default_initializer, resize_to},
    segmentation::{SegmentationNetwork, on_backbone, owned},
};

/// Configuration of a [`DeepLabV1`].
#[derive(Config, Debug)]
pub struct DeepLabV1Config {
    /// Backbone. The paper's is a VGG of 16 layers with an output stride of 8; see [`BackboneConfig::with_output_stride`].
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Dilation of the 3×3 convolution.
    #[config(default = 12)]
    pub rate: usize,
    /// Channels of the two layers before the classes.
    #[config(default = 1024)]
    pub channels: usize,
}

impl DeepLabV1Config {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        super::check(&[self.rate], self.channels)
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> DeepLabV1 {
        let channels = self.backbone.channels();
        let stage = channels.len() - 1;
        let one = |from, to| Conv2dConfig::new([from, to], [1, 1]).with_initializer(default_initializer()).init(device);
        DeepLabV1 {
            backbone: self.backbone.init(device),
            fc6: super::dilated(channels[stage], self.channels, self.rate, device),
            fc7: one(self.channels, self.channels),
            fc8: one(self.channels, self.classes),
            dropout: DropoutConfig::new(0.5).init(),
            stage,
        }
    }
}

/// The network; see [`DeepLabV1Config`]. The layers have the names of the classifier that they were.
#[derive(Module, Debug)]
pub struct DeepLabV1 {
    /// Backbone, whose last map is used.
    pub backbone: Backbone,
    /// 3×3, dilated.
    pub fc6: Conv2d,
    /// 1×1.
    pub fc7: Conv2d,
    /// 1×1 to the classes.
    pub fc8: Conv2d,
    /// Dropout of half the values before each of the last two convolutions, in training.
    pub dropout: Dropout,
    /// Backbone stage of the last map.
    #[module(skip)]
    stage: usize,
}

impl DeepLabV1 {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let mut x = self.backbone.forward(x, &[self.stage]).remove(0);
        for conv in [&self.fc6, &self.fc7] {
            x = self.dropout.forward(conv_norm(conv, None, Activation::Relu, x));
        }
        resize_to(conv2d(&self.fc8, x), [height, width], false)
    }
}

on_backbone!(DeepLabV1Config => DeepLabV1, "deeplabv1", |backbone, _| Ok(backbone.with_torchvision_dilation()));

impl SegmentationNetwork for DeepLabV1 {
    type Config = DeepLabV1Config;

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
        owned(&["fc8."])
    }
}
