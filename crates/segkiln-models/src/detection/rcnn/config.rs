use std::path::Path;

use burn::config::Config;

use burn::tensor::Device;

use super::{
    super::{
        AnchorConfig, DetectionError, DetectionNetworkConfig, DetectionOptions, ImageTransform, check_stages,
        frozen_epsilon,
        network::{share, within},
    },
    Rcnn,
};
use crate::{
    ConfigError,
    backbones::BackboneConfig,
    bounds::{self, product},
    layers::NormConfig,
    weights::WeightsError,
};

/// Configuration of an [`Rcnn`](super::Rcnn); the defaults are torchvision's.
///
/// ```
/// use segkiln_models::detection::rcnn::RcnnConfig;
///
/// let config = RcnnConfig::by_name("maskrcnn_resnet50_fpn", 3).unwrap().with_min_size(400);
/// assert_eq!((config.classes, config.roi.detections), (3, 100));
/// ```
#[derive(Config, Debug)]
pub struct RcnnConfig {
    /// Backbone of the feature pyramid.
    pub backbone: BackboneConfig,
    /// Classes with the background, which is class 0.
    pub classes: usize,
    /// The stages of the backbone whose maps are used, in rising order.
    pub stages: Vec<usize>,
    /// Channels of all maps of the pyramid.
    #[config(default = 256)]
    pub channels: usize,
    /// The normalization in the pyramid.
    #[config(default = "NormConfig::None")]
    pub pyramid_norm: NormConfig,
    /// The shorter side that images are resized to, in pixels.
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
    /// The boxes that are tried.
    #[config(default = "AnchorConfig::new()")]
    pub anchors: AnchorConfig,
    /// How proposals are made.
    #[config(default = "RpnConfig::new()")]
    pub rpn: RpnConfig,
    /// How objects are made of proposals.
    #[config(default = "RoiConfig::new()")]
    pub roi: RoiConfig,
    /// How masks are made, if they are.
    #[config(default = "None")]
    pub mask: Option<MaskConfig>,
}

/// The region proposal network.
#[derive(Config, Debug)]
pub struct RpnConfig {
    /// 3×3 convolutions before the outputs.
    #[config(default = 1)]
    pub convolutions: usize,
    /// Least overlap of an object's anchor.
    #[config(default = 0.7)]
    pub foreground: f32,
    /// Overlap below which an anchor is background.
    #[config(default = 0.3)]
    pub background: f32,
    /// Anchors of an image that a training step looks at.
    #[config(default = 256)]
    pub samples: usize,
    /// The largest share of them that are objects'.
    #[config(default = 0.5)]
    pub positive: f64,
    /// Best proposals of each map in training, before overlapping ones are left out.
    #[config(default = 2000)]
    pub before_nms_train: usize,
    /// Best proposals of each map in evaluation, before overlapping ones are left out.
    #[config(default = 1000)]
    pub before_nms: usize,
    /// Best proposals of an image in training, after overlapping ones are left out.
    #[config(default = 2000)]
    pub after_nms_train: usize,
    /// Best proposals of an image in evaluation, after overlapping ones are left out.
    #[config(default = 1000)]
    pub after_nms: usize,
    /// Overlap above which the worse of two proposals of one map is left out.
    #[config(default = 0.7)]
    pub nms: f64,
    /// Least score of a proposal.
    #[config(default = 0.0)]
    pub score: f32,
    /// Least side of a proposal, in pixels of what the network sees.
    #[config(default = 1e-3)]
    pub min_size: f32,
}

