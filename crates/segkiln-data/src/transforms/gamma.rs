use super::{Bounds, Target, Transform, map_colors};
use crate::{Result, Sample, TransformRng};

/// Raises the colors to a random power.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gamma(Bounds);

impl Gamma {
    /// Powers drawn evenly from a range; 1 changes nothing, less is brighter, more is darker.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0.01 and 100.
    pub fn new(powers: [f32; 2]) -> Result<Self> {
        Bounds::new("Gamma", powers, 0.01..=100.0).map(Self)
    }
}

impl<T: Target> Transform<T> for Gamma {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let power = self.0.draw(rng);
        // Of a negative number a power is not defined.
        map_colors(&mut sample.image, |value| value.max(0.0).powf(power));
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::pixels;

    #[test]
    fn raises() {
        let square = Gamma::new([2.0, 2.0]).unwrap();
        let sample = square.apply(pixels(1, &[0.5, 1.0, -0.5]), &mut TransformRng::new(0, 0, 0)).unwrap();
        assert_eq!(sample.image.as_slice(), [0.25, 1.0, 0.0]);
        assert!(Gamma::new([0.0, 1.0]).is_err());
    }
}
