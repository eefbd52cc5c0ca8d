use std::{fmt, path::Path, sync::Arc};

use burn::{
    backend::ExecutionError,
    module::Module,
    tensor::{Device, Tensor},
};
use burn_train::{
    InferenceStep, ItemLazy, TrainOutput, TrainStep,
    metric::{Adaptor, LossInput, Metric, Numeric},
};
use segkiln_core::LabelMap;
use segkiln_data::Batch;
use segkiln_metrics::{
    losses::{BceLossConfig, CrossEntropyLossConfig, DiceLossConfig, LossConfig, SegmentationLoss},
    metrics::{Average, ConfusionMatrix, Figure, Score, SegmentationInput, SegmentationMetric},
};
use segkiln_models::{ModelCard, ModelConfig, SegmentationNetwork, SegmentationNetworkConfig, weights::WeightsError};
use serde::{Deserialize, Serialize};

use crate::{
    BatchHook, Result, TrainError,
    hook::Hook,
    task::{StepOptions, Task, TrainingOutput, ValidationMetric},
};

/// Loss of a segmentation network.
#[derive(Debug, Clone)]
pub enum Loss {
    /// A loss of this library.
    Config(LossConfig),
    /// A loss of your own; its `Debug` text stands in `config.json`.
    Custom(Arc<dyn SegmentationLoss>),
}

impl Loss {
    /// Takes a loss of your own. A run is resumed only with a loss of the same `Debug` text.
    pub fn custom(loss: impl SegmentationLoss + 'static) -> Self {
        Self::Custom(Arc::new(loss))
    }

    /// Binary cross-entropy where there is one logit, cross-entropy where there are more, plus soft Dice.
    pub fn cross_entropy_and_dice(logits: usize, ignore_index: Option<u32>) -> Self {
        let ignore = ignore_index.map(i64::from);
        let pixels = match logits {
            1 => LossConfig::Bce(BceLossConfig::new().with_ignore_index(ignore)),
            _ => LossConfig::CrossEntropy(CrossEntropyLossConfig::new().with_ignore_index(ignore)),
        };
        let region = LossConfig::Dice(DiceLossConfig::new().with_smooth(1.0).with_ignore_index(ignore));
        Self::Config(LossConfig::Sum(vec![(1.0, pixels), (1.0, region)]))
    }

    fn init(&self) -> Result<Arc<dyn SegmentationLoss>> {
        match self {
            Self::Config(config) => Ok(Arc::from(config.try_init()?)),
            Self::Custom(loss) => Ok(loss.clone()),
        }
    }
}

impl From<LossConfig> for Loss {
    fn from(config: LossConfig) -> Self {
        Self::Config(config)
    }
}

/// Settings of a segmentation task in `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SegmentationSettings {
    loss: LossRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hook: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum LossRecord {
    Config(LossConfig),
    Custom { custom: String },
}

/// Segmentation of images by any [`SegmentationNetwork`], with any loss and metrics.
///
/// The validation metrics are `loss`, `dice`, `iou` and `pixel_accuracy`; Dice and IoU are the foreground's where there are
/// two classes, else the classes' mean.
pub struct SegmentationTask<C: SegmentationNetworkConfig = ModelConfig> {
    card: ModelCard<C>,
    loss: Loss,
    hook: Option<Hook>,
    metrics: Vec<MakeMetric<C::Network>>,
}

type MakeMetric<M> = Box<dyn Fn() -> ValidationMetric<SegmentationLearner<M>>>;

impl<C: SegmentationNetworkConfig> SegmentationTask<C> {
    /// Takes the network's card; the loss is [`Loss::cross_entropy_and_dice`].
    pub fn new(card: ModelCard<C>) -> Self {
        let loss = Loss::cross_entropy_and_dice(card.model.classes(), card.classes.ignore_index());
        Self { card, loss, hook: None, metrics: Vec::new() }
    }

