use segkiln_core::LabelMap;
use serde::{Deserialize, Serialize};

use crate::{MetricsError, Result};

/// Average of the figures of the classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// Counts of all classes are added first, so each pixel counts alike.
    Micro,
    /// The mean of the classes that occur, so each class counts alike.
    #[default]
    Macro,
    /// The mean weighted by the number of target pixels of each class ("frequency-weighted").
    Weighted,
}

/// A figure of one class, computed from its true positives (TP), false positives (FP) and false negatives (FN).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// TP / (TP + FP + FN), the Jaccard index.
    Iou,
    /// 2·TP / (2·TP + FP + FN), the F1 score.
    Dice,
    /// TP / (TP + FP).
    Precision,
    /// TP / (TP + FN), the accuracy of the class.
    Recall,
}

/// Pixels of one class.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    true_positive: u64,
    false_positive: u64,
    false_negative: u64,
}

impl Counts {
    /// `None` where the class occurs neither in prediction nor target; otherwise 0/0 is 0.
    fn figure(self, figure: Figure) -> Option<f64> {
        let Self { true_positive: tp, false_positive: fp, false_negative: missed } = self;
        let (numerator, denominator) = match figure {
            Figure::Iou => (tp, tp + fp + missed),
            Figure::Dice => (2 * tp, 2 * tp + fp + missed),
            Figure::Precision => (tp, tp + fp),
            Figure::Recall => (tp, tp + missed),
        };
        (tp + fp + missed > 0).then(|| ratio(numerator, denominator).unwrap_or(0.0))
    }

    fn support(self) -> u64 {
        self.true_positive + self.false_negative
    }
}

fn ratio(numerator: u64, denominator: u64) -> Option<f64> {
    (denominator > 0).then(|| numerator as f64 / denominator as f64)
}

