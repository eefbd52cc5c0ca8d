//! TIFF and BigTIFF by region: strips and tiles, interleaved and planar. The `tiff` crate reads directories and decodes JPEG; the rest of
//! the way from bytes to numbers is here, as the crate goes it for some depths and compressions only.
//!
//! - `page`: directories, of which those of the picture and of its reduced copies are levels.
//! - `chunk`: tiles, strips and rows of strips, as they are decoded and kept.
//! - `codec`: compressions.
//! - `samples`: bits, order of bytes, predictors.

mod chunk;
mod codec;
mod page;
mod samples;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ::tiff::tags::Tag;

use self::{
    chunk::{Chunk, Kept},
    page::{Colors, Page, Reader, explain, geo_tags, open},
    samples::{Number, Samples},
};
use super::{GeoTags, Level, Region, RegionPixels, RegionSource, check};
use crate::{
    DataError, DecodeOptions, Image, Orientation, Result,
    codecs::{guarded, nodata, tiff::next_page},
    raster,
};

/// Pages and reduced copies that are looked at.
const MOST_PAGES: usize = 1000;
/// Sub-IFDs that are looked at. All of them may name the same tables, so more would take the time and memory of many such files;
/// of levels in half the width and height there are 32 at most.
const MOST_SUB_IFDS: usize = 64;

/// A TIFF or BigTIFF that is read by region; its levels are the first page and the reduced copies of it, in sub-IFDs and on further
/// pages.
///
/// Strips and tiles, interleaved or planar, integers of 1 to 32 and of 64 bits, floats of 16, 24, 32 and 64, any number of bands,
/// palettes (as RGB); no compression, deflate, LZW, PackBits, zstd, WebP, JPEG (also in YCbCr) and CCITT group 4. Decoded tiles are
/// kept, up to 160 MiB, so that neighboring regions do not decode them again.
#[derive(Debug)]
pub struct TiffSource {
    path: PathBuf,
    options: DecodeOptions,
    levels: Vec<Level>,
    pages: Vec<Page>,
    missing: Option<f64>,
    geo: GeoTags,
    /// Decoders that wait, each with the level that it stands at.
    decoders: Mutex<Vec<(usize, Reader)>>,
    kept: Mutex<Kept>,
}

impl TiffSource {
    /// Opens a file: its directories are read, and no pixels.
    ///
    /// In the options `limits.max_bytes` bounds a decoded tile or strip and a region that is read, but not the picture; `page` chooses
    /// the page of level 0, and `nodata` what pixels without data have (without: the tag `GDAL_NODATA`).
    ///
    /// # Errors
    /// [`DataError::Io`], or [`DataError::Decode`] if it is no TIFF that can be read by region.
    pub fn open(path: impl AsRef<Path>, options: DecodeOptions) -> Result<Self> {
        let path = path.as_ref();
        guarded(|| Self::open_unguarded(path, options), || damaged(path, "the decoder panicked".into()))
    }

