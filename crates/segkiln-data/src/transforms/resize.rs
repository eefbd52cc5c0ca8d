use super::{Motion, Target, Transform, check_size};
use crate::{Result, Sample, TransformRng};

/// Resizes: the image by [`resize_image`](crate::resize_image), labels by [`resize_labels`](crate::resize_labels). Boxes keep
/// their fractions of a pixel; what they hold may be up to half a pixel beside them, and objects of which no pixel is left
/// are dropped.
///
/// ```
/// use segkiln_data::transforms::Resize;
///
/// let square = Resize::exact(256, 256)?;
/// let keeps_its_shape = Resize::shorter_side(520)?;
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize(ResizeTo);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResizeTo {
    Exact(u32, u32),
    ShorterSide(u32),
}

impl Resize {
    /// Resizes to this width and height, whatever the shape was.
    ///
    /// # Errors
    /// If a side is 0.
    pub fn exact(width: u32, height: u32) -> Result<Self> {
        check_size("Resize", width, height)?;
        Ok(Self(ResizeTo::Exact(width, height)))
    }

    /// Resizes so that the shorter side has this length and the shape stays.
    ///
    /// # Errors
    /// If the length is 0.
    pub fn shorter_side(length: u32) -> Result<Self> {
        check_size("Resize", length, length)?;
        Ok(Self(ResizeTo::ShorterSide(length)))
    }
}

impl<T: Target> Transform<T> for Resize {
    fn apply(&self, sample: Sample<T>, _rng: &mut TransformRng) -> Result<Sample<T>> {
        match self.0 {
            ResizeTo::Exact(width, height) => sample.moved(&Motion::Resize(width, height)),
            ResizeTo::ShorterSide(length) => {
                let shorter = sample.image.width().min(sample.image.height());
                scaled(sample, f64::from(length) / f64::from(shorter))
            }
        }
    }
}

/// The sample with both sides times `factor`, rounded, at least 1.
pub(super) fn scaled<T: Target>(sample: Sample<T>, factor: f64) -> Result<Sample<T>> {
    let side = |length: u32| (f64::from(length) * factor).round().clamp(1.0, f64::from(u32::MAX)) as u32;
    let (width, height) = (side(sample.image.width()), side(sample.image.height()));
    sample.moved(&Motion::Resize(width, height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn shapes() {
        let mut rng = TransformRng::new(0, 0, 0);
        let size = |sample: &Sample| (sample.image.width(), sample.target.height());
        let exact = Resize::exact(5, 7).unwrap().apply(ramp(3, 2, 3), &mut rng).unwrap();
        assert_eq!(size(&exact), (5, 7));
        let shorter = Resize::shorter_side(4).unwrap().apply(ramp(3, 2, 3), &mut rng).unwrap();
        assert_eq!(size(&shorter), (6, 4));
        let same = Resize::exact(3, 2).unwrap().apply(ramp(3, 2, 3), &mut rng).unwrap();
        assert!(agrees(&same));
        assert!(Resize::exact(1, 0).is_err());
        assert!(Resize::exact(u32::MAX, u32::MAX).is_err());
        assert!(Resize::shorter_side(60_000).unwrap().apply(ramp(3, 1, 1), &mut rng).is_err());
    }
}
