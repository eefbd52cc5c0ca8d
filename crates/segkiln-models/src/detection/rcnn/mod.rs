//! Faster R-CNN (Ren et al., NeurIPS 2015, <https://arxiv.org/abs/1506.01497>) and Mask R-CNN (He et al., ICCV 2017,
//! <https://arxiv.org/abs/1703.06870>) on a feature pyramid, equal to torchvision's number for number.
//!
//! In the order of the data, after the images are [prepared](super::ImageTransform) and the
//! [backbone](super::BackboneWithFpn) has made the levels of its pyramid:
//!
//! - `rpn`: the region proposal network scores the [anchors](super::AnchorConfig) and moves them to proposals;
//! - `roi_pool`, `roi_heads`: the class of each proposal, its box, and its mask;
//! - `paste`: masks of boxes become masks of images.
//!
//! `mask_target` is for training. Boxes are handled on the host, maps on the device.

mod config;
mod mask_target;
mod network;
mod paste;
mod roi_heads;
mod roi_pool;
mod rpn;

pub use config::{BoxHeadKind, MaskConfig, RcnnConfig, RoiConfig, RpnConfig};
pub use network::Rcnn;
pub use paste::paste_mask;
pub use roi_heads::{BoxHead, BoxPredictor, ConvFcHead, MaskHead, MaskPredictor, MlpHead, RoiHeads};
pub use rpn::{Rpn, RpnHead};

use crate::weights::each_name;

/// torchvision's names of before 0.13, and the mask head's of earlier still.
pub(super) fn other_names(names: &[&str]) -> Vec<(String, String)> {
    each_name(names, |parts| match *parts {
        ["rpn", "head", "conv", "0", "0", kind] => vec![format!("rpn.head.conv.{kind}")],
        ["roi_heads", "mask_head", index, "0", kind] => {
            let number: Option<usize> = index.parse().ok();
            number.map(|number| format!("roi_heads.mask_head.mask_fcn{}.{kind}", number + 1)).into_iter().collect()
        }
        _ => Vec::new(),
    })
}
