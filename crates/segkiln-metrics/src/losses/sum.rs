use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use crate::{MetricsError, Result};

/// A weighted sum of losses.
#[derive(Debug)]
pub struct SumLoss {
    terms: Vec<(f64, Box<dyn SegmentationLoss>)>,
}

impl SumLoss {
    /// The sum of `weight × loss`.
    ///
    /// # Errors
    /// No term, or a weight that is negative or not finite, or no weight above zero.
    pub fn new(terms: Vec<(f64, Box<dyn SegmentationLoss>)>) -> Result<Self> {
        if terms.is_empty() {
            return Err(MetricsError::Empty("a sum of losses"));
        }
        let weights: Vec<f64> = terms.iter().map(|(weight, _)| *weight).collect();
        if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || weights.iter().all(|w| *w == 0.0) {
            return Err(MetricsError::Weights { name: "the weights of a sum of losses", values: weights });
        }
        Ok(Self { terms })
    }
}

impl SegmentationLoss for SumLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        self.terms
            .iter()
            .map(|(weight, loss)| loss.forward(logits.clone(), targets.clone()) * *weight)
            .reduce(|sum, term| sum + term)
            .expect("a sum has a term by construction")
    }
}
