use super::{Bounds, Target, Transform, color_channels};
use crate::{Result, Sample, TransformRng, raster::luma};

/// Moves each color away from its gray by a random factor, by the formula of torchvision's `adjust_saturation`. Images that are not RGB
/// or RGBA stay as they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saturation(Bounds);

impl Saturation {
    /// Factors drawn evenly from a range; 1 changes nothing, 0 is gray.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0 and 100.
    pub fn new(factors: [f32; 2]) -> Result<Self> {
        Bounds::new("Saturation", factors, 0.0..=100.0).map(Self)
    }
}

impl<T: Target> Transform<T> for Saturation {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let factor = self.0.draw(rng);
        let channels = sample.image.channels();
        if color_channels(&sample.image) == 3 {
            for pixel in sample.image.as_mut_slice().chunks_exact_mut(channels) {
                let gray = luma([pixel[0], pixel[1], pixel[2]]);
                pixel[..3].iter_mut().for_each(|value| *value = (gray + (*value - gray) * factor).clamp(0.0, 1.0));
            }
        }
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::pixels;

    #[test]
    fn none_is_gray_and_gray_has_none() {
        let mut rng = TransformRng::new(0, 0, 0);
        let none = Saturation::new([0.0, 0.0]).unwrap();
        let sample = none.apply(pixels(4, &[0.0, 1.0, 0.0, 0.5]), &mut rng).unwrap();
        assert_eq!(sample.image.as_slice(), [0.587, 0.587, 0.587, 0.5]);
        let gray = pixels(1, &[0.25]);
        assert_eq!(none.apply(gray.clone(), &mut rng).unwrap(), gray);
    }
}
