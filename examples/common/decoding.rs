//! Flags that say how image files are decoded.

use segkiln::data::{DecodeOptions, Limits, Orientation};

/// How image files are decoded.
#[derive(clap::Args)]
pub struct Decoding {
    /// Leave pixels as they are stored, whatever the orientation tag (EXIF) says
    #[arg(long)]
    keep_orientation: bool,
    /// Value of pixels without data in TIFFs [default: what GDAL's tag says]
    #[arg(long, allow_negative_numbers = true)]
    nodata: Option<f64>,
    /// Page of TIFFs, from 0 [default: the first]
    #[arg(long)]
    page: Option<u32>,
    /// Most bytes of an image, as file and decoded [default: 2 GiB]
    #[arg(long)]
    limits: Option<u64>,
}

impl Decoding {
    pub fn options(&self) -> DecodeOptions {
        let mut limits = Limits::default();
        limits.max_bytes = self.limits.unwrap_or(limits.max_bytes);
        let orientation = if self.keep_orientation { Orientation::Keep } else { Orientation::Apply };
        DecodeOptions { limits, orientation, page: self.page, nodata: self.nodata }
    }
}
