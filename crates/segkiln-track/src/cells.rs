//! Instance label maps to cells that move and divide.

use std::collections::BTreeMap;

use segkiln_core::LabelMap;

use crate::{
    Result, TrackError,
    assignment::{above, assign_pairs},
    counts::counts,
    ctc::CtcTrack,
};

/// Options of [`CellTracker`].
#[derive(Debug, Clone, PartialEq)]
pub struct CellTrackerOptions {
    /// Least intersection over union of a cell with itself a frame later. Default: 0.1.
    pub min_overlap: f64,
    /// Least share of a daughter's area within the mother. Default: 0.3.
    pub min_daughter_share: f64,
    /// Largest area of a daughter, in areas of the mother. Default: 0.8.
    pub max_daughter_area: f64,
    /// Pixels that objects have at least; smaller ones become background. Default: 1.
    pub min_area: u32,
}

impl Default for CellTrackerOptions {
    fn default() -> Self {
        Self { min_overlap: 0.1, min_daughter_share: 0.3, max_daughter_area: 0.8, min_area: 1 }
    }
}

/// Follows the objects of instance label maps through a film by their overlap. A cell of which two or more smaller ones have their
/// largest overlap divides: its track ends, and each daughter begins one with it as the parent.
///
/// Cells must overlap with themselves a frame later, as they do where the film is taken often enough.
///
/// ```
/// use segkiln_core::LabelMap;
/// use segkiln_track::CellTracker;
///
/// let mut tracker = CellTracker::new(Default::default())?;
/// let map = |labels: [u32; 7]| LabelMap::new(7, 1, labels.to_vec());
/// assert_eq!(tracker.update(&map([9, 9, 9, 9, 9, 9, 0])?)?.as_slice(), [1, 1, 1, 1, 1, 1, 0]);
/// assert_eq!(tracker.update(&map([0, 4, 4, 0, 5, 5, 5])?)?.as_slice(), [0, 2, 2, 0, 3, 3, 3]);
/// assert_eq!(tracker.tracks()[2].parent, Some(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct CellTracker {
    options: CellTrackerOptions,
    last: Option<LabelMap>,
    tracks: Vec<CtcTrack>,
    frames: usize,
}

