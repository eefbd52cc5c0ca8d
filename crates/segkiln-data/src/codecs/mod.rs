//! Reading and writing files: every decoder behind one set of limits, every error with the name of its file.
//!
//! The format is told from a file's first bytes, and from its extension where these are unknown. Orientation tags are
//! applied unless [`DecodeOptions::orientation`] says otherwise.

mod binary;
mod jpeg;
mod labels;
pub(crate) mod nodata;
mod options;
mod png;
pub(crate) mod tiff;
mod write;

use std::{
    fs::File,
    io::{Cursor, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use ::image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, error::LimitErrorKind,
    metadata::Orientation as Turn,
};
use segkiln_core::LabelMap;

pub use labels::MaskFormat;
pub use options::{DecodeOptions, Limits, Orientation};
pub(crate) use tiff::{colors as palette, rgb as rgb_of_ycbcr};
pub use write::{WholeFile, labels_to_image, refuse_replacing, write_image, write_labels, write_whole};

use crate::{
    ColorMode, DataError, Image, Result,
    raster::{Raster, Samples},
};

/// File extensions of the formats that can be read, in lower case.
pub const EXTENSIONS: [&str; 7] = ["png", "jpg", "jpeg", "tif", "tiff", "bmp", "webp"];

/// Reads an image: PNG, JPEG, TIFF (8, 16 and 32 bits, integer and float), BMP or WebP.
///
/// `options` are [`Limits`] or all [`DecodeOptions`].
///
/// # Errors
/// If the file cannot be read, is damaged, truncated or larger than the limits, or holds a float that is not finite or
/// marks missing data.
///
/// ```
/// use segkiln_data::{ColorMode, Limits, read_image};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample/image.png");
///
/// let image = read_image(path, ColorMode::Gray, &Limits::default())?;
/// assert_eq!((image.width(), image.height(), image.channels()), (512, 512, 1));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
pub fn read_image(path: impl AsRef<Path>, mode: ColorMode, options: impl Into<DecodeOptions>) -> Result<Image> {
    read_with_facts(path, mode, options).map(|(image, _)| image)
}

/// Facts of an image file that its values do not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// EXIF's number of the turn that the orientation tag asks for, whether or not it was applied; 1, no turn, without a tag.
    pub orientation_tag: u8,
    /// Bits of a sample, if it is an integer.
    pub bits: Option<u8>,
}

/// Reads an image as [`read_image`] does, with facts of its file.
///
/// # Errors
/// As [`read_image`].
pub fn read_with_facts(
    path: impl AsRef<Path>,
    mode: ColorMode,
    options: impl Into<DecodeOptions>,
) -> Result<(Image, FileFacts)> {
    let (path, options) = (path.as_ref(), &options.into());
    let file = ImageFile::read(path, options)?;
    let bytes = 4 * mode.channels();
    match file.format {
        ImageFormat::Tiff => {
            let (raster, turn) = file.guarded(|| tiff::decode(&file, options, tiff::Use::Image, bytes))?;
            let bits = (!matches!(raster.samples, Samples::F32(_))).then_some(raster.bits);
            Ok((raster.with_colors().to_image(mode), FileFacts { orientation_tag: turn.to_exif(), bits }))
        }
        _ => {
            let (image, turn) = file.dynamic(options, bytes)?;
            let color = image.color();
            let bits = (color.bits_per_pixel() / u16::from(color.channel_count())) as u8;
            let facts = FileFacts { orientation_tag: turn.to_exif(), bits: (bits < 32).then_some(bits) };
            Ok((Image::from_dynamic(&image, mode), facts))
        }
    }
}

