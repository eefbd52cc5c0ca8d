//! A task that segkiln does not know: one class for a whole image.

use std::path::Path;

use burn::{
    backend::ExecutionError,
    module::Module,
    nn::loss::CrossEntropyLossConfig,
    tensor::{Device, Int, Tensor, TensorData},
    train::{
        InferenceStep, ItemLazy, TrainOutput, TrainStep,
        metric::{AccuracyInput, AccuracyMetric, Adaptor, LossInput},
    },
};
use segkiln::{
    core::Size,
    data::{
        Collate, Collated, Result as DataResult, Sample, TransformRng,
        transforms::{Motion, Target},
    },
    models::{
        backbones::{Classifier, ClassifierConfig},
        weights::{self, WeightsError},
    },
    train::{Result, StepOptions, Task, TrainError, TrainingOutput, ValidationMetric},
};

/// The class of an image.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Width and height of the image.
    pub size: Size,
    /// Class, from 0.
    pub class: u32,
}

impl Target for Label {
    fn size(&self) -> Size {
        self.size
    }

    fn moved(self, motion: &Motion) -> DataResult<Self> {
        Ok(Self { size: motion.size(self.size), ..self })
    }

    fn foreground(&self, _ignore_index: Option<u32>, _rng: &mut TransformRng) -> Option<[u32; 2]> {
        None
    }

    fn cover(&mut self, _corner: [u32; 2], _size: Size, _label: u32) {}

    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// Images and their classes as tensors.
#[derive(Debug, Clone)]
pub struct LabeledImages {
    /// `[n, channels, height, width]`
    images: Tensor<4>,
    /// `[n]`
    classes: Tensor<1, Int>,
}

impl Collate for Label {
    type Batch = LabeledImages;

    fn collate(samples: Vec<Sample<Self>>) -> DataResult<Collated<LabeledImages>> {
        let (mut values, mut shape) = (Vec::new(), [samples.len(), 1, 1, 1]);
        for image in samples.iter().map(|sample| &sample.image) {
            // Images of one channel: rows of pixels are what the tensor has.
            shape = [samples.len(), image.channels(), image.height() as usize, image.width() as usize];
            values.extend_from_slice(image.as_slice());
        }
        let classes: Vec<i32> = samples.iter().map(|sample| sample.target.class as i32).collect();
        Ok(Box::new(move |device| LabeledImages {
            images: Tensor::from_data(TensorData::new(values, shape), device),
            classes: Tensor::from_ints(classes.as_slice(), device),
        }))
    }
}

/// Classification of images of one channel.
#[derive(Debug, Clone)]
pub struct Classification {
    /// Network.
    pub config: ClassifierConfig,
}

/// The network, with cross-entropy as its loss.
#[derive(Module, Debug)]
pub struct Learner {
    model: Classifier,
    #[module(skip)]
    step: StepOptions,
}

impl Learner {
    fn loss(&self, logits: Tensor<2>, classes: Tensor<1, Int>) -> Tensor<1> {
        CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, classes)
    }
}

impl TrainStep for Learner {
    type Input = LabeledImages;
    type Output = TrainingOutput;

    fn step(&self, batch: LabeledImages) -> TrainOutput<TrainingOutput> {
        let logits = self.step.forward(|| self.model.forward(batch.images));
        self.step.backward(self, self.loss(logits, batch.classes))
    }
}

impl InferenceStep for Learner {
    type Input = LabeledImages;
    type Output = Validated;

    fn step(&self, batch: LabeledImages) -> Validated {
        let logits = self.model.forward(batch.images);
        Validated { loss: self.loss(logits.clone(), batch.classes.clone()), logits, classes: batch.classes }
    }
}

/// Output of a validation step.
pub struct Validated {
    loss: Tensor<1>,
    logits: Tensor<2>,
    classes: Tensor<1, Int>,
}

impl ItemLazy for Validated {
    fn sync(self) -> std::result::Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<LossInput> for Validated {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.loss.clone())
    }
}

impl Adaptor<AccuracyInput> for Validated {
    fn adapt(&self) -> AccuracyInput {
        AccuracyInput::new(self.logits.clone(), self.classes.clone())
    }
}

impl Task for Classification {
    type Target = Label;
    type Network = Classifier;
    type Learner = Learner;
    type Card = ClassifierConfig;
    type Settings = ();

    fn card(&self) -> &ClassifierConfig {
        &self.config
    }

    fn settings(&self) {}

    fn check(&self) -> Result<()> {
        self.config.check().map_err(|error| TrainError::Recipe { field: "model", reason: error.to_string() })
    }

    fn init(&self, device: &Device) -> Result<Classifier> {
        Ok(self.config.init(device))
    }

    fn load_pretrained(network: Classifier, path: &Path) -> std::result::Result<Classifier, WeightsError> {
        weights::load(network, path)
    }

    fn learner(&self, model: Classifier, step: StepOptions) -> Result<Learner> {
        Ok(Learner { model, step })
    }

    fn network(learner: &Learner) -> &Classifier {
        &learner.model
    }

    fn with_network(learner: Learner, change: impl FnOnce(Classifier) -> Classifier) -> Learner {
        Learner { model: change(learner.model), step: learner.step }
    }

    fn metrics(&self) -> Result<Vec<ValidationMetric<Learner>>> {
        Ok(vec![ValidationMetric::new("accuracy", AccuracyMetric::new())])
    }
}
