use burn::tensor::{Int, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segkiln_core::LabelMap;
use segkiln_data::Image;
use segkiln_models::SegmentationNetwork;

use crate::{
    ExplainError, Result, SegmentationSubject, Subject,
    methods::normal,
    picture::{image, tensor},
    question::gradient,
    segmentation::probabilities,
    subject::{finite, values},
};

/// Which small change of an image is looked for.
///
/// ```
/// use segkiln_explain::{Attack, AttackKind};
///
/// let attack = Attack::new(AttackKind::SegPgd, 8.0);
/// assert_eq!((attack.name(), attack.steps, attack.step_size), ("segpgd", 10, 2.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attack {
    /// How the loss is climbed.
    pub kind: AttackKind,
    /// How the size of a change is measured.
    pub norm: Norm,
    /// Largest size of a change, in 255ths of the range from black to white: 8 is eight steps of a picture of 8 bits.
    pub epsilon: f64,
    /// Number of steps; 1 of FGSM.
    pub steps: usize,
    /// Size of a step, in the unit of `epsilon`.
    pub step_size: f64,
    /// Share of the direction of the steps before; 0 is none. With it PGD is MI-FGSM: Dong et al., CVPR 2018,
    /// <https://arxiv.org/abs/1710.06081>.
    pub momentum: f64,
    /// Whether the first step begins at a random change.
    pub random_start: bool,
    /// Number of attempts, of which the one with the largest loss counts; all after the first begin at random.
    pub restarts: usize,
    /// Seed of random beginnings.
    pub seed: u64,
    /// Whether the result is rounded to 8 bits, within the budget, so that it can be saved as a picture.
    pub rounded: bool,
}

/// How an attack climbs.
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

/// How the size of a change is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Norm {
    /// Largest change of a value.
    #[default]
    Linf,
    /// Root of the sum of the squares of all changes.
    L2,
}

/// Goal of an attack. Pixels with the label [`IGNORED`](Self::IGNORED), or the label that the network's classes ignore, do not
/// count.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// Pixels lose their labels: the annotated ones, or those that the network gives.
    Away(LabelMap),
    /// Pixels get these labels.
    Toward(LabelMap),
}

impl Goal {
    /// Label of pixels that do not count.
    pub const IGNORED: u32 = u32::MAX;

    fn labels(&self) -> &LabelMap {
        match self {
            Self::Away(labels) | Self::Toward(labels) => labels,
        }
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
            norm: Norm::Linf,
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
        let most = match self.norm {
            Norm::Linf => 255.0,
            Norm::L2 => 255.0 * (image.as_slice().len() as f64).sqrt(),
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
        if image.as_slice().iter().any(|value| !(0.0..=1.0).contains(value)) {
            return refuse(
                "image",
                "has values outside of 0 to 1, the range from black to white that budgets are shares of",
            );
        }
        Ok(())
    }

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
        let labels = Labels::new(subject, picture, goal)?;
        let original = tensor(picture.clone(), subject.device());
        let affine = Affine::new(subject);
        let loss = |x: Tensor<4>, step: usize| labels.loss(self, subject.logits(affine.forward(x)), step);

        let mut best: Option<(f32, Tensor<4>)> = None;
        for attempt in 0..self.restarts {
            let mut x = original.clone();
            if self.random_start || attempt > 0 {
                x = self.project(x + self.random_change(attempt, &original), &original);
            }
            let mut direction = original.zeros_like();
            for step in 0..self.steps {
                let leaf = x.clone().autodiff().require_grad();
                let mut gradient = gradient(&leaf, &loss(leaf.clone(), step), "the image")?;
                if self.momentum > 0.0 {
                    let mean = gradient.clone().abs().mean().clamp_min(f32::MIN_POSITIVE).reshape([1, 1, 1, 1]);
                    gradient = gradient / mean + direction.mul_scalar(self.momentum);
                    direction = gradient.clone();
                }
                let size = self.step_size / 255.0;
                let change = match self.norm {
                    Norm::Linf => gradient.sign().mul_scalar(size),
                    Norm::L2 => {
                        let norm = norm(&gradient)? + 1e-10;
                        gradient.mul_scalar(size / norm)
                    }
                };
                x = self.project(x + change, &original);
            }
            let reached = match self.restarts {
                1 => 0.0,
                _ => finite(values(loss(x.clone(), self.steps - 1))?[0])?,
            };
            if best.as_ref().is_none_or(|(most, _)| reached > *most) {
                best = Some((reached, x));
            }
        }
        let (_, x) = best.expect("there is at least one attempt");
        let mut changed = image(x)?;
        if self.rounded {
            self.round(&mut changed, picture);
        }
        let [before, after] = [picture, &changed].map(|picture| labels.probabilities(subject, picture));
        let ((score_before, before), (score_after, after)) = (before?, after?);
        let counted = labels.counts.iter().filter(|counts| **counts > 0.0).count();
        let others = before.iter().zip(&after).zip(&labels.counts);
        let others = others.filter(|((before, after), counts)| **counts > 0.0 && before != after).count();
        let changes = || changed.as_slice().iter().zip(picture.as_slice()).map(|(a, b)| f64::from(a - b).abs() * 255.0);
        Ok(Attacked {
            linf: changes().fold(0.0, f64::max),
            l2: changes().map(|change| change * change).sum::<f64>().sqrt(),
            score_before,
            score_after,
            changed: others as f64 / counted.max(1) as f64,
            image: changed,
        })
    }