/// Pixels by target and predicted class, from which every pixel-wise figure follows.
///
/// A class that occurs neither in the predictions nor in the targets has no figure and is left out of averages; a class
/// that is only predicted (or only missed) scores 0. These are the conventions of torchmetrics. An `ignore_index` that is
/// itself a class leaves out its target pixels and its figures.
///
/// ```
/// use segkiln_metrics::metrics::{Average, ConfusionMatrix, Figure};
///
/// let mut matrix = ConfusionMatrix::new(3, None)?;
/// matrix.update(&[0, 1, 1, 0], &[0, 1, 0, 0])?;
/// assert_eq!(matrix.pixel_accuracy(), Some(0.75));
/// assert_eq!(matrix.precision(1), Some(0.5));
/// assert_eq!(matrix.figure(Figure::Iou, 2), None);
/// assert_eq!(matrix.mean_iou(Average::Micro), Some(0.6));
/// # Ok::<(), segkiln_metrics::MetricsError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    ignore_index: Option<u32>,
    /// Row: target. Column: prediction.
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// An empty matrix for `classes` classes (background included); target pixels labeled `ignore_index` are left out.
    ///
    /// # Errors
    /// Fewer than 2 classes, or more than 16,384, whose counts would take over 2 GiB.
    pub fn new(classes: usize, ignore_index: Option<u32>) -> Result<Self> {
        if !(2..=1 << 14).contains(&classes) {
            let expected = "from 2 to 16,384, as there is a count for each pair of classes";
            return Err(MetricsError::OutOfRange { name: "classes", expected, value: classes as f64 });
        }
        Ok(Self { classes, ignore_index, counts: vec![0; classes * classes] })
    }

    /// Counts pixels, in any order, as many as fit in memory at a time.
    ///
    /// # Errors
    /// Different lengths, or a label that is neither a class nor ignored; nothing is counted then. The prediction of an
    /// ignored pixel may be anything.
    pub fn update(&mut self, predicted: &[u32], target: &[u32]) -> Result<()> {
        if predicted.len() != target.len() {
            return Err(MetricsError::Length { predicted: predicted.len(), target: target.len() });
        }
        let (classes, ignored) = (self.classes, self.ignore_index);
        let pixels = || predicted.iter().zip(target).filter(move |(_, target)| Some(**target) != ignored);
        if pixels().any(|(p, t)| *p as usize >= classes || *t as usize >= classes) {
            return Err(self.first_bad_label(predicted, target));
        }
        for (p, t) in pixels() {
            self.counts[*t as usize * classes + *p as usize] += 1;
        }
        Ok(())
    }

    /// Counts the pixels of two label maps.
    ///
    /// # Errors
    /// As [`update`](Self::update), and maps of different size.
    pub fn update_maps(&mut self, predicted: &LabelMap, target: &LabelMap) -> Result<()> {
        same_size(predicted, target)?;
        self.update(predicted.as_slice(), target.as_slice())
    }

    fn first_bad_label(&self, predicted: &[u32], target: &[u32]) -> MetricsError {
        let bad = |label: u32| label as usize >= self.classes;
        for (position, (&p, &t)) in predicted.iter().zip(target).enumerate() {
            if Some(t) != self.ignore_index && (bad(p) || bad(t)) {
                let (of, label) = if bad(t) { ("target", t) } else { ("predicted", p) };
                return MetricsError::Label { of, label, position, classes: self.classes };
            }
        }
        unreachable!("called for a bad label only")
    }

    /// Adds what another matrix has counted.
    ///
    /// # Errors
    /// Another number of classes or another ignored label.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.classes, self.ignore_index) != (other.classes, other.ignore_index) {
            return Err(MetricsError::Unlike("confusion matrices"));
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        Ok(())
    }

    /// Forgets everything counted.
    pub fn reset(&mut self) {
        self.counts.fill(0);
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of pixels counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The counts, row-major: row `t`, column `p` is the number of pixels of class `t` that were predicted to be `p`.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Share of the pixels whose class is right, or `None` where no pixel was counted.
    pub fn pixel_accuracy(&self) -> Option<f64> {
        ratio(self.agreeing(), self.total())
    }

    /// Mean of the classes' accuracies (their recalls).
    pub fn mean_accuracy(&self) -> Option<f64> {
        self.average(Figure::Recall, Average::Macro)
    }

    /// Intersection over union of a class.
    pub fn iou(&self, class: usize) -> Option<f64> {
        self.figure(Figure::Iou, class)
    }

    /// Mean intersection over union.
    pub fn mean_iou(&self, average: Average) -> Option<f64> {
        self.average(Figure::Iou, average)
    }

    /// Dice coefficient (F1) of a class.
    pub fn dice(&self, class: usize) -> Option<f64> {
        self.figure(Figure::Dice, class)
    }

    /// Mean Dice coefficient.
    pub fn mean_dice(&self, average: Average) -> Option<f64> {
        self.average(Figure::Dice, average)
    }

    /// Precision of a class.
    pub fn precision(&self, class: usize) -> Option<f64> {
        self.figure(Figure::Precision, class)
    }

    /// Recall of a class.
    pub fn recall(&self, class: usize) -> Option<f64> {
        self.figure(Figure::Recall, class)
    }

    /// Cohen's kappa: the agreement beyond what chance gives. `None` without pixels, and where prediction and target are one
    /// and the same class everywhere, because chance then gives full agreement.
    pub fn kappa(&self) -> Option<f64> {
        let total = self.total() as f64;
        let chance = (0..self.classes)
            .map(|class| self.target_count(class) as f64 / total * (self.predicted_count(class) as f64 / total))
            .sum::<f64>();
        (total > 0.0 && chance < 1.0).then(|| (self.agreeing() as f64 / total - chance) / (1.0 - chance))
    }

    /// A figure of one class; `None` where the class does not occur, is ignored, or is not one of the classes.
    pub fn figure(&self, figure: Figure, class: usize) -> Option<f64> {
        self.class_counts(class)?.figure(figure)
    }

    /// A figure of all classes together; `None` where nothing was counted.
    pub fn average(&self, figure: Figure, average: Average) -> Option<f64> {
        let classes = (0..self.classes).filter_map(|class| self.class_counts(class));
        match average {
            Average::Micro => classes
                .fold(Counts::default(), |sum, class| Counts {
                    true_positive: sum.true_positive + class.true_positive,
                    false_positive: sum.false_positive + class.false_positive,
                    false_negative: sum.false_negative + class.false_negative,
                })
                .figure(figure),
            Average::Macro => weighted_mean(classes.filter_map(|class| Some((class.figure(figure)?, 1)))),
            Average::Weighted => {
                weighted_mean(classes.filter_map(|class| Some((class.figure(figure)?, class.support()))))
            }
        }
    }

    fn class_counts(&self, class: usize) -> Option<Counts> {
        if class >= self.classes || self.ignore_index == Some(class as u32) {
            return None;
        }
        let true_positive = self.counts[class * self.classes + class];
        Some(Counts {
            true_positive,
            false_positive: self.predicted_count(class) - true_positive,
            false_negative: self.target_count(class) - true_positive,
        })
    }

    fn agreeing(&self) -> u64 {
        self.counts.iter().step_by(self.classes + 1).sum()
    }

    fn target_count(&self, class: usize) -> u64 {
        self.counts[class * self.classes..][..self.classes].iter().sum()
    }

    fn predicted_count(&self, class: usize) -> u64 {
        self.counts[class..].iter().step_by(self.classes).sum()
    }
}

