use image::DynamicImage;
use serde::{Deserialize, Serialize};

use segkiln_core::Size;

use crate::{DataError, Result, raster::Raster};

/// Channels that an image is read into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorMode {
    /// One channel; colors become luma, `0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601, as PIL and OpenCV).
    Gray,
    /// Three channels; gray is repeated, alpha is dropped.
    #[default]
    Rgb,
    /// Four channels; alpha is 1 where the file has none.
    Rgba,
}

impl ColorMode {
    /// Number of channels: 1, 3 or 4.
    pub fn channels(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// An image of `f32` values on the host, row-major with the channels of a pixel side by side: `[height, width,
/// channels]`.
///
/// Values of 8-, 16- and 32-bit integer files lie in `[0, 1]`; float files keep theirs. An image has at least one pixel
/// and one channel.
///
/// ```
/// use segkiln_data::Image;
///
/// let image = Image::new(2, 1, 3, vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0])?; // a red and a blue pixel
/// assert_eq!((image.width(), image.height(), image.channels()), (2, 1, 3));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    width: u32,
    height: u32,
    channels: usize,
    data: Vec<f32>,
}

impl Image {
    /// An image from `height * width * channels` values.
    ///
    /// # Errors
    /// [`DataError::ImageShape`] if the number of values is another one, or zero.
    pub fn new(width: u32, height: u32, channels: usize, data: Vec<f32>) -> Result<Self> {
        let expected = u128::from(width) * u128::from(height) * channels as u128;
        if expected == 0 || data.len() as u128 != expected {
            return Err(DataError::ImageShape { width, height, channels, expected, actual: data.len() });
        }
        Ok(Self { width, height, channels, data })
    }

    /// Creates an image of values whose number is known to be right.
    pub(crate) fn from_parts(width: u32, height: u32, channels: usize, data: Vec<f32>) -> Self {
        debug_assert_eq!(data.len(), width as usize * height as usize * channels);
        Self { width, height, channels, data }
    }

    /// The pixels of a decoded image: integers scaled to `[0, 1]` by their largest value, floats as they are.
    ///
    /// # Panics
    /// If `image` has no pixels.
    pub fn from_dynamic(image: &DynamicImage, mode: ColorMode) -> Self {
        assert!(image.width() > 0 && image.height() > 0, "an image needs at least one pixel");
        Raster::from(image).to_image(mode)
    }

    /// The image in 8 bits a channel: values are clamped to `[0, 1]`, scaled by 255 and rounded.
    ///
    /// One channel gives gray, three give RGB, four give RGBA; of another number, the first is shown as gray.
    pub fn to_dynamic(&self) -> DynamicImage {
        let byte = |value: &f32| (value.clamp(0.0, 1.0) * 255.0).round() as u8;
        let (width, height) = (self.width, self.height);
        let shown = match self.channels {
            1 | 3 | 4 => self.data.iter().map(byte).collect(),
            n => self.data.iter().step_by(n).map(byte).collect(),
        };
        let dynamic = match self.channels {
            3 => image::RgbImage::from_raw(width, height, shown).map(DynamicImage::from),
            4 => image::RgbaImage::from_raw(width, height, shown).map(DynamicImage::from),
            _ => image::GrayImage::from_raw(width, height, shown).map(DynamicImage::from),
        };
        dynamic.expect("an image holds width * height * channels values")
    }

    /// The part of `width` × `height` pixels whose upper left corner is at column `left` of row `top`.
    ///
    /// # Panics
    /// If it reaches past the image.
    pub fn crop(&self, left: u32, top: u32, width: u32, height: u32) -> Self {
        let inside = |start: u32, length: u32, side: u32| start.checked_add(length).is_some_and(|end| end <= side);
        assert!(
            inside(left, width, self.width) && inside(top, height, self.height),
            "{width}x{height} pixels at ({left}, {top}) are not within {}x{}",
            self.width,
            self.height
        );
        let row = self.width as usize * self.channels;
        let (start, length) = (left as usize * self.channels, width as usize * self.channels);
        let rows = self.data.chunks_exact(row.max(1)).skip(top as usize).take(height as usize);
        let data = rows.flat_map(|row| &row[start..start + length]).copied().collect();
        Self { width, height, channels: self.channels, data }
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

    /// Values a pixel.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The values, `[height, width, channels]`.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// The values, `[height, width, channels]`, writable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values, `[height, width, channels]`, without a copy.
    pub fn into_vec(self) -> Vec<f32> {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_count_and_zero_are_refused() {
        let error = Image::new(2, 2, 3, vec![0.0; 11]).unwrap_err().to_string();
        assert!(error.contains("2x2 pixels and 3 channels needs 12"), "{error}");
        assert!(Image::new(0, 2, 3, vec![]).is_err());
        assert!(Image::new(2, 2, 0, vec![]).is_err());
        assert!(Image::new(u32::MAX, u32::MAX, usize::MAX, vec![]).is_err());
    }

    #[test]
    fn modes_convert() {
        let rgb = DynamicImage::from(image::RgbImage::from_raw(1, 1, vec![255, 0, 51]).unwrap());
        assert_eq!(Image::from_dynamic(&rgb, ColorMode::Rgb).as_slice(), [1.0, 0.0, 0.2]);
        assert_eq!(Image::from_dynamic(&rgb, ColorMode::Rgba).as_slice(), [1.0, 0.0, 0.2, 1.0]);
        let luma = Image::from_dynamic(&rgb, ColorMode::Gray).as_slice()[0];
        assert!((luma - (0.299 + 0.2 * 0.114)).abs() < 1e-6);

        let gray_alpha = DynamicImage::from(image::GrayAlphaImage::from_raw(1, 1, vec![51, 102]).unwrap());
        assert_eq!(Image::from_dynamic(&gray_alpha, ColorMode::Gray).as_slice(), [0.2]);
        assert_eq!(Image::from_dynamic(&gray_alpha, ColorMode::Rgb).as_slice(), [0.2; 3]);
        assert_eq!(Image::from_dynamic(&gray_alpha, ColorMode::Rgba).as_slice(), [0.2, 0.2, 0.2, 0.4]);
    }

    #[test]
    fn to_dynamic_clamps_and_returns_the_bytes() {
        let bytes: Vec<u8> = (0..=255).collect();
        let gray = DynamicImage::from(image::GrayImage::from_raw(16, 16, bytes.clone()).unwrap());
        assert_eq!(Image::from_dynamic(&gray, ColorMode::Gray).to_dynamic().into_bytes(), bytes);
        let wild = Image::new(1, 1, 3, vec![-1.0, 7.0, 0.5]).unwrap();
        assert_eq!(wild.to_dynamic().into_bytes(), [0, 255, 128]);
    }
}
