//! Search for the smallest change that is enough.

use burn::tensor::Tensor;
use segkiln_data::Image;
use segkiln_models::SegmentationNetwork;

use super::{
    Attack, AttackKind, Attacked, Goal, PerturbationNorm,
    pixels::{Affine, Labels},
};
use crate::{
    ExplainError, Result, SegmentationSubject, Subject,
    picture::{image, tensor},
    question::gradient,
    subject::{finite, values},
};

/// Search for a small change that reaches a goal, with no budget: DeepFool, Moosavi-Dezfooli et al., CVPR 2016,
/// <https://arxiv.org/abs/1511.04599>, for the pixels of an image together. Each step goes as far as the mean margin of the pixels that
/// resist is from 0, were the network linear; of the line from the image to the end, the nearest point that reaches the goal is taken.
///
/// The change is an upper bound of the smallest one.
///
/// ```no_run
/// # use segkiln_core::LabelMap;
/// # use segkiln_data::Image;
/// use segkiln_explain::{Goal, SegmentationSubject, SmallestChange};
/// # fn f<M: segkiln_models::SegmentationNetwork>(
/// #     subject: &SegmentationSubject<M>, image: &Image, labels: LabelMap,
/// # ) -> segkiln_explain::Result<()> {
/// if let Some(found) = SmallestChange::default().find(subject, image, &Goal::Away(labels))? {
///     println!("a change of {:.2} of 255 steps is enough", found.linf);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmallestChange {
    /// Norm in which the size of the change is measured.
    pub norm: PerturbationNorm,
    /// Share of the pixels that count that must reach the goal, above 0 and up to 1.
    pub share: f64,
    /// Most steps.
    pub steps: usize,
    /// Share of a step by which it goes beyond the estimated boundary.
    pub overshoot: f64,
}

impl Default for SmallestChange {
    /// The largest change of a value, nine pixels of ten, 50 steps and an overshoot of 0.02.
    fn default() -> Self {
        Self { norm: PerturbationNorm::Linf, share: 0.9, steps: 50, overshoot: 0.02 }
    }
}

/// Largest step, where a gradient is nearly flat: a share of the range from black to white.
const LARGEST: f64 = 0.1;
/// Halvings of the line from the image to the change.
const HALVINGS: usize = 10;

impl SmallestChange {
    /// Changes an image, whose values are from 0 to 1, as little as it can find; none if the goal is not reached within the steps. The result
    /// is not rounded to 8 bits.
    ///
    /// # Errors
    /// If an option is out of range, or the image or the goal do not fit.
    pub fn find<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        picture: &Image,
        goal: &Goal,
    ) -> Result<Option<Attacked>> {
        let refuse = |option, reason: &str| Err(ExplainError::Option { option, reason: reason.into() });
        if !(self.share > 0.0 && self.share <= 1.0) {
            return refuse("share", "must be above 0 and at most 1");
        }
        if self.steps == 0 {
            return refuse("steps", "must be at least 1");
        }
        if !(self.overshoot >= 0.0 && self.overshoot.is_finite()) {
            return refuse("overshoot", "must be at least 0");
        }
        Attack::new(AttackKind::Pgd, 1.0).check(picture)?;
        subject.input(picture)?;
        let labels = Labels::new(subject.classes(), picture, goal)?;
        let (loss, affine) = (labels.loss(subject.device()), Affine::new(subject.normalize(), subject.device()));
        let original = tensor(picture.clone(), subject.device());
        // Above 0 where a pixel resists.
        let resistance = |x: Tensor<4>| {
            let margin = loss.margin(subject.logits(affine.forward(x)));
            if loss.is_targeted { margin.neg() } else { margin }
        };
        let resisting = |margin: &Tensor<4>| -> Result<(Tensor<4>, f64)> {
            let constant = margin.clone().detach().without_autodiff();
            finite(values(constant.clone().sum())?[0])?;
            let mask = constant.greater_equal_elem(0.0).float() * loss.mask.clone();
            let count = f64::from(values(mask.clone().sum())?[0]);
            Ok((mask, count))
        };
        // 10 of 100 may resist a share of 0.9, although 1 - 0.9 is rounded to less than 0.1.
        let is_reached = |count: f64| count <= (1.0 - self.share) * loss.pixels + 1e-6;

        let mut x = original.clone();
        let mut steps = 0;
        loop {
            let leaf = x.clone().autodiff().require_grad();
            let margin = resistance(leaf.clone());
            let (mask, count) = resisting(&margin)?;
            if is_reached(count) {
                break;
            }
            if steps == self.steps {
                return Ok(None);
            }
            steps += 1;
            let mean = (margin * mask).sum().div_scalar(count);
            let gradient = gradient(&leaf, &mean, "the image")?;
            let distance = f64::from(values(mean.without_autodiff())?[0]).max(1e-6) * (1.0 + self.overshoot);
            let (direction, length) = match self.norm {
                PerturbationNorm::Linf => (gradient.clone().sign(), gradient.abs().sum()),
                PerturbationNorm::L2 => (gradient.clone(), gradient.square().sum()),
            };
            let length = f64::from(values(length)?[0]);
            if length == 0.0 {
                return Ok(None);
            }
            let strongest = f64::from(values(direction.clone().abs().max())?[0]).max(f64::MIN_POSITIVE);
            let size = (distance / length).min(LARGEST / strongest);
            x = (x - direction.mul_scalar(size)).clamp(0.0, 1.0);
        }
        let change = x - original.clone();
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..if steps == 0 { 0 } else { HALVINGS } {
            let middle = (low + high) / 2.0;
            let (_, count) = resisting(&resistance(original.clone() + change.clone().mul_scalar(middle)))?;
            if is_reached(count) { high = middle } else { low = middle }
        }
        let changed = image((original + change.mul_scalar(high)).clamp(0.0, 1.0))?;
        labels.attacked(subject, picture, changed).map(Some)
    }
}
