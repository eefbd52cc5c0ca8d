//! Uncertainty of networks, its calibration, and guarantees for new images; margins of detectors' boxes.
//!
//! - [`dropout()`], [`mirrored()`], [`ensemble()`]: several answers about one image, and the [`Uncertainty`] in them;
//! - [`mirrored_objects`], [`ensemble_of_objects`], [`dropout_of_objects`]: several answers of a detector, and the [`ObjectUncertainty`] in them;
//! - [`ReliabilityDiagram`]: errors of probabilities; [`temperature()`]: the divisor of logits that mends them best;
//! - [`RiskControl`]: thresholds with a guarantee for new images: pixel sets that hold the true class, objects that are not missed;
//!   [`BoxMargin`]: boxes that hold the true ones;
//! - [`ranked()`], [`core_set`]: images that would teach most.

mod boxes;
mod calibration;
mod conformal;
mod learning;
mod objects;

use burn::{
    module::{Flag, Module, ModuleMapper, Param},
    tensor::Tensor,
};
use segkiln_data::Image;
use segkiln_models::SegmentationNetwork;

pub use boxes::{BoxMargin, matched_boxes};
pub use calibration::{Bin, ReliabilityDiagram, temperature};
pub use conformal::{RiskControl, missed_risk, pixel_set, pixel_set_risk};
pub use learning::{Criterion, core_set, features, ranked};
pub use objects::{ObjectUncertainty, UncertainObject, dropout_of_objects, ensemble_of_objects, mirrored_objects};

use crate::{
    ExplainError, Map, Result, SegmentationSubject, Subject,
    segmentation::probabilities,
    subject::{finite, values},
};

/// Uncertainty of several answers about one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Uncertainty {
    /// Mean probability of each class, `[class][row][column]`.
    pub probabilities: Vec<f32>,
    /// Entropy of the mean probabilities of each pixel, in nats: all that is unsure, 0 to the logarithm of the number of classes.
    pub entropy: Map,
    /// The part of the entropy by which the answers differ from each other, in nats: the network does not know, and could learn it. The
    /// rest is in the image.
    pub mutual_information: Map,
    /// Variance of the probabilities over the answers, summed over the classes.
    pub variance: Map,
    /// Number of answers.
    pub answers: usize,
}

impl Uncertainty {
    /// Joins answers, each of the probabilities `[1, classes, height, width]`.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if there is none, [`ExplainError::Undefined`] if a probability is not finite.
    pub fn of(answers: impl IntoIterator<Item = Result<Tensor<4>>>) -> Result<Self> {
        let (mut sum, mut squares, mut entropies) = (Vec::new(), Vec::new(), Vec::new());
        let (mut count, mut dims) = (0usize, [0; 4]);
        for answer in answers {
            let answer = answer?;
            dims = answer.dims();
            let pixels = dims[2] * dims[3];
            let found = values(answer)?;
            if count == 0 {
                (sum, squares) = (vec![0.0f64; found.len()], vec![0.0f64; found.len()]);
                entropies = vec![0.0f64; pixels];
            }
            if found.len() != sum.len() {
                let reason = "the networks of an ensemble need the same classes".into();
                return Err(ExplainError::Option { option: "ensemble", reason });
            }
            for (index, probability) in found.into_iter().enumerate() {
                let probability = f64::from(finite(probability)?);
                sum[index] += probability;
                squares[index] += probability * probability;
                entropies[index % pixels] += information(probability);
            }
            count += 1;
        }
        if count == 0 {
            return Err(ExplainError::Option { option: "answers", reason: "at least one is needed".into() });
        }
        let (size, pixels) = ([dims[2], dims[3]], dims[2] * dims[3]);
        let n = count as f64;
        let (mut entropy, mut variance) = (vec![0.0f64; pixels], vec![0.0f64; pixels]);
        for (index, (sum, square)) in sum.iter().zip(&squares).enumerate() {
            let mean = sum / n;
            entropy[index % pixels] += information(mean);
            variance[index % pixels] += (square / n - mean * mean).max(0.0);
        }
        let mutual = entropy.iter().zip(&entropies).map(|(entropy, each)| (entropy - each / n).max(0.0) as f32);
        let mutual_information = Map::new(size, mutual.collect(), false)?;
        let map = |values: Vec<f64>| Map::new(size, values.into_iter().map(|value| value as f32).collect(), false);
        Ok(Self {
            probabilities: sum.iter().map(|sum| (sum / n) as f32).collect(),
            entropy: map(entropy)?,
            mutual_information,
            variance: map(variance)?,
            answers: count,
        })
    }
}