/// Heads that find the class and box of proposals.
#[derive(Config, Debug)]
pub struct RoiConfig {
    /// Values of a proposal's features in each direction.
    #[config(default = 7)]
    pub size: usize,
    /// Points in each direction whose mean is such a value.
    #[config(default = 2)]
    pub sampling: usize,
    /// The layers between features and outputs.
    #[config(default = "BoxHeadKind::Mlp")]
    pub head: BoxHeadKind,
    /// Values that describe a proposal.
    #[config(default = 1024)]
    pub representation: usize,
    /// Least overlap of an object's proposal.
    #[config(default = 0.5)]
    pub foreground: f32,
    /// Overlap below which a proposal is background.
    #[config(default = 0.5)]
    pub background: f32,
    /// Proposals of an image that a training step looks at.
    #[config(default = 512)]
    pub samples: usize,
    /// The largest share of them that are objects'.
    #[config(default = 0.25)]
    pub positive: f64,
    /// Weights of the box coder.
    #[config(default = "[10.0, 10.0, 5.0, 5.0]")]
    pub weights: [f32; 4],
    /// Score that a detection must exceed.
    #[config(default = 0.05)]
    pub score: f32,
    /// Overlap above which the worse of two detections of a class is left out.
    #[config(default = 0.5)]
    pub nms: f64,
    /// Most detections of an image.
    #[config(default = 100)]
    pub detections: usize,
}

/// The layers between a proposal's features and its outputs.
#[derive(Config, Debug, PartialEq)]
pub enum BoxHeadKind {
    /// Two fully connected layers.
    Mlp,
    /// Four 3×3 convolutions with this normalization, then one fully connected layer.
    ConvFc {
        /// After each convolution.
        norm: NormConfig,
    },
}

/// Head that finds the mask of a detection.
#[derive(Config, Debug)]
pub struct MaskConfig {
    /// Values of a box's features in each direction; the mask has twice as many.
    #[config(default = 14)]
    pub size: usize,
    /// 3×3 convolutions before the mask.
    #[config(default = 4)]
    pub convolutions: usize,
    /// Their channels.
    #[config(default = 256)]
    pub channels: usize,
    /// The normalization after each.
    #[config(default = "NormConfig::None")]
    pub norm: NormConfig,
    /// Probability that a pixel of the mask exceeds.
    #[config(default = 0.5)]
    pub threshold: f32,
}

impl RcnnConfig {
    /// The names that [`by_name`](Self::by_name) knows: torchvision's.
    pub const NAMES: [&str; 6] = [
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "maskrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn_v2",
    ];

    /// torchvision's network of this name, for `classes` classes with the background.
    pub fn by_name(name: &str, classes: usize) -> Option<Self> {
        let backbone = |name| BackboneConfig::by_name(name).expect("a name of the list");
        let resnet = || Self::with_backbone(backbone("resnet50"), classes);
        let mobilenet =
            || Self::with_backbone(backbone("mobilenet_v3_large").with_norm(NormConfig::default()), classes);
        let second = |config: Self| {
            let norm = NormConfig::default();
            let rpn = config.rpn.clone().with_convolutions(2);
            let roi = config.roi.clone().with_head(BoxHeadKind::ConvFc { norm: norm.clone() });
            config.with_pyramid_norm(norm).with_rpn(rpn).with_roi(roi)
        };
        Some(match name {
            "fasterrcnn_resnet50_fpn" => resnet(),
            "fasterrcnn_resnet50_fpn_v2" => second(resnet()),
            "maskrcnn_resnet50_fpn" => resnet().with_mask(Some(MaskConfig::new())),
            "maskrcnn_resnet50_fpn_v2" => {
                second(resnet()).with_mask(Some(MaskConfig::new().with_norm(NormConfig::default())))
            }
            "fasterrcnn_mobilenet_v3_large_fpn" => mobilenet(),
            "fasterrcnn_mobilenet_v3_large_320_fpn" => {
                let config = mobilenet().with_min_size(320).with_max_size(640);
                let rpn = config.rpn.clone().with_before_nms(150).with_after_nms(150);
                config.with_rpn(rpn)
            }
            _ => return None,
        })
    }

