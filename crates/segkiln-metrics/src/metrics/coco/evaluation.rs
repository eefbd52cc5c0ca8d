use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    CocoParams,
    evaluator::{ClassMatches, Outcome},
};

/// Precision over recall of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionRecall {
    /// [`CocoParams::recall_thresholds`].
    pub recall: Vec<f64>,
    /// The greatest precision at that or a greater recall; 0 where it is not reached.
    pub precision: Vec<f64>,
}

/// The detections of one class over all images, by descending score.
pub(super) struct Ranked {
    /// Index within the image.
    ranks: Vec<usize>,
    /// Detections × areas × thresholds.
    outcomes: Vec<Outcome>,
    /// Objects to be found, for each of the areas.
    objects: Vec<u64>,
}

/// Precision and recall at one threshold.
pub(super) struct Curve {
    /// Precision at the recall thresholds.
    pub precision: Vec<f64>,
    /// Greatest recall reached.
    pub recall: f64,
}

impl Ranked {
    /// Collects the images' detections, in the order of the images.
    pub fn new(images: &[&ClassMatches], params: &CocoParams) -> Self {
        let mut order: Vec<(f64, &ClassMatches, usize)> = images
            .iter()
            .flat_map(|image| image.scores.iter().enumerate().map(|(rank, score)| (*score, *image, rank)))
            .collect();
        order.sort_by(|a, b| b.0.partial_cmp(&a.0).expect("scores were checked"));
        let row = params.areas.len() * params.iou_thresholds.len();
        let mut outcomes = Vec::with_capacity(order.len() * row);
        for (_, image, rank) in &order {
            outcomes.extend_from_slice(&image.outcomes[rank * row..(rank + 1) * row]);
        }
        let objects = (0..params.areas.len()).map(|a| images.iter().map(|image| u64::from(image.objects[a])).sum());
        Self { ranks: order.into_iter().map(|(_, _, rank)| rank).collect(), outcomes, objects: objects.collect() }
    }

    /// Returns a curve for each threshold; none without objects.
    pub fn curves(&self, params: &CocoParams, area: usize, max_detections: usize) -> Option<Vec<Curve>> {
        let (objects, thresholds) = (self.objects[area], params.iou_thresholds.len());
        if objects == 0 {
            return None;
        }
        // Precision changes for the better only where an object is found, so it is kept for these.
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); thresholds];
        let mut wrong = vec![0u64; thresholds];
        let rows = self.outcomes.chunks_exact(params.areas.len() * thresholds);
        for (_, row) in self.ranks.iter().zip(rows).filter(|(rank, _)| **rank < max_detections) {
            for (t, outcome) in row[area * thresholds..][..thresholds].iter().enumerate() {
                match outcome {
                    Outcome::True => {
                        let right = (found[t].len() + 1) as f64;
                        found[t].push(right / (wrong[t] as f64 + right + f64::EPSILON));
                    }
                    Outcome::False => wrong[t] += 1,
                    Outcome::Ignored => {}
                }
            }
        }
        let curve = |mut found: Vec<f64>| {
            let mut best = 0.0f64;
            for precision in found.iter_mut().rev() {
                best = best.max(*precision);
                *precision = best;
            }
            let mut index = 0;
            let precision = params.recall_thresholds.iter().map(|threshold| {
                while index < found.len() && ((index + 1) as f64 / objects as f64) < *threshold {
                    index += 1;
                }
                found.get(index).copied().unwrap_or(0.0)
            });
            Curve { precision: precision.collect(), recall: found.len() as f64 / objects as f64 }
        };
        Some(found.into_iter().map(curve).collect())
    }
}

/// Figures of one class: areas × numbers of detections × thresholds, -1 where there is no object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClassFigures {
    class: i64,
    /// Means over the recall thresholds.
    precision: Vec<f64>,
    /// Greatest recall reached.
    recall: Vec<f64>,
}

