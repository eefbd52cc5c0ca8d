//! Losses for semantic segmentation.
//!
//! Each loss has one file: a configuration with documented defaults, `init` to make the loss, and
//! [`SegmentationLoss::forward`]. All take the same two tensors:
//!
//! - logits `[N, C, H, W]`: one channel is a binary problem (the logit of the foreground, made a probability by the
//!   sigmoid), two or more are classes (softmax);
//! - targets `[N, H, W]`: the class of each pixel, `0` or `1` in a binary problem. They may lie on the device with or
//!   without autodiff.
//!
//! Pixels whose target is `ignore_index` count for nothing: neither in the value nor in the gradient, nor in the number
//! that a mean divides by. Where every pixel is ignored the loss is 0 and so is its gradient (PyTorch's mean is NaN
//! there). A target that is neither a class nor ignored is an error of the caller that is not looked for, because looking
//! would stall the device.
//!
//! Every loss and its gradient stay finite at logits of ±10⁴ and on empty masks, and two calls give the same bits.
//!
//! | Loss | For |
//! |---|---|
//! | [`CrossEntropyLoss`], [`BceLoss`] | the default; pixels count alike |
//! | [`FocalLoss`] | many easy pixels |
//! | [`DiceLoss`], [`JaccardLoss`], [`TverskyLoss`], [`FocalTverskyLoss`], [`MccLoss`] | small foregrounds; regions count alike |
//! | [`LovaszLoss`] | IoU itself |
//! | [`BoundaryLoss`] | contours; added to one of the above |
//! | [`SumLoss`] | several at once |
//! | [`DeepSupervision`] | outputs at several resolutions |
//!
//! ```
//! use burn::tensor::{Device, Int, Tensor};
//! use segkiln_metrics::losses::{BceLossConfig, DiceLossConfig, LossConfig, SegmentationLoss};
//!
//! let loss = LossConfig::Sum(vec![
//!     (1.0, LossConfig::Bce(BceLossConfig::new())),
//!     (1.0, LossConfig::Dice(DiceLossConfig::new().with_smooth(1.0))),
//! ])
//! .init();
//! let device = Device::default().autodiff();
//! let logits = Tensor::<4>::from_floats([[[[2.0, -1.0], [0.5, -3.0]]]], &device).require_grad();
//! let targets = Tensor::<3, Int>::from_ints([[[1, 0], [1, 0]]], &device);
//! let value = loss.forward(logits.clone(), targets);
//! let gradients = value.backward();
//! assert_eq!(logits.grad(&gradients).unwrap().dims(), [1, 1, 2, 2]);
//! ```

mod bce;
mod boundary;
mod common;
mod config;
mod cross_entropy;
mod deep_supervision;
mod dice;
mod focal;
mod focal_tversky;
mod jaccard;
mod lovasz;
mod mcc;
mod region;
mod sum;
mod tversky;

pub use bce::{BceLoss, BceLossConfig};
pub use boundary::{BoundaryLoss, BoundaryLossConfig};
pub use common::Reduction;
pub use config::LossConfig;
pub use cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig, HardPixels};
pub use deep_supervision::{DeepSupervision, DeepSupervisionConfig};
pub use dice::{DiceLoss, DiceLossConfig};
pub use focal::{FocalLoss, FocalLossConfig};
pub use focal_tversky::{FocalTverskyLoss, FocalTverskyLossConfig};
pub use jaccard::{JaccardLoss, JaccardLossConfig};
pub use lovasz::{LovaszLoss, LovaszLossConfig};
pub use mcc::{MccLoss, MccLossConfig};
pub use sum::SumLoss;
pub use tversky::{TverskyLoss, TverskyLossConfig};

use std::fmt::Debug;

use burn::tensor::{Int, Tensor};

/// A loss of segmentation: logits and targets in, one number out.
pub trait SegmentationLoss: Debug + Send + Sync {
    /// The loss of a batch.
    ///
    /// # Shapes
    /// - logits: `[N, C, H, W]`
    /// - targets: `[N, H, W]`
    /// - output: `[1]`
    ///
    /// # Panics
    /// If the shapes do not fit, or a configured class or number of class weights does not fit `C`.
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1>;
}
