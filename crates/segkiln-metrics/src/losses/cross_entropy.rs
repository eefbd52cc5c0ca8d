use burn::config::Config;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use super::SegmentationLoss;
use super::common::{Labels, Reduction, floats, in_range, indicator, per_channel, sum_all, sum_list, valid_weights};
use crate::Result;

/// Hard pixel mining: [`CrossEntropyLoss`] learns only from the hardest pixels of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HardPixels {
    /// The `percent` (0 to 100) of the pixels with the greatest loss, at least one, as nnU-Net's top-k loss.
    TopK {
        /// Share of the pixels that are not ignored.
        percent: f64,
    },
    /// Online hard example mining: the pixels whose true class has a probability below `threshold`, or the `min_kept` least
    /// probable where there are fewer than that (Shrivastava et al. 2016, in the form of HRNet's segmentation code).
    Ohem {
        /// Probability above which a pixel is easy.
        threshold: f64,
        /// Pixels of the batch to keep at least.
        min_kept: usize,
    },
}

/// Configuration of [`CrossEntropyLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct CrossEntropyLossConfig {
    /// Weight of each class; two of them (background, foreground) for a binary problem.
    pub class_weights: Option<Vec<f32>>,
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Learn from the hardest pixels only.
    pub hard_pixels: Option<HardPixels>,
    /// Share of the target, 0 to 1, that is spread evenly over all classes.
    #[config(default = 0.0)]
    pub label_smoothing: f64,
    /// Reduction over the pixels. The mean is weighted: it divides by the sum of the weights of the pixels' classes (with
    /// [`HardPixels`] by the number of pixels kept).
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
}

