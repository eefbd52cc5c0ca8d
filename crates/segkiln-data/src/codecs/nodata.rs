//! Pixels without data, as geographic rasters mark them.

use std::path::Path;

use crate::{DataError, Result};

/// Values that programs write where they have none.
const MARKS: [f32; 5] = [-9999.0, -99_999.0, -32_768.0, -32_767.0, -999_999.0];
/// No image has values of this magnitude.
const ABSURD: f32 = 1e15;

/// A sample whose mean over an image can be taken.
pub(super) trait Sample: Copy + PartialEq {
    fn value(self) -> f64;
    fn of(mean: f64) -> Self;

    /// The mark as such samples have it.
    fn mark(mark: f64) -> f64 {
        mark
    }
}

macro_rules! sample {
    ($($t:ty),*) => {$(
        impl Sample for $t {
            fn value(self) -> f64 {
                self as f64
            }

            fn of(mean: f64) -> Self {
                mean.round() as Self
            }
        }
    )*};
}
sample!(u8, u16, u32);

impl Sample for f32 {
    fn value(self) -> f64 {
        self.into()
    }

    fn of(mean: f64) -> Self {
        mean as Self
    }

    fn mark(mark: f64) -> f64 {
        of_floats(mark)
    }
}

/// The number that GDAL's tag holds as text.
pub(crate) fn of_tag(text: &str) -> Option<f64> {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0').parse().ok()
}

/// The mark as floats of 32 bits have it, which round -9999.9 as well as 2147483647.
pub(crate) fn of_floats(mark: f64) -> f64 {
    f64::from(mark as f32)
}

/// Returns true if a value marks missing data. Tags round such numbers as -3.4028235e38 in their own way.
pub(crate) fn is_mark(value: f64, mark: f64) -> bool {
    let near = if mark.is_finite() && mark.abs() > 1e30 { mark.abs() * 1e-4 } else { 0.0 };
    let infinite = value.is_infinite() && mark.abs() > f64::from(f32::MAX) && value.signum() == mark.signum();
    (value.is_nan() && mark.is_nan()) || infinite || (value - mark).abs() <= near
}

/// Puts the mean of a channel's other pixels where all channels of a pixel are `missing`.
pub(super) fn fill<T: Sample>(values: &mut [T], channels: usize, missing: Option<f64>, path: &Path) -> Result<()> {
    let Some(missing) = missing else { return Ok(()) };
    let mark = T::mark(missing);
    let is_missing = |value: &T| is_mark(value.value(), mark);
    let gone: Vec<bool> = values.chunks_exact(channels).map(|pixel| pixel.iter().all(is_missing)).collect();
    let pixels = gone.iter().filter(|gone| !**gone).count();
    if pixels == gone.len() {
        return Ok(());
    }
    if pixels == 0 {
        let reason = format!("all its pixels are {missing}, which marks missing data");
        return Err(DataError::Decode { path: path.into(), format: "an image", reason });
    }
    for channel in 0..channels {
        let there = values.iter().skip(channel).step_by(channels).zip(&gone).filter(|(_, gone)| !**gone);
        let mean = T::of(there.map(|(value, _)| value.value()).sum::<f64>() / pixels as f64);
        let missing = values.iter_mut().skip(channel).step_by(channels).zip(&gone).filter(|(_, gone)| **gone);
        missing.for_each(|(value, _)| *value = mean);
    }
    Ok(())
}

/// Returns true for a value that no image has.
pub(crate) fn is_absurd(value: f32) -> bool {
    value.abs() > ABSURD
}

/// Refuses floats that are not finite, and in images such as can only mark missing data.
pub(super) fn check(values: &[f32], channels: usize, width: u32, is_image: bool, path: &Path) -> Result<()> {
    let place = |at: usize| {
        let pixel = at / channels;
        ((pixel % width as usize) as u32, (pixel / width as usize) as u32)
    };
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let (x, y) = place(at);
        return Err(DataError::NotFinite { path: path.into(), x, y, value: values[at] });
    }
    if !is_image {
        return Ok(());
    }
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let mark = MARKS.contains(&least) && values.iter().all(|value| *value == least || *value > 0.1 * least);
    match values.iter().position(|value| is_absurd(*value) || (mark && *value == least)) {
        None => Ok(()),
        Some(at) => {
            let (x, y) = place(at);
            Err(DataError::MissingData { path: path.into(), x, y, value: values[at] })
        }
    }
}
