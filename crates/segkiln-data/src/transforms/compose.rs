use segkiln_core::LabelMap;

use super::{Target, Transform};
use crate::{Result, Sample, TransformRng};

/// Transforms one after the other, of samples with a label map unless another target is named or needed.
///
/// ```
/// use segkiln_data::transforms::{Compose, HorizontalFlip, RandomTurn90};
///
/// let transform: Compose = Compose::new().then(HorizontalFlip { p: 0.5 }).then(RandomTurn90);
/// assert_eq!(transform.0.len(), 2);
/// ```
#[derive(Debug)]
pub struct Compose<T = LabelMap>(pub Vec<Box<dyn Transform<T>>>);

impl<T> Default for Compose<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Compose<T> {
    /// No transform.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the composition with another transform at the end.
    pub fn then(mut self, transform: impl Transform<T> + 'static) -> Self {
        self.0.push(Box::new(transform));
        self
    }
}

impl<T: Target> Transform<T> for Compose<T> {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        self.0.iter().try_fold(sample, |sample, transform| transform.apply(sample, rng))
    }
}

/// Applies a transform to a random share of the samples.
#[derive(Debug)]
pub struct Probability<T> {
    /// Probability of applying it; never at 0 or less, always at 1 or more.
    pub p: f32,
    /// Transform that is applied.
    pub transform: T,
}

impl<T: Target, U: Transform<T>> Transform<T> for Probability<U> {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        if rng.chance(self.p) { self.transform.apply(sample, rng) } else { Ok(sample) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::{HorizontalFlip, VerticalFlip, testing::ramp};

    #[test]
    fn applies_in_order_and_by_chance() {
        let mut rng = TransformRng::new(0, 0, 0);
        let sample = ramp(3, 2, 1);
        let both = Compose::new().then(HorizontalFlip { p: 1.0 }).then(VerticalFlip { p: 1.0 });
        let turned = both.apply(sample.clone(), &mut rng).unwrap();
        assert_eq!(turned.target.as_slice(), [5, 4, 3, 2, 1, 0]);
        let never = Probability { p: 0.0, transform: both };
        assert_eq!(never.apply(sample.clone(), &mut rng).unwrap(), sample);
    }
}
