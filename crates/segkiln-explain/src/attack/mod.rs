//! Small changes of images that fool a network.

mod objects;
mod patch;
mod pixels;
mod smallest;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segkiln_core::LabelMap;
use segkiln_data::Image;

use crate::{
    ExplainError, Result,
    methods::normal,
    picture::{image, tensor},
    question::gradient,
    subject::{finite, values},
};

pub use objects::{AttackedObjects, ObjectAttack};
pub use patch::{Patch, with_patch};
pub(crate) use pixels::Affine;
#[cfg(feature = "train")]
pub(crate) use pixels::PixelLoss;
pub use smallest::SmallestChange;

/// Search for a small change of an image that fools a network.
///
/// ```
/// use segkiln_explain::{Attack, AttackKind};
///
/// let attack = Attack::new(AttackKind::SegPgd, 8.0);
/// assert_eq!((attack.name(), attack.steps, attack.step_size), ("segpgd", 10, 2.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attack {
    /// Method of ascent.
    pub kind: AttackKind,
    /// Norm in which the size of a change is measured.
    pub norm: PerturbationNorm,
    /// Largest size of a change, in 255ths of the range from black to white: 8 is eight steps of a picture of 8 bits.
    pub epsilon: f64,
    /// Number of steps; FGSM has 1.
    pub steps: usize,
    /// Size of a step, in the unit of `epsilon`.
    pub step_size: f64,
    /// Share of the direction of the steps before; 0 is none. With it PGD is MI-FGSM: Dong et al., CVPR 2018,
    /// <https://arxiv.org/abs/1710.06081>.
    pub momentum: f64,
    /// Starts at a random change within the budget.
    pub random_start: bool,
    /// Number of attempts, of which the one with the largest loss counts; all after the first begin at random.
    pub restarts: usize,
    /// Seed of random beginnings.
    pub seed: u64,
    /// Rounds the result to 8 bits, within the budget, so that it can be saved as a picture.
    pub rounded: bool,
}

/// Method of ascent of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttackKind {
    /// One step by the sign of the gradient: Goodfellow et al., ICLR 2015, <https://arxiv.org/abs/1412.6572>.
    Fgsm,
    /// Projected gradient descent: Madry et al., ICLR 2018, <https://arxiv.org/abs/1706.06083>.
    Pgd,
    /// PGD that first looks at pixels that are still right, and more and more at those that are wrong already: Gu et al., ECCV 2022,
    /// <https://arxiv.org/abs/2207.12391>.
    SegPgd,
    /// PGD whose pixels count by how well they meet their label: Agnihotri et al., ICML 2024, <https://arxiv.org/abs/2302.02213>.
    CosPgd,
}

/// Norm in which the size of a change is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PerturbationNorm {
    /// Largest change of a value.
    #[default]
    Linf,
    /// Root of the sum of the squares of all changes.
    L2,
}

/// Goal of an attack, in annotations: of pixels a [`LabelMap`], of objects [`Instances`](segkiln_core::Instances).
///
/// Pixels with the label [`IGNORED`](Self::IGNORED), or the label that the network's classes ignore, do not count.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal<T = LabelMap> {
    /// These annotations are lost: those of a data set, or those that the network gives.
    Away(T),
    /// The network gives these annotations.
    Toward(T),
}

impl Goal {
    /// Label of pixels that do not count.
    pub const IGNORED: u32 = u32::MAX;
}

impl<T> Goal<T> {
    /// The annotations.
    pub fn annotations(&self) -> &T {
        match self {
            Self::Away(annotations) | Self::Toward(annotations) => annotations,
        }
    }

    /// The same aim with other annotations.
    pub(crate) fn map(&self, change: impl FnOnce(&T) -> T) -> Self {
        match self {
            Self::Away(annotations) => Self::Away(change(annotations)),
            Self::Toward(annotations) => Self::Toward(change(annotations)),
        }
    }

    pub(crate) fn is_targeted(&self) -> bool {
        matches!(self, Self::Toward(_))
    }
}

/// An image that was changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Attacked {
    /// The image.
    pub image: Image,
    /// Largest change of a value, in 255ths.
    pub linf: f64,
    /// Root of the sum of the squares of all changes, in 255ths.
    pub l2: f64,
    /// Mean probability of the goal's labels in the image as it was.
    pub score_before: f64,
    /// Score of the changed image: lower if pixels were to lose their labels, higher if they were to get them.
    pub score_after: f64,
    /// Share of the pixels that count that have another class than before.
    pub changed: f64,
}

