//! The Cell Tracking Challenge's files and its measures SEG and TRA (<https://celltrackingchallenge.net/evaluation-methodology>;
//! Maška et al., Nature Methods 2023; Matula et al., PLoS ONE 2015).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write,
    path::Path,
};

use segkiln_core::LabelMap;

use crate::{Result, TrackError, counts::counts, error::check_file};

/// A cell from its first frame to its last: a line `label begin end parent` of `man_track.txt` and `res_track.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CtcTrack {
    /// Label in the maps, at least 1.
    pub label: u32,
    /// First frame, from 0.
    pub begin: usize,
    /// Last frame.
    pub end: usize,
    /// The cell that it came from by division, or that went on as it after a gap.
    pub parent: Option<u32>,
}

/// Reads a file of tracks.
///
/// # Errors
/// [`TrackError::Line`], naming the line; [`TrackError::Io`]; [`TrackError::FileSize`] above 256 MiB.
pub fn read_tracks(path: impl AsRef<Path>) -> Result<Vec<CtcTrack>> {
    let path = path.as_ref();
    let io = |source| TrackError::Io { action: "read", path: path.into(), source };
    check_file(path)?;
    let text = std::fs::read_to_string(path).map_err(io)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        let refuse = |reason: String| TrackError::Line { path: path.into(), line: index + 1, reason };
        let values: Vec<u32> = line
            .split_whitespace()
            .map(|value| value.parse().map_err(|_| refuse(format!("{value:?} is no whole number"))))
            .collect::<Result<_>>()?;
        let [label, begin, end, parent] = values[..] else {
            return Err(refuse(format!("{} values, 4 are needed: label begin end parent", values.len())));
        };
        if label == 0 || end < begin {
            return Err(refuse("labels are at least 1, and no track ends before it begins".into()));
        }
        let parent = (parent > 0).then_some(parent);
        Ok(CtcTrack { label, begin: begin as usize, end: end as usize, parent })
    };
    lines.map(parse).collect()
}

/// The lines of a file of tracks.
pub fn tracks_to_string(tracks: &[CtcTrack]) -> String {
    let mut text = String::new();
    for CtcTrack { label, begin, end, parent } in tracks {
        writeln!(text, "{label} {begin} {end} {}", parent.unwrap_or(0)).expect("a string takes all");
    }
    text
}

/// The measures, each from 0 to 1; not a number where the truth has no cells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CtcScores {
    /// Mean Jaccard index of the true cells with the cells that cover more than half of them; a cell that none covers counts as 0.
    pub seg: f64,
    /// `1 - min(AOGM, AOGM-0) / AOGM-0`: the cost of making the result's graph of cells the true one, relative to building it anew.
    pub tra: f64,
    /// `tra` without the links between cells.
    pub det: f64,
}

/// A cell in a frame.
type Vertex = (usize, u32);

/// Costs of the operations that make a graph another (acyclic oriented graph matching).
const SPLIT: f64 = 5.0;
const ADD_CELL: f64 = 10.0;
const DELETE_CELL: f64 = 1.0;
const DELETE_LINK: f64 = 1.0;
const ADD_LINK: f64 = 1.5;
const CHANGE_LINK: f64 = 1.0;

/// Gathers the frames of a sequence, and computes the measures.
///
/// ```
/// use segkiln_core::LabelMap;
/// use segkiln_track::ctc::{CtcEvaluator, CtcTrack};
///
/// let mut evaluator = CtcEvaluator::default();
/// let map = LabelMap::new(4, 1, vec![1, 1, 1, 0])?;
/// let found = LabelMap::new(4, 1, vec![0, 5, 5, 0])?;
/// for _ in 0..2 {
///     evaluator.add(&map, &found)?;
/// }
/// let track = |label| [CtcTrack { label, begin: 0, end: 1, parent: None }];
/// let scores = evaluator.scores(&track(1), &track(5))?;
/// assert_eq!((scores.seg, scores.tra), (2.0 / 3.0, 1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CtcEvaluator {
    frames: usize,
    truth: HashSet<Vertex>,
    /// The true cells that each cell of the result covers more than half of.
    result: BTreeMap<Vertex, Vec<u32>>,
    jaccard: f64,
}

