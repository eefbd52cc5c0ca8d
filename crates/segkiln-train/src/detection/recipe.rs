use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::Device;
use burn_train::{
    SupervisedTraining,
    metric::{LossMetric, Metric},
};
use segkiln_core::Instances;
use segkiln_data::LoaderBuilder;
use segkiln_metrics::metrics::{DetectionMetric, coco::IouType};
use segkiln_models::{
    DetectorCard,
    detection::{DetectionModel, DetectionNetwork, DetectionNetworkConfig, DetectorConfig},
    weights,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::task::{DetectionTask, Failure};
use crate::{
    Result, TrainError,
    checkpoint::write_text,
    history::{Epoch, History, Monitor},
    layer_rates::LayerRates,
    optimizer::OptimizerConfig,
    run::{Plan, Settings, carry_out},
    schedule::ScheduleConfig,
    strategy::lock,
};

/// How a detector is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetectionRecipe {
    /// Seed of every random choice: weights, order, augmentation, sampled boxes.
    pub seed: u64,
    /// Passes over the training split.
    pub epochs: usize,
    /// Images a batch.
    pub batch_size: usize,
    /// Batches whose gradients make one step.
    pub accumulation: usize,
    /// Largest learning rate of the schedule.
    pub learning_rate: f64,
    /// How the learning rate goes over the steps.
    pub schedule: ScheduleConfig,
    /// Learning rates of the backbone's layers; that of all others without.
    #[serde(default)]
    pub layer_rates: Option<LayerRates>,
    /// Optimizer.
    pub optimizer: OptimizerConfig,
    /// Largest common norm of a batch's gradients.
    pub clip_norm: Option<f32>,
    /// Decay of averaged weights; they are validated and kept in place of the last ones.
    pub ema_decay: Option<f64>,
    /// Epochs without a better one after which training stops.
    pub patience: Option<usize>,
    /// Groups of the backbone's layers that learn, counted from its end; all without.
    pub trainable: Option<usize>,
    /// Which epoch is the best: by the validation `loss`, `bbox_ap`, `bbox_ap50` or, of Mask R-CNN, `segm_ap`, `segm_ap50`.
    pub monitor: Monitor,
}

impl DetectionRecipe {
    /// torchvision's reference for `images` training images: gradient descent with momentum 0.9, 0.02 for a batch of 16
    /// images, and the schedule [`ScheduleConfig::multi_step`].
    pub fn new(images: usize, epochs: usize, batch_size: usize) -> Self {
        let steps = images.div_ceil(batch_size.max(1));
        Self {
            seed: 0,
            epochs,
            batch_size,
            accumulation: 1,
            learning_rate: 0.02 / 16.0 * batch_size as f64,
            schedule: ScheduleConfig::multi_step([steps, steps.saturating_mul(epochs)]),
            layer_rates: None,
            optimizer: OptimizerConfig::Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-4 },
            clip_norm: None,
            ema_decay: None,
            patience: None,
            trainable: None,
            monitor: Monitor { metric: "bbox_ap".into(), higher_is_better: true },
        }
    }

    /// The same with AdamW and half a cosine from 1e-3 down, for trainings from random weights on few images.
    pub fn with_adamw(self) -> Self {
        Self {
            learning_rate: 1e-3,
            optimizer: OptimizerConfig::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 1e-4 },
            schedule: ScheduleConfig::Cosine { warmup: 0.05, floor: 0.01 },
            ..self
        }
    }
}

/// Contents of `config.json`: all of a run but its data. A run that is resumed must have the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "C: DetectionNetworkConfig")]
pub struct DetectionConfig<C = DetectorConfig> {
    /// Network, classes and categories, for prediction.
    #[serde(flatten)]
    pub card: DetectorCard<C>,
    /// How the network is trained.
    pub recipe: DetectionRecipe,
    /// How the data are read, in the program's own words. `null` if it has none.
    pub data: Value,
}

/// A training to be done.
pub struct DetectionRun<C = DetectorConfig> {
    /// Where the files go.
    pub folder: PathBuf,
    /// Network, classes and recipe.
    pub config: DetectionConfig<C>,
    /// Weights to begin with; see [`DetectionNetwork::load_pretrained`].
    pub weights: Option<PathBuf>,
    /// The training split, augmented; order, seed and batch size are set from the recipe.
    pub train: LoaderBuilder<Instances>,
    /// The validation split.
    pub valid: LoaderBuilder<Instances>,
    /// Where the network trains.
    pub device: Device,
    /// Whether to go on where an earlier run with the same settings in the same folder ended, if there is one.
    pub resume: bool,
}

