use burn::config::Config;
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use super::common::{
    Labels, Reduction, in_range, not_negative, per_channel, sum_channels, valid_weights, weighted_sum,
};
use super::region::channel_shares;
use crate::{MetricsError, Result};

/// Configuration of [`FocalLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct FocalLossConfig {
    /// Weight of the foreground, 0 to 1; the background's is `1 - alpha`.
    pub alpha: Option<f64>,
    /// Weight of each channel in the mean.
    pub class_weights: Option<Vec<f32>>,
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Probability, above 0 to 1, below which a pixel's loss is not scaled down (reduced focal loss, Sergievskiy and
    /// Ponamarev 2019).
    pub reduced_threshold: Option<f64>,
    /// Strength with which easy pixels are scaled down; at 0 not at all.
    #[config(default = 2.0)]
    pub gamma: f64,
    /// Divide by the sum of the scales (normalized focal loss).
    #[config(default = false)]
    pub normalized: bool,
    /// Reduction over the pixels; over the channels it is the mean in any case.
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
}

impl FocalLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// Negative or infinite weights or none above zero, an `alpha` outside 0 to 1, a negative `gamma`, a threshold that
    /// is not above 0 and at most 1.
    pub fn try_init(&self) -> Result<FocalLoss> {
        valid_weights("class_weights", self.class_weights.as_deref())?;
        not_negative("gamma", self.gamma)?;
        in_range("alpha", self.alpha.unwrap_or(0.0), 0.0, 1.0, "between 0 and 1")?;
        match self.reduced_threshold {
            Some(value) if !(value > 0.0 && value <= 1.0) => {
                Err(MetricsError::OutOfRange { name: "reduced_threshold", expected: "above 0 and at most 1", value })
            }
            _ => Ok(FocalLoss { config: self.clone() }),
        }
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> FocalLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Focal loss (Lin et al. 2017), as segmentation_models_pytorch's `FocalLoss`: binary cross-entropy times (1 - p)^γ, where p
/// is the probability of the truth.
///
/// With several channels each is a binary problem of its own (its class against the others, by the sigmoid), and the mean
/// of the channels is taken.
#[derive(Debug, Clone)]
pub struct FocalLoss {
    config: FocalLossConfig,
}

/// The least sum of scales that a normalized loss divides by, segmentation_models_pytorch's.
const LEAST_NORM: f64 = 1e-6;

impl FocalLoss {
    /// The loss of each pixel, `[N, H, W]`: its mean over the channels, 0 where ignored.
    pub fn forward_no_reduction(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<3> {
        let (logits, labels) = Labels::prepare(logits, targets, self.config.ignore_index);
        let losses = self.losses(logits, &labels);
        let (channels, device) = (losses.dims()[1], losses.device());
        let shares = per_channel("shares", &self.shares(channels), channels, &device);
        (losses * shares).sum_dim(1).squeeze_dim(1)
    }

    /// `[N, C, H, W]`, 0 where ignored.
    fn losses(&self, logits: Tensor<4>, labels: &Labels) -> Tensor<4> {
        let truth = labels.one_hot();
        let signed = logits * (truth.clone() * 2 - 1);
        let log_p = log_sigmoid(signed.clone());
        // (1 - p)^γ by its logarithm, because the gradient of a power is infinite at 0 where γ < 1.
        let log_rest = log_sigmoid(signed.neg());
        let scale = match self.config.reduced_threshold {
            None => (log_rest * self.config.gamma).exp(),
            Some(threshold) => {
                let hard = log_p.clone().lower_scalar(threshold.ln());
                ((log_rest - threshold.ln()) * self.config.gamma).exp().mask_fill(hard, 1)
            }
        };
        let mut losses = (scale.clone() * log_p).neg();
        if let Some(alpha) = self.config.alpha {
            losses = losses * (truth * (2.0 * alpha - 1.0) + (1.0 - alpha));
        }
        if self.config.normalized {
            let norm = sum_channels(labels.zero_ignored(scale)).clamp_min(LEAST_NORM);
            let channels = norm.dims()[0];
            losses = losses / norm.reshape([1, channels, 1, 1]);
        }
        labels.zero_ignored(losses)
    }

    fn shares(&self, channels: usize) -> Vec<f32> {
        channel_shares(channels, None, self.config.class_weights.as_deref())
    }
}

impl SegmentationLoss for FocalLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        let (logits, labels) = Labels::prepare(logits, targets, self.config.ignore_index);
        let sums = sum_channels(self.losses(logits, &labels));
        let shares = self.shares(sums.dims()[0]);
        let sum = weighted_sum(sums, &shares);
        match self.config.reduction {
            Reduction::Sum => sum,
            Reduction::Mean => sum / labels.count().clamp_min(1),
        }
    }
}
