//! What was measured at each epoch.

use std::{collections::BTreeSet, fmt::Write};

use serde::{Deserialize, Serialize};

/// One epoch's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean loss over the training steps.
    pub train_loss: f64,
    /// Metrics of the validation split by name, the loss among them.
    pub valid: Vec<(String, f64)>,
    /// Wall-clock time, validation included.
    pub seconds: f64,
}

impl Epoch {
    /// A validation metric.
    pub fn valid(&self, name: &str) -> Option<f64> {
        self.valid.iter().find(|(metric, _)| metric == name).map(|(_, value)| *value)
    }
}

/// Which figure decides what the best epoch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// Name of a validation metric.
    pub metric: String,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// The epochs of a run so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(Vec<Epoch>);

impl History {
    /// Adds the next epoch.
    pub fn push(&mut self, epoch: Epoch) {
        self.0.push(epoch);
    }

    /// The epochs, first to last.
    pub fn epochs(&self) -> &[Epoch] {
        &self.0
    }

    /// The best epoch by `monitor`; of equals the first. NaN is never best.
    pub fn best(&self, monitor: &Monitor) -> Option<&Epoch> {
        let value = |epoch: &Epoch| epoch.valid(&monitor.metric).filter(|value| !value.is_nan());
        self.0.iter().filter(|epoch| value(epoch).is_some()).reduce(|best, epoch| {
            let (old, new) = (value(best), value(epoch));
            let better = if monitor.higher_is_better { new > old } else { new < old };
            if better { epoch } else { best }
        })
    }

    /// Epochs since the best one.
    pub fn stale(&self, monitor: &Monitor) -> usize {
        match (self.best(monitor), self.0.last()) {
            (Some(best), Some(last)) => last.epoch - best.epoch,
            _ => self.0.len(),
        }
    }

    /// Names of the validation metrics, sorted.
    pub fn metrics(&self) -> BTreeSet<&str> {
        self.0.iter().flat_map(|epoch| epoch.valid.iter().map(|(name, _)| name.as_str())).collect()
    }

    /// One line an epoch under a header; a figure that an epoch lacks is empty.
    pub fn to_csv(&self) -> String {
        let metrics = self.metrics();
        let mut csv = String::from("epoch,learning_rate,train_loss");
        for metric in &metrics {
            let _ = write!(csv, ",valid_{metric}");
        }
        csv.push_str(",seconds\n");
        for epoch in &self.0 {
            let _ = write!(csv, "{},{},{}", epoch.epoch, epoch.learning_rate, epoch.train_loss);
            for metric in &metrics {
                csv.push(',');
                if let Some(value) = epoch.valid(metric) {
                    let _ = write!(csv, "{value}");
                }
            }
            let _ = writeln!(csv, ",{:.2}", epoch.seconds);
        }
        csv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(values: &[f64]) -> History {
        let mut history = History::default();
        for (index, value) in values.iter().enumerate() {
            history.push(Epoch {
                epoch: index + 1,
                learning_rate: 0.1,
                train_loss: 1.0,
                valid: vec![("dice".into(), *value)],
                seconds: 1.0,
            });
        }
        history
    }

    #[test]
    fn best_is_the_first_of_equals_and_never_nan() {
        let high = Monitor { metric: "dice".into(), higher_is_better: true };
        let low = Monitor { higher_is_better: false, ..high.clone() };
        let history = history(&[f64::NAN, 0.5, 0.7, 0.7, 0.6]);
        assert_eq!(history.best(&high).unwrap().epoch, 3);
        assert_eq!(history.stale(&high), 2);
        assert_eq!(history.best(&low).unwrap().epoch, 2);
        assert!(History::default().best(&high).is_none());
    }

    #[test]
    fn csv_has_a_line_an_epoch() {
        let csv = history(&[0.5, 0.75]).to_csv();
        assert_eq!(
            csv,
            "epoch,learning_rate,train_loss,valid_dice,seconds\n1,0.1,1,0.5,1.00\n2,0.1,1,0.75,1.00\n"
        );
    }
}
