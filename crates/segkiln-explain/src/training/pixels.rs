//! Training of segmentation networks on attacked images.

use burn::tensor::{Tensor, TensorData};
use segkiln_core::Classes;
use segkiln_data::{Batch, Normalize};
use segkiln_models::SegmentationNetwork;
use segkiln_train::{BatchHook, HookError};

use super::{attacked, check};
use crate::{
    Attack, ExplainError, Result,
    attack::{Affine, PixelLoss, Place},
};

/// Adversarial training: a share of each batch is attacked, with the network as it is by then, before the network learns from it. Madry et
/// al., ICLR 2018, <https://arxiv.org/abs/1706.06083>; with SegPGD and a share of a half, SegPGD-AT: Gu et al., ECCV 2022,
/// <https://arxiv.org/abs/2207.12391>.
///
/// The attack looks at the network as it predicts: norms use their running statistics and do not learn from it. Annotated labels are to be
/// lost; the attack's seed is drawn anew each step.
///
/// ```
/// use segkiln_core::Classes;
/// use segkiln_data::Normalize;
/// use segkiln_explain::{AdversarialTraining, Attack, AttackKind};
///
/// let attack = Attack { random_start: true, ..Attack::new(AttackKind::Pgd, 4.0) }.with_steps(3);
/// let hook = AdversarialTraining::new(attack, 0.5, &Normalize::imagenet(), &Classes::binary())?;
/// // `SegmentationTask::new(card).with_hook(hook)`
/// # let _ = hook;
/// # Ok::<(), segkiln_explain::ExplainError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AdversarialTraining {
    attack: Attack,
    share: f64,
    normalize: Normalize,
    classes: usize,
    ignore_index: Option<u32>,
}

impl AdversarialTraining {
    /// Attacks the first images of each batch, a share of them above 0 and up to 1, at least one. `normalize` and `classes` are those of the
    /// network's card.
    ///
    /// # Errors
    /// If the attack or the share is out of range.
    pub fn new(attack: Attack, share: f64, normalize: &Normalize, classes: &Classes) -> Result<Self> {
        check(&attack, share)?;
        let (normalize, ignore_index) = (normalize.clone(), classes.ignore_index());
        Ok(Self { attack, share, normalize, classes: classes.count(), ignore_index })
    }

    /// Labels of the first images on the device; none if no pixel counts.
    fn loss(&self, batch: &Batch, images: usize) -> Result<Option<PixelLoss>> {
        let [_, height, width] = batch.masks.dims();
        let labels = batch.masks.clone().slice([0..images, 0..height, 0..width]).into_data();
        let ignored = |label: i64| self.ignore_index.is_some_and(|ignore| label == i64::from(ignore));
        let labels: Vec<i64> = labels.iter().collect();
        let unknown = |label: &&i64| !ignored(**label) && usize::try_from(**label).is_ok_and(|l| l >= self.classes);
        if let Some(label) = labels.iter().find(unknown) {
            let names = (0..self.classes).map(|class| class.to_string()).collect();
            return Err(ExplainError::Class { class: *label as usize, names });
        }
        let counts: Vec<f32> = labels.iter().map(|label| f32::from(!ignored(*label) && *label >= 0)).collect();
        let pixels = counts.iter().filter(|counts| **counts > 0.0).count();
        let labels: Vec<i32> =
            labels.iter().zip(&counts).map(|(label, counts)| if *counts > 0.0 { *label as i32 } else { 0 }).collect();
        let (shape, device) = ([images, 1, height, width], batch.images.device().inner());
        Ok((pixels > 0).then(|| PixelLoss {
            labels: Tensor::from_data(TensorData::new(labels, shape), &device),
            mask: Tensor::from_data(TensorData::new(counts, shape), &device),
            pixels: pixels as f64,
            is_targeted: false,
        }))
    }
}

