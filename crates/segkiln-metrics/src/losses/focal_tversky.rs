use burn::config::Config;
use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use super::common::not_negative;
use super::region::{Region, power};
use crate::Result;

/// Configuration of [`FocalTverskyLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct FocalTverskyLossConfig {
    /// Channels that the loss is computed on; all by default.
    pub classes: Option<Vec<usize>>,
    /// Weight of each channel in the mean.
    pub class_weights: Option<Vec<f32>>,
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Cost of a false positive.
    #[config(default = 0.3)]
    pub alpha: f64,
    /// Cost of a false negative.
    #[config(default = 0.7)]
    pub beta: f64,
    /// Power of each channel's loss; the paper writes it 1/γ, with γ = 4/3.
    #[config(default = 0.75)]
    pub gamma: f64,
    /// Added to numerator and denominator of the index.
    #[config(default = 0.0)]
    pub smooth: f64,
    /// Least denominator.
    #[config(default = 1e-7)]
    pub eps: f64,
    /// Whether the input is logits and not already probabilities.
    #[config(default = true)]
    pub from_logits: bool,
}

impl FocalTverskyLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// Negative or infinite weights or none above zero, a negative `alpha`, `beta`, `gamma` or `smooth`, an `eps` outside
    /// 0 to 1, an empty list of classes.
    pub fn try_init(&self) -> Result<FocalTverskyLoss> {
        not_negative("gamma", self.gamma)?;
        let region = Region {
            alpha: self.alpha,
            beta: self.beta,
            smooth: self.smooth,
            eps: self.eps,
            log_loss: false,
            from_logits: self.from_logits,
            classes: self.classes.clone(),
            class_weights: self.class_weights.clone(),
            ignore_index: self.ignore_index,
        };
        Ok(FocalTverskyLoss { region: region.validated()?, gamma: self.gamma })
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> FocalTverskyLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Focal Tversky loss (Abraham and Khan 2019, *A novel focal Tversky loss function*): (1 - Tversky index)^γ of each channel,
/// then their mean.
///
/// It differs from a [`TverskyLoss`](super::TverskyLoss) with the same γ where there are several channels: the power is
/// taken before the mean, so that badly segmented classes dominate.
#[derive(Debug, Clone)]
pub struct FocalTverskyLoss {
    region: Region,
    gamma: f64,
}

impl SegmentationLoss for FocalTverskyLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        self.region.mean(power(self.region.channel_losses(logits, targets), self.gamma))
    }
}
