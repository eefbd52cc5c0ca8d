use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::Device;
use burn_train::{
    SupervisedTraining,
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
    history::{Epoch, History, Monitor},
    layer_rates::LayerRates,
    optimizer::OptimizerConfig,
    run::{Plan, Settings, carry_out},
    schedule::ScheduleConfig,
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
    /// Learning rates of the backbone's layers; that of all others without.
    #[serde(default)]
    pub layer_rates: Option<LayerRates>,
    /// What turns gradients into steps.
    pub optimizer: OptimizerConfig,
    /// Largest common norm of the gradients.
    pub clip_norm: Option<f32>,
    /// Decay of averaged weights; they are validated and kept in place of the last ones.
    pub ema_decay: Option<f64>,
    /// Epochs without a better one after which training stops.
    pub patience: Option<usize>,
    /// Groups of the backbone's layers that learn, counted from its end; all without.
    #[serde(default)]
    pub trainable: Option<usize>,
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
            layer_rates: None,
            optimizer: OptimizerConfig::default(),
            clip_norm: None,
            ema_decay: None,
            patience: None,
            trainable: None,
            loss: LossConfig::Sum(vec![(1.0, pixels), (1.0, region)]),
            monitor: Monitor { metric: "loss".into(), higher_is_better: false },
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |field, reason: &str| Err(TrainError::Recipe { field, reason: reason.into() });
        if !METRICS.contains(&self.monitor.metric.as_str()) {
            return refuse("monitor", &format!("must name one of {}", METRICS.join(", ")));
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
    /// Weights to begin with; see [`SegmentationModel::begin_with`].
    pub weights: Option<PathBuf>,
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
    let Run { folder, config, weights: begin, train, valid, device, resume } = run;
    let recipe = config.recipe.clone();
    recipe.check()?;
    config.card.check().map_err(|reason| TrainError::Recipe { field: "model", reason })?;
    for (field, given) in [("trainable", recipe.trainable.is_some()), ("layer_rates", recipe.layer_rates.is_some())] {
        if given && !config.card.model.has_backbone() {
            return Err(TrainError::Recipe { field, reason: "needs a network on a backbone".into() });
        }
    }
    let loss = Arc::from(recipe.loss.try_init()?);
    let train = train.shuffle(true).seed(recipe.seed).batch_size(recipe.batch_size).build()?;
    let valid = valid.build()?;
    let metrics = Metrics::new(&config.card)?;
    let ended = carry_out(Plan {
        folder: &folder,
        config: serde_json::to_string_pretty(&config).expect("a config has string keys and finite numbers"),
        settings: Settings {
            seed: recipe.seed,
            epochs: recipe.epochs,
            learning_rate: recipe.learning_rate,
            schedule: recipe.schedule,
            layer_rates: recipe.layer_rates,
            optimizer: recipe.optimizer,
            accumulation: 1,
            clip_norm: recipe.clip_norm,
            ema_decay: recipe.ema_decay,
            patience: recipe.patience,
            monitor: recipe.monitor.clone(),
        },
        steps: train.num_batches(),
        epoch: train.epoch(),
        train: Arc::new(train),
        valid: Arc::new(valid),
        device: &device,
        resume,
        init: |device: &Device, begins: bool| {
            let mut model = config.card.model.init(device);
            if let (Some(path), true) = (&begin, begins) {
                model = model.begin_with(path)?;
            }
            if let Some(trainable) = recipe.trainable {
                model = model.freeze_backbone(trainable);
            }
            Ok(SegmentationTask::new(model, loss, recipe.clip_norm))
        },
        freeze: |mut task: SegmentationTask, trainable| {
            task.model = task.model.freeze_backbone(trainable);
            task
        },
        save: |task: &SegmentationTask, path: &Path| weights::save(&task.model, path),
        names: metrics.names(),
        measure: |mut training: SupervisedTraining<SegmentationTask>| {
            training = training.metric_valid_numeric(metrics.loss.clone());
            for (_, metric) in &metrics.scores {
                training = training.metric_valid_numeric(metric.clone());
            }
            training
        },
    })?;
    let model = weights::load(config.card.model.init(&device), &folder.join("best.bpk"))?;
    Ok(Outcome { model, history: ended.history, best: ended.best, interrupted: ended.interrupted })
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
