use std::collections::HashMap;
use std::ops::AddAssign;

use segkiln_core::LabelMap;

use super::confusion::same_size;
use super::image_mean::ImageMean;
use crate::{MetricsError, Result};

/// The IoU thresholds of the Data Science Bowl 2018 (and of COCO): 0.5 to 0.95 by 0.05.
pub const IOU_THRESHOLDS: [f64; 10] = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];

/// Overlaps of the instances of a predicted and a target label map; 0 is the background, all other labels are instances.
///
/// Only pairs that share a pixel are kept, so memory grows with the touching pairs and not with predicted × target.
///
/// ```
/// use segkiln_core::LabelMap;
/// use segkiln_metrics::metrics::InstanceOverlaps;
///
/// let target = LabelMap::new(4, 2, vec![1, 1, 0, 2, 1, 1, 0, 2])?;
/// let predicted = LabelMap::new(4, 2, vec![7, 7, 0, 0, 7, 0, 0, 0])?;
/// let overlaps = InstanceOverlaps::new(&predicted, &target)?;
/// let found = overlaps.matched(0.5);
/// assert_eq!((found.true_positive, found.false_positive, found.false_negative), (1, 0, 1));
/// assert_eq!(found.f1(), Some(2.0 / 3.0));
/// assert_eq!(overlaps.aggregated_jaccard(), Some(3.0 / 6.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceOverlaps {
    /// Pixels of each predicted instance, by ascending label.
    predicted: Vec<u64>,
    /// Pixels of each target instance, by ascending label.
    target: Vec<u64>,
    /// Pairs that share pixels, those with the greatest IoU first.
    pairs: Vec<Pair>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Pair {
    predicted: usize,
    target: usize,
    intersection: u64,
    union: u64,
}

impl Pair {
    fn iou(&self) -> f64 {
        self.intersection as f64 / self.union as f64
    }
}

impl InstanceOverlaps {
    /// Counts the overlaps of two maps.
    ///
    /// # Errors
    /// Maps of different size.
    pub fn new(predicted: &LabelMap, target: &LabelMap) -> Result<Self> {
        same_size(predicted, target)?;
        let labels = [predicted.labels(), target.labels()].map(|mut labels| {
            labels.retain(|label| *label != 0);
            labels
        });
        let index = |map: usize, label: u32| labels[map].binary_search(&label).ok();

        let (mut predicted_areas, mut target_areas) = (vec![0; labels[0].len()], vec![0; labels[1].len()]);
        let mut shared = HashMap::new();
        let mut pixels = predicted.as_slice().iter().zip(target.as_slice()).peekable();
        while let Some(pair) = pixels.next() {
            // Neighbors mostly agree, so runs are looked up once.
            let mut run = 1;
            while pixels.next_if_eq(&pair).is_some() {
                run += 1;
            }
            let (predicted, target) = (index(0, *pair.0), index(1, *pair.1));
            if let Some(p) = predicted {
                predicted_areas[p] += run;
            }
            if let Some(t) = target {
                target_areas[t] += run;
            }
            if let (Some(p), Some(t)) = (predicted, target) {
                *shared.entry((p, t)).or_insert(0) += run;
            }
        }
        let mut pairs: Vec<Pair> = shared
            .into_iter()
            .map(|((p, t), intersection)| Pair {
                predicted: p,
                target: t,
                intersection,
                union: predicted_areas[p] + target_areas[t] - intersection,
            })
            .collect();
        pairs.sort_unstable_by(|a, b| {
            b.iou().total_cmp(&a.iou()).then((a.target, a.predicted).cmp(&(b.target, b.predicted)))
        });
        Ok(Self { predicted: predicted_areas, target: target_areas, pairs })
    }

    /// Pairs instances one to one, the greatest IoU first, as long as it is above `threshold`.
    ///
    /// From 0.5 on there is only one way to do so, because instances of a map do not overlap.
    pub fn matched(&self, threshold: f64) -> Matched {
        let (mut predicted_taken, mut target_taken) =
            (vec![false; self.predicted.len()], vec![false; self.target.len()]);
        let mut matched = Matched::default();
        for pair in self.pairs.iter().take_while(|pair| pair.iou() > threshold) {
            if !predicted_taken[pair.predicted] && !target_taken[pair.target] {
                (predicted_taken[pair.predicted], target_taken[pair.target]) = (true, true);
                matched.true_positive += 1;
                matched.iou_sum += pair.iou();
            }
        }
        matched.false_positive = self.predicted.len() as u64 - matched.true_positive;
        matched.false_negative = self.target.len() as u64 - matched.true_positive;
        matched
    }