/// Reads an image in its own depth and channels, with the same formats, limits and errors as [`read_image`].
///
/// `DynamicImage` has no gray floats and no 32-bit integers: of TIFFs with these, floats become RGB and integers keep
/// their upper 16 bits.
pub fn read_dynamic(path: impl AsRef<Path>, options: impl Into<DecodeOptions>) -> Result<DynamicImage> {
    let options = &options.into();
    let file = ImageFile::read(path.as_ref(), options)?;
    match file.format {
        ImageFormat::Tiff => {
            let (raster, _) = file.guarded(|| tiff::decode(&file, options, tiff::Use::Image, 1))?;
            Ok(raster.with_colors().into_dynamic())
        }
        _ => file.dynamic(options, 1).map(|(image, _)| image),
    }
}

/// Reads a mask. What its values mean is said by `format`.
///
/// # Errors
/// As [`read_image`]; and if the file is a photograph rather than a mask (see [`MaskFormat`]), or has colors or values
/// that are no labels.
///
/// ```
/// use segkiln_data::{Limits, MaskFormat, read_labels};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample/labels.png");
///
/// let instances = read_labels(path, &MaskFormat::Instances, &Limits::default())?;
/// assert_eq!(instances.labels().len(), 1 + 125); // background and 125 nuclei
/// let binary = read_labels(path, &MaskFormat::Binary, &Limits::default())?;
/// assert_eq!(binary.labels(), [0, 1]);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
pub fn read_labels(path: impl AsRef<Path>, format: &MaskFormat, options: impl Into<DecodeOptions>) -> Result<LabelMap> {
    /// Bytes of a label.
    const LABEL: usize = 4;
    let options = &options.into();
    let file = ImageFile::read(path.as_ref(), options)?;
    labels::check_lossless(&file, format)?;
    let raster = match file.format {
        ImageFormat::Png => file.guarded(|| png::decode(&file, options, LABEL))?,
        ImageFormat::Tiff => {
            let purpose = match format {
                MaskFormat::Binary | MaskFormat::Threshold => tiff::Use::Levels,
                _ => tiff::Use::Labels,
            };
            file.guarded(|| tiff::decode(&file, options, purpose, LABEL))?.0
        }
        _ => {
            let (image, _) = file.dynamic(options, LABEL)?;
            return labels::from_raster(&Raster::from(&image), format, file.path);
        }
    };
    labels::from_raster(&raster, format, file.path)
}

/// The bytes of a file that may be an image.
struct ImageFile<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    format: ImageFormat,
}

impl<'a> ImageFile<'a> {
    fn read(path: &'a Path, options: &DecodeOptions) -> Result<Self> {
        let limits = &options.limits;
        let io = |source| DataError::io("read", path, source);
        // Asked before the file is opened: to open a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(DataError::NotAFile { path: path.into() });
        }
        if meta.len() > limits.max_bytes {
            return Err(DataError::Decode {
                path: path.into(),
                format: "an image",
                reason: format!(
                    "{} bytes on disk are over the limit of {}; raise `Limits`",
                    meta.len(),
                    limits.max_bytes
                ),
            });
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        File::open(path).and_then(|file| file.take(limits.max_bytes).read_to_end(&mut bytes)).map_err(io)?;
        if bytes.is_empty() {
            return Err(DataError::EmptyFile { path: path.into() });
        }
        let format = ::image::guess_format(&bytes)
            .or_else(|_| ImageFormat::from_path(path))
            .ok()
            .filter(|format| format_name(*format).is_some())
            .ok_or_else(|| DataError::UnknownFormat { path: path.into() })?;
        Ok(Self { path, bytes, format })
    }

    fn damaged(&self, reason: impl ToString) -> DataError {
        let format = format_name(self.format).unwrap_or("an image");
        DataError::Decode { path: self.path.into(), format, reason: reason.to_string() }
    }

    fn guarded<T>(&self, decode: impl FnOnce() -> Result<T>) -> Result<T> {
        guarded(decode, || self.damaged("the decoder panicked"))
    }