    /// Sets the loss.
    pub fn with_loss(self, loss: impl Into<Loss>) -> Self {
        Self { loss: loss.into(), ..self }
    }

    /// Changes each batch before its training step; validation is of the images as they are.
    pub fn with_hook(self, hook: impl BatchHook<C::Network> + 'static) -> Self {
        Self { hook: Some(Hook::new(hook)), ..self }
    }

    /// Adds a validation metric of burn-train, which takes a [`SegmentationInput`] or a [`LogitsInput`]. `name` stands in
    /// `metrics.csv`, and [`Monitor`](crate::history::Monitor) may name it.
    pub fn with_metric<Me: Metric + Numeric + 'static>(mut self, name: impl Into<String>, metric: Me) -> Self
    where
        ValidationOutput: Adaptor<Me::Input>,
    {
        let name = name.into();
        self.metrics.push(Box::new(move || ValidationMetric::new(name.clone(), metric.clone())));
        self
    }

    /// Adds a validation metric that is computed from the confusion matrix of all pixels; none where it is undefined.
    ///
    /// # Errors
    /// [`TrainError::Metrics`] if there are fewer than two classes.
    pub fn with_score(
        self,
        name: impl Into<String>,
        score: impl Fn(&ConfusionMatrix) -> Option<f64> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (name, classes) = (name.into(), &self.card.classes);
        let metric = SegmentationMetric::custom(name.clone(), classes.count(), classes.ignore_index(), score)?;
        Ok(self.with_metric(name, metric))
    }
}

impl<C: SegmentationNetworkConfig> Task for SegmentationTask<C> {
    type Target = LabelMap;
    type Network = C::Network;
    type Learner = SegmentationLearner<C::Network>;
    type Card = ModelCard<C>;
    type Settings = SegmentationSettings;

    fn card(&self) -> &ModelCard<C> {
        &self.card
    }

    fn settings(&self) -> SegmentationSettings {
        let loss = match &self.loss {
            Loss::Config(config) => LossRecord::Config(config.clone()),
            Loss::Custom(loss) => LossRecord::Custom { custom: format!("{loss:?}") },
        };
        SegmentationSettings { loss, hook: self.hook.as_ref().map(|hook| hook.text().into()) }
    }

    fn check(&self) -> Result<()> {
        self.card.check().map_err(|error| TrainError::Recipe { field: "model", reason: error.to_string() })?;
        self.loss.init().map(drop)
    }

    fn has_backbone(&self) -> bool {
        self.card.model.has_backbone()
    }

    fn init(&self, device: &Device) -> Result<C::Network> {
        Ok(self.card.model.init(device))
    }

    fn load_pretrained(network: C::Network, path: &Path) -> std::result::Result<C::Network, WeightsError> {
        network.load_pretrained(path)
    }

    fn freeze_backbone(network: C::Network, trainable: usize) -> C::Network {
        network.freeze_backbone(trainable)
    }

    fn learner(&self, network: C::Network, step: StepOptions) -> Result<SegmentationLearner<C::Network>> {
        Ok(SegmentationLearner { model: network, loss: self.loss.init()?, hook: self.hook.clone(), step })
    }

    fn network(learner: &SegmentationLearner<C::Network>) -> &C::Network {
        &learner.model
    }

    fn with_network(
        learner: SegmentationLearner<C::Network>,
        change: impl FnOnce(C::Network) -> C::Network,
    ) -> SegmentationLearner<C::Network> {
        let SegmentationLearner { model, loss, hook, step } = learner;
        SegmentationLearner { model: change(model), loss, hook, step }
    }

