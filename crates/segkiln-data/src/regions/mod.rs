//! Pictures that do not fit memory: slides, scenes, mosaics. They are read by region, at levels of resolution, and results are
//! written as rows become complete.
//!
//! - [`RegionSource`]: what is read; [`TiffSource`] reads TIFF and BigTIFF, [`MemorySource`] an image in memory. Implement the
//!   trait for a source of your own: a database, a tile server.
//! - [`ResampledSource`]: a resolution more than the levels that are stored; [`SelectedSource`]: an [`Area`] of a picture.
//! - [`RowSink`]: what rows of a result are given to; [`ResizedSink`] makes them those of another resolution.
//! - [`TiffSink`]: a tiled, compressed (Big)TIFF with overviews, that a run that was killed can go on with.
//! - [`GeoTags`]: where on the earth, or on a slide, a picture lies; carried over from source to result.

mod area;
mod edges;
mod geo;
mod resampled;
mod rows;
mod sink;
mod tiff;

use std::path::{Path, PathBuf};

pub use area::{Area, ScenePolygons, SelectedSource};
pub use geo::{GeoTags, TagValue};
pub use resampled::ResampledSource;
pub use rows::{MapRows, ResizedSink, RowSink};
pub use sink::{SampleType, TiffSink, TiffSinkOptions};
pub use tiff::TiffSource;

use segkiln_core::Size;

use crate::{ColorMode, DataError, Image, Result, raster::convert};

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Region {
    /// Whether the region has pixels and all of them are within a picture.
    pub fn is_within(&self, size: Size) -> bool {
        let inside =
            |start: u32, length: u32, side: u32| length > 0 && start.checked_add(length).is_some_and(|end| end <= side);
        inside(self.left, self.width, size.width) && inside(self.top, self.height, size.height)
    }
}

/// A resolution that a picture is stored in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pixels of level 0 that a pixel is as wide as.
    pub scale: f64,
}

impl Level {
    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        Size { width: self.width, height: self.height }
    }
}

/// The pixels of a region.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionPixels {
    /// `[height, width, bands]`. Unsigned integers of up to 32 bits are scaled to `[0, 1]` as by
    /// [`read_image`](crate::read_image), other numbers are as the file has them.
    pub image: Image,
    /// For each pixel, whether it has no data, row-major; empty if all have data.
    pub missing: Vec<bool>,
}

impl RegionPixels {
    /// Converts the bands to colors, as [`read_image`](crate::read_image) does: gray (and alpha), or red, green, blue (and
    /// alpha).
    ///
    /// # Errors
    /// [`DataError::Bands`] if there are more than four bands.
    pub fn to_color(self, mode: ColorMode, path: &Path) -> Result<Self> {
        let Self { image, missing } = self;
        let bands = image.channels();
        if bands > 4 {
            return Err(DataError::Bands { path: path.into(), bands, expected: mode.channels() });
        }
        let (width, height) = (image.width(), image.height());
        let data = convert(image.as_slice(), bands, mode, |value| value);
        Ok(Self { image: Image::from_parts(width, height, mode.channels(), data), missing })
    }
}

/// A picture that is read by region.
pub trait RegionSource: Send + Sync {
    /// The file, or what stands for it in messages.
    fn path(&self) -> &Path;

    /// The resolutions, the finest first; there is at least one.
    fn levels(&self) -> &[Level];

    /// Values of a pixel.
    fn bands(&self) -> usize;

    /// Place of the picture; none by default.
    fn geo(&self) -> GeoTags {
        GeoTags::default()
    }

    /// Reads a region of a level. Several threads may read at once.
    ///
    /// # Errors
    /// [`DataError::Region`] if the region is not within the level, or cannot be read.
    fn read(&self, level: usize, region: Region) -> Result<RegionPixels>;

    /// Whether a region is to be looked at. Others are neither read nor given to a network: they are class 0, and have no objects. All
    /// are by default.
    fn is_wanted(&self, _level: usize, _region: Region) -> bool {
        true
    }
}

impl<S: RegionSource + ?Sized> RegionSource for Box<S> {
    fn path(&self) -> &Path {
        (**self).path()
    }

    fn levels(&self) -> &[Level] {
        (**self).levels()
    }

    fn bands(&self) -> usize {
        (**self).bands()
    }

    fn geo(&self) -> GeoTags {
        (**self).geo()
    }

    fn read(&self, level: usize, region: Region) -> Result<RegionPixels> {
        (**self).read(level, region)
    }

    fn is_wanted(&self, level: usize, region: Region) -> bool {
        (**self).is_wanted(level, region)
    }
}

/// An image in memory as a source.
#[derive(Debug, Clone)]
pub struct MemorySource {
    path: PathBuf,
    image: Image,
    levels: [Level; 1],
}

impl MemorySource {
    /// Takes an image and the name that messages give it.
    pub fn new(image: Image, name: impl Into<PathBuf>) -> Self {
        let levels = [Level { width: image.width(), height: image.height(), scale: 1.0 }];
        Self { path: name.into(), image, levels }
    }
}

impl RegionSource for MemorySource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn levels(&self) -> &[Level] {
        &self.levels
    }

    fn bands(&self) -> usize {
        self.image.channels()
    }

    fn read(&self, level: usize, region: Region) -> Result<RegionPixels> {
        check(self, level, region)?;
        let Region { left, top, width, height } = region;
        Ok(RegionPixels { image: self.image.crop(left, top, width, height), missing: Vec::new() })
    }
}

/// Refuses a region that is not of a source.
fn check(source: &impl RegionSource, level: usize, region: Region) -> Result<()> {
    let refuse = |reason: String| DataError::Region { path: source.path().into(), level, region, reason };
    let levels = source.levels();
    let Some(size) = levels.get(level).map(Level::size) else {
        return Err(refuse(format!("there are levels 0 to {}", levels.len() - 1)));
    };
    if !region.is_within(size) {
        return Err(refuse(format!("the level has {size} pixels")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