    fn open_unguarded(path: &Path, options: DecodeOptions) -> Result<Self> {
        let damaged = |reason: String| damaged(path, reason);
        let error = |error| damaged(explain(error, &options));
        let mut reader = open(path, &options, None)?;
        let mut pages = Vec::new();
        // The first page is the one that is asked for; behind it come what may be smaller copies.
        for _ in 0..options.page.unwrap_or(0) {
            let absent = |_| damaged(format!("it has no page {} (counted from 0)", options.page.unwrap_or(0)));
            next_page(&mut reader).map_err(absent)?;
        }
        let first = Page::of(&mut reader, &options).map_err(&damaged)?;
        let orientation = reader.find_tag_unsigned::<u16>(Tag::Orientation).map_err(error)?.unwrap_or(1);
        if orientation != 1 && options.orientation == Orientation::Apply {
            let cure = "rewrite it upright, or read it as it is stored with `Orientation::Keep`";
            return Err(damaged(format!("its orientation tag is {orientation}, and regions are not turned; {cure}")));
        }
        let missing = options.nodata.or_else(|| nodata::of_tag(&reader.get_tag_ascii_string(Tag::GdalNodata).ok()?));
        let geo = geo_tags(&mut reader);
        let mut sub_ifds: Vec<u64> = reader.find_tag_unsigned_vec(Tag::SubIfd).ok().flatten().unwrap_or_default();
        sub_ifds.truncate(MOST_SUB_IFDS);
        let mut further = Vec::new();
        while sub_ifds.len() + further.len() < MOST_PAGES && reader.more_images() && next_page(&mut reader).is_ok() {
            further.extend(reader.ifd_pointer().map(|pointer| pointer.0));
        }
        let [width, height] = first.size;
        pages.push(first);
        // A page that cannot be read is no level.
        let page_at =
            |ifd| open(path, &options, Some(ifd)).ok().and_then(|mut reader| Page::of(&mut reader, &options).ok());
        let is_new =
            |page: &Page, pages: &[Page]| page.reduces(&pages[0]) && pages.iter().all(|other| other.size != page.size);
        for page in sub_ifds.into_iter().filter_map(page_at) {
            if is_new(&page, &pages) {
                pages.push(page);
            }
        }
        // Some programs (Aperio's) do not say which pages are copies: such are ever smaller, by halves.
        let mut smallest = pages[0].size;
        for page in further.into_iter().filter_map(page_at) {
            // The next picture of a stack, and what is behind it is not of the first.
            let is_large = page.size[0] >= width && page.size[1] >= height;
            if is_large && !page.is_reduced && page.has_numbers_of(&pages[0]) {
                break;
            }
            let is_smaller = page.size[0] < smallest[0] && page.size[1] < smallest[1];
            if is_new(&page, &pages) && (page.is_reduced || is_smaller && page.halves(&pages[0])) {
                smallest = if page.is_reduced { smallest } else { page.size };
                pages.push(page);
            }
        }
        pages[1..].sort_by_key(|page| std::cmp::Reverse(page.size));
        let levels = pages.iter().map(|page| {
            let [w, h] = page.size;
            let scale = (f64::from(width) / f64::from(w) * f64::from(height) / f64::from(h)).sqrt();
            Level { width: w, height: h, scale }
        });
        let levels = levels.collect();
        Ok(Self { levels, missing, geo, ..Self::of_pages(path, options, pages) })
    }