    /// Decodes all formats but TIFF, whose depths `image` does not all know. `bytes` is what a pixel takes afterwards.
    fn dynamic(&self, options: &DecodeOptions, bytes: usize) -> Result<(DynamicImage, Turn)> {
        let (mut image, turn) = self.guarded(|| match self.format {
            ImageFormat::Jpeg => self.jpeg(&options.limits, bytes),
            ImageFormat::Png => {
                // The decoder asks for more than the header before it says what that is.
                png::check_header(self, &options.limits, bytes)?;
                self.decode(&self.bytes, &options.limits, bytes)
            }
            _ => self.decode(&self.bytes, &options.limits, bytes),
        })?;
        if options.orientation == Orientation::Apply {
            image.apply_orientation(turn);
        }
        Ok((image, turn))
    }

    fn jpeg(&self, limits: &Limits, bytes: usize) -> Result<(DynamicImage, Turn)> {
        let Some(end) = jpeg::end_of_image(&self.bytes) else {
            return Err(self.damaged("the file is truncated (no end-of-image marker)"));
        };
        let (image, turn) = self.decode(&self.bytes, limits, bytes)?;
        if jpeg::ends_in_repetition(&image)
            && let Ok((other, _)) = self.decode(&jpeg::with_more_data(&self.bytes, end), limits, bytes)
            && other != image
        {
            return Err(self.damaged("its data end before its last row of pixels"));
        }
        Ok((image, turn))
    }

    fn decode(&self, bytes: &[u8], limits: &Limits, produced: usize) -> Result<(DynamicImage, Turn)> {
        let refused = |error| match error {
            ImageError::Limits(e) if e.kind() == LimitErrorKind::InsufficientMemory => {
                self.damaged(format!("it needs more than twice the limit of {} bytes", limits.max_bytes))
            }
            other => self.damaged(reason(&other)),
        };
        let mut reader = ImageReader::with_format(Cursor::new(bytes), self.format);
        let mut bounds = ::image::Limits::default();
        // Twice: the pixels, and what the decoder needs beside them.
        bounds.max_alloc = Some(limits.max_bytes.saturating_mul(2));
        reader.limits(bounds);
        let mut decoder = reader.into_decoder().map_err(refused)?;
        let (width, height) = decoder.dimensions();
        let decoded = usize::from(decoder.color_type().bytes_per_pixel());
        limits.check(self.path, width, height, decoded.max(produced))?;
        // A damaged tag is no reason to refuse the pixels.
        let turn = decoder.orientation().unwrap_or(Turn::NoTransforms);
        Ok((DynamicImage::from_decoder(decoder).map_err(refused)?, turn))
    }
}

/// Runs a decoder or an encoder, which are other people's; should it panic on what a file says, that is the file's error.
pub(crate) fn guarded<T, E>(
    work: impl FnOnce() -> std::result::Result<T, E>,
    panicked: impl FnOnce() -> E,
) -> std::result::Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()))
}

fn format_name(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Png => Some("PNG"),
        ImageFormat::Jpeg => Some("JPEG"),
        ImageFormat::Tiff => Some("TIFF"),
        ImageFormat::Bmp => Some("BMP"),
        ImageFormat::WebP => Some("WebP"),
        _ => None,
    }
}

/// The cause of a decoding error without the format's name, which our own message has.
fn reason(error: &ImageError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Samples of 1, 2 or 4 bits that are packed into rows of whole bytes, one a byte.
pub(crate) fn unpack(packed: &[u8], bits: u8, width: u32, height: u32, channels: usize) -> Vec<u8> {
    let row_samples = width as usize * channels;
    let row_bytes = (row_samples * usize::from(bits)).div_ceil(8);
    let (per_byte, mask) = (8 / usize::from(bits), (1u8 << bits) - 1);
    let mut out = Vec::with_capacity(row_samples * height as usize);
    for row in packed.chunks_exact(row_bytes) {
        out.extend((0..row_samples).map(|i| {
            let shift = 8 - bits * (i % per_byte + 1) as u8;
            (row[i / per_byte] >> shift) & mask
        }));
    }
    out
}

#[cfg(test)]
mod practice;
#[cfg(test)]
mod tests;
