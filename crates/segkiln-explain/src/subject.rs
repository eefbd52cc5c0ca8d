use burn::tensor::{Device, Tensor};
use segkiln_core::Classes;
use segkiln_data::Normalize;
use segkiln_models::LayerMaps;

use crate::{ExplainError, ExplanationTarget, Result};

/// A network that can be asked for reasons: it computes the number that an [`ExplanationTarget`] is, with gradients where the image has them.
///
/// [`SegmentationSubject`](crate::SegmentationSubject) is one of any segmentation network.
pub trait Subject {
    /// Device that the network is on.
    fn device(&self) -> &Device;

    /// Normalization of the images; explanations are of normalized ones.
    fn normalize(&self) -> &Normalize;

    /// Classes that the network tells apart.
    fn classes(&self) -> &Classes;

    /// Makes a target that depends on the network's answer ([`Pixels::Predicted`](crate::Pixels::Predicted), an object's index)
    /// independent of it, so that it stays the same where the image is changed; and checks it.
    ///
    /// # Shapes
    /// `x`: a normalized image, `[1, channels, height, width]`
    ///
    /// # Errors
    /// Part of the image that does not exist or is empty.
    fn resolve(&self, target: &ExplanationTarget, x: &Tensor<4>) -> Result<ExplanationTarget>;

    /// Computes the target of each image of a batch.
    ///
    /// # Shapes
    /// `x`: normalized images, `[n, channels, height, width]`; output: `[n]`
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    fn score(&self, x: Tensor<4>, target: &ExplanationTarget) -> Result<Tensor<1>>;

    /// Finds the maps that the network puts out where it computes the target of an image.
    ///
    /// # Errors
    /// If the network refuses the image.
    fn layers(&self, x: &Tensor<4>, target: &ExplanationTarget) -> Result<LayerMaps>;

    /// The layers of a class activation map where none is given.
    fn default_layers(&self, layers: &LayerMaps) -> Vec<String> {
        default_layer(layers).into_iter().collect()
    }
}

/// The end of the backbone, or, in a network without one, the last map of more than one pixel before the logits.
fn default_layer(layers: &LayerMaps) -> Option<String> {
    for name in ["backbone.body", "backbone", "encoder"] {
        if let Ok(layer) = layers.find(name)
            && layer.shape()[2..].iter().all(|side| *side > 1)
        {
            return Some(layer.name().into());
        }
    }
    let names = layers.names();
    let logits = names.last()?.name().to_owned();
    let is_large = |name: &str, shape: [usize; 4]| shape[2] > 1 && shape[3] > 1 && !logits.starts_with(name);
    names.iter().rev().find(|layer| is_large(layer.name(), layer.shape())).map(|layer| layer.name().into())
}

/// The values of a tensor.
///
/// # Errors
/// [`ExplainError::Device`].
pub(crate) fn values<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>> {
    let data = x.try_into_data().map_err(|error| ExplainError::Device(error.to_string()))?;
    data.convert::<f32>().try_into_vec().map_err(|error| ExplainError::Device(format!("{error:?}")))
}

/// A finite score.
pub(crate) fn finite(score: f32) -> Result<f32> {
    if score.is_finite() { Ok(score) } else { Err(ExplainError::Undefined(score)) }
}

/// The scores of many images, a batch of a few at a time, in their order.
pub(crate) fn scores(
    subject: &dyn Subject,
    target: &ExplanationTarget,
    count: usize,
    batch: usize,
    mut image: impl FnMut(usize) -> Result<Tensor<4>>,
) -> Result<Vec<f32>> {
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let end = (found.len() + batch.max(1)).min(count);
        let images = (found.len()..end).map(&mut image).collect::<Result<Vec<_>>>()?;
        for score in values(subject.score(Tensor::cat(images, 0), target)?)? {
            found.push(finite(score)?);
        }
    }
    Ok(found)
}
