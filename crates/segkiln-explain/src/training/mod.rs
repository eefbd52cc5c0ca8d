//! Training on attacked images.

mod objects;
mod pixels;

pub use objects::AdversarialDetectionTraining;
pub use pixels::AdversarialTraining;

use crate::{Attack, ExplainError, Result};

/// Checks an attack and the share of each batch that it changes.
fn check(attack: &Attack, share: f64) -> Result<()> {
    let refuse = |option, reason: &str| Err(ExplainError::Option { option, reason: reason.into() });
    if !(share > 0.0 && share <= 1.0) {
        return refuse("share", "must be above 0 and at most 1");
    }
    if attack.restarts != 1 {
        return refuse("restarts", "must be 1 in training: each step is an attempt of its own");
    }
    // The length of all changes is bounded by the image's size, which is not known yet.
    attack.check_options(1 << 20)
}

/// The number of images of a batch that are attacked, at least one.
fn attacked(images: usize, share: f64) -> usize {
    ((images as f64 * share).round() as usize).clamp(1, images.max(1))
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use segkiln_train::history::Epoch;

    /// Held by tests that draw the device's random numbers: the stream is the process's.
    pub fn random_numbers() -> MutexGuard<'static, ()> {
        static HELD: Mutex<()> = Mutex::new(());
        HELD.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that `run`, which trains in a folder up to a number of epochs with an attack of that budget, is resumed to the bit, and not
    /// with another attack or without. Returns the losses of the first epoch without and with it.
    pub fn resumes_to_the_bit(run: impl Fn(&Path, usize, Option<f64>) -> Result<Vec<Epoch>, String>) -> [f64; 2] {
        let _held = random_numbers();
        let folder = tempfile::tempdir().unwrap();
        let train = |name: &str, epochs: usize, epsilon: Option<f64>| {
            let epochs = run(&folder.path().join(name), epochs, epsilon)?;
            Ok::<_, String>(epochs.into_iter().map(|epoch| (epoch.train_loss, epoch.valid[0].1)).collect::<Vec<_>>())
        };
        let whole = train("whole", 3, Some(8.0)).unwrap();
        train("parts", 1, Some(8.0)).unwrap();
        assert_eq!(train("parts", 3, Some(8.0)).unwrap(), whole);
        for other in [Some(4.0), None] {
            assert!(train("parts", 3, other).unwrap_err().contains("recipe.hook"), "{other:?}");
        }
        [train("plain", 3, None).unwrap()[0].0, whole[0].0]
    }
}
