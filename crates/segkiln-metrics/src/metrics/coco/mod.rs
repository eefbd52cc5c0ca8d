//! Average precision and recall of detections as COCO defines them (Lin et al. 2014,
//! <https://cocodataset.org/#detection-eval>), with the numbers of pycocotools.
//!
//! ```
//! use segkiln_metrics::metrics::coco::{CocoPrediction, CocoEvaluator, CocoParams, CocoTruth, IouType};
//!
//! let truth = CocoTruth { id: 1, class: 3, bbox: [10.0, 10.0, 40.0, 40.0], area: 1600.0, crowd: false, mask: None };
//! let found = CocoPrediction { class: 3, bbox: [12.0, 10.0, 40.0, 40.0], area: 1600.0, score: 0.9, mask: None };
//! let mut evaluator = CocoEvaluator::new(IouType::Bbox, CocoParams::default())?;
//! evaluator.add_image(1, &[truth], &[found])?;
//! let figures = evaluator.evaluate().figures();
//! assert_eq!((figures.ar100, figures.ar_small), (0.9, -1.0));
//! assert_eq!(evaluator.curve(3, 0.95, "all", 100).unwrap().precision, [0.0; 101]);
//! # Ok::<(), segkiln_metrics::MetricsError>(())
//! ```
//!
//! Peculiarities of pycocotools that are kept:
//! - a detection that matches the object with id 0 counts as if it matched none, and the object is taken
//! - of two objects that overlap a detection equally, the later one is matched
//! - crowds match any number of detections, which then count neither for nor against
//! - detections and objects of equal rank come in the order of the images' numbers and then as given
//!
//! Not kept: where 100 is not among the numbers of detections, pycocotools says that AP is -1; here it is AP at the
//! greatest.

mod evaluation;
mod evaluator;
mod overlap;

use serde::{Deserialize, Serialize};

use crate::{MetricsError, Result};

pub use evaluation::{CocoEvaluation, CocoFigures, PrecisionRecall};
pub use evaluator::{CocoEvaluator, CocoPrediction, CocoTruth, ImageMatches};

/// Whether the overlap of boxes or of masks decides a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IouType {
    /// Overlap of boxes.
    Bbox,
    /// Overlap of masks.
    Segm,
}

/// A range of areas for which figures are computed separately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AreaRange {
    /// Name; [`CocoFigures`] use `all`, `small`, `medium` and `large`.
    pub name: String,
    /// Smallest area in pixels.
    pub from: f64,
    /// Largest area in pixels; it belongs to the range.
    pub to: f64,
}

/// Parameters of the evaluation: thresholds of a match and numbers of detections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CocoParams {
    /// Least overlaps of a match, from 0 to 1. Default: 0.5 to 0.95 by 0.05.
    pub iou_thresholds: Vec<f64>,
    /// Recalls that precision is read at, from 0 to 1, ascending. Default: 0 to 1 by 0.01.
    pub recall_thresholds: Vec<f64>,
    /// Default: `all`, `small` (to 32²), `medium` (to 96²), `large`.
    pub areas: Vec<AreaRange>,
    /// Numbers of detections of an image and class that count, those with the highest scores; ascending. Default: 1, 10, 100.
    pub max_detections: Vec<usize>,
    /// Whether only detections of an object's class match it. Default: true. If not, all have class -1.
    pub use_classes: bool,
}

impl Default for CocoParams {
    fn default() -> Self {
        // In these operations, so that the numbers are NumPy's to the bit.
        let steps = |from: f64, to: f64, steps: u32| {
            let step = (to - from) / f64::from(steps);
            let mut values: Vec<f64> = (0..=steps).map(|index| f64::from(index) * step + from).collect();
            values[steps as usize] = to;
            values
        };
        let area = |name: &str, from: f64, to: f64| AreaRange { name: name.into(), from: from * from, to: to * to };
        Self {
            iou_thresholds: steps(0.5, 0.95, 9),
            recall_thresholds: steps(0.0, 1.0, 100),
            areas: vec![
                area("all", 0.0, 1e5),
                area("small", 0.0, 32.0),
                area("medium", 32.0, 96.0),
                area("large", 96.0, 1e5),
            ],
            max_detections: vec![1, 10, 100],
            use_classes: true,
        }
    }
}

impl CocoParams {
    fn check(&self) -> Result<()> {
        let between = |name: &'static str, values: &[f64]| {
            if values.is_empty() {
                return Err(MetricsError::Empty(name));
            }
            match values.iter().copied().find(|value| !(0.0..=1.0).contains(value)) {
                Some(value) => Err(MetricsError::OutOfRange { name, expected: "between 0 and 1", value }),
                None => Ok(()),
            }
        };
        between("iou_thresholds", &self.iou_thresholds)?;
        between("recall_thresholds", &self.recall_thresholds)?;
        if let Some(pair) = self.recall_thresholds.windows(2).find(|pair| pair[0] > pair[1]) {
            return Err(MetricsError::OutOfRange { name: "recall_thresholds", expected: "ascending", value: pair[1] });
        }
        if self.areas.is_empty() {
            return Err(MetricsError::Empty("areas"));
        }
        if let Some(area) = self.areas.iter().find(|area| area.from.is_nan() || area.to.is_nan()) {
            let value = if area.from.is_nan() { area.from } else { area.to };
            return Err(MetricsError::OutOfRange { name: "areas", expected: "numbers", value });
        }
        if self.max_detections.is_empty() {
            return Err(MetricsError::Empty("max_detections"));
        }
        let ascending = std::iter::once(&0).chain(&self.max_detections).zip(&self.max_detections);
        if let Some((_, value)) = ascending.into_iter().find(|(before, value)| before >= value) {
            let expected = "at least 1 and ascending";
            return Err(MetricsError::OutOfRange { name: "max_detections", expected, value: *value as f64 });
        }
        Ok(())
    }

    /// Returns the greatest number of detections that count.
    fn most(&self) -> usize {
        self.max_detections.last().copied().unwrap_or_default()
    }

    /// An overlap of all but 1 counts as 1.
    fn reached(threshold: f64) -> f64 {
        threshold.min(1.0 - 1e-10)
    }
}
