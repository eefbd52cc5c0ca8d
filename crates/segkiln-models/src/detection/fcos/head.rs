use burn::{
    module::Module,
    nn::{GroupNorm, GroupNormConfig, Relu, conv::Conv2d},
    tensor::{Device, Tensor, activation::relu},
};

use super::{
    super::{
        dense::{class_conv, head_conv, predict},
        flatten_predictions,
        predictions::HeadOutputs,
    },
    FcosConfig,
};
use crate::layers::conv2d;

/// Heads of an [`Fcos`](super::Fcos), the same for all levels.
#[derive(Module, Debug)]
pub struct FcosHead {
    /// Classes of the locations.
    pub classification_head: FcosClassificationHead,
    /// Boxes and centerness of the locations.
    pub regression_head: FcosRegressionHead,
}

/// Convolutions and logits of each location's classes.
#[derive(Module, Debug)]
pub struct FcosClassificationHead {
    /// Convolution, norm and ReLU in turn.
    pub conv: Vec<FcosLayer>,
    /// 3×3 to one channel a class.
    pub cls_logits: Conv2d,
}

/// Convolutions, distances to the sides of each location's box, and its centerness.
#[derive(Module, Debug)]
pub struct FcosRegressionHead {
    /// Convolution, norm and ReLU in turn.
    pub conv: Vec<FcosLayer>,
    /// 3×3 to four channels, behind which is a ReLU.
    pub bbox_reg: Conv2d,
    /// 3×3 to one channel.
    pub bbox_ctrness: Conv2d,
}

/// A layer of the heads, which PyTorch numbers one by one.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a handful of layers")]
pub enum FcosLayer {
    /// 3×3 convolution with a bias.
    Conv(Conv2d),
    /// Group normalization.
    Norm(GroupNorm),
    /// ReLU.
    Relu(Relu),
}

impl FcosLayer {
    /// # Shapes
    /// `[n, channels, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Conv(conv) => conv2d(conv, x),
            Self::Norm(norm) => norm.forward(x),
            Self::Relu(_) => relu(x),
        }
    }
}

impl FcosHead {
    pub(super) fn new(config: &FcosConfig, device: &Device) -> Self {
        let FcosConfig { channels, classes, convolutions, groups, .. } = *config;
        let tower = || {
            let block = |_| {
                [
                    FcosLayer::Conv(head_conv(channels, channels, device)),
                    FcosLayer::Norm(GroupNormConfig::new(groups, channels).init(device)),
                    FcosLayer::Relu(Relu::new()),
                ]
            };
            (0..convolutions).flat_map(block).collect()
        };
        Self {
            classification_head: FcosClassificationHead {
                conv: tower(),
                cls_logits: class_conv(channels, classes, device),
            },
            regression_head: FcosRegressionHead {
                conv: tower(),
                bbox_reg: head_conv(channels, 4, device),
                bbox_ctrness: head_conv(channels, 1, device),
            },
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` of each level → [`HeadOutputs`]
    pub(super) fn forward(&self, maps: &[Tensor<4>], classes: usize) -> HeadOutputs {
        let tower =
            |layers: &[FcosLayer], map: &Tensor<4>| layers.iter().fold(map.clone(), |x, layer| layer.forward(x));
        let Self { classification_head: class, regression_head: boxes } = self;
        let mut outputs = HeadOutputs { logits: Vec::new(), codes: Vec::new(), centerness: Vec::new() };
        for map in maps {
            outputs.logits.push(predict(&class.cls_logits, tower(&class.conv, map), classes));
            let x = tower(&boxes.conv, map);
            outputs.codes.push(flatten_predictions(relu(conv2d(&boxes.bbox_reg, x.clone())), 4));
            outputs.centerness.push(predict(&boxes.bbox_ctrness, x, 1));
        }
        outputs
    }
}
