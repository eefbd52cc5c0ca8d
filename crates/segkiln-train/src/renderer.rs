use std::{
    fmt::Display,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use burn_train::{
    Interrupter,
    logger::{EvaluationProgressLogger, TrainingProgressLogger},
    metric::MetricDefinition,
    renderer::{
        EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
        default_renderer,
    },
};

/// Writes a line to stdout. That nobody reads it any more, as in `unet_train | head`, does not end a training.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// burn-train's dashboard on a terminal, plain lines elsewhere.
pub fn renderer(interrupter: Interrupter, resumed: Option<usize>) -> Box<dyn MetricsRenderer> {
    if std::io::stdout().is_terminal() {
        default_renderer(interrupter, resumed)
    } else {
        Box::new(Lines { epoch: 0, epochs: 0, split: String::new(), total: 0, last: Instant::now() })
    }
}

/// Lines that say how far an epoch is, at most every [`Lines::PAUSE`]; the epochs' own lines come from the strategy.
struct Lines {
    epoch: usize,
    epochs: usize,
    split: String,
    total: usize,
    last: Instant,
}

impl Lines {
    const PAUSE: Duration = Duration::from_secs(10);
}

impl TrainingProgressLogger for Lines {
    fn start(&mut self, total_epochs: usize, starting_epoch: usize, _items: Option<usize>, _label: Option<&str>) {
        self.epoch = starting_epoch;
        self.epochs = total_epochs;
    }

    fn update_epoch(&mut self, epoch: usize) {
        self.epoch = epoch + 1;
    }

    fn start_split(&mut self, split: &str, total_items: usize) {
        self.split = split.into();
        self.total = total_items;
        self.last = Instant::now();
    }

    fn update_split(&mut self, items: usize) {
        if self.last.elapsed() >= Self::PAUSE {
            self.last = Instant::now();
            say(format_args!("epoch {}/{}: {} {items}/{}", self.epoch, self.epochs, self.split, self.total));
        }
    }

    fn end_split(&mut self) {}

    fn end(&mut self) {}

    /// burn-train's events are one word a step, always the same.
    fn log_event_training(&mut self, _event: String) {}
}

impl EvaluationProgressLogger for Lines {
    fn start_global_progress(&mut self, _tests: usize) {}

    fn start_test(&mut self, _name: &str, _items: usize) {}

    fn update_test_progress(&mut self, _items: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRendererTraining for Lines {
    fn update_train(&mut self, _state: MetricState) {}

    fn update_valid(&mut self, _state: MetricState) {}
}

impl MetricsRendererEvaluation for Lines {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl MetricsRenderer for Lines {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _definition: MetricDefinition) {}
}
