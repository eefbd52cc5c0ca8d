use super::{Transform, geometry::rearrange};
use crate::{Result, Sample, TransformRng};

/// Mirrors left and right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HorizontalFlip {
    /// The share of samples that is flipped.
    pub p: f32,
}

/// Mirrors top and bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VerticalFlip {
    /// The share of samples that is flipped.
    pub p: f32,
}

impl Transform for HorizontalFlip {
    fn apply(&self, sample: Sample, rng: &mut TransformRng) -> Result<Sample> {
        if !rng.chance(self.p) {
            return Ok(sample);
        }
        let (width, height) = (sample.image.width(), sample.image.height());
        Ok(rearrange(sample, width, height, |x, y| (y + 1) * width as usize - 1 - x))
    }
}

impl Transform for VerticalFlip {
    fn apply(&self, sample: Sample, rng: &mut TransformRng) -> Result<Sample> {
        if !rng.chance(self.p) {
            return Ok(sample);
        }
        let (width, height) = (sample.image.width(), sample.image.height());
        Ok(rearrange(sample, width, height, |x, y| (height as usize - 1 - y) * width as usize + x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn flips_are_exact() {
        let mut rng = TransformRng::new(0, 0, 0);
        let horizontal = HorizontalFlip { p: 1.0 }.apply(ramp(3, 2, 3), &mut rng).unwrap();
        assert!(agrees(&horizontal));
        assert_eq!(horizontal.mask.as_slice(), [2, 1, 0, 5, 4, 3]);
        let vertical = VerticalFlip { p: 1.0 }.apply(ramp(3, 2, 3), &mut rng).unwrap();
        assert!(agrees(&vertical));
        assert_eq!(vertical.mask.as_slice(), [3, 4, 5, 0, 1, 2]);
    }

    #[test]
    fn p_is_a_share() {
        let flipped = (0..1000)
            .filter(|i| {
                let mut rng = TransformRng::new(0, 0, *i);
                HorizontalFlip { p: 0.25 }.apply(ramp(2, 1, 1), &mut rng).unwrap().mask.as_slice() == [1, 0]
            })
            .count();
        assert!((200..300).contains(&flipped), "{flipped}");
    }
}
