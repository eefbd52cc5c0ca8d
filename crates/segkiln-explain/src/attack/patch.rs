//! A sticker that fools a network wherever it is put.

use burn::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segkiln_core::{Instance, Instances, LabelMap};
use segkiln_data::Image;
use segkiln_models::{
    SegmentationNetwork,
    detection::{DetectionNetwork, Sampling},
};

use super::{
    Attack, AttackKind, Goal,
    pixels::{Affine, Labels},
};
use crate::{
    DetectionSubject, ExplainError, Result, SegmentationSubject, Subject,
    picture::{image, tensor},
    question::gradient,
};

/// Search for one patch that makes what is around it wrong, in any of several images and at any place: Brown et al., 2017,
/// <https://arxiv.org/abs/1712.09665>; of segmentation, Nesti et al., WACV 2022, <https://arxiv.org/abs/2108.06179>; of detectors, DPatch: Liu et
/// al., 2018, <https://arxiv.org/abs/1806.02299>, and Thys et al., CVPRW 2019, <https://arxiv.org/abs/1904.08653>. Each step looks at one
/// image with the patch at a random place, perhaps mirrored, which in the mean is the expectation over placements; the pixels below the patch,
/// and objects of which it covers more than half, do not count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patch {
    /// Width and height of the patch in pixels.
    pub side: u32,
    /// Steps, each of one image.
    pub steps: usize,
    /// Size of a step, in 255ths.
    pub step_size: f64,
    /// Seed of the places, and of the boxes that a detector's training loss samples.
    pub seed: u64,
}

impl Patch {
    /// A search with steps of 4 of 255.
    pub fn new(side: u32, steps: usize) -> Self {
        Self { side, steps, step_size: 4.0, seed: 0 }
    }

    /// Finds the patch for the pixels of images, whose values are from 0 to 1, and their goals.
    ///
    /// # Errors
    /// If an option is out of range, an image is not larger than the patch, or an image or a goal does not fit.
    pub fn find<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        samples: &[(Image, Goal)],
    ) -> Result<Image> {
        self.check(samples)?;
        for (picture, goal) in samples {
            subject.input(picture)?;
            Labels::new(subject.classes(), picture, goal)?;
        }
        let affine = Affine::new(subject.normalize(), subject.device());
        let attack = Attack::new(AttackKind::Pgd, 1.0);
        self.search(subject.device(), samples, |x, (picture, goal), covered, _| {
            let goal = goal.map(|labels| covered.hidden(labels));
            let loss = match Labels::new(subject.classes(), picture, &goal) {
                Ok(labels) => labels.loss(subject.device()),
                Err(ExplainError::EmptyMask) => return Ok(None),
                Err(error) => return Err(error),
            };
            Ok(Some(loss.forward(&attack, subject.logits(affine.forward(x)), 0)))
        })
    }

    /// Finds the patch for the objects of images, whose values are from 0 to 1, and their goals, by the gradients of the detector's training
    /// loss; [`ObjectAttack::goal`](crate::ObjectAttack::goal) makes goals.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_on_objects<M: DetectionNetwork>(
        &self,
        subject: &DetectionSubject<M>,
        samples: &[(Image, Goal<Instances>)],
    ) -> Result<Image> {
        self.check(samples)?;
        for (picture, goal) in samples {
            subject.input(picture)?;
            let (found, expected) = (goal.annotations().size(), picture.size());
            if found != expected {
                return Err(ExplainError::Size { what: "the image of the objects", found, expected });
            }
        }
        self.search(subject.device(), samples, |x, (_, goal), covered, step| {
            let all = goal.annotations().len();
            let goal = goal.map(|objects| covered.visible(objects));
            let objects = goal.annotations();
            // An image without objects is a goal of its own.
            if all > 0 && objects.is_empty() {
                return Ok(None);
            }
            let loss = subject.loss(x, objects, Sampling::Random { seed: self.seed ^ step as u64 })?;
            Ok(Some(if goal.is_targeted() { loss.neg() } else { loss }))
        })
    }

    fn check<T>(&self, samples: &[(Image, Goal<T>)]) -> Result<()> {
        let refuse = |option, reason: String| Err(ExplainError::Option { option, reason });
        if self.side == 0 || self.steps == 0 || !(self.step_size > 0.0 && self.step_size.is_finite()) {
            return refuse("patch", "needs a side, a number of steps and a step size above 0".into());
        }
        if samples.is_empty() {
            return refuse("samples", "at least one is needed".into());
        }
        for (picture, _) in samples {
            if picture.width().min(picture.height()) <= self.side {
                return refuse(
                    "patch",
                    format!("must be smaller than each image; {}x{} is too small", picture.width(), picture.height()),
                );
            }
            Attack::new(AttackKind::Pgd, 1.0).check(picture)?;
        }
        Ok(())
    }

    /// Climbs the loss of images with the patch on them, where there is one: at some places the patch covers all that counts.
    fn search<T>(
        &self,
        device: &Device,
        samples: &[(Image, Goal<T>)],
        loss: impl Fn(Tensor<4>, &(Image, Goal<T>), &Covered, usize) -> Result<Option<Tensor<1>>>,
    ) -> Result<Image> {
        let (side, channels) = (self.side as usize, samples[0].0.channels());
        let mut patch = Tensor::<4>::full([1, channels, side, side], 0.5, device);
        for step in 0..self.steps {
            let sample = &samples[step % samples.len()];
            let picture = &sample.0;
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(step as u64);
            let mut place = |side: u32| rng.random_range(0..=side - self.side);
            let [left, top] = [place(picture.width()), place(picture.height())];
            let is_mirrored = rng.random::<bool>();
            let covered = Covered { left, top, side: self.side };
            let leaf = patch.clone().autodiff().require_grad();
            let shown = if is_mirrored { leaf.clone().flip([3]) } else { leaf.clone() };
            let x = covered.paste(tensor(picture.clone(), device), shown);
            if let Some(loss) = loss(x, sample, &covered, step)? {
                let gradient = gradient(&leaf, &loss, "the patch")?;
                patch = (patch + gradient.sign().mul_scalar(self.step_size / 255.0)).clamp(0.0, 1.0);
            }
        }
        image(patch)
    }
}

