//! Detections to tracks.

use segkiln_core::{BBox, Detection, Rle};

use crate::{
    Result, TrackError,
    assignment::{above, assign},
    kalman::Kalman,
};

/// Similarity of a track and a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// Intersection over union of the predicted box and the detected one.
    #[default]
    Box,
    /// Intersection over union of the masks in the track's last frame and in this one; of boxes where one of them has no mask.
    Mask,
}

/// Options of [`Tracker`].
#[derive(Debug, Clone, PartialEq)]
pub struct TrackerOptions {
    /// Score from which detections are joined first.
    pub high_score: f32,
    /// Score from which detections are joined to the tracks that are left then; lower ones are ignored.
    pub low_score: f32,
    /// Score from which a detection of no track begins one.
    pub begin_score: f32,
    /// Least overlap at the first joining.
    pub min_overlap: f64,
    /// Least overlap of detections with low scores.
    pub min_overlap_low: f64,
    /// Least overlap with tracks that are not confirmed yet.
    pub min_overlap_unconfirmed: f64,
    /// Multiply the overlaps of detections of high scores by the scores.
    pub fuse_score: bool,
    /// Frames that a track may be unseen for before it ends.
    pub max_lost: usize,
    /// Frames in a row that a track must be seen in before it is confirmed; those of the first frame are at once.
    pub min_hits: usize,
    /// Overlap of boxes or of masks.
    pub overlap: Overlap,
    /// A track may change its class.
    pub across_classes: bool,
}

impl Default for TrackerOptions {
    /// [`byte_track`](Self::byte_track).
    fn default() -> Self {
        Self::byte_track()
    }
}

impl TrackerOptions {
    /// ByteTrack: Zhang et al., ECCV 2022, <https://arxiv.org/abs/2110.06864>, with the values of its reference implementation.
    pub fn byte_track() -> Self {
        Self {
            high_score: 0.5,
            low_score: 0.1,
            begin_score: 0.6,
            min_overlap: 0.2,
            min_overlap_low: 0.5,
            min_overlap_unconfirmed: 0.3,
            fuse_score: true,
            max_lost: 30,
            min_hits: 2,
            overlap: Overlap::Box,
            across_classes: false,
        }
    }

    /// SORT: Bewley et al., ICIP 2016, <https://arxiv.org/abs/1602.00763>: one joining, and tracks that end where they are not seen.
    pub fn sort() -> Self {
        Self {
            high_score: 0.0,
            low_score: 0.0,
            begin_score: 0.0,
            min_overlap: 0.3,
            min_overlap_unconfirmed: 0.3,
            fuse_score: false,
            max_lost: 1,
            min_hits: 3,
            ..Self::byte_track()
        }
    }

    fn check(&self) -> Result<()> {
        let shares = [
            ("high_score", self.high_score.into()),
            ("low_score", self.low_score.into()),
            ("begin_score", self.begin_score.into()),
            ("min_overlap", self.min_overlap),
            ("min_overlap_low", self.min_overlap_low),
            ("min_overlap_unconfirmed", self.min_overlap_unconfirmed),
        ];
        for (option, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(TrackError::Option { option, reason: format!("must be from 0 to 1, got {value}") });
            }
        }
        if self.low_score > self.high_score {
            let reason = format!("must be at most high_score, {}, got {}", self.high_score, self.low_score);
            return Err(TrackError::Option { option: "low_score", reason });
        }
        Ok(())
    }
}

/// An object that is followed.
#[derive(Debug, Clone)]
pub struct Track {
    id: u64,
    label: u32,
    filter: Kalman,
    mask: Option<Rle>,
    /// Frame in which it began, and in which it was seen last.
    first: usize,
    last: usize,
    hits: usize,
    is_confirmed: bool,
}

impl Track {
    /// Number of the track, from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Class in the last frame that it was seen in.
    pub fn label(&self) -> u32 {
        self.label
    }

    /// Filtered box in the current frame, predicted where it is not seen.
    pub fn bbox(&self) -> Option<BBox> {
        self.filter.bbox()
    }

