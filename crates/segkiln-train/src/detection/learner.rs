use burn::{
    backend::ExecutionError,
    module::Module,
    tensor::{Device, Tensor},
};
use burn_train::{
    InferenceStep, ItemLazy, TrainOutput, TrainStep,
    metric::{Adaptor, LossInput},
};
use segkiln_data::DetectionBatch;
use segkiln_metrics::metrics::DetectionInput;
use segkiln_models::detection::{DetectionError, DetectionNetwork, Sampling};

use crate::{
    TrainError,
    hook::Hook,
    task::{StepOptions, TrainingOutput, seed_from_device_rng},
};

/// A detector with its losses.
#[derive(Module, Debug)]
pub struct DetectionLearner<M: Module + DetectionNetwork> {
    /// The network.
    pub model: M,
    #[module(skip)]
    pub(super) hook: Option<Hook<DetectionBatch>>,
    #[module(skip)]
    pub(super) step: StepOptions,
}

impl<M: DetectionNetwork> DetectionLearner<M> {
    /// The loss of a batch, after the hook's changes.
    fn loss(&self, batch: DetectionBatch, device: &Device) -> Result<Tensor<1>, TrainError> {
        let names = batch.names.clone();
        let batch = match &self.hook {
            Some(hook) => hook.change(&self.model, batch, device, &names)?,
            None => batch,
        };
        let sampling = Sampling::Random { seed: seed_from_device_rng(device) };
        let losses = self.step.forward(|| self.model.losses(&batch.images, &batch.targets, sampling));
        Ok(losses.map_err(|source| refused(&names, source))?.total())
    }
}

/// A batch does not fit the network.
fn refused(images: &[String], source: DetectionError) -> TrainError {
    TrainError::Batch { images: images.join(", "), source }
}

impl<M: DetectionNetwork> TrainStep for DetectionLearner<M> {
    type Input = DetectionBatch;
    type Output = TrainingOutput;

    fn step(&self, batch: DetectionBatch) -> TrainOutput<TrainingOutput> {
        let device = batch.images[0].device();
        let loss = self.loss(batch, &device).unwrap_or_else(|error| self.step.fail(error, &device).require_grad());
        self.step.backward(self, loss)
    }
}

impl<M: DetectionNetwork> InferenceStep for DetectionLearner<M> {
    type Input = DetectionBatch;
    type Output = DetectionOutput;

    fn step(&self, batch: DetectionBatch) -> DetectionOutput {
        let DetectionBatch { names, images, targets } = batch;
        // The same samples in every epoch, so that losses can be compared.
        match self.model.validate(&images, &targets, Sampling::Random { seed: 0 }) {
            Ok((losses, found)) => DetectionOutput { loss: losses.total(), objects: DetectionInput { found, targets } },
            Err(error) => {
                let objects = DetectionInput { found: Vec::new(), targets: Vec::new() };
                DetectionOutput { loss: self.step.fail(refused(&names, error), &images[0].device()), objects }
            }
        }
    }
}

/// Output of a validation step for the metrics.
pub struct DetectionOutput {
    loss: Tensor<1>,
    objects: DetectionInput,
}

impl ItemLazy for DetectionOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        self.loss.device().flush()?;
        Ok(self)
    }
}

impl Adaptor<LossInput> for DetectionOutput {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.loss.clone())
    }
}

impl Adaptor<DetectionInput> for DetectionOutput {
    fn adapt(&self) -> DetectionInput {
        self.objects.clone()
    }
}
