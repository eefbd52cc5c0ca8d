use std::path::Path;

use burn::tensor::Device;
use segkiln_core::Instances;
use segkiln_data::DetectionBatch;
use segkiln_metrics::metrics::{DetectionMetric, coco::IouType};
use segkiln_models::{
    DetectorCard,
    detection::{DetectionNetwork, DetectionNetworkConfig, DetectorConfig},
    weights::WeightsError,
};
use serde::{Deserialize, Serialize};

use super::learner::{DetectionLearner, DetectionOutput};
use crate::{
    BatchHook, Result, TrainError, TrainingOptions,
    history::Monitor,
    hook::Hook,
    optimizer::OptimizerConfig,
    schedule::ScheduleConfig,
    task::{StepOptions, Task, ValidationMetric},
};
use burn_train::metric::{Adaptor, Metric, Numeric};

/// Returns the options of torchvision's reference training on `images` images: gradient descent with momentum 0.9, 0.02
/// for a batch of 16 images, and the schedule [`ScheduleConfig::multi_step`]. The best epoch is the one with the highest
/// `bbox_ap`.
pub fn reference_options(images: usize, epochs: usize, batch_size: usize) -> TrainingOptions {
    let steps = images.div_ceil(batch_size.max(1));
    TrainingOptions {
        epochs,
        batch_size,
        learning_rate: 0.02 / 16.0 * batch_size as f64,
        schedule: ScheduleConfig::multi_step([steps, steps.saturating_mul(epochs)]),
        optimizer: OptimizerConfig::Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-4 },
        monitor: Monitor { metric: "bbox_ap".into(), higher_is_better: true },
        ..TrainingOptions::default()
    }
}

/// Settings of a detection task in `config.json`, beside the options.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DetectionSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hook: Option<String>,
}

/// Detection of objects by any [`DetectionNetwork`].
///
/// The validation metrics are `loss`, `bbox_ap`, `bbox_ap50` and, of networks with masks, `segm_ap` and `segm_ap50`. A batch
/// that does not fit the network ends the training: a label that is none of its classes, or an object without a mask where
/// it learns masks.
pub struct DetectionTask<C: DetectionNetworkConfig = DetectorConfig> {
    card: DetectorCard<C>,
    hook: Option<Hook<DetectionBatch>>,
    metrics: Vec<MakeMetric<C::Network>>,
}

type MakeMetric<M> = Box<dyn Fn() -> ValidationMetric<DetectionLearner<M>>>;

impl<C: DetectionNetworkConfig> DetectionTask<C> {
    /// Takes the detector's card.
    pub fn new(card: DetectorCard<C>) -> Self {
        Self { card, hook: None, metrics: Vec::new() }
    }

    /// Changes each batch before its training step; validation is of the images as they are.
    pub fn with_hook(self, hook: impl BatchHook<C::Network, DetectionBatch> + 'static) -> Self {
        Self { hook: Some(Hook::new(hook)), ..self }
    }

    /// Adds a validation metric of burn-train, which takes a
    /// [`DetectionInput`](segkiln_metrics::metrics::DetectionInput). `name` stands in `metrics.csv`.
    pub fn with_metric<Me: Metric + Numeric + 'static>(mut self, name: impl Into<String>, metric: Me) -> Self
    where
        DetectionOutput: Adaptor<Me::Input>,
    {
        let name = name.into();
        self.metrics.push(Box::new(move || ValidationMetric::new(name.clone(), metric.clone())));
        self
    }
}

impl<C: DetectionNetworkConfig> Task for DetectionTask<C> {
    type Target = Instances;
    type Network = C::Network;
    type Learner = DetectionLearner<C::Network>;
    type Card = DetectorCard<C>;
    type Settings = DetectionSettings;

    fn card(&self) -> &DetectorCard<C> {
        &self.card
    }

    fn settings(&self) -> DetectionSettings {
        DetectionSettings { hook: self.hook.as_ref().map(|hook| hook.text().into()) }
    }

    fn check(&self) -> Result<()> {
        self.card.check().map_err(|error| TrainError::Recipe { field: "model", reason: error.to_string() })
    }

    fn has_backbone(&self) -> bool {
        self.card.model.has_backbone()
    }

    fn init(&self, device: &Device) -> Result<C::Network> {
        Ok(self.card.model.init(device)?)
    }

    fn load_pretrained(network: C::Network, path: &Path) -> std::result::Result<C::Network, WeightsError> {
        network.load_pretrained(path)
    }

    fn freeze_backbone(network: C::Network, trainable: usize) -> C::Network {
        network.freeze_backbone(trainable)
    }

    fn learner(&self, network: C::Network, step: StepOptions) -> Result<DetectionLearner<C::Network>> {
        Ok(DetectionLearner { model: network, hook: self.hook.clone(), step })
    }

    fn network(learner: &DetectionLearner<C::Network>) -> &C::Network {
        &learner.model
    }

    fn with_network(
        learner: DetectionLearner<C::Network>,
        change: impl FnOnce(C::Network) -> C::Network,
    ) -> DetectionLearner<C::Network> {
        let DetectionLearner { model, hook, step } = learner;
        DetectionLearner { model: change(model), hook, step }
    }

    fn metrics(&self) -> Result<Vec<ValidationMetric<DetectionLearner<C::Network>>>> {
        let mut metrics = vec![
            ValidationMetric::new("bbox_ap", DetectionMetric::new(IouType::Bbox, None)?),
            ValidationMetric::new("bbox_ap50", DetectionMetric::new(IouType::Bbox, Some(0.5))?),
        ];
        if self.card.model.has_masks() {
            metrics.push(ValidationMetric::new("segm_ap", DetectionMetric::new(IouType::Segm, None)?));
            metrics.push(ValidationMetric::new("segm_ap50", DetectionMetric::new(IouType::Segm, Some(0.5))?));
        }
        metrics.extend(self.metrics.iter().map(|make| make()));
        Ok(metrics)
    }
}
