//! RetinaNet (Lin et al., ICCV 2017, <https://arxiv.org/abs/1708.02002>), equal to torchvision's number for number: two small
//! convolutional heads classify and move nine anchors at every location of the levels P3 to P7, and the focal loss keeps
//! the many background anchors from deciding.

mod config;
mod head;
mod network;

pub use config::{BoxLoss, RetinaNetConfig};
pub use head::{RetinaNetClassificationHead, RetinaNetHead, RetinaNetRegressionHead};
pub use network::RetinaNet;

use crate::weights::each_name;

/// torchvision's names of before 0.13, which count each ReLU as a layer.
pub(super) fn other_names(names: &[&str]) -> Vec<(String, String)> {
    each_name(names, |parts| match *parts {
        ["head", head @ ("classification_head" | "regression_head"), "conv", index, "0", kind] => {
            let index: Option<usize> = index.parse().ok();
            index.map(|index| format!("head.{head}.conv.{}.{kind}", 2 * index)).into_iter().collect()
        }
        _ => Vec::new(),
    })
}
