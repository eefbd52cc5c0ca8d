//! Average precision of detections as Pascal VOC defines it (Everingham et al. 2010).
//!
//! ```
//! use segkiln_core::BBox;
//! use segkiln_metrics::metrics::voc::{VocApForm, VocPrediction, VocEvaluator, VocTruth};
//!
//! let bbox = BBox::new(10.0, 10.0, 50.0, 50.0)?;
//! let mut evaluator = VocEvaluator::new(0.5)?;
//! let truth = VocTruth { class: 3, bbox, difficult: false };
//! evaluator.add_image(1, &[truth], &[VocPrediction { class: 3, bbox, score: 0.9 }])?;
//! assert_eq!(evaluator.ap(3, VocApForm::Area), Some(1.0));
//! assert_eq!(evaluator.mean_ap(VocApForm::ElevenPoints), Some(1.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The corners in VOC's files count pixels from 1, and both belong to the box: the left and upper one less 1 make a
//! [`BBox`], and overlaps are then those of VOC's development kit.

use std::collections::{BTreeMap, BTreeSet};

use segkiln_core::BBox;

use crate::{MetricsError, Result};

/// Average of precision over recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VocApForm {
    /// The mean at the recalls 0, 0.1, ..., 1: VOC 2007.
    ElevenPoints,
    /// The area under the curve: VOC 2010 and later.
    Area,
}

/// An object that is to be found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VocTruth {
    /// Its class, by any numbering.
    pub class: i64,
    /// Its box.
    pub bbox: BBox,
    /// Whether it counts neither if it is found nor if it is not.
    pub difficult: bool,
}

/// An object that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VocPrediction {
    /// Its class, numbered as those of [`VocTruth`].
    pub class: i64,
    /// Its box.
    pub bbox: BBox,
    /// Confidence of the detector: finite, the greater the surer.
    pub score: f64,
}

/// Average precision over the images that it is shown, in any order. See [the module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct VocEvaluator {
    threshold: f64,
    /// Images by number, which is their order.
    images: BTreeMap<i64, Image>,
}

#[derive(Debug, Clone, PartialEq)]
struct Image {
    truths: Vec<VocTruth>,
    detections: Vec<VocPrediction>,
}

impl VocEvaluator {
    /// An evaluator without images. A detection finds an object if they overlap by `threshold` or more: for VOC 0.5.
    ///
    /// # Errors
    /// A threshold that is not between 0 and 1.
    pub fn new(threshold: f64) -> Result<Self> {
        match (0.0..=1.0).contains(&threshold) {
            true => Ok(Self { threshold, images: BTreeMap::new() }),
            false => Err(MetricsError::OutOfRange { name: "threshold", expected: "between 0 and 1", value: threshold }),
        }
    }

    /// Adds an image, also one without objects or detections. `image` is any number: it decides only which of equal
    /// scores comes first.
    ///
    /// # Errors
    /// A score that is not finite, or an image of that number was added already.
    pub fn add_image(&mut self, image: i64, truths: &[VocTruth], detections: &[VocPrediction]) -> Result<()> {
        if let Some(index) = detections.iter().position(|found| !found.score.is_finite()) {
            let reason = format!("the score {} must be finite", detections[index].score);
            return Err(MetricsError::Object { what: "detection", index, image, reason });
        }
        if self.images.contains_key(&image) {
            return Err(MetricsError::ImageTwice(image));
        }
        self.images.insert(image, Image { truths: truths.to_vec(), detections: detections.to_vec() });
        Ok(())
    }

