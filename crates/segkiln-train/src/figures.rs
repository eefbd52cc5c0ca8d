use std::collections::HashMap;

use burn_train::{
    logger::MetricLogger,
    metric::{
        MetricDefinition, MetricId, NumericEntry,
        store::{EpochSummary, MetricsUpdate, Split},
    },
};

/// Keeps the figures of the epoch at hand for the event store.
///
/// burn-train's own loggers either write a folder an epoch or, in memory, number epochs from the start of the process,
/// which a resumed run does not share.
#[derive(Default)]
pub struct Figures {
    names: HashMap<MetricId, String>,
    epoch: usize,
    entries: HashMap<(String, String), Vec<NumericEntry>>,
}

impl MetricLogger for Figures {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.entries.clear();
        }
        for numeric in update.entries_numeric {
            let Some(name) = self.names.get(&numeric.entry.metric_id) else { continue };
            let Ok(entry) = NumericEntry::deserialize(&numeric.entry.serialized_entry.serialized) else { continue };
            self.entries.entry((name.clone(), split.to_string())).or_default().push(entry);
        }
    }

    fn read_numeric(&mut self, name: &str, epoch: usize, split: &Split) -> Result<Vec<NumericEntry>, String> {
        match epoch == self.epoch {
            true => Ok(self.entries.get(&(name.to_owned(), split.to_string())).cloned().unwrap_or_default()),
            false => Ok(Vec::new()),
        }
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id, definition.name.to_string());
    }

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}
