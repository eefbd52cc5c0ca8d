//! Training of segmentation and detection networks with burn-train.
//!
//! burn-train's `SupervisedTraining` and `Learner` run the loop; this crate adds what they leave to the user:
//!
//! - [`Task`]: a network with its loss and metrics; [`SegmentationTask`] and [`detection::DetectionTask`] take your own;
//! - [`schedule`], [`LayerRates`], [`optimizer`], [`ema`]: learning rate over the steps and over the layers, parameter groups
//!   and clipping, averaged weights;
//! - [`checkpoint`]: a checkpoint as one set that appears in one step, so that a killed run resumes exactly;
//! - [`strategy`]: the epochs, tied to the loader's epoch and to the checkpoints;
//! - [`history`], [`curves`]: what was measured, as CSV and as a picture;
//! - [`train`]: all of it together, from [`TrainingOptions`] to the files of a [`Run`].

pub mod checkpoint;
pub mod curves;
pub mod detection;
mod disk;
pub mod ema;
mod error;
mod figures;
pub mod history;
mod hook;
mod layer_rates;
pub mod optimizer;
mod options;
mod params;
mod renderer;
mod run;
pub mod schedule;
mod segmentation;
pub mod strategy;
mod task;

pub use error::{Result, TrainError};
pub use hook::{BatchHook, HookError};
pub use layer_rates::LayerRates;
pub use options::TrainingOptions;
pub use run::{Outcome, Run, train};
pub use segmentation::{
    LogitsInput, Loss, SegmentationLearner, SegmentationSettings, SegmentationTask, ValidationOutput,
};
pub use task::{HasLoss, StepOptions, Task, TrainingOutput, ValidationMetric};
