//! The list of detectors, from which the types that `config.json` and names select are generated.

use std::{fmt, path::Path};

use burn::{
    module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor},
    tensor::{Device, Tensor},
};
use segkiln_core::{BBox, Detection, Instances};
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::{
    DetectionError, DetectionLosses, DetectionNetwork, DetectionNetworkConfig, DetectionOptions, DetectionTensors,
    ImageTransform, Sampling,
    fcos::{Fcos, FcosConfig},
    rcnn::{Rcnn, RcnnConfig},
    retinanet::{RetinaNet, RetinaNetConfig},
};
use crate::{ConfigError, backbones::Backbone, weights::WeightsError};

/// Generates [`DetectorConfig`] and [`DetectionModel`] with all that they pass on to the detector they hold.
macro_rules! detectors {
    ($($(#[$doc:meta])* $variant:ident($config:ident, $network:ident),)+) => {
        /// Any detector of this crate, as a file describes it.
        ///
        /// ```
        /// use segkiln_models::detection::{DetectionNetworkConfig, DetectorConfig};
        ///
        /// let config = DetectorConfig::by_name("retinanet_resnet50_fpn", 91).unwrap();
        /// assert_eq!(config.classes(), 91);
        /// assert!(DetectorConfig::names().contains(&"fcos_resnet50_fpn"));
        /// ```
        #[derive(Debug, Clone, Serialize)]
        pub enum DetectorConfig {
            $($(#[$doc])* $variant($config),)+
        }

        /// Form in files: the config under the name of its variant.
        #[derive(Deserialize)]
        enum Named {
            $($variant($config),)+
        }

        impl From<Named> for DetectorConfig {
            fn from(named: Named) -> Self {
                match named {
                    $(Named::$variant(config) => Self::$variant(config),)+
                }
            }
        }

        impl DetectorConfig {
            /// All names that [`by_name`](DetectionNetworkConfig::by_name) knows: torchvision's.
            pub fn names() -> Vec<&'static str> {
                let lists: &[&[&'static str]] = &[$(<$config as DetectionNetworkConfig>::NAMES,)+];
                lists.concat()
            }
        }

        impl DetectionNetworkConfig for DetectorConfig {
            type Network = DetectionModel;

            fn by_name(name: &str, classes: usize) -> Option<Self> {
                None$(.or_else(|| $config::by_name(name, classes).map(Self::$variant)))+
            }

            fn check(&self) -> Result<(), ConfigError> {
                match self {
                    $(Self::$variant(config) => config.check(),)+
                }
            }

            fn init(&self, device: &Device) -> Result<DetectionModel, DetectionError> {
                Ok(match self {
                    $(Self::$variant(config) => DetectionModel::$variant(config.init(device)?),)+
                })
            }

            fn classes(&self) -> usize {
                match self {
                    $(Self::$variant(config) => DetectionNetworkConfig::classes(config),)+
                }
            }

            fn transform(&self) -> ImageTransform {
                match self {
                    $(Self::$variant(config) => config.transform(),)+
                }
            }

            fn has_backbone(&self) -> bool {
                match self {
                    $(Self::$variant(config) => config.has_backbone(),)+
                }
            }

            fn has_masks(&self) -> bool {
                match self {
                    $(Self::$variant(config) => config.has_masks(),)+
                }
            }

            fn with_options(self, options: DetectionOptions) -> Self {
                match self {
                    $(Self::$variant(config) => Self::$variant(config.with_options(options)),)+
                }
            }

            fn adapted_to(self, path: &Path) -> Result<Self, WeightsError> {
                Ok(match self {
                    $(Self::$variant(config) => Self::$variant(config.adapted_to(path)?),)+
                })
            }
        }

        /// Any detector of this crate behind one type. Its parameters have the paths that they have in the detector itself, so
        /// that files of weights and checkpoints do not depend on how it is held.
        #[derive(Debug, Clone)]
        #[allow(clippy::large_enum_variant, reason = "a network is moved a few times in its life")]
        pub enum DetectionModel {
            $($(#[$doc])* $variant($network),)+
        }

        $(
            impl From<$config> for DetectorConfig {
                fn from(config: $config) -> Self {
                    Self::$variant(config)
                }
            }

            impl From<$network> for DetectionModel {
                fn from(network: $network) -> Self {
                    Self::$variant(network)
                }
            }
        )+

        impl Module for DetectionModel {
            fn collect_devices(&self, devices: Devices) -> Devices {
                match self {
                    $(Self::$variant(network) => network.collect_devices(devices),)+
                }
            }

            fn fork(self, device: &Device) -> Self {
                match self {
                    $(Self::$variant(network) => Self::$variant(network.fork(device)),)+
                }
            }

            fn to_device(self, device: &Device) -> Self {
                match self {
                    $(Self::$variant(network) => Self::$variant(network.to_device(device)),)+
                }
            }

            fn train(self) -> Self {
                match self {
                    $(Self::$variant(network) => Self::$variant(network.train()),)+
                }
            }

            fn valid(&self) -> Self {
                match self {
                    $(Self::$variant(network) => Self::$variant(network.valid()),)+
                }
            }

            fn materialize(self) -> Self {
                match self {
                    $(Self::$variant(network) => Self::$variant(network.materialize()),)+
                }
            }

            fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
                match self {
                    $(Self::$variant(network) => network.visit(visitor),)+
                }
            }

            fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
                match self {
                    $(Self::$variant(network) => Self::$variant(network.map(mapper)),)+
                }
            }
        }

        impl ModuleDisplayDefault for DetectionModel {
            fn content(&self, content: Content) -> Option<Content> {
                match self {
                    $(Self::$variant(network) => network.content(content),)+
                }
            }
        }

        impl DetectionNetwork for DetectionModel {
            type Config = DetectorConfig;

            fn config(&self) -> DetectorConfig {
                match self {
                    $(Self::$variant(network) => DetectorConfig::$variant(network.config()),)+
                }
            }

            fn with_config(self, config: DetectorConfig) -> Result<Self, DetectionError> {
                let other = || ConfigError::with_message("model", "the config is another detector's").into();
                match self {
                    $(Self::$variant(network) => match config {
                        DetectorConfig::$variant(config) => Ok(Self::$variant(network.with_config(config)?)),
                        _ => Err(other()),
                    },)+
                }
            }

            fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
                match self {
                    $(Self::$variant(network) => network.backbones_mut(),)+
                }
            }

            fn class_tensors(&self) -> Vec<String> {
                match self {
                    $(Self::$variant(network) => network.class_tensors(),)+
                }
            }

            fn detect(&self, images: &[Tensor<3>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
                match self {
                    $(Self::$variant(network) => network.detect(images),)+
                }
            }

            fn detect_tensors(&self, image: &Tensor<3>) -> Result<Vec<DetectionTensors>, DetectionError> {
                match self {
                    $(Self::$variant(network) => network.detect_tensors(image),)+
                }
            }

            fn mask_logits(&self, image: &Tensor<3>, bbox: &BBox, class: u32) -> Result<Tensor<2>, DetectionError> {
                match self {
                    $(Self::$variant(network) => network.mask_logits(image, bbox, class),)+
                }
            }

            fn losses(
                &self,
                images: &[Tensor<3>],
                targets: &[Instances],
                sampling: Sampling,
            ) -> Result<DetectionLosses, DetectionError> {
                match self {
                    $(Self::$variant(network) => network.losses(images, targets, sampling),)+
                }
            }

            fn validate(
                &self,
                images: &[Tensor<3>],
                targets: &[Instances],
                sampling: Sampling,
            ) -> Result<(DetectionLosses, Vec<Vec<Detection>>), DetectionError> {
                match self {
                    $(Self::$variant(network) => network.validate(images, targets, sampling),)+
                }
            }
        }
    };
}

detectors! {
    /// Faster R-CNN and Mask R-CNN.
    Rcnn(RcnnConfig, Rcnn),
    /// RetinaNet.
    RetinaNet(RetinaNetConfig, RetinaNet),
    /// FCOS.
    Fcos(FcosConfig, Fcos),
}

impl ModuleDisplay for DetectionModel {}

impl fmt::Display for DetectionModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(Default::default()))
    }
}

impl<'de> Deserialize<'de> for DetectorConfig {
    /// Reads the config with the variant's name, or an R-CNN's without, as files had it before there were other detectors.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let config = match value.get("rpn").is_some() {
            true => serde_json::from_value(value).map(Self::Rcnn),
            false => serde_json::from_value::<Named>(value).map(Self::from),
        };
        config.map_err(D::Error::custom)
    }
}
