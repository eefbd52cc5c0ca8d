use std::sync::{Arc, Mutex};

use burn::{
    backend::ExecutionError,
    module::Module,
    tensor::{Device, Distribution, Tensor},
};
use burn_train::{
    InferenceStep, ItemLazy, TrainOutput, TrainStep,
    metric::{Adaptor, LossInput},
};
use segkiln_data::DetectionBatch;
use segkiln_metrics::metrics::DetectionInput;
use segkiln_models::detection::{DetectionError, DetectionNetwork, Sampling};

use crate::{TrainError, optimizer::clip_grad_norm, strategy::lock, task::TrainingOutput};

/// A detector and how a step learns.
#[derive(Module, Debug)]
pub struct DetectionTask<M: Module + DetectionNetwork> {
    /// The network.
    pub model: M,
    #[module(skip)]
    clip_norm: Option<f32>,
    #[module(skip)]
    accumulation: usize,
    #[module(skip)]
    failure: Failure,
}

/// Why a batch could not be learned from, which burn-train's steps cannot say.
pub(super) type Failure = Arc<Mutex<Option<TrainError>>>;

impl<M: DetectionNetwork> DetectionTask<M> {
    /// `clip_norm` bounds the common norm of a batch's gradients; the gradients of `accumulation` batches make a step.
    pub fn new(model: M, clip_norm: Option<f32>, accumulation: usize) -> Self {
        Self { model, clip_norm, accumulation, failure: Failure::default() }
    }

    /// The task with a place for what goes wrong.
    pub(super) fn reporting_to(self, failure: Failure) -> Self {
        Self { failure, ..self }
    }

    /// A loss that ends the training.
    fn fail(&self, images: &[String], source: DetectionError, device: &Device) -> Tensor<1> {
        lock(&self.failure).get_or_insert(TrainError::Batch { images: images.join(", "), source });
        Tensor::full([1], f32::NAN, device)
    }
}

/// A seed that the device's random numbers give, which the training seeds each epoch.
fn drawn(device: &Device) -> u64 {
    let numbers = Tensor::<1>::random([2], Distribution::Default, &device.clone().inner());
    let numbers: Vec<f32> = numbers.into_data().iter().collect();
    numbers.into_iter().fold(0, |seed, number| seed << 24 | (number * 16_777_216.0) as u64)
}

impl<M: DetectionNetwork> TrainStep for DetectionTask<M> {
    type Input = DetectionBatch;
    type Output = TrainingOutput;

    fn step(&self, batch: DetectionBatch) -> TrainOutput<TrainingOutput> {
        let device = batch.images[0].device();
        let sampling = Sampling::Random { seed: drawn(&device) };
        let loss = match self.model.losses(&batch.images, &batch.targets, sampling) {
            Ok(losses) => losses.total(),
            Err(error) => self.fail(&batch.names, error, &device).require_grad(),
        };
        let gradients = loss.clone().div_scalar(self.accumulation as f64).backward();
        let output = TrainOutput::new(self, gradients, TrainingOutput::new(loss.without_autodiff()));
        match self.clip_norm {
            Some(norm) => TrainOutput { grads: clip_grad_norm(self, output.grads, norm), ..output },
            None => output,
        }
    }
}

impl<M: DetectionNetwork> InferenceStep for DetectionTask<M> {
    type Input = DetectionBatch;
    type Output = DetectionOutput;

    fn step(&self, batch: DetectionBatch) -> DetectionOutput {
        let DetectionBatch { names, images, targets } = batch;
        // The same samples in every epoch, so that losses can be compared.
        match self.model.validate(&images, &targets, Sampling::Random { seed: 0 }) {
            Ok((losses, found)) => DetectionOutput { loss: losses.total(), objects: DetectionInput { found, targets } },
            Err(error) => {
                let objects = DetectionInput { found: Vec::new(), targets: Vec::new() };
                DetectionOutput { loss: self.fail(&names, error, &images[0].device()), objects }
            }
        }
    }
}

/// What a validation step leaves for the metrics.
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
