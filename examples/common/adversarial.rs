//! Flags of adversarial training.

use segkiln::{
    explain::{AdversarialTraining, Attack, AttackKind},
    models::ModelCard,
    train::SegmentationTask,
};

use crate::common::Failure;

/// Steps of each attack.
const STEPS: usize = 3;

#[derive(clap::Args)]
pub struct Adversarial {
    /// Learn from attacked images: fgsm, pgd, segpgd or cospgd
    #[arg(long)]
    adversarial: Option<String>,
    /// Largest change of a value in attacked images, in 255ths
    #[arg(long, default_value_t = 4.0, requires = "adversarial")]
    epsilon: f64,
    /// Share of each batch that is attacked
    #[arg(long, default_value_t = 0.5, requires = "adversarial")]
    share: f64,
}

impl Adversarial {
    /// The task for a network, with attacks where the flags ask for them.
    pub fn task(&self, card: &ModelCard) -> Result<SegmentationTask, Failure> {
        let task = SegmentationTask::new(card.clone());
        let Some(name) = &self.adversarial else { return Ok(task) };
        let kind = AttackKind::by_name(name).ok_or_else(|| {
            let known = AttackKind::ALL.map(|(name, _)| name).join(", ");
            format!("there is no attack {name:?}; the attacks are {known}")
        })?;
        let attack = Attack::new(kind, self.epsilon);
        let attack = match kind {
            AttackKind::Fgsm => attack,
            _ => Attack { random_start: true, steps: STEPS, step_size: self.epsilon / 2.0, ..attack },
        };
        Ok(task.with_hook(AdversarialTraining::new(attack, self.share, &card.normalize, &card.classes)?))
    }
}
