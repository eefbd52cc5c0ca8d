use super::{Bounds, Target, Transform, color_channels};
use crate::{Result, Sample, TransformRng};

/// Adds independent normal noise to each color value; the sums are not clamped, so that their mean stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaussianNoise(Bounds);

impl GaussianNoise {
    /// Standard deviations drawn evenly from a range, in the units of the image: `[0.0, 0.05]` is mild in `[0, 1]`.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0 and 1,000,000.
    pub fn new(std: [f32; 2]) -> Result<Self> {
        Bounds::new("GaussianNoise", std, 0.0..=1e6).map(Self)
    }
}

impl<T: Target> Transform<T> for GaussianNoise {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let std = self.0.draw(rng);
        let (channels, colors) = (sample.image.channels(), color_channels(&sample.image));
        if channels == colors {
            for pair in sample.image.as_mut_slice().chunks_mut(2) {
                pair.iter_mut().zip(rng.normals()).for_each(|(value, noise)| *value += std * noise);
            }
        } else {
            for pixel in sample.image.as_mut_slice().chunks_exact_mut(channels) {
                pixel[..colors].iter_mut().for_each(|value| *value += std * rng.normal());
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
    fn has_its_deviation() {
        let noise = GaussianNoise::new([0.1, 0.1]).unwrap();
        let sample = noise.apply(pixels(1, &[0.5; 20_001]), &mut TransformRng::new(0, 0, 0)).unwrap();
        let n = sample.image.as_slice().len() as f32;
        let mean = sample.image.as_slice().iter().sum::<f32>() / n;
        let std = (sample.image.as_slice().iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        assert!((mean - 0.5).abs() < 0.003 && (std - 0.1).abs() < 0.003, "{mean} {std}");
    }

    #[test]
    fn leaves_alpha() {
        let noise = GaussianNoise::new([0.1, 0.1]).unwrap();
        let sample = noise.apply(pixels(4, &[0.5; 8]), &mut TransformRng::new(0, 0, 0)).unwrap();
        let values = sample.image.as_slice();
        assert!(values[3] == 0.5 && values[7] == 0.5 && values[0] != 0.5);
    }
}