impl CtcEvaluator {
    /// Adds the next frame: its true cells and those of the result, by their tracks' labels.
    ///
    /// # Errors
    /// [`TrackError::Frame`] if the maps differ in size.
    pub fn add(&mut self, truth: &LabelMap, result: &LabelMap) -> Result<()> {
        let frame = self.frames;
        if (truth.width(), truth.height()) != (result.width(), result.height()) {
            let (a, b) = ((truth.width(), truth.height()), (result.width(), result.height()));
            let reason = format!("the truth has {}x{} pixels, the result {}x{}", a.0, a.1, b.0, b.1);
            return Err(TrackError::Frame { frame, reason });
        }
        self.frames += 1;
        let foreground = |map: &LabelMap| counts(map.as_slice().iter().copied().filter(|label| *label > 0));
        let (areas, result_areas) = (foreground(truth), foreground(result));
        let pairs = truth.as_slice().iter().copied().zip(result.as_slice().iter().copied());
        let common = counts(pairs.filter(|(a, b)| *a > 0 && *b > 0));
        self.truth.extend(areas.keys().map(|label| (frame, *label)));
        self.result.extend(result_areas.keys().map(|label| ((frame, *label), Vec::new())));
        for ((label, other), both) in common {
            let (area, both) = (u64::from(areas[&label]), u64::from(both));
            if 2 * both > area {
                self.jaccard += both as f64 / (area + u64::from(result_areas[&other]) - both) as f64;
                self.result.entry((frame, other)).or_default().push(label);
            }
        }
        Ok(())
    }

    /// The measures of the frames, with their tracks.
    ///
    /// # Errors
    /// [`TrackError::Lineage`] if a track is there twice, its parent is none or does not end before it, or a cell of a map has no
    /// track that is there in its frame.
    pub fn scores(&self, truth: &[CtcTrack], result: &[CtcTrack]) -> Result<CtcScores> {
        let truth_links = links("truth", truth, |vertex| self.truth.contains(vertex), self.truth.iter().copied())?;
        let has = |vertex: &Vertex| self.result.contains_key(vertex);
        let result_links = links("result", result, has, self.result.keys().copied())?;

        let (mut cells, mut found) = (0.0, 0);
        // The one true cell of each cell of the result that has one.
        let mut partner: HashMap<Vertex, Vertex> = HashMap::new();
        let mut partner_of_truth: HashMap<Vertex, Vertex> = HashMap::new();
        for (vertex, truths) in &self.result {
            found += truths.len();
            match truths[..] {
                [] => cells += DELETE_CELL,
                [label] => {
                    partner.insert(*vertex, (vertex.0, label));
                    partner_of_truth.insert((vertex.0, label), *vertex);
                }
                _ => cells += SPLIT * (truths.len() - 1) as f64,
            }
        }
        cells += ADD_CELL * (self.truth.len() - found) as f64;

        let mut edges = 0.0;
        for ((from, to), is_division) in &result_links {
            if let (Some(a), Some(b)) = (partner.get(from), partner.get(to)) {
                match truth_links.get(&(*a, *b)) {
                    None => edges += DELETE_LINK,
                    Some(other) if other != is_division => edges += CHANGE_LINK,
                    Some(_) => {}
                }
            }
        }
        let is_linked = |(from, to): &(Vertex, Vertex)| {
            let ends = partner_of_truth.get(from).zip(partner_of_truth.get(to));
            ends.is_some_and(|(a, b)| result_links.contains_key(&(*a, *b)))
        };
        edges += ADD_LINK * truth_links.keys().filter(|link| !is_linked(link)).count() as f64;

        let new_cells = ADD_CELL * self.truth.len() as f64;
        let new = new_cells + ADD_LINK * truth_links.len() as f64;
        let measure = |cost: f64, most: f64| if most > 0.0 { 1.0 - cost.min(most) / most } else { f64::NAN };
        Ok(CtcScores {
            seg: if self.truth.is_empty() { f64::NAN } else { self.jaccard / self.truth.len() as f64 },
            tra: measure(cells + edges, new),
            det: measure(cells, new_cells),
        })
    }
}

