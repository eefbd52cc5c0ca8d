//! Prediction for a frame, and the frame that is written for it.

use std::io::Write;

use image::DynamicImage;
use segkiln::{
    SegmentOptions,
    core::{Classes, Detection, LabelMap, Palette, Rle},
    data::{
        WholeFile, draw,
        films::{Flicker, ProbabilitySmoother, most_likely},
        instances::{InstanceOptions, find_objects},
        labels_to_image,
    },
    track::{CellTracker, CellTrackerOptions, Tracker, TrackerOptions, mot},
};

use crate::{Args, common::Failure, network::Network};

/// Parts of a class map of fewer pixels are no objects.
const MIN_AREA: u32 = 16;

/// Result for a frame.
enum Found {
    Classes(LabelMap),
    /// Numbers of cells' tracks.
    Cells(LabelMap),
    Objects(Vec<Detection>),
    Tracks(Vec<(u64, Detection)>),
}

/// A network with what it remembers of the frames before.
pub struct Predictor<'a> {
    network: Network,
    args: &'a Args,
    smoother: Option<(ProbabilitySmoother, [Flicker; 2])>,
    tracker: Tracker,
    cells: CellTracker,
    mot: Option<WholeFile>,
    last: Option<Found>,
}

impl<'a> Predictor<'a> {
    pub fn new(network: Network, args: &'a Args) -> Result<Self, Failure> {
        if args.smooth.is_some() && matches!(network, Network::Detector(_)) {
            return Err("--smooth is for segmentation networks, and this is a detector".into());
        }
        let smoother = args.smooth.map(ProbabilitySmoother::new).transpose()?;
        Ok(Self {
            network,
            args,
            smoother: smoother.map(|smoother| (smoother, Default::default())),
            tracker: Tracker::new(TrackerOptions::byte_track())?,
            cells: CellTracker::new(CellTrackerOptions { min_area: MIN_AREA, ..CellTrackerOptions::default() })?,
            mot: None,
            last: None,
        })
    }

    /// Returns the frame to be written for a frame that was read.
    pub fn frame(&mut self, number: u64, frame: DynamicImage) -> Result<DynamicImage, Failure> {
        if number.is_multiple_of(self.args.every.get()) || self.last.is_none() {
            let found = self.find(&frame).map_err(|error| format!("frame {number} (counted from 0): {error}"))?;
            // Not before the film is known to have a frame: the file may hold an earlier result.
            if let (None, Some(path)) = (&self.mot, &self.args.mot) {
                self.mot = Some(WholeFile::create(path)?);
            }
            if let Some(writer) = &mut self.mot {
                write_boxes(writer, number as usize, &found)?;
            }
            self.last = Some(found);
        }
        let found = self.last.as_ref().expect("it was just computed");
        let classes = match &self.network {
            Network::Segmenter(segmenter) => segmenter.classes(),
            Network::Detector(detector) => detector.classes(),
        };
        match self.args.map {
            true => map(found, frame.width(), frame.height()),
            false => overlay(found, &frame, classes),
        }
    }

    fn find(&mut self, frame: &DynamicImage) -> Result<Found, Failure> {
        let segmenter = match &self.network {
            Network::Segmenter(segmenter) => segmenter,
            Network::Detector(detector) => {
                let found = detector.detect(frame)?;
                if !self.args.track {
                    return Ok(Found::Objects(found));
                }
                let ids = self.tracker.update(&found)?;
                return Ok(Found::Tracks(
                    ids.into_iter().zip(found).filter_map(|(id, found)| Some((id?, found))).collect(),
                ));
            }
        };
        let options = SegmentOptions { probabilities: self.smoother.is_some(), ..SegmentOptions::default() };
        let result = segmenter.segment_with(frame, &options)?;
        let map = match &mut self.smoother {
            Some((smoother, [before, after])) => {
                let planes = (0..result.classes().count()).filter_map(|class| result.probabilities(class));
                let smoothed = smoother.smooth(planes.flatten().copied().collect())?;
                let map = most_likely(smoothed, frame.width(), frame.height())?;
                before.add(frame, result.map())?;
                after.add(frame, &map)?;
                map
            }
            None => result.map().clone(),
        };
        Ok(match self.args.track {
            true => Found::Cells(self.cells.update(&components(&map)?)?),
            false => Found::Classes(map),
        })
    }

    /// Completes the file of boxes. Returns the number of tracks.
    pub fn finish(&mut self) -> Result<u64, Failure> {
        self.mot.take().map_or(Ok(()), WholeFile::finish)?;
        Ok(self.tracker.count() + self.cells.tracks().len() as u64)
    }

    /// Flicker before and after smoothing.
    pub fn flicker(&self) -> Option<[f64; 2]> {
        let (_, [before, after]) = self.smoother.as_ref()?;
        Some([before.share()?, after.share()?])
    }
}

/// The connected parts of the classes, numbered.
fn components(map: &LabelMap) -> Result<LabelMap, Failure> {
    let mut numbers = Vec::with_capacity(map.as_slice().len());
    let row = |row: &[u32]| {
        numbers.extend_from_slice(row);
        Ok(())
    };
    find_objects(map, None, &InstanceOptions::default(), row, None)?;
    Ok(LabelMap::new(map.width(), map.height(), numbers)?)
}

fn write_boxes(writer: &mut impl Write, frame: usize, found: &Found) -> Result<(), Failure> {
    match found {
        Found::Tracks(tracks) => {
            for (id, Detection { bbox, score, .. }) in tracks {
                let line = mot::MotBox { frame, id: Some(*id), bbox: *bbox, score: f64::from(*score), class: None };
                mot::write(&mut *writer, &line)?;
            }
        }
        Found::Cells(map) => {
            for (id, mask) in Rle::of_labels(map)? {
                let Some(bbox) = mask.bbox() else { continue };
                let line = mot::MotBox { frame, id: Some(id.into()), bbox, score: 1.0, class: None };
                mot::write(&mut *writer, &line)?;
            }
        }
        Found::Classes(_) | Found::Objects(_) => {}
    }
    Ok(())
}

fn overlay(found: &Found, frame: &DynamicImage, classes: &Classes) -> Result<DynamicImage, Failure> {
    const OPACITY: f32 = 0.4;
    Ok(DynamicImage::from(match found {
        Found::Classes(map) => draw::overlay(frame, map, classes, OPACITY)?,
        Found::Cells(map) => draw::overlay(frame, map, &Classes::binary().with_palette(Palette::voc(64))?, OPACITY)?,
        Found::Objects(found) => draw::detections(frame, found, classes)?,
        Found::Tracks(tracks) => draw::tracks(frame, tracks, classes)?,
    }))
}

/// Classes, or numbers of tracks, as gray values.
fn map(found: &Found, width: u32, height: u32) -> Result<DynamicImage, Failure> {
    let objects: Vec<(u32, &Detection)> = match found {
        Found::Classes(map) | Found::Cells(map) => return Ok(labels_to_image(map, "the class map")?),
        Found::Objects(found) => found.iter().map(|found| (found.label(), found)).collect(),
        Found::Tracks(tracks) => tracks.iter().map(|(id, found)| (*id as u32, found)).collect(),
    };
    Ok(labels_to_image(&draw::object_map(width, height, &objects)?, "the map of objects")?)
}
