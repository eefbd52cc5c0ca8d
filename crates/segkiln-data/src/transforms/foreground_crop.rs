use segkiln_core::Size;

use super::{Border, Motion, Target, Transform, check_size, crop::offset, geometry::Window};
use crate::{Result, Sample, TransformRng};

/// A random crop that shows some foreground more often than chance would.
///
/// With the given probability a foreground pixel is drawn, each equally likely, and then a window among those inside the
/// sample that contain it; otherwise, and in samples without foreground, the window is that of a
/// [`RandomCrop`](super::RandomCrop). Foreground is every label but 0 and the ignored one; of objects, one is drawn
/// and then a pixel of it. Against images that are mostly
/// background; nnU-Net (Isensee et al. 2021) draws a third of its patches so.
///
/// ```
/// use segkiln_data::transforms::ForegroundCrop;
///
/// let crop = ForegroundCrop::new(128, 128, 0.33)?.ignore_index(Some(255));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ForegroundCrop {
    window: Window,
    probability: f32,
    ignore_index: Option<u32>,
}

impl ForegroundCrop {
    /// Windows of this size, `probability` of them with foreground for certain.
    ///
    /// # Errors
    /// If a side is 0.
    pub fn new(width: u32, height: u32, probability: f32) -> Result<Self> {
        check_size("ForegroundCrop", width, height)?;
        Ok(Self { window: Window::new(width, height), probability, ignore_index: None })
    }

    /// The label that is not foreground though it is not 0.
    pub fn ignore_index(mut self, label: Option<u32>) -> Self {
        self.ignore_index = label;
        self
    }

    /// Sets how pixels beyond the edges of a smaller sample are filled.
    pub fn border(mut self, border: Border) -> Self {
        self.window = self.window.border(border);
        self
    }

    /// Drops objects of which less than this share of the area is left. Default: 0, which drops those of which nothing is.
    ///
    /// # Errors
    /// If the share is not between 0 and 1.
    pub fn min_visible(mut self, share: f32) -> Result<Self> {
        self.window = self.window.min_visible("ForegroundCrop min_visible", share)?;
        Ok(self)
    }
}

impl<T: Target> Transform<T> for ForegroundCrop {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let pixel = if rng.chance(self.probability) { sample.target.foreground(self.ignore_index, rng) } else { None };
        let Size { width, height } = sample.image.size();
        let Size { width: columns, height: rows } = self.window.size();
        let (left, top) = match pixel {
            Some([x, y]) => (around(x, width, columns, rng), around(y, height, rows, rng)),
            None => (offset(width, columns, rng), offset(height, rows, rng)),
        };
        sample.moved(&Motion::Window(self.window.at(left, top)))
    }
}

/// A place for a window of `length` along a side of `from` pixels such that it contains `at`.
fn around(at: u32, from: u32, length: u32, rng: &mut TransformRng) -> i64 {
    if length >= from {
        return offset(from, length, rng);
    }
    let first = (i64::from(at) - i64::from(length) + 1).max(0);
    let last = i64::from(at).min(i64::from(from) - i64::from(length));
    first + rng.below((last - first) as usize + 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    fn one_pixel(label: u32) -> Sample {
        let mut sample = ramp(32, 32, 1);
        sample.image.as_mut_slice().fill(0.0);
        sample.target.as_mut_slice().fill(0);
        sample.target.as_mut_slice()[5 * 32 + 30] = label;
        sample.image.as_mut_slice()[5 * 32 + 30] = label as f32;
        sample
    }

    fn hits(probability: f32, sample: &Sample) -> usize {
        let crop = ForegroundCrop::new(8, 8, probability).unwrap().ignore_index(Some(255));
        (0..200)
            .filter(|position| {
                let cut = crop.apply(sample.clone(), &mut TransformRng::new(0, 0, *position)).unwrap();
                assert!(agrees(&cut) && cut.target.width() == 8 && cut.target.height() == 8);
                cut.target.max() != Some(0)
            })
            .count()
    }

    #[test]
    fn foreground_is_found_with_the_probability() {
        assert_eq!(hits(1.0, &one_pixel(3)), 200);
        let by_chance = hits(0.0, &one_pixel(3));
        assert!(by_chance < 20, "{by_chance}");
        let half = hits(0.5, &one_pixel(3));
        assert!((80..130).contains(&half), "{half}");
        assert!(hits(1.0, &one_pixel(255)) < 20);
    }

    #[test]
    fn small_samples_are_padded() {
        let crop = ForegroundCrop::new(50, 8, 1.0).unwrap();
        let cut = crop.apply(one_pixel(1), &mut TransformRng::new(0, 0, 0)).unwrap();
        assert_eq!((cut.target.width(), cut.target.height()), (50, 8));
        assert!(agrees(&cut) && cut.target.max() == Some(1));
    }
}
