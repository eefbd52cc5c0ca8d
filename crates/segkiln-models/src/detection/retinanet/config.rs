use burn::config::Config;

use super::super::{
    AnchorConfig, DetectionNetworkConfig, check_stages,
    network::{share, within},
};
use crate::{
    ConfigError,
    backbones::BackboneConfig,
    layers::{LastLevel, NormConfig},
};

/// Configuration of a [`RetinaNet`](super::RetinaNet); the defaults are torchvision's.
///
/// ```
/// use segkiln_models::detection::retinanet::{BoxLoss, RetinaNetConfig};
///
/// let config = RetinaNetConfig::by_name("retinanet_resnet50_fpn_v2", 3).unwrap().with_min_size(400);
/// assert_eq!((config.classes, config.box_loss), (3, BoxLoss::GeneralizedIou));
/// ```
#[derive(Config, Debug)]
pub struct RetinaNetConfig {
    /// Backbone of the feature pyramid.
    pub backbone: BackboneConfig,
    /// Number of classes with the background, which is class 0.
    pub classes: usize,
    /// Stages of the backbone whose maps the pyramid takes, in rising order.
    pub stages: Vec<usize>,
    /// Channels of all levels of the pyramid and of the heads.
    #[config(default = 256)]
    pub channels: usize,
    /// Levels above those of the backbone's maps.
    #[config(default = "LastLevel::P6P7OnP5")]
    pub last_level: LastLevel,
    /// 3×3 convolutions of each head before its outputs.
    #[config(default = 4)]
    pub convolutions: usize,
    /// Normalization behind each of them.
    #[config(default = "NormConfig::None")]
    pub head_norm: NormConfig,
    /// Loss of the boxes.
    #[config(default = "BoxLoss::L1")]
    pub box_loss: BoxLoss,
    /// Shorter side that images are resized to, in pixels.
    #[config(default = 800)]
    pub min_size: usize,
    /// Upper bound of the longer side, in pixels.
    #[config(default = 1333)]
    pub max_size: usize,
    /// Mean of each channel of the image, whose values are from 0 to 1; ImageNet's.
    #[config(default = "vec![0.485, 0.456, 0.406]")]
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    #[config(default = "vec![0.229, 0.224, 0.225]")]
    pub std: Vec<f32>,
    /// Anchors of the levels: by default three sizes, a third of an octave apart, and three ratios.
    #[config(default = "default_anchors()")]
    pub anchors: AnchorConfig,
    /// Least IoU of an anchor that learns an object.
    #[config(default = 0.5)]
    pub foreground_iou: f32,
    /// IoU below which an anchor is background.
    #[config(default = 0.4)]
    pub background_iou: f32,
    /// Score that a detection must exceed.
    #[config(default = 0.05)]
    pub score_threshold: f32,
    /// IoU above which the worse of two detections of a class is dropped.
    #[config(default = 0.5)]
    pub nms_iou: f64,
    /// Most candidates of each level before non-maximum suppression.
    #[config(default = 1000)]
    pub topk_candidates: usize,
    /// Most detections of an image.
    #[config(default = 300)]
    pub max_detections: usize,
}

/// Loss of the boxes of a [`RetinaNet`](super::RetinaNet).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum BoxLoss {
    /// Absolute differences of box codes.
    L1,
    /// Generalized IoU of decoded boxes (Rezatofighi et al., CVPR 2019, <https://arxiv.org/abs/1902.09630>).
    GeneralizedIou,
}

fn default_anchors() -> AnchorConfig {
    AnchorConfig::with_octaves(&[32.0, 64.0, 128.0, 256.0, 512.0])
}

impl RetinaNetConfig {
    /// The names that [`by_name`](Self::by_name) knows: torchvision's.
    pub const NAMES: [&str; 2] = ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"];

