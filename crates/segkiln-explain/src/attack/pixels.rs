//! Attacks on the classes of pixels.

use burn::tensor::{Device, Int, Tensor, TensorData, activation::sigmoid};
use segkiln_core::{Classes, LabelMap};
use segkiln_data::{Image, Normalize};
use segkiln_models::SegmentationNetwork;

use super::{Attack, AttackKind, Attacked, Goal, Place, sizes};
use crate::{
    ExplainError, Result, SegmentationSubject, Subject,
    segmentation::{cross_entropy, probabilities},
    subject::{finite, values},
};

impl Attack {
    /// Changes an image, whose values are from 0 to 1, to fool the network.
    ///
    /// # Errors
    /// If an option is out of range, or the image or the goal do not fit.
    pub fn run<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        picture: &Image,
        goal: &Goal,
    ) -> Result<Attacked> {
        self.check(picture)?;
        subject.input(picture)?;
        let labels = Labels::new(subject.classes(), picture, goal)?;
        let (loss, affine) = (labels.loss(subject.device()), Affine::new(subject.normalize(), subject.device()));
        let loss = |x: Tensor<4>, place: Place| Ok(loss.forward(self, subject.logits(affine.forward(x)), place.step));
        labels.attacked(subject, picture, self.change(picture, subject.device(), loss)?)
    }
}

/// Normalization as a part of the network, which the gradient passes.
pub(crate) struct Affine {
    mean: Tensor<4>,
    std: Tensor<4>,
}

impl Affine {
    pub fn new(normalize: &Normalize, device: &Device) -> Self {
        let by_channel = |values: &[f32]| Tensor::<1>::from_floats(values, device).reshape([1, values.len(), 1, 1]);
        Self { mean: by_channel(normalize.mean()), std: by_channel(normalize.std()) }
    }

    /// Normalized images of ones from 0 to 1.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        (x - self.mean.clone()) / self.std.clone()
    }

    /// Changes of normalized images of ones from 0 to 1.
    #[cfg(feature = "train")]
    pub fn scaled(&self, change: Tensor<4>) -> Tensor<4> {
        change / self.std.clone()
    }

    /// Images from 0 to 1 of normalized ones.
    #[cfg(feature = "train")]
    pub fn inverse(&self, x: Tensor<4>) -> Tensor<4> {
        x * self.std.clone() + self.mean.clone()
    }
}

/// Labels of a picture, and a mask of the pixels that count.
pub(super) struct Labels {
    size: [usize; 2],
    host: Vec<u32>,
    counts: Vec<f32>,
    pixels: usize,
    is_targeted: bool,
}

impl Labels {
    pub fn new(classes: &Classes, image: &Image, goal: &Goal) -> Result<Self> {
        let map: &LabelMap = goal.annotations();
        let (found, expected) = (map.size(), image.size());
        if found != expected {
            return Err(ExplainError::Size { what: "the map of labels", found, expected });
        }
        let ignored = |label: u32| label == Goal::IGNORED || classes.ignore_index() == Some(label);
        let unknown = |label: &&u32| !ignored(**label) && **label as usize >= classes.count();
        if let Some(label) = map.as_slice().iter().find(unknown) {
            return Err(ExplainError::Class { class: *label as usize, names: classes.names().to_vec() });
        }
        let host: Vec<u32> = map.as_slice().iter().map(|label| if ignored(*label) { 0 } else { *label }).collect();
        let counts: Vec<f32> = map.as_slice().iter().map(|label| f32::from(!ignored(*label))).collect();
        let pixels = counts.iter().filter(|counts| **counts > 0.0).count();
        if pixels == 0 {
            return Err(ExplainError::EmptyMask);
        }
        let size = [image.height(), image.width()].map(|side| side as usize);
        Ok(Self { size, host, counts, pixels, is_targeted: goal.is_targeted() })
    }

    pub fn loss(&self, device: &Device) -> PixelLoss {
        let shape = [1, 1, self.size[0], self.size[1]];
        let numbers: Vec<i32> = self.host.iter().map(|label| *label as i32).collect();
        PixelLoss {
            labels: Tensor::from_data(TensorData::new(numbers, shape), device),
            mask: Tensor::from_data(TensorData::new(self.counts.clone(), shape), device),
            pixels: self.pixels as f64,
            is_targeted: self.is_targeted,
        }
    }