    /// A Faster R-CNN on any backbone, with the anchors and the least score of proposals that torchvision takes for it.
    pub fn with_backbone(backbone: BackboneConfig, classes: usize) -> Self {
        let stages = backbone.detection_stages();
        let maps = stages.len() + 1;
        // One size a map where there are as many, else all sizes on each.
        let anchors = match maps {
            5 => AnchorConfig::new(),
            _ => AnchorConfig::new().with_sizes(vec![vec![32.0, 64.0, 128.0, 256.0, 512.0]; maps]),
        };
        let score = backbone.min_proposal_score();
        Self::new(backbone, classes, stages).with_anchors(anchors).with_rpn(RpnConfig::new().with_score(score))
    }

    /// Returns the config with frozen norms in the backbone; see [`FrozenBatchNorm`](crate::layers::FrozenBatchNorm).
    pub fn with_frozen_norm(mut self, epsilon: f64) -> Self {
        self.backbone = self.backbone.with_norm(NormConfig::Frozen { epsilon });
        self
    }

    /// Describes what decides which layers there are, and their sizes.
    pub(super) fn layers(&self) -> String {
        let Self { backbone, classes, stages, channels, pyramid_norm, anchors, rpn, roi, mask, mean, .. } = self;
        let mask = mask.as_ref().map(|mask| (mask.size, mask.convolutions, mask.channels, &mask.norm));
        let heads =
            (anchors.sizes.len(), anchors.per_location(), rpn.convolutions, roi.size, &roi.head, roi.representation);
        format!("{:?}", (backbone, classes, stages, channels, pyramid_norm, heads, mask, mean.len()))
    }