impl AttackKind {
    /// All, by their names.
    pub const ALL: [(&'static str, Self); 4] =
        [("fgsm", Self::Fgsm), ("pgd", Self::Pgd), ("segpgd", Self::SegPgd), ("cospgd", Self::CosPgd)];

    /// The attack of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, kind)| kind)
    }
}

impl Attack {
    /// An attack within the L∞ norm with this budget, in 255ths: ten steps of a quarter of the budget, from the image itself; of FGSM
    /// one step of the whole budget.
    pub fn new(kind: AttackKind, epsilon: f64) -> Self {
        let (steps, step_size) = if kind == AttackKind::Fgsm { (1, epsilon) } else { (10, epsilon / 4.0) };
        Self {
            kind,
            norm: PerturbationNorm::Linf,
            epsilon,
            steps,
            step_size,
            momentum: 0.0,
            random_start: false,
            restarts: 1,
            seed: 0,
            rounded: true,
        }
    }

    /// Sets the budget of the attack, whose steps grow with it.
    pub fn with_epsilon(self, epsilon: f64) -> Self {
        let share = if self.epsilon > 0.0 { self.step_size / self.epsilon } else { 0.25 };
        Self { epsilon, step_size: share * epsilon, ..self }
    }

    /// Sets the number of steps; FGSM keeps its one.
    pub fn with_steps(self, steps: usize) -> Self {
        if self.kind == AttackKind::Fgsm { self } else { Self { steps, ..self } }
    }

    /// Name of the attack, as programs call it.
    pub fn name(&self) -> &'static str {
        AttackKind::ALL.into_iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name)
    }

    fn check(&self, image: &Image) -> Result<()> {
        self.check_options(image.as_slice().len())?;
        if image.as_slice().iter().any(|value| !(0.0..=1.0).contains(value)) {
            let reason = "has values outside of 0 to 1, the range from black to white that budgets are shares of";
            return Err(ExplainError::Option { option: "image", reason: reason.into() });
        }
        Ok(())
    }

    /// Checks the options for images of `values` values, pixels times channels.
    pub(crate) fn check_options(&self, values: usize) -> Result<()> {
        let most = match self.norm {
            PerturbationNorm::Linf => 255.0,
            PerturbationNorm::L2 => 255.0 * (values as f64).sqrt(),
        };
        if !(self.epsilon > 0.0 && self.epsilon <= most) {
            return Err(ExplainError::Budget { epsilon: self.epsilon, most });
        }
        let refuse = |option, reason: &str| Err(ExplainError::Option { option, reason: reason.into() });
        if self.steps == 0 {
            return refuse("steps", "must be at least 1");
        }
        if !(self.step_size > 0.0 && self.step_size.is_finite()) {
            return refuse("step_size", "must be above 0");
        }
        if !(self.momentum >= 0.0 && self.momentum.is_finite()) {
            return refuse("momentum", "must be at least 0");
        }
        if self.restarts == 0 {
            return refuse("restarts", "must be at least 1");
        }
        Ok(())
    }

    /// Changes a picture, whose values are from 0 to 1, so that a loss of it rises, and rounds the result where that is asked for.
    fn change(&self, picture: &Image, device: &Device, loss: impl Loss) -> Result<Image> {
        self.check(picture)?;
        let mut changed = image(self.climb(&tensor(picture.clone(), device), loss)?)?;
        if self.rounded {
            self.round(&mut changed, picture);
        }
        Ok(changed)
    }

    /// Changes images, `[n, channels, height, width]`, so that a loss of them rises. Each has the budget to itself; of several attempts the
    /// one with the largest common loss counts.
    pub(crate) fn climb(&self, original: &Tensor<4>, loss: impl Loss) -> Result<Tensor<4>> {
        let mut best: Option<(f32, Tensor<4>)> = None;
        for attempt in 0..self.restarts {
            let mut x = original.clone();
            if self.random_start || attempt > 0 {
                x = self.project(x + self.random_change(attempt, original), original);
            }
            let mut direction = original.zeros_like();
            for step in 0..self.steps {
                let leaf = x.clone().autodiff().require_grad();
                let mut gradient = gradient(&leaf, &loss(leaf.clone(), Place { attempt, step })?, "the image")?;
                if self.momentum > 0.0 {
                    let [_, channels, height, width] = gradient.dims();
                    let values = (channels * height * width) as f64;
                    let mean = each(gradient.clone().abs()).div_scalar(values).clamp_min(f32::MIN_POSITIVE);
                    gradient = gradient / mean + direction.mul_scalar(self.momentum);
                    direction = gradient.clone();
                }
                let size = self.step_size / 255.0;
                let change = match self.norm {
                    PerturbationNorm::Linf => gradient.sign().mul_scalar(size),
                    PerturbationNorm::L2 => {
                        let norm = each(gradient.clone().square()).sqrt().add_scalar(1e-10);
                        (gradient / norm).mul_scalar(size)
                    }
                };
                x = self.project(x + change, original);
            }
            let reached = match self.restarts {
                1 => 0.0,
                _ => finite(values(loss(x.clone(), Place { attempt, step: self.steps - 1 })?)?[0])?,
            };
            if best.as_ref().is_none_or(|(most, _)| reached > *most) {
                best = Some((reached, x));
            }
        }
        let (_, x) = best.expect("there is at least one attempt");
        Ok(x)
    }

    /// Brings changed images back into the budget, and into the range from black to white.
    fn project(&self, x: Tensor<4>, original: &Tensor<4>) -> Tensor<4> {
        let epsilon = self.epsilon / 255.0;
        let change = x - original.clone();
        let change = match self.norm {
            PerturbationNorm::Linf => change.clamp(-epsilon, epsilon),
            PerturbationNorm::L2 => {
                let norm = each(change.clone().square()).sqrt().clamp_min(f32::MIN_POSITIVE);
                change * norm.recip().mul_scalar(epsilon).clamp_max(1.0)
            }
        };
        (original.clone() + change).clamp(0.0, 1.0)
    }

    /// Uniform in the budget's cube; in the ball in a random direction, as far as torchattacks goes.
    fn random_change(&self, attempt: usize, original: &Tensor<4>) -> Tensor<4> {
        let epsilon = self.epsilon / 255.0;
        let [images, channels, height, width] = original.dims();
        let count = channels * height * width;
        let mut change: Vec<f32> = Vec::with_capacity(images * count);
        for image in 0..images {
            let stream = (image as u64) << 32 | attempt as u64;
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(stream);
            match self.norm {
                PerturbationNorm::Linf => {
                    change.extend((0..count).map(|_| (epsilon * (2.0 * rng.random::<f64>() - 1.0)) as f32));
                }
                PerturbationNorm::L2 => {
                    let direction = normal(self.seed ^ 0x5eed, stream, count, 1.0);
                    let length = direction.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                    let scale = rng.random::<f64>() * epsilon / length.max(f64::MIN_POSITIVE);
                    change.extend(direction.into_iter().map(|value| (f64::from(value) * scale) as f32));
                }
            }
        }
        Tensor::from_data(TensorData::new(change, original.dims()), &original.device())
    }

    /// Rounds to whole 255ths, and not out of the budget.
    fn round(&self, changed: &mut Image, original: &Image) {
        const TOLERANCE: f32 = 1e-3;
        for (value, was) in changed.as_mut_slice().iter_mut().zip(original.as_slice()) {
            let (now, was) = (*value * 255.0, was * 255.0);
            let rounded = match self.norm {
                PerturbationNorm::Linf => {
                    let epsilon = self.epsilon as f32 + TOLERANCE;
                    now.round().min((was + epsilon).floor()).max((was - epsilon).ceil())
                }
                // Never farther away than it is.
                PerturbationNorm::L2 if now > was => (now + TOLERANCE).floor().max(was.floor()),
                PerturbationNorm::L2 => (now - TOLERANCE).ceil().min(was.ceil()),
            };
            *value = rounded.clamp(0.0, 255.0) / 255.0;
        }
    }
}

