use super::{Bounds, Target, Transform, color_channels, map_colors};
use crate::{Image, Result, Sample, TransformRng, raster::luma};

/// Moves the colors away from the image's mean gray by a random factor, by the formula of torchvision's `adjust_contrast`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast(Bounds);

impl Contrast {
    /// Factors drawn evenly from a range; 1 changes nothing, 0 is a gray area.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0 and 100.
    pub fn new(factors: [f32; 2]) -> Result<Self> {
        Bounds::new("Contrast", factors, 0.0..=100.0).map(Self)
    }
}

impl<T: Target> Transform<T> for Contrast {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let factor = self.0.draw(rng);
        let gray = mean_gray(&sample.image);
        map_colors(&mut sample.image, |value| gray + (value - gray) * factor);
        Ok(sample)
    }
}

/// The mean luma of RGB and RGBA, the mean value of other images.
fn mean_gray(image: &Image) -> f32 {
    let sum: f64 = match color_channels(image) {
        3 => {
            let pixels = image.as_slice().chunks_exact(image.channels());
            pixels.map(|pixel| f64::from(luma([pixel[0], pixel[1], pixel[2]]))).sum()
        }
        channels => image.as_slice().iter().copied().map(f64::from).sum::<f64>() / channels as f64,
    };
    (sum / (f64::from(image.width()) * f64::from(image.height()))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::pixels;

    #[test]
    fn spreads_around_the_mean() {
        let mut rng = TransformRng::new(0, 0, 0);
        let more = Contrast::new([2.0, 2.0]).unwrap();
        let sample = more.apply(pixels(1, &[0.25, 0.5, 0.75]), &mut rng).unwrap();
        assert_eq!(sample.image.as_slice(), [0.0, 0.5, 1.0]);
        let none = Contrast::new([0.0, 0.0]).unwrap();
        let sample = none.apply(pixels(3, &[1.0, 0.0, 0.0]), &mut rng).unwrap();
        assert!(sample.image.as_slice().iter().all(|value| (value - 0.299).abs() < 1e-6));
    }
}
