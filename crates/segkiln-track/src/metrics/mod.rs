//! Metrics of tracks against true ones.
//!
//! - CLEAR: MOTA, MOTP, misses, false positives, switches (Bernardin and Stiefelhagen, 2008), as `motmetrics` counts them.
//! - Identity: IDF1, IDP, IDR (Ristani et al., ECCVW 2016, <https://arxiv.org/abs/1609.01775>).
//! - HOTA, DetA, AssA, LocA (Luiten et al., IJCV 2021, <https://arxiv.org/abs/2009.07736>), as TrackEval computes them.

mod clear;
mod hota;
mod identity;

use std::collections::HashMap;

use segkiln_core::BBox;

pub use clear::Clear;
pub use hota::Hota;
pub use identity::Identity;

use crate::{Result, TrackError};

/// Boxes of a frame with the numbers of their objects: true ones, and those of a tracker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameTracks {
    /// True objects.
    pub truth: Vec<(u64, BBox)>,
    /// Objects of the tracker.
    pub result: Vec<(u64, BBox)>,
}

/// Tracks and their overlaps in the form that the metrics are computed from; objects are numbered from 0.
struct Overlaps {
    truths: usize,
    results: usize,
    frames: Vec<FrameOverlaps>,
}

struct FrameOverlaps {
    truth: Vec<usize>,
    result: Vec<usize>,
    /// Intersection over union, row by row of the truth.
    iou: Vec<f64>,
}

impl FrameOverlaps {
    fn iou(&self, truth: usize, result: usize) -> f64 {
        self.iou[truth * self.result.len() + result]
    }
}

impl Overlaps {
    fn new(frames: &[FrameTracks]) -> Result<Self> {
        let (mut truths, mut results) = (HashMap::new(), HashMap::new());
        let mut numbered = Vec::with_capacity(frames.len());
        for (frame, FrameTracks { truth, result }) in frames.iter().enumerate() {
            let truth_numbers = number(frame, "truth", truth, &mut truths)?;
            let result_numbers = number(frame, "result", result, &mut results)?;
            let row = |(_, a): &(u64, BBox)| result.iter().map(|(_, b)| a.iou(b)).collect::<Vec<_>>();
            let iou = truth.iter().flat_map(row).collect();
            numbered.push(FrameOverlaps { truth: truth_numbers, result: result_numbers, iou });
        }
        Ok(Self { truths: truths.len(), results: results.len(), frames: numbered })
    }

    fn truth_boxes(&self) -> usize {
        self.frames.iter().map(|frame| frame.truth.len()).sum()
    }

    fn result_boxes(&self) -> usize {
        self.frames.iter().map(|frame| frame.result.len()).sum()
    }
}

fn number(frame: usize, whose: &str, objects: &[(u64, BBox)], known: &mut HashMap<u64, usize>) -> Result<Vec<usize>> {
    let mut numbers: Vec<usize> = Vec::with_capacity(objects.len());
    let mut seen = std::collections::HashSet::new();
    for (id, _) in objects {
        if !seen.insert(id) {
            let reason = format!("the {whose} has object {id} twice; number objects anew");
            return Err(TrackError::Frame { frame, reason });
        }
        let next = known.len();
        numbers.push(*known.entry(*id).or_insert(next));
    }
    Ok(numbers)
}

/// All metrics of a sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackingScores {
    /// MOTA, MOTP and their counts.
    pub clear: Clear,
    /// IDF1, IDP, IDR.
    pub identity: Identity,
    /// HOTA and its parts.
    pub hota: Hota,
}

/// Computes the metrics of a sequence. Boxes may be matched where their intersection over union is at least 0.5, but for HOTA,
/// which is a mean over thresholds.
///
/// ```
/// use segkiln_core::BBox;
/// use segkiln_track::metrics::{FrameTracks, evaluate};
///
/// let bbox = BBox::new(0.0, 0.0, 10.0, 10.0)?;
/// // The tracker changes the number of the one object after two frames of four.
/// let frames = [7, 7, 8, 8].map(|id| FrameTracks { truth: vec![(1, bbox)], result: vec![(id, bbox)] });
/// let scores = evaluate(&frames)?;
/// assert_eq!((scores.clear.switches, scores.clear.mota, scores.identity.idf1), (1, 0.75, 0.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`TrackError::Frame`] if a number occurs twice in a frame.
pub fn evaluate(frames: &[FrameTracks]) -> Result<TrackingScores> {
    let overlaps = Overlaps::new(frames)?;
    Ok(TrackingScores { clear: Clear::new(&overlaps), identity: Identity::new(&overlaps), hota: Hota::new(&overlaps) })
}

/// Overlap from which boxes may be matched by the metrics of one threshold.
const MATCH: f64 = 0.5;

/// A quotient that is `otherwise` where there is nothing to divide by.
fn quotient(a: f64, b: f64, otherwise: f64) -> f64 {
    if b > 0.0 { a / b } else { otherwise }
}
