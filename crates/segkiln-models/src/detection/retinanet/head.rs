use burn::{
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};

use super::{
    super::{
        dense::{class_conv, head_conv, head_initializer, predict},
        predictions::HeadOutputs,
    },
    RetinaNetConfig,
};
use crate::layers::{ConvBlock, ConvBlockConfig};

/// Heads of a [`RetinaNet`](super::RetinaNet), the same for all levels.
#[derive(Module, Debug)]
pub struct RetinaNetHead {
    /// Classes of the anchors.
    pub classification_head: RetinaNetClassificationHead,
    /// Boxes of the anchors.
    pub regression_head: RetinaNetRegressionHead,
}

/// Convolutions and logits of each anchor's classes.
#[derive(Module, Debug)]
pub struct RetinaNetClassificationHead {
    /// 3×3, each with norm and ReLU.
    pub conv: Vec<ConvBlock>,
    /// 3×3 to `anchors · classes` channels.
    pub cls_logits: Conv2d,
}

/// Convolutions and codes of each anchor's box.
#[derive(Module, Debug)]
pub struct RetinaNetRegressionHead {
    /// 3×3, each with norm and ReLU.
    pub conv: Vec<ConvBlock>,
    /// 3×3 to `anchors · 4` channels.
    pub bbox_reg: Conv2d,
}

impl RetinaNetHead {
    pub(super) fn new(config: &RetinaNetConfig, device: &Device) -> Self {
        let RetinaNetConfig { channels, classes, convolutions, head_norm, .. } = config;
        let anchors = config.anchors.per_location();
        let block = ConvBlockConfig::new(*channels, *channels)
            .with_norm(head_norm.clone())
            .with_initializer(head_initializer());
        let tower = || (0..*convolutions).map(|_| block.init(device).with_zero_bias(device)).collect();
        Self {
            classification_head: RetinaNetClassificationHead {
                conv: tower(),
                cls_logits: class_conv(*channels, anchors * classes, device),
            },
            regression_head: RetinaNetRegressionHead {
                conv: tower(),
                bbox_reg: head_conv(*channels, anchors * 4, device),
            },
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` of each level → [`HeadOutputs`]
    pub(super) fn forward(&self, maps: &[Tensor<4>], classes: usize) -> HeadOutputs {
        let tower = |conv: &[ConvBlock], map: &Tensor<4>| conv.iter().fold(map.clone(), |x, block| block.forward(x));
        let Self { classification_head: class, regression_head: boxes } = self;
        HeadOutputs {
            logits: maps.iter().map(|map| predict(&class.cls_logits, tower(&class.conv, map), classes)).collect(),
            codes: maps.iter().map(|map| predict(&boxes.bbox_reg, tower(&boxes.conv, map), 4)).collect(),
            centerness: Vec::new(),
        }
    }
}