    fn of_pages(path: &Path, options: DecodeOptions, pages: Vec<Page>) -> Self {
        Self {
            path: path.into(),
            options,
            levels: Vec::new(),
            pages,
            missing: None,
            geo: GeoTags::default(),
            decoders: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    /// All samples of the page whose directory is at `ifd`, pixel by pixel as the file has them, of a palette the indices; the size was
    /// held against the limits.
    pub(crate) fn read_page(path: &Path, options: DecodeOptions, ifd: u64) -> Result<raster::Samples<'static>> {
        let refused = |reason: String| damaged(path, reason);
        let page = Page::of(&mut open(path, &options, Some(ifd))?, &options).map_err(refused)?;
        if page.encoding.number == Number::Signed || page.encoding.bits > 32 && page.encoding.number == Number::Unsigned
        {
            let cure = "save it in 8, 16 or 32 bits without a sign, or by deflate";
            return Err(refused(format!("signed and 64-bit integers are not supported in its compression; {cure}")));
        }
        let [width, height] = page.size;
        let (step, len) = (page.samples, width as usize * height as usize * page.samples);
        let mut samples = Samples::zeros(&page.encoding, len);
        let step_in_chunk = page.channels();
        let source = Self::of_pages(path, options, vec![page]);
        source.visit(0, Region { left: 0, top: 0, width, height }, |chunk, Piece { plane, first, pixel, count }| {
            let spread = step / step_in_chunk;
            chunk.samples.copy_to(first..first + count * step_in_chunk, &mut samples, pixel * step + plane, spread);
        })?;
        Ok(match samples {
            Samples::U8(values) => raster::Samples::U8(values.into()),
            Samples::U16(values) => raster::Samples::U16(values.into()),
            Samples::U32(values) => raster::Samples::U32(values.into()),
            Samples::F32(values) => raster::Samples::F32(values.into()),
        })
    }

    /// A tile or strip, decoded when it is first asked for.
    fn chunk(&self, level: usize, index: u32, region: Region) -> Result<Arc<Chunk>> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunk) = kept().get((level, index)) {
            return Ok(chunk);
        }
        let page = &self.pages[level];
        let failed = |reason| DataError::Region { path: self.path.clone(), level, region, reason };
        let waiting = || self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        let found = {
            let mut decoders = waiting();
            decoders.iter().position(|(at, _)| *at == level).map(|at| decoders.swap_remove(at).1)
        };
        let mut reader = match found {
            Some(reader) => reader,
            None => open(&self.path, &self.options, Some(page.ifd))?,
        };
        let read = || page.read_chunk(&mut reader, index, &self.options).map_err(failed);
        let chunk = Arc::new(guarded(read, || failed("the decoder panicked".into()))?);
        waiting().push((level, reader));
        kept().insert((level, index), chunk.clone());
        Ok(chunk)
    }

    /// Reads the labels of a region of a file of one band of unsigned integers: the numbers as the file has them, up to 32 bits, with a
    /// palette the indices.
    ///
    /// # Errors
    /// [`DataError::Region`] if the region is not within the level, cannot be read, or is not of such numbers.
    pub fn read_labels(&self, level: usize, region: Region) -> Result<Vec<u32>> {
        check(self, level, region)?;
        self.check_bytes(level, region, 1)?;
        let mut labels = vec![0; region.width as usize * region.height as usize];
        let mut are_labels = self.pages[level].samples == 1;
        self.visit(level, region, |chunk, Piece { first, pixel, count, .. }| {
            let target = &mut labels[pixel..pixel + count];
            are_labels &= chunk.samples.copy_labels(first, target);
        })?;
        if !are_labels {
            let reason = "labels are one band of unsigned integers of up to 32 bits".into();
            return Err(DataError::Region { path: self.path.clone(), level, region, reason });
        }
        Ok(labels)
    }

    /// Refuses a region whose values, of 4 bytes each, are over the limit.
    fn check_bytes(&self, level: usize, region: Region, values: usize) -> Result<()> {
        let bytes = (u64::from(region.width) * u64::from(region.height)).saturating_mul(4 * values as u64);
        let limit = self.options.limits.max_bytes;
        if bytes <= limit {
            return Ok(());
        }
        let reason = format!("it needs more than the limit of {limit} bytes; read less at once, or raise `Limits`");
        Err(DataError::Region { path: self.path.clone(), level, region, reason })
    }

    /// Calls `f` with each row of each chunk that a region has pixels of.
    fn visit(&self, level: usize, region: Region, mut f: impl FnMut(&Chunk, Piece)) -> Result<()> {
        let page = &self.pages[level];
        let [chunk_width, chunk_height] = page.chunk;
        let across = page.size[0].div_ceil(chunk_width);
        let per_plane = across * page.size[1].div_ceil(chunk_height);
        let planes = if page.planar { page.samples } else { 1 };
        for plane in 0..planes {
            for row in region.top / chunk_height..=(region.top + region.height - 1) / chunk_height {
                for column in region.left / chunk_width..=(region.left + region.width - 1) / chunk_width {
                    let index = plane as u32 * per_plane + row * across + column;
                    let [left, top] = [column * chunk_width, row * chunk_height];
                    let size = [chunk_width.min(page.size[0] - left), chunk_height.min(page.size[1] - top)];
                    let place = Region { left, top, width: size[0], height: size[1] };
                    let chunk = self.chunk(level, index, place)?;
                    // Tiles at the edges may have their padding.
                    let [stored, rows] = chunk.size;
                    let len = stored as usize * rows as usize * chunk.channels;
                    if stored < size[0] || rows < size[1] || chunk.samples.len() < len {
                        let reason = format!("the tile or strip has other than {}x{} pixels", size[0], size[1]);
                        return Err(DataError::Region { path: self.path.clone(), level, region: place, reason });
                    }
                    let columns = left.max(region.left)..(left + size[0]).min(region.left + region.width);
                    for y in top.max(region.top)..(top + size[1]).min(region.top + region.height) {
                        let first =
                            ((y - top) as usize * stored as usize + (columns.start - left) as usize) * chunk.channels;
                        let pixel =
                            (y - region.top) as usize * region.width as usize + (columns.start - region.left) as usize;
                        f(&chunk, Piece { plane, first, pixel, count: columns.len() });
                    }
                }
            }
        }
        Ok(())
    }
}

