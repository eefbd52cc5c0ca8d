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
use segkiln_models::rcnn::{Rcnn, RcnnError, Sampling};

use crate::{optimizer::clip_grad_norm, task::TrainingOutput};

/// A detector and how a step learns.
#[derive(Module, Debug)]
pub struct DetectionTask {
    /// The network.
    pub model: Rcnn,
    #[module(skip)]
    clip_norm: Option<f32>,
    #[module(skip)]
    accumulation: usize,
}

impl DetectionTask {
    /// `clip_norm` bounds the common norm of a batch's gradients; the gradients of `accumulation` batches make a step.
    pub fn new(model: Rcnn, clip_norm: Option<f32>, accumulation: usize) -> Self {
        Self { model, clip_norm, accumulation }
    }
}

/// A seed that the device's random numbers give, which the training seeds each epoch.
fn drawn(device: &Device) -> u64 {
    let numbers = Tensor::<1>::random([2], Distribution::Default, &device.clone().inner());
    let numbers: Vec<f32> = numbers.into_data().iter().collect();
    numbers.into_iter().fold(0, |seed, number| seed << 24 | (number * 16_777_216.0) as u64)
}

impl TrainStep for DetectionTask {
    type Input = DetectionBatch;
    type Output = TrainingOutput;

    /// # Panics
    /// If a target does not fit the network: its data set must have the network's classes, and masks if it makes them.
    fn step(&self, batch: DetectionBatch) -> TrainOutput<TrainingOutput> {
        let sampling = Sampling::Random { seed: drawn(&batch.images[0].device()) };
        let losses = self.model.losses(&batch.images, &batch.targets, sampling);
        let loss = losses.unwrap_or_else(|error| panic!("{}: {error}", batch.names.join(", "))).total();
        let gradients = loss.clone().div_scalar(self.accumulation as f64).backward();
        let output = TrainOutput::new(self, gradients, TrainingOutput::new(loss.without_autodiff()));
        match self.clip_norm {
            Some(norm) => TrainOutput { grads: clip_grad_norm(self, output.grads, norm), ..output },
            None => output,
        }
    }
}

impl InferenceStep for DetectionTask {
    type Input = DetectionBatch;
    type Output = DetectionOutput;

    /// # Panics
    /// As the training's step.
    fn step(&self, batch: DetectionBatch) -> DetectionOutput {
        let DetectionBatch { images, targets, names } = batch;
        let refuse = |error: RcnnError| -> ! { panic!("{}: {error}", names.join(", ")) };
        // The same samples in every epoch, so that losses can be compared.
        let losses = self.model.losses(&images, &targets, Sampling::Random { seed: 0 });
        let losses = losses.unwrap_or_else(|error| refuse(error));
        let found = self.model.detect(&images).unwrap_or_else(|error| refuse(error));
        DetectionOutput { loss: losses.total(), objects: DetectionInput { found, targets } }
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