impl ClassFigures {
    pub fn new(class: i64, ranked: &Ranked, params: &CocoParams) -> Self {
        let thresholds = params.iou_thresholds.len();
        let settings: Vec<(usize, usize)> =
            (0..params.areas.len()).flat_map(|a| params.max_detections.iter().map(move |most| (a, *most))).collect();
        let figures = settings.par_iter().map(|(area, most)| match ranked.curves(params, *area, *most) {
            None => vec![[-1.0, -1.0]; thresholds],
            Some(curves) => curves.into_iter().map(|curve| [mean(&curve.precision), curve.recall]).collect(),
        });
        let figures: Vec<[f64; 2]> = figures.flatten_iter().collect();
        Self {
            class,
            precision: figures.iter().map(|[precision, _]| *precision).collect(),
            recall: figures.iter().map(|[_, recall]| *recall).collect(),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the index of a threshold, which may differ in its last bits.
pub(super) fn threshold(params: &CocoParams, value: f64) -> Option<usize> {
    params.iou_thresholds.iter().position(|threshold| (threshold - value).abs() < 1e-9)
}

/// Average precision and recall, by class and over all.
///
/// All figures are from 0 to 1, and -1 where there is no object of the kind or no such setting, as in pycocotools. Its
/// [`Display`](fmt::Display) is pycocotools' table.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoEvaluation {
    params: CocoParams,
    classes: Vec<ClassFigures>,
}

impl CocoEvaluation {
    pub(super) fn new(params: CocoParams, classes: Vec<ClassFigures>) -> Self {
        Self { params, classes }
    }

    /// The classes that have objects or detections, ascending.
    pub fn classes(&self) -> impl Iterator<Item = i64> {
        self.classes.iter().map(|figures| figures.class)
    }

    /// Average precision: the mean over recalls, over the classes that have objects (or of one class), and over the IoU
    /// thresholds (or at one). `area` is the name of a range, `max_detections` one of the numbers.
    pub fn precision(&self, class: Option<i64>, threshold: Option<f64>, area: &str, max_detections: usize) -> f64 {
        self.mean(|figures| &figures.precision, class, threshold, area, max_detections)
    }

    /// Average recall: the mean of the greatest recall, over classes and IoU thresholds as
    /// [`precision`](Self::precision).
    pub fn recall(&self, class: Option<i64>, threshold: Option<f64>, area: &str, max_detections: usize) -> f64 {
        self.mean(|figures| &figures.recall, class, threshold, area, max_detections)
    }

    fn mean(
        &self,
        kind: impl Fn(&ClassFigures) -> &Vec<f64>,
        class: Option<i64>,
        threshold: Option<f64>,
        area: &str,
        max_detections: usize,
    ) -> f64 {
        let params = &self.params;
        let thresholds = params.iou_thresholds.len();
        let a = params.areas.iter().position(|range| range.name == area);
        let m = params.max_detections.iter().position(|most| *most == max_detections);
        let t = match threshold {
            None => Some(0..thresholds),
            Some(value) => self::threshold(params, value).map(|t| t..t + 1),
        };
        let (Some(a), Some(m), Some(t)) = (a, m, t) else { return -1.0 };
        let first = (a * params.max_detections.len() + m) * thresholds;
        let chosen = self.classes.iter().filter(|figures| class.is_none_or(|class| class == figures.class));
        let values: Vec<f64> = chosen
            .flat_map(|figures| &kind(figures)[first + t.start..first + t.end])
            .copied()
            .filter(|value| *value > -1.0)
            .collect();
        if values.is_empty() { -1.0 } else { mean(&values) }
    }

    /// The twelve figures of COCO, over all classes.
    pub fn figures(&self) -> CocoFigures {
        self.some_figures(None)
    }

    /// The twelve figures of one class; all -1 if it has no objects.
    pub fn class_figures(&self, class: i64) -> CocoFigures {
        self.some_figures(Some(class))
    }

    fn some_figures(&self, class: Option<i64>) -> CocoFigures {
        let most = self.params.most();
        let ap = |threshold, area| self.precision(class, threshold, area, most);
        let ar = |area, place: usize| {
            self.params.max_detections.get(place).map_or(-1.0, |most| self.recall(class, None, area, *most))
        };
        let last = self.params.max_detections.len() - 1;
        CocoFigures {
            ap: ap(None, "all"),
            ap50: ap(Some(0.5), "all"),
            ap75: ap(Some(0.75), "all"),
            ap_small: ap(None, "small"),
            ap_medium: ap(None, "medium"),
            ap_large: ap(None, "large"),
            ar1: ar("all", 0),
            ar10: ar("all", 1),
            ar100: ar("all", last),
            ar_small: ar("small", last),
            ar_medium: ar("medium", last),
            ar_large: ar("large", last),
        }
    }
}

impl fmt::Display for CocoEvaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = &self.params;
        let all = match params.iou_thresholds[..] {
            [first, .., last] => format!("{first:.2}:{last:.2}"),
            _ => format!("{:.2}", params.iou_thresholds[0]),
        };
        let most = |place: usize| params.max_detections.get(place).copied().unwrap_or(params.most());
        let (first, second, last) = (most(0), most(1), params.most());
        let (precision, recall) = ("Average Precision", "Average Recall");
        let lines = [
            (precision, "(AP)", all.as_str(), "all", last),
            (precision, "(AP)", "0.50", "all", last),
            (precision, "(AP)", "0.75", "all", last),
            (precision, "(AP)", &all, "small", last),
            (precision, "(AP)", &all, "medium", last),
            (precision, "(AP)", &all, "large", last),
            (recall, "(AR)", &all, "all", first),
            (recall, "(AR)", &all, "all", second),
            (recall, "(AR)", &all, "all", last),
            (recall, "(AR)", &all, "small", last),
            (recall, "(AR)", &all, "medium", last),
            (recall, "(AR)", &all, "large", last),
        ];
        for (index, ((title, short, iou, area, most), value)) in
            lines.into_iter().zip(self.figures().values()).enumerate()
        {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end} {title:<18} {short} @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] = {value:.3}")?;
        }
        Ok(())
    }
}