/// Puts a patch onto an image, with its top left corner at a pixel.
///
/// # Errors
/// [`ExplainError::Option`] if it does not lie within the image, or has other channels.
pub fn with_patch(picture: &Image, patch: &Image, left: u32, top: u32) -> Result<Image> {
    let fits = |at: u32, side: u32, whole: u32| at.checked_add(side).is_some_and(|end| end <= whole);
    let is_inside = fits(left, patch.width(), picture.width()) && fits(top, patch.height(), picture.height());
    if !is_inside || patch.channels() != picture.channels() {
        let reason = "must lie within the image and have its channels".into();
        return Err(ExplainError::Option { option: "patch", reason });
    }
    let mut changed = picture.clone();
    let (line, whole) = (patch.width() as usize * patch.channels(), picture.width() as usize * picture.channels());
    for (row, values) in patch.as_slice().chunks_exact(line).enumerate() {
        let from = (top as usize + row) * whole + left as usize * patch.channels();
        changed.as_mut_slice()[from..from + line].copy_from_slice(values);
    }
    Ok(changed)
}

/// Pixels below a patch.
struct Covered {
    left: u32,
    top: u32,
    side: u32,
}

impl Covered {
    /// The labels, of which those below the patch do not count.
    fn hidden(&self, labels: &LabelMap) -> LabelMap {
        let mut labels = labels.clone();
        let width = labels.width();
        for (index, label) in labels.as_mut_slice().iter_mut().enumerate() {
            let (x, y) = (index as u32 % width.max(1), index as u32 / width.max(1));
            if (self.left..self.left + self.side).contains(&x) && (self.top..self.top + self.side).contains(&y) {
                *label = Goal::IGNORED;
            }
        }
        labels
    }

    /// The objects of which the patch covers no more than half.
    fn visible(&self, objects: &Instances) -> Instances {
        let [left, top, right, bottom] =
            [self.left, self.top, self.left + self.side, self.top + self.side].map(f64::from);
        let is_visible = |object: &&Instance| {
            let [x1, y1, x2, y2] = object.bbox.xyxy();
            let [width, height] = [x2.min(right) - x1.max(left), y2.min(bottom) - y1.max(top)];
            width.max(0.0) * height.max(0.0) <= 0.5 * object.bbox.area()
        };
        let kept = objects.as_slice().iter().filter(is_visible).cloned().collect();
        Instances::new(objects.width(), objects.height(), kept).expect("masks have the size that they had")
    }

    /// The image with the patch on it, with the patch's gradients.
    fn paste(&self, x: Tensor<4>, patch: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let [left, top, side] = [self.left, self.top, self.side].map(|value| value as usize);
        let x = x.autodiff();
        let part = |dim: usize, from: usize, to: usize, x: &Tensor<4>| {
            (to > from).then(|| x.clone().narrow(dim, from, to - from))
        };
        let rows = x.clone().narrow(2, top, side);
        let middle = [part(3, 0, left, &rows), Some(patch), part(3, left + side, width, &rows)];
        let middle = Tensor::cat(middle.into_iter().flatten().collect(), 3);
        let all = [part(2, 0, top, &x), Some(middle), part(2, top + side, height, &x)];
        Tensor::cat(all.into_iter().flatten().collect(), 2)
    }
}