    /// torchvision's network of this name, for `classes` classes with the background.
    pub fn by_name(name: &str, classes: usize) -> Option<Self> {
        let config = Self::with_backbone(BackboneConfig::by_name("resnet50").ok()?, classes);
        match name {
            "retinanet_resnet50_fpn" => Some(config),
            "retinanet_resnet50_fpn_v2" => Some(
                config
                    .with_last_level(LastLevel::P6P7OnC5)
                    .with_head_norm(NormConfig::Group { groups: 32 })
                    .with_box_loss(BoxLoss::GeneralizedIou),
            ),
            _ => None,
        }
    }

    /// RetinaNet on any backbone, with its maps of strides 8, 16 and 32.
    pub fn with_backbone(backbone: BackboneConfig, classes: usize) -> Self {
        let stages = backbone.pyramid_stages()[1..].to_vec();
        Self::new(backbone, classes, stages)
    }

    /// Replaces the norms of the backbone by [`FrozenBatchNorm`](crate::layers::FrozenBatchNorm)s.
    pub fn with_frozen_norm(mut self, epsilon: f64) -> Self {
        self.backbone = self.backbone.with_norm(NormConfig::Frozen { epsilon });
        self
    }

    pub(super) fn anchor_config(&self) -> AnchorConfig {
        self.anchors.clone()
    }

    /// Describes what decides which layers there are, and their sizes.
    pub(super) fn layers(&self) -> String {
        let Self { backbone, classes, stages, channels, last_level, convolutions, head_norm, anchors, mean, .. } = self;
        let head = (convolutions, head_norm, anchors.sizes.len(), anchors.per_location());
        format!("{:?}", (backbone, classes, stages, channels, last_level, head, mean.len()))
    }

    /// Checks that the network can be built. A config that came from a file is checked before anything is allocated.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        check_stages(&self.backbone, &self.stages)?;
        self.sizes().check()?;
        self.head_norm.check(self.channels)?;
        self.transform().check(self.backbone.in_channels())?;
        self.anchors.check(self.stages.len() + self.last_level.levels())?;
        within("topk_candidates", self.topk_candidates, 1, 1 << 20)?;
        within("max_detections", self.max_detections, 1, 1 << 20)?;
        share("foreground_iou", self.foreground_iou.into())?;
        share("background_iou", self.background_iou.into())?;
        share("score_threshold", self.score_threshold.into())?;
        share("nms_iou", self.nms_iou)?;
        if self.background_iou > self.foreground_iou {
            return Err(ConfigError::new("background_iou", "must not be above foreground_iou"));
        }
        self.sizes().check_products()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_have_torchvision_s_sizes() {
        let sizes = default_anchors().sizes;
        assert_eq!(sizes[0], [32.0, 40.0, 50.0]);
        assert_eq!(sizes[4], [512.0, 645.0, 812.0]);
    }

    #[test]
    fn fields_out_of_range_are_named() {
        let config = || RetinaNetConfig::by_name("retinanet_resnet50_fpn_v2", 3).unwrap();
        let refused = |config: RetinaNetConfig| config.check().unwrap_err().to_string();
        config().check().unwrap();
        assert!(refused(config().with_min_size(0)).contains("min_size"));
        assert!(refused(config().with_channels(48)).contains("32 norm groups"));
        assert!(refused(RetinaNetConfig { stages: vec![4, 2], ..config() }).contains("stages"));
        assert!(refused(config().with_last_level(LastLevel::MaxPool)).contains("anchor sizes"));
        assert!(refused(config().with_background_iou(0.6)).contains("background_iou"));
        assert!(refused(config().with_nms_iou(f64::NAN)).contains("nms_iou"));
        assert!(RetinaNetConfig::by_name("retinanet_resnet51_fpn", 3).is_none());
    }

    #[test]
    fn fields_that_are_too_large_together_are_named() {
        let config = || RetinaNetConfig::by_name("retinanet_resnet50_fpn", 91).unwrap();
        for (config, part) in [
            (config().with_channels(8192), "channels"),
            (RetinaNetConfig { classes: 100_000, ..config() }, "classes"),
            (config().with_convolutions(64).with_channels(4096), "convolutions"),
            (config().with_min_size(16_384).with_max_size(16_384).with_channels(1024), "min_size"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error} for {part}");
        }
        config().with_min_size(4096).with_max_size(8192).check().unwrap();
    }
}
