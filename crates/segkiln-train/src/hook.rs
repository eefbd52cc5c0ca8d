//! Hooks that change batches before training steps.

use std::{
    any::Any,
    error::Error,
    fmt::{self, Debug},
    sync::Arc,
};

use segkiln_data::Batch;

/// Reason that a batch cannot be changed.
pub type HookError = Box<dyn Error + Send + Sync>;

/// Changes each batch before the training step that learns from it, given the network in its current state; adversarial training is one.
///
/// Its `Debug` text stands in `config.json`; a run is resumed only with a hook of the same text.
pub trait BatchHook<M>: Debug + Send + Sync {
    /// Changes a batch of augmented and normalized images. The same batch, network and seed must give the same result, so that runs can be
    /// repeated and resumed.
    ///
    /// `network` is the one that trains; `valid()` makes it one that predicts.
    ///
    /// # Errors
    /// An error of any kind, which ends the training as [`TrainError::Hook`](crate::TrainError::Hook).
    fn change(&self, network: &M, batch: Batch, seed: u64) -> Result<Batch, HookError>;
}

/// [`BatchHook`] without its network's type: fields that a Burn module skips cannot depend on a type parameter that is a module.
#[derive(Clone)]
pub(crate) struct Hook {
    change: Arc<Change>,
    text: String,
}

type Change = dyn Fn(&dyn Any, Batch, u64) -> Result<Batch, HookError> + Send + Sync;

impl Hook {
    pub fn new<M: 'static>(hook: impl BatchHook<M> + 'static) -> Self {
        let text = format!("{hook:?}");
        let change = move |network: &dyn Any, batch: Batch, seed: u64| {
            let network = network.downcast_ref::<M>().expect("a task's hook is for the task's network");
            hook.change(network, batch, seed)
        };
        Self { change: Arc::new(change), text }
    }

    /// Its `Debug` text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// As [`BatchHook::change`], of the network that it is for.
    pub fn change(&self, network: &dyn Any, batch: Batch, seed: u64) -> Result<Batch, HookError> {
        (self.change)(network, batch, seed)
    }
}

impl Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
