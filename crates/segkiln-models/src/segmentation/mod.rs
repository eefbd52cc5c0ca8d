//! Segmentation networks: the traits that every one has, and the list of those of this crate.
//!
//! - [`SegmentationNetwork`], [`SegmentationNetworkConfig`]: implement them for a network of your own, and training,
//!   prediction, checkpoints, summaries and weights take it;
//! - [`ModelConfig`], [`SegmentationModel`]: any network of this crate behind one type, by its name or from a file;
//! - [`ModelCard`]: the part of `config.json` that prediction needs;
//! - [`unet`], [`fcn`], [`deeplab`], [`lraspp`], [`pspnet`], [`fpn`], [`upernet`], [`segformer`]: the networks.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use segkiln_models::{ModelConfig, SegmentationNetwork, SegmentationNetworkConfig};
//!
//! let device = Device::default();
//! let network = ModelConfig::by_name("fpn_resnet18", 2)?.init(&device);
//! assert_eq!(network.forward(Tensor::zeros([1, 3, 50, 37], &device)).dims(), [1, 2, 50, 37]);
//! # Ok::<(), segkiln_models::ConfigError>(())
//! ```

mod any;
mod card;
pub mod deeplab;
pub mod fcn;
pub mod fpn;
pub mod lraspp;
mod network;
pub mod pspnet;
pub mod segformer;
pub mod unet;
pub mod upernet;

pub(crate) use any::TORCH_NAMES;
pub use any::{ModelConfig, SegmentationModel};
pub use card::ModelCard;
pub use network::{HeadLogits, SegmentationNetwork, SegmentationNetworkConfig, check_classes, decoder_backbone};
/// Other names of the networks' tensors outside of their backbones.
pub(crate) const OTHER_NAMES: &[crate::weights::OtherNames] = &[segformer::other_names];

pub(crate) use network::{auxiliary, is_on_timm, on_backbone, owned, unused_stages};
