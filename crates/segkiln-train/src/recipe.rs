use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use burn::{module::Module, tensor::Device};
use burn_train::{
    Interrupter, Learner, SupervisedTraining, TrainingStrategy,
    metric::{LossMetric, Metric},
};
use segkiln_data::LoaderBuilder;
use segkiln_metrics::{
    losses::{BceLossConfig, CrossEntropyLossConfig, DiceLossConfig, LossConfig},
    metrics::{Average, Figure, Score, SegmentationMetric},
};
use segkiln_models::{ModelCard, SegmentationModel, weights};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Result, TrainError,
    checkpoint::{CheckpointSet, EveryEpoch, sweep, write_text},
    curves,
    figures::Figures,
    history::{Epoch, History, Monitor},
    optimizer::OptimizerConfig,
    renderer::{renderer, say},
    schedule::{Schedule, ScheduleConfig},
    strategy::{ExactEpochs, State, lock},
    task::SegmentationTask,
};

/// Names of the validation metrics in the history.
const METRICS: [&str; 4] = ["loss", "dice", "iou", "pixel_accuracy"];

/// How a network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// What every random choice depends on: weights, order, augmentation, dropout.
    pub seed: u64,
    /// Passes over the training split.
    pub epochs: usize,
    /// Samples a step.
    pub batch_size: usize,
    /// Largest learning rate of the schedule.
    pub learning_rate: f64,
    /// How the learning rate goes over the steps.
    pub schedule: ScheduleConfig,
    /// What turns gradients into steps.
    pub optimizer: OptimizerConfig,
    /// Largest common norm of the gradients.
    pub clip_norm: Option<f32>,
    /// Decay of averaged weights; they are validated and kept in place of the last ones.
    pub ema_decay: Option<f64>,
    /// Epochs without a better one after which training stops.
    pub patience: Option<usize>,
    /// What is minimised.
    pub loss: LossConfig,
    /// Which epoch is the best: by the validation `loss`, `dice`, `iou` or `pixel_accuracy`.
    pub monitor: Monitor,
}

impl Recipe {
    /// AdamW with one cycle up to 2e-3, and cross-entropy (binary where there is one logit) plus soft Dice; `logits` is the
    /// number of the network's output channels. The best epoch is the one with the lowest validation loss: on few
    /// images Dice is noisy, and picks an epoch before the network has settled.
    pub fn new(logits: usize, ignore_index: Option<u32>) -> Self {
        let ignore = ignore_index.map(i64::from);
        let pixels = match logits {
            1 => LossConfig::Bce(BceLossConfig::new().with_ignore_index(ignore)),
            _ => LossConfig::CrossEntropy(CrossEntropyLossConfig::new().with_ignore_index(ignore)),
        };
        let region = LossConfig::Dice(DiceLossConfig::new().with_smooth(1.0).with_ignore_index(ignore));
        Self {
            seed: 0,
            epochs: 20,
            batch_size: 4,
            learning_rate: 2e-3,
            schedule: ScheduleConfig::one_cycle(),
            optimizer: OptimizerConfig::default(),
            clip_norm: None,
            ema_decay: None,
            patience: None,
            loss: LossConfig::Sum(vec![(1.0, pixels), (1.0, region)]),
            monitor: Monitor { metric: "loss".into(), higher_is_better: false },
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |field, reason: &str| Err(TrainError::Recipe { field, reason: reason.into() });
        if self.epochs == 0 {
            return refuse("epochs", "must be at least 1");
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return refuse("learning_rate", "must be finite and above 0");
        }
        if self.clip_norm.is_some_and(|norm| norm.is_nan() || norm <= 0.0) {
            return refuse("clip_norm", "must be above 0");
        }
        if self.ema_decay.is_some_and(|decay| !(0.0..1.0).contains(&decay)) {
            return refuse("ema_decay", "must be at least 0 and below 1");
        }
        if !METRICS.contains(&self.monitor.metric.as_str()) {
            return refuse("monitor", &format!("must name one of {}", METRICS.join(", ")));
        }
        if self.patience == Some(0) {
            return refuse("patience", "must be at least 1");
        }
        Ok(())
    }
}

/// What `config.json` holds: all of a run but its data. A run that is resumed must have the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunConfig {
    /// What a predictor needs.
    #[serde(flatten)]
    pub card: ModelCard,
    /// How the network is trained.
    pub recipe: Recipe,
    /// How the data are read, in the program's own words: crops, augmentation. `null` if it has none.
    pub data: Value,
}

