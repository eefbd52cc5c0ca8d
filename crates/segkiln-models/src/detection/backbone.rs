use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};

use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{FeaturePyramid, LastLevel, NormConfig},
    weights::{WeightsError, each_name, torch_contents},
};

/// Backbone with a feature pyramid, which all detectors here begin with.
#[derive(Module, Debug)]
pub struct BackboneWithFpn {
    /// Feature maps of the image.
    pub body: Backbone,
    /// Feature pyramid on them.
    pub fpn: FeaturePyramid,
}

impl BackboneWithFpn {
    /// Backbone and pyramid with random weights; `stages` are the backbone's stages that the pyramid takes, `channels` those
    /// of all its levels.
    ///
    /// # Panics
    /// If the backbone has no such stage; [`check_stages`] finds it.
    pub fn new(
        backbone: &BackboneConfig,
        stages: &[usize],
        channels: usize,
        norm: &NormConfig,
        last: LastLevel,
        device: &Device,
    ) -> Self {
        let available = backbone.channels();
        let in_channels: Vec<usize> = stages.iter().map(|stage| available[*stage]).collect();
        Self {
            body: backbone.init(device),
            fpn: FeaturePyramid::new(&in_channels, channels, norm, device).with_last_level(last, device),
        }
    }

    /// Levels of the pyramid, the finest first.
    ///
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, channels, ⌈h / stride⌉, ⌈w / stride⌉]` for each level
    pub fn forward(&self, images: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        self.fpn.forward(self.body.forward(images, stages))
    }
}

/// torchvision's names of before 0.13, when the pyramid's convolutions had no list of layers.
pub(super) fn other_names(names: &[&str]) -> Vec<(String, String)> {
    each_name(names, |parts| match *parts {
        ["backbone", "fpn", blocks @ ("inner_blocks" | "layer_blocks"), index, "0", kind] => {
            vec![format!("backbone.fpn.{blocks}.{index}.{kind}")]
        }
        _ => Vec::new(),
    })
}

/// Checks that `stages` rise and that the backbone has them.
///
/// # Errors
/// A sentence that names the field.
pub fn check_stages(backbone: &BackboneConfig, stages: &[usize]) -> Result<(), ConfigError> {
    let available = backbone.channels().len();
    if stages.is_empty() || !stages.is_sorted_by(|a, b| a < b) || stages.iter().any(|stage| *stage >= available) {
        return Err(ConfigError::new("stages", format!("must rise and be below {available}, are {stages:?}")));
    }
    Ok(())
}

/// Reads from a file of weights the epsilon of the frozen norms that they were trained with, if it is not the usual 1e-5: 0
/// for torchvision's `fasterrcnn_resnet50_fpn`, `maskrcnn_resnet50_fpn` and `retinanet_resnet50_fpn` trained on COCO.
///
/// These are known by their 91 classes, and by norms that do not count batches, as only frozen ones do.
///
/// # Errors
/// [`WeightsError::Read`].
pub fn frozen_epsilon(path: &Path) -> Result<Option<f64>, WeightsError> {
    /// Logits of 91 classes: in R-CNN's box head, and of RetinaNet's nine anchors.
    const COCO: [(&str, usize); 2] =
        [("roi_heads.box_predictor.cls_score.bias", 91), ("head.classification_head.cls_logits.bias", 9 * 91)];
    let contents = torch_contents(path)?;
    let has = |part: &str| contents.iter().any(|(name, _)| name.contains(part));
    let coco = contents
        .iter()
        .any(|(name, shape)| COCO.iter().any(|(bias, classes)| name.ends_with(bias) && shape[..] == [*classes]));
    let is_frozen = coco && has("backbone.body.layer1.0.bn1") && !has(".num_batches_tracked");
    Ok(is_frozen.then_some(0.0))
}
