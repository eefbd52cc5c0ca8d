use burn::config::Config;
use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

use super::SegmentationLoss;
use super::common::{Labels, floats, probabilities, sum_all};
use crate::distance::distance_transform;
use crate::{MetricsError, Result};

/// Configuration of [`BoundaryLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct BoundaryLossConfig {
    /// Channels that the loss is computed on; all by default.
    pub classes: Option<Vec<usize>>,
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
}

impl BoundaryLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// An empty list of classes.
    pub fn try_init(&self) -> Result<BoundaryLoss> {
        match self.classes.as_deref() {
            Some([]) => Err(MetricsError::Empty("classes")),
            _ => Ok(BoundaryLoss { config: self.clone() }),
        }
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> BoundaryLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Boundary loss (Kervadec et al. 2019): the mean of probability times signed distance to the boundary of the ground truth,
/// in pixels, negative inside. Meant to be added to a region loss by a [`SumLoss`](super::SumLoss).
///
/// The distance of a pixel outside is that to the nearest pixel of the class; inside it is one less than that to the
/// nearest pixel of another class, so pixels at the inner edge have 0, as in the paper's code. A class that has no pixel of
/// an image, or all of them, has no boundary there and contributes 0. To the distances an ignored pixel is of another class.
///
/// The distances are computed on the host, which waits for the targets.
#[derive(Debug, Clone)]
pub struct BoundaryLoss {
    config: BoundaryLossConfig,
}

impl SegmentationLoss for BoundaryLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        let shape @ [_, channels, height, width] = logits.dims();
        let device = logits.device();
        let (logits, labels) = Labels::prepare(logits, targets.clone(), self.config.ignore_index);
        let all: Vec<usize> = (0..channels).collect();
        let classes = self.config.classes.as_deref().unwrap_or(&all);
        if let Some(class) = classes.iter().find(|class| **class >= channels) {
            panic!("class {class} is not one of {channels} channels");
        }

        let targets: Vec<i64> = targets.into_data().iter().collect();
        let mut distances = vec![0.0; channels * targets.len()];
        distances.par_chunks_mut((height * width).max(1)).enumerate().for_each(|(plane, distances)| {
            let (image, channel) = (plane / channels, plane % channels);
            if classes.contains(&channel) {
                // A binary problem's only channel is that of class 1.
                let label = if channels == 1 { 1 } else { channel as i64 };
                signed_distances(&targets[image * height * width..][..height * width], label, width, distances);
            }
        });
        let distances = floats(&distances, &device).reshape(shape);
        let losses = labels.zero_ignored(probabilities(logits) * distances);
        sum_all(losses) / (labels.count() * classes.len() as f64).clamp_min(1)
    }
}

/// Writes the signed distances of one image to the boundary of one label; leaves them at 0 where there is no boundary.
fn signed_distances(targets: &[i64], label: i64, width: usize, distances: &mut [f32]) {
    let inside: Vec<bool> = targets.iter().map(|target| *target == label).collect();
    let outside: Vec<bool> = inside.iter().map(|inside| !inside).collect();
    if !inside.contains(&true) || !outside.contains(&true) {
        return;
    }
    let size = [1, targets.len() / width, width];
    let to_inside = distance_transform(&inside, size, [1.0; 3]);
    let to_outside = distance_transform(&outside, size, [1.0; 3]);
    for (i, distance) in distances.iter_mut().enumerate() {
        *distance = if inside[i] { 1.0 - to_outside[i] } else { to_inside[i] } as f32;
    }
}
