//! Flags of adversarial training.

use segkiln::explain::{Attack, AttackKind};

use crate::common::Failure;

/// Steps of each attack.
const STEPS: usize = 3;

#[derive(clap::Args)]
pub struct Adversarial {
    /// Learn from attacked images: fgsm or pgd; of pixels also segpgd or cospgd
    #[arg(long)]
    adversarial: Option<String>,
    /// Largest change of a value in attacked images, in 255ths
    #[arg(long, default_value_t = 4.0, requires = "adversarial")]
    epsilon: f64,
    /// Share of each batch that is attacked
    #[arg(long, default_value_t = 0.5, requires = "adversarial")]
    pub share: f64,
}

impl Adversarial {
    /// The attack that the flags ask for, if they ask for one.
    pub fn attack(&self) -> Result<Option<Attack>, Failure> {
        let Some(name) = &self.adversarial else { return Ok(None) };
        let kind = AttackKind::by_name(name).ok_or_else(|| {
            let known = AttackKind::ALL.map(|(name, _)| name).join(", ");
            format!("there is no attack {name:?}; the attacks are {known}")
        })?;
        let attack = Attack::new(kind, self.epsilon);
        Ok(Some(match kind {
            AttackKind::Fgsm => attack,
            _ => Attack { random_start: true, steps: STEPS, step_size: self.epsilon / 2.0, ..attack },
        }))
    }
}
