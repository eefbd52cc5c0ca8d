//! A resolution that a picture is not stored in.

use std::{ops::Range, path::Path};

use segkiln_core::Size;

use super::{GeoTags, Level, Region, RegionPixels, RegionSource, check};
use crate::{
    DataError, Image, Result,
    resize::{PartAxis, resize_part},
};

/// Values that are read of the finer level at once.
const MOST_VALUES: u64 = 16 << 20;

/// Share of data from which on a pixel is made of pixels with data alone, but for the rounding of weights. It is then left as
/// it would be in a region in which nothing is missing.
const ALL: f32 = 1.0 - 1e-4;

/// A picture with one more level, behind its own: it is made of the next finer one by [`resize_image`](crate::resize_image), region by
/// region, so that every pixel is that of the whole level resized. Where all levels are coarser the finest is enlarged.
#[derive(Debug)]
pub struct ResampledSource<S> {
    source: S,
    levels: Vec<Level>,
    /// The level that it is made of.
    from: usize,
}

impl<S: RegionSource> ResampledSource<S> {
    /// Adds a level of a size in pixels.
    ///
    /// # Errors
    /// [`DataError::Option`] if the size has a side of 0.
    pub fn new(source: S, size: Size) -> Result<Self> {
        let Size { width, height } = size;
        if width == 0 || height == 0 {
            return Err(DataError::option("size", format!("a level of {size} pixels is none")));
        }
        let mut levels = source.levels().to_vec();
        let is_finer = |level: &Level| level.width >= width && level.height >= height;
        let from = levels.iter().rposition(is_finer).unwrap_or(0);
        let full = levels[0];
        let ratio = [f64::from(full.width) / f64::from(width), f64::from(full.height) / f64::from(height)];
        levels.push(Level { width, height, scale: (ratio[0] * ratio[1]).sqrt() });
        Ok(Self { source, levels, from })
    }

    /// Adds a level whose pixels are so many micrometers wide and high.
    ///
    /// # Errors
    /// [`DataError::Option`] if the picture does not say how large its pixels are, or the level would have no pixels or more than 2³² - 1
    /// a side.
    pub fn at_microns_per_pixel(source: S, microns: f64) -> Result<Self> {
        let refused = |reason: String| DataError::option("mpp", reason);
        if !(microns > 0.0 && microns.is_finite()) {
            return Err(refused(format!("must be more than 0, not {microns}")));
        }
        let Some(pixel) = source.geo().microns_per_pixel() else {
            let path = source.path().display();
            let none = "(72 and 96 pixels an inch are what programs write that do not know)";
            return Err(refused(format!(
                "{path} does not say how large its pixels are {none}; choose a level by its number"
            )));
        };
        let full = source.levels()[0];
        let side = |pixels: u32, pixel: f64| (f64::from(pixels) * pixel / microns).round();
        let [width, height] = [side(full.width, pixel[0]), side(full.height, pixel[1])];
        let sides = 1.0..=f64::from(u32::MAX);
        if !(sides.contains(&width) && sides.contains(&height)) {
            let found = format!("{:.4} by {:.4}", pixel[0], pixel[1]);
            return Err(refused(format!(
                "{microns} make a level of {width}x{height} pixels of ones of {found} micrometers"
            )));
        }
        Self::new(source, Size { width: width as u32, height: height as u32 })
    }

    /// Index of the level that was added.
    pub fn level(&self) -> usize {
        self.levels.len() - 1
    }

    /// Some rows of a region.
    fn read_rows(&self, region: Region, rows: Range<u32>) -> Result<RegionPixels> {
        let (old, new) = (self.levels[self.from], self.levels[self.level()]);
        let columns = PartAxis::new(old.width, new.width, region.left..region.left + region.width);
        let rows = PartAxis::new(old.height, new.height, rows);
        let [across, down] = [columns.source(), rows.source()];
        let [width, height] = [&across, &down].map(|range| range.len() as u32);
        let RegionPixels { mut image, missing } =
            self.source.read(self.from, Region { left: across.start, top: down.start, width, height })?;
        if missing.is_empty() {
            return Ok(RegionPixels { image: resize_part(&image, &columns, &rows), missing });
        }
        // Pixels with data make up those that have some at least for a half.
        let bands = image.channels();
        let pixels = image.as_mut_slice().chunks_exact_mut(bands).zip(&missing);
        pixels.filter(|(_, missing)| **missing).for_each(|(pixel, _)| pixel.fill(0.0));
        let there = missing.iter().map(|missing| f32::from(!*missing)).collect();
        let there = resize_part(&Image::from_parts(width, height, 1, there), &columns, &rows);
        let mut image = resize_part(&image, &columns, &rows);
        let missing: Vec<bool> = there.as_slice().iter().map(|share| *share < 0.5).collect();
        for (pixel, share) in image.as_mut_slice().chunks_exact_mut(bands).zip(there.as_slice()) {
            if *share < 0.5 {
                pixel.fill(0.0);
            } else if *share < ALL {
                pixel.iter_mut().for_each(|value| *value /= share);
            }
        }
        Ok(RegionPixels { image, missing })
    }
}

impl<S: RegionSource> RegionSource for ResampledSource<S> {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn levels(&self) -> &[Level] {
        &self.levels
    }

    fn bands(&self) -> usize {
        self.source.bands()
    }

    fn geo(&self) -> GeoTags {
        self.source.geo()
    }

    fn read(&self, level: usize, region: Region) -> Result<RegionPixels> {
        if level != self.level() {
            return self.source.read(level, region);
        }
        check(self, level, region)?;
        let (old, new) = (self.levels[self.from], self.levels[level]);
        let bands = self.bands();
        // Rows of the finer level that a row is made of, and its values.
        let ratio = f64::from(old.height) / f64::from(new.height);
        let row = (f64::from(region.width) + 2.0) * f64::from(old.width) / f64::from(new.width) * bands as f64;
        let rows = (MOST_VALUES as f64 / row / ratio - 2.0).clamp(1.0, f64::from(region.height)) as u32;
        let (mut values, mut missing) = (Vec::new(), Vec::new());
        let mut done = 0;
        while done < region.height {
            let count = rows.min(region.height - done);
            let part = self.read_rows(region, region.top + done..region.top + done + count)?;
            values.extend_from_slice(part.image.as_slice());
            if !part.missing.is_empty() || !missing.is_empty() {
                // Rows before, and these, of which all pixels have data.
                missing.resize(done as usize * region.width as usize, false);
                missing.extend(part.missing);
                missing.resize((done + count) as usize * region.width as usize, false);
            }
            done += count;
        }
        if !missing.contains(&true) {
            missing.clear();
        }
        Ok(RegionPixels { image: Image::from_parts(region.width, region.height, bands, values), missing })
    }

    fn is_wanted(&self, level: usize, region: Region) -> bool {
        if level != self.level() {
            return self.source.is_wanted(level, region);
        }
        let (old, new) = (self.levels[self.from], self.levels[level]);
        if !region.is_within(new.size()) {
            return true;
        }
        // The pixels of the finer level that the region lies on.
        let span = |first: u32, length: u32, old: u32, new: u32| {
            let place = |at: u32| u64::from(at) * u64::from(old);
            let start = (place(first) / u64::from(new)) as u32;
            (start, place(first + length).div_ceil(new.into()) as u32 - start)
        };
        let (left, width) = span(region.left, region.width, old.width, new.width);
        let (top, height) = span(region.top, region.height, old.height, new.height);
        self.source.is_wanted(self.from, Region { left, top, width, height })
    }
}