fn damaged(path: &Path, reason: String) -> DataError {
    DataError::Decode { path: path.into(), format: "TIFF", reason }
}

/// A row of pixels that a region and a chunk have in common.
struct Piece {
    plane: usize,
    /// First of its samples in the chunk.
    first: usize,
    /// First of its pixels in the region.
    pixel: usize,
    /// Pixels.
    count: usize,
}

impl RegionSource for TiffSource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn levels(&self) -> &[Level] {
        &self.levels
    }

    fn bands(&self) -> usize {
        self.pages[0].bands()
    }

    fn geo(&self) -> GeoTags {
        self.geo.clone()
    }

    fn read(&self, level: usize, region: Region) -> Result<RegionPixels> {
        check(self, level, region)?;
        let page = &self.pages[level];
        let bands = page.bands();
        let (width, height) = (region.width as usize, region.height as usize);
        self.check_bytes(level, region, bands)?;
        let mut values = vec![0.0f32; width * height * bands];
        let marked = self.missing.is_some() || page.blocks.has_absent;
        let mut missing = if marked { vec![true; width * height] } else { Vec::new() };
        self.visit(level, region, |chunk, Piece { plane, first, pixel, count }| {
            let target = &mut values[pixel * bands + plane..];
            match (&page.colors, page.planar) {
                (Colors::Palette(colors), _) => chunk.samples.copy_colors(first, count, target, colors),
                (_, true) => chunk.samples.copy(first, count, target, bands, &page.encoding),
                (_, false) => chunk.samples.copy(first, count * bands, target, 1, &page.encoding),
            }
            if marked && !chunk.absent {
                let is_mark = |at: usize| self.missing.is_some_and(|mark| chunk.samples.is_mark(at, mark));
                for (at, missing) in missing[pixel..pixel + count].iter_mut().enumerate() {
                    let first = first + at * chunk.channels;
                    *missing = *missing && (first..first + chunk.channels).all(is_mark);
                }
            }
        })?;
        let unknown = |pixel: usize| missing.get(pixel).copied().unwrap_or(false);
        // Integers of 64 bits may be as large.
        let is_float = page.encoding.number == Number::Float;
        let is_wrong = |value: f32| !value.is_finite() || (is_float && nodata::is_absurd(value));
        if let Some(at) = values.iter().enumerate().position(|(at, value)| is_wrong(*value) && !unknown(at / bands)) {
            let (pixel, value, path) = (at / bands, values[at], self.path.clone());
            let (x, y) = (region.left + (pixel % width) as u32, region.top + (pixel / width) as u32);
            return Err(match value.is_finite() {
                true => DataError::MissingData { path, x, y, value },
                false => DataError::NotFinite { path, x, y, value },
            });
        }
        if !missing.contains(&true) {
            missing.clear();
        }
        let image = Image::from_parts(region.width, region.height, bands, values);
        Ok(RegionPixels { image, missing })
    }
}
