//! A sticker that fools a network wherever it is put.

use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segkiln_core::LabelMap;
use segkiln_data::Image;
use segkiln_models::SegmentationNetwork;

use super::{
    Attack, AttackKind, Goal,
    pixels::{Affine, Labels},
};
use crate::{
    ExplainError, Result, SegmentationSubject, Subject,
    picture::{image, tensor},
    question::gradient,
};

/// Search for one patch that makes the pixels around it wrong, in any of several images and at any place: Brown et al., 2017,
/// <https://arxiv.org/abs/1712.09665>; of segmentation, Nesti et al., WACV 2022, <https://arxiv.org/abs/2108.06179>. Each step looks at one
/// image with the patch at a random place, perhaps mirrored, which in the mean is the expectation over placements; the pixels below the patch
/// do not count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patch {
    /// Width and height of the patch in pixels.
    pub side: u32,
    /// Steps, each of one image.
    pub steps: usize,
    /// Size of a step, in 255ths.
    pub step_size: f64,
    /// Seed of the places.
    pub seed: u64,
}

impl Patch {
    /// A search with steps of 4 of 255.
    pub fn new(side: u32, steps: usize) -> Self {
        Self { side, steps, step_size: 4.0, seed: 0 }
    }

    /// Finds the patch on images, whose values are from 0 to 1, and their goals.
    ///
    /// # Errors
    /// If an option is out of range, an image is not larger than the patch, or an image or a goal does not fit.
    pub fn find<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        samples: &[(Image, Goal)],
    ) -> Result<Image> {
        let refuse = |option, reason: String| Err(ExplainError::Option { option, reason });
        if self.side == 0 || self.steps == 0 || !(self.step_size > 0.0 && self.step_size.is_finite()) {
            return refuse("patch", "needs a side, a number of steps and a step size above 0".into());
        }
        let Some((first, _)) = samples.first() else { return refuse("samples", "at least one is needed".into()) };
        let attack = Attack::new(AttackKind::Pgd, 1.0);
        for (picture, goal) in samples {
            if picture.width().min(picture.height()) <= self.side {
                return refuse(
                    "patch",
                    format!("must be smaller than each image; {}x{} is too small", picture.width(), picture.height()),
                );
            }
            attack.check(picture)?;
            subject.input(picture)?;
            Labels::new(subject.classes(), picture, goal)?;
        }
        let (side, channels) = (self.side as usize, first.channels());
        let affine = Affine::new(subject.normalize(), subject.device());
        let mut patch = Tensor::<4>::full([1, channels, side, side], 0.5, subject.device());
        for step in 0..self.steps {
            let (picture, goal) = &samples[step % samples.len()];
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(step as u64);
            let mut place = |side: u32| rng.random_range(0..=side - self.side);
            let [left, top] = [place(picture.width()), place(picture.height())];
            let is_mirrored = rng.random::<bool>();
            let covered = Covered { left, top, side: self.side };
            let hidden = covered.hidden(goal.annotations());
            let goal = if goal.is_targeted() { Goal::Toward(hidden) } else { Goal::Away(hidden) };
            let loss = match Labels::new(subject.classes(), picture, &goal) {
                Ok(labels) => labels.loss(subject.device()),
                // At this place the patch covers all pixels that count.
                Err(ExplainError::EmptyMask) => continue,
                Err(error) => return Err(error),
            };
            let leaf = patch.clone().autodiff().require_grad();
            let shown = if is_mirrored { leaf.clone().flip([3]) } else { leaf.clone() };
            let x = covered.paste(tensor(picture.clone(), subject.device()), shown);
            let loss = loss.forward(&attack, subject.logits(affine.forward(x)), 0);
            let gradient = gradient(&leaf, &loss, "the patch")?;
            patch = (patch + gradient.sign().mul_scalar(self.step_size / 255.0)).clamp(0.0, 1.0);
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
