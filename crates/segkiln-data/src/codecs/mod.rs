//! Reading and writing files: every decoder behind one set of limits, every error with the name of its file.
//!
//! The format is told from a file's first bytes, and from its extension where these are unknown. Orientation tags are
//! not applied, as in PIL, OpenCV and torchvision: masks are drawn on the pixels as they are stored.

mod jpeg;
mod labels;
mod png;
mod tiff;
mod write;

use std::{
    fs::File,
    io::{Cursor, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use ::image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, error::LimitErrorKind};
use segkiln_core::LabelMap;
use serde::{Deserialize, Serialize};

pub use labels::MaskFormat;
pub use write::{write_image, write_labels, write_whole};

use crate::{ColorMode, DataError, Image, Result, raster::Raster};

/// File extensions of the formats that can be read, in lower case.
pub const EXTENSIONS: [&str; 7] = ["png", "jpg", "jpeg", "tif", "tiff", "bmp", "webp"];

/// The largest image that is decoded. A file's header is held against it before memory is taken for pixels, so a header
/// that lies costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest width in pixels.
    pub max_width: u32,
    /// Largest height in pixels.
    pub max_height: u32,
    /// Largest size in bytes, of the file as it lies on disk and of its pixels decoded in the file's own depth.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// 65,535 pixels a side and 1 GiB.
    fn default() -> Self {
        Self { max_width: 65_535, max_height: 65_535, max_bytes: 1 << 30 }
    }
}

impl Limits {
    /// Refuses a header that claims more than the limits, or nothing.
    fn check(&self, path: &Path, width: u32, height: u32, bits_per_pixel: u32) -> Result<()> {
        let bits = u128::from(width) * u128::from(height) * u128::from(bits_per_pixel);
        let limit = if width > self.max_width || height > self.max_height {
            format!("{}x{} pixels", self.max_width, self.max_height)
        } else if bits / 8 > u128::from(self.max_bytes) {
            format!("{} bytes decoded", self.max_bytes)
        } else if bits == 0 {
            return Err(DataError::Decode {
                path: path.into(),
                format: "an image",
                reason: format!("its header says {width}x{height} pixels"),
            });
        } else {
            return Ok(());
        };
        Err(DataError::TooLarge { path: path.into(), width, height, limit })
    }

    fn max_usize(&self) -> usize {
        usize::try_from(self.max_bytes).unwrap_or(usize::MAX)
    }
}

/// Reads an image: PNG, JPEG, TIFF (8, 16 and 32 bits, integer and float), BMP or WebP.
///
/// # Errors
/// If the file cannot be read, is damaged, truncated or larger than `limits`, or holds a float that is not finite.
///
/// ```
/// use segkiln_data::{ColorMode, Limits, read_image};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample/image.png");
///
/// let image = read_image(path, ColorMode::Gray, &Limits::default())?;
/// assert_eq!((image.width(), image.height(), image.channels()), (512, 512, 1));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
pub fn read_image(path: impl AsRef<Path>, mode: ColorMode, limits: &Limits) -> Result<Image> {
    let file = ImageFile::read(path.as_ref(), limits)?;
    match file.format {
        ImageFormat::Tiff => Ok(file.guarded(|| tiff::decode(&file, limits, tiff::Use::Image))?.to_image(mode)),
        _ => Ok(Image::from_dynamic(&file.dynamic(limits)?, mode)),
    }
}

/// Reads an image in its own depth and channels, with the same formats, limits and errors as [`read_image`].
///
/// `DynamicImage` has no grey floats and no 32-bit integers: of TIFFs with these, floats become RGB and integers keep
/// their upper 16 bits.
pub fn read_dynamic(path: impl AsRef<Path>, limits: &Limits) -> Result<DynamicImage> {
    let file = ImageFile::read(path.as_ref(), limits)?;
    match file.format {
        ImageFormat::Tiff => Ok(file.guarded(|| tiff::decode(&file, limits, tiff::Use::Image))?.into_dynamic()),
        _ => file.dynamic(limits),
    }
}

/// Reads a mask. What its values mean is said by `format`.
///
/// # Errors
/// As [`read_image`]; and if the file is a photograph rather than a mask (see [`MaskFormat`]), or has colours or values
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
pub fn read_labels(path: impl AsRef<Path>, format: &MaskFormat, limits: &Limits) -> Result<LabelMap> {
    let file = ImageFile::read(path.as_ref(), limits)?;
    labels::check_lossless(&file)?;
    match file.format {
        ImageFormat::Png => labels::from_raster(&file.guarded(|| png::decode(&file, limits))?, format, file.path),
        ImageFormat::Tiff => {
            labels::from_raster(&file.guarded(|| tiff::decode(&file, limits, tiff::Use::Labels))?, format, file.path)
        }
        _ => labels::from_raster(&Raster::from(&file.dynamic(limits)?), format, file.path),
    }
}

/// The bytes of a file that may be an image.
struct ImageFile<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    format: ImageFormat,
}

impl<'a> ImageFile<'a> {
    fn read(path: &'a Path, limits: &Limits) -> Result<Self> {
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

    /// Runs a decoder; should it panic on what a file says, that is the file's error.
    fn guarded<T>(&self, decode: impl FnOnce() -> Result<T>) -> Result<T> {
        catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(self.damaged("the decoder panicked")))
    }

    /// Decodes all formats but TIFF, whose depths `image` does not all know.
    fn dynamic(&self, limits: &Limits) -> Result<DynamicImage> {
        self.guarded(|| match self.format {
            ImageFormat::Jpeg => self.jpeg(limits),
            ImageFormat::Png => {
                // The decoder asks for more than the header before it says what that is.
                png::check_header(self, limits)?;
                self.decode(&self.bytes, limits)
            }
            _ => self.decode(&self.bytes, limits),
        })
    }

    fn jpeg(&self, limits: &Limits) -> Result<DynamicImage> {
        let Some(end) = jpeg::end_of_image(&self.bytes) else {
            return Err(self.damaged("the file is truncated (no end-of-image marker)"));
        };
        let image = self.decode(&self.bytes, limits)?;
        if jpeg::ends_in_repetition(&image)
            && let Ok(other) = self.decode(&jpeg::with_more_data(&self.bytes, end), limits)
            && other != image
        {
            return Err(self.damaged("its data end before its last row of pixels"));
        }
        Ok(image)
    }

    fn decode(&self, bytes: &[u8], limits: &Limits) -> Result<DynamicImage> {
        let mut reader = ImageReader::with_format(Cursor::new(bytes), self.format);
        let mut bounds = ::image::Limits::default();
        // Twice: the pixels, and what the decoder needs beside them.
        bounds.max_alloc = Some(limits.max_bytes.saturating_mul(2));
        reader.limits(bounds);
        let refused = |error| match error {
            ImageError::Limits(e) if e.kind() == LimitErrorKind::InsufficientMemory => {
                self.damaged(format!("it needs more than twice the limit of {} bytes", limits.max_bytes))
            }
            other => self.damaged(reason(&other)),
        };
        let decoder = reader.into_decoder().map_err(refused)?;
        let (width, height) = decoder.dimensions();
        limits.check(self.path, width, height, u32::from(decoder.color_type().bits_per_pixel()))?;
        DynamicImage::from_decoder(decoder).map_err(refused)
    }
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
fn unpack(packed: &[u8], bits: u8, width: u32, height: u32, channels: usize) -> Vec<u8> {
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
mod tests;
