//! The core of the losses that compare regions and not pixels: Dice, Jaccard and Tversky differ by two numbers.

use burn::tensor::{Int, Tensor};

use super::common::{Labels, not_negative, probabilities, sum_channels, valid_weights, weighted_sum};
use crate::{MetricsError, Result};

/// Soft Tversky index (TP + smooth) / (TP + α·FP + β·FN + smooth) of each channel, over the whole batch.
#[derive(Debug, Clone)]
pub(super) struct Region {
    pub alpha: f64,
    pub beta: f64,
    pub smooth: f64,
    pub eps: f64,
    pub log_loss: bool,
    pub from_logits: bool,
    pub classes: Option<Vec<usize>>,
    pub class_weights: Option<Vec<f32>>,
    pub ignore_index: Option<i64>,
}

impl Region {
    pub(super) fn validated(self) -> Result<Self> {
        not_negative("alpha", self.alpha)?;
        not_negative("beta", self.beta)?;
        not_negative("smooth", self.smooth)?;
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(MetricsError::OutOfRange { name: "eps", expected: "between 0 and 1", value: self.eps });
        }
        valid_weights("class_weights", self.class_weights.as_deref())?;
        match self.classes.as_deref() {
            Some([]) => Err(MetricsError::Empty("classes")),
            _ => Ok(self),
        }
    }

    /// Loss of each channel, `[C]`; 0 for a class that no pixel of the batch has.
    pub(super) fn channel_losses(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        let (logits, labels) = Labels::prepare(logits, targets, self.ignore_index);
        let predicted = if self.from_logits { probabilities(logits) } else { logits };
        let predicted = labels.zero_ignored(predicted);
        let truth = labels.one_hot();

        let truth_sum = sum_channels(truth.clone());
        let true_positive = sum_channels(predicted.clone() * truth);
        let false_positive = sum_channels(predicted) - true_positive.clone();
        let false_negative = truth_sum.clone() - true_positive.clone();
        let numerator = true_positive + self.smooth;
        let denominator = numerator.clone() + false_positive * self.alpha + false_negative * self.beta;
        let score = numerator / denominator.clamp_min(self.eps);

        let loss = if self.log_loss { score.clamp_min(self.eps).log().neg() } else { score.neg() + 1 };
        loss.mask_fill(truth_sum.equal_scalar(0), 0)
    }

    /// Weighted mean of the chosen channels.
    pub(super) fn mean(&self, channel_losses: Tensor<1>) -> Tensor<1> {
        let channels = channel_losses.dims()[0];
        let shares = channel_shares(channels, self.classes.as_deref(), self.class_weights.as_deref());
        weighted_sum(channel_losses, &shares)
    }
}

/// `losses` to the power `gamma`, with gradient 0 where a loss is 0.
///
/// There the slope of a power below 1 is infinite, and rounding may have left the loss just below 0.
pub(super) fn power(losses: Tensor<1>, gamma: f64) -> Tensor<1> {
    if gamma == 1.0 {
        return losses;
    }
    let perfect = losses.clone().lower_equal_scalar(0);
    losses.mask_fill(perfect.clone(), 1).powf_scalar(gamma).mask_fill(perfect, 0)
}

/// The share of each channel in the mean, summing to 1.
pub(super) fn channel_shares(channels: usize, classes: Option<&[usize]>, weights: Option<&[f32]>) -> Vec<f32> {
    if let Some(weights) = weights {
        assert!(weights.len() == channels, "class_weights has {} values for {channels} channels", weights.len());
    }
    let mut shares = vec![0.0; channels];
    let mut add = |class: usize| {
        assert!(class < channels, "class {class} is not one of {channels} channels");
        shares[class] += weights.map_or(1.0, |weights| weights[class]);
    };
    match classes {
        Some(classes) => classes.iter().copied().for_each(&mut add),
        None => (0..channels).for_each(&mut add),
    }
    let total: f32 = shares.iter().sum();
    if total > 0.0 {
        shares.iter_mut().for_each(|share| *share /= total);
    }
    shares
}
