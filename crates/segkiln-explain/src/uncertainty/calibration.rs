use segkiln_core::LabelMap;

use crate::{ExplainError, Result};

/// Reliability diagram, the accuracy of a network by its confidence, and its errors: Guo et al., ICML 2017,
/// <https://arxiv.org/abs/1706.04599>.
///
/// ```
/// use segkiln_core::LabelMap;
/// use segkiln_explain::uncertainty::ReliabilityDiagram;
///
/// // Two pixels of class 1 with probabilities of 0.8, one of which is class 0: right half of the time.
/// let mut calibration = ReliabilityDiagram::new(10);
/// calibration.update(&[0.2, 0.2, 0.8, 0.8], &LabelMap::new(2, 1, vec![1, 0])?, None)?;
/// assert!((calibration.expected_error() - 0.3).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ReliabilityDiagram {
    top: Vec<Bin>,
    /// Error of each class's own probability.
    classes: Vec<Vec<Bin>>,
}

/// Pixels of which the network is about equally sure.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// Number of pixels.
    pub count: u64,
    /// Sum of their probabilities.
    pub confidence: f64,
    /// Number of pixels of which it is true.
    pub correct: u64,
}

impl Bin {
    fn gap(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.confidence - self.correct as f64).abs() / self.count as f64 }
    }
}

impl ReliabilityDiagram {
    /// Bins of equal width from 0 to 1; 15 are usual.
    pub fn new(bins: usize) -> Self {
        Self { top: vec![Bin::default(); bins.max(1)], classes: Vec::new() }
    }

    /// Adds an image: probabilities `[class][row][column]` and its labels.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if the probabilities are not of so many pixels, or a label is no class.
    pub fn update(&mut self, probabilities: &[f32], labels: &LabelMap, ignore_index: Option<u32>) -> Result<()> {
        let pixels = labels.as_slice().len();
        let classes = probabilities.len() / pixels.max(1);
        let fits = classes >= 2 && classes * pixels == probabilities.len();
        if !fits || !(self.classes.is_empty() || self.classes.len() == classes) {
            let reason =
                format!("{} values are not those of {pixels} pixels and the classes before", probabilities.len());
            return Err(ExplainError::Option { option: "probabilities", reason });
        }
        if self.classes.is_empty() {
            self.classes = vec![vec![Bin::default(); self.top.len()]; classes];
        }
        let count = self.top.len();
        let add = |bins: &mut [Bin], probability: f32, is_true: bool| {
            let bin = &mut bins[((probability * count as f32) as usize).min(count - 1)];
            bin.count += 1;
            bin.confidence += f64::from(probability);
            bin.correct += u64::from(is_true);
        };
        for (pixel, label) in labels.as_slice().iter().enumerate() {
            if ignore_index == Some(*label) {
                continue;
            }
            if *label as usize >= classes {
                let reason = format!("label {label} is none of {classes} classes");
                return Err(ExplainError::Option { option: "labels", reason });
            }
            let probability = |class: usize| probabilities[class * pixels + pixel];
            let best = (0..classes).reduce(|a, b| if probability(b) > probability(a) { b } else { a }).unwrap_or(0);
            add(&mut self.top, probability(best), best == *label as usize);
            for (class, bins) in self.classes.iter_mut().enumerate() {
                add(bins, probability(class), class == *label as usize);
            }
        }
        Ok(())
    }

    /// Bins of the probability of the most likely class: the reliability diagram.
    pub fn bins(&self) -> &[Bin] {
        &self.top
    }

    /// Expected calibration error: the mean difference between how sure the network is and how often it is right, 0 to 1.
    pub fn expected_error(&self) -> f64 {
        mean_gap(&self.top)
    }

    /// The largest such difference of a bin.
    pub fn largest_error(&self) -> f64 {
        self.top.iter().map(Bin::gap).fold(0.0, f64::max)
    }

    /// The mean over the classes of the error of each class's own probability.
    pub fn classwise_error(&self) -> f64 {
        self.classes.iter().map(|bins| mean_gap(bins)).sum::<f64>() / self.classes.len().max(1) as f64
    }
}