    /// Score of the Data Science Bowl 2018: the mean over [`IOU_THRESHOLDS`] of TP / (TP + FP + FN). `None` without
    /// instances.
    pub fn data_science_bowl(&self) -> Option<f64> {
        let scores: Option<Vec<f64>> =
            IOU_THRESHOLDS.iter().map(|threshold| self.matched(*threshold).score()).collect();
        scores.map(|scores| scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// Aggregated Jaccard index (Kumar et al. 2017). `None` without instances.
    pub fn aggregated_jaccard(&self) -> Option<f64> {
        self.aggregated_areas().value()
    }

    /// Each target takes the prediction that it overlaps best, even if another target has taken it; predictions that no target takes
    /// count in full.
    fn aggregated_areas(&self) -> AggregatedJaccard {
        let (mut predicted_taken, mut target_taken) =
            (vec![false; self.predicted.len()], vec![false; self.target.len()]);
        let mut sum = AggregatedJaccard::default();
        for pair in &self.pairs {
            if !target_taken[pair.target] {
                (predicted_taken[pair.predicted], target_taken[pair.target]) = (true, true);
                sum.intersection += pair.intersection;
                sum.union += pair.union;
            }
        }
        let left =
            |areas: &[u64], taken: &[bool]| areas.iter().zip(taken).filter(|(_, t)| !**t).map(|(a, _)| a).sum::<u64>();
        sum.union += left(&self.predicted, &predicted_taken) + left(&self.target, &target_taken);
        sum
    }
}

/// Counts of matched and unmatched instances at one IoU threshold. Counts of several images are added by `+=`.
///
/// All figures are `None` where there is no instance at all.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Matched {
    /// Pairs of a predicted and a target instance.
    pub true_positive: u64,
    /// Predicted instances without a target.
    pub false_positive: u64,
    /// Target instances that were not predicted.
    pub false_negative: u64,
    /// Sum of the pairs' IoUs.
    pub iou_sum: f64,
}

impl Matched {
    /// 2·TP / (2·TP + FP + FN), the recognition quality of the panoptic quality.
    pub fn f1(&self) -> Option<f64> {
        self.over_instances(self.true_positive as f64)
    }

    /// TP / (TP + FP + FN), the Data Science Bowl's precision.
    pub fn score(&self) -> Option<f64> {
        let all = self.true_positive + self.false_positive + self.false_negative;
        (all > 0).then(|| self.true_positive as f64 / all as f64)
    }

    /// Mean IoU of the pairs; 0 without pairs.
    pub fn segmentation_quality(&self) -> Option<f64> {
        self.score().map(|_| if self.true_positive > 0 { self.iou_sum / self.true_positive as f64 } else { 0.0 })
    }

    /// Panoptic quality (Kirillov et al. 2019) where the threshold is 0.5: segmentation quality times [`f1`](Self::f1).
    pub fn panoptic_quality(&self) -> Option<f64> {
        self.over_instances(self.iou_sum)
    }

    fn over_instances(&self, sum: f64) -> Option<f64> {
        let instances = self.true_positive as f64 + 0.5 * (self.false_positive + self.false_negative) as f64;
        (instances > 0.0).then(|| sum / instances)
    }
}

impl AddAssign for Matched {
    fn add_assign(&mut self, other: Self) {
        self.true_positive += other.true_positive;
        self.false_positive += other.false_positive;
        self.false_negative += other.false_negative;
        self.iou_sum += other.iou_sum;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct AggregatedJaccard {
    intersection: u64,
    union: u64,
}

impl AggregatedJaccard {
    fn value(self) -> Option<f64> {
        (self.union > 0).then(|| self.intersection as f64 / self.union as f64)
    }
}

/// Instance metrics over the images of an epoch.
///
/// F1, panoptic quality and aggregated Jaccard index come from counts that are added over all images, so crowded images weigh
/// more; the Data Science Bowl score is by its definition a mean over images. For the mean over images of another figure push
/// that of each [`InstanceOverlaps`] to an [`ImageMean`].
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceMetrics {
    thresholds: Vec<f64>,
    matched: Vec<Matched>,
    panoptic: Matched,
    aggregated: AggregatedJaccard,
    data_science_bowl: ImageMean,
}

impl InstanceMetrics {
    /// Creates the metric with F1 at these IoU thresholds, for example [`IOU_THRESHOLDS`].
    ///
    /// # Errors
    /// A threshold outside 0 to 1.
    pub fn new(thresholds: impl Into<Vec<f64>>) -> Result<Self> {
        let thresholds = thresholds.into();
        if let Some(value) = thresholds.iter().copied().find(|threshold| !(0.0..=1.0).contains(threshold)) {
            return Err(MetricsError::OutOfRange { name: "threshold", expected: "between 0 and 1", value });
        }
        Ok(Self {
            matched: vec![Matched::default(); thresholds.len()],
            thresholds,
            panoptic: Matched::default(),
            aggregated: AggregatedJaccard::default(),
            data_science_bowl: ImageMean::default(),
        })
    }

    /// Adds an image.
    ///
    /// # Errors
    /// Maps of different size.
    pub fn update(&mut self, predicted: &LabelMap, target: &LabelMap) -> Result<()> {
        let overlaps = InstanceOverlaps::new(predicted, target)?;
        for (sum, threshold) in self.matched.iter_mut().zip(&self.thresholds) {
            *sum += overlaps.matched(*threshold);
        }
        self.panoptic += overlaps.matched(0.5);
        let areas = overlaps.aggregated_areas();
        self.aggregated.intersection += areas.intersection;
        self.aggregated.union += areas.union;
        self.data_science_bowl.push(overlaps.data_science_bowl());
        Ok(())
    }

    /// Matches at each threshold.
    pub fn matched(&self) -> impl Iterator<Item = (f64, Matched)> + '_ {
        self.thresholds.iter().copied().zip(self.matched.iter().copied())
    }

    /// Matches at IoU 0.5, with panoptic, segmentation and recognition quality.
    pub fn panoptic(&self) -> Matched {
        self.panoptic
    }

    /// Aggregated Jaccard index.
    pub fn aggregated_jaccard(&self) -> Option<f64> {
        self.aggregated.value()
    }

    /// Mean Data Science Bowl score of the images that have instances.
    pub fn data_science_bowl(&self) -> Option<f64> {
        self.data_science_bowl.mean()
    }

    /// Adds the images of another metric.
    ///
    /// # Errors
    /// Other thresholds.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.thresholds != other.thresholds {
            return Err(MetricsError::Unlike("instance metrics"));
        }
        self.matched.iter_mut().zip(&other.matched).for_each(|(sum, matched)| *sum += *matched);
        self.panoptic += other.panoptic;
        self.aggregated.intersection += other.aggregated.intersection;
        self.aggregated.union += other.aggregated.union;
        self.data_science_bowl.merge(&other.data_science_bowl);
        Ok(())
    }

