//! Image classifiers as in torchvision's files of ImageNet weights: a backbone, and a head on its last map.

use burn::{
    config::Config,
    module::Module,
    nn::{Dropout, DropoutConfig, LayerNorm, Linear, LinearConfig},
    tensor::{Device, Tensor},
};

use super::{Backbone, BackboneConfig};
use crate::{
    ConfigError,
    layers::{Activation, adaptive_avg_pool2d, global_avg_pool2d, linear},
    weights::{TorchName, TorchNames},
};

/// Configuration of a [`Classifier`].
#[derive(Config, Debug)]
pub struct ClassifierConfig {
    /// Backbone, whose last map is classified.
    pub backbone: BackboneConfig,
    /// Classes; ImageNet's are 1000.
    #[config(default = 1000)]
    pub classes: usize,
}

impl ClassifierConfig {
    /// torchvision's or timm's classifier by the name of its backbone, one of [`BackboneConfig::NAMES`].
    ///
    /// # Errors
    /// As [`BackboneConfig::by_name`].
    pub fn by_name(name: &str) -> Result<Self, ConfigError> {
        BackboneConfig::by_name(name).map(Self::new)
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self.classes {
            1..=100_000 => self.backbone.check(),
            classes => Err(ConfigError::new("classes", format!("must be from 1 to 100000, is {classes}"))),
        }
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> Classifier {
        let last = self.backbone.channels().len() - 1;
        let head = self.backbone.classifier_head(self.classes, device);
        Classifier { backbone: self.backbone.init(device), head, last }
    }
}

/// Side of the map that VGG's fully connected layers see.
const VGG_SIDE: usize = 7;
const VGG_HIDDEN: usize = 4096;

/// The network; see [`ClassifierConfig`].
#[derive(Module, Debug)]
pub struct Classifier {
    /// Backbone, whose last map is classified.
    pub backbone: Backbone,
    /// Head that computes the logits from the last map.
    pub head: ClassifierHead,
    #[module(skip)]
    last: usize,
}

impl Classifier {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let map = self.backbone.forward(x, &[self.last]).remove(0);
        match &self.head {
            ClassifierHead::ResNet(head) => linear(&head.fc, means(map)),
            ClassifierHead::MobileNetV2(head) => linear(&head.linear, head.dropout.forward(means(map))),
            ClassifierHead::MobileNetV3(head) => {
                let hidden = Activation::HardSwish.forward(linear(&head.hidden, means(map)));
                linear(&head.linear, head.dropout.forward(hidden))
            }
            ClassifierHead::Vgg(head) => {
                let x = adaptive_avg_pool2d(map, VGG_SIDE).flatten(1, 3);
                let hidden = |layer, x| head.dropout.forward(Activation::Relu.forward(linear(layer, x)));
                linear(&head.linear, hidden(&head.second, hidden(&head.first, x)))
            }
            ClassifierHead::ConvNeXt(head) => linear(&head.linear, head.norm.forward(means(map))),
        }
    }
}

fn layer(from: usize, to: usize, device: &Device) -> Linear {
    LinearConfig::new(from, to).init(device)
}

fn means(map: Tensor<4>) -> Tensor<2> {
    global_avg_pool2d(map).flatten(1, 3)
}

/// The fully connected layers of each backbone.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum ClassifierHead {
    /// One.
    ResNet(ResNetHead),
    /// One, after a dropout; of EfficientNet too.
    MobileNetV2(MobileNetV2Head),
    /// Two.
    MobileNetV3(MobileNetV3Head),
    /// Three.
    Vgg(VggHead),
    /// One, after a norm.
    ConvNeXt(ConvNeXtHead),
}

/// One fully connected layer.
#[derive(Module, Debug)]
pub struct ResNetHead {
    /// Linear layer to the classes.
    pub fc: Linear,
}

impl ResNetHead {
    pub(super) fn new(channels: usize, classes: usize, device: &Device) -> Self {
        Self { fc: layer(channels, classes, device) }
    }
}

/// One fully connected layer.
#[derive(Module, Debug)]
pub struct MobileNetV2Head {
    /// Dropout, in training.
    pub dropout: Dropout,
    /// Linear layer to the classes.
    pub linear: Linear,
}

impl MobileNetV2Head {
    pub(super) fn new(channels: usize, classes: usize, dropout: f64, device: &Device) -> Self {
        Self { dropout: DropoutConfig::new(dropout).init(), linear: layer(channels, classes, device) }
    }
}

/// Two fully connected layers.
#[derive(Module, Debug)]
pub struct MobileNetV3Head {
    /// Linear layer to more channels.
    pub hidden: Linear,
    /// Dropout, in training.
    pub dropout: Dropout,
    /// Linear layer to the classes.
    pub linear: Linear,
}

impl MobileNetV3Head {
    pub(super) fn new(channels: usize, hidden: usize, classes: usize, device: &Device) -> Self {
        Self {
            hidden: layer(channels, hidden, device),
            dropout: DropoutConfig::new(0.2).init(),
            linear: layer(hidden, classes, device),
        }
    }
}

/// Three fully connected layers.
#[derive(Module, Debug)]
pub struct VggHead {
    /// Layer from the 7×7 map.
    pub first: Linear,
    /// Layer from the first one's output.
    pub second: Linear,
    /// Dropout in training, after both.
    pub dropout: Dropout,
    /// Layer to the classes.
    pub linear: Linear,
}

impl VggHead {
    pub(super) fn new(channels: usize, classes: usize, device: &Device) -> Self {
        Self {
            first: layer(VGG_SIDE * VGG_SIDE * channels, VGG_HIDDEN, device),
            second: layer(VGG_HIDDEN, VGG_HIDDEN, device),
            dropout: DropoutConfig::new(0.5).init(),
            linear: layer(VGG_HIDDEN, classes, device),
        }
    }
}

/// Layer norm and one fully connected layer.
#[derive(Module, Debug)]
pub struct ConvNeXtHead {
    /// Layer norm of the globally averaged map.
    pub norm: LayerNorm,
    /// Layer to the classes.
    pub linear: Linear,
}

pub(super) const TORCH_NAMES: TorchNames = &[
    ("Classifier", "backbone", TorchName::Flat),
    ("Classifier", "head", TorchName::Flat),
    ("MobileNetV2Head", "linear", TorchName::Is("classifier.1")),
    ("MobileNetV3Head", "hidden", TorchName::Is("classifier.0")),
    ("MobileNetV3Head", "linear", TorchName::Is("classifier.3")),
    ("VggHead", "first", TorchName::Is("classifier.0")),
    ("VggHead", "second", TorchName::Is("classifier.3")),
    ("VggHead", "linear", TorchName::Is("classifier.6")),
    ("ConvNeXtHead", "norm", TorchName::Is("classifier.0")),
    ("ConvNeXtHead", "linear", TorchName::Is("classifier.2")),
];