impl CellTracker {
    /// Creates a tracker before the first frame.
    ///
    /// # Errors
    /// [`TrackError::Option`] if an option is out of its range.
    pub fn new(options: CellTrackerOptions) -> Result<Self> {
        let CellTrackerOptions { min_overlap, min_daughter_share, max_daughter_area, .. } = options;
        let shares = [
            ("min_overlap", min_overlap),
            ("min_daughter_share", min_daughter_share),
            ("max_daughter_area", max_daughter_area),
        ];
        for (option, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(TrackError::Option { option, reason: format!("must be from 0 to 1, got {value}") });
            }
        }
        Ok(Self { options, last: None, tracks: Vec::new(), frames: 0 })
    }

    /// Joins the objects of the next frame to tracks; 0 is the background. Returns the map with the tracks' labels.
    ///
    /// # Errors
    /// [`TrackError::Frame`] if the map is of another size than the first.
    pub fn update(&mut self, map: &LabelMap) -> Result<LabelMap> {
        let frame = self.frames;
        let mut areas = counts(map.as_slice().iter().copied().filter(|label| *label > 0));
        areas.retain(|_, area| *area >= self.options.min_area);
        let (mut areas_before, mut common) = (BTreeMap::new(), BTreeMap::new());
        if let Some(last) = &self.last {
            if (last.width(), last.height()) != (map.width(), map.height()) {
                let (width, height) = (last.width(), last.height());
                let reason =
                    format!("{}x{} pixels, the frames before have {width}x{height}", map.width(), map.height());
                return Err(TrackError::Frame { frame, reason });
            }
            areas_before = counts(last.as_slice().iter().copied().filter(|label| *label > 0));
            let pairs = last.as_slice().iter().copied().zip(map.as_slice().iter().copied());
            common = counts(pairs.filter(|(before, label)| *before > 0 && *label > 0));
            common.retain(|(_, label), _| areas.contains_key(label));
        }
        self.frames += 1;
        let labels: Vec<u32> = areas.keys().copied().collect();
        let mut track_of: BTreeMap<u32, u32> = BTreeMap::new();

        let daughters = self.daughters(&common, &areas, &areas_before);
        for (mother, daughters) in &daughters {
            for label in daughters {
                track_of.insert(*label, self.begin(frame, Some(*mother)));
            }
        }
        let cells: Vec<u32> = areas_before.keys().copied().filter(|cell| !daughters.contains_key(cell)).collect();
        let free: Vec<u32> = labels.iter().copied().filter(|label| !track_of.contains_key(label)).collect();
        // Pairs that overlap are in the order of cells and then of labels, as both lists are.
        let pairs = common.iter().filter_map(|(&(cell, label), &both)| {
            let (row, column) = (cells.binary_search(&cell).ok()?, free.binary_search(&label).ok()?);
            // Two areas of 32 bits may be more than 32 bits together.
            let union = f64::from(areas_before[&cell]) + f64::from(areas[&label]) - f64::from(both);
            Some((row, column, above(f64::from(both) / union, self.options.min_overlap)))
        });
        for (row, column) in assign_pairs(cells.len(), free.len(), pairs).into_iter().enumerate() {
            if let Some(column) = column {
                track_of.insert(free[column], cells[row]);
                self.tracks[cells[row] as usize - 1].end = frame;
            }
        }
        for label in labels {
            track_of.entry(label).or_insert_with(|| self.begin(frame, None));
        }
        let tracked = map.clone().map(|label| track_of.get(&label).copied().unwrap_or(0));
        self.last = Some(tracked.clone());
        Ok(tracked)
    }

    fn begin(&mut self, frame: usize, parent: Option<u32>) -> u32 {
        let label = self.tracks.len() as u32 + 1;
        self.tracks.push(CtcTrack { label, begin: frame, end: frame, parent });
        label
    }

    /// The cells that divide, with their daughters.
    fn daughters(
        &self,
        common: &BTreeMap<(u32, u32), u32>,
        areas: &BTreeMap<u32, u32>,
        areas_before: &BTreeMap<u32, u32>,
    ) -> BTreeMap<u32, Vec<u32>> {
        let mut nearest: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for ((before, label), both) in common {
            let best = nearest.entry(*label).or_insert((*before, *both));
            if *both > best.1 {
                *best = (*before, *both);
            }
        }
        let mut daughters: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (label, (before, both)) in nearest {
            let (area, mother) = (f64::from(areas[&label]), f64::from(areas_before[&before]));
            let is_within = f64::from(both) >= self.options.min_daughter_share * area;
            if is_within && area <= self.options.max_daughter_area * mother {
                daughters.entry(before).or_default().push(label);
            }
        }
        daughters.retain(|_, daughters| daughters.len() > 1);
        daughters
    }

    /// The tracks so far, in the order of their labels: 1, 2, and so on.
    pub fn tracks(&self) -> &[CtcTrack] {
        &self.tracks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of 300 × 300 cells: all pairs would be eight billion.
    #[test]
    fn many_cells_take_as_long_as_their_overlaps() {
        let map = LabelMap::new(600, 600, (0..360_000).map(|at| at / 1200 * 300 + at % 600 / 2 + 1).collect()).unwrap();
        let mut tracker = CellTracker::new(CellTrackerOptions::default()).unwrap();
        let first = tracker.update(&map).unwrap();
        assert_eq!(tracker.update(&map).unwrap(), first);
        assert_eq!(tracker.tracks().len(), 90_000);
    }

    #[test]
    fn neighbors_that_shrink_are_no_daughters() {
        let mut tracker = CellTracker::new(CellTrackerOptions::default()).unwrap();
        let map = |labels: [u32; 8]| LabelMap::new(8, 1, labels.to_vec()).unwrap();
        tracker.update(&map([1, 1, 1, 1, 2, 2, 2, 2])).unwrap();
        // The first moves, the second is almost gone, a third comes.
        let tracked = tracker.update(&map([0, 7, 7, 7, 7, 0, 3, 3])).unwrap();
        assert_eq!(tracked.as_slice(), [0, 1, 1, 1, 1, 0, 2, 2]);
        let tracked = tracker.update(&map([9, 0, 5, 5, 5, 5, 0, 0])).unwrap();
        assert_eq!(tracked.as_slice(), [3, 0, 1, 1, 1, 1, 0, 0]);
        let ends: Vec<_> = tracker.tracks().iter().map(|track| (track.begin, track.end, track.parent)).collect();
        assert_eq!(ends, [(0, 2, None), (0, 1, None), (2, 2, None)]);
        assert!(tracker.update(&LabelMap::filled(7, 1, 0)).is_err());
        let mut large = CellTracker::new(CellTrackerOptions { min_area: 3, ..Default::default() }).unwrap();
        let tracked = large.update(&map([1, 1, 0, 2, 2, 2, 0, 0])).unwrap();
        assert_eq!(tracked.as_slice(), [0, 0, 0, 1, 1, 1, 0, 0]);
        let tracked = large.update(&map([1, 1, 1, 0, 2, 2, 0, 0])).unwrap();
        assert_eq!(tracked.as_slice(), [2, 2, 2, 0, 0, 0, 0, 0]);
        assert!(CellTracker::new(CellTrackerOptions { min_overlap: -1.0, ..Default::default() }).is_err());
    }
}
