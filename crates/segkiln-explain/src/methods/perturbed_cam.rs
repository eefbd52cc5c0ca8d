//! Class activation maps without gradients: how the score changes with each channel.

use burn::tensor::{Bool, Tensor, TensorData};
use segkiln_ops::{ResizeMode, resize};

use super::{
    Explanation, Method,
    cam::{Layer, combined},
};
use crate::{Question, Result, subject::values};

/// Channels weighed by the score of the image that is seen only where the channel is active: Wang et al., CVPR workshop 2020,
/// <https://arxiv.org/abs/1910.01279>. The network computes once a channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScoreCam;

impl Method for ScoreCam {
    fn name(&self) -> &'static str {
        "scorecam"
    }

    fn meaning(&self) -> &'static str {
        "As gradcam without gradients: a channel counts by the score of the image that is seen only where the channel is active."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        let x = &question.x;
        let mut maps = Vec::new();
        for map in question.activations()? {
            let [_, channels, height, width] = map.dims();
            let large = resize(map.clone(), question.size(), ResizeMode::Bilinear { align_corners: true });
            let flat = large.clone().reshape([1, channels, question.size().iter().product()]);
            let low = flat.clone().min_dim(2).reshape([1, channels, 1, 1]);
            let high = flat.max_dim(2).reshape([1, channels, 1, 1]);
            let masks = (large - low.clone()) / (high - low).add_scalar(1e-8);
            let scores = question.scores(channels, |channel| Ok(x.clone() * masks.clone().narrow(1, channel, 1)))?;
            // Softmax.
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f64> = scores.iter().map(|score| f64::from(score - most).exp()).collect();
            let total: f64 = powers.iter().sum();
            maps.push(weighed(map, [height, width], powers.into_iter().map(|power| power / total))?);
        }
        combined(question, maps)
    }
}

/// Channels weighed by how far the score falls without them: Ramaswamy et al., WACV 2020,
/// <https://doi.org/10.1109/WACV45572.2020.9093360>. The network computes once a channel. A channel is left out as in
/// pytorch-grad-cam: zeros where the layer's least value is 0, else what is far below it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AblationCam;

impl Method for AblationCam {
    fn name(&self) -> &'static str {
        "ablationcam"
    }

    fn meaning(&self) -> &'static str {
        "As gradcam without gradients: a channel counts by how far the score falls where the channel is left out."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        /// Below the least value; pytorch-grad-cam's.
        const BELOW: f64 = 1e7;
        let original = f64::from(question.score()?);
        let mut maps = Vec::new();
        for (layer, map) in question.layers()?.iter().zip(question.activations()?) {
            let [_, channels, height, width] = map.dims();
            let least = f64::from(values(map.clone().min())?[0]);
            let value = if least == 0.0 { 0.0 } else { least - BELOW };
            let scores = question.edited_scores(layer, channels, move |map, range| {
                let shape = [range.len(), channels, 1, 1];
                let left_out = range.clone().flat_map(|index| (0..channels).map(move |channel| channel == index));
                let mask = TensorData::new(left_out.collect::<Vec<bool>>(), shape);
                let mask = Tensor::<4, Bool>::from_data(mask, &map.device()).expand(map.dims());
                map.mask_fill(mask, value)
            })?;
            let weights = scores.iter().map(|score| (original - f64::from(*score)) / original);
            maps.push(weighed(map, [height, width], weights)?);
        }
        combined(question, maps)
    }
}

fn weighed(map: Tensor<4>, size: [usize; 2], weights: impl IntoIterator<Item = f64>) -> Result<([usize; 2], Vec<f64>)> {
    let map = values(map)?;
    let layer = Layer { size, gradient: vec![0.0; map.len()], map };
    Ok((size, layer.weighed(weights)))
}