/// A loss that is climbed: of images `[n, channels, height, width]` with values from 0 to 1, `[1]`.
pub(crate) trait Loss: Fn(Tensor<4>, Place) -> Result<Tensor<1>> {}

impl<F: Fn(Tensor<4>, Place) -> Result<Tensor<1>>> Loss for F {}

/// Place in an attack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Attempt, from 0.
    pub attempt: usize,
    /// Step of it, from 0.
    pub step: usize,
}

/// The sum of each image's values, `[n, 1, 1, 1]`.
fn each(x: Tensor<4>) -> Tensor<4> {
    x.sum_dim(3).sum_dim(2).sum_dim(1)
}

/// The largest change of a value, and the length of all changes, in 255ths.
fn sizes(changed: &Image, original: &Image) -> [f64; 2] {
    let changes = || changed.as_slice().iter().zip(original.as_slice()).map(|(a, b)| f64::from(a - b).abs() * 255.0);
    [changes().fold(0.0, f64::max), changes().map(|change| change * change).sum::<f64>().sqrt()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_stays_in_the_budget() {
        let original = Image::new(4, 1, 1, [0.0, 100.0, 100.5, 255.0].map(|value| value / 255.0).to_vec()).unwrap();
        let changed = || Image::new(4, 1, 1, [7.6, 92.4, 108.3, 251.5].map(|value| value / 255.0).to_vec()).unwrap();
        let rounded = |attack: Attack| {
            let mut image = changed();
            attack.round(&mut image, &original);
            image.as_slice().iter().map(|value| value * 255.0).collect::<Vec<_>>()
        };
        let near = |found: Vec<f32>, expected: [f32; 4]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?}, not {expected:?}");
        };
        near(rounded(Attack::new(AttackKind::Pgd, 8.0)), [8.0, 92.0, 108.0, 252.0]);
        near(rounded(Attack::new(AttackKind::Pgd, 7.6)), [7.0, 93.0, 108.0, 252.0]);
        near(
            rounded(Attack { norm: PerturbationNorm::L2, ..Attack::new(AttackKind::Pgd, 8.0) }),
            [7.0, 93.0, 108.0, 252.0],
        );
    }
}