    /// Whether the network can be built. A config that came from a file is checked before anything is allocated.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        check_stages(&self.backbone, &self.stages)?;
        within("classes", self.classes, 2, 100_000)?;
        within("channels", self.channels, 1, 8192)?;
        self.pyramid_norm.check(self.channels)?;
        self.transform().check(self.backbone.in_channels())?;
        self.anchors.check(self.stages.len() + 1)?;
        within("rpn convolutions", self.rpn.convolutions, 1, 64)?;
        within("rpn samples", self.rpn.samples, 1, 1 << 20)?;
        for (name, value) in [
            ("rpn before_nms", self.rpn.before_nms),
            ("rpn before_nms_train", self.rpn.before_nms_train),
            ("rpn after_nms", self.rpn.after_nms),
            ("rpn after_nms_train", self.rpn.after_nms_train),
        ] {
            within(name, value, 1, 1 << 20)?;
        }
        if !(self.rpn.min_size.is_finite() && self.rpn.min_size > 0.0) {
            return Err(ConfigError::new(
                "rpn min_size",
                format!("must be finite and above 0, is {}", self.rpn.min_size),
            ));
        }
        within("roi size", self.roi.size, 1, 64)?;
        within("roi sampling", self.roi.sampling, 1, 64)?;
        within("roi representation", self.roi.representation, 1, 1 << 16)?;
        within("roi samples", self.roi.samples, 1, 1 << 20)?;
        within("roi detections", self.roi.detections, 1, 1 << 20)?;
        for (name, value) in [
            ("rpn positive", self.rpn.positive),
            ("rpn nms", self.rpn.nms),
            ("rpn score", self.rpn.score.into()),
            ("rpn foreground", self.rpn.foreground.into()),
            ("rpn background", self.rpn.background.into()),
            ("roi positive", self.roi.positive),
            ("roi nms", self.roi.nms),
            ("roi score", self.roi.score.into()),
            ("roi foreground", self.roi.foreground.into()),
            ("roi background", self.roi.background.into()),
        ] {
            share(name, value)?;
        }
        if self.rpn.background > self.rpn.foreground || self.roi.background > self.roi.foreground {
            return Err(ConfigError::new("background", "must not be above foreground"));
        }
        if !self.roi.weights.iter().all(|weight| weight.is_finite() && *weight > 0.0) {
            return Err(ConfigError::new("roi weights", format!("must be positive, are {:?}", self.roi.weights)));
        }
        if let BoxHeadKind::ConvFc { norm } = &self.roi.head {
            norm.check(self.channels)?;
        }
        if let Some(mask) = &self.mask {
            within("mask size", mask.size, 1, 256)?;
            within("mask convolutions", mask.convolutions, 1, 64)?;
            within("mask channels", mask.channels, 1, 8192)?;
            share("mask threshold", mask.threshold.into())?;
            mask.norm.check(mask.channels)?;
        }
        self.check_products()
    }

    /// Bounds what fields ask for together.
    fn check_products(&self) -> Result<(), ConfigError> {
        let Self { classes, channels, rpn, roi, .. } = self;
        let stage_channels: usize = self.stages.iter().map(|stage| self.backbone.channels()[*stage]).sum();
        bounds::parameters(
            "stages, channels and rpn convolutions",
            product(&[*channels, stage_channels])
                + product(&[9, *channels, *channels, self.stages.len() + rpn.convolutions]),
        )?;
        let convolutions = if matches!(roi.head, BoxHeadKind::ConvFc { .. }) { 36 } else { 0 };
        let described = product(&[*channels, roi.size, roi.size, roi.representation]);
        let head = described + product(&[roi.representation, roi.representation + 5 * classes]);
        let head = head + product(&[convolutions, *channels, *channels]);
        bounds::parameters("channels, roi size, roi representation and classes", head)?;
        let stride = self.backbone.strides()[self.stages[0]];
        let locations = bounds::locations([self.min_size, self.max_size], stride);
        let by_size = ("min_size times max_size by the stride of the first stage", locations);
        bounds::values(&[by_size, ("channels", *channels)])?;
        bounds::values(&[by_size, ("anchors of a location", 5 * self.anchors.per_location())])?;
        // There are no more proposals than anchors.
        let anchors = locations.saturating_mul(2 * self.anchors.per_location());
        for (name, proposals) in [("rpn after_nms", rpn.after_nms), ("roi samples", roi.samples)] {
            let proposals = (name, proposals.min(anchors));
            bounds::values(&[proposals, ("channels", *channels), ("roi size squared", roi.size * roi.size)])?;
            bounds::values(&[proposals, ("classes", 5 * classes)])?;
            bounds::values(&[proposals, ("roi representation", roi.representation)])?;
        }
        let Some(mask) = &self.mask else { return Ok(()) };
        let layers = product(&[9, *channels, mask.channels]);
        let layers = layers + product(&[9, mask.channels, mask.channels, mask.convolutions]);
        bounds::parameters(
            "channels, mask channels, mask convolutions and classes",
            layers + product(&[mask.channels, *classes]),
        )?;
        let side = ("mask size doubled and squared", 4 * mask.size * mask.size);
        for (name, objects) in [("roi detections", roi.detections), ("roi samples", roi.samples)] {
            let objects = (name, objects.min(anchors));
            bounds::values(&[objects, side, ("mask channels", mask.channels.max(channels / 4))])?;
            bounds::values(&[objects, side, ("classes", *classes)])?;
        }
        Ok(())
    }
}

impl DetectionNetworkConfig for RcnnConfig {
    type Network = Rcnn;

