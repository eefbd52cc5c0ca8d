use segkiln_core::Size;

use super::{Bounds, Target, Transform, check_size, resize::scaled};
use crate::{Result, Sample, TransformRng};

/// Enlarges or shrinks a sample by a random factor, both sides alike; a crop brings it to one size after that. With
/// `[0.5, 2.0]` this is torchvision's reference for segmentation, with `[0.1, 2.0]` and [`within`](Self::within) the
/// large-scale jitter of Ghiasi et al. 2021, which torchvision has for detection.
///
/// ```
/// use segkiln_core::Instances;
/// use segkiln_data::{Normalize, transforms::{Border, Compose, RandomCrop, ScaleJitter}};
///
/// let transform: Compose = Compose::new().then(ScaleJitter::new([0.5, 2.0])?).then(RandomCrop::new(256, 256)?);
///
/// let mean = Border::Constant { value: 0.0, label: 0 };
/// let large_scale: Compose<Instances> = Compose::new()
///     .then(ScaleJitter::new([0.1, 2.0])?.within(1024, 1024)?)
///     .then(Normalize::imagenet())
///     .then(RandomCrop::new(1024, 1024)?.border(mean));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleJitter {
    factors: Bounds,
    within: Option<Size>,
}

impl ScaleJitter {
    /// Factors drawn evenly from a range.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0.01 and 100.
    pub fn new(factors: [f32; 2]) -> Result<Self> {
        Ok(Self { factors: Bounds::new("ScaleJitter", factors, 0.01..=100.0)?, within: None })
    }

    /// Takes the factors from the largest size of the sample's shape that fits into this one, rather than from its own.
    ///
    /// # Errors
    /// If a side is 0.
    pub fn within(mut self, width: u32, height: u32) -> Result<Self> {
        check_size("ScaleJitter within", width, height)?;
        self.within = Some(Size { width, height });
        Ok(self)
    }
}

impl<T: Target> Transform<T> for ScaleJitter {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let factor = f64::from(self.factors.draw(rng));
        let fits = |Size { width, height }: Size| {
            let across = f64::from(width) / f64::from(sample.image.width());
            across.min(f64::from(height) / f64::from(sample.image.height()))
        };
        let factor = factor * self.within.map_or(1.0, fits);
        scaled(sample, factor)
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

    #[test]
    fn sizes_fit_into_another() {
        let size = |factor: f32, width: u32, height: u32| {
            let jitter = ScaleJitter::new([factor; 2]).unwrap().within(width, height).unwrap();
            let scaled = jitter.apply(blocks(64, 32, 1, 16), &mut TransformRng::new(0, 0, 0)).unwrap();
            (scaled.image.width(), scaled.target.height())
        };
        assert_eq!(size(1.0, 128, 128), (128, 64));
        assert_eq!(size(2.0, 128, 16), (64, 32));
        assert_eq!(size(0.1, 640, 480), (64, 32));
        assert!(ScaleJitter::new([1.0; 2]).unwrap().within(0, 1).is_err());
    }
}
