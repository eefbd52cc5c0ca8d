//! Learning rate as a function of the step.

use burn::{
    lr_scheduler::{LrScheduler, LrSchedulerRecord},
    optim::LearningRate,
};
use serde::{Deserialize, Serialize};

/// Learning rate over the steps of a training.
///
/// ```
/// use segkiln_train::schedule::{Schedule, ScheduleConfig};
///
/// let schedule = Schedule::new(ScheduleConfig::one_cycle(), 1e-2, 100);
/// assert!((schedule.at(0) - 4e-4).abs() < 1e-9); // 1/25 of the peak
/// assert!(schedule.at(29) > 9.9e-3); // the peak, after 30 % of the steps
/// assert!(schedule.at(99) < 1e-7);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleConfig {
    /// The peak at every step.
    Constant,
    /// `lr · (1 − step / steps)^power`, the DeepLab papers' schedule.
    Polynomial {
        /// 0.9 in the papers.
        power: f64,
    },
    /// Linear rise over `warmup` of the steps, then half a cosine down to `floor · lr`.
    Cosine {
        /// Share of the steps in `[0, 1)`.
        warmup: f64,
        /// Last rate as a share of the peak.
        floor: f64,
    },
    /// Linear rise from `start · lr` over `warmup` of the steps; a `gamma` of the rate from each milestone on: the schedule of
    /// torchvision's detectors.
    MultiStep {
        /// Share of the steps in `[0, 1)`.
        warmup: f64,
        /// First rate as a share of the peak.
        start: f64,
        /// Shares of the steps, rising.
        milestones: [f64; 2],
        /// Factor of the rate at each milestone.
        gamma: f64,
    },
    /// Smith's one-cycle policy as PyTorch's `OneCycleLR` computes it with cosine annealing: up from
    /// `lr / initial_divisor`, down to `lr / initial_divisor / final_divisor`.
    OneCycle {
        /// Share of the steps on the way up.
        rise: f64,
        /// Peak ÷ first rate.
        initial_divisor: f64,
        /// First rate ÷ last rate.
        final_divisor: f64,
    },
}

impl ScheduleConfig {
    /// torchvision's reference for detectors, which has 26 epochs: a rise over the first (of at most 1,000 steps), a tenth from
    /// the 17th on and again from the 23rd; in as many shares of `steps` = `[an epoch's, all]`.
    pub fn multi_step([epoch, all]: [usize; 2]) -> Self {
        let warmup = epoch.saturating_sub(1).min(1000) as f64 / all.max(1) as f64;
        Self::MultiStep { warmup, start: 1e-3, milestones: [16.0 / 26.0, 22.0 / 26.0], gamma: 0.1 }
    }

    /// One cycle with PyTorch's defaults: 30 % up, from 1/25 of the peak, down to 1/250,000.
    pub fn one_cycle() -> Self {
        Self::OneCycle { rise: 0.3, initial_divisor: 25.0, final_divisor: 1e4 }
    }
}

/// A schedule over a known number of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    config: ScheduleConfig,
    peak: f64,
    steps: usize,
    next: usize,
}

impl Schedule {
    /// `peak` is the largest learning rate, `steps` the batches of the whole training.
    pub fn new(config: ScheduleConfig, peak: f64, steps: usize) -> Self {
        Self { config, peak, steps: steps.max(1), next: 0 }
    }

