//! Training of detectors: any [`DetectionNetwork`](segkiln_models::detection::DetectionNetwork).

mod learner;
mod task;

pub use learner::{DetectionLearner, DetectionOutput};
pub use task::{DetectionSettings, DetectionTask, reference_options};
