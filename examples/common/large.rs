//! Large TIFFs, and the flags that say how they are read.

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use segkiln::{
    LargeOptions, Progress,
    data::{
        DataError, DecodeOptions,
        regions::{Area, RegionSource, ResampledSource, ScenePolygons, SelectedSource, TiffSource},
    },
};

/// A picture that is read by region, with the level that is asked for and the area that is looked at.
pub type Picture = SelectedSource<Box<dyn RegionSource>>;

/// The name of a flag, and whether it is given.
pub type Flag = (&'static str, bool);

/// Pixels above which a TIFF is read by region.
pub const WHOLE: u64 = 1 << 26;

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
    /// Micrometers a pixel, of a TIFF that says how large its pixels are: the level of that resolution, or the next finer one reduced
    #[arg(long, value_name = "MICROMETERS", conflicts_with = "level")]
    pub mpp: Option<f64>,
    /// Mask of a whole TIFF, at any resolution: tiles whose pixels in it are all 0 are background, and no network sees them
    #[arg(long, value_name = "FILE")]
    pub skip_mask: Option<PathBuf>,
    /// GeoJSON of polygons in the coordinates of a TIFF's scene, or its pixels: tiles that touch none are background
    #[arg(long, value_name = "FILE")]
    pub within: Option<PathBuf>,
    /// Share of a tile's pixels that must have data; tiles with less are background
    #[arg(long, value_name = "SHARE")]
    pub skip_below: Option<f32>,
    /// The files, when they have been read for the first picture.
    #[arg(skip)]
    polygons: OnceCell<ScenePolygons>,
    #[arg(skip)]
    mask: OnceCell<Area>,
}

/// Recognizes TIFFs by name.
fn is_tiff(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["tif", "tiff", "svs", "btf"].contains(&&*extension.to_lowercase())
}

/// What is in a cell, read if there is nothing yet.
fn read_once<T>(cell: &OnceCell<T>, read: impl FnOnce() -> Result<T, DataError>) -> Result<&T, DataError> {
    match cell.get() {
        Some(known) => Ok(known),
        None => read().map(|value| cell.get_or_init(|| value)),
    }
}

impl Large {
    /// The picture, if it is one to be read by region: a large one, or where one of the flags is given that are for such, the program's
    /// `own` among them.
    pub fn source(&self, path: &Path, decode: DecodeOptions, own: &[Flag]) -> Result<Option<Picture>, DataError> {
        let Some(source) = self.open(path, decode, own)? else { return Ok(None) };
        let within = self.within.as_ref().map(|file| read_once(&self.polygons, || ScenePolygons::read(file)));
        let within = within.transpose()?.map(|polygons| polygons.area(&source)).transpose()?;
        let mask = self.skip_mask.as_ref().map(|file| read_once(&self.mask, || Area::read_mask(file, decode.limits)));
        let areas = within.into_iter().chain(mask.transpose()?.cloned());
        let source: Box<dyn RegionSource> = match self.mpp {
            Some(mpp) if nearest(&source, mpp).1 > SAME => {
                Box::new(ResampledSource::at_microns_per_pixel(source, mpp)?)
            }
            _ => Box::new(source),
        };
        Ok(Some(SelectedSource::new(source, areas.collect())))
    }

    /// Whether the picture is none to be read by region, and nothing that is asked for needs that.
    #[allow(dead_code, reason = "detections have the same files in any case")]
    pub fn is_read_whole(&self, path: &Path, decode: DecodeOptions, own: &[Flag]) -> bool {
        let is_asked = self.needs_regions(own).is_some() || (self.tiff && is_tiff(path));
        !is_asked && matches!(self.open(path, decode, own), Ok(None))
    }

    /// The flag that needs pictures that are read by region.
    fn needs_regions(&self, own: &[Flag]) -> Option<&'static str> {
        let flags = [
            ("skip-mask", self.skip_mask.is_some()),
            ("within", self.within.is_some()),
            ("mpp", self.mpp.is_some()),
            ("level", self.level > 0),
            ("skip-below", self.skip_below.is_some()),
        ];
        flags.iter().chain(own).find(|(_, is_given)| *is_given).map(|(option, _)| *option)
    }

    /// The file, if it is one to be read by region.
    fn open(&self, path: &Path, decode: DecodeOptions, own: &[Flag]) -> Result<Option<TiffSource>, DataError> {
        let needed = self.needs_regions(own);
        if !is_tiff(path) {
            let Some(option) = needed else { return Ok(None) };
            return Err(DataError::Option { option, reason: format!("is for TIFFs, and {} is none", path.display()) });
        }
        let asked = self.tiff || needed.is_some();
        let source = match TiffSource::open(path, decode) {
            Ok(source) => source,
            // Such as can only be read whole.
            Err(_) if !asked => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok((asked || source.levels()[0].size().pixels() > WHOLE).then_some(source))
    }

    /// The options, with a tile's side and the share that tiles have in common.
    pub fn options(&self, source: &Picture, tile: Option<u32>, overlap: f32, flips: bool) -> LargeOptions {
        let default = LargeOptions::default();
        let level = self.mpp.map_or(self.level, |mpp| nearest(source, mpp).0);
        if self.mpp.is_some() {
            let size = source.levels()[level].size();
            eprintln!("level {level}, {size} pixels");
        }
        LargeOptions {
            tile: tile.unwrap_or(default.tile),
            level,
            result_level: None,
            flips,
            skip_below: self.skip_below.unwrap_or(default.skip_below),
            overlap,
        }
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

    /// Files of the area, which are inputs as the pictures are.
    pub fn areas(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.skip_mask, &self.within].into_iter().flatten()
    }

    /// Inputs of a map: the network's files, the picture's and those of the area, by size and date, and how the picture is read.
    #[allow(dead_code, reason = "detections are not written while they are made")]
    pub fn identity(&self, model: &Path, picture: &Path, decode: DecodeOptions) -> Option<String> {
        let file = if model.is_dir() { model.join("best.bpk") } else { model.into() };
        let of = |path: &Path| {
            let metadata = path.metadata().ok()?;
            let date = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(format!("{} {} {}", path.display(), metadata.len(), date.as_nanos()))
        };
        // Classes, normalization and precision are in the network's config.
        let config = file.with_file_name("config.json");
        let areas = self.areas().map(PathBuf::as_path);
        let files: Option<Vec<String>> = [file.as_path(), &config, picture].into_iter().chain(areas).map(of).collect();
        Some(format!("{} page {:?} nodata {:?}", files?.join(" "), decode.page, decode.nodata))
    }
}

/// Ratio of resolutions, as a logarithm, up to which a level is taken as it is.
const SAME: f64 = 0.01;

/// The level whose pixels are nearest to a size, and how far it is: the logarithm of their ratio. Far from all where the picture does not
/// say how large its pixels are.
fn nearest(source: &impl RegionSource, mpp: f64) -> (usize, f64) {
    let finest = source.geo().microns_per_pixel().map_or(f64::NAN, |[across, down]| (across * down).sqrt());
    let distances = source.levels().iter().map(|level| (finest * level.scale / mpp).ln().abs());
    let known = distances.map(|distance| if distance.is_nan() { f64::INFINITY } else { distance });
    known.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::INFINITY))
}
