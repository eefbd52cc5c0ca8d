use super::{Motion, Target, Transform};
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

impl<T: Target> Transform<T> for HorizontalFlip {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        if rng.chance(self.p) { sample.moved(&Motion::FlipColumns) } else { Ok(sample) }
    }
}

impl<T: Target> Transform<T> for VerticalFlip {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        if rng.chance(self.p) { sample.moved(&Motion::FlipRows) } else { Ok(sample) }
    }
}

/// Mirrors left and right, in rows of `width` pixels.
pub(super) fn flip_columns<T>(data: &mut [T], width: usize, channels: usize) {
    for row in data.chunks_exact_mut(width * channels) {
        match channels {
            1 => row.reverse(),
            3 => row.as_chunks_mut::<3>().0.reverse(),
            4 => row.as_chunks_mut::<4>().0.reverse(),
            _ => {
                row.reverse();
                row.chunks_exact_mut(channels).for_each(<[T]>::reverse);
            }
        }
    }
}

/// Mirrors top and bottom, in rows of `stride` values.
pub(super) fn flip_rows<T>(data: &mut [T], stride: usize) {
    let rows = data.len() / stride;
    let (upper, lower) = data.split_at_mut(rows / 2 * stride);
    let pairs = upper.chunks_exact_mut(stride).zip(lower.chunks_exact_mut(stride).rev());
    pairs.for_each(|(above, below)| above.swap_with_slice(below));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn flips_are_exact() {
        let mut rng = TransformRng::new(0, 0, 0);
        for channels in 1..=5 {
            let horizontal = HorizontalFlip { p: 1.0 }.apply(ramp(3, 2, channels), &mut rng).unwrap();
            assert!(agrees(&horizontal));
            assert_eq!(horizontal.target.as_slice(), [2, 1, 0, 5, 4, 3]);
            let vertical = VerticalFlip { p: 1.0 }.apply(ramp(2, 3, channels), &mut rng).unwrap();
            assert!(agrees(&vertical));
            assert_eq!(vertical.target.as_slice(), [4, 5, 2, 3, 0, 1]);
        }
    }

    #[test]
    fn channels_keep_their_order() {
        let mut values = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        flip_columns(&mut values, 2, 5);
        assert_eq!(values, [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn p_is_a_share() {
        let flipped = (0..1000)
            .filter(|i| {
                let mut rng = TransformRng::new(0, 0, *i);
                HorizontalFlip { p: 0.25 }.apply(ramp(2, 1, 1), &mut rng).unwrap().target.as_slice() == [1, 0]
            })
            .count();
        assert!((200..300).contains(&flipped), "{flipped}");
    }
}
