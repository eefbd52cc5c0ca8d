//! FCOS (Tian et al., ICCV 2019, <https://arxiv.org/abs/1904.01355>, and TPAMI 2020, <https://arxiv.org/abs/2006.09214>), equal
//! to torchvision's number for number: without anchor boxes, each location of the levels P3 to P7 predicts classes, the
//! distances to the sides of its object's box, and its centerness, which lowers the scores of locations far from the
//! object's center.

mod assignment;
mod config;
mod head;
mod network;

pub use assignment::assign_locations;
pub use config::FcosConfig;
pub use head::{FcosClassificationHead, FcosHead, FcosLayer, FcosRegressionHead};
pub use network::Fcos;
