use super::{
    Transform,
    flip::{flip_columns, flip_rows},
    geometry::rebuilt,
};
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
fn turn(mut sample: Sample, quarters: usize) -> Sample {
    let (width, height) = (sample.image.width(), sample.image.height());
    let (w, h) = (width as usize, height as usize);
    match quarters % 4 {
        0 => sample,
        1 => rearrange(sample, height, width, |x, y| x * w + w - 1 - y),
        2 => {
            flip_columns(&mut sample);
            flip_rows(&mut sample);
            sample
        }
        _ => rearrange(sample, height, width, |x, y| (h - 1 - x) * w + y),
    }
}

/// A sample of another size each of whose pixels is that at index `source(x, y)` of the old one.
fn rearrange(sample: Sample, width: u32, height: u32, source: impl Fn(usize, usize) -> usize) -> Sample {
    let channels = sample.image.channels();
    let columns = width as usize;
    let mut values = vec![0.0; sample.image.as_slice().len()];
    let mut labels = vec![0; sample.mask.as_slice().len()];
    rearrange_pixels::<_, 1>(sample.mask.as_slice(), &mut labels, columns, &source);
    let old = sample.image.as_slice();
    // With the number of channels known, a pixel is a few moves and not a call.
    match channels {
        1 => rearrange_pixels::<_, 1>(old, &mut values, columns, &source),
        3 => rearrange_pixels::<_, 3>(old, &mut values, columns, &source),
        4 => rearrange_pixels::<_, 4>(old, &mut values, columns, &source),
        _ => {
            for (to, pixel) in values.chunks_exact_mut(channels).enumerate() {
                let from = source(to % columns, to / columns) * channels;
                pixel.copy_from_slice(&old[from..from + channels]);
            }
        }
    }
    rebuilt(sample.name, width, height, channels, values, labels)
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
        let turned = |quarters| turn(ramp(3, 2, 3), quarters);
        assert_eq!(turned(1).mask.as_slice(), [2, 5, 1, 4, 0, 3]);
        assert_eq!((turned(1).mask.width(), turned(1).image.height()), (2, 3));
        assert_eq!(turned(2).mask.as_slice(), [5, 4, 3, 2, 1, 0]);
        assert_eq!(turned(3).mask.as_slice(), [3, 0, 4, 1, 5, 2]);
        assert!((0..4).all(|quarters| (1..=5).all(|channels| agrees(&turn(ramp(3, 2, channels), quarters)))));
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
