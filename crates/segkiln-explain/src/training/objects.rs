//! Training of detectors on attacked images.

use burn::tensor::Tensor;
use segkiln_data::DetectionBatch;
use segkiln_models::detection::{DetectionNetwork, Sampling};
use segkiln_train::{BatchHook, HookError};

use super::{attacked, check};
use crate::{Attack, Result, attack::Place, detection::single};

/// Adversarial training of a detector: a share of each batch is attacked by the gradients of the training losses, with the network as it is by
/// then, before the network learns from it: Madry et al., ICLR 2018, <https://arxiv.org/abs/1706.06083>; of detectors Zhang and Wang, ICCV
/// 2019, <https://arxiv.org/abs/1907.10310>, who attack classes and boxes apart, where this attacks the sum of all losses.
///
/// The attack looks at the network as it predicts: norms use their running statistics and do not learn from it. Annotated objects are to be
/// lost; the attack's seed, and with it the boxes that are sampled, are drawn anew each step.
///
/// ```
/// use segkiln_explain::{AdversarialDetectionTraining, Attack, AttackKind};
///
/// let attack = Attack { random_start: true, ..Attack::new(AttackKind::Pgd, 4.0) }.with_steps(2);
/// let hook = AdversarialDetectionTraining::new(attack, 0.5)?;
/// // `DetectionTask::new(card).with_hook(hook)`
/// # let _ = hook;
/// # Ok::<(), segkiln_explain::ExplainError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdversarialDetectionTraining {
    attack: Attack,
    share: f64,
}

impl AdversarialDetectionTraining {
    /// Attacks the first images of each batch, a share of them above 0 and up to 1, at least one, by FGSM or PGD.
    ///
    /// # Errors
    /// If the attack or the share is out of range, or the attack is one on pixels' classes.
    pub fn new(attack: Attack, share: f64) -> Result<Self> {
        check(&attack, share)?;
        attack.check_objects()?;
        Ok(Self { attack, share })
    }
}

