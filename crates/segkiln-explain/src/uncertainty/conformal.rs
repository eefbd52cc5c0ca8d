use segkiln_core::LabelMap;

use crate::{ExplainError, Result};

/// A threshold whose risk on new images is bounded: Angelopoulos et al., "Conformal Risk Control", ICLR 2024,
/// <https://arxiv.org/abs/2208.02814>.
///
/// The guarantee is for the mean over images like those of the calibration (exchangeable), which the network did not learn from, not
/// for each image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RiskControl {
    /// The threshold, from 0 to 1.
    pub threshold: f64,
    /// Bound of the mean risk.
    pub alpha: f64,
    /// Mean risk of the calibration images at the threshold.
    pub risk: f64,
    /// Number of calibration images.
    pub images: usize,
}

impl RiskControl {
    /// Finds the largest threshold whose risk is at most `alpha`, of the thresholds 0, 0.001, … 1. The risk of an image, from 0 to 1,
    /// must not fall where the threshold rises: [`pixel_set_risk`] and [`missed_risk`] are such risks.
    ///
    /// # Errors
    /// [`ExplainError::Calibration`] if there are too few images for `alpha`, [`ExplainError::Risk`] if no threshold keeps it.
    pub fn fit(images: usize, alpha: f64, risk: impl Fn(usize, f64) -> f64) -> Result<Self> {
        if !(alpha > 0.0 && alpha < 1.0) {
            return Err(ExplainError::Option {
                option: "alpha",
                reason: format!("must be between 0 and 1, is {alpha}"),
            });
        }
        // (n R + 1) / (n + 1) ≤ α
        let least = (1.0 / alpha - 1.0).ceil().max(1.0) as usize;
        if images < least {
            return Err(ExplainError::Calibration { images, alpha, least });
        }
        const STEPS: usize = 1000;
        let n = images as f64;
        let mean = |step: usize| {
            let threshold = step as f64 / STEPS as f64;
            (0..images).map(|image| risk(image, threshold).clamp(0.0, 1.0)).sum::<f64>() / n
        };
        let keeps = |risk: f64| (n * risk + 1.0) / (n + 1.0) <= alpha;
        if !keeps(mean(0)) {
            return Err(ExplainError::Risk { alpha, risk: (n * mean(0) + 1.0) / (n + 1.0) });
        }
        // The last step that keeps it.
        let (mut low, mut high) = (0, STEPS + 1);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if keeps(mean(middle)) { low = middle } else { high = middle }
        }
        Ok(Self { threshold: low as f64 / STEPS as f64, alpha, risk: mean(low), images })
    }
}

/// The classes that a pixel may have: those with a probability of at least the threshold.
pub fn pixel_set(probabilities: impl IntoIterator<Item = f32>, threshold: f64) -> Vec<usize> {
    let classes = probabilities.into_iter().enumerate();
    classes.filter(|(_, probability)| f64::from(*probability) >= threshold).map(|(class, _)| class).collect()
}

/// Share of an image's pixels whose [set](pixel_set) lacks the true class. Probabilities `[class][row][column]`.
pub fn pixel_set_risk(probabilities: &[f32], labels: &LabelMap, ignore_index: Option<u32>, threshold: f64) -> f64 {
    share(probabilities, labels, threshold, |label| ignore_index != Some(label))
}

/// Share of an image's pixels of a class that a map of the pixels with a probability of at least the threshold misses; 0 where there is
/// none. Probabilities `[class][row][column]`.
pub fn missed_risk(probabilities: &[f32], labels: &LabelMap, class: u32, threshold: f64) -> f64 {
    share(probabilities, labels, threshold, |label| label == class)
}

fn share(probabilities: &[f32], labels: &LabelMap, threshold: f64, counts: impl Fn(u32) -> bool) -> f64 {
    let pixels = labels.as_slice().len();
    let (mut all, mut missed) = (0u64, 0u64);
    for (pixel, label) in labels.as_slice().iter().enumerate().filter(|(_, label)| counts(**label)) {
        let probability = probabilities.get(*label as usize * pixels + pixel).copied().unwrap_or(0.0);
        all += 1;
        missed += u64::from(f64::from(probability) < threshold);
    }
    missed as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images whose pixels of class 1 have probabilities that differ from image to image.
    fn image(index: u64) -> (Vec<f32>, LabelMap) {
        let mut state = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f32 / (1u64 << 53) as f32
        };
        for _ in 0..8 {
            random();
        }
        let level = random();
        let foreground: Vec<f32> = (0..64).map(|_| (0.7 * level + 0.5 * random()).min(1.0)).collect();
        let labels = foreground.iter().map(|probability| u32::from(random() < *probability)).collect();
        let background = foreground.iter().map(|probability| 1.0 - probability);
        (background.chain(foreground.iter().copied()).collect(), LabelMap::new(64, 1, labels).unwrap())
    }

    #[test]
    fn the_risk_holds_on_new_images() {
        for alpha in [0.05, 0.2] {
            for is_set in [true, false] {
                let risk = |(probabilities, labels): &(Vec<f32>, LabelMap), threshold| match is_set {
                    true => pixel_set_risk(probabilities, labels, None, threshold),
                    false => missed_risk(probabilities, labels, 1, threshold),
                };
                // The guarantee is a mean over calibrations too.
                let (mut mean, mut trials) = (0.0, 0.0);
                for trial in 0..40 {
                    let images: Vec<_> = (0..200).map(|index| image(1 + trial * 1000 + index)).collect();
                    let (calibration, held_out) = images.split_at(100);
                    let control =
                        RiskControl::fit(100, alpha, |index, threshold| risk(&calibration[index], threshold)).unwrap();
                    mean += held_out.iter().map(|image| risk(image, control.threshold)).sum::<f64>() / 100.0;
                    trials += 1.0;
                }
                mean /= trials;
                assert!(mean <= alpha + 0.005, "{mean} for {alpha}");
                // And is not bought by a threshold of nothing.
                assert!(mean >= alpha - 0.03, "{mean} for {alpha}");
            }
        }
    }

    #[test]
    fn too_few_images_are_refused() {
        let error = RiskControl::fit(18, 0.05, |_, _| 0.0).unwrap_err().to_string();
        assert!(error.contains("at least 19 images"), "{error}");
        assert!(RiskControl::fit(19, 0.05, |_, _| 0.0).is_ok());
        assert!(matches!(RiskControl::fit(100, 0.05, |_, _| 1.0), Err(ExplainError::Risk { .. })));
        assert!(RiskControl::fit(100, 1.5, |_, _| 0.0).is_err());
    }

    #[test]
    fn sets_hold_what_is_likely() {
        assert_eq!(pixel_set([0.1, 0.6, 0.3], 0.3), [1, 2]);
        assert!(pixel_set([0.1], 0.3).is_empty());
    }
}
