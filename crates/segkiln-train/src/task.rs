//! Tasks: what is trained, on which annotations, with which losses and metrics.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use burn::{
    backend::ExecutionError,
    module::Module,
    tensor::{Device, Distribution, Tensor},
};
use burn_train::{
    InferenceStep, ItemLazy, LearnerModel, SupervisedTraining, TrainOutput, TrainStep,
    metric::{Adaptor, LossInput, Metric, Numeric},
};
use segkiln_data::Collate;
use segkiln_models::{TrainingPrecision, weights::WeightsError};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Result, TrainError, TrainingOptions, optimizer::clip_grad_norm, strategy::lock};

/// A task that [`train`](crate::train) trains a network for.
///
/// [`SegmentationTask`](crate::SegmentationTask) and [`DetectionTask`](crate::detection::DetectionTask) take networks,
/// losses and metrics of your own. Implement the trait for a task with other annotations or outputs.
pub trait Task: Sized + 'static {
    /// Annotation of the samples.
    type Target: Collate;

    /// Network that is trained.
    type Network: Module;

    /// Network with its loss, as burn-train runs it: steps of training and validation.
    type Learner: LearnerModel
        + TrainStep<Input = <Self::Target as Collate>::Batch, Output: HasLoss + Adaptor<LossInput>>
        + InferenceStep<Input = <Self::Target as Collate>::Batch, Output: Adaptor<LossInput>>;

    /// Description of the trained network that prediction needs, in `config.json`.
    type Card: Serialize + DeserializeOwned;

    /// Settings of the task beside [`TrainingOptions`], in `config.json`; a run that is resumed must have the same.
    type Settings: Serialize + DeserializeOwned;

    /// Returns the network's description.
    fn card(&self) -> &Self::Card;

    /// Returns the task's settings.
    fn settings(&self) -> Self::Settings;

    /// Checks the task before anything is built or moved.
    ///
    /// # Errors
    /// [`TrainError`].
    fn check(&self) -> Result<()>;

    /// Whether [`freeze_backbone`](Self::freeze_backbone) freezes layers.
    fn has_backbone(&self) -> bool {
        false
    }

    /// Builds the network with random weights.
    ///
    /// # Errors
    /// [`TrainError`] if it cannot be built.
    fn init(&self, device: &Device) -> Result<Self::Network>;

    /// Loads weights to begin with.
    ///
    /// # Errors
    /// [`WeightsError`] if the file is not of this network or its backbone.
    fn load_pretrained(network: Self::Network, path: &Path) -> std::result::Result<Self::Network, WeightsError>;

    /// Keeps all but the last `trainable` groups of the backbone's layers from learning.
    fn freeze_backbone(network: Self::Network, _trainable: usize) -> Self::Network {
        network
    }

    /// Joins the network and its loss.
    ///
    /// # Errors
    /// [`TrainError`] if the loss cannot be built.
    fn learner(&self, network: Self::Network, step: StepOptions) -> Result<Self::Learner>;

    /// Returns the network of a learner.
    fn network(learner: &Self::Learner) -> &Self::Network;

    /// Replaces the network of a learner.
    fn with_network(learner: Self::Learner, change: impl FnOnce(Self::Network) -> Self::Network) -> Self::Learner;

    /// Returns the validation metrics beside the loss.
    ///
    /// # Errors
    /// [`TrainError`] if a metric cannot be built.
    fn metrics(&self) -> Result<Vec<ValidationMetric<Self::Learner>>>;
}

/// Parts of [`TrainingOptions`] that concern a step, and a place for errors that burn-train's steps cannot return.
#[derive(Debug, Clone)]
pub struct StepOptions {
    clip_norm: Option<f32>,
    accumulation: usize,
    precision: TrainingPrecision,
    error: Arc<Mutex<Option<TrainError>>>,
}

impl StepOptions {
    /// Takes them from the options of a training on `device`.
    ///
    /// # Errors
    /// [`TrainError::Recipe`] if the device has no kernels for the precision.
    pub fn new(options: &TrainingOptions, device: &Device) -> Result<Self> {
        let TrainingOptions { clip_norm, accumulation, precision, .. } = *options;
        let precision = TrainingPrecision::new(precision, device)
            .map_err(|error| TrainError::Recipe { field: "precision", reason: error.to_string() })?;
        Ok(Self { clip_norm, accumulation, precision, error: Arc::default() })
    }

    /// Computes a training step's forward pass in the precision of the options.
    pub fn forward<T>(&self, f: impl FnOnce() -> T) -> T {
        self.precision.run(f)
    }

    /// Computes the gradients of a batch's loss, divided by the number of batches of a step and clipped.
    pub fn backward<M: Module>(&self, module: &M, loss: Tensor<1>) -> TrainOutput<TrainingOutput> {
        let scaled = match self.accumulation {
            1 => loss.clone(),
            batches => loss.clone().div_scalar(batches as f64),
        };
        let output = TrainOutput::new(module, scaled.backward(), TrainingOutput { loss: loss.without_autodiff() });
        match self.clip_norm {
            Some(norm) => TrainOutput { grads: clip_grad_norm(module, output.grads, norm), ..output },
            None => output,
        }
    }

    /// Ends the training with an error; returns a loss that is not finite, for the step to go on with.
    pub fn fail(&self, error: TrainError, device: &Device) -> Tensor<1> {
        lock(&self.error).get_or_insert(error);
        Tensor::full([1], f32::NAN, device)
    }

    pub(crate) fn take_error(&self) -> Option<TrainError> {
        lock(&self.error).take()
    }
}

/// Draws a seed from the device's random numbers, which the training seeds each epoch.
pub(crate) fn seed_from_device_rng(device: &Device) -> u64 {
    let numbers = Tensor::<1>::random([2], Distribution::Default, &device.clone().inner());
    let numbers: Vec<f32> = numbers.into_data().iter().collect();
    numbers.into_iter().fold(0, |seed, number| seed << 24 | (number * 16_777_216.0) as u64)
}

/// A validation metric by its name in the history.
pub struct ValidationMetric<L: LearnerModel> {
    pub(crate) name: String,
    /// Name in burn-train.
    pub(crate) key: String,
    register: Box<dyn FnOnce(SupervisedTraining<L>) -> SupervisedTraining<L>>,
}

impl<L: LearnerModel> ValidationMetric<L> {
    /// Takes a metric of burn-train, whose own name must differ from the other metrics'.
    pub fn new<Me: Metric + Numeric + 'static>(name: impl Into<String>, metric: Me) -> Self
    where
        <L as InferenceStep>::Output: Adaptor<Me::Input>,
    {
        let key = metric.name().to_string();
        Self { name: name.into(), key, register: Box::new(|training| training.metric_valid_numeric(metric)) }
    }

    pub(crate) fn register(self, training: SupervisedTraining<L>) -> SupervisedTraining<L> {
        (self.register)(training)
    }
}

/// An output with a loss, which every task's training steps have.
pub trait HasLoss {
    /// `[1]`, without autodiff.
    fn loss(&self) -> Tensor<1>;
}

/// Output of a training step for the metrics.
pub struct TrainingOutput {
    loss: Tensor<1>,
}

impl HasLoss for TrainingOutput {
    fn loss(&self) -> Tensor<1> {
        self.loss.clone()
    }
}

impl ItemLazy for TrainingOutput {
    fn sync(self) -> std::result::Result<Self, ExecutionError> {
        self.loss.device().flush()?;
        Ok(self)
    }
}

impl Adaptor<LossInput> for TrainingOutput {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.loss.clone())
    }
}
