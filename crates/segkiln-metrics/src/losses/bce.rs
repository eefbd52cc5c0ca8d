use burn::config::Config;
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use super::common::{Labels, Reduction, per_channel, sum_all, valid_weights};
use crate::Result;

/// Configuration of [`BceLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct BceLossConfig {
    /// Weight of the foreground of each channel, above 1 for more recall.
    pub pos_weight: Option<Vec<f32>>,
    /// Weight of each channel.
    pub weight: Option<Vec<f32>>,
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Reduction over the pixels.
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
}

impl BceLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// Negative or infinite weights, or none above zero.
    pub fn try_init(&self) -> Result<BceLoss> {
        valid_weights("pos_weight", self.pos_weight.as_deref())?;
        valid_weights("weight", self.weight.as_deref())?;
        Ok(BceLoss { config: self.clone() })
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> BceLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Binary cross-entropy of logits, as PyTorch's `BCEWithLogitsLoss`.
///
/// With several channels each is a binary problem of its own: its class against the others. As in PyTorch the mean
/// divides by the number of values and not by the sum of their weights.
#[derive(Debug, Clone)]
pub struct BceLoss {
    config: BceLossConfig,
}

impl BceLoss {
    /// The loss of each pixel, `[N, H, W]`: its mean over the channels, 0 where ignored.
    pub fn forward_no_reduction(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<3> {
        let (logits, labels) = Labels::prepare(logits, targets, self.config.ignore_index);
        self.losses(logits, &labels).mean_dim(1).squeeze_dim(1)
    }

    /// `[N, C, H, W]`, 0 where ignored.
    fn losses(&self, logits: Tensor<4>, labels: &Labels) -> Tensor<4> {
        let (channels, device) = (logits.dims()[1], logits.device());
        let targets = labels.one_hot();
        // With hard targets both terms of the cross-entropy are one log-sigmoid of the logit with the target's sign, which
        // unlike their difference loses no digits at large logits.
        let mut losses = log_sigmoid(logits * (targets.clone() * 2 - 1)).neg();
        if let Some(weight) = &self.config.pos_weight {
            losses = losses * (targets * (per_channel("pos_weight", weight, channels, &device) - 1) + 1);
        }
        if let Some(weight) = &self.config.weight {
            losses = losses * per_channel("weight", weight, channels, &device);
        }
        labels.zero_ignored(losses)
    }
}

impl SegmentationLoss for BceLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        let channels = logits.dims()[1];
        let (logits, labels) = Labels::prepare(logits, targets, self.config.ignore_index);
        let sum = sum_all(self.losses(logits, &labels));
        match self.config.reduction {
            Reduction::Sum => sum,
            Reduction::Mean => sum / (labels.count() * channels as f64).clamp_min(1),
        }
    }
}
