//! Segmentation and detection networks on Burn.
//!
//! - [`layers`]: the few blocks that all networks are built from;
//! - [`backbones`]: networks that make feature maps for others;
//! - [`unet`]: U-Net, UNet++ and Attention U-Net; [`fcn`], [`deeplab`], [`lraspp`], [`pspnet`], [`fpn`]: the others that give
//!   each pixel a class;
//! - [`detection`]: Faster R-CNN, Mask R-CNN, RetinaNet and FCOS, and the parts that detectors are made of;
//! - [`SegmentationModel`]: any segmentation network behind one type, made from a [`ModelConfig`] that a file can hold;
//! - [`ModelCard`], [`DetectorCard`]: what else must be known to predict with a trained one;
//! - [`InferenceSession`]: a network computed in reduced precision;
//! - [`Summary`]: what a network costs: parameters, multiply-adds, activations;
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
mod card;
pub mod deeplab;
pub mod detection;
pub mod fcn;
pub mod fpn;
pub mod layers;
pub mod lraspp;
mod model;
mod precision;
pub mod pspnet;
mod summary;
pub mod unet;
pub mod weights;

pub use card::ModelCard;
pub use detection::DetectorCard;
pub use model::{ModelConfig, SegmentationModel};
pub use precision::{InferenceSession, PrecisionError};
pub use summary::{LayerSummary, Summary};