    /// The size of a change, and the scores before and after it.
    pub fn attacked<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        picture: &Image,
        changed: Image,
    ) -> Result<Attacked> {
        let [before, after] = [picture, &changed].map(|picture| self.probabilities(subject, picture));
        let ((score_before, before), (score_after, after)) = (before?, after?);
        let others = before.iter().zip(&after).zip(&self.counts);
        let others = others.filter(|((before, after), counts)| **counts > 0.0 && before != after).count();
        let [linf, l2] = sizes(&changed, picture);
        Ok(Attacked {
            linf,
            l2,
            score_before,
            score_after,
            changed: others as f64 / self.pixels as f64,
            image: changed,
        })
    }

    /// Mean probability of the labels, and the class of each pixel.
    fn probabilities<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        image: &Image,
    ) -> Result<(f64, Vec<u32>)> {
        let found = values(probabilities(subject.logits(subject.input(image)?)))?;
        let (pixels, classes) = (self.host.len(), subject.classes().count());
        let mut sum = 0.0;
        for (pixel, label) in self.host.iter().enumerate() {
            sum += f64::from(finite(found[*label as usize * pixels + pixel])? * self.counts[pixel]);
        }
        let best = |pixel: usize| {
            let probability = |class: &usize| found[class * pixels + pixel];
            (0..classes).reduce(|a, b| if probability(&b) > probability(&a) { b } else { a }).unwrap_or(0) as u32
        };
        Ok((sum / self.pixels as f64, (0..pixels).map(best).collect()))
    }
}

/// Labels of images on the device, and a mask of the pixels that count.
pub(crate) struct PixelLoss {
    /// `[n, 1, height, width]`; any class where a pixel does not count.
    pub labels: Tensor<4, Int>,
    /// 1 where a pixel counts, else 0, of the same shape.
    pub mask: Tensor<4>,
    /// Number of pixels that count, by which the sum of their losses is divided.
    pub pixels: f64,
    /// True where the labels are to be reached, false where they are to be lost.
    pub is_targeted: bool,
}

impl PixelLoss {
    /// The loss that an attack climbs, `[1]`.
    pub fn forward(&self, attack: &Attack, logits: Tensor<4>, step: usize) -> Tensor<1> {
        let constant = logits.clone().detach().without_autodiff();
        let loss = cross_entropy(logits, self.labels.clone());
        let weights = match attack.kind {
            AttackKind::Fgsm | AttackKind::Pgd => None,
            AttackKind::SegPgd => {
                let share = step as f64 / (2.0 * attack.steps as f64);
                let right = self.is_met(constant);
                // Toward a target it is the wrong pixels that are to be mended.
                let right = if self.is_targeted { right.neg().add_scalar(1.0) } else { right };
                Some(right.mul_scalar(1.0 - 2.0 * share).add_scalar(share))
            }
            AttackKind::CosPgd => {
                let likeness = self.cosine(constant);
                Some(if self.is_targeted { likeness.neg().add_scalar(1.0) } else { likeness })
            }
        };
        let loss = match weights {
            Some(weights) => loss * weights,
            None => loss,
        };
        let mean = (loss * self.mask.clone()).sum().div_scalar(self.pixels);
        if self.is_targeted { mean.neg() } else { mean }
    }

    /// 1 where the most likely class is the label, else 0, `[n, 1, h, w]`.
    fn is_met(&self, logits: Tensor<4>) -> Tensor<4> {
        let found = match logits.dims()[1] {
            1 => logits.greater_elem(0.0).int(),
            _ => logits.argmax(1),
        };
        found.equal(self.labels.clone()).float()
    }

    /// Margin of the label's logit over the largest other one, `[n, 1, h, w]`.
    pub fn margin(&self, logits: Tensor<4>) -> Tensor<4> {
        /// Below every logit.
        const NONE: f64 = -1e30;
        let logits = match logits.dims()[1] {
            1 => Tensor::cat(vec![logits.clone().neg(), logits], 1),
            _ => logits,
        };
        let classes = logits.dims()[1];
        let numbers = Tensor::<1, Int>::arange(0..classes as i64, &self.labels.device()).reshape([1, classes, 1, 1]);
        let own = self.labels.clone().repeat_dim(1, classes).equal(numbers.expand(logits.dims()));
        logits.clone().gather(1, self.labels.clone()) - logits.mask_fill(own, NONE).max_dim(1)
    }

    /// Cosine of the sigmoids of the logits and the label's one-hot vector: the label's sigmoid by the length of all.
    fn cosine(&self, logits: Tensor<4>) -> Tensor<4> {
        let logits = match logits.dims()[1] {
            1 => Tensor::cat(vec![logits.clone().neg(), logits], 1),
            _ => logits,
        };
        let likely = sigmoid(logits);
        let length = likely.clone().square().sum_dim(1).sqrt().clamp_min(1e-8);
        likely.gather(1, self.labels.clone()) / length
    }
}