/// The links of cells from frame to frame, and from parents to children (true).
fn links(
    whose: &'static str,
    tracks: &[CtcTrack],
    has: impl Fn(&Vertex) -> bool,
    vertices: impl Iterator<Item = Vertex>,
) -> Result<HashMap<(Vertex, Vertex), bool>> {
    let refuse = |track: u32, reason: String| TrackError::Lineage { track, whose, reason };
    let mut by_label = HashMap::new();
    for track in tracks {
        if by_label.insert(track.label, track).is_some() {
            return Err(refuse(track.label, "it is there twice".into()));
        }
    }
    let mut frames: HashMap<u32, Vec<usize>> = HashMap::new();
    for (frame, label) in vertices {
        if !by_label.get(&label).is_some_and(|track| (track.begin..=track.end).contains(&frame)) {
            return Err(refuse(label, format!("frame {frame} has cells of it, but the list of tracks says otherwise")));
        }
        frames.entry(label).or_default().push(frame);
    }
    frames.values_mut().for_each(|frames| frames.sort_unstable());
    let mut links = HashMap::new();
    for (label, frames) in &frames {
        for pair in frames.windows(2) {
            links.insert(((pair[0], *label), (pair[1], *label)), false);
        }
    }
    for track in tracks {
        let Some(parent) = track.parent else { continue };
        let known = by_label.get(&parent).filter(|parent| parent.end < track.begin);
        let known =
            known.ok_or_else(|| refuse(track.label, format!("its parent {parent} does not end before it begins")))?;
        let (from, to) = ((known.end, parent), (track.begin, track.label));
        if has(&from) && has(&to) {
            links.insert((from, to), true);
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(labels: &[u32]) -> LabelMap {
        LabelMap::new(labels.len() as u32, 1, labels.to_vec()).unwrap()
    }

    fn track(label: u32, begin: usize, end: usize, parent: u32) -> CtcTrack {
        CtcTrack { label, begin, end, parent: (parent > 0).then_some(parent) }
    }

    fn evaluator(frames: &[[&[u32]; 2]]) -> CtcEvaluator {
        let mut evaluator = CtcEvaluator::default();
        frames.iter().for_each(|[truth, result]| evaluator.add(&map(truth), &map(result)).unwrap());
        evaluator
    }

    /// Each operation's cost by hand: two true cells through two frames are 4 cells and 2 links, 43 in all.
    #[test]
    fn operations_cost_what_they_should() {
        let truth: &[u32] = &[1, 1, 0, 2, 2];
        let tracks = [track(1, 0, 1, 0), track(2, 0, 1, 0)];
        let cost = |second: &[u32], found: &[CtcTrack]| {
            let scores = evaluator(&[[truth, truth], [truth, second]]).scores(&tracks, found).unwrap();
            ((1.0 - scores.tra) * 43.0 * 2.0).round() / 2.0
        };
        assert_eq!(cost(truth, &tracks), 0.0);
        // A cell that is missed, and with it a link.
        assert_eq!(cost(&[1, 1, 0, 0, 0], &[track(1, 0, 1, 0), track(2, 0, 0, 0)]), 10.0 + 1.5);
        // A cell too many.
        assert_eq!(cost(&[1, 1, 3, 2, 2], &[tracks[0], tracks[1], track(3, 1, 1, 0)]), 1.0);
        // Two cells in one: a split, and two links.
        assert_eq!(cost(&[1, 1, 1, 1, 1], &[track(1, 0, 1, 0), track(2, 0, 0, 0)]), 5.0 + 2.0 * 1.5);
        // Numbers exchanged: two links deleted, two added.
        assert_eq!(cost(&[2, 2, 0, 1, 1], &tracks), 2.0 * (1.0 + 1.5));
        // A division in place of a link.
        let divided = [tracks[0], track(2, 0, 0, 0), track(4, 1, 1, 2)];
        assert_eq!(cost(&[1, 1, 0, 4, 4], &divided), 1.0);
    }

    #[test]
    fn contradictions_are_named() {
        let evaluator = evaluator(&[[&[1, 0], &[1, 0]], [&[1, 0], &[1, 0]]]);
        let good = [track(1, 0, 1, 0)];
        for (tracks, words) in [
            (vec![track(1, 0, 0, 0)], "frame 1"),
            (vec![good[0], good[0]], "twice"),
            (vec![good[0], track(2, 1, 1, 1)], "parent 1"),
            (vec![track(1, 0, 1, 9)], "parent 9"),
            (vec![], "frame 0"),
        ] {
            let error = evaluator.scores(&good, &tracks).unwrap_err().to_string();
            assert!(error.contains("of the result") && error.contains(words), "{error}");
        }
        assert!(CtcEvaluator::default().add(&map(&[0]), &map(&[0, 0])).is_err());
        assert!(CtcEvaluator::default().scores(&[], &[]).unwrap().tra.is_nan());
    }
}
