use burn::tensor::Tensor;

use super::{Explanation, Method, gradient::over_channels};
use crate::{ExplainError, Map, Question, Result, subject::values};

/// Integrated gradients along the line from the mean color to the image: Sundararajan et al., ICML 2017,
/// <https://arxiv.org/abs/1703.01365>. Summed over all pixels it is the difference of the scores; `completeness_gap` is what is
/// missing from that.
#[derive(Debug, Clone, Copy)]
pub struct IntegratedGradients {
    /// Points on the line.
    pub steps: usize,
}

impl Default for IntegratedGradients {
    /// 50 steps.
    fn default() -> Self {
        Self { steps: 50 }
    }
}

impl Method for IntegratedGradients {
    fn name(&self) -> &'static str {
        "integrated_gradients"
    }

    fn meaning(&self) -> &'static str {
        "The share of each pixel in the difference between the image's score and that of an image of one color, the data set's mean. \
         Red pixels raise the score, blue pixels lower it; all together they add up to the difference."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        if self.steps == 0 {
            return Err(ExplainError::Option { option: "steps", reason: "must be at least 1".into() });
        }
        let x = &question.x;
        let mut sum = x.zeros_like();
        let points = gauss_legendre(self.steps);
        for points in points.chunks(question.batch) {
            let images = points.iter().map(|(at, _)| x.clone().mul_scalar(*at)).collect();
            let gradients = question.gradients(Tensor::cat(images, 0))?;
            let weights: Vec<f32> = points.iter().map(|(_, weight)| *weight as f32).collect();
            let weights = Tensor::<1>::from_floats(weights.as_slice(), &x.device()).reshape([points.len(), 1, 1, 1]);
            sum = sum + (gradients * weights).sum_dim(0);
        }
        let attributions = values(over_channels(sum * x.clone()))?;
        let total: f64 = attributions.iter().map(|value| f64::from(*value)).sum();
        let ends = question.scores(2, |index| Ok(if index == 0 { x.zeros_like() } else { x.clone() }))?;
        let difference = f64::from(ends[1]) - f64::from(ends[0]);
        Ok(Explanation {
            map: Map::new(question.size(), attributions, true)?,
            figures: vec![("score_difference", difference), ("completeness_gap", total - difference)],
        })
    }
}

/// Points in [0, 1] and their weights, captum's default rule. Newton's method from Tricomi's estimates of the roots.
fn gauss_legendre(count: usize) -> Vec<(f64, f64)> {
    let n = count as f64;
    let point = |index: usize| {
        let mut x = (std::f64::consts::PI * (index as f64 + 0.75) / (n + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (mut before, mut value) = (1.0, x);
            for degree in 2..=count {
                let degree = degree as f64;
                (before, value) = (value, ((2.0 * degree - 1.0) * x * value - (degree - 1.0) * before) / degree);
            }
            slope = n * (x * value - before) / (x * x - 1.0);
            let step = value / slope;
            x -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        ((1.0 - x) / 2.0, 1.0 / ((1.0 - x * x) * slope * slope))
    };
    match count {
        // Of the first degree the recurrence above has no step.
        1 => vec![(0.5, 1.0)],
        _ => (0..count).map(point).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_integrates_polynomials() {
        for count in [1, 2, 3, 7, 50] {
            let points = gauss_legendre(count);
            for degree in 0..(2 * count).min(12) {
                let sum: f64 = points.iter().map(|(at, weight)| weight * at.powi(degree as i32)).sum();
                assert!((sum - 1.0 / (degree as f64 + 1.0)).abs() < 1e-12, "{count} points, degree {degree}: {sum}");
            }
        }
    }
}