impl<M: SegmentationNetwork> BatchHook<M> for AdversarialTraining {
    fn change(&self, network: &M, batch: Batch, seed: u64) -> Result<Batch, HookError> {
        let [count, channels, height, width] = batch.images.dims();
        let expected = self.normalize.mean().len();
        if channels != expected {
            let reason = format!("is for {expected} channels, and the images have {channels}");
            return Err(ExplainError::Option { option: "normalize", reason }.into());
        }
        let images = attacked(count, self.share);
        let Some(loss) = self.loss(&batch, images)? else { return Ok(batch) };
        let network = network.valid();
        let is_autodiff = batch.images.is_autodiff();
        let normalized = batch.images.clone().without_autodiff();
        let affine = Affine::new(&self.normalize, &normalized.device());
        let first = normalized.clone().slice([0..images, 0..channels, 0..height, 0..width]);
        // Augmentation may leave the range from black to white; what is outside of it stays there.
        let original = affine.inverse(first.clone()).clamp(0.0, 1.0);
        let attack = Attack { seed, ..self.attack };
        let climbed =
            |x: Tensor<4>, place: Place| Ok(loss.forward(&attack, network.forward(affine.forward(x)), place.step));
        let change = attack.climb(&original, climbed)? - original;
        let changed = first + affine.scaled(change);
        let all = match images == count {
            true => changed,
            false => Tensor::cat(vec![changed, normalized.slice([images..count, 0..channels, 0..height, 0..width])], 0),
        };
        Ok(Batch { images: if is_autodiff { all.autodiff() } else { all }, ..batch })
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use burn::{
        module::Module,
        tensor::{Device, Int},
    };
    use segkiln_core::LabelMap;
    use segkiln_data::{ColorMode, Image, Loader, Sample, datasets::InMemoryDataset};
    use segkiln_models::{ModelCard, ModelConfig, SegmentationNetworkConfig, unet::UNetConfig};
    use segkiln_train::{Run, SegmentationTask, TrainingOptions, history::Epoch, schedule::ScheduleConfig, train};

    use super::*;
    use crate::{
        AttackKind,
        training::tests::{random_numbers, resumes_to_the_bit},
    };

    fn card() -> ModelCard {
        ModelCard {
            model: ModelConfig::UNet(UNetConfig::new(1, 1).with_base(4).with_depth(1)),
            classes: Classes::binary(),
            color: Some(ColorMode::Gray),
            normalize: Normalize::new(vec![0.4], vec![0.25]).unwrap(),
        }
    }

    fn hook(epsilon: f64) -> AdversarialTraining {
        let attack = Attack { random_start: true, ..Attack::new(AttackKind::SegPgd, epsilon) }.with_steps(2);
        AdversarialTraining::new(attack, 0.5, &card().normalize, &Classes::binary()).unwrap()
    }

    /// Bright squares on a dark ground.
    fn samples(count: usize) -> InMemoryDataset {
        let sample = |index: usize| {
            let inside = |pixel: usize| (pixel % 16 / 5 + pixel / 16 / 6 + index).is_multiple_of(3);
            let noise = |pixel: usize| ((pixel * 7 + index * 13) % 17) as f32 / 60.0;
            let image = (0..256).map(|pixel| if inside(pixel) { 0.6 } else { 0.2 } + noise(pixel)).collect();
            Sample {
                name: index.to_string(),
                image: Image::new(16, 16, 1, image).unwrap(),
                target: LabelMap::new(16, 16, (0..256).map(|pixel| inside(pixel).into()).collect()).unwrap(),
            }
        };
        InMemoryDataset::new((0..count).map(sample).collect())
    }

    fn epochs(folder: &Path, epochs: usize, hook: Option<AdversarialTraining>) -> Result<Vec<Epoch>, String> {
        let task = SegmentationTask::new(card());
        let run = Run {
            folder: folder.into(),
            task: if let Some(hook) = hook { task.with_hook(hook) } else { task },
            options: TrainingOptions { epochs, schedule: ScheduleConfig::Constant, ..TrainingOptions::default() },
            data: ().into(),
            weights: None,
            train: Loader::builder(Arc::new(samples(8))).transform(card().normalize),
            valid: Loader::builder(Arc::new(samples(2))).transform(card().normalize),
            device: Device::flex(),
            resume: true,
        };
        Ok(train(run).map_err(|error| error.to_string())?.history.epochs().to_vec())
    }

    #[test]
    fn attacked_training_is_resumed_to_the_bit() {
        let [plain, attacked] = resumes_to_the_bit(|folder, count, epsilon| epochs(folder, count, epsilon.map(hook)));
        assert!(plain < attacked, "{plain}, attacked {attacked}");
    }

    #[test]
    fn a_share_of_a_batch_is_attacked_within_the_budget() {
        let _held = random_numbers();
        let device = Device::flex();
        device.seed(1);
        let network = card().model.init(&device.clone().autodiff());
        let samples = samples(4);
        let samples = (0..4).map(|index| burn::data::dataset::Dataset::get(&samples, index).unwrap());
        let mut batch = Batch::collate(samples.collect(), &device).unwrap();
        batch.images = (batch.images - 0.4) / 0.25;
        let batch = Batch { images: batch.images.clone().autodiff(), ..batch };
        let changed = hook(8.0).change(&network, batch.clone(), 7).unwrap();
        let again = hook(8.0).change(&network, batch.clone(), 7).unwrap();
        let other = hook(8.0).change(&network, batch.clone(), 8).unwrap();
        let values = |batch: &Batch| -> Vec<f32> { batch.images.clone().into_data().iter().collect() };
        let (before, after) = (values(&batch), values(&changed));
        assert_eq!(values(&again), after);
        assert_ne!(values(&other), after);
        let largest = |from: usize, to: usize| {
            let changes = before[from..to].iter().zip(&after[from..to]).map(|(a, b)| (a - b).abs() * 0.25 * 255.0);
            changes.fold(0.0, f32::max)
        };
        assert_eq!(largest(512, 1024), 0.0);
        let most = largest(0, 512);
        assert!(most > 6.0 && most <= 8.001, "{most}");
        let loss = |batch: &Batch| {
            let logits = network.valid().forward(batch.images.clone().without_autodiff()).narrow(0, 0, 2);
            let labels = batch.masks.clone().narrow(0, 0, 2).unsqueeze_dim::<4>(1);
            let loss = crate::segmentation::cross_entropy(logits, labels);
            loss.mean().into_scalar::<f32>()
        };
        assert!(loss(&changed) > loss(&batch));
        // Labels that are ignored leave nothing to attack.
        let ignoring = AdversarialTraining { ignore_index: Some(255), ..hook(8.0) };
        let ignored = Batch { masks: Tensor::<3, Int>::full([4, 16, 16], 255, &device), ..batch.clone() };
        assert_eq!(values(&ignoring.change(&network, ignored, 7).unwrap()), before);
    }

    #[test]
    fn nonsense_is_refused() {
        let attack = Attack::new(AttackKind::Pgd, 8.0);
        let refused = |attack: Attack, share: f64| {
            AdversarialTraining::new(attack, share, &Normalize::identity(1), &Classes::binary())
                .unwrap_err()
                .to_string()
        };
        assert!(refused(attack, 0.0).contains("share") && refused(attack, 1.5).contains("share"));
        assert!(refused(Attack { restarts: 2, ..attack }, 0.5).contains("restarts"));
        assert!(refused(attack.with_epsilon(0.0), 0.5).contains("budget"));
    }
}
