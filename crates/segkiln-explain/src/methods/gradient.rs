use burn::tensor::Tensor;

use super::{Explanation, Method};
use crate::{Map, Question, Result, subject::values};

/// The amount of the gradient of each pixel, of the channel where it is largest: Simonyan et al., ICLR 2014 workshop,
/// <https://arxiv.org/abs/1312.6034>.
#[derive(Debug, Clone, Copy, Default)]
pub struct Saliency;

impl Method for Saliency {
    fn name(&self) -> &'static str {
        "saliency"
    }

    fn meaning(&self) -> &'static str {
        "How much the score changes where a pixel changes a little, up or down. It shows where the network is sensitive, not what \
         speaks for the class."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        let gradient = question.gradients(question.x.clone())?;
        Ok(Map::new(question.size(), values(gradient.abs().max_dim(1))?, false)?.into())
    }
}

/// Gradient times the normalized image, summed over the channels: Shrikumar et al., 2016, <https://arxiv.org/abs/1605.01713>. A
/// normalized image is 0 at the data set's mean color.
#[derive(Debug, Clone, Copy, Default)]
pub struct InputXGradient;

impl Method for InputXGradient {
    fn name(&self) -> &'static str {
        "input_x_gradient"
    }

    fn meaning(&self) -> &'static str {
        "Gradient times the pixel's difference from the mean color. Red pixels raise the score as far as the network is linear, blue \
         pixels lower it."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        let gradient = question.gradients(question.x.clone())?;
        Ok(Map::new(question.size(), values(over_channels(gradient * question.x.clone()))?, true)?.into())
    }
}

/// The sum over the channels.
pub(super) fn over_channels(x: Tensor<4>) -> Tensor<4> {
    x.sum_dim(1)
}
