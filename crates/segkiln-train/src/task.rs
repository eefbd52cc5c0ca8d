//! What a training step computes.

use std::sync::Arc;

use burn::{backend::ExecutionError, module::Module, tensor::Tensor};
use burn_train::{
    InferenceStep, ItemLazy, TrainOutput, TrainStep,
    metric::{Adaptor, LossInput},
};
use segkiln_data::Batch;
use segkiln_metrics::{losses::SegmentationLoss, metrics::SegmentationInput};
use segkiln_models::SegmentationModel;

use crate::optimizer::clip_grad_norm;

/// A network and the loss that it is trained with.
#[derive(Module, Debug)]
pub struct SegmentationTask {
    /// The network.
    pub model: SegmentationModel,
    #[module(skip)]
    loss: Arc<dyn SegmentationLoss>,
    #[module(skip)]
    clip_norm: Option<f32>,
}

impl SegmentationTask {
    /// `clip_norm` bounds the common norm of the gradients.
    pub fn new(model: SegmentationModel, loss: Arc<dyn SegmentationLoss>, clip_norm: Option<f32>) -> Self {
        Self { model, loss, clip_norm }
    }
}

impl TrainStep for SegmentationTask {
    type Input = Batch;
    type Output = TrainingOutput;

    fn step(&self, batch: Batch) -> TrainOutput<TrainingOutput> {
        let heads = self.model.forward_all(batch.images).into_iter();
        let losses = heads.map(|(weight, logits)| self.loss.forward(logits, batch.masks.clone()).mul_scalar(weight));
        let loss = losses.reduce(|sum, loss| sum + loss).expect("a network has a head");
        let output = TrainOutput::new(self, loss.backward(), TrainingOutput { loss: loss.without_autodiff() });
        match self.clip_norm {
            Some(norm) => TrainOutput { grads: clip_grad_norm(self, output.grads, norm), ..output },
            None => output,
        }
    }
}

impl InferenceStep for SegmentationTask {
    type Input = Batch;
    type Output = ValidationOutput;

    fn step(&self, batch: Batch) -> ValidationOutput {
        let logits = self.model.forward(batch.images);
        let loss = self.loss.forward(logits.clone(), batch.masks.clone());
        ValidationOutput { loss, labels: SegmentationInput::from_logits(logits, batch.masks) }
    }
}

/// An output with a loss, which every task's steps have.
pub trait HasLoss {
    /// `[1]`, without autodiff.
    fn loss(&self) -> Tensor<1>;
}

/// What a training step leaves for the metrics.
pub struct TrainingOutput {
    loss: Tensor<1>,
}

impl TrainingOutput {
    pub(crate) fn new(loss: Tensor<1>) -> Self {
        Self { loss }
    }
}

impl HasLoss for TrainingOutput {
    fn loss(&self) -> Tensor<1> {
        self.loss.clone()
    }
}

impl ItemLazy for TrainingOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        self.loss.device().flush()?;
        Ok(self)
    }
}

impl Adaptor<LossInput> for TrainingOutput {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.loss.clone())
    }
}

/// What a validation step leaves for the metrics.
pub struct ValidationOutput {
    loss: Tensor<1>,
    labels: SegmentationInput,
}

impl ItemLazy for ValidationOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
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
