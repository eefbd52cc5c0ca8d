use burn::config::Config;
use burn::tensor::{Int, Tensor};

use super::common::valid_weights;
use super::{LossConfig, SegmentationLoss};
use crate::{MetricsError, Result};

/// Configuration of [`DeepSupervision`].
#[derive(Config, Debug, PartialEq)]
pub struct DeepSupervisionConfig {
    /// The loss of each output.
    pub loss: LossConfig,
    /// Weight of each output, in the order of the outputs. They are used as they are and need not sum to 1.
    pub weights: Vec<f32>,
}

impl DeepSupervisionConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// The loss's errors; no weights, negative or infinite weights, or none above zero.
    pub fn try_init(&self) -> Result<DeepSupervision> {
        if self.weights.is_empty() {
            return Err(MetricsError::Empty("weights"));
        }
        valid_weights("weights", Some(&self.weights))?;
        Ok(DeepSupervision { loss: self.loss.try_init()?, weights: self.weights.clone() })
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> DeepSupervision {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// One loss on outputs at several resolutions (Lee et al. 2015, *Deeply-supervised nets*), as a weighted sum. The targets are
/// resized to each output by nearest neighbor.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use segkiln_metrics::losses::{BceLossConfig, DeepSupervisionConfig, LossConfig};
///
/// let device = Device::default();
/// let outputs = [Tensor::<4>::zeros([2, 1, 8, 8], &device), Tensor::zeros([2, 1, 4, 4], &device)];
/// let targets = Tensor::<3, Int>::zeros([2, 8, 8], &device);
/// let loss = DeepSupervisionConfig::new(LossConfig::Bce(BceLossConfig::new()), vec![1.0, 0.5]).init();
/// let value = loss.forward(&outputs, targets).into_scalar::<f32>();
/// assert!((value - 1.5 * 2f32.ln()).abs() < 1e-6);
/// ```
#[derive(Debug)]
pub struct DeepSupervision {
    loss: Box<dyn SegmentationLoss>,
    weights: Vec<f32>,
}

impl DeepSupervision {
    /// The weighted sum of the losses of the outputs.
    ///
    /// # Shapes
    /// - logits: as many `[N, C, Hᵢ, Wᵢ]` as weights
    /// - targets: `[N, H, W]`
    /// - output: `[1]`
    ///
    /// # Panics
    /// If there are not as many outputs as weights, and where the loss panics.
    pub fn forward(&self, logits: &[Tensor<4>], targets: Tensor<3, Int>) -> Tensor<1> {
        assert!(logits.len() == self.weights.len(), "{} outputs for {} weights", logits.len(), self.weights.len());
        logits
            .iter()
            .zip(&self.weights)
            .filter(|(_, weight)| **weight > 0.0)
            .map(|(logits, weight)| {
                let [_, _, height, width] = logits.dims();
                self.loss.forward(logits.clone(), resize_nearest(targets.clone(), [height, width])) * *weight
            })
            .reduce(|sum, term| sum + term)
            .expect("a weight is above zero by construction")
    }
}

/// Labels `[N, H, W]` at another size, by PyTorch's `nearest`.
fn resize_nearest(targets: Tensor<3, Int>, size: [usize; 2]) -> Tensor<3, Int> {
    let [_, height, width] = targets.dims();
    let axes = [(1, height, size[0]), (2, width, size[1])];
    axes.into_iter().filter(|(_, from, to)| from != to).fold(targets, |targets, (axis, from, to)| {
        let indices = Tensor::<1, Int>::from_ints(nearest_indices(from, to).as_slice(), &targets.device());
        targets.select(axis, indices)
    })
}

/// floor(i · from / to), in single precision as PyTorch computes it.
fn nearest_indices(from: usize, to: usize) -> Vec<i64> {
    let scale = from as f32 / to as f32;
    (0..to).map(|i| ((i as f32 * scale) as i64).min(from as i64 - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_takes_the_left_neighbor() {
        assert_eq!(nearest_indices(8, 4), [0, 2, 4, 6]);
        assert_eq!(nearest_indices(5, 3), [0, 1, 3]);
        assert_eq!(nearest_indices(3, 5), [0, 0, 1, 1, 2]);
    }
}
