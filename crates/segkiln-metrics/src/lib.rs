//! Losses and metrics for image segmentation, equal to the reference implementations.
//!
//! [`losses`] work on tensors of any Burn backend and are differentiable; values and gradients equal those of PyTorch and
//! segmentation_models_pytorch. [`metrics`] work on labels on the host and are exact over an epoch.

mod distance;
mod error;
pub mod losses;
pub mod metrics;

pub use error::{MetricsError, Result};