    /// First frame, from 0.
    pub fn first_frame(&self) -> usize {
        self.first
    }

    /// Last frame that it was seen in.
    pub fn last_frame(&self) -> usize {
        self.last
    }
}

/// Follows objects from frame to frame.
///
/// ```
/// use segkiln_core::{BBox, Detection};
/// use segkiln_track::{Tracker, TrackerOptions};
///
/// let mut tracker = Tracker::new(TrackerOptions::default())?;
/// for frame in 0..5 {
///     let x = f64::from(frame);
///     let car = Detection::new(BBox::new(x, 0.0, x + 10.0, 10.0)?, 1, 0.9)?;
///     let tree = Detection::new(BBox::new(50.0, 0.0, 60.0, 30.0)?, 2, 0.9)?;
///     let detections = if frame % 2 == 0 { [car, tree] } else { [tree, car] };
///     let tracks = tracker.update(&detections)?;
///     assert_eq!(tracks, if frame % 2 == 0 { [Some(1), Some(2)] } else { [Some(2), Some(1)] });
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tracker {
    options: TrackerOptions,
    tracks: Vec<Track>,
    frames: usize,
    confirmed: u64,
    begun: u64,
}

/// Tracks of which one is seen and one is lost are one object if they overlap more than this (ByteTrack's value).
const SAME: f64 = 0.85;

impl Tracker {
    /// Creates a tracker before the first frame.
    ///
    /// # Errors
    /// [`TrackError::Option`] if an option is out of its range.
    pub fn new(options: TrackerOptions) -> Result<Self> {
        options.check()?;
        Ok(Self { options, tracks: Vec::new(), frames: 0, confirmed: 0, begun: 0 })
    }

    /// Joins the detections of the next frame to tracks. Returns the number of each detection's track, if it has a confirmed one.
    ///
    /// # Errors
    /// [`TrackError::Core`] if masks of different sizes are to be compared.
    pub fn update(&mut self, detections: &[Detection]) -> Result<Vec<Option<u64>>> {
        let frame = self.frames;
        self.frames += 1;
        let options = self.options.clone();
        for track in &mut self.tracks {
            track.filter.predict(track.last + 1 == frame);
        }
        let mut joined = vec![None; detections.len()];
        let of_score = |from: f32, to: f32| -> Vec<usize> {
            let within = |index: &usize| (from..to).contains(&detections[*index].score);
            (0..detections.len()).filter(within).collect()
        };
        let high = of_score(options.high_score, f32::INFINITY);
        let low = of_score(options.low_score, options.high_score);
        let tracks = |wanted: &dyn Fn(&Track) -> bool| -> Vec<usize> {
            (0..self.tracks.len()).filter(|index| wanted(&self.tracks[*index])).collect()
        };
        let (confirmed, unconfirmed) = (tracks(&|track| track.is_confirmed), tracks(&|track| !track.is_confirmed));

        self.join(confirmed.clone(), &high, detections, options.min_overlap, options.fuse_score, &mut joined)?;
        let left = |indices: &[usize], joined: &[Option<usize>]| -> Vec<usize> {
            indices.iter().copied().filter(|index| joined[*index].is_none()).collect()
        };
        let seen_before = |index: &usize| self.tracks[*index].last + 1 == frame && !joined.contains(&Some(*index));
        let seen = confirmed.into_iter().filter(seen_before).collect();
        self.join(seen, &low, detections, options.min_overlap_low, false, &mut joined)?;
        let rest = left(&high, &joined);
        self.join(unconfirmed, &rest, detections, options.min_overlap_unconfirmed, options.fuse_score, &mut joined)?;

        for (detection, track) in detections.iter().zip(&joined) {
            let Some(track) = track.map(|index| &mut self.tracks[index]) else { continue };
            track.filter.update(&detection.bbox);
            track.hits = if track.last + 1 == frame { track.hits + 1 } else { 1 };
            (track.last, track.label, track.mask) = (frame, detection.label(), detection.mask.clone());
            if !track.is_confirmed && track.hits >= options.min_hits {
                track.is_confirmed = true;
                self.confirmed += 1;
            }
        }
        for index in left(&high, &joined) {
            let detection = &detections[index];
            if detection.score < options.begin_score {
                continue;
            }
            self.begun += 1;
            let is_confirmed = frame == 0 || options.min_hits <= 1;
            self.confirmed += u64::from(is_confirmed);
            joined[index] = Some(self.tracks.len());
            self.tracks.push(Track {
                id: self.begun,
                label: detection.label(),
                filter: Kalman::new(&detection.bbox),
                mask: detection.mask.clone(),
                first: frame,
                last: frame,
                hits: 1,
                is_confirmed,
            });
        }
        let ids = joined.iter().map(|track| {
            let track = &self.tracks[(*track)?];
            track.is_confirmed.then_some(track.id)
        });
        let ids = ids.collect();
        self.tracks.retain(|track| {
            let unseen = frame - track.last;
            unseen == 0 || track.is_confirmed && unseen <= options.max_lost
        });
        self.drop_duplicates(frame);
        Ok(ids)
    }