    /// Removes all images.
    pub fn reset(&mut self) {
        self.matched.fill(Matched::default());
        (self.panoptic, self.aggregated) = (Matched::default(), AggregatedJaccard::default());
        self.data_science_bowl = ImageMean::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_instances() {
        let (empty, one) = (LabelMap::filled(3, 3, 0), LabelMap::filled(3, 3, 9));
        let none = InstanceOverlaps::new(&empty, &empty).unwrap();
        assert_eq!((none.matched(0.5).f1(), none.data_science_bowl(), none.aggregated_jaccard()), (None, None, None));
        let missed = InstanceOverlaps::new(&empty, &one).unwrap();
        assert_eq!(missed.matched(0.5).panoptic_quality(), Some(0.0));
        assert_eq!(missed.aggregated_jaccard(), Some(0.0));
        assert_eq!(InstanceOverlaps::new(&one, &one).unwrap().data_science_bowl(), Some(1.0));
        assert!(InstanceOverlaps::new(&one, &LabelMap::filled(1, 9, 0)).is_err());
    }

    #[test]
    fn low_thresholds_match_one_to_one() {
        // One prediction covers two targets.
        let predicted = LabelMap::filled(4, 1, 5);
        let target = LabelMap::new(4, 1, vec![1, 1, 2, 2]).unwrap();
        let overlaps = InstanceOverlaps::new(&predicted, &target).unwrap();
        let found = overlaps.matched(0.3);
        assert_eq!((found.true_positive, found.false_positive, found.false_negative), (1, 0, 1));
        // An IoU of exactly the threshold is not above it.
        assert_eq!(overlaps.matched(0.5).true_positive, 0);
        assert_eq!(overlaps.aggregated_jaccard(), Some(0.5));
    }

    #[test]
    fn counts_are_added_over_images() {
        let one = LabelMap::filled(2, 2, 1);
        let two = LabelMap::new(2, 2, vec![1, 1, 2, 2]).unwrap();
        let mut metrics = InstanceMetrics::new(IOU_THRESHOLDS).unwrap();
        metrics.update(&one, &one).unwrap();
        let mut other = InstanceMetrics::new(IOU_THRESHOLDS).unwrap();
        other.update(&LabelMap::filled(2, 2, 0), &two).unwrap();
        metrics.merge(&other).unwrap();
        assert_eq!(metrics.panoptic().f1(), Some(0.5));
        assert_eq!(metrics.data_science_bowl(), Some(0.5));
        assert_eq!(metrics.aggregated_jaccard(), Some(0.5));
        assert!(metrics.matched().all(|(_, found)| found.true_positive == 1));
        assert!(metrics.merge(&InstanceMetrics::new([0.5]).unwrap()).is_err());
        metrics.reset();
        assert_eq!(metrics.aggregated_jaccard(), None);
        assert!(InstanceMetrics::new([1.5]).is_err());
    }
}
