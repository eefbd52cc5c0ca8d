use super::Transform;
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
    fn apply(&self, mut sample: Sample, rng: &mut TransformRng) -> Result<Sample> {
        if rng.chance(self.p) {
            flip_columns(&mut sample);
        }
        Ok(sample)
    }
}

impl Transform for VerticalFlip {
    fn apply(&self, mut sample: Sample, rng: &mut TransformRng) -> Result<Sample> {
        if rng.chance(self.p) {
            flip_rows(&mut sample);
        }
        Ok(sample)
    }
}

pub(super) fn flip_columns(sample: &mut Sample) {
    let (width, channels) = (sample.image.width() as usize, sample.image.channels());
    for row in sample.image.as_mut_slice().chunks_exact_mut(width * channels) {
        match channels {
            1 => row.reverse(),
            3 => row.as_chunks_mut::<3>().0.reverse(),
            4 => row.as_chunks_mut::<4>().0.reverse(),
            _ => {
                row.reverse();
                row.chunks_exact_mut(channels).for_each(<[f32]>::reverse);
            }
        }
    }
    sample.mask.as_mut_slice().chunks_exact_mut(width).for_each(<[u32]>::reverse);
}

pub(super) fn flip_rows(sample: &mut Sample) {
    fn flip<T>(data: &mut [T], stride: usize) {
        let rows = data.len() / stride;
        let (upper, lower) = data.split_at_mut(rows / 2 * stride);
        let pairs = upper.chunks_exact_mut(stride).zip(lower.chunks_exact_mut(stride).rev());
        pairs.for_each(|(above, below)| above.swap_with_slice(below));
    }
    let (width, channels) = (sample.image.width() as usize, sample.image.channels());
    flip(sample.image.as_mut_slice(), width * channels);
    flip(sample.mask.as_mut_slice(), width);
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
            assert_eq!(horizontal.mask.as_slice(), [2, 1, 0, 5, 4, 3]);
            let vertical = VerticalFlip { p: 1.0 }.apply(ramp(2, 3, channels), &mut rng).unwrap();
            assert!(agrees(&vertical));
            assert_eq!(vertical.mask.as_slice(), [4, 5, 2, 3, 0, 1]);
        }
    }

    #[test]
    fn channels_keep_their_order() {
        let mut sample = ramp(2, 1, 5);
        sample.image.as_mut_slice().iter_mut().enumerate().for_each(|(i, value)| *value = i as f32);
        flip_columns(&mut sample);
        assert_eq!(sample.image.as_slice(), [5.0, 6.0, 7.0, 8.0, 9.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
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
