use burn::config::Config;
use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use super::common::not_negative;
use super::region::{Region, power};
use crate::Result;

/// Configuration of [`TverskyLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct TverskyLossConfig {
    /// Channels that the loss is computed on; all by default.
    pub classes: Option<Vec<usize>>,
    /// Weight of each channel in the mean.
    pub class_weights: Option<Vec<f32>>,
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Cost of a false positive.
    #[config(default = 0.5)]
    pub alpha: f64,
    /// Cost of a false negative.
    #[config(default = 0.5)]
    pub beta: f64,
    /// Power of the mean over the channels.
    #[config(default = 1.0)]
    pub gamma: f64,
    /// Added to numerator and denominator of the index.
    #[config(default = 0.0)]
    pub smooth: f64,
    /// Least denominator.
    #[config(default = 1e-7)]
    pub eps: f64,
    /// The loss is -ln(index) and not 1 - index.
    #[config(default = false)]
    pub log_loss: bool,
    /// Whether the input is logits and not already probabilities.
    #[config(default = true)]
    pub from_logits: bool,
}

impl TverskyLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// Negative or infinite weights or none above zero, a negative `alpha`, `beta`, `gamma` or `smooth`, an `eps` outside
    /// 0 to 1, an empty list of classes.
    pub fn try_init(&self) -> Result<TverskyLoss> {
        not_negative("gamma", self.gamma)?;
        let region = Region {
            alpha: self.alpha,
            beta: self.beta,
            smooth: self.smooth,
            eps: self.eps,
            log_loss: self.log_loss,
            from_logits: self.from_logits,
            classes: self.classes.clone(),
            class_weights: self.class_weights.clone(),
            ignore_index: self.ignore_index,
        };
        Ok(TverskyLoss { region: region.validated()?, gamma: self.gamma })
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> TverskyLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Tversky loss (Salehi et al. 2017), as segmentation_models_pytorch's `TverskyLoss`: 1 - TP / (TP + α·FP + β·FN) of each
/// channel over the whole batch, then the mean of the channels to the power γ. A class that no pixel has contributes 0.
///
/// With α = β = 0.5 it is [`DiceLoss`](super::DiceLoss), with α = β = 1 [`JaccardLoss`](super::JaccardLoss).
#[derive(Debug, Clone)]
pub struct TverskyLoss {
    region: Region,
    gamma: f64,
}

impl SegmentationLoss for TverskyLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        power(self.region.mean(self.region.channel_losses(logits, targets)), self.gamma)
    }
}