    /// Joins detections to tracks that they overlap; `joined` has the track of each detection.
    fn join(
        &self,
        tracks: Vec<usize>,
        indices: &[usize],
        detections: &[Detection],
        least: f64,
        fuse_score: bool,
        joined: &mut [Option<usize>],
    ) -> Result<()> {
        let mut overlaps = Vec::with_capacity(tracks.len() * indices.len());
        for track in &tracks {
            for detection in indices {
                let (track, detection) = (&self.tracks[*track], &detections[*detection]);
                let score = if fuse_score { f64::from(detection.score) } else { 1.0 };
                overlaps.push(score * self.overlap(track, detection)?);
            }
        }
        // Maximizes the sum of (overlap - least) over the pairs, so that a pair must be worth more than staying apart.
        let gain = |row: usize, column: usize| above(overlaps[row * indices.len() + column], least);
        for (row, column) in assign(tracks.len(), indices.len(), gain).into_iter().enumerate() {
            if let Some(column) = column {
                joined[indices[column]] = Some(tracks[row]);
            }
        }
        Ok(())
    }

    fn overlap(&self, track: &Track, detection: &Detection) -> Result<f64> {
        if !self.options.across_classes && track.label != detection.label() {
            return Ok(0.0);
        }
        Ok(match (self.options.overlap, &track.mask, &detection.mask) {
            (Overlap::Mask, Some(before), Some(mask)) => before.iou(mask, false)?,
            _ => track.filter.bbox().map_or(0.0, |bbox| bbox.iou(&detection.bbox)),
        })
    }

    /// Removes the shorter of a seen and a lost track at the same place.
    fn drop_duplicates(&mut self, frame: usize) {
        let lives = |track: &Track| track.last - track.first;
        let mut is_double = vec![false; self.tracks.len()];
        for (a, seen) in self.tracks.iter().enumerate().filter(|(_, track)| track.last == frame && track.is_confirmed) {
            for (b, lost) in self.tracks.iter().enumerate().filter(|(_, track)| track.last < frame) {
                let overlap = seen.bbox().zip(lost.bbox()).map_or(0.0, |(a, b)| a.iou(&b));
                if overlap > SAME && (self.options.across_classes || seen.label == lost.label) {
                    is_double[if lives(seen) > lives(lost) { b } else { a }] = true;
                }
            }
        }
        let mut is_double = is_double.into_iter();
        self.tracks.retain(|_| !is_double.next().unwrap_or(false));
    }

