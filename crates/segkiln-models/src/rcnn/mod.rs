//! Faster R-CNN (Ren et al., NeurIPS 2015, <https://arxiv.org/abs/1506.01497>) and Mask R-CNN (He et al., ICCV 2017,
//! <https://arxiv.org/abs/1703.06870>) on a feature pyramid, equal to torchvision's number for number.
//!
//! In the order of the data:
//!
//! - `transform`: images are normalised, resized and padded to one size;
//! - [`backbones`](crate::backbones) and [`FeaturePyramid`](crate::layers::FeaturePyramid) make feature maps of them;
//! - `anchors`: boxes of a few sizes and shapes at every place of the maps;
//! - `rpn`: which of them may hold an object, and how they must be moved to hold it: proposals;
//! - `roi_pool`, `roi_heads`: the class of each proposal, its box, and its mask;
//! - `paste`: masks of boxes become masks of images.
//!
//! `matcher`, `sampler`, `box_coder`, `mask_target` and `losses` are for training. Boxes are handled on the host, maps on the device.

mod anchors;
mod box_coder;
mod card;
mod config;
mod host;
mod losses;
mod mask_target;
mod matcher;
mod network;
mod paste;
mod roi_heads;
mod roi_pool;
mod rpn;
mod sampler;
mod transform;

pub use anchors::AnchorConfig;
pub use box_coder::BoxCoder;
pub use card::DetectorCard;
pub use config::{BoxHeadKind, MaskConfig, RcnnConfig, RoiConfig, RpnConfig};
pub use losses::RcnnLosses;
pub use matcher::{Match, Matcher};
pub use network::{BackboneWithFpn, Rcnn, RcnnError};
pub use paste::paste_mask;
pub use roi_heads::{BoxHead, BoxPredictor, ConvFcHead, MaskHead, MaskPredictor, MlpHead, RoiHeads};
pub use rpn::{Rpn, RpnHead};
pub use sampler::Sampling;

use crate::weights::{TorchName, TorchNames};

pub(crate) const TORCH_NAMES: TorchNames = &[
    ("BackboneWithFpn", "body", TorchName::Layers("body")),
    ("ConvFcHead", "convs", TorchName::Flat),
    // After four convolutions and a layer that flattens.
    ("ConvFcHead", "fc", TorchName::Is("5")),
    ("MaskHead", "convs", TorchName::Flat),
];

/// `[x1, y1, x2, y2]` in pixels of what the network sees.
pub type Corners = [f32; 4];
