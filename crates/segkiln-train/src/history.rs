//! Figures of each epoch: learning rate, losses, metrics and time.

use std::{collections::BTreeSet, fmt::Write};

use serde::{Deserialize, Serialize};

/// One epoch's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Learning rate of the last step.
    #[serde(with = "exact")]
    pub learning_rate: f64,
    /// Mean loss over the training steps.
    #[serde(with = "exact")]
    pub train_loss: f64,
    /// Metrics of the validation split by name, the loss among them.
    #[serde(with = "exact::named")]
    pub valid: Vec<(String, f64)>,
    /// Wall-clock time, validation included.
    #[serde(with = "exact")]
    pub seconds: f64,
}

/// Figures as text. JSON knows no NaN, and serde_json reads some numbers with another last bit than it wrote, so that the
/// history of a run that is resumed would not be that of one that is not.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }

    pub mod named {
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        pub fn serialize<S: Serializer>(values: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(values.iter().map(|(name, value)| (name, value.to_string())))
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, f64)>, D::Error> {
            let values = Vec::<(String, String)>::deserialize(deserializer)?;
            let parsed = values.into_iter().map(|(name, value)| Ok((name, value.parse().map_err(D::Error::custom)?)));
            parsed.collect()
        }
    }
}

impl Epoch {
    /// A validation metric.
    pub fn valid(&self, name: &str) -> Option<f64> {
        self.valid.iter().find(|(metric, _)| metric == name).map(|(_, value)| *value)
    }
}

/// Validation metric that decides which epoch is best.
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
    fn json_keeps_every_bit() {
        // serde_json reads the first of these as 0.9990000128746032 unless told to take its time.
        let history = history(&[0.9990000128746033, 1.0 / 3.0, f64::NAN, f64::INFINITY]);
        let read: History = serde_json::from_str(&serde_json::to_string(&history).unwrap()).unwrap();
        let bits = |history: &History| -> Vec<u64> {
            history.epochs().iter().map(|epoch| epoch.valid("dice").unwrap().to_bits()).collect()
        };
        assert_eq!(bits(&read), bits(&history));
        assert_eq!(read.epochs()[0], history.epochs()[0]);
    }

    #[test]
    fn csv_has_a_line_an_epoch() {
        let csv = history(&[0.5, 0.75]).to_csv();
        assert_eq!(csv, "epoch,learning_rate,train_loss,valid_dice,seconds\n1,0.1,1,0.5,1.00\n2,0.1,1,0.75,1.00\n");
    }
}
