use super::{Bounds, Target, Transform, resize::scaled};
use crate::{Result, Sample, TransformRng};

/// Enlarges or shrinks a sample by a random factor, both sides alike; a crop brings it to one size after that. With
/// `[0.1, 2.0]` this is the large-scale jitter of Ghiasi et al. 2021, with `[0.5, 2.0]` torchvision's reference.
///
/// ```
/// use segkiln_data::transforms::{Compose, RandomCrop, ScaleJitter};
///
/// let transform = Compose::new().then(ScaleJitter::new([0.5, 2.0])?).then(RandomCrop::new(256, 256)?);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleJitter(Bounds);

impl ScaleJitter {
    /// Factors drawn evenly from a range.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0.01 and 100.
    pub fn new(factors: [f32; 2]) -> Result<Self> {
        Bounds::new("ScaleJitter", factors, 0.01..=100.0).map(Self)
    }
}

impl<T: Target> Transform<T> for ScaleJitter {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let factor = self.0.draw(rng);
        scaled(sample, f64::from(factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agreement, blocks};

    #[test]
    fn sizes_vary_and_pairs_stay() {
        let mut widths = Vec::new();
        for position in 0..20 {
            let sample = blocks(64, 32, 3, 16);
            let scaled = ScaleJitter::new([0.5, 2.0]).unwrap().apply(sample, &mut TransformRng::new(0, 0, position));
            let scaled = scaled.unwrap();
            assert!((32..=128).contains(&scaled.image.width()));
            assert_eq!((scaled.image.width(), scaled.image.height()), (scaled.target.width(), scaled.target.height()));
            assert!(agreement(&scaled) > 0.7);
            widths.push(scaled.image.width());
        }
        widths.sort_unstable();
        widths.dedup();
        assert!(widths.len() > 10);
        assert!(ScaleJitter::new([0.0, 1.0]).is_err());
    }
}