/// Result of a training.
pub struct DetectionOutcome<M = DetectionModel> {
    /// The network of the best epoch.
    pub model: M,
    /// All epochs.
    pub history: History,
    /// The best of them.
    pub best: Epoch,
    /// Whether the user stopped it; it can be resumed.
    pub interrupted: bool,
}

/// Trains a detector and keeps, in the run's folder, `config.json`, `best.bpk`, `last.bpk`, `metrics.csv`, `curves.svg` and
/// the checkpoint to resume from, each epoch anew.
///
/// # Errors
/// [`TrainError`], also where a batch does not fit the network: a label that is none of its classes, or an object without a
/// mask where it learns masks; the files of the last epoch that ended well are kept.
pub fn train_detector<C: DetectionNetworkConfig>(plan: DetectionRun<C>) -> Result<DetectionOutcome<C::Network>> {
    let DetectionRun { folder, config, weights: begin, train, valid, device, resume } = plan;
    let recipe = config.recipe.clone();
    config.card.check().map_err(|reason| TrainError::Recipe { field: "model", reason })?;
    let scores = scores(config.card.model.has_masks())?;
    if recipe.monitor.metric != "loss" && !scores.iter().any(|(name, _)| *name == recipe.monitor.metric) {
        let names: Vec<&str> = ["loss"].into_iter().chain(scores.iter().map(|(name, _)| *name)).collect();
        let reason = format!("must name one of {}", names.join(", "));
        return Err(TrainError::Recipe { field: "monitor", reason });
    }
    let train = train.shuffle(true).seed(recipe.seed).batch_size(recipe.batch_size).build()?;
    let valid = valid.build()?;
    let loss = LossMetric::new();
    let names = [("loss".to_owned(), loss.name().to_string())]
        .into_iter()
        .chain(scores.iter().map(|(name, metric)| ((*name).to_owned(), metric.name().to_string())));
    let failure = Failure::default();
    let text = serde_json::to_string_pretty(&config).expect("a config has string keys and finite numbers");
    if resume {
        upgrade::<C>(&folder.join("config.json"), &text)?;
    }
    let ended = carry_out(Plan {
        folder: &folder,
        config: text,
        settings: Settings {
            seed: recipe.seed,
            epochs: recipe.epochs,
            learning_rate: recipe.learning_rate,
            schedule: recipe.schedule,
            layer_rates: recipe.layer_rates,
            optimizer: recipe.optimizer,
            accumulation: recipe.accumulation,
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
            let mut model = config.card.model.init(device)?;
            if let (Some(path), true) = (&begin, begins) {
                model = model.load_pretrained(path)?;
            }
            if let Some(trainable) = recipe.trainable {
                model = model.freeze_backbone(trainable);
            }
            let task = DetectionTask::new(model, recipe.clip_norm, recipe.accumulation);
            Ok(task.reporting_to(failure.clone()))
        },
        freeze: |mut task: DetectionTask<C::Network>, trainable| {
            task.model = task.model.freeze_backbone(trainable);
            task
        },
        save: |task: &DetectionTask<C::Network>, path: &Path| weights::save(&task.model, path),
        names: names.collect(),
        measure: |mut training: SupervisedTraining<DetectionTask<C::Network>>| {
            training = training.metric_valid_numeric(loss.clone());
            for (_, metric) in &scores {
                training = training.metric_valid_numeric(metric.clone());
            }
            training
        },
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    let ended = ended?;
    let model = weights::load(config.card.model.init(&device)?, &folder.join("best.bpk"))?;
    Ok(DetectionOutcome { model, history: ended.history, best: ended.best, interrupted: ended.interrupted })
}

/// Rewrites a run's `config.json` that says the same as `text` in an earlier form, so that the run can be resumed.
fn upgrade<C: DetectionNetworkConfig>(path: &Path, text: &str) -> Result<()> {
    // A file that is missing or damaged is reported where it is compared.
    let Ok(before) = std::fs::read_to_string(path) else { return Ok(()) };
    let Ok(config) = serde_json::from_str::<DetectionConfig<C>>(&before) else { return Ok(()) };
    match serde_json::to_string_pretty(&config) {
        Ok(same) if same == text => write_text(path, &format!("{text}\n")),
        _ => Ok(()),
    }
}

/// The validation metrics: name in the history, and metric.
fn scores(masks: bool) -> Result<Vec<(&'static str, DetectionMetric)>> {
    let mut scores = vec![
        ("bbox_ap", DetectionMetric::new(IouType::Bbox, None)?),
        ("bbox_ap50", DetectionMetric::new(IouType::Bbox, Some(0.5))?),
    ];
    if masks {
        scores.push(("segm_ap", DetectionMetric::new(IouType::Segm, None)?));
        scores.push(("segm_ap50", DetectionMetric::new(IouType::Segm, Some(0.5))?));
    }
    Ok(scores)
}
