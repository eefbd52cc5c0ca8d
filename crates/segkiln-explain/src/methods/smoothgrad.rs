use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Explanation, Method};
use crate::{ExplainError, Map, Question, Result, subject::values};

/// Statistic of the gradients of noisy images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Noise {
    /// The amount of their mean: Smilkov et al., 2017, <https://arxiv.org/abs/1706.03825>.
    #[default]
    Mean,
    /// The mean of their squares: Hooker et al., NeurIPS 2019, <https://arxiv.org/abs/1806.10758>.
    Squared,
    /// Their variance: Adebayo et al., 2018, <https://arxiv.org/abs/1810.03307>.
    Variance,
}

/// Gradients of images with noise.
#[derive(Debug, Clone, Copy)]
pub struct SmoothGrad {
    /// Number of images.
    pub samples: usize,
    /// Standard deviation of the noise, as a share of the range of the normalized image's values.
    pub noise: f64,
    /// Statistic of the gradients.
    pub kind: Noise,
}

impl Default for SmoothGrad {
    /// 25 samples, noise of 0.15, the mean.
    fn default() -> Self {
        Self { samples: 25, noise: 0.15, kind: Noise::Mean }
    }
}

impl Method for SmoothGrad {
    fn name(&self) -> &'static str {
        "smoothgrad"
    }

    fn meaning(&self) -> &'static str {
        "As saliency, averaged over copies of the image with noise: what flickers from one copy to the next goes away."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        if self.samples == 0 || !(self.noise.is_finite() && self.noise >= 0.0) {
            let reason = "needs at least one sample and a noise of at least 0".into();
            return Err(ExplainError::Option { option: "smoothgrad", reason });
        }
        let x = &question.x;
        let image = values(x.clone())?;
        let [low, high] = [f32::min, f32::max].map(|pick| image.iter().copied().reduce(pick).unwrap_or(0.0));
        let deviation = self.noise * f64::from(high - low);
        let (mut sum, mut squares) = (x.zeros_like(), x.zeros_like());
        let mut done = 0;
        while done < self.samples {
            let end = (done + question.batch).min(self.samples);
            let noisy = (done..end).map(|sample| {
                let noise = normal(question.seed, sample as u64, image.len(), deviation);
                x.clone() + Tensor::from_data(TensorData::new(noise, x.dims()), &x.device())
            });
            let gradients = question.gradients(Tensor::cat(noisy.collect(), 0))?;
            sum = sum + gradients.clone().sum_dim(0);
            squares = squares + gradients.square().sum_dim(0);
            done = end;
        }
        let count = self.samples as f64;
        let (mean, square) = (sum.div_scalar(count), squares.div_scalar(count));
        let by_channel = match self.kind {
            Noise::Mean => mean.abs(),
            Noise::Squared => square,
            Noise::Variance => (square - mean.square()).clamp_min(0.0),
        };
        Ok(Map::new(question.size(), values(by_channel.max_dim(1))?, false)?.into())
    }
}

/// Normally distributed numbers (Box and Muller), by seed and sample.
pub(crate) fn normal(seed: u64, stream: u64, count: usize, deviation: f64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut numbers = Vec::with_capacity(count + 1);
    while numbers.len() < count {
        // In (0, 1].
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * deviation;
        let angle = std::f64::consts::TAU * rng.random::<f64>();
        numbers.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    numbers.truncate(count);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal_and_repeatable() {
        let noise = normal(3, 5, 100_001, 2.0);
        assert_eq!(noise, normal(3, 5, 100_001, 2.0));
        assert_ne!(noise[..4], normal(3, 6, 4, 2.0)[..]);
        let mean = noise.iter().map(|value| f64::from(*value)).sum::<f64>() / noise.len() as f64;
        let variance = noise.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / noise.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 4.0).abs() < 0.08, "{mean}, {variance}");
        let within = noise.iter().filter(|value| value.abs() < 2.0).count() as f64 / noise.len() as f64;
        assert!((within - 0.6827).abs() < 0.01, "{within}");
    }
}
