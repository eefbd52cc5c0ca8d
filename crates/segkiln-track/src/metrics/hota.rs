use std::collections::HashMap;

use super::{Overlaps, quotient};
use crate::assignment::assign;

/// Higher-order tracking accuracy and its parts, means over the thresholds 0.05, 0.1, …, 0.95.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hota {
    /// Geometric mean of detection and association accuracy at each threshold.
    pub hota: f64,
    /// Detection accuracy.
    pub deta: f64,
    /// Association accuracy.
    pub assa: f64,
    /// Mean overlap of what is matched.
    pub loca: f64,
}

/// Number of thresholds.
const THRESHOLDS: usize = 19;

impl Hota {
    pub(super) fn new(overlaps: &Overlaps) -> Self {
        let (mut truth_frames, mut result_frames) = (vec![0.0; overlaps.truths], vec![0.0; overlaps.results]);
        let mut potential: HashMap<(usize, usize), f64> = HashMap::new();
        for frame in &overlaps.frames {
            frame.truth.iter().for_each(|truth| truth_frames[*truth] += 1.0);
            frame.result.iter().for_each(|result| result_frames[*result] += 1.0);
            let columns = frame.result.len();
            let of_row: Vec<f64> =
                (0..frame.truth.len()).map(|row| (0..columns).map(|c| frame.iou(row, c)).sum()).collect();
            let of_column: Vec<f64> =
                (0..columns).map(|c| (0..frame.truth.len()).map(|row| frame.iou(row, c)).sum()).collect();
            for (row, truth) in frame.truth.iter().enumerate() {
                for (column, result) in frame.result.iter().enumerate() {
                    let iou = frame.iou(row, column);
                    if iou > 0.0 {
                        let share = iou / (of_row[row] + of_column[column] - iou);
                        *potential.entry((*truth, *result)).or_default() += share;
                    }
                }
            }
        }
        let alignment = |truth: usize, result: usize| {
            let common = potential.get(&(truth, result)).copied().unwrap_or(0.0);
            common / (truth_frames[truth] + result_frames[result] - common)
        };

        let mut positives = [0.0; THRESHOLDS];
        let mut overlap = [0.0; THRESHOLDS];
        let mut matches: [HashMap<(usize, usize), f64>; THRESHOLDS] = Default::default();
        for frame in &overlaps.frames {
            let gain =
                |row: usize, column: usize| frame.iou(row, column) * alignment(frame.truth[row], frame.result[column]);
            for (row, column) in assign(frame.truth.len(), frame.result.len(), gain).into_iter().enumerate() {
                let Some(column) = column else { continue };
                let iou = frame.iou(row, column);
                for index in (0..THRESHOLDS).take_while(|index| iou >= threshold(*index) - f64::EPSILON) {
                    positives[index] += 1.0;
                    overlap[index] += iou;
                    *matches[index].entry((frame.truth[row], frame.result[column])).or_default() += 1.0;
                }
            }
        }

        let boxes = (overlaps.truth_boxes() + overlaps.result_boxes()) as f64;
        let mut sums = [0.0; 4];
        for index in 0..THRESHOLDS {
            let deta = quotient(positives[index], boxes - positives[index], 0.0);
            // In an order of its own, so that the sum is the same to the bit.
            let mut pairs: Vec<_> = matches[index].iter().collect();
            pairs.sort_unstable_by_key(|(pair, _)| **pair);
            let shares = pairs.into_iter().map(|((truth, result), count)| {
                count * count / (truth_frames[*truth] + result_frames[*result] - count)
            });
            let assa = shares.sum::<f64>() / positives[index].max(1.0);
            let loca = quotient(overlap[index], positives[index], 1.0);
            let of_threshold = [(deta * assa).sqrt(), deta, assa, loca];
            sums.iter_mut().zip(of_threshold).for_each(|(sum, value)| *sum += value);
        }
        let [hota, deta, assa, loca] = sums.map(|sum| sum / THRESHOLDS as f64);
        Self { hota, deta, assa, loca }
    }
}

/// The thresholds.
fn threshold(index: usize) -> f64 {
    0.05 * (index + 1) as f64
}