impl<M: DetectionNetwork> BatchHook<M, DetectionBatch> for AdversarialDetectionTraining {
    fn change(&self, network: &M, mut batch: DetectionBatch, seed: u64) -> Result<DetectionBatch, HookError> {
        let network = network.valid();
        let count = attacked(batch.images.len(), self.share);
        for (index, (image, objects)) in batch.images.iter_mut().zip(&batch.targets).take(count).enumerate() {
            let attack = Attack { seed: seed ^ (index as u64) << 32, ..self.attack };
            let is_autodiff = image.is_autodiff();
            let plain = image.clone().without_autodiff();
            // Augmentation may leave the range from black to white; what is outside of it stays there.
            let original: Tensor<4> = plain.clone().clamp(0.0, 1.0).unsqueeze();
            let loss = |x: Tensor<4>, place: Place| {
                let sampling = Sampling::Random { seed: attack.seed ^ place.step as u64 };
                Ok(network.losses(&single(x), std::slice::from_ref(objects), sampling)?.total())
            };
            let [change] = single(attack.climb(&original, loss)? - original);
            let changed = plain + change;
            *image = if is_autodiff { changed.autodiff() } else { changed };
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use burn::{data::dataset::Dataset, module::Module, tensor::Device};
    use segkiln_core::{BBox, Classes, Instance, Instances};
    use segkiln_data::{Image, Loader, Sample, datasets::InMemoryDataset};
    use segkiln_models::{
        DetectorCard,
        backbones::BackboneConfig,
        detection::{DetectionNetworkConfig, DetectorConfig, rcnn::RcnnConfig},
    };
    use segkiln_train::{
        Run, TrainingOptions, detection::DetectionTask, detection::reference_options, history::Epoch,
        schedule::ScheduleConfig, train,
    };

    use super::*;
    use crate::{
        AttackKind,
        training::tests::{random_numbers, resumes_to_the_bit},
    };

    fn card() -> DetectorCard {
        let config = RcnnConfig::with_backbone(BackboneConfig::by_name("mobilenet_v3_small").unwrap(), 2);
        let roi = config.roi.clone().with_representation(16);
        let config = config.with_channels(16).with_roi(roi).with_min_size(48).with_max_size(64);
        DetectorCard::new(DetectorConfig::from(config), Classes::binary())
    }

    fn hook(epsilon: f64) -> AdversarialDetectionTraining {
        let attack = Attack { random_start: true, ..Attack::new(AttackKind::Pgd, epsilon) }.with_steps(2);
        AdversarialDetectionTraining::new(attack, 0.5).unwrap()
    }

    /// A bright rectangle on a dark ground.
    fn samples(count: usize) -> InMemoryDataset<Instances> {
        let sample = |index: usize| {
            let [left, top] = [4 + index * 3, 6 + index * 2];
            let inside =
                |pixel: usize| (left..left + 20).contains(&(pixel % 48)) && (top..top + 16).contains(&(pixel / 48));
            let noise = |value: usize| ((value * 7 + index * 13) % 17) as f32 / 60.0;
            let values = (0..48 * 48 * 3).map(|value| if inside(value / 3) { 0.6 } else { 0.2 } + noise(value));
            let [x, y] = [left, top].map(|side| side as f64);
            let object = Instance::new(BBox::new(x, y, x + 20.0, y + 16.0).unwrap(), 1).unwrap();
            Sample {
                name: index.to_string(),
                image: Image::new(48, 48, 3, values.collect()).unwrap(),
                target: Instances::new(48, 48, vec![object]).unwrap(),
            }
        };
        InMemoryDataset::new((0..count).map(sample).collect())
    }

    fn epochs(folder: &Path, epochs: usize, hook: Option<AdversarialDetectionTraining>) -> Result<Vec<Epoch>, String> {
        let task = DetectionTask::new(card());
        let run = Run {
            folder: folder.into(),
            task: if let Some(hook) = hook { task.with_hook(hook) } else { task },
            // The reference's rate depends on the number of epochs.
            options: TrainingOptions { schedule: ScheduleConfig::Constant, ..reference_options(4, epochs, 2) },
            data: ().into(),
            weights: None,
            train: Loader::builder(Arc::new(samples(4))),
            valid: Loader::builder(Arc::new(samples(1))),
            device: Device::flex(),
            resume: true,
        };
        Ok(train(run).map_err(|error| error.to_string())?.history.epochs().to_vec())
    }

    #[test]
    fn attacked_training_is_resumed_to_the_bit() {
        let [plain, attacked] = resumes_to_the_bit(|folder, count, epsilon| epochs(folder, count, epsilon.map(hook)));
        // Not which is the larger: the sampled boxes are others.
        assert_ne!(plain, attacked);
    }

    #[test]
    fn a_share_of_a_batch_is_attacked_within_the_budget() {
        let _held = random_numbers();
        let device = Device::flex();
        device.seed(1);
        let network = card().model.init(&device.clone().autodiff()).unwrap();
        let samples: Vec<_> = (0..4).map(|index| samples(4).get(index).unwrap()).collect();
        let batch = DetectionBatch::collate(samples, &device.clone().autodiff()).unwrap();
        let values = |batch: &DetectionBatch| -> Vec<Vec<f32>> {
            batch.images.iter().map(|image| image.clone().into_data().iter().collect()).collect()
        };
        let changed = hook(8.0).change(&network, batch.clone(), 7).unwrap();
        assert!(changed.images.iter().all(Tensor::is_autodiff));
        assert_eq!(values(&hook(8.0).change(&network, batch.clone(), 7).unwrap()), values(&changed));
        assert_ne!(values(&hook(8.0).change(&network, batch.clone(), 8).unwrap()), values(&changed));
        let sizes: Vec<f32> = values(&batch)
            .iter()
            .zip(values(&changed))
            .map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs() * 255.0).fold(0.0, f32::max))
            .collect();
        assert!(sizes[..2].iter().all(|most| *most > 6.0 && *most <= 8.001) && sizes[2..] == [0.0; 2], "{sizes:?}");
        let loss = |batch: &DetectionBatch| {
            let images: Vec<_> = batch.images[..2].iter().map(|image| image.clone().without_autodiff()).collect();
            let losses = network.valid().losses(&images, &batch.targets[..2], Sampling::Random { seed: 3 }).unwrap();
            losses.total().into_scalar::<f32>()
        };
        assert!(loss(&changed) > loss(&batch), "{} of {}", loss(&changed), loss(&batch));
        let error = AdversarialDetectionTraining::new(Attack::new(AttackKind::SegPgd, 4.0), 0.5).unwrap_err();
        assert!(error.to_string().contains("take fgsm or pgd for a detector"), "{error}");
        assert!(AdversarialDetectionTraining::new(Attack::new(AttackKind::Pgd, 4.0), 0.0).is_err());
    }
}
