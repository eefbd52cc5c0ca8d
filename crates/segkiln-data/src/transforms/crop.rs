use segkiln_core::Size;

use super::{Border, Motion, Target, Transform, check_size, geometry::Window};
use crate::{Result, Sample, TransformRng};

/// Cuts out the middle.
///
/// ```
/// use segkiln_data::transforms::{Border, CenterCrop};
///
/// let crop = CenterCrop::new(256, 256)?.border(Border::MirrorImage { label: 255 });
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CenterCrop {
    window: Window,
}

impl CenterCrop {
    /// A window of this size; of a smaller sample it shows what lies beyond the edges, [`Border::Mirror`] by default.
    ///
    /// # Errors
    /// If a side is 0.
    pub fn new(width: u32, height: u32) -> Result<Self> {
        check_size("CenterCrop", width, height)?;
        Ok(Self { window: Window::new(width, height) })
    }

    /// Sets how pixels beyond the edges are filled.
    pub fn border(mut self, border: Border) -> Self {
        self.window = self.window.border(border);
        self
    }

    /// Drops objects of which less than this share of the area is left. Default: 0, which drops those of which nothing is.
    ///
    /// # Errors
    /// If the share is not between 0 and 1.
    pub fn min_visible(mut self, share: f32) -> Result<Self> {
        self.window = self.window.min_visible("CenterCrop min_visible", share)?;
        Ok(self)
    }
}

impl<T: Target> Transform<T> for CenterCrop {
    fn apply(&self, sample: Sample<T>, _rng: &mut TransformRng) -> Result<Sample<T>> {
        let Size { width, height } = self.window.size();
        let left = (i64::from(sample.image.width()) - i64::from(width)).div_euclid(2);
        let top = (i64::from(sample.image.height()) - i64::from(height)).div_euclid(2);
        sample.moved(&Motion::Window(self.window.at(left, top)))
    }
}

/// Cuts out a window at a random place, each equally likely.
///
/// ```
/// use segkiln_data::transforms::RandomCrop;
///
/// let crop = RandomCrop::new(256, 256)?;
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomCrop {
    window: Window,
}

impl RandomCrop {
    /// A window of this size. A sample that is smaller lies at a random place in it, and the rest shows what lies beyond
    /// its edges, [`Border::Mirror`] by default.
    ///
    /// # Errors
    /// If a side is 0.
    pub fn new(width: u32, height: u32) -> Result<Self> {
        check_size("RandomCrop", width, height)?;
        Ok(Self { window: Window::new(width, height) })
    }

    /// Sets how pixels beyond the edges are filled.
    pub fn border(mut self, border: Border) -> Self {
        self.window = self.window.border(border);
        self
    }

    /// Drops objects of which less than this share of the area is left. Default: 0, which drops those of which nothing is.
    ///
    /// # Errors
    /// If the share is not between 0 and 1.
    pub fn min_visible(mut self, share: f32) -> Result<Self> {
        self.window = self.window.min_visible("RandomCrop min_visible", share)?;
        Ok(self)
    }
}

impl<T: Target> Transform<T> for RandomCrop {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let Size { width, height } = self.window.size();
        let left = offset(sample.image.width(), width, rng);
        let top = offset(sample.image.height(), height, rng);
        sample.moved(&Motion::Window(self.window.at(left, top)))
    }
}

/// A place for a window of `length` along a side of `from` pixels: inside it, or around it if it is longer.
pub(super) fn offset(from: u32, length: u32, rng: &mut TransformRng) -> i64 {
    let room = i64::from(from) - i64::from(length);
    room.min(0) + rng.below(room.unsigned_abs() as usize + 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn the_middle() {
        let mut rng = TransformRng::new(0, 0, 0);
        let cut = CenterCrop::new(2, 1).unwrap().apply(ramp(4, 3, 3), &mut rng).unwrap();
        assert_eq!(cut.target.as_slice(), [5, 6]);
        assert!(agrees(&cut));
        let padded = CenterCrop::new(4, 1).unwrap().border(Border::Constant { value: 0.0, label: 7 });
        assert_eq!(padded.apply(ramp(2, 1, 1), &mut rng).unwrap().target.as_slice(), [7, 0, 1, 7]);
        assert!(CenterCrop::new(0, 3).is_err());
    }

    #[test]
    fn every_place_occurs_and_none_beyond_the_edge() {
        let mut rng = TransformRng::new(0, 0, 0);
        let mut corners: Vec<u32> = (0..200)
            .map(|_| {
                let cut = RandomCrop::new(2, 2).unwrap().apply(ramp(4, 3, 2), &mut rng).unwrap();
                assert!(agrees(&cut));
                let corner = cut.target.as_slice()[0];
                assert_eq!(cut.target.as_slice(), [corner, corner + 1, corner + 4, corner + 5]);
                corner
            })
            .collect();
        corners.sort_unstable();
        corners.dedup();
        assert_eq!(corners, [0, 1, 2, 4, 5, 6]);
    }

    #[test]
    fn a_small_sample_is_seen_whole() {
        let mut rng = TransformRng::new(0, 0, 0);
        for _ in 0..20 {
            let border = Border::MirrorImage { label: 99 };
            let cut = RandomCrop::new(5, 4).unwrap().border(border).apply(ramp(3, 2, 1), &mut rng).unwrap();
            let mut labels = cut.target.into_vec();
            labels.retain(|label| *label != 99);
            assert_eq!(labels, [0, 1, 2, 3, 4, 5]);
        }
    }
}
