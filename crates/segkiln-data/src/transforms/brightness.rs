use super::{Bounds, Target, Transform, map_colors};
use crate::{Result, Sample, TransformRng};

/// Multiplies the colors by a random factor, by the formula of torchvision's `adjust_brightness`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Brightness(Bounds);

impl Brightness {
    /// Factors drawn evenly from a range; 1 changes nothing, 0 is black.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0 and 100.
    pub fn new(factors: [f32; 2]) -> Result<Self> {
        Bounds::new("Brightness", factors, 0.0..=100.0).map(Self)
    }
}

impl<T: Target> Transform<T> for Brightness {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let factor = self.0.draw(rng);
        map_colors(&mut sample.image, |value| value * factor);
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::pixels;

    #[test]
    fn multiplies_clamps_and_leaves_alpha() {
        let brighter = Brightness::new([2.0, 2.0]).unwrap();
        let sample = brighter.apply(pixels(4, &[0.125, 0.5, 0.75, 0.25]), &mut TransformRng::new(0, 0, 0)).unwrap();
        assert_eq!(sample.image.as_slice(), [0.25, 1.0, 1.0, 0.25]);
        assert!(Brightness::new([-1.0, 1.0]).is_err());
    }
}
