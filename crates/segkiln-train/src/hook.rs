//! Hooks that change batches before training steps.

use std::{
    any::Any,
    error::Error,
    fmt::{self, Debug},
    sync::Arc,
};

use burn::tensor::Device;
use segkiln_data::Batch;

use crate::{TrainError, task::seed_from_device_rng};

/// Reason that a batch cannot be changed.
pub type HookError = Box<dyn Error + Send + Sync>;

/// Changes each batch before the training step that learns from it, given the network in its current state; adversarial training is one.
/// Batches are those of the task: `Batch` of segmentation, [`DetectionBatch`](segkiln_data::DetectionBatch) of detection.
///
/// Its `Debug` text stands in `config.json`; a run is resumed only with a hook of the same text.
pub trait BatchHook<M, B = Batch>: Debug + Send + Sync {
    /// Changes a batch of augmented images, of segmentation also normalized. The same batch, network and seed must give the same result, so
    /// that runs can be repeated and resumed.
    ///
    /// `network` is the one that trains; `valid()` makes it one that predicts.
    ///
    /// # Errors
    /// An error of any kind, which ends the training as [`TrainError::Hook`](crate::TrainError::Hook).
    fn change(&self, network: &M, batch: B, seed: u64) -> Result<B, HookError>;
}

/// [`BatchHook`] without its network's type: fields that a Burn module skips cannot depend on a type parameter that is a module.
#[derive(Clone)]
pub(crate) struct Hook<B = Batch> {
    change: Arc<Change<B>>,
    text: String,
}

type Change<B> = dyn Fn(&dyn Any, B, u64) -> Result<B, HookError> + Send + Sync;

impl<B> Hook<B> {
    pub fn new<M: 'static>(hook: impl BatchHook<M, B> + 'static) -> Self {
        let text = format!("{hook:?}");
        let change = move |network: &dyn Any, batch: B, seed: u64| {
            let network = network.downcast_ref::<M>().expect("a task's hook is for the task's network");
            hook.change(network, batch, seed)
        };
        Self { change: Arc::new(change), text }
    }

    /// Its `Debug` text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// As [`BatchHook::change`], of the network that it is for, with a seed of the device's random numbers.
    pub fn change(&self, network: &dyn Any, batch: B, device: &Device, names: &[String]) -> Result<B, TrainError> {
        let changed = (self.change)(network, batch, seed_from_device_rng(device));
        changed.map_err(|source| TrainError::Hook { images: names.join(", "), source })
    }
}

impl<B> Debug for Hook<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