/// A training to be done.
pub struct Run {
    /// Where the files go.
    pub folder: PathBuf,
    /// Network, classes, normalisation and recipe.
    pub config: RunConfig,
    /// The training split, its images augmented and normalised; order, seed and batch size are set from the recipe.
    pub train: LoaderBuilder,
    /// The validation split, normalised.
    pub valid: LoaderBuilder,
    /// Where the network trains.
    pub device: Device,
    /// Whether to go on where an earlier run with the same settings in the same folder ended, if there is one.
    pub resume: bool,
}

/// What a training ended with.
pub struct Outcome {
    /// The network of the best epoch.
    pub model: SegmentationModel,
    /// All epochs.
    pub history: History,
    /// The best of them.
    pub best: Epoch,
    /// Whether the user stopped it; it can be resumed.
    pub interrupted: bool,
}

/// Trains a network and keeps, in the run's folder, `config.json`, `best.bpk`, `last.bpk`, `metrics.csv`, `curves.svg` and
/// the checkpoint to resume from, each epoch anew.
///
/// Dice and IoU are the foreground's where there are two classes, else the classes' mean.
///
/// # Errors
/// [`TrainError`]; the files of the last epoch that ended well are kept.
pub fn train(run: Run) -> Result<Outcome> {
    let Run { folder, config, train, valid, device, resume } = run;
    let recipe = config.recipe.clone();
    recipe.check()?;
    config.card.check().map_err(|reason| TrainError::Recipe { field: "model", reason })?;
    let loss = Arc::from(recipe.loss.try_init()?);
    let train = train.shuffle(true).seed(recipe.seed).batch_size(recipe.batch_size).build()?;
    let valid = valid.build()?;

    let checkpoints = CheckpointSet::new(folder.join("checkpoint"));
    let last_epoch = if resume { checkpoints.latest()? } else { None };
    // A run that was killed before its first checkpoint left a config.json and nothing to lose.
    let worth_keeping = folder.join(if resume { "last.bpk" } else { "config.json" });
    if last_epoch.is_none() && worth_keeping.exists() {
        set_aside(&folder)?;
    }
    fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, error))?;
    sweep(&folder)?;
    let config_path = folder.join("config.json");
    let json = serde_json::to_string_pretty(&config).expect("a config has string keys and finite numbers");
    if last_epoch.is_some() {
        same_settings(&config_path, &json)?;
    }
    write_text(&config_path, &format!("{json}\n"))?;

    device.seed(recipe.seed);
    let network = config.card.model.init(&device.clone().autodiff());
    let task = SegmentationTask::new(network, loss, recipe.clip_norm).materialize();
    let metrics = Metrics::new(&config.card)?;
    let on_epoch = {
        let (folder, monitor) = (folder.clone(), recipe.monitor.clone());
        move |task: &SegmentationTask, state: &State| write_epoch(&folder, &monitor, task, state)
    };

    let mut state = State::default();
    let mut average = None;
    if let Some(epoch) = last_epoch {
        let (read, record) = checkpoints.open::<State>(epoch)?;
        state = read;
        // Averages go by the ids of what they average. A record brings the ids of parameters along but not those of running
        // statistics, so it is loaded into a copy of the network that trains on.
        average = match record {
            Some(record) => Some(restored(task.valid(), record, &folder)?),
            None => None,
        };
        // The process may have ended between the checkpoint and the files made from it.
        let predictor = match &average {
            Some(average) => average.clone(),
            None => restored(task.valid(), checkpoints.model()?, &folder)?,
        };
        on_epoch(&predictor, &state)?;
    }

    let finished = last_epoch.is_some_and(|epoch| epoch >= recipe.epochs)
        || recipe.patience.is_some_and(|patience| state.history.stale(&recipe.monitor) >= patience);
    let mut interrupted = false;
    if !finished {
        let strategy = Arc::new(ExactEpochs {
            device: device.clone(),
            loader_epoch: train.epoch(),
            seed: recipe.seed,
            ema_decay: recipe.ema_decay,
            patience: recipe.patience,
            monitor: recipe.monitor.clone(),
            metrics: metrics.names(),
            checkpoints: checkpoints.clone(),
            on_epoch: Box::new(on_epoch),
            state: Mutex::new(state),
            average: Mutex::new(average),
            error: Mutex::new(None),
        });
        let optimizer = recipe.optimizer.init(&task);
        let schedule =
            Schedule::new(recipe.schedule, recipe.learning_rate, train.num_batches().saturating_mul(recipe.epochs));
        let interrupter = Interrupter::new();
        let mut training = SupervisedTraining::new(&folder, Arc::new(train), Arc::new(valid))
            .with_training_strategy(TrainingStrategy::Custom(strategy.clone()))
            .with_custom_checkpointers(checkpoints.clone(), checkpoints.clone(), checkpoints.clone())
            .with_checkpointing_strategy(EveryEpoch)
            .with_application_logger(None)
            .with_metric_logger(Figures::default())
            .with_interrupter(interrupter.clone())
            .renderer(renderer(interrupter, last_epoch))
            .num_epochs(recipe.epochs)
            .metric_train_numeric(LossMetric::new())
            .metric_valid_numeric(metrics.loss.clone());
        for (_, metric) in &metrics.scores {
            training = training.metric_valid_numeric(metric.clone());
        }
        if let Some(epoch) = last_epoch {
            training = training.checkpoint(epoch);
        }
        let result = training.launch(Learner::new(task, optimizer, schedule));
        drop(result.renderer);
        if let Some(error) = lock(&strategy.error).take() {
            return Err(error);
        }
        if let Some(error) = result.error {
            return Err(TrainError::Stopped(error.to_string()));
        }
        interrupted = result.interrupted.is_some();
        state = lock(&strategy.state).clone();
    }

    let Some(best) = state.history.best(&recipe.monitor).cloned() else {
        let reason = match interrupted {
            true => "it was stopped before the end of the first epoch".into(),
            false => format!("no epoch has a validation {}", recipe.monitor.metric),
        };
        return Err(TrainError::Stopped(reason));
    };
    let model = weights::load(config.card.model.init(&device), &folder.join("best.bpk"))?;
    Ok(Outcome { model, history: state.history, best, interrupted })
}

