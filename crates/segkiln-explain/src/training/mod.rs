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

/// Held by tests that draw the device's random numbers: the stream is the process's.
#[cfg(test)]
static RANDOM: std::sync::Mutex<()> = std::sync::Mutex::new(());
