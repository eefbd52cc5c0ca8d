//! Training of detectors: any [`DetectionNetwork`](segkiln_models::detection::DetectionNetwork).

mod recipe;
mod task;

pub use recipe::{DetectionConfig, DetectionOutcome, DetectionRecipe, DetectionRun, train_detector};
pub use task::DetectionTask;
