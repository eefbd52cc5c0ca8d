use std::{fmt, path::Path, str::FromStr};

use super::{
    AnchorConfig, DetectorConfig,
    fcos::FcosConfig,
    frozen_epsilon,
    rcnn::{MaskConfig, RcnnConfig},
    retinanet::{BoxLoss, RetinaNetConfig},
};
use crate::{ConfigError, backbones::BackboneConfig, layers::NormConfig, weights::WeightsError};

/// Family of detectors, which [`DetectorConfig::on_backbone`] puts on any backbone.
///
/// ```
/// use segkiln_models::detection::DetectorKind;
///
/// assert_eq!("retinanet".parse(), Ok(DetectorKind::RetinaNet));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DetectorKind {
    /// Mask R-CNN.
    MaskRcnn,
    /// Faster R-CNN.
    FasterRcnn,
    /// RetinaNet.
    RetinaNet,
    /// FCOS.
    Fcos,
}

impl DetectorKind {
    /// Names of all families and what they stand for.
    pub const NAMES: [(&str, Self); 4] =
        [("mask", Self::MaskRcnn), ("faster", Self::FasterRcnn), ("retinanet", Self::RetinaNet), ("fcos", Self::Fcos)];

    /// Whether objects have masks.
    pub fn has_masks(self) -> bool {
        self == Self::MaskRcnn
    }

    /// Whether boxes are found without proposals.
    pub fn is_dense(self) -> bool {
        matches!(self, Self::RetinaNet | Self::Fcos)
    }
}

impl fmt::Display for DetectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for DetectorKind {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let known = || Self::NAMES.map(|(name, _)| name).join(", ");
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, kind)| *kind)
            .ok_or_else(|| ConfigError::with_message("arch", format!("there is no {text:?}; known are {}", known())))
    }
}

impl DetectorConfig {
    /// Detector of a family on any backbone, for `classes` classes with the background, as torchvision builds it.
    pub fn on_backbone(kind: DetectorKind, backbone: BackboneConfig, classes: usize) -> Self {
        match kind {
            DetectorKind::MaskRcnn => {
                RcnnConfig::with_backbone(backbone, classes).with_mask(Some(MaskConfig::new())).into()
            }
            DetectorKind::FasterRcnn => RcnnConfig::with_backbone(backbone, classes).into(),
            DetectorKind::RetinaNet => RetinaNetConfig::with_backbone(backbone, classes).into(),
            DetectorKind::Fcos => FcosConfig::with_backbone(backbone, classes).into(),
        }
    }

    /// Sets the channels of the feature pyramid.
    pub fn with_channels(self, channels: usize) -> Self {
        match self {
            Self::Rcnn(config) => config.with_channels(channels).into(),
            Self::RetinaNet(config) => config.with_channels(channels).into(),
            Self::Fcos(config) => config.with_channels(channels).into(),
        }
    }

    /// Reduces the network for few images of one or a few classes of small objects: a quarter of the channels and of the
    /// anchors' sides, fewer proposals and, for RetinaNet, the heads of its second version, because heads without norm
    /// hardly learn from random weights in few steps.
    pub fn reduced(self) -> Self {
        match self.with_channels(64).with_anchor_sizes(vec![8.0, 16.0, 32.0, 64.0, 128.0]) {
            Self::Rcnn(config) => {
                let roi = config.roi.clone().with_representation(256).with_samples(128);
                let rpn = config.rpn.clone().with_before_nms_train(500).with_after_nms_train(500);
                let mask = config.mask.clone().map(|mask| mask.with_channels(64));
                config.with_roi(roi).with_rpn(rpn.with_before_nms(500).with_after_nms(500)).with_mask(mask).into()
            }
            Self::RetinaNet(config) => {
                config.with_head_norm(NormConfig::Group { groups: 32 }).with_box_loss(BoxLoss::GeneralizedIou).into()
            }
            Self::Fcos(config) => config.into(),
        }
    }

    /// Sets the sides of anchors in pixels of what the network sees. R-CNN takes one size a level of its pyramid where there are
    /// as many, else all sizes on each; RetinaNet adds two thirds of an octave to each level's; FCOS takes them for the units
    /// of distances.
    pub fn with_anchor_sizes(self, sizes: Vec<f32>) -> Self {
        match self {
            Self::Rcnn(config) => {
                let levels = config.stages.len() + 1;
                let sizes = match sizes.len() == levels {
                    true => sizes.into_iter().map(|size| vec![size]).collect(),
                    false => vec![sizes; levels],
                };
                config.with_anchors(AnchorConfig::new().with_sizes(sizes)).into()
            }
            Self::RetinaNet(config) => config.with_anchors(AnchorConfig::with_octaves(&sizes)).into(),
            Self::Fcos(config) => config.with_strides(sizes).into(),
        }
    }
}

/// Gives a backbone the norms that torchvision's detectors have, whatever its classifiers have: ones that learn, or frozen
/// ones with the epsilon that the file of weights to begin with was trained with. Where `frozen` is not given, they are
/// where a file of PyTorch's weights is.
///
/// # Errors
/// [`WeightsError::Read`].
pub fn with_detector_norms(
    backbone: BackboneConfig,
    frozen: Option<bool>,
    weights: Option<&Path>,
) -> Result<BackboneConfig, WeightsError> {
    let theirs = weights.filter(|path| path.extension().is_none_or(|extension| extension != "bpk"));
    let norm = match frozen.unwrap_or(theirs.is_some()) {
        false => NormConfig::default(),
        true => NormConfig::Frozen { epsilon: theirs.map(frozen_epsilon).transpose()?.flatten().unwrap_or(1e-5) },
    };
    Ok(backbone.with_norm(norm))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::DetectionNetworkConfig;

    #[test]
    fn families_are_known_by_name_and_can_be_built() {
        let backbone = BackboneConfig::by_name("resnet18").unwrap();
        for (name, kind) in DetectorKind::NAMES {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
            let config = DetectorConfig::on_backbone(kind, backbone.clone(), 3);
            config.clone().reduced().check().unwrap();
            config.check().unwrap();
            assert_eq!((config.classes(), config.has_masks()), (3, kind.has_masks()));
        }
        let error = "yolo".parse::<DetectorKind>().unwrap_err().to_string();
        assert!(error.contains("mask, faster, retinanet, fcos"), "{error}");
    }

    #[test]
    fn sizes_are_of_levels_or_of_all() {
        let backbone = BackboneConfig::by_name("resnet18").unwrap();
        let of = |sizes: Vec<f32>| {
            let config = DetectorConfig::on_backbone(DetectorKind::FasterRcnn, backbone.clone(), 2);
            match config.with_anchor_sizes(sizes) {
                DetectorConfig::Rcnn(config) => config.anchors.sizes,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(of(vec![1.0, 2.0, 3.0, 4.0, 5.0])[1], [2.0]);
        assert_eq!(of(vec![1.0, 2.0]), vec![vec![1.0, 2.0]; 5]);
    }
}
