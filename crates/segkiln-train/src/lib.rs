//! Training of segmentation and detection networks with burn-train.
//!
//! burn-train's `SupervisedTraining` and `Learner` run the loop; this crate adds what they leave to the user:
//!
//! - [`task`]: what a step computes: a network with its loss;
//! - [`schedule`], [`LayerRates`], [`optimizer`], [`ema`]: learning rate over the steps and over the layers, parameter groups
//!   and clipping, averaged weights;
//! - [`checkpoint`]: a checkpoint as one set that appears in one step, so that a killed run resumes exactly;
//! - [`strategy`]: the epochs, tied to the loader's epoch and to the checkpoints;
//! - [`history`], [`curves`]: what was measured, as CSV and as a picture;
//! - [`train`]: all of it together, from a [`Recipe`] to the files of a run;
//! - [`detection`]: the same for detectors.

pub mod checkpoint;
pub mod curves;
pub mod detection;
mod disk;
pub mod ema;
mod error;
mod figures;
pub mod history;
mod layer_rates;
pub mod optimizer;
mod params;
mod recipe;
mod renderer;
mod run;
pub mod schedule;
pub mod strategy;
pub mod task;

pub use error::{Result, TrainError};
pub use layer_rates::LayerRates;
pub use recipe::{Outcome, Recipe, Run, RunConfig, train};
