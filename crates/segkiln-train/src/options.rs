use segkiln_core::Precision;
use serde::{Deserialize, Serialize};

use crate::{
    Result, TrainError, history::Monitor, layer_rates::LayerRates, optimizer::OptimizerConfig, schedule::ScheduleConfig,
};

/// Options of a training, the same for every task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingOptions {
    /// Seed of every random choice: weights, order, augmentation, dropout, sampled boxes.
    pub seed: u64,
    /// Passes over the training split.
    pub epochs: usize,
    /// Samples a batch.
    pub batch_size: usize,
    /// Batches whose gradients, averaged, make one step.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Largest learning rate of the schedule.
    pub learning_rate: f64,
    /// Learning rate over the steps.
    pub schedule: ScheduleConfig,
    /// Learning rates of the backbone's layers; that of all others without.
    #[serde(default)]
    pub layer_rates: Option<LayerRates>,
    /// Optimizer.
    pub optimizer: OptimizerConfig,
    /// Largest common norm of a batch's gradients.
    pub clip_norm: Option<f32>,
    /// Decay of averaged weights; they are validated and kept in place of the last ones.
    pub ema_decay: Option<f64>,
    /// Epochs without a better one after which training stops.
    pub patience: Option<usize>,
    /// Groups of the backbone's layers that learn, counted from its end; all without.
    #[serde(default)]
    pub trainable: Option<usize>,
    /// Validation metric that decides which epoch is the best.
    pub monitor: Monitor,
    /// Numbers that convolutions and their gradients multiply: f32, bf16, or f32 rounded to the 8 bits of int8 for a network that is to
    /// be quantized; see [`TrainingPrecision`](segkiln_models::TrainingPrecision). Weights, and validation, are f32 in all.
    #[serde(default)]
    pub precision: Precision,
}

fn one() -> usize {
    1
}

impl Default for TrainingOptions {
    /// 20 epochs of AdamW with one cycle up to 2e-3 and 4 samples a batch. The best epoch is the one with the lowest
    /// validation loss: on few images other metrics are noisy, and pick an epoch before the network has settled.
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 20,
            batch_size: 4,
            accumulation: 1,
            learning_rate: 2e-3,
            schedule: ScheduleConfig::one_cycle(),
            layer_rates: None,
            optimizer: OptimizerConfig::default(),
            clip_norm: None,
            ema_decay: None,
            patience: None,
            trainable: None,
            monitor: Monitor { metric: "loss".into(), higher_is_better: false },
            precision: Precision::F32,
        }
    }
}

impl TrainingOptions {
    /// Returns the options with AdamW and half a cosine from 1e-3 down, for detectors trained from scratch on few images.
    #[must_use]
    pub fn with_adamw(self) -> Self {
        Self {
            learning_rate: 1e-3,
            optimizer: OptimizerConfig::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 1e-4 },
            schedule: ScheduleConfig::Cosine { warmup: 0.05, floor: 0.01 },
            ..self
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |field, reason: &str| Err(TrainError::Recipe { field, reason: reason.into() });
        if self.epochs == 0 {
            return refuse("epochs", "must be at least 1");
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return refuse("learning_rate", "must be finite and above 0");
        }
        self.layer_rates.map_or(Ok(()), LayerRates::check)?;
        if self.accumulation == 0 {
            return refuse("accumulation", "must be at least 1");
        }
        if self.clip_norm.is_some_and(|norm| norm.is_nan() || norm <= 0.0) {
            return refuse("clip_norm", "must be above 0");
        }
        if self.ema_decay.is_some_and(|decay| !(0.0..1.0).contains(&decay)) {
            return refuse("ema_decay", "must be at least 0 and below 1");
        }
        if self.patience == Some(0) {
            return refuse("patience", "must be at least 1");
        }
        Ok(())
    }
}
