use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{DataError, Result};

/// Options of decoding an image or a mask.
///
/// ```
/// use segkiln_data::{ColorMode, DecodeOptions, Orientation, read_image};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample/image.png");
///
/// let options = DecodeOptions { orientation: Orientation::Keep, ..Default::default() };
/// assert_eq!(read_image(path, ColorMode::Gray, options)?.width(), 512);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DecodeOptions {
    /// Largest image that is decoded.
    pub limits: Limits,
    /// Whether orientation tags are applied. Default: yes.
    pub orientation: Orientation,
    /// Page of a TIFF, counted from 0. Default: the first; a warning says where there are more.
    pub page: Option<u32>,
    /// Value of pixels without data, in the units of the file. A pixel whose channels all have it takes the mean of the
    /// other pixels. Default: what the tag `GDAL_NODATA` of a float TIFF says, if there is one.
    pub nodata: Option<f64>,
}

impl From<&Limits> for DecodeOptions {
    fn from(limits: &Limits) -> Self {
        Self { limits: *limits, ..Self::default() }
    }
}

/// Treatment of the orientation tag (EXIF in JPEG, PNG and WebP, tag 274 in TIFF) of images and masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orientation {
    /// Pixels are turned as the tag says, as viewers and OpenCV show them.
    #[default]
    Apply,
    /// Pixels stay as they are stored, as PIL and torchvision read them.
    Keep,
}

/// Largest image that is decoded. A file's header is held against it before memory is taken for pixels, so a header
/// that lies costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest width in pixels.
    pub max_width: u32,
    /// Largest height in pixels.
    pub max_height: u32,
    /// Largest size in bytes of the file on disk, of its pixels in the file's own depth, and of the image or the labels that
    /// they become, with 4 bytes a value.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// 65,535 pixels a side and 2 GiB: RGB images of 178,956,970 pixels, the number that PIL refuses to exceed.
    fn default() -> Self {
        Self { max_width: 65_535, max_height: 65_535, max_bytes: 2 << 30 }
    }
}

impl Limits {
    /// Refuses a header that claims more than the limits, or nothing. `bytes` is the most that a pixel takes at any time.
    pub(crate) fn check(&self, path: &Path, width: u32, height: u32, bytes: usize) -> Result<()> {
        let produced = u128::from(width) * u128::from(height) * bytes as u128;
        let limit = if width > self.max_width || height > self.max_height {
            format!("{}x{} pixels", self.max_width, self.max_height)
        } else if produced > u128::from(self.max_bytes) {
            format!("{} bytes decoded", self.max_bytes)
        } else if produced == 0 {
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

    pub(crate) fn max_usize(&self) -> usize {
        usize::try_from(self.max_bytes).unwrap_or(usize::MAX)
    }
}
