use super::{Motion, Target, Transform};
use crate::{Result, Sample, TransformRng};

/// Turns by 0, 90, 180 or 270 degrees, each equally likely. Width and height change places at 90 and 270, so that a
/// batch of images that are not square needs a crop after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomTurn90;

impl<T: Target> Transform<T> for RandomTurn90 {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        match rng.below(4) {
            0 => Ok(sample),
            quarters => sample.moved(&Motion::Turn(quarters)),
        }
    }
}

/// `quarters` turns of 90 degrees counter-clockwise of `width` x `height` pixels; an odd number.
pub(super) fn turn<T: Copy + Default>(old: &[T], width: u32, height: u32, channels: usize, quarters: usize) -> Vec<T> {
    let (w, h) = (width as usize, height as usize);
    match quarters % 4 {
        1 => rearrange(old, h, channels, |x, y| x * w + w - 1 - y),
        _ => rearrange(old, h, channels, |x, y| (h - 1 - x) * w + y),
    }
}

/// Rows of `columns` pixels, each of which is that at index `source(x, y)` of the old ones.
fn rearrange<T: Copy + Default>(
    old: &[T],
    columns: usize,
    channels: usize,
    source: impl Fn(usize, usize) -> usize,
) -> Vec<T> {
    let mut new = vec![T::default(); old.len()];
    // With the number of channels known, a pixel is a few moves and not a call.
    match channels {
        1 => rearrange_pixels::<_, 1>(old, &mut new, columns, &source),
        3 => rearrange_pixels::<_, 3>(old, &mut new, columns, &source),
        4 => rearrange_pixels::<_, 4>(old, &mut new, columns, &source),
        _ => {
            for (to, pixel) in new.chunks_exact_mut(channels).enumerate() {
                let from = source(to % columns, to / columns) * channels;
                pixel.copy_from_slice(&old[from..from + channels]);
            }
        }
    }
    new
}

fn rearrange_pixels<T: Copy, const C: usize>(
    from: &[T],
    to: &mut [T],
    columns: usize,
    source: impl Fn(usize, usize) -> usize,
) {
    let (from, _) = from.as_chunks::<C>();
    for (y, row) in to.chunks_exact_mut(columns * C).enumerate() {
        for (x, pixel) in row.as_chunks_mut::<C>().0.iter_mut().enumerate() {
            *pixel = from[source(x, y)];
        }
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
        let turned = |quarters| ramp(3, 2, 3).moved(&Motion::Turn(quarters)).unwrap();
        assert_eq!(turned(1).target.as_slice(), [2, 5, 1, 4, 0, 3]);
        assert_eq!((turned(1).target.width(), turned(1).image.height()), (2, 3));
        assert_eq!(turned(2).target.as_slice(), [5, 4, 3, 2, 1, 0]);
        assert_eq!(turned(3).target.as_slice(), [3, 0, 4, 1, 5, 2]);
        for quarters in 0..5 {
            for channels in 1..=5 {
                assert!(agrees(&ramp(3, 2, channels).moved(&Motion::Turn(quarters)).unwrap()));
            }
        }
        let round = (0..4).fold(ramp(3, 2, 1), |sample, _| sample.moved(&Motion::Turn(1)).unwrap());
        assert_eq!(round, ramp(3, 2, 1));
    }

    #[test]
    fn all_turns_occur() {
        let mut rng = TransformRng::new(0, 0, 0);
        let mut seen: Vec<Vec<u32>> =
            (0..40).map(|_| RandomTurn90.apply(ramp(3, 2, 1), &mut rng).unwrap().target.into_vec()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }
}