    const NAMES: &'static [&'static str] = &Self::NAMES;

    fn by_name(name: &str, classes: usize) -> Option<Self> {
        Self::by_name(name, classes)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.check()
    }

    fn init(&self, device: &Device) -> Result<Rcnn, DetectionError> {
        self.init(device)
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn has_backbone(&self) -> bool {
        true
    }

    fn transform(&self) -> ImageTransform {
        let Self { min_size, max_size, mean, std, .. } = self;
        ImageTransform { min_size: *min_size, max_size: *max_size, mean: mean.clone(), std: std.clone() }
    }

    fn has_masks(&self) -> bool {
        self.mask.is_some()
    }

    fn with_options(mut self, options: DetectionOptions) -> Self {
        let Self { min_size, max_size, roi, .. } = &mut self;
        options.apply(min_size, max_size, &mut roi.score, &mut roi.detections);
        self
    }

    fn adapted_to(self, path: &Path) -> Result<Self, WeightsError> {
        Ok(match frozen_epsilon(path)? {
            Some(epsilon) => self.with_frozen_norm(epsilon),
            None => self,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones::ResNetConfig;

    #[test]
    fn names_are_known_and_right() {
        for name in RcnnConfig::NAMES {
            RcnnConfig::by_name(name, 91).unwrap().check().unwrap();
        }
        assert!(RcnnConfig::by_name("fasterrcnn_resnet51_fpn", 91).is_none());
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let config = || RcnnConfig::by_name("maskrcnn_resnet50_fpn", 3).unwrap();
        let refused = |config: RcnnConfig| config.check().unwrap_err().to_string();
        assert!(refused(config().with_min_size(0)).contains("min_size"));
        assert!(refused(config().with_max_size(0)).contains("max_size"));
        assert!(refused(config().with_mean(vec![0.5])).contains("mean"));
        assert!(refused(config().with_anchors(AnchorConfig::new().with_ratios(vec![f32::NAN]))).contains("ratios"));
        assert!(refused(config().with_rpn(RpnConfig::new().with_positive(2.0))).contains("rpn positive"));
        assert!(refused(config().with_roi(RoiConfig::new().with_size(1 << 20))).contains("roi size"));
        assert!(refused(config().with_rpn(RpnConfig::new().with_min_size(-1.0))).contains("rpn min_size"));
        let resnet = |config: ResNetConfig| {
            RcnnConfig::with_backbone(BackboneConfig::ResNet(config), 3).check().unwrap_err().to_string()
        };
        assert!(resnet(ResNetConfig::resnet50().with_width(1 << 20)).contains("width"));
        assert!(resnet(ResNetConfig::resnet50().with_groups(usize::MAX).with_width(2)).contains("groups"));
        let odd = ResNetConfig::resnet50().with_width(3).with_norm(NormConfig::Group { groups: 2 });
        assert!(resnet(odd).contains("2 norm groups"));
    }

    #[test]
    fn fields_that_are_too_large_together_are_named() {
        let config = || RcnnConfig::by_name("maskrcnn_resnet50_fpn", 91).unwrap();
        let rpn = |rpn: RpnConfig| config().with_rpn(rpn);
        let roi = |roi: RoiConfig| config().with_roi(roi);
        let mask = |mask: MaskConfig| config().with_mask(Some(mask));
        for (config, part) in [
            (config().with_channels(8192), "rpn"),
            (config().with_channels(2048).with_roi(RoiConfig::new().with_size(64)), "roi size"),
            (roi(RoiConfig::new().with_representation(1 << 16)), "roi representation"),
            (rpn(RpnConfig::new().with_convolutions(64)).with_channels(4096), "rpn convolutions"),
            (rpn(RpnConfig::new().with_after_nms(1 << 20)), "rpn after_nms"),
            (roi(RoiConfig::new().with_samples(1 << 20)), "roi samples"),
            (roi(RoiConfig::new().with_detections(1 << 20)), "roi detections"),
            (RcnnConfig { classes: 100_000, ..config() }, "classes"),
            (mask(MaskConfig::new().with_size(256)), "mask size"),
            (mask(MaskConfig::new().with_channels(8192)), "mask channels"),
            (config().with_min_size(16_384).with_max_size(16_384), "min_size"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error} for {part}");
        }
        // Those of people are far from it.
        let lvis = RcnnConfig::by_name("maskrcnn_resnet50_fpn_v2", 1204).unwrap();
        lvis.clone().with_roi(lvis.roi.clone().with_detections(300)).check().unwrap();
        config().with_min_size(4096).with_max_size(8192).check().unwrap();
        let blocks = ResNetConfig { layers: [64; 4], ..ResNetConfig::resnet50() }.with_groups(16).with_width(64);
        let error = RcnnConfig::with_backbone(BackboneConfig::ResNet(blocks), 3).check().unwrap_err().to_string();
        assert!(error.contains("backbone layers"), "{error}");
    }
}
