//! Output of a decoder: samples in the file's own type, before they become an image or labels.

use std::borrow::Cow;

use image::{DynamicImage, metadata::Orientation as Turn};
use segkiln_core::Rgb;

use crate::{ColorMode, Image};

/// Samples in the type of the file.
pub(crate) enum Samples<'a> {
    U8(Cow<'a, [u8]>),
    U16(Cow<'a, [u16]>),
    U32(Cow<'a, [u32]>),
    F32(Cow<'a, [f32]>),
}

impl Samples<'_> {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }
}

/// Interleaved samples, 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA) a pixel; `width` and `height` are at least 1.
pub(crate) struct Raster<'a> {
    pub width: u32,
    pub height: u32,
    pub channels: usize,
    pub samples: Samples<'a>,
    /// Bits of a sample in the file; 1 to 7 are kept in a whole byte, unscaled.
    pub bits: u8,
    /// The colors of an indexed file, whose one channel holds indices.
    pub palette: Option<Vec<Rgb>>,
}

impl<'a> From<&'a DynamicImage> for Raster<'a> {
    fn from(image: &'a DynamicImage) -> Self {
        use Samples::{F32, U8, U16};
        let (channels, samples) = match image {
            DynamicImage::ImageLuma8(b) => (1, U8(b.as_raw().into())),
            DynamicImage::ImageLumaA8(b) => (2, U8(b.as_raw().into())),
            DynamicImage::ImageRgb8(b) => (3, U8(b.as_raw().into())),
            DynamicImage::ImageRgba8(b) => (4, U8(b.as_raw().into())),
            DynamicImage::ImageLuma16(b) => (1, U16(b.as_raw().into())),
            DynamicImage::ImageLumaA16(b) => (2, U16(b.as_raw().into())),
            DynamicImage::ImageRgb16(b) => (3, U16(b.as_raw().into())),
            DynamicImage::ImageRgba16(b) => (4, U16(b.as_raw().into())),
            DynamicImage::ImageRgb32F(b) => (3, F32(b.as_raw().into())),
            DynamicImage::ImageRgba32F(b) => (4, F32(b.as_raw().into())),
            // The enum is non-exhaustive; a kind that is not known yet is taken in its 8-bit form.
            other => (4, U8(other.to_rgba8().into_raw().into())),
        };
        let bits = match &samples {
            U8(_) => 8,
            U16(_) => 16,
            Samples::U32(_) | F32(_) => 32,
        };
        Self { width: image.width(), height: image.height(), channels, samples, bits, palette: None }
    }
}

impl Raster<'_> {
    /// The colors of a palette in place of its indices.
    pub fn with_colors(self) -> Self {
        let (Some(colors), Samples::U8(indices)) = (&self.palette, &self.samples) else { return self };
        let color = |index: &u8| colors.get(usize::from(*index)).copied().unwrap_or_default();
        let samples = Samples::U8(indices.iter().flat_map(color).collect::<Vec<u8>>().into());
        Raster { channels: 3, samples, bits: 8, palette: None, ..self }
    }

    /// The raster as an orientation tag wants it shown.
    pub fn turned(self, turn: Turn) -> Self {
        if turn == Turn::NoTransforms {
            return self;
        }
        let size = [self.width as usize, self.height as usize];
        let turn_all = |samples: Samples<'_>| match samples {
            Samples::U8(v) => Samples::U8(turned(&v, size, self.channels, turn).into()),
            Samples::U16(v) => Samples::U16(turned(&v, size, self.channels, turn).into()),
            Samples::U32(v) => Samples::U32(turned(&v, size, self.channels, turn).into()),
            Samples::F32(v) => Samples::F32(turned(&v, size, self.channels, turn).into()),
        };
        let samples = turn_all(self.samples);
        let (width, height) = match turn.to_exif() {
            5.. => (self.height, self.width),
            _ => (self.width, self.height),
        };
        Raster { width, height, samples, ..self }
    }

    /// The image in `mode`: integers scaled to `[0, 1]`, floats as they are.
    pub fn to_image(&self, mode: ColorMode) -> Image {
        let channels = self.channels;
        let data = match &self.samples {
            Samples::U8(v) => convert(v, channels, mode, |v| f32::from(v) / 255.0),
            Samples::U16(v) => convert(v, channels, mode, |v| f32::from(v) / 65_535.0),
            Samples::U32(v) => convert(v, channels, mode, |v| (f64::from(v) / f64::from(u32::MAX)) as f32),
            Samples::F32(v) => convert(v, channels, mode, |v| v),
        };
        Image::from_parts(self.width, self.height, mode.channels(), data)
    }

    /// The image in the nearest type that `DynamicImage` has: 32-bit integers keep their upper 16 bits, gray floats
    /// become RGB.
    pub fn into_dynamic(self) -> DynamicImage {
        let Self { width, height, channels, samples, .. } = self;
        let dynamic = match (samples, channels) {
            (Samples::U8(v), n) => bytes(width, height, n, v.into_owned()),
            (Samples::U16(v), n) => words(width, height, n, v.into_owned()),
            (Samples::U32(v), n) => words(width, height, n, v.iter().map(|v| (v >> 16) as u16).collect()),
            (Samples::F32(v), 1 | 3) => {
                let rgb = convert(&v, channels, ColorMode::Rgb, |v| v);
                image::Rgb32FImage::from_raw(width, height, rgb).map(DynamicImage::from)
            }
            (Samples::F32(v), _) => {
                let rgba = convert(&v, channels, ColorMode::Rgba, |v| v);
                image::Rgba32FImage::from_raw(width, height, rgba).map(DynamicImage::from)
            }
        };
        dynamic.expect("a raster holds width * height * channels samples")
    }
}

