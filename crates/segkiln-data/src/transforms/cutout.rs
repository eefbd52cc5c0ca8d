use segkiln_core::Size;

use super::{Bounds, Target, Transform};
use crate::{DataError, Result, Sample, TransformRng};

/// Covers random rectangles of the image (DeVries & Taylor 2017). The target stays as it is, so that the network learns to
/// fill in from context, unless a label for what is covered is given.
///
/// ```
/// use segkiln_data::transforms::Cutout;
///
/// let cutout = Cutout::new(3, [0.05, 0.2])?.label(Some(255));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cutout {
    count: usize,
    size: Bounds,
    value: f32,
    label: Option<u32>,
}

impl Cutout {
    /// `count` rectangles, whose sides are fractions of the image's sides, drawn evenly from a range. They lie inside.
    ///
    /// # Errors
    /// If `count` is 0, or the bounds are not in order or not between 0 and 1.
    pub fn new(count: usize, size: [f32; 2]) -> Result<Self> {
        if count == 0 {
            return Err(DataError::option("Cutout count", "must be at least 1, got 0"));
        }
        Ok(Self { count, size: Bounds::new("Cutout size", size, 0.0..=1.0)?, value: 0.0, label: None })
    }

    /// Sets the value of the covered pixels in each channel. Default: 0.
    pub fn value(mut self, value: f32) -> Self {
        self.value = value;
        self
    }

    /// Sets the label of covered pixels in a label map, for instance the ignored label; objects stay. Default: labels stay.
    pub fn label(mut self, label: Option<u32>) -> Self {
        self.label = label;
        self
    }
}

impl<T: Target> Transform<T> for Cutout {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let (width, height) = (sample.image.width() as usize, sample.image.height() as usize);
        let channels = sample.image.channels();
        for _ in 0..self.count {
            let columns = ((self.size.draw(rng) * width as f32).round() as usize).min(width);
            let rows = ((self.size.draw(rng) * height as f32).round() as usize).min(height);
            let (left, top) = (rng.below(width - columns + 1), rng.below(height - rows + 1));
            for y in top..top + rows {
                let start = y * width + left;
                sample.image.as_mut_slice()[start * channels..][..columns * channels].fill(self.value);
            }
            if let Some(label) = self.label {
                let size = Size { width: columns as u32, height: rows as u32 };
                sample.target.cover([left as u32, top as u32], size, label);
            }
        }
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn covers_a_rectangle() {
        let cutout = Cutout::new(1, [0.5, 0.5]).unwrap().value(1000.0);
        for position in 0..20 {
            let mut rng = TransformRng::new(0, 0, position);
            let covered = cutout.apply(ramp(10, 6, 3), &mut rng).unwrap();
            assert_eq!(covered.image.as_slice().iter().filter(|v| **v == 1000.0).count(), 5 * 3 * 3);
            assert_eq!(covered.target, ramp(10, 6, 3).target);
        }
        let labeled = cutout.label(Some(1000)).apply(ramp(10, 6, 3), &mut TransformRng::new(0, 0, 0)).unwrap();
        assert!(agrees(&labeled));
        assert!(Cutout::new(0, [0.1, 0.2]).is_err() && Cutout::new(1, [0.1, 1.2]).is_err());
    }
}
