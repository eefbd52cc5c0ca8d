use burn::config::Config;
use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use super::common::{Labels, probabilities, sum_channels};
use crate::{MetricsError, Result};

/// Configuration of [`MccLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct MccLossConfig {
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Added to the numbers of true and false positives and negatives.
    #[config(default = 1e-5)]
    pub eps: f64,
}

impl MccLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// An `eps` that is not above 0 and at most 1.
    pub fn try_init(&self) -> Result<MccLoss> {
        if self.eps > 0.0 && self.eps <= 1.0 {
            Ok(MccLoss { config: self.clone() })
        } else {
            Err(MetricsError::OutOfRange { name: "eps", expected: "above 0 and at most 1", value: self.eps })
        }
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> MccLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// 1 - the Matthews correlation coefficient of the whole batch (Abhishek and Hamarneh 2021), as
/// segmentation_models_pytorch's `MCCLoss` of the sigmoid of binary logits; of more classes the coefficient R_K that
/// Gorodkin (2004) generalized it to.
#[derive(Debug, Clone)]
pub struct MccLoss {
    config: MccLossConfig,
}

impl SegmentationLoss for MccLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        let (logits, labels) = Labels::prepare(logits, targets, self.config.ignore_index);
        let predicted = probabilities(logits);
        let not_predicted = predicted.clone().neg() + 1;
        let truth = labels.one_hot();
        let not_truth = labels.zero_ignored(truth.clone().neg() + 1);

        // Each class against the others. Every count is a sum of its own: as differences of the others they would lose
        // all digits where one class has nearly every pixel.
        let count = |x: Tensor<4>, y: &Tensor<4>| sum_channels(x * y.clone()) + self.config.eps;
        let true_positive = count(predicted.clone(), &truth);
        let false_positive = count(predicted, &not_truth);
        let false_negative = count(not_predicted.clone(), &truth);
        let true_negative = count(not_predicted, &not_truth);

        let predicted_spread =
            (true_positive.clone() + false_positive.clone()) * (true_negative.clone() + false_negative.clone());
        let true_spread =
            (true_positive.clone() + false_negative.clone()) * (true_negative.clone() + false_positive.clone());
        let covariance = (true_positive * true_negative - false_positive * false_negative).sum();
        let correlation = covariance / (predicted_spread.sum().sqrt() * true_spread.sum().sqrt());
        (correlation.neg() + 1).mask_fill(labels.count().equal_scalar(0), 0)
    }
}
