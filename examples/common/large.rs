//! Large TIFFs, and the flags that say how they are read.

use std::path::Path;

use segkiln::{
    LargeOptions,
    data::{
        DataError, DecodeOptions,
        regions::{RegionSource, TiffSource},
    },
};

/// Pixels above which a TIFF is read by region.
const WHOLE: u64 = 1 << 26;

/// How large pictures are read.
#[derive(clap::Args)]
pub struct Large {
    /// Read TIFFs by region and write the map as a tiled TIFF, STEM.tif, whatever their size; larger ones than 2²⁶ pixels are in any
    /// case
    #[arg(long)]
    pub tiff: bool,
    /// Level of resolution of a TIFF with several, 0 for the finest
    #[arg(long, default_value_t = 0)]
    pub level: usize,
    /// Share of a tile's pixels that must have data; tiles with less are background
    #[arg(long, value_name = "SHARE")]
    pub skip_below: Option<f32>,
}

impl Large {
    /// The picture, if it is one to be read by region.
    pub fn source(&self, path: &Path, decode: DecodeOptions) -> Result<Option<TiffSource>, DataError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !["tif", "tiff", "svs", "btf"].contains(&&*extension.to_lowercase()) {
            return Ok(None);
        }
        let asked = self.tiff || self.level > 0;
        match TiffSource::open(path, decode) {
            Ok(source) => {
                let level = source.levels()[0];
                let pixels = u64::from(level.width) * u64::from(level.height);
                Ok((asked || pixels > WHOLE).then_some(source))
            }
            // Such as can only be read whole, with a palette for one.
            Err(_) if !asked => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The options, with a tile's side and the share that tiles have in common.
    pub fn options(&self, tile: Option<u32>, overlap: f32, flips: bool) -> LargeOptions {
        let default = LargeOptions::default();
        LargeOptions {
            tile: tile.unwrap_or(default.tile),
            level: self.level,
            flips,
            skip_below: self.skip_below.unwrap_or(default.skip_below),
            overlap,
        }
    }

    /// Inputs of a map: the network's file and the picture's, by size and date.
    pub fn identity(model: &Path, picture: &Path) -> Option<String> {
        let file = if model.is_dir() { model.join("best.bpk") } else { model.into() };
        let of = |path: &Path| {
            let metadata = path.metadata().ok()?;
            let date = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(format!("{} {} {}", path.display(), metadata.len(), date.as_nanos()))
        };
        Some(format!("{} {}", of(&file)?, of(picture)?))
    }
}
