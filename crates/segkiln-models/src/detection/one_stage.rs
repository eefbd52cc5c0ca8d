//! Traits of one-stage detectors, which have a backbone with a feature pyramid and a head on all of its levels.

use super::network::within;
use crate::{
    ConfigError,
    backbones::BackboneConfig,
    bounds::{self, product},
    layers::LastLevel,
};

/// Fields of a one-stage detector's config that together decide how large it is.
pub(super) struct Sizes<'a> {
    pub backbone: &'a BackboneConfig,
    pub stages: &'a [usize],
    pub last_level: LastLevel,
    pub channels: usize,
    pub convolutions: usize,
    pub classes: usize,
    /// Anchors of a location.
    pub anchors: usize,
    pub min_size: usize,
    pub max_size: usize,
}

impl Sizes<'_> {
    /// Bounds each field.
    pub fn check(&self) -> Result<(), ConfigError> {
        within("classes", self.classes, 2, 100_000)?;
        within("channels", self.channels, 1, 8192)?;
        within("convolutions", self.convolutions, 1, 64)
    }

    /// Bounds what the fields ask for together, each of which was checked.
    pub fn check_products(&self) -> Result<(), ConfigError> {
        let Self { channels, convolutions, classes, anchors, .. } = *self;
        let stage_channels: usize = self.stages.iter().map(|stage| self.backbone.channels()[*stage]).sum();
        let layers = self.stages.len() + 2 * self.last_level.levels() + 2 * convolutions;
        bounds::parameters(
            "stages, channels, convolutions, classes and anchors",
            product(&[channels, stage_channels])
                + product(&[9, channels, channels, layers])
                + product(&[9, channels, anchors, classes + 4]),
        )?;
        let stride = self.backbone.strides()[self.stages[0]];
        let locations = bounds::locations([self.min_size, self.max_size], stride);
        let by_size = ("min_size times max_size by the stride of the first stage", locations);
        bounds::values(&[by_size, ("channels", channels)])?;
        bounds::values(&[by_size, ("anchors of a location", anchors), ("classes", classes + 4)])
    }
}

/// Implements [`DetectionNetworkConfig`](super::DetectionNetworkConfig) and [`DetectionNetwork`](super::DetectionNetwork) for a
/// one-stage detector by the methods that differ: the config's `anchor_config` and `layers`, the network's `postprocess` and
/// `losses_of`, and its coder of boxes. Behind them stand further methods of the config.
macro_rules! one_stage {
    ($config:ident => $network:ident, $coder:expr $(, $($more:tt)*)?) => {
        impl crate::detection::DetectionNetworkConfig for $config {
            type Network = $network;

            const NAMES: &'static [&'static str] = &Self::NAMES;

            fn by_name(name: &str, classes: usize) -> Option<Self> {
                Self::by_name(name, classes)
            }

            fn check(&self) -> Result<(), crate::ConfigError> {
                self.check()
            }

            fn init(&self, device: &burn::tensor::Device) -> Result<$network, crate::detection::DetectionError> {
                self.init(device)
            }

            fn classes(&self) -> usize {
                self.classes
            }

            fn has_backbone(&self) -> bool {
                true
            }

            fn transform(&self) -> crate::detection::ImageTransform {
                let Self { min_size, max_size, mean, std, .. } = self.clone();
                crate::detection::ImageTransform { min_size, max_size, mean, std }
            }

            fn with_options(mut self, options: crate::detection::DetectionOptions) -> Self {
                let Self { min_size, max_size, score_threshold, max_detections, .. } = &mut self;
                options.apply(min_size, max_size, score_threshold, max_detections);
                self
            }

            $($($more)*)?
        }

        impl $config {
            pub(super) fn sizes(&self) -> crate::detection::one_stage::Sizes<'_> {
                crate::detection::one_stage::Sizes {
                    backbone: &self.backbone,
                    stages: &self.stages,
                    last_level: self.last_level,
                    channels: self.channels,
                    convolutions: self.convolutions,
                    classes: self.classes,
                    anchors: self.anchor_config().per_location(),
                    min_size: self.min_size,
                    max_size: self.max_size,
                }
            }
        }

        impl crate::detection::DetectionNetwork for $network {
            type Config = $config;

            fn config(&self) -> $config {
                self.config.clone()
            }

            fn with_config(mut self, config: $config) -> Result<Self, crate::detection::DetectionError> {
                self.config = crate::detection::with_same_layers(&self.config, config, $config::layers)?;
                Ok(self)
            }

            fn backbones_mut(&mut self) -> Vec<&mut crate::backbones::Backbone> {
                vec![&mut self.backbone.body]
            }

            fn class_tensors(&self) -> Vec<String> {
                vec!["head.classification_head.cls_logits.".into()]
            }

            fn detect(
                &self,
                images: &[burn::tensor::Tensor<3>],
            ) -> Result<Vec<Vec<segkiln_core::Detection>>, crate::detection::DetectionError> {
                self.predict(images)?.detections(&self.postprocess(), &$coder)
            }

            fn detect_tensors(
                &self,
                image: &burn::tensor::Tensor<3>,
            ) -> Result<Vec<crate::detection::DetectionTensors>, crate::detection::DetectionError> {
                self.predict(std::slice::from_ref(image))?.detection_tensors(&self.postprocess(), &$coder)
            }

            /// All anchors take part, so that nothing is sampled.
            fn losses(
                &self,
                images: &[burn::tensor::Tensor<3>],
                targets: &[segkiln_core::Instances],
                _sampling: crate::detection::Sampling,
            ) -> Result<crate::detection::DetectionLosses, crate::detection::DetectionError> {
                let predictions = self.predict(images)?;
                crate::detection::check_targets(images, targets, self.config.classes, false)?;
                Ok(self.losses_of(predictions, targets))
            }

            fn validate(
                &self,
                images: &[burn::tensor::Tensor<3>],
                targets: &[segkiln_core::Instances],
                _sampling: crate::detection::Sampling,
            ) -> Result<
                (crate::detection::DetectionLosses, Vec<Vec<segkiln_core::Detection>>),
                crate::detection::DetectionError,
            > {
                let predictions = self.predict(images)?;
                crate::detection::check_targets(images, targets, self.config.classes, false)?;
                let detections = predictions.detections(&self.postprocess(), &$coder)?;
                Ok((self.losses_of(predictions, targets), detections))
            }
        }

        impl $network {
            fn predict(
                &self,
                images: &[burn::tensor::Tensor<3>],
            ) -> Result<crate::detection::predictions::Predictions, crate::detection::DetectionError> {
                let config = &self.config;
                crate::detection::predictions::Predictions::new(
                    images,
                    &crate::detection::DetectionNetworkConfig::transform(config),
                    &config.anchor_config(),
                    |images| self.backbone.forward(images, &config.stages),
                    |maps| self.head.forward(maps, config.classes),
                )
            }
        }
    };
}

pub(crate) use one_stage;