/// Pixels turned by EXIF's rule: where tag `n` says that row 0 and column 0 of the file are shown.
fn turned<T: Copy>(samples: &[T], [width, height]: [usize; 2], channels: usize, turn: Turn) -> Vec<T> {
    let tag = turn.to_exif();
    let (shown_width, shown_height) = if tag >= 5 { (height, width) } else { (width, height) };
    let mut out = Vec::with_capacity(samples.len());
    for y in 0..shown_height {
        for x in 0..shown_width {
            let (column, row) = match tag {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                8 => (width - 1 - y, x),
                _ => (x, y),
            };
            let at = (row * width + column) * channels;
            out.extend_from_slice(&samples[at..at + channels]);
        }
    }
    out
}

fn bytes(width: u32, height: u32, channels: usize, v: Vec<u8>) -> Option<DynamicImage> {
    match channels {
        1 => image::GrayImage::from_raw(width, height, v).map(DynamicImage::from),
        2 => image::GrayAlphaImage::from_raw(width, height, v).map(DynamicImage::from),
        3 => image::RgbImage::from_raw(width, height, v).map(DynamicImage::from),
        _ => image::RgbaImage::from_raw(width, height, v).map(DynamicImage::from),
    }
}

fn words(width: u32, height: u32, channels: usize, v: Vec<u16>) -> Option<DynamicImage> {
    match channels {
        1 => image::ImageBuffer::from_raw(width, height, v).map(DynamicImage::ImageLuma16),
        2 => image::ImageBuffer::from_raw(width, height, v).map(DynamicImage::ImageLumaA16),
        3 => image::ImageBuffer::from_raw(width, height, v).map(DynamicImage::ImageRgb16),
        _ => image::ImageBuffer::from_raw(width, height, v).map(DynamicImage::ImageRgba16),
    }
}

/// Pixels of `channels` samples, 1 to 4, in another mode.
pub(crate) fn convert<T: Copy>(samples: &[T], channels: usize, mode: ColorMode, value: impl Fn(T) -> f32) -> Vec<f32> {
    match channels {
        1 => convert_pixels::<T, 1>(samples, mode, value),
        2 => convert_pixels::<T, 2>(samples, mode, value),
        3 => convert_pixels::<T, 3>(samples, mode, value),
        _ => convert_pixels::<T, 4>(samples, mode, value),
    }
}

/// [`convert`] with the number of channels known at compile time, so that the loops carry no branch.
fn convert_pixels<T: Copy, const S: usize>(samples: &[T], mode: ColorMode, value: impl Fn(T) -> f32) -> Vec<f32> {
    let rgb = |p: &[T; S]| {
        let first = value(p[0]);
        if S <= 2 { [first; 3] } else { [first, value(p[1]), value(p[2])] }
    };
    let alpha = |p: &[T; S]| if S.is_multiple_of(2) { value(p[S - 1]) } else { 1.0 };
    let (pixels, _) = samples.as_chunks::<S>();
    let mut out = vec![0.0; pixels.len() * mode.channels()];
    match mode {
        ColorMode::Gray if S <= 2 => out.iter_mut().zip(pixels).for_each(|(out, p)| *out = value(p[0])),
        ColorMode::Gray => out.iter_mut().zip(pixels).for_each(|(out, p)| *out = luma(rgb(p))),
        ColorMode::Rgb => out.as_chunks_mut().0.iter_mut().zip(pixels).for_each(|(out, p)| *out = rgb(p)),
        ColorMode::Rgba => out.as_chunks_mut().0.iter_mut().zip(pixels).for_each(|(out, p)| {
            let [r, g, b] = rgb(p);
            *out = [r, g, b, alpha(p)];
        }),
    }
    out
}

/// ITU-R BT.601 luma.
pub(crate) fn luma([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}