    /// The confirmed tracks that have not ended.
    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().filter(|track| track.is_confirmed)
    }

    /// Number of all confirmed tracks so far.
    pub fn count(&self) -> u64 {
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f64, score: f32) -> Detection {
        Detection::new(BBox::new(x, 0.0, x + 10.0, 20.0).unwrap(), 1, score).unwrap()
    }

    fn ids(options: TrackerOptions, frames: &[&[Detection]]) -> Vec<Vec<Option<u64>>> {
        let mut tracker = Tracker::new(options).unwrap();
        frames.iter().map(|frame| tracker.update(frame).unwrap()).collect()
    }

    #[test]
    fn low_scores_prolong_but_do_not_begin() {
        let frames: [&[_]; 3] = [&[at(0.0, 0.9)], &[at(1.0, 0.2), at(50.0, 0.2)], &[at(2.0, 0.9)]];
        assert_eq!(ids(TrackerOptions::byte_track(), &frames), [vec![Some(1)], vec![Some(1), None], vec![Some(1)]]);
    }

    #[test]
    fn lost_tracks_come_back_for_a_while() {
        let none: &[Detection] = &[];
        let (begin, back) = ([at(0.0, 0.9)], [at(0.0, 0.9)]);
        let options = |max_lost| TrackerOptions { max_lost, min_hits: 1, ..TrackerOptions::byte_track() };
        assert_eq!(ids(options(2), &[&begin, none, none, &back])[3], [Some(1)]);
        assert_eq!(ids(options(1), &[&begin, none, none, &back])[3], [Some(2)]);
    }

    #[test]
    fn tracks_are_confirmed_by_hits_in_a_row() {
        let none: &[Detection] = &[];
        let seen: &[Detection] = &[at(0.0, 0.9)];
        let found = ids(TrackerOptions::sort(), &[none, seen, seen, seen, seen]);
        assert_eq!(found[1..], [vec![None], vec![None], vec![Some(1)], vec![Some(1)]]);
    }

    #[test]
    fn classes_and_masks_keep_tracks_apart() {
        let other = Detection::new(at(0.0, 0.9).bbox, 2, 0.9).unwrap();
        let options = TrackerOptions { min_hits: 1, ..TrackerOptions::byte_track() };
        let frames: [&[_]; 2] = [&[at(0.0, 0.9)], std::slice::from_ref(&other)];
        assert_eq!(ids(options.clone(), &frames)[1], [Some(2)]);
        let across = TrackerOptions { across_classes: true, ..options.clone() };
        assert_eq!(ids(across, &frames)[1], [Some(1)]);

        // The boxes are one, the masks have no pixel in common.
        let half = |right: bool| {
            let mask = Rle::from_fn(10, 20, |x, _| (x >= 5) == right).unwrap();
            at(0.0, 0.9).with_mask(mask)
        };
        let masks = TrackerOptions { overlap: Overlap::Mask, ..options.clone() };
        let frames: [&[_]; 2] = [&[half(false), half(true)], &[half(true), half(false)]];
        assert_eq!(ids(masks.clone(), &frames)[1], [Some(2), Some(1)]);
        let small = at(0.0, 0.9).with_mask(Rle::from_fn(9, 20, |_, _| true).unwrap());
        let mut tracker = Tracker::new(masks).unwrap();
        tracker.update(&[half(true)]).unwrap();
        assert!(tracker.update(&[small]).is_err());
    }

    #[test]
    fn options_and_wild_boxes() {
        for options in [
            TrackerOptions { high_score: f32::NAN, ..TrackerOptions::sort() },
            TrackerOptions { min_overlap: 1.5, ..TrackerOptions::sort() },
            TrackerOptions { low_score: 0.6, ..TrackerOptions::byte_track() },
        ] {
            assert!(Tracker::new(options).is_err());
        }
        // Boxes that shrink and leap, for longer than tracks live: no panic, and no track without an end.
        let mut tracker = Tracker::new(TrackerOptions { max_lost: 5, ..TrackerOptions::sort() }).unwrap();
        for step in 0..200 {
            let x = 1e8 * f64::from(step % 9);
            let bbox = BBox::new(x, -x - 1.0, x + 1.0 + 1e7 / f64::from(1 + step), 1e-6).unwrap();
            tracker.update(&[Detection::new(bbox, 1, 1.0).unwrap()]).unwrap();
            assert!(tracker.tracks.len() <= 7);
        }
    }
}