fn weighted_mean(values: impl Iterator<Item = (f64, u64)>) -> Option<f64> {
    let (sum, weights) =
        values.fold((0.0, 0), |(sum, weights), (value, weight)| (sum + value * weight as f64, weights + weight));
    (weights > 0).then(|| sum / weights as f64)
}

/// Refuses two maps of different size.
pub(super) fn same_size(predicted: &LabelMap, target: &LabelMap) -> Result<()> {
    let (predicted, target) = (predicted.size(), target.size());
    if predicted == target { Ok(()) } else { Err(MetricsError::Size { predicted, target }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_labels_are_named_and_nothing_is_counted() {
        let mut matrix = ConfusionMatrix::new(2, Some(255)).unwrap();
        let error = matrix.update(&[0, 1, 2], &[0, 255, 1]).unwrap_err();
        assert_eq!(error.to_string(), "predicted label 2 at position 2 is not one of 2 classes");
        let error = matrix.update(&[7, 1], &[255, 9]).unwrap_err();
        assert_eq!(error.to_string(), "target label 9 at position 1 is not one of 2 classes");
        assert!(matrix.update(&[0], &[0, 1]).is_err());
        assert_eq!(matrix.total(), 0);
        for classes in [0, 1, (1 << 14) + 1, 1 << 33, usize::MAX] {
            assert!(ConfusionMatrix::new(classes, None).unwrap_err().to_string().contains("16,384"));
        }
    }

    #[test]
    fn an_empty_matrix_has_no_figures() {
        let matrix = ConfusionMatrix::new(3, None).unwrap();
        assert_eq!(matrix.pixel_accuracy(), None);
        assert_eq!(matrix.kappa(), None);
        for average in [Average::Micro, Average::Macro, Average::Weighted] {
            assert_eq!(matrix.mean_iou(average), None);
        }
    }

    #[test]
    fn batches_and_merges_do_not_matter() {
        let (predicted, target) = ([0, 1, 2, 2, 1, 0], [0, 1, 1, 2, 2, 255]);
        let mut whole = ConfusionMatrix::new(3, Some(255)).unwrap();
        whole.update(&predicted, &target).unwrap();
        let mut parts = ConfusionMatrix::new(3, Some(255)).unwrap();
        let mut rest = parts.clone();
        parts.update(&predicted[..1], &target[..1]).unwrap();
        rest.update(&predicted[1..], &target[1..]).unwrap();
        parts.merge(&rest).unwrap();
        assert_eq!(parts, whole);
        assert!(parts.merge(&ConfusionMatrix::new(3, None).unwrap()).is_err());
        parts.reset();
        assert_eq!(parts.total(), 0);
    }
}
