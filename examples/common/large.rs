//! Large TIFFs, and the flags that say how they are read.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use segkiln::{
    LargeOptions, Progress,
    data::{
        DataError, DecodeOptions,
        regions::{RegionSource, TiffSource},
    },
};

/// Pixels above which a TIFF is read by region.
const WHOLE: u64 = 1 << 26;

/// Flags of how large pictures are read.
#[derive(clap::Args)]
pub struct Large {
    /// Read TIFFs by region and write the map as a tiled TIFF, STEM.tif, whatever their size; larger ones than 2²⁶ pixels are in any
    /// case
    #[arg(long)]
    pub tiff: bool,
    /// Level of resolution of a TIFF with several, 0 for the finest
    #[arg(long, default_value_t = 0)]
    pub level: usize,
    /// Micrometers a pixel: the level that is nearest, of a TIFF that says how large its pixels are
    #[arg(long, value_name = "MICROMETERS", conflicts_with = "level")]
    pub mpp: Option<f64>,
    /// Share of a tile's pixels that must have data; tiles with less are background
    #[arg(long, value_name = "SHARE")]
    pub skip_below: Option<f32>,
}

impl Large {
    /// The picture, if it is one to be read by region.
    pub fn source(&self, path: &Path, decode: DecodeOptions) -> Result<Option<TiffSource>, DataError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !["tif", "tiff", "svs", "btf"].contains(&&*extension.to_lowercase()) {
            return match self.mpp {
                Some(_) => Err(no_scale(path)),
                None => Ok(None),
            };
        }
        let asked = self.tiff || self.level > 0 || self.mpp.is_some();
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
    pub fn options(
        &self,
        source: &TiffSource,
        tile: Option<u32>,
        overlap: f32,
        flips: bool,
    ) -> Result<LargeOptions, DataError> {
        let default = LargeOptions::default();
        let level = match self.mpp {
            None => self.level,
            Some(mpp) => level_of(source, mpp)?,
        };
        Ok(LargeOptions {
            tile: tile.unwrap_or(default.tile),
            level,
            flips,
            skip_below: self.skip_below.unwrap_or(default.skip_below),
            overlap,
        })
    }

    /// Says every ten seconds how far the work is.
    pub fn progress(&self) -> impl FnMut(Progress) {
        let mut said = Instant::now();
        move |Progress { done, tiles, left }| {
            if said.elapsed() > Duration::from_secs(10) {
                said = Instant::now();
                eprintln!("tile {done} of {tiles}, {} s left", left.as_secs());
            }
        }
    }

    /// Inputs of a map: the network's file and the picture's, by size and date.
    #[allow(dead_code, reason = "detections are not written while they are made")]
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

fn no_scale(path: &Path) -> DataError {
    let reason = format!("{} does not say how large its pixels are; give --level", path.display());
    DataError::Option { option: "mpp", reason }
}

/// The level whose pixels are nearest to a size, by ratio.
fn level_of(source: &TiffSource, mpp: f64) -> Result<usize, DataError> {
    if !(mpp > 0.0 && mpp.is_finite()) {
        return Err(DataError::Option { option: "mpp", reason: format!("must be more than 0, not {mpp}") });
    }
    let [across, down] = source.geo().microns_per_pixel().ok_or_else(|| no_scale(source.path()))?;
    let finest = (across * down).sqrt();
    let far = |scale: f64| (finest * scale / mpp).ln().abs();
    let levels = source.levels().iter().map(|level| level.scale).enumerate();
    let (level, scale) = levels.min_by(|a, b| far(a.1).total_cmp(&far(b.1))).unwrap_or((0, 1.0));
    eprintln!("level {level}, {:.4} micrometers a pixel", finest * scale);
    Ok(level)
}
