use std::collections::HashMap;

use super::{MATCH, Overlaps, quotient};
use crate::assignment::assign;

/// CLEAR metrics of a sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clear {
    /// Multiple object tracking accuracy: `1 - (misses + false_positives + switches) / objects`; of no objects, not a number.
    pub mota: f64,
    /// Multiple object tracking precision: mean overlap of the matched boxes, from 0.5 to 1. (`motmetrics` shows `1 - motp`.)
    pub motp: f64,
    /// True boxes.
    pub objects: usize,
    /// Matched boxes.
    pub matches: usize,
    /// True boxes without a match.
    pub misses: usize,
    /// Boxes of the tracker without a match.
    pub false_positives: usize,
    /// True objects whose match has another number than their match before.
    pub switches: usize,
}

impl Clear {
    pub(super) fn new(overlaps: &Overlaps) -> Self {
        // The result that each true object was matched with last.
        let mut last: HashMap<usize, usize> = HashMap::new();
        let (mut matches, mut switches, mut overlap) = (0, 0, 0.0);
        for frame in &overlaps.frames {
            let mut match_of: Vec<Option<usize>> = vec![None; frame.truth.len()];
            let mut is_taken = vec![false; frame.result.len()];
            // A pair that was matched before stays matched while it overlaps.
            for (row, truth) in frame.truth.iter().enumerate() {
                let Some(before) = last.get(truth) else { continue };
                let same = frame.result.iter().position(|result| result == before);
                if let Some(column) = same.filter(|column| !is_taken[*column] && frame.iou(row, *column) >= MATCH) {
                    is_taken[column] = true;
                    match_of[row] = Some(column);
                }
            }
            // The most pairs of the rest, then the largest sum of overlaps: 1e5 outweighs any sum of them.
            let gain = |row: usize, column: usize| {
                let iou = frame.iou(row, column);
                let may = match_of[row].is_none() && !is_taken[column] && iou >= MATCH;
                if may { 1e5 + iou } else { 0.0 }
            };
            let new = assign(frame.truth.len(), frame.result.len(), gain);
            for (row, column) in new.into_iter().enumerate() {
                match_of[row] = match_of[row].or(column);
            }
            for (row, column) in match_of.into_iter().enumerate() {
                let Some(column) = column else { continue };
                matches += 1;
                overlap += frame.iou(row, column);
                let before = last.insert(frame.truth[row], frame.result[column]);
                switches += usize::from(before.is_some_and(|before| before != frame.result[column]));
            }
        }
        let objects = overlaps.truth_boxes();
        let (misses, false_positives) = (objects - matches, overlaps.result_boxes() - matches);
        let errors = (misses + false_positives + switches) as f64;
        let mota = 1.0 - quotient(errors, objects as f64, f64::NAN);
        let motp = quotient(overlap, matches as f64, f64::NAN);
        Self { mota, motp, objects, matches, misses, false_positives, switches }
    }
}