/// The validation metrics of a run.
struct Metrics {
    loss: LossMetric,
    scores: Vec<(&'static str, SegmentationMetric)>,
}

impl Metrics {
    fn new(card: &ModelCard) -> Result<Self> {
        let (classes, ignore) = (card.classes.count(), card.classes.ignore_index());
        let figure = |figure| match classes {
            2 => Score::Class(figure, 1),
            _ => Score::Mean(figure, Average::Macro),
        };
        let metric = |score| SegmentationMetric::new(score, classes, ignore);
        Ok(Self {
            loss: LossMetric::new(),
            scores: vec![
                ("dice", metric(figure(Figure::Dice))?),
                ("iou", metric(figure(Figure::Iou))?),
                ("pixel_accuracy", metric(Score::PixelAccuracy)?),
            ],
        })
    }

    /// Name in the history, name in burn-train.
    fn names(&self) -> Vec<(String, String)> {
        let scores = self.scores.iter().map(|(name, metric)| ((*name).to_owned(), metric.name().to_string()));
        std::iter::once(("loss".to_owned(), self.loss.name().to_string())).chain(scores).collect()
    }
}

/// The files that are made from a checkpoint.
fn write_epoch(folder: &Path, monitor: &Monitor, task: &SegmentationTask, state: &State) -> Result<()> {
    let last = state.history.epochs().last().map(|epoch| epoch.epoch);
    if state.history.best(monitor).map(|epoch| epoch.epoch) == last {
        weights::save(&task.model, &folder.join("best.bpk"))?;
    }
    weights::save(&task.model, &folder.join("last.bpk"))?;
    write_text(&folder.join("metrics.csv"), &state.history.to_csv())?;
    curves::draw(&state.history, &folder.join("curves.svg"))
}

fn restored(task: SegmentationTask, record: burn::store::ModuleRecord, folder: &Path) -> Result<SegmentationTask> {
    task.try_load_record(record)
        .map_err(|error| TrainError::Read { path: folder.join("checkpoint"), reason: error.to_string() })
}

/// Moves an earlier run out of the way, to the first free `FOLDER.N`: nothing that a user has is overwritten.
fn set_aside(folder: &Path) -> Result<()> {
    if !folder.join("config.json").exists() {
        return Ok(());
    }
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("run").to_owned();
    let free = (1..).map(|n| folder.with_file_name(format!("{name}.{n}"))).find(|path| !path.exists());
    let free = free.expect("some number is free");
    fs::rename(folder, &free).map_err(|error| unwritable(&free, error))?;
    say(format_args!("the earlier run in {} is now in {}", folder.display(), free.display()));
    Ok(())
}

/// Both are taken from text, because serde_json does not give every number the last bit that was written.
fn same_settings(path: &Path, now: &str) -> Result<()> {
    let unreadable = |reason: String| TrainError::Read { path: path.into(), reason };
    let parsed = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| unreadable(error.to_string()));
    let before = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    match difference(&parsed(&before)?, &parsed(now)?, "") {
        None => Ok(()),
        Some(difference) => Err(TrainError::OtherRun { path: path.into(), difference }),
    }
}

/// The first field in which two configs differ.
fn difference(before: &Value, now: &Value, name: &str) -> Option<String> {
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).find_map(|key| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            difference(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), &name)
        }),
        _ => (before != now).then(|| format!("{name} was {before}, is {now}")),
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> TrainError {
    TrainError::Write { path: path.into(), reason: error.to_string() }
}