fn mean_gap(bins: &[Bin]) -> f64 {
    let total: u64 = bins.iter().map(|bin| bin.count).sum();
    bins.iter().map(|bin| bin.gap() * bin.count as f64).sum::<f64>() / total.max(1) as f64
}

/// Finds the temperature, by which logits are divided, with the least cross-entropy on images that the network did not learn from: Guo
/// et al., 2017. The most likely class does not change.
///
/// Each image: logits `[class][row][column]` of at least two classes, and its labels; those of `ignore_index` do not count.
///
/// # Errors
/// [`ExplainError::Option`] if there is no pixel, or the logits do not fit the labels.
pub fn temperature(images: &[(Vec<f32>, LabelMap)], ignore_index: Option<u32>) -> Result<f64> {
    let mut pixels = 0u64;
    for (logits, labels) in images {
        let count = labels.as_slice().len();
        let classes = logits.len() / count.max(1);
        let fits = classes >= 2 && classes * count == logits.len();
        let known = |label: &u32| ignore_index == Some(*label) || (*label as usize) < classes;
        if !fits || !labels.as_slice().iter().all(known) {
            let reason = "each image needs logits of at least two classes for every pixel, and labels of these classes";
            return Err(ExplainError::Option { option: "temperature", reason: reason.into() });
        }
        pixels += labels.as_slice().iter().filter(|label| ignore_index != Some(**label)).count() as u64;
    }
    if pixels == 0 {
        return Err(ExplainError::Option {
            option: "temperature",
            reason: "needs at least one pixel with a label".into(),
        });
    }
    // Convex in the inverse temperature: its slope, the mean over pixels of E[logit] - logit of the label, rises.
    let slope = |inverse: f64| {
        let mut sum = 0.0;
        for (logits, labels) in images {
            let count = labels.as_slice().len();
            let classes = logits.len() / count;
            for (pixel, label) in labels.as_slice().iter().enumerate() {
                if ignore_index == Some(*label) {
                    continue;
                }
                let logit = |class: usize| f64::from(logits[class * count + pixel]);
                let most = (0..classes).map(logit).fold(f64::NEG_INFINITY, f64::max);
                let (mut total, mut mean) = (0.0, 0.0);
                for class in 0..classes {
                    let weight = ((logit(class) - most) * inverse).exp();
                    total += weight;
                    mean += weight * logit(class);
                }
                sum += mean / total - logit(*label as usize);
            }
        }
        sum / pixels as f64
    };
    let (mut low, mut high) = (1e-3, 1e3);
    for _ in 0..60 {
        let middle = f64::sqrt(low * high);
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    Ok(1.0 / f64::sqrt(low * high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_of_flattened_logits_is_found() {
        // Labels drawn with the probabilities of the logits: at 3 times the logits the temperature is 3.
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let count = 20_000;
        let logits: Vec<f32> = (0..2 * count).map(|_| (4.0 * random() - 2.0) as f32).collect();
        let label = |pixel: usize, random: f64| {
            let foreground = 1.0 / (1.0 + f64::from(logits[pixel] - logits[count + pixel]).exp());
            u32::from(random < foreground)
        };
        let labels = LabelMap::new(count as u32, 1, (0..count).map(|pixel| label(pixel, random())).collect()).unwrap();
        let sharp = logits.iter().map(|logit| 3.0 * logit).collect();
        let found = temperature(&[(sharp, labels)], None).unwrap();
        assert!((found - 3.0).abs() < 0.1, "{found}");
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let labels = LabelMap::new(2, 1, vec![0, 5]).unwrap();
        assert!(ReliabilityDiagram::new(15).update(&[0.5; 4], &labels, None).is_err());
        assert!(ReliabilityDiagram::new(15).update(&[0.5; 3], &labels, None).is_err());
        assert!(ReliabilityDiagram::new(15).update(&[0.5; 4], &labels, Some(5)).is_ok());
        assert!(temperature(&[], None).is_err());
        assert!(temperature(&[(vec![0.0; 4], labels)], None).is_err());
    }
}