    /// Adds the images of another.
    ///
    /// # Errors
    /// Another threshold, or an image that both have.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        if self.threshold != other.threshold {
            return Err(MetricsError::Unlike("VOC evaluators"));
        }
        if let Some(image) = other.images.keys().find(|image| self.images.contains_key(image)) {
            return Err(MetricsError::ImageTwice(*image));
        }
        self.images.extend(other.images);
        Ok(())
    }

    /// Forgets all images.
    pub fn reset(&mut self) {
        self.images.clear();
    }

    /// Average precision of a class, from 0 to 1. None if it has no objects but difficult ones.
    pub fn ap(&self, class: i64, form: VocApForm) -> Option<f64> {
        let curve = self.curve(class)?;
        Some(match form {
            VocApForm::ElevenPoints => {
                let best =
                    |recall: f64| curve.iter().filter(|[r, _]| *r >= recall).map(|[_, p]| *p).fold(0.0, f64::max);
                (0..=10).map(|tenths| best(f64::from(tenths) / 10.0)).sum::<f64>() / 11.0
            }
            VocApForm::Area => {
                let (mut area, mut best) = (0.0, 0.0f64);
                for (index, [recall, precision]) in curve.iter().enumerate().rev() {
                    best = best.max(*precision);
                    area += best * (recall - index.checked_sub(1).map_or(0.0, |before| curve[before][0]));
                }
                area
            }
        })
    }

    /// Mean of [`ap`](Self::ap) over the classes that have one. None if none has.
    pub fn mean_ap(&self, form: VocApForm) -> Option<f64> {
        let values: Vec<f64> = self.classes().into_iter().filter_map(|class| self.ap(class, form)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The classes of the objects, ascending.
    pub fn classes(&self) -> Vec<i64> {
        let classes = self.images.values().flat_map(|image| &image.truths).map(|truth| truth.class);
        classes.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Recall and precision after each detection of a class, the surest first. None if it has no objects but difficult
    /// ones.
    pub fn curve(&self, class: i64) -> Option<Vec<[f64; 2]>> {
        let mut objects = 0u64;
        let mut found: Vec<(f64, Outcome)> = Vec::new();
        for image in self.images.values() {
            let truths: Vec<&VocTruth> = image.truths.iter().filter(|truth| truth.class == class).collect();
            objects += truths.iter().filter(|truth| !truth.difficult).count() as u64;
            let mut taken = vec![false; truths.len()];
            let mut detections: Vec<&VocPrediction> =
                image.detections.iter().filter(|found| found.class == class).collect();
            detections.sort_by(|a, b| b.score.partial_cmp(&a.score).expect("scores were checked"));
            found.extend(detections.into_iter().map(|detection| {
                let mut best = (None, f64::NEG_INFINITY);
                for (index, truth) in truths.iter().enumerate() {
                    let iou = detection.bbox.iou(&truth.bbox);
                    if iou > best.1 {
                        best = (Some(index), iou);
                    }
                }
                let outcome = match best {
                    (Some(index), iou) if iou >= self.threshold => match (truths[index].difficult, taken[index]) {
                        (true, _) => Outcome::Ignored,
                        // What is found twice is a mistake.
                        (false, true) => Outcome::False,
                        (false, false) => {
                            taken[index] = true;
                            Outcome::True
                        }
                    },
                    _ => Outcome::False,
                };
                (detection.score, outcome)
            }));
        }
        if objects == 0 {
            return None;
        }
        found.sort_by(|a, b| b.0.partial_cmp(&a.0).expect("scores were checked"));
        let (mut right, mut wrong) = (0u64, 0u64);
        let mut curve = Vec::with_capacity(found.len());
        for (_, outcome) in found {
            match outcome {
                Outcome::True => right += 1,
                Outcome::False => wrong += 1,
                Outcome::Ignored => continue,
            }
            curve.push([right as f64 / objects as f64, right as f64 / (right + wrong) as f64]);
        }
        Some(curve)
    }
}

/// Outcome of a detection.
enum Outcome {
    True,
    False,
    Ignored,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bbox(x: f64) -> BBox {
        BBox::new(x, 0.0, x + 10.0, 10.0).unwrap()
    }

    #[test]
    fn difficult_and_doubled() {
        let truth = |x, difficult| VocTruth { class: 1, bbox: bbox(x), difficult };
        let found = |x, score| VocPrediction { class: 1, bbox: bbox(x), score };
        let mut evaluator = VocEvaluator::new(0.5).unwrap();
        // Right, twice the same, and on the difficult one, which does not count.
        let detections = [found(1.0, 0.8), found(0.0, 0.7), found(50.0, 0.9), found(50.0, 0.6)];
        evaluator.add_image(1, &[truth(0.0, false), truth(50.0, true), truth(90.0, false)], &detections).unwrap();
        assert_eq!(evaluator.curve(1).unwrap(), [[0.5, 1.0], [0.5, 0.5]]);
        assert_eq!(evaluator.ap(1, VocApForm::Area), Some(0.5));
        assert_eq!(evaluator.ap(1, VocApForm::ElevenPoints), Some(6.0 / 11.0));
        assert_eq!((evaluator.ap(2, VocApForm::Area), evaluator.classes()), (None, vec![1]));

        let mut other = VocEvaluator::new(0.5).unwrap();
        assert_eq!(other.mean_ap(VocApForm::Area), None);
        assert_eq!(other.merge(evaluator.clone()), Ok(()));
        assert_eq!(other.merge(evaluator.clone()), Err(MetricsError::ImageTwice(1)));
        assert_eq!(evaluator.add_image(1, &[], &[]), Err(MetricsError::ImageTwice(1)));
        let error = evaluator.add_image(2, &[], &[found(0.0, f64::NAN)]).unwrap_err().to_string();
        assert!(error.contains("detection 0 of image 2"), "{error}");
        assert!(VocEvaluator::new(1.5).is_err() && evaluator.merge(VocEvaluator::new(0.7).unwrap()).is_err());
        other.reset();
        assert_eq!(other, VocEvaluator::new(0.5).unwrap());
    }
}
