use burn::tensor::TensorData;
use image::{DynamicImage, RgbImage};
use segkiln_core::{Classes, LabelMap};
use segkiln_data::{Cleaning, DataError, DenseCrf, Image, draw};

use crate::PredictError;

/// The result, filled pixel by pixel from the top.
pub(crate) struct ResultRows {
    classes: Classes,
    width: usize,
    height: usize,
    labels: Vec<u32>,
    /// `[class][row][column]`
    probabilities: Option<Vec<f32>>,
    /// The first pixel for which the network gave no number.
    undefined: Option<usize>,
}

impl ResultRows {
    pub(crate) fn new(classes: Classes, width: usize, height: usize, probabilities: bool) -> Self {
        let probabilities = probabilities.then(|| vec![0.0; classes.count() * width * height]);
        Self { classes, width, height, labels: Vec::with_capacity(width * height), probabilities, undefined: None }
    }

    pub(crate) fn push(&mut self, values: impl Iterator<Item = f32>) {
        let (mut best, mut highest) = (0, f32::NEG_INFINITY);
        let (pixel, plane) = (self.labels.len(), self.width * self.height);
        for (class, value) in values.enumerate() {
            if value.is_nan() {
                self.undefined.get_or_insert(pixel);
            }
            if value > highest {
                (best, highest) = (class as u32, value);
            }
            if let Some(probabilities) = &mut self.probabilities {
                probabilities[class * plane + pixel] = value;
            }
        }
        self.labels.push(best);
    }

    /// The result of refining probabilities `[class][row][column]` of an image.
    pub(crate) fn refined(
        classes: Classes,
        probabilities: &[f32],
        crf: &DenseCrf,
        image: &Image,
        keep: bool,
    ) -> Result<Self, DataError> {
        let refined = crf.refine(probabilities, image)?;
        let mut result = Self::new(classes, image.width() as usize, image.height() as usize, keep);
        let plane = result.width * result.height;
        for pixel in 0..plane {
            result.push(refined[pixel..].iter().step_by(plane).copied());
        }
        Ok(result)
    }

    /// The probabilities, empty if they were not kept.
    pub(crate) fn into_probabilities(self) -> Vec<f32> {
        self.probabilities.unwrap_or_default()
    }

    fn check(&self) -> Result<(), PredictError> {
        let undefined = |pixel| PredictError::Undefined { x: pixel % self.width, y: pixel / self.width };
        self.undefined.map_or(Ok(()), |pixel| Err(undefined(pixel)))
    }

    /// The most likely class of each pixel, and the probabilities, none if they were not kept.
    pub(crate) fn into_parts(self) -> Result<(Vec<u32>, Vec<f32>), PredictError> {
        self.check()?;
        Ok((self.labels, self.probabilities.unwrap_or_default()))
    }

    pub(crate) fn into_segmentation(self) -> Result<Segmentation, PredictError> {
        self.check()?;
        let map = LabelMap::new(self.width as u32, self.height as u32, self.labels).expect("each pixel was pushed");
        Ok(Segmentation::new(self.classes, map, self.probabilities))
    }
}

/// Result of segmenting an image, in the image's own width and height.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    classes: Classes,
    map: LabelMap,
    probabilities: Option<Vec<f32>>,
    logits: Option<TensorData>,
}

/// Refuses steps for classes that a network does not have.
pub(crate) fn check_steps(cleaning: &Cleaning, classes: &Classes) -> Result<(), PredictError> {
    let count = classes.count() as u32;
    match cleaning.steps.iter().find(|(class, _)| *class >= count) {
        Some((class, _)) => {
            let reason = format!("one is for class {class}, and there are {count} classes");
            Err(PredictError::option("steps", reason))
        }
        None => Ok(()),
    }
}

impl Segmentation {
    /// `probabilities` are `[class][row][column]`.
    pub(crate) fn new(classes: Classes, map: LabelMap, probabilities: Option<Vec<f32>>) -> Self {
        Self { classes, map, probabilities, logits: None }
    }

    /// Cleans the map; probabilities and logits stay as they are.
    ///
    /// # Errors
    /// [`PredictError::Option`] if a step is for a class that the network does not have, and those of [`Cleaning::apply`].
    pub fn cleaned(self, cleaning: &Cleaning) -> Result<Self, PredictError> {
        check_steps(cleaning, &self.classes)?;
        Ok(Self { map: cleaning.apply(self.map)?, ..self })
    }

    pub(crate) fn with_logits(self, logits: Option<TensorData>) -> Self {
        Self { logits, ..self }
    }

    /// Returns the classes of the map's labels.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The most likely class of each pixel.
    pub fn map(&self) -> &LabelMap {
        &self.map
    }

    /// The probabilities of one class, row-major, in `[0, 1]`; none if they were not kept or there is no such class.
    pub fn probabilities(&self, class: usize) -> Option<&[f32]> {
        let plane = self.map.as_slice().len();
        self.probabilities.as_deref()?.get(class * plane..(class + 1) * plane)
    }

    /// The logits of the image itself, `[1, channels, height, width]` of the size in which the network saw it; none if
    /// [they were not kept](crate::SegmentOptions::logits).
    pub fn logits(&self) -> Option<&TensorData> {
        self.logits.as_ref()
    }

    /// Returns the share of the image's pixels that each class has, in `[0, 1]`.
    pub fn shares(&self) -> Vec<f64> {
        let mut pixels = vec![0u64; self.classes.count()];
        for label in self.map.as_slice() {
            pixels[*label as usize] += 1;
        }
        pixels.into_iter().map(|pixels| pixels as f64 / self.map.as_slice().len() as f64).collect()
    }

    /// The image with each class but the background in its color.
    ///
    /// # Errors
    /// If the image has another size, or `opacity` is not in `[0, 1]`.
    pub fn overlay(&self, image: &DynamicImage, opacity: f32) -> Result<RgbImage, PredictError> {
        Ok(draw::overlay(image, &self.map, &self.classes, opacity)?)
    }

    /// The classes' colors and names.
    pub fn legend(&self) -> RgbImage {
        draw::legend(&self.classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_probability_is_no_class() {
        let result = |values: [f32; 2]| {
            let mut rows = ResultRows::new(Classes::binary(), 1, 2, false);
            rows.push([0.25, 0.75].into_iter());
            rows.push(values.into_iter());
            rows.into_segmentation()
        };
        assert_eq!(result([0.75, 0.25]).unwrap().map().as_slice(), [1, 0]);
        for values in [[f32::NAN, 0.5], [0.5, f32::NAN]] {
            let error = result(values).unwrap_err().to_string();
            assert!(error.contains("(x 0, y 1)"), "{error}");
        }
    }
}