    /// Brings a changed image back into the budget, and into the range from black to white.
    fn project(&self, x: Tensor<4>, original: &Tensor<4>) -> Tensor<4> {
        let epsilon = self.epsilon / 255.0;
        let change = x - original.clone();
        let change = match self.norm {
            Norm::Linf => change.clamp(-epsilon, epsilon),
            Norm::L2 => {
                let norm = change.clone().square().sum().sqrt().clamp_min(f32::MIN_POSITIVE);
                let factor = norm.recip().mul_scalar(epsilon).clamp_max(1.0);
                change * factor.reshape([1, 1, 1, 1])
            }
        };
        (original.clone() + change).clamp(0.0, 1.0)
    }

    /// Uniform in the budget's cube; in the ball in a random direction, as far as torchattacks goes.
    fn random_change(&self, attempt: usize, original: &Tensor<4>) -> Tensor<4> {
        let epsilon = self.epsilon / 255.0;
        let count = original.shape().num_elements();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(attempt as u64);
        let change: Vec<f32> = match self.norm {
            Norm::Linf => (0..count).map(|_| (epsilon * (2.0 * rng.random::<f64>() - 1.0)) as f32).collect(),
            Norm::L2 => {
                let direction = normal(self.seed ^ 0x5eed, attempt as u64, count, 1.0);
                let length = direction.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                let scale = rng.random::<f64>() * epsilon / length.max(f64::MIN_POSITIVE);
                direction.into_iter().map(|value| (f64::from(value) * scale) as f32).collect()
            }
        };
        Tensor::from_data(TensorData::new(change, original.dims()), &original.device())
    }

    /// Rounds to whole 255ths, and not out of the budget.
    fn round(&self, changed: &mut Image, original: &Image) {
        const TOLERANCE: f32 = 1e-3;
        for (value, was) in changed.as_mut_slice().iter_mut().zip(original.as_slice()) {
            let (now, was) = (*value * 255.0, was * 255.0);
            let rounded = match self.norm {
                Norm::Linf => {
                    let epsilon = self.epsilon as f32 + TOLERANCE;
                    now.round().min((was + epsilon).floor()).max((was - epsilon).ceil())
                }
                // Never farther away than it is.
                Norm::L2 if now > was => (now + TOLERANCE).floor().max(was.floor()),
                Norm::L2 => (now - TOLERANCE).ceil().min(was.ceil()),
            };
            *value = rounded.clamp(0.0, 255.0) / 255.0;
        }
    }
}

fn norm(x: &Tensor<4>) -> Result<f64> {
    Ok(f64::from(values(x.clone().square().sum().sqrt())?[0]))
}

/// Normalization as a part of the network, which the gradient passes.
struct Affine {
    mean: Tensor<4>,
    std: Tensor<4>,
}

impl Affine {
    fn new<M: SegmentationNetwork>(subject: &SegmentationSubject<M>) -> Self {
        let normalize = subject.normalize();
        let by_channel =
            |values: &[f32]| Tensor::<1>::from_floats(values, subject.device()).reshape([1, values.len(), 1, 1]);
        Self { mean: by_channel(normalize.mean()), std: by_channel(normalize.std()) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        (x - self.mean.clone()) / self.std.clone()
    }
}

/// Labels on the device, and which pixels count.
struct Labels {
    labels: Tensor<4, Int>,
    mask: Tensor<4>,
    host: Vec<u32>,
    counts: Vec<f32>,
    pixels: usize,
    is_targeted: bool,
}

impl Labels {
    fn new<M: SegmentationNetwork>(subject: &SegmentationSubject<M>, image: &Image, goal: &Goal) -> Result<Self> {
        let map = goal.labels();
        let (found, expected) = ([map.width(), map.height()], [image.width(), image.height()]);
        if found != expected {
            return Err(ExplainError::Size { what: "the map of labels", found, expected });
        }
        let classes = subject.classes();
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
        let shape = [1, 1, image.height() as usize, image.width() as usize];
        let numbers: Vec<i32> = host.iter().map(|label| *label as i32).collect();
        let device = subject.device();
        Ok(Self {
            labels: Tensor::from_data(TensorData::new(numbers, shape), device),
            mask: Tensor::from_data(TensorData::new(counts.clone(), shape), device),
            host,
            counts,
            pixels,
            is_targeted: matches!(goal, Goal::Toward(_)),
        })
    }

    /// The loss that an attack climbs, `[1]`: the mean over the pixels that count.
    fn loss(&self, attack: &Attack, logits: Tensor<4>, step: usize) -> Tensor<1> {
        let constant = logits.clone().detach().without_autodiff();
        let loss = SegmentationSubject::<segkiln_models::SegmentationModel>::cross_entropy(logits, self.labels.clone());
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
        let mean = (loss * self.mask.clone()).sum().div_scalar(self.pixels as f64);
        if self.is_targeted { mean.neg() } else { mean }
    }

    /// 1 where the most likely class is the label, else 0, `[1, 1, h, w]`.
    fn is_met(&self, logits: Tensor<4>) -> Tensor<4> {
        let found = match logits.dims()[1] {
            1 => logits.greater_elem(0.0).int(),
            _ => logits.argmax(1),
        };
        found.equal(self.labels.clone()).float()
    }

    /// Cosine of the sigmoids of the logits and the label's one-hot vector: the label's sigmoid by the length of all.
    fn cosine(&self, logits: Tensor<4>) -> Tensor<4> {
        let logits = match logits.dims()[1] {
            1 => Tensor::cat(vec![logits.clone().neg(), logits], 1),
            _ => logits,
        };
        let likely = burn::tensor::activation::sigmoid(logits);
        let length = likely.clone().square().sum_dim(1).sqrt().clamp_min(1e-8);
        likely.gather(1, self.labels.clone()) / length
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
        near(rounded(Attack { norm: Norm::L2, ..Attack::new(AttackKind::Pgd, 8.0) }), [7.0, 93.0, 108.0, 252.0]);
    }
}