/// `-p ln p`
fn information(probability: f64) -> f64 {
    if probability > 0.0 { -probability * probability.ln() } else { 0.0 }
}

/// Monte-Carlo dropout: answers of the network whose dropout layers are on, as in training, and nothing else is: Gal and Ghahramani, ICML
/// 2016, <https://arxiv.org/abs/1506.02142>.
///
/// # Errors
/// [`ExplainError::Option`] if the network has no dropout, or `passes` is 0.
pub fn dropout<M: SegmentationNetwork>(
    subject: &SegmentationSubject<M>,
    image: &Image,
    passes: usize,
    seed: u64,
) -> Result<Uncertainty> {
    let (network, found) = with_dropout(subject.network().clone());
    let x = subject.input(image)?.autodiff();
    let drops = found > 0 && {
        // A dropout of 0 is there, and does nothing.
        subject.device().seed(seed);
        let [first, second] = [0, 1].map(|_| values(network.forward(x.clone()).without_autodiff()));
        first? != second?
    };
    if !drops {
        return Err(no_dropout());
    }
    Uncertainty::of((0..passes).map(|pass| {
        subject.device().seed(seed.wrapping_add(1 + pass as u64));
        Ok(probabilities(network.forward(x.clone()).without_autodiff()))
    }))
}

fn no_dropout() -> ExplainError {
    let reason = "the network drops nothing; train it with dropout, or take mirror images (tta) or an ensemble".into();
    ExplainError::Option { option: "uncertainty", reason }
}

/// The network with its dropout layers on, and their number.
fn with_dropout<M: Module>(network: M) -> (M, usize) {
    let mut enabled = EnableDropout { containers: Vec::new(), found: 0 };
    (network.map(&mut enabled), enabled.found)
}

/// Switches dropout layers on.
struct EnableDropout {
    containers: Vec<String>,
    found: usize,
}

impl ModuleMapper for EnableDropout {
    fn enter_module(&mut self, _name: &str, container: &str) {
        self.containers.push(container.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.containers.pop();
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        if self.containers.last().is_none_or(|container| container != "Struct:Dropout") {
            return flag;
        }
        self.found += 1;
        flag.with_value(true)
    }
}

/// Test-time variance: answers about the image and its three mirror images, mirrored back.
///
/// # Errors
/// If the image does not fit the network.
pub fn mirrored<M: SegmentationNetwork>(subject: &SegmentationSubject<M>, image: &Image) -> Result<Uncertainty> {
    let x = subject.input(image)?;
    let flip = |x: Tensor<4>, axes: &[isize]| axes.iter().fold(x, |x, axis| x.flip([*axis]));
    let mirrors: [&[isize]; 4] = [&[], &[2], &[3], &[2, 3]];
    Uncertainty::of(mirrors.map(|axes| Ok(flip(subject.probabilities(flip(x.clone(), axes)), axes))))
}

/// Deep ensemble: answers of several networks for the same classes: Lakshminarayanan et al., NeurIPS 2017,
/// <https://arxiv.org/abs/1612.01474>. The networks of one training at several epochs are snapshots.
///
/// # Errors
/// If the networks differ in their classes, or the image does not fit one.
pub fn ensemble<M: SegmentationNetwork>(subjects: &[SegmentationSubject<M>], image: &Image) -> Result<Uncertainty> {
    Uncertainty::of(subjects.iter().map(|subject| Ok(subject.probabilities(subject.input(image)?))))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn information_is_split() {
        let answer = |values: [f32; 4]| Ok(Tensor::<1>::from_floats(values, &Device::default()).reshape([1, 2, 1, 2]));
        // The first pixel: both answers unsure, alike. The second: each sure, of another class.
        let found = Uncertainty::of([answer([0.5, 1.0, 0.5, 0.0]), answer([0.5, 0.0, 0.5, 1.0])]).unwrap();
        let near = |map: &Map, expected: [f32; 2]| {
            let close = map.as_slice().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(close, "{map:?}, not {expected:?}");
        };
        let ln2 = std::f32::consts::LN_2;
        near(&found.entropy, [ln2, ln2]);
        near(&found.mutual_information, [0.0, ln2]);
        near(&found.variance, [0.0, 0.5]);
        assert_eq!(found.probabilities, [0.5; 4]);
        assert!(Uncertainty::of([]).is_err());
    }
}
