//! Detectors, and the parts that they are made of.
//!
//! - [`rcnn`]: Faster R-CNN and Mask R-CNN, of two stages;
//! - [`retinanet`], [`fcos`]: RetinaNet and FCOS, of one stage;
//! - [`DetectorConfig`], [`DetectionModel`]: any of them behind one type, by torchvision's name or from a file;
//! - [`DetectionNetwork`], [`DetectionNetworkConfig`]: what a detector is; implement them for one of your own.
//!
//! The parts, in the order of the data:
//!
//! - [`ImageTransform`]: images are normalized, resized and padded to one size;
//! - [`BackboneWithFpn`]: feature maps of several levels;
//! - [`AnchorConfig`]: boxes of a few sizes and shapes at every location of the maps;
//! - [`BoxCoder`], [`BoxLinearCoder`]: codes of boxes relative to anchors, which networks predict;
//! - [`DensePostprocess`], [`ImageDetections`]: the best candidates, class-wise non-maximum suppression;
//! - [`ImageTargets`], [`Matcher`], [`Sampler`]: the objects that anchors learn, and which anchors a step looks at;
//! - [`sigmoid_focal_loss`], [`generalized_box_iou_loss`] and others: losses.
//!
//! Boxes are handled on the host, maps on the device.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use segkiln_models::detection::{DetectionNetwork, DetectionNetworkConfig, DetectorConfig};
//!
//! let device = Device::default();
//! let config = DetectorConfig::by_name("fcos_resnet50_fpn", 3).expect("a name of the list");
//! let detector = config.init(&device)?;
//! # let detector = detector.with_config(config.with_options(
//! #     segkiln_models::detection::DetectionOptions { min_size: Some(64), max_size: Some(64), ..Default::default() }))?;
//! let detections = detector.detect(&[Tensor::zeros([3, 40, 60], &device)])?;
//! assert_eq!(detections.len(), 1);
//! # Ok::<(), segkiln_models::detection::DetectionError>(())
//! ```

mod anchors;
mod any;
mod backbone;
mod box_coder;
mod boxes;
mod card;
mod dense;
mod error;
pub mod fcos;
mod host;
mod kind;
mod losses;
mod matcher;
mod network;
mod one_stage;
mod predictions;
pub mod rcnn;
pub mod retinanet;
mod sampler;
mod targets;
mod tensors;
mod transform;

pub use anchors::{AnchorConfig, AnchorGrid};
pub use any::{DetectionModel, DetectorConfig};
pub use backbone::{BackboneWithFpn, check_stages, frozen_epsilon};
pub use box_coder::{BoxCoder, BoxLinearCoder};
pub use boxes::{Corners, area, clip_to_image, iou, is_at_least};
pub use card::{DetectorCard, unnamed_classes};
pub use dense::{Candidate, DensePostprocess, flatten_predictions, min_logit, sigmoid, stack_levels, top_candidates};
pub use error::{DetectionError, check_images, check_targets};
pub use kind::{DetectorKind, with_detector_norms};
pub use losses::{
    DetectionLosses, binary_cross_entropy, cross_entropy, generalized_box_iou_loss, sigmoid_focal_loss, smooth_l1,
};
pub use matcher::{Match, Matcher};
use network::with_same_layers;
pub use network::{DetectionNetwork, DetectionNetworkConfig, DetectionOptions};
pub use sampler::{Sampler, Sampling};
pub use targets::{ImageDetections, ImageTargets};
pub use tensors::DetectionTensors;
pub use transform::{ImageBatch, ImageTransform};

use crate::weights::{OtherNames, TorchName, TorchNames};

/// Names that torchvision gave tensors in earlier years.
pub(crate) const OTHER_NAMES: &[OtherNames] = &[backbone::other_names, rcnn::other_names, retinanet::other_names];

pub(crate) const TORCH_NAMES: TorchNames = &[
    ("BackboneWithFpn", "body", TorchName::Layers("body")),
    ("ConvFcHead", "convs", TorchName::Flat),
    // Behind four convolutions and a layer that flattens.
    ("ConvFcHead", "fc", TorchName::Is("5")),
    ("MaskHead", "convs", TorchName::Flat),
];
