use super::{Transform, geometry::rearrange};
use crate::{Result, Sample, TransformRng};

/// Turns by 0, 90, 180 or 270 degrees, each equally likely. Width and height change places at 90 and 270, so that a
/// batch of images that are not square needs a crop after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomTurn90;

impl Transform for RandomTurn90 {
    fn apply(&self, sample: Sample, rng: &mut TransformRng) -> Result<Sample> {
        Ok(turn(sample, rng.below(4)))
    }
}

/// `quarters` turns of 90 degrees counter-clockwise.
fn turn(sample: Sample, quarters: usize) -> Sample {
    let (width, height) = (sample.image.width(), sample.image.height());
    let (w, h) = (width as usize, height as usize);
    match quarters % 4 {
        0 => sample,
        1 => rearrange(sample, height, width, |x, y| x * w + w - 1 - y),
        2 => rearrange(sample, width, height, |x, y| (h - 1 - y) * w + w - 1 - x),
        _ => rearrange(sample, height, width, |x, y| (h - 1 - x) * w + y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn turns_are_exact() {
        // 0 1 2     2 5     5 4 3     3 0
        // 3 4 5     1 4     2 1 0     4 1
        //           0 3               5 2
        let turned = |quarters| turn(ramp(3, 2, 3), quarters);
        assert_eq!(turned(1).mask.as_slice(), [2, 5, 1, 4, 0, 3]);
        assert_eq!((turned(1).mask.width(), turned(1).image.height()), (2, 3));
        assert_eq!(turned(2).mask.as_slice(), [5, 4, 3, 2, 1, 0]);
        assert_eq!(turned(3).mask.as_slice(), [3, 0, 4, 1, 5, 2]);
        assert!((0..4).all(|quarters| agrees(&turned(quarters))));
        assert_eq!((0..4).fold(ramp(3, 2, 1), |sample, _| turn(sample, 1)), ramp(3, 2, 1));
    }

    #[test]
    fn all_turns_occur() {
        let mut rng = TransformRng::new(0, 0, 0);
        let mut seen: Vec<Vec<u32>> =
            (0..40).map(|_| RandomTurn90.apply(ramp(3, 2, 1), &mut rng).unwrap().mask.into_vec()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }
}
