//! Active learning: choice of the images whose annotation would teach most.

use super::Uncertainty;
use crate::{ExplainError, Question, Result, subject::values};

/// Measure of an image's worth for annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criterion {
    /// The mean entropy over the pixels: all that is unsure.
    Entropy,
    /// The mean mutual information, of which the answers differ (BALD): Houlsby et al., 2011, <https://arxiv.org/abs/1112.5745>; Gal et al.,
    /// ICML 2017, <https://arxiv.org/abs/1703.02910>. It needs more than one answer.
    Bald,
}

/// Ranks images by their uncertainty, the one that would teach most first: index and mean in nats. Equal ones keep their order.
///
/// # Errors
/// The first error of `uncertainty`.
pub fn ranked(
    images: usize,
    criterion: Criterion,
    mut uncertainty: impl FnMut(usize) -> Result<Uncertainty>,
) -> Result<Vec<(usize, f64)>> {
    let mut found = Vec::with_capacity(images);
    for image in 0..images {
        let Uncertainty { entropy, mutual_information, answers, .. } = uncertainty(image)?;
        if criterion == Criterion::Bald && answers < 2 {
            let reason = "BALD compares answers, and there is one; take entropy, dropout, mirror images or an ensemble";
            return Err(ExplainError::Option { option: "criterion", reason: reason.into() });
        }
        let map = if criterion == Criterion::Entropy { entropy } else { mutual_information };
        found.push((image, map.mean()));
    }
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(found)
}

/// The means of the channels of a question's layers: a description of the image for [`core_set`].
///
/// # Errors
/// If the network refuses the image.
pub fn features(question: &Question<'_>) -> Result<Vec<f32>> {
    let mut found = Vec::new();
    for map in question.activations()? {
        found.extend(values(map.mean_dim(3).mean_dim(2))?);
    }
    Ok(found)
}

/// Chooses the images that represent all others best: each is the one farthest from those that are labeled or chosen already (greedy
/// k-center): Sener and Savarese, ICLR 2018, <https://arxiv.org/abs/1708.00489>. Returns indices in the order of choice; of equal distances the
/// first image counts. Without labeled images, the first one is the one farthest from 0.
///
/// # Errors
/// [`ExplainError::Option`] if the features differ in length or are not finite.
pub fn core_set(pool: &[Vec<f32>], labeled: &[Vec<f32>], count: usize) -> Result<Vec<usize>> {
    let refuse = |reason: &str| Err(ExplainError::Option { option: "features", reason: reason.into() });
    let length = pool.iter().chain(labeled).map(Vec::len).next().unwrap_or(0);
    if pool.iter().chain(labeled).any(|features| features.len() != length) {
        return refuse("of all images must have the same length");
    }
    if pool.iter().chain(labeled).flatten().any(|value| !value.is_finite()) {
        return refuse("must be finite");
    }
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let zero = vec![0.0; length];
    let begin = if labeled.is_empty() { std::slice::from_ref(&zero) } else { labeled };
    let mut nearest: Vec<f64> =
        pool.iter().map(|a| begin.iter().map(|b| distance(a, b)).fold(f64::INFINITY, f64::min)).collect();
    let (mut chosen, mut is_chosen, mut is_first) = (Vec::new(), vec![false; pool.len()], labeled.is_empty());
    while chosen.len() < count.min(pool.len()) {
        let free = (0..pool.len()).filter(|index| !is_chosen[*index]);
        let Some(next) = free.reduce(|a, b| if nearest[b] > nearest[a] { b } else { a }) else { break };
        chosen.push(next);
        is_chosen[next] = true;
        for (nearest, features) in nearest.iter_mut().zip(pool) {
            let now = distance(features, &pool[next]);
            // 0 is no image.
            *nearest = if is_first { now } else { nearest.min(now) };
        }
        is_first = false;
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Map;

    #[test]
    fn the_unsure_come_first() {
        let found = |entropy: f32, mutual: f32, answers: usize| {
            let map = |value: f32| Map::new([1, 2], vec![value; 2], false).unwrap();
            let (entropy, mutual_information, variance) = (map(entropy), map(mutual), map(0.0));
            Ok(Uncertainty { probabilities: vec![0.5; 4], entropy, mutual_information, variance, answers })
        };
        let all = [(0.5, 0.1), (0.2, 0.2), (0.6, 0.0), (0.5, 0.1)];
        let order = |criterion| -> Vec<usize> {
            let ranked = ranked(4, criterion, |index| found(all[index].0, all[index].1, 2)).unwrap();
            ranked.into_iter().map(|(index, _)| index).collect()
        };
        assert_eq!(order(Criterion::Entropy), [2, 0, 3, 1]);
        assert_eq!(order(Criterion::Bald), [1, 0, 3, 2]);
        assert!(ranked(1, Criterion::Bald, |_| found(0.5, 0.0, 1)).unwrap_err().to_string().contains("BALD"));
    }

    #[test]
    fn the_core_set_covers_all() {
        let pool: Vec<Vec<f32>> = [0.0, 1.0, 10.0, 11.0, 5.5].iter().map(|x| vec![*x, 0.0]).collect();
        assert_eq!(core_set(&pool, &[vec![0.2, 0.0]], 3).unwrap(), [3, 4, 2]);
        assert_eq!(core_set(&pool, &[], 9).unwrap(), [3, 0, 4, 1, 2]);
        assert_eq!(core_set(&[], &[], 3).unwrap(), [0; 0]);
        assert!(core_set(&pool, &[vec![1.0]], 1).is_err() && core_set(&[vec![f32::NAN]], &[], 1).is_err());
    }
}
