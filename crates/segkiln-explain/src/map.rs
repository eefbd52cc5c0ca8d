use segkiln_core::Size;

use crate::{ExplainError, Result};

/// A number for each pixel of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    width: u32,
    height: u32,
    values: Vec<f32>,
    is_signed: bool,
}

impl Map {
    /// A map of `height * width` values, row-major. In one with signs, negative values are against the target.
    ///
    /// # Errors
    /// [`ExplainError::Undefined`] if a value is not finite.
    ///
    /// # Panics
    /// If the number of values is another one.
    pub fn new([height, width]: [usize; 2], values: Vec<f32>, is_signed: bool) -> Result<Self> {
        assert_eq!(values.len(), height * width, "{height} rows of {width} values");
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(ExplainError::Undefined(*value));
        }
        Ok(Self { width: width as u32, height: height as u32, values, is_signed })
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        Size { width: self.width(), height: self.height() }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The values, row-major.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// Whether negative values are against the target.
    pub fn is_signed(&self) -> bool {
        self.is_signed
    }

    /// The lowest and the highest value.
    pub fn range(&self) -> [f32; 2] {
        let fold = |pick: fn(f32, f32) -> f32| self.values.iter().copied().reduce(pick).unwrap_or(0.0);
        [fold(f32::min), fold(f32::max)]
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.values.iter().copied().map(f64::from).sum::<f64>() / self.values.len().max(1) as f64
    }

    /// The amount that 99 % of the values do not exceed, or the largest amount where that is 0.
    pub fn strongest(&self) -> f32 {
        let mut amounts: Vec<f32> = self.values.iter().map(|value| value.abs()).collect();
        if amounts.is_empty() {
            return 0.0;
        }
        let at = (amounts.len() - 1) * 99 / 100;
        let (_, value, above) = amounts.select_nth_unstable_by(at, f32::total_cmp);
        if *value > 0.0 { *value } else { above.iter().copied().fold(0.0, f32::max) }
    }
}