    fn metrics(&self) -> Result<Vec<ValidationMetric<SegmentationLearner<C::Network>>>> {
        let (classes, ignore) = (self.card.classes.count(), self.card.classes.ignore_index());
        let figure = |figure| match classes {
            2 => Score::Class(figure, 1),
            _ => Score::Mean(figure, Average::Macro),
        };
        let mut metrics = Vec::new();
        for (name, score) in
            [("dice", figure(Figure::Dice)), ("iou", figure(Figure::Iou)), ("pixel_accuracy", Score::PixelAccuracy)]
        {
            metrics.push(ValidationMetric::new(name, SegmentationMetric::new(score, classes, ignore)?));
        }
        metrics.extend(self.metrics.iter().map(|make| make()));
        Ok(metrics)
    }
}

/// A segmentation network and the loss that it is trained with.
#[derive(Module, Debug)]
pub struct SegmentationLearner<M: Module + SegmentationNetwork> {
    /// The network.
    pub model: M,
    #[module(skip)]
    loss: Arc<dyn SegmentationLoss>,
    #[module(skip)]
    hook: Option<Hook>,
    #[module(skip)]
    step: StepOptions,
}

impl<M: SegmentationNetwork> TrainStep for SegmentationLearner<M> {
    type Input = Batch;
    type Output = TrainingOutput;

    fn step(&self, batch: Batch) -> TrainOutput<TrainingOutput> {
        let device = batch.images.device();
        let batch = match self.changed(batch) {
            Ok(batch) => batch,
            Err(error) => return self.step.backward(self, self.step.fail(error, &device).require_grad()),
        };
        let heads = self.step.forward(|| self.model.forward_heads(batch.images)).into_iter();
        let losses = heads.map(|head| self.loss.forward(head.logits, batch.masks.clone()).mul_scalar(head.weight));
        let loss = losses.reduce(|sum, loss| sum + loss).expect("a network has a head");
        self.step.backward(self, loss)
    }
}

impl<M: SegmentationNetwork> SegmentationLearner<M> {
    /// The batch to learn from, changed by the hook.
    fn changed(&self, batch: Batch) -> Result<Batch> {
        let Some(hook) = &self.hook else { return Ok(batch) };
        let (device, names) = (batch.images.device(), batch.names.clone());
        hook.change(&self.model, batch, &device, &names)
    }
}

impl<M: SegmentationNetwork> InferenceStep for SegmentationLearner<M> {
    type Input = Batch;
    type Output = ValidationOutput;

    fn step(&self, batch: Batch) -> ValidationOutput {
        let logits = self.model.forward(batch.images);
        let loss = self.loss.forward(logits.clone(), batch.masks.clone());
        let labels = SegmentationInput::from_logits(logits.clone(), batch.masks);
        ValidationOutput { loss, logits, labels }
    }
}

/// Logits and targets of a batch, for metrics of your own.
#[derive(Debug, Clone)]
pub struct LogitsInput {
    /// `[N, C, H, W]`
    pub logits: Tensor<4>,
    /// Target class of each pixel, `[N, H, W]`.
    pub targets: Tensor<3, burn::tensor::Int>,
}

/// Output of a validation step for the metrics.
pub struct ValidationOutput {
    loss: Tensor<1>,
    logits: Tensor<4>,
    labels: SegmentationInput,
}

impl ItemLazy for ValidationOutput {
    fn sync(self) -> std::result::Result<Self, ExecutionError> {
        self.loss.device().flush()?;
        Ok(self)
    }
}

impl Adaptor<LossInput> for ValidationOutput {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.loss.clone())
    }
}

impl Adaptor<SegmentationInput> for ValidationOutput {
    fn adapt(&self) -> SegmentationInput {
        self.labels.clone()
    }
}

impl Adaptor<LogitsInput> for ValidationOutput {
    fn adapt(&self) -> LogitsInput {
        LogitsInput { logits: self.logits.clone(), targets: self.labels.targets.clone() }
    }
}

impl<C: SegmentationNetworkConfig> fmt::Debug for SegmentationTask<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentationTask").field("card", &self.card).field("loss", &self.loss).finish_non_exhaustive()
    }
}
