//! Class maps that do not flicker.

use image::{DynamicImage, GenericImageView, RgbImage};
use segkiln_core::LabelMap;

use crate::{DataError, Result};

/// Exponential moving average of class probabilities over the frames of a film: `p = (1 - x) * new + x * p`.
///
/// ```
/// use segkiln_data::films::ProbabilitySmoother;
///
/// let mut smoother = ProbabilitySmoother::new(0.5)?;
/// assert_eq!(smoother.smooth(vec![0.0, 1.0])?, [0.0, 1.0]);
/// assert_eq!(smoother.smooth(vec![1.0, 0.0])?, [0.5, 0.5]);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ProbabilitySmoother {
    weight: f32,
    average: Vec<f32>,
}

impl ProbabilitySmoother {
    /// A smoother in which the frames before have the weight `x`, from 0 (no smoothing) to less than 1.
    ///
    /// # Errors
    /// [`DataError::Option`] if `x` is not in that range.
    pub fn new(x: f32) -> Result<Self> {
        if !(0.0..1.0).contains(&x) {
            return Err(DataError::option("smooth", format!("must be from 0 to less than 1, got {x}")));
        }
        Ok(Self { weight: x, average: Vec::new() })
    }

    /// Averages a frame's probabilities, in whatever order they lie, with those of the frames before.
    ///
    /// # Errors
    /// [`DataError::Option`] if there are more or fewer than in the frames before.
    pub fn smooth(&mut self, probabilities: Vec<f32>) -> Result<&[f32]> {
        if self.average.is_empty() {
            self.average = probabilities;
        } else if self.average.len() == probabilities.len() {
            for (average, new) in self.average.iter_mut().zip(&probabilities) {
                *average += (1.0 - self.weight) * (new - *average);
            }
        } else {
            let (before, now) = (self.average.len(), probabilities.len());
            let reason = format!("the frames before had {before} probabilities, this one has {now}");
            return Err(DataError::option("probabilities", reason));
        }
        Ok(&self.average)
    }
}

/// The class of the largest probability of each pixel, the first of several.
///
/// # Shapes
/// - probabilities `[class][row][column]`, at least one class
///
/// # Errors
/// [`DataError::Option`] if they are not `width * height` values a class.
///
/// ```
/// use segkiln_data::films::most_likely;
///
/// assert_eq!(most_likely(&[0.2, 0.9, 0.8, 0.1], 2, 1)?.as_slice(), [1, 0]);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
pub fn most_likely(probabilities: &[f32], width: u32, height: u32) -> Result<LabelMap> {
    let plane = width as usize * height as usize;
    if plane == 0 || probabilities.is_empty() || !probabilities.len().is_multiple_of(plane) {
        let reason = format!("{} are no planes of {width}x{height}", probabilities.len());
        return Err(DataError::option("probabilities", reason));
    }
    let mut map = LabelMap::filled(width, height, 0);
    let mut best = probabilities[..plane].to_vec();
    for (class, values) in probabilities.chunks_exact(plane).enumerate().skip(1) {
        for ((label, best), value) in map.as_mut_slice().iter_mut().zip(&mut best).zip(values) {
            if value > best {
                (*label, *best) = (class as u32, *value);
            }
        }
    }
    Ok(map)
}

/// Share of the still pixels that change their class from one frame to the next: the flicker that a viewer sees.
///
/// A pixel is still if no 8-bit channel changes by more than a tolerance.
#[derive(Debug, Clone)]
pub struct Flicker {
    tolerance: u8,
    before: Option<(RgbImage, LabelMap)>,
    still: u64,
    changed: u64,
}

impl Default for Flicker {
    /// With a tolerance of 4 of 255.
    fn default() -> Self {
        Self::new(4)
    }
}

impl Flicker {
    /// Creates the figure; pixels are still if their channels change by at most `tolerance` of 255.
    pub fn new(tolerance: u8) -> Self {
        Self { tolerance, before: None, still: 0, changed: 0 }
    }

    /// Counts a frame and its class map.
    ///
    /// # Errors
    /// [`DataError::SizeMismatch`] if they differ in size.
    pub fn add(&mut self, frame: &DynamicImage, map: &LabelMap) -> Result<()> {
        let (image_size, mask_size) = (frame.dimensions().into(), map.size());
        if image_size != mask_size {
            let (image, mask, cure) = ("frame".into(), "class map".into(), "they must be equal".into());
            return Err(DataError::SizeMismatch { image, image_size, mask, mask_size, cure });
        }
        let frame = frame.to_rgb8();
        if let Some((last, classes)) = &self.before
            && last.dimensions() == frame.dimensions()
        {
            let (now, _) = frame.as_raw().as_chunks::<3>();
            let (last, _) = last.as_raw().as_chunks::<3>();
            for (((a, b), class), before) in now.iter().zip(last).zip(map.as_slice()).zip(classes.as_slice()) {
                if a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= self.tolerance) {
                    self.still += 1;
                    self.changed += u64::from(class != before);
                }
            }
        }
        self.before = Some((frame, map.clone()));
        Ok(())
    }

    /// The share, from 0 to 1; none before two frames have still pixels in common.
    pub fn share(&self) -> Option<f64> {
        (self.still > 0).then(|| self.changed as f64 / self.still as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn still_pixels_alone_count() {
        let picture =
            |values: [u8; 4]| DynamicImage::from(RgbImage::from_fn(4, 1, |x, _| image::Rgb([values[x as usize]; 3])));
        let map = |labels: [u32; 4]| LabelMap::new(4, 1, labels.to_vec()).unwrap();
        let mut flicker = Flicker::default();
        flicker.add(&picture([0, 0, 0, 0]), &map([0, 0, 1, 1])).unwrap();
        assert_eq!(flicker.share(), None);
        // The last pixel moves; of the other three, one changes its class.
        flicker.add(&picture([0, 4, 0, 5]), &map([0, 1, 1, 0])).unwrap();
        assert_eq!(flicker.share(), Some(1.0 / 3.0));
        assert!(flicker.add(&picture([0; 4]), &LabelMap::filled(3, 1, 0)).is_err());
    }

    #[test]
    fn smoothing_keeps_sums_and_refuses_other_numbers() {
        let mut smoother = ProbabilitySmoother::new(0.75).unwrap();
        smoother.smooth(vec![0.2, 0.8]).unwrap();
        let smoothed = smoother.smooth(vec![1.0, 0.0]).unwrap();
        assert!((smoothed[0] - 0.4).abs() < 1e-6 && (smoothed[1] - 0.6).abs() < 1e-6, "{smoothed:?}");
        assert!(smoother.smooth(vec![1.0]).is_err());
        assert!([1.0, -0.1, f32::NAN].iter().all(|x| ProbabilitySmoother::new(*x).is_err()));
    }
}
