use std::collections::HashMap;

use super::{MATCH, Overlaps, quotient};
use crate::assignment::assign;

/// Identity metrics: each true object has the one track that it agrees with in most frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Identity {
    /// `2 IDTP / (true boxes + boxes of the tracker)`.
    pub idf1: f64,
    /// `IDTP / boxes of the tracker`.
    pub idp: f64,
    /// `IDTP / true boxes`.
    pub idr: f64,
    /// Boxes that the assigned tracks have in common.
    pub true_positives: usize,
}

impl Identity {
    pub(super) fn new(overlaps: &Overlaps) -> Self {
        let mut common: HashMap<(usize, usize), usize> = HashMap::new();
        for frame in &overlaps.frames {
            for (row, truth) in frame.truth.iter().enumerate() {
                for (column, result) in frame.result.iter().enumerate() {
                    if frame.iou(row, column) >= MATCH {
                        *common.entry((*truth, *result)).or_default() += 1;
                    }
                }
            }
        }
        let count = |truth: usize, result: usize| common.get(&(truth, result)).copied().unwrap_or(0);
        // Shares of the frames, which sum up like the counts and stay within an assignment's bounds.
        let frames = overlaps.frames.len().max(1) as f64;
        let assigned = assign(overlaps.truths, overlaps.results, |a, b| count(a, b) as f64 / frames);
        let pairs = assigned.into_iter().enumerate().filter_map(|(truth, result)| Some(count(truth, result?)));
        let true_positives: usize = pairs.sum();
        let (truths, results) = (overlaps.truth_boxes() as f64, overlaps.result_boxes() as f64);
        let positives = true_positives as f64;
        Self {
            idf1: quotient(2.0 * positives, truths + results, f64::NAN),
            idp: quotient(positives, results, f64::NAN),
            idr: quotient(positives, truths, f64::NAN),
            true_positives,
        }
    }
}