impl CrossEntropyLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// Negative or infinite weights or none above zero, smoothing or threshold outside 0 to 1, a percentage outside
    /// 0 to 100.
    pub fn try_init(&self) -> Result<CrossEntropyLoss> {
        valid_weights("class_weights", self.class_weights.as_deref())?;
        in_range("label_smoothing", self.label_smoothing, 0.0, 1.0, "between 0 and 1")?;
        match self.hard_pixels {
            Some(HardPixels::TopK { percent }) => in_range("percent", percent, 0.0, 100.0, "between 0 and 100")?,
            Some(HardPixels::Ohem { threshold, .. }) => in_range("threshold", threshold, 0.0, 1.0, "between 0 and 1")?,
            None => {}
        }
        Ok(CrossEntropyLoss { config: self.clone() })
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> CrossEntropyLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Cross-entropy of the softmax, as PyTorch's `CrossEntropyLoss`.
///
/// Binary logits are read as two classes of which the background's logit is 0, so this is then
/// [`BceLoss`](super::BceLoss) with a weighted mean.
#[derive(Debug, Clone)]
pub struct CrossEntropyLoss {
    config: CrossEntropyLossConfig,
}

/// `[N, 1, H, W]` each.
struct PixelLosses {
    /// Negative log-likelihood of the true class, neither weighted nor smoothed nor masked.
    likelihood: Tensor<4>,
    /// The weighted and smoothed loss, 0 where ignored.
    loss: Tensor<4>,
    /// Weight of the true class, 0 where ignored.
    weight: Option<Tensor<4>>,
}

impl CrossEntropyLoss {
    /// The weighted loss of each pixel, `[N, H, W]`, 0 where ignored; hard pixels are not chosen.
    pub fn forward_no_reduction(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<3> {
        let (logits, labels) = Labels::prepare(as_classes(logits), targets, self.config.ignore_index);
        self.pixel_losses(logits, &labels).loss.squeeze_dim(1)
    }

    fn pixel_losses(&self, logits: Tensor<4>, labels: &Labels) -> PixelLosses {
        let (shape @ [_, channels, _, _], device) = (logits.dims(), logits.device());
        // Log-sum-exp less the true logit in place of a log-softmax, which would be one more pass over all channels. The
        // true one is picked by a mask, on a CPU many times faster than gather and its gradient's scatter.
        let shifted = logits.clone() - logits.without_autodiff().max_dim(1);
        let log_sum = shifted.clone().exp().sum_dim(1).log();
        let other_class = labels.is_of_channel().bool_not();
        let pick = |x: Tensor<4>| x.mask_fill(other_class.clone(), 0).sum_dim(1);
        let likelihood = log_sum.clone() - pick(shifted.clone());

        let class_weights =
            self.config.class_weights.as_deref().map(|w| per_channel("class_weights", w, channels, &device));
        let weight = class_weights.clone().map(|weights| pick(weights.expand(shape)));
        let mut loss = likelihood.clone();
        if let Some(weight) = &weight {
            loss = loss * weight.clone();
        }
        let smoothing = self.config.label_smoothing;
        if smoothing > 0.0 {
            let (weighted, total) = match class_weights {
                Some(weights) => (shifted * weights.clone(), weights.sum_dim(1)),
                None => (shifted, floats(&[channels as f32], &device).reshape([1, 1, 1, 1])),
            };
            let all_classes = log_sum * total - weighted.sum_dim(1);
            loss = loss * (1.0 - smoothing) + all_classes * (smoothing / channels as f64);
        }
        PixelLosses { likelihood, loss: labels.zero_ignored(loss), weight }
    }

    /// Sum and number of the losses of the hardest pixels.
    fn hardest(hard: HardPixels, pixels: PixelLosses, labels: &Labels) -> (Tensor<1>, Tensor<1>) {
        let candidates = labels.count().into_scalar::<f32>() as usize;
        let device = labels.device();
        if candidates == 0 {
            return (sum_all(pixels.loss), floats(&[1.0], &device));
        }
        match hard {
            HardPixels::TopK { percent } => {
                let count = ((candidates as f64 * percent / 100.0) as usize).max(1);
                let loss = labels.fill_ignored(pixels.loss, f64::from(f32::MIN)).flatten::<1>(0, 3);
                let order = loss.clone().without_autodiff().argsort_descending(0).narrow(0, 0, count);
                (sum_list(loss.select(0, order)), floats(&[count as f32], &device))
            }
            HardPixels::Ohem { threshold, min_kept } => {
                let likelihood = labels.fill_ignored(pixels.likelihood.without_autodiff(), f64::from(f32::MIN));
                let order = likelihood.clone().flatten::<1>(0, 3).sort_descending(0);
                let last_kept = order.narrow(0, min_kept.min(candidates - 1), 1);
                let bound = last_kept.clamp_max(-threshold.ln()).reshape([1, 1, 1, 1]);
                let easy = likelihood.clone().lower_equal(bound.expand(likelihood.dims()));
                let kept = sum_all(indicator(easy.clone().bool_not()));
                (sum_all(pixels.loss.mask_fill(easy, 0)), kept)
            }
        }
    }
}

/// Binary logits as two classes.
fn as_classes(logits: Tensor<4>) -> Tensor<4> {
    match logits.dims()[1] {
        1 => Tensor::cat(vec![logits.zeros_like(), logits], 1),
        _ => logits,
    }
}

impl SegmentationLoss for CrossEntropyLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        let (logits, labels) = Labels::prepare(as_classes(logits), targets, self.config.ignore_index);
        let pixels = self.pixel_losses(logits, &labels);
        let (sum, divisor) = match (self.config.hard_pixels, &pixels.weight) {
            (Some(hard), _) => Self::hardest(hard, pixels, &labels),
            (None, None) => (sum_all(pixels.loss), labels.count()),
            (None, Some(weight)) => (sum_all(pixels.loss), sum_all(weight.clone())),
        };
        match self.config.reduction {
            Reduction::Sum => sum,
            // An empty sum divides zero; the bound only keeps it from being 0/0.
            Reduction::Mean => sum / divisor.clamp_min(f32::MIN_POSITIVE),
        }
    }
}
