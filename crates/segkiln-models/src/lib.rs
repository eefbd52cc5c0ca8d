//! Segmentation and detection networks on Burn.
//!
//! - [`layers`]: the few blocks that all networks are built from;
//! - [`backbones`]: networks that make feature maps for others;
//! - [`unet`]: U-Net, UNet++ and Attention U-Net; [`fcn`], [`deeplab`], [`lraspp`], [`pspnet`], [`fpn`], [`upernet`],
//!   [`segformer`]: the other segmentation networks;
//! - [`detection`]: Faster R-CNN, Mask R-CNN, RetinaNet and FCOS, and the parts that detectors are made of;
//! - [`volumes`]: 3D U-Net, for volumes;
//! - [`segmentation`]: the traits of segmentation networks, for your own; [`SegmentationModel`] and [`ModelConfig`], any
//!   network of this crate behind one type, from a name or a file;
//! - [`ModelCard`], [`DetectorCard`]: descriptions of trained networks, for prediction; [`config_file`]: the file that holds them;
//! - [`InferenceSession`]: a network computed in reduced precision; [`Calibration`]: ranges for 8 bits, found on images;
//! - [`Summary`]: what a network costs: parameters, multiply-adds, activations;
//! - [`LayerMaps`]: the maps that a network's layers put out, by name, to look at and to change; [`tap`] shows those of your own;
//! - [`weights`]: saving and loading, with errors that name tensors.
//!
//! Each network is a config with documented defaults, `init` on a device, and `forward`:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use segkiln_models::unet::UNetConfig;
//!
//! let device = Device::default();
//! let unet = UNetConfig::new(3, 2).with_base(8).with_depth(2).init(&device);
//! let logits = unet.forward(Tensor::zeros([1, 3, 50, 37], &device));
//! assert_eq!(logits.dims(), [1, 2, 50, 37]);
//! ```

pub mod backbones;
mod bounds;
pub mod config_file;
pub mod detection;
mod error;
mod fake_quantization;
pub mod layers;
mod precision;
mod quantization;
mod reach;
pub mod segmentation;
mod summary;
mod trace;
pub mod volumes;
pub mod weights;

pub use detection::DetectorCard;
pub use error::ConfigError;
pub use precision::{InferenceSession, PrecisionError, TrainingPrecision};
pub use quantization::{Calibration, CalibrationError, LayerRanges, NetworkQuantization, RangeMethod};
pub use reach::reach;
pub use segmentation::{
    ModelCard, ModelConfig, SegmentationModel, SegmentationNetwork, SegmentationNetworkConfig, deeplab, fcn, fpn,
    lraspp, pspnet, segformer, unet, upernet,
};
pub use summary::{LayerSummary, Summary};
pub use trace::{Edit, LayerMap, LayerMaps, TapPlace, UnknownLayer, tap};
