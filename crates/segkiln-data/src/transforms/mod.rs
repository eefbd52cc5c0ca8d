//! Transforms that move an image and its target together, and transforms of the image's values. Each works on any
//! [`Target`]: on samples with a label map, and on samples with objects.
//!
//! **Sampling.** Pixel (x, y) covers the square from (x, y) to (x + 1, y + 1); its center is at (x + 0.5, y + 0.5).
//! Where a transform moves centers off centers, the image is sampled bilinearly and the mask takes the label in whose
//! square the point falls. Flips, turns and crops move pixels whole and change no value.
//!
//! **Beyond the edge** a [`Border`] says what is seen; by default image and mask are mirrored, so that mirrored objects
//! keep their labels. Objects in [`Instances`](segkiln_core::Instances) end at the edge.
//!
//! **Values.** Transforms of color expect values in `[0, 1]` and clamp to it, so they come before
//! [`Normalize`]. They leave the fourth channel (alpha) of four as it is.
//!
//! **Random numbers** come from the [`TransformRng`] that is handed in, and from nowhere else.

mod affine;
mod blur;
mod brightness;
mod compose;
mod contrast;
mod crop;
mod cutout;
mod elastic;
mod flip;
mod foreground_crop;
mod gamma;
mod geometry;
mod hue;
mod jitter;
mod motion;
mod noise;
mod pad;
mod resize;
mod saturation;
mod stain;
mod target;
mod turn;
mod warp;

use std::fmt::Debug;

use segkiln_core::LabelMap;

pub use affine::Affine;
pub use blur::GaussianBlur;
pub use brightness::Brightness;
pub use compose::{Compose, Probability};
pub use contrast::Contrast;
pub use crop::{CenterCrop, RandomCrop};
pub use cutout::Cutout;
pub use elastic::ElasticDeformation;
pub use flip::{HorizontalFlip, VerticalFlip};
pub use foreground_crop::ForegroundCrop;
pub use gamma::Gamma;
pub(crate) use geometry::crop;
pub use geometry::{Border, Window};
pub use hue::Hue;
pub use jitter::ScaleJitter;
pub use motion::Motion;
pub use noise::GaussianNoise;
pub use pad::PadToMultiple;
pub use resize::Resize;
pub use saturation::Saturation;
pub use stain::StainJitter;
pub use target::Target;
pub use turn::RandomTurn90;
pub use warp::Warp;

use crate::{DataError, Image, Normalize, Result, Sample, TransformRng};

/// A change of a sample. Random choices are drawn from `rng` alone.
///
/// ```
/// use segkiln_data::{Result, Sample, TransformRng, transforms::Transform};
///
/// /// Turns the image to its negative.
/// #[derive(Debug)]
/// struct Invert;
///
/// impl Transform for Invert {
///     fn apply(&self, mut sample: Sample, _rng: &mut TransformRng) -> Result<Sample> {
///         sample.image.as_mut_slice().iter_mut().for_each(|value| *value = 1.0 - *value);
///         Ok(sample)
///     }
/// }
/// ```
pub trait Transform<T = LabelMap>: Send + Sync + Debug {
    /// The changed sample; image and target keep equal sizes.
    ///
    /// # Errors
    /// If the sample does not fit the transform; each says when.
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>>;
}

impl<T, U: Transform<T> + ?Sized> Transform<T> for Box<U> {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        (**self).apply(sample, rng)
    }
}

impl<T, U: Transform<T> + ?Sized> Transform<T> for std::sync::Arc<U> {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        (**self).apply(sample, rng)
    }
}

impl<T: Target> Transform<T> for Normalize {
    fn apply(&self, mut sample: Sample<T>, _rng: &mut TransformRng) -> Result<Sample<T>> {
        // The inherent method, which normalizes an image.
        Normalize::apply(self, &mut sample.image)?;
        Ok(sample)
    }
}

/// Bounds of a random number, checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bounds {
    low: f32,
    high: f32,
}

impl Bounds {
    /// `low..=high` within `allowed`.
    pub(crate) fn new(
        option: &'static str,
        [low, high]: [f32; 2],
        allowed: std::ops::RangeInclusive<f32>,
    ) -> Result<Self> {
        if low <= high && allowed.contains(&low) && allowed.contains(&high) {
            return Ok(Self { low, high });
        }
        let (least, most) = allowed.into_inner();
        let reason = format!("needs two bounds in order between {least} and {most}, got [{low}, {high}]");
        Err(DataError::option(option, reason))
    }

    fn draw(self, rng: &mut TransformRng) -> f32 {
        rng.uniform(self.low, self.high)
    }
}

/// A width and a height of at least 1, and a number of pixels that memory may hold.
fn check_size(option: &'static str, width: u32, height: u32) -> Result<()> {
    const MOST_PIXELS: u64 = 1 << 32;
    if (1..=MOST_PIXELS).contains(&(u64::from(width) * u64::from(height))) {
        return Ok(());
    }
    let reason = format!("both sides must be at least 1 and the pixels at most {MOST_PIXELS}, got {width}x{height}");
    Err(DataError::option(option, reason))
}

/// Number of an image's channels that are colors; the rest is alpha.
fn color_channels(image: &Image) -> usize {
    match image.channels() {
        4 => 3,
        n => n,
    }
}

/// Changes each color value, and clamps it to `[0, 1]`.
fn map_colors(image: &mut Image, change: impl Fn(f32) -> f32) {
    let colors = color_channels(image);
    let channels = image.channels();
    let clamped = |value: &mut f32| *value = change(*value).clamp(0.0, 1.0);
    if colors == channels {
        image.as_mut_slice().iter_mut().for_each(clamped);
    } else {
        for pixel in image.as_mut_slice().chunks_exact_mut(channels) {
            pixel[..colors].iter_mut().for_each(clamped);
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