/// The twelve figures of COCO, from 0 to 1; -1 where there is no object of the kind.
///
/// "At the greatest number of detections" is 100 unless [`CocoParams::max_detections`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CocoFigures {
    /// Average precision over all IoU thresholds, at the greatest number of detections.
    #[serde(rename = "AP")]
    pub ap: f64,
    /// Average precision at IoU 0.5.
    #[serde(rename = "AP50")]
    pub ap50: f64,
    /// Average precision at IoU 0.75.
    #[serde(rename = "AP75")]
    pub ap75: f64,
    /// Average precision over all IoU thresholds, for small objects.
    #[serde(rename = "APs")]
    pub ap_small: f64,
    /// Average precision over all IoU thresholds, for medium objects.
    #[serde(rename = "APm")]
    pub ap_medium: f64,
    /// Average precision over all IoU thresholds, for large objects.
    #[serde(rename = "APl")]
    pub ap_large: f64,
    /// Average recall over all IoU thresholds, at the first number of detections (1).
    #[serde(rename = "AR1")]
    pub ar1: f64,
    /// Average recall at the second number (10).
    #[serde(rename = "AR10")]
    pub ar10: f64,
    /// Average recall at the greatest number (100).
    #[serde(rename = "AR100")]
    pub ar100: f64,
    /// Average recall at the greatest number, for small objects.
    #[serde(rename = "ARs")]
    pub ar_small: f64,
    /// Average recall at the greatest number, for medium objects.
    #[serde(rename = "ARm")]
    pub ar_medium: f64,
    /// Average recall at the greatest number, for large objects.
    #[serde(rename = "ARl")]
    pub ar_large: f64,
}

impl CocoFigures {
    /// Their names, in pycocotools' order.
    pub const NAMES: [&str; 12] =
        ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"];

    /// The figures, in the same order.
    pub fn values(&self) -> [f64; 12] {
        [
            self.ap,
            self.ap50,
            self.ap75,
            self.ap_small,
            self.ap_medium,
            self.ap_large,
            self.ar1,
            self.ar10,
            self.ar100,
            self.ar_small,
            self.ar_medium,
            self.ar_large,
        ]
    }
}
