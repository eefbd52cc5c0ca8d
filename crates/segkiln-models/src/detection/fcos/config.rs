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

/// Configuration of an [`Fcos`](super::Fcos); the defaults are torchvision's.
///
/// ```
/// use segkiln_models::detection::fcos::FcosConfig;
///
/// let config = FcosConfig::by_name("fcos_resnet50_fpn", 3).unwrap().with_min_size(400);
/// assert_eq!((config.classes, config.center_sampling_radius), (3, 1.5));
/// ```
#[derive(Config, Debug)]
pub struct FcosConfig {
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
    /// Groups of the group normalization behind each of them; they must divide `channels`.
    #[config(default = 32)]
    pub groups: usize,
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
    /// Strides of the levels, as sizes of one square anchor at each location, in pixels: the unit of distances, and of the
    /// ranges of sizes that each level learns.
    #[config(default = "vec![8.0, 16.0, 32.0, 64.0, 128.0]")]
    pub strides: Vec<f32>,
    /// Distance from an object's center, in strides, within which locations learn it.
    #[config(default = 1.5)]
    pub center_sampling_radius: f32,
    /// Score that a detection must exceed: the root of the product of class probability and centerness.
    #[config(default = 0.2)]
    pub score_threshold: f32,
    /// IoU above which the worse of two detections of a class is dropped.
    #[config(default = 0.6)]
    pub nms_iou: f64,
    /// Most candidates of each level before non-maximum suppression.
    #[config(default = 1000)]
    pub topk_candidates: usize,
    /// Most detections of an image.
    #[config(default = 100)]
    pub max_detections: usize,
}

impl FcosConfig {
    /// The names that [`by_name`](Self::by_name) knows: torchvision's.
    pub const NAMES: [&str; 1] = ["fcos_resnet50_fpn"];

    /// torchvision's network of this name, for `classes` classes with the background.
    pub fn by_name(name: &str, classes: usize) -> Option<Self> {
        let config = Self::with_backbone(BackboneConfig::by_name("resnet50").ok()?, classes);
        (name == Self::NAMES[0]).then_some(config)
    }

    /// FCOS on any backbone, with its maps of strides 8, 16 and 32.
    pub fn with_backbone(backbone: BackboneConfig, classes: usize) -> Self {
        let stages = backbone.pyramid_stages()[1..].to_vec();
        Self::new(backbone, classes, stages)
    }

    /// Replaces the norms of the backbone by [`FrozenBatchNorm`](crate::layers::FrozenBatchNorm)s.
    pub fn with_frozen_norm(mut self, epsilon: f64) -> Self {
        self.backbone = self.backbone.with_norm(NormConfig::Frozen { epsilon });
        self
    }

    /// One square anchor at each location.
    pub(super) fn anchor_config(&self) -> AnchorConfig {
        let sizes = self.strides.iter().map(|stride| vec![*stride]).collect();
        AnchorConfig::new().with_sizes(sizes).with_ratios(vec![1.0])
    }

    /// Describes what decides which layers there are, and their sizes.
    pub(super) fn layers(&self) -> String {
        let Self { backbone, classes, stages, channels, last_level, convolutions, groups, strides, mean, .. } = self;
        let head = (convolutions, groups, strides.len());
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
        NormConfig::Group { groups: self.groups }.check(self.channels)?;
        self.transform().check(self.backbone.in_channels())?;
        self.anchor_config()
            .check(self.stages.len() + self.last_level.levels())
            .map_err(|error| ConfigError::with_message("strides", format!("strides: {error}")))?;
        // A smaller anchor would be rounded to one without area.
        if self.strides.iter().any(|stride| *stride < 2.0) {
            return Err(ConfigError::new("strides", format!("must be at least 2, are {:?}", self.strides)));
        }
        if !(self.center_sampling_radius.is_finite() && self.center_sampling_radius > 0.0) {
            let radius = self.center_sampling_radius;
            return Err(ConfigError::new("center_sampling_radius", format!("must be finite and above 0, is {radius}")));
        }
        within("topk_candidates", self.topk_candidates, 1, 1 << 20)?;
        within("max_detections", self.max_detections, 1, 1 << 20)?;
        share("score_threshold", self.score_threshold.into())?;
        share("nms_iou", self.nms_iou)?;
        self.sizes().check_products()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_out_of_range_are_named() {
        let config = || FcosConfig::by_name("fcos_resnet50_fpn", 3).unwrap();
        let refused = |config: FcosConfig| config.check().unwrap_err().to_string();
        config().check().unwrap();
        assert!(refused(config().with_max_size(0)).contains("max_size"));
        assert!(refused(config().with_channels(40)).contains("32 norm groups"));
        assert!(refused(config().with_strides(vec![8.0])).contains("strides"));
        assert!(refused(config().with_strides(vec![1.0, 16.0, 32.0, 64.0, 128.0])).contains("strides"));
        assert!(refused(config().with_center_sampling_radius(f32::NAN)).contains("center_sampling_radius"));
        assert!(refused(config().with_score_threshold(2.0)).contains("score_threshold"));
        assert!(FcosConfig::by_name("fcos_resnet51_fpn", 3).is_none());
    }

    #[test]
    fn fields_that_are_too_large_together_are_named() {
        let config = || FcosConfig::by_name("fcos_resnet50_fpn", 91).unwrap();
        for (config, part) in [
            (config().with_channels(8192), "channels"),
            (FcosConfig { classes: 100_000, ..config() }.with_min_size(4096).with_max_size(8192), "classes"),
            (config().with_convolutions(64).with_channels(4096), "convolutions"),
            (config().with_min_size(16_384).with_max_size(16_384).with_channels(1024), "min_size"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error} for {part}");
        }
        config().with_min_size(4096).with_max_size(8192).check().unwrap();
    }
}
