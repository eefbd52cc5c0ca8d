//! Attacks on the objects of a detector: TOG, Chow et al., TPS-ISA 2020, <https://arxiv.org/abs/2004.04320>.

use burn::tensor::Tensor;
use segkiln_core::{Classes, Detection, Instance, Instances};
use segkiln_data::Image;
use segkiln_models::detection::{DetectionNetwork, Sampling};

use super::{Attack, AttackKind, Goal, Place, sizes};
use crate::{
    DetectionSubject, ExplainError, Result, Subject,
    picture::tensor,
    subject::{finite, values},
};

/// Aim of an attack on the objects of an image; each is a [`Goal`] in objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectAttack {
    /// Objects are lost, or get another class or box: the training loss of the objects rises.
    Untargeted,
    /// No object is found: the training loss of an image without objects falls.
    Vanish,
    /// Many objects are found that are not there: the training loss of an image without objects rises.
    Fabricate,
    /// Objects get the next class, in the order of the classes: the training loss of objects with these falls.
    Mislabel,
}

impl ObjectAttack {
    /// All, by their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("tog_untargeted", Self::Untargeted),
        ("tog_vanish", Self::Vanish),
        ("tog_fabricate", Self::Fabricate),
        ("tog_mislabel", Self::Mislabel),
    ];

    /// The attack of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, attack)| attack)
    }

    /// Name of the attack, as programs call it.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, attack)| *attack == self).map_or("", |(name, _)| name)
    }

    /// The goal for the objects of an image: all of them, or the one with an index.
    ///
    /// # Errors
    /// [`ExplainError::Object`] if there is no such object; [`ExplainError::Option`] if there is no other class.
    pub fn goal(self, objects: &Instances, object: Option<usize>, classes: &Classes) -> Result<Goal<Instances>> {
        if let Some(object) = object.filter(|object| *object >= objects.len()) {
            return Err(ExplainError::Object { object, found: objects.len() });
        }
        let is_meant = |index: usize| object.is_none_or(|object| object == index);
        let all = || objects.as_slice().iter().cloned().enumerate();
        let with = |kept: Vec<Instance>| {
            Instances::new(objects.width(), objects.height(), kept).expect("masks have the size that they had")
        };
        Ok(match self {
            Self::Untargeted => {
                Goal::Away(with(all().filter(|(index, _)| is_meant(*index)).map(|(_, object)| object).collect()))
            }
            Self::Vanish => {
                Goal::Toward(with(all().filter(|(index, _)| !is_meant(*index)).map(|(_, object)| object).collect()))
            }
            Self::Fabricate => Goal::Away(with(Vec::new())),
            Self::Mislabel => {
                let foreground = classes.count().saturating_sub(1) as u32;
                if foreground < 2 {
                    let reason = "a detector with one class has no other to give its objects; take tog_vanish".into();
                    return Err(ExplainError::Option { option: "attack", reason });
                }
                let mislabeled = |(index, object): (usize, Instance)| match is_meant(index) {
                    false => object,
                    true => {
                        let other = Instance::new(object.bbox, object.label() % foreground + 1);
                        let mut other = other.expect("a class of the foreground");
                        (other.mask, other.crowd, other.difficult) = (object.mask, object.crowd, object.difficult);
                        other
                    }
                };
                Goal::Toward(with(all().map(mislabeled).collect()))
            }
        })
    }
}

/// An image that was changed to fool a detector.
#[derive(Debug, Clone, PartialEq)]
pub struct AttackedObjects {
    /// The image.
    pub image: Image,
    /// Largest change of a value, in 255ths.
    pub linf: f64,
    /// Root of the sum of the squares of all changes, in 255ths.
    pub l2: f64,
    /// Objects that are found in the image as it was, best first.
    pub before: Vec<Detection>,
    /// Objects that are found in the changed image, best first.
    pub after: Vec<Detection>,
    /// Training loss of the goal's objects in the image as it was.
    pub loss_before: f64,
    /// Training loss of the changed image: higher where objects are to be lost, lower where they are to be found.
    pub loss_after: f64,
}

impl Attack {
    /// Changes an image, whose values are from 0 to 1, to fool a detector, by the gradients of its training loss; each step samples other
    /// boxes. Only FGSM and PGD know objects.
    ///
    /// # Errors
    /// If an option is out of range, or the image or the goal do not fit.
    pub fn run_on_objects<M: DetectionNetwork>(
        &self,
        subject: &DetectionSubject<M>,
        picture: &Image,
        goal: &Goal<Instances>,
    ) -> Result<AttackedObjects> {
        self.check_objects()?;
        let objects = goal.annotations();
        let loss_of = |x: Tensor<4>, seed: u64| subject.loss(x, objects, Sampling::Random { seed });
        let loss = |x: Tensor<4>, Place { attempt, step }: Place| {
            let loss = loss_of(x, self.seed ^ (attempt as u64) << 32 ^ step as u64)?;
            Ok(if goal.is_targeted() { loss.neg() } else { loss })
        };
        let changed = self.change(picture, subject.device(), loss)?;
        let measured = |picture: &Image| -> Result<f64> {
            let x = tensor(picture.clone(), subject.device());
            Ok(f64::from(finite(values(loss_of(x, self.seed)?)?[0])?))
        };
        let [linf, l2] = sizes(&changed, picture);
        Ok(AttackedObjects {
            linf,
            l2,
            before: subject.detect(picture)?,
            after: subject.detect(&changed)?,
            loss_before: measured(picture)?,
            loss_after: measured(&changed)?,
            image: changed,
        })
    }

    /// Checks that the kind of attack is one that knows objects.
    pub(crate) fn check_objects(&self) -> Result<()> {
        match self.kind {
            AttackKind::Fgsm | AttackKind::Pgd => Ok(()),
            AttackKind::SegPgd | AttackKind::CosPgd => Err(ExplainError::Option {
                option: "attack",
                reason: format!("{} weighs pixels by their classes; take fgsm or pgd for a detector", self.name()),
            }),
        }
    }
}
