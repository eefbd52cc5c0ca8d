//! Tracking of objects through films.
//!
//! - [`Tracker`] joins the detections of frames to tracks, in the manner of SORT and ByteTrack.
//! - [`CellTracker`] joins the objects of instance label maps, and finds divisions.
//! - [`mot`] reads and writes MOTChallenge's text, [`ctc`] that of the Cell Tracking Challenge.
//! - [`metrics`] has MOTA, MOTP, IDF1 and HOTA; [`ctc::CtcEvaluator`] TRA and SEG.
//!
//! The crate does not depend on Burn. Results are a function of the input alone, to the bit.

mod assignment;
mod cells;
mod counts;
pub mod ctc;
mod error;
mod kalman;
pub mod metrics;
pub mod mot;
mod tracker;

pub use cells::{CellTracker, CellTrackerOptions};
pub use error::{Result, TrackError};
pub use tracker::{Overlap, Track, Tracker, TrackerOptions};

#[cfg(test)]
mod parity;
