//! RetinaNet (Lin et al., ICCV 2017, <https://arxiv.org/abs/1708.02002>), equal to torchvision's number for number: two small
//! convolutional heads classify and move nine anchors at every location of the levels P3 to P7, and the focal loss keeps
//! the many background anchors from deciding.

mod config;
mod head;
mod network;

pub use config::{BoxLoss, RetinaNetConfig};
pub use head::{RetinaNetClassificationHead, RetinaNetHead, RetinaNetRegressionHead};
pub use network::RetinaNet;
