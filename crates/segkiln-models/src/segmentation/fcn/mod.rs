//! Fully convolutional networks: Long, Shelhamer, Darrell, CVPR 2015, <https://arxiv.org/abs/1411.4038>; as torchvision has
//! them, on a dilated backbone.

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
    layers::{ConvBlock, ConvBlockConfig, NormConfig, conv2d, default_initializer, resize_to},
    precision::keep_reduced,
    weights::TorchName,
};

/// Configuration of an [`Fcn`].
#[derive(Config, Debug)]
pub struct FcnConfig {
    /// Backbone. In torchvision's, the last two stages dilate.
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Whether a second head learns from an earlier map.
    #[config(default = false)]
    pub aux: bool,
}

impl FcnConfig {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> Fcn {
        let channels = self.backbone.channels();
        let stages = [self.backbone.aux_stage(), channels.len() - 1];
        let head = |stage: usize| FcnHead::new(channels[stage], self.classes, device);
        Fcn {
            backbone: self.backbone.init(device),
            classifier: head(stages[1]),
            aux_classifier: self.aux.then(|| head(stages[0])),
            stages,
        }
    }
}

/// The network; see [`FcnConfig`].
#[derive(Module, Debug)]
pub struct Fcn {
    /// Backbone.
    pub backbone: Backbone,
    /// Head on the last map.
    pub classifier: FcnHead,
    /// Auxiliary head on an earlier map.
    pub aux_classifier: Option<FcnHead>,
    /// Backbone stages of the earlier map and the last.
    #[module(skip)]
    stages: [usize; 2],
}

/// The maps of a backbone's two stages through the heads, at the image's size.
pub(crate) fn with_aux(
    backbone: &Backbone,
    stages: [usize; 2],
    aux: Option<&FcnHead>,
    x: Tensor<4>,
    classifier: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Vec<Tensor<4>> {
    let [_, _, height, width] = x.dims();
    // All that happens to a map is in a layer.
    let logits = keep_reduced(|| {
        let mut maps = backbone.forward(x, if aux.is_some() { &stages } else { &stages[1..] });
        let last = maps.pop().expect("a stage was asked for");
        let mut logits: Vec<Tensor<4>> = aux.into_iter().zip(maps).map(|(head, map)| head.forward(map)).collect();
        logits.push(classifier(last));
        logits
    });
    logits.into_iter().map(|logits| resize_to(logits, [height, width], false)).collect()
}

/// 3×3 to a quarter of the channels, then 1×1 to the classes.
#[derive(Module, Debug)]
pub struct FcnHead {
    /// 3×3.
    pub block: ConvBlock,
    /// Dropout of one value in ten, in training.
    pub dropout: Dropout,
    /// 1×1.
    pub classifier: Conv2d,
}

impl FcnHead {
    /// Creates the head with random weights (PyTorch's default).
    pub fn new(in_channels: usize, classes: usize, device: &Device) -> Self {
        let inner = (in_channels / 4).max(1);
        Self {
            block: ConvBlockConfig::new(in_channels, inner).with_norm(NormConfig::default()).init(device),
            dropout: DropoutConfig::new(0.1).init(),
            classifier: Conv2dConfig::new([inner, classes], [1, 1])
                .with_initializer(default_initializer())
                .init(device),
        }
    }

    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(&self.classifier, self.dropout.forward(self.block.forward(x)))
    }
}

/// Implements [`SegmentationNetwork`](crate::SegmentationNetwork), and its config, for a network of torchvision's form: a
/// classifier on the last map of a dilated backbone and, in `aux_classifier`, perhaps an [`FcnHead`] on an earlier one.
macro_rules! with_aux_classifier {
    ($config:ident => $network:ident, $name:literal, $torch_names:expr) => {
        impl $network {
            /// # Shapes
            /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
            pub fn forward(&self, x: burn::tensor::Tensor<4>) -> burn::tensor::Tensor<4> {
                let classifier = |map| self.classifier.forward(map);
                crate::fcn::with_aux(&self.backbone, self.stages, None, x, classifier).remove(0)
            }

            /// The logits of the auxiliary head, if there is one, then those that count.
            ///
            /// # Shapes
            /// `[n, in_channels, h, w]` → at least one `[n, classes, h, w]`
            pub fn forward_all(&self, x: burn::tensor::Tensor<4>) -> Vec<burn::tensor::Tensor<4>> {
                let classifier = |map| self.classifier.forward(map);
                crate::fcn::with_aux(&self.backbone, self.stages, self.aux_classifier.as_ref(), x, classifier)
            }
        }

        crate::segmentation::on_backbone!($config => $network, $name, |backbone, _| Ok(backbone.with_torchvision_dilation()),
            fn with_aux(self, aux: bool) -> Self {
                Self { aux, ..self }
            }
        );

        impl crate::SegmentationNetwork for $network {
            type Config = $config;

            const TORCH_NAMES: crate::weights::TorchNames = $torch_names;

            fn forward(&self, x: burn::tensor::Tensor<4>) -> burn::tensor::Tensor<4> {
                self.forward(x)
            }

            fn backbone(&self) -> Option<&crate::backbones::Backbone> {
                Some(&self.backbone)
            }

            fn backbones_mut(&mut self) -> Vec<&mut crate::backbones::Backbone> {
                vec![&mut self.backbone]
            }

            fn class_tensors(&self) -> Vec<String> {
                crate::segmentation::owned(&["classifier.4.", "aux_classifier.4."])
            }

            fn forward_heads(&self, x: burn::tensor::Tensor<4>) -> Vec<crate::segmentation::HeadLogits> {
                crate::segmentation::auxiliary(self.forward_all(x))
            }

            fn training_tensors(&self) -> Vec<String> {
                crate::segmentation::owned(if self.aux_classifier.is_some() { &[] } else { &["aux_classifier."] })
            }
        }
    };
}

pub(crate) use with_aux_classifier;

with_aux_classifier!(FcnConfig => Fcn, "fcn", &[
    ("Fcn", "backbone", TorchName::Layers("backbone")),
    ("FcnHead", "block", TorchName::Flat),
    ("FcnHead", "classifier", TorchName::Is("4")),
]);
