//! DeepLabV2: Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully
//! Connected CRFs", 2016, <https://arxiv.org/abs/1606.00915>; the variant on ResNet, whose pyramid goes straight to the
//! classes. Its random field is `segkiln_data::DenseCrf`.

use burn::{
    config::Config,
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};

use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{conv2d, resize_to},
    segmentation::{SegmentationNetwork, on_backbone, owned},
};

/// Configuration of a [`DeepLabV2`].
#[derive(Config, Debug)]
pub struct DeepLabV2Config {
    /// Backbone. The paper's is a ResNet of 101 layers with an output stride of 8; see [`BackboneConfig::with_output_stride`].
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Dilations of the pyramid's convolutions. The default is the paper's ASPP-L; its ASPP-S has 2, 4, 8 and 12.
    #[config(default = "vec![6, 12, 18, 24]")]
    pub rates: Vec<usize>,
}

impl DeepLabV2Config {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        super::check(&self.rates, 1)
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> DeepLabV2 {
        let channels = self.backbone.channels();
        let stage = channels.len() - 1;
        let rates = self.rates.iter();
        DeepLabV2 {
            backbone: self.backbone.init(device),
            aspp: rates.map(|rate| super::dilated(channels[stage], self.classes, *rate, device)).collect(),
            stage,
        }
    }
}

/// The network; see [`DeepLabV2Config`].
#[derive(Module, Debug)]
pub struct DeepLabV2 {
    /// Backbone, whose last map is used.
    pub backbone: Backbone,
    /// 3×3 convolutions to the classes, one per rate; their outputs are summed.
    pub aspp: Vec<Conv2d>,
    /// Backbone stage of the last map.
    #[module(skip)]
    stage: usize,
}

impl DeepLabV2 {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let map = self.backbone.forward(x, &[self.stage]).remove(0);
        let logits = self.aspp.iter().map(|conv| conv2d(conv, map.clone()));
        let sum = logits.reduce(|sum, logits| sum + logits).expect("there is at least one rate");
        resize_to(sum, [height, width], false)
    }
}

on_backbone!(DeepLabV2Config => DeepLabV2, "deeplabv2", |backbone, _| Ok(backbone.with_torchvision_dilation()));

impl SegmentationNetwork for DeepLabV2 {
    type Config = DeepLabV2Config;

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
        owned(&["aspp."])
    }
}