    /// The learning rate of step `step`, counted from 0; past the last step that of the last.
    pub fn at(&self, step: usize) -> LearningRate {
        let step = step.min(self.steps - 1) as f64;
        let steps = self.steps as f64;
        let share = |from: f64, to: f64| if to > from { ((step - from) / (to - from)).clamp(0.0, 1.0) } else { 1.0 };
        let cosine =
            |from: f64, to: f64, share: f64| to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * share).cos());
        match self.config {
            ScheduleConfig::Constant => self.peak,
            ScheduleConfig::Polynomial { power } => self.peak * (1.0 - step / steps).powf(power),
            ScheduleConfig::Cosine { warmup, floor } => {
                let rise = (warmup * steps).round();
                if step < rise {
                    self.peak * (step + 1.0) / (rise + 1.0)
                } else {
                    cosine(self.peak, self.peak * floor, share(rise, steps - 1.0))
                }
            }
            ScheduleConfig::MultiStep { warmup, start, milestones, gamma } => {
                let rise = (warmup * steps).round();
                let warmth = if step < rise { start + (1.0 - start) * step / rise } else { 1.0 };
                let passed = milestones.iter().filter(|share| step >= (**share * steps).round()).count();
                self.peak * warmth * gamma.powi(passed as i32)
            }
            ScheduleConfig::OneCycle { rise, initial_divisor, final_divisor } => {
                let (top, last) = (rise * steps - 1.0, steps - 1.0);
                let first_rate = self.peak / initial_divisor;
                if step <= top {
                    cosine(first_rate, self.peak, share(0.0, top))
                } else {
                    cosine(self.peak, first_rate / final_divisor, share(top, last))
                }
            }
        }
    }
}

impl LrScheduler for Schedule {
    fn step(&mut self) -> LearningRate {
        let rate = self.at(self.next);
        self.next += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("next", self.next)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        self.next = record.scalar("next").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1e-9), "{a} against {b}");
    }

    #[test]
    fn multi_step_warms_up_and_falls() {
        let config = ScheduleConfig::MultiStep { warmup: 0.1, start: 0.001, milestones: [0.6, 0.9], gamma: 0.1 };
        let schedule = Schedule::new(config, 0.02, 100);
        // PyTorch's LinearLR(start_factor=0.001, total_iters=10) and MultiStepLR([60, 90])
        for (step, expected) in [(0, 2e-5), (5, 0.01001), (10, 0.02), (59, 0.02), (60, 2e-3), (90, 2e-4), (99, 2e-4)] {
            close(schedule.at(step), expected);
        }
    }

    /// `[OneCycleLR(SGD(lr=0.1), 0.1, total_steps=10).get_last_lr() …]` of PyTorch 2.15.
    #[test]
    fn one_cycle_is_pytorch_s() {
        let schedule = Schedule::new(ScheduleConfig::one_cycle(), 0.1, 10);
        let expected = [0.004, 0.052, 0.1, 0.09504846, 0.08117457, 0.0611262, 0.0388742, 0.01882583, 0.00495194, 4e-7];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((schedule.at(step) - expected).abs() < 1e-6, "step {step}: {} for {expected}", schedule.at(step));
        }
    }

    #[test]
    fn polynomial_and_cosine() {
        let schedule = Schedule::new(ScheduleConfig::Polynomial { power: 0.9 }, 0.1, 4);
        close(schedule.at(0), 0.1);
        close(schedule.at(2), 0.1 * 0.5f64.powf(0.9));
        let schedule = Schedule::new(ScheduleConfig::Cosine { warmup: 0.25, floor: 0.0 }, 1.0, 12);
        close(schedule.at(0), 0.25);
        close(schedule.at(3), 1.0);
        close(schedule.at(7), 0.5);
        assert!(schedule.at(11) < 1e-12 && schedule.at(99) < 1e-12);
        let all = Schedule::new(ScheduleConfig::one_cycle(), 1.0, 1);
        assert!(all.at(0).is_finite());
    }

    #[test]
    fn a_record_brings_the_step_back() {
        let mut schedule = Schedule::new(ScheduleConfig::one_cycle(), 0.1, 10);
        (0..4).for_each(|_| {
            schedule.step();
        });
        let mut resumed = Schedule::new(ScheduleConfig::one_cycle(), 0.1, 10);
        resumed.load_record(schedule.to_record());
        assert_eq!(schedule.step(), resumed.step());
    }
}
