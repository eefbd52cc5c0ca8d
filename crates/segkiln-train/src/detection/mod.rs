//! Training of Faster R-CNN and Mask R-CNN.

mod recipe;
mod task;

pub use recipe::{DetectionConfig, DetectionOutcome, DetectionRecipe, DetectionRun, train_detector};
pub use task::DetectionTask;
