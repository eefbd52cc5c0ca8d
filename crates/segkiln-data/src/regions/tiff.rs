//! TIFF and BigTIFF by region: strips and tiles, interleaved and planar, every compression that the `tiff` crate decodes.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ::tiff::{
    ColorType, TiffError,
    decoder::{ChunkType, Decoder, DecodingResult},
    tags::{ByteOrder, CompressionMethod, PlanarConfiguration, Predictor, Tag},
};

use super::{GeoTags, Level, Region, RegionPixels, RegionSource, TagValue, check, geo, rewired::Rewired};
use crate::{
    DataError, DecodeOptions, Image, Orientation, Result,
    codecs::{nodata, rgb_of_ycbcr, unpack},
};

/// Pages and reduced copies that are looked at.
const MOST_PAGES: usize = 1000;
/// Bytes of decoded tiles and strips that are kept: a row of tiles of a picture of 50,000 pixels in RGB.
const KEPT: usize = 160 << 20;
/// Bytes of an uncompressed strip that are read at once.
const PIECE: usize = 1 << 20;

/// A TIFF or BigTIFF that is read by region; its levels are the first page and the reduced copies of it, in sub-IFDs and on further
/// pages.
///
/// Strips and tiles, interleaved or planar, 1 to 64 bits, integers and floats, any number of bands; no compression, deflate, LZW,
/// PackBits, JPEG (also in YCbCr) and CCITT group 4. Decoded tiles are kept, up to 160 MiB, so that neighboring regions do not decode
/// them again.
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

type Reader = Decoder<Rewired>;

/// Layout of a level's page.
#[derive(Debug, Clone)]
struct Page {
    /// Offset of its directory.
    ifd: u64,
    size: [u32; 2],
    bands: usize,
    bits: u8,
    ycbcr: bool,
    planar: bool,
    chunk: [u32; 2],
    /// Pieces of uncompressed strips: so many rows are read at once, from these offsets.
    raw: Option<Raw>,
    /// Tiles or strips without bytes, which GDAL leaves out where there is no data.
    absent: Arc<HashSet<u32>>,
}

#[derive(Debug, Clone)]
struct Raw {
    rows: u32,
    strip_rows: u32,
    offsets: Arc<Vec<u64>>,
    order: ByteOrder,
    kind: Kind,
}

/// Numbers of an uncompressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    U16,
    F32,
}

/// Decoded samples of a tile, a strip or some rows of it.
#[derive(Debug)]
struct Chunk {
    size: [u32; 2],
    /// Values of a pixel: all bands, or 1 of a planar file.
    channels: usize,
    samples: Samples,
    /// Whether the file has no data for it; the samples are 0.
    absent: bool,
}

#[derive(Debug)]
enum Samples {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    F32(Vec<f32>),
}

impl Samples {
    fn bytes(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::U16(values) => 2 * values.len(),
            Self::U32(values) => 4 * values.len(),
            Self::F32(values) => 4 * values.len(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    /// A value as the file has it.
    fn raw(&self, index: usize) -> f64 {
        match self {
            Self::U8(values) => values[index].into(),
            Self::U16(values) => values[index].into(),
            Self::U32(values) => values[index].into(),
            Self::F32(values) => values[index].into(),
        }
    }

    /// Copies integers as they are; whether these are such.
    fn copy_labels(&self, first: usize, target: &mut [u32]) -> bool {
        let last = first + target.len();
        match self {
            Self::U8(values) => target.iter_mut().zip(&values[first..last]).for_each(|(to, from)| *to = (*from).into()),
            Self::U16(values) => {
                target.iter_mut().zip(&values[first..last]).for_each(|(to, from)| *to = (*from).into());
            }
            Self::U32(values) => target.copy_from_slice(&values[first..last]),
            Self::F32(_) => return false,
        }
        true
    }

    /// Copies values to every `step`th place of a row: unsigned integers scaled to `[0, 1]`, others as they are.
    fn copy(&self, first: usize, count: usize, target: &mut [f32], step: usize, bits: u8) {
        let target = target.iter_mut().step_by(step);
        let most = (1u32.checked_shl(bits.into()).unwrap_or(0)).wrapping_sub(1);
        match self {
            Self::U8(values) => {
                let values = &values[first..first + count];
                let most = most.min(255) as f32;
                target.zip(values).for_each(|(target, value)| *target = f32::from(*value) / most);
            }
            Self::U16(values) => {
                let values = &values[first..first + count];
                target.zip(values).for_each(|(target, value)| *target = f32::from(*value) / 65_535.0);
            }
            Self::U32(values) => {
                let values = &values[first..first + count];
                let scale = f64::from(u32::MAX);
                target.zip(values).for_each(|(target, value)| *target = (f64::from(*value) / scale) as f32);
            }
            Self::F32(values) => {
                let values = &values[first..first + count];
                target.zip(values).for_each(|(target, value)| *target = *value);
            }
        }
    }
}

/// Chunks that were decoded last, by level and index.
#[derive(Debug, Default)]
struct Kept {
    chunks: HashMap<(usize, u32), (Arc<Chunk>, u64)>,
    bytes: usize,
    clock: u64,
}

impl Kept {
    fn get(&mut self, key: (usize, u32)) -> Option<Arc<Chunk>> {
        self.clock += 1;
        let (chunk, used) = self.chunks.get_mut(&key)?;
        *used = self.clock;
        Some(chunk.clone())
    }

    fn insert(&mut self, key: (usize, u32), chunk: Arc<Chunk>) {
        self.clock += 1;
        self.bytes += chunk.samples.bytes();
        if let Some((old, _)) = self.chunks.insert(key, (chunk, self.clock)) {
            self.bytes -= old.samples.bytes();
        }
        while self.bytes > KEPT && self.chunks.len() > 1 {
            let oldest = self.chunks.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            if let Some((old, _)) = oldest.and_then(|key| self.chunks.remove(&key)) {
                self.bytes -= old.samples.bytes();
            }
        }
    }
}

impl TiffSource {
    /// Opens a file: its directories are read, and no pixels.
    ///
    /// In the options `limits.max_bytes` bounds what is held at once (a decoded tile or strip), and not the picture; `page`
    /// chooses the page of level 0, and `nodata` what pixels without data have (without: the tag `GDAL_NODATA`).
    ///
    /// # Errors
    /// [`DataError::Io`], or [`DataError::Decode`] if it is no TIFF that can be read by region.
    pub fn open(path: impl AsRef<Path>, options: DecodeOptions) -> Result<Self> {
        let path = path.as_ref();
        let damaged = |reason: String| DataError::Decode { path: path.into(), format: "TIFF", reason };
        let error = |error| damaged(explain(error, &options));
        let mut reader = open(path, &options, None)?;
        let mut pages = Vec::new();
        // The first page is the one that is asked for; behind it come what may be smaller copies.
        for _ in 0..options.page.unwrap_or(0) {
            let absent = |_| damaged(format!("it has no page {} (counted from 0)", options.page.unwrap_or(0)));
            reader.next_image().map_err(absent)?;
        }
        let first = Page::of(&mut reader, &options).map_err(&damaged)?;
        let orientation = reader.find_tag_unsigned::<u16>(Tag::Orientation).map_err(error)?.unwrap_or(1);
        if orientation != 1 && options.orientation == Orientation::Apply {
            let cure = "rewrite it upright, or read it as it is stored with `Orientation::Keep`";
            return Err(damaged(format!("its orientation tag is {orientation}, and regions are not turned; {cure}")));
        }
        let missing = options.nodata.or_else(|| nodata::of_tag(&reader.get_tag_ascii_string(Tag::GdalNodata).ok()?));
        let geo = geo_tags(&mut reader);
        let mut candidates: Vec<u64> = reader.find_tag_unsigned_vec(Tag::SubIfd).ok().flatten().unwrap_or_default();
        while candidates.len() < MOST_PAGES && reader.more_images() && reader.next_image().is_ok() {
            candidates.extend(reader.ifd_pointer().map(|pointer| pointer.0));
        }
        let [width, height] = first.size;
        pages.push(first);
        for ifd in candidates {
            // A page that cannot be read is no level.
            let page = open(path, &options, Some(ifd)).ok().and_then(|mut reader| Page::of(&mut reader, &options).ok());
            if let Some(page) = page.filter(|page| page.reduces(&pages[0])) {
                pages.push(page);
            }
        }
        pages[1..].sort_by_key(|page| std::cmp::Reverse(page.size));
        pages.dedup_by_key(|page| page.size);
        let levels = pages.iter().map(|page| {
            let [w, h] = page.size;
            let scale = (f64::from(width) / f64::from(w) * f64::from(height) / f64::from(h)).sqrt();
            Level { width: w, height: h, scale }
        });
        Ok(Self {
            path: path.into(),
            options,
            levels: levels.collect(),
            pages,
            missing,
            geo,
            decoders: Mutex::default(),
            kept: Mutex::default(),
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
        let chunk = match &page.raw {
            _ if page.absent.contains(&index) => page.without_data(index, &self.options),
            Some(raw) => page.read_raw(raw, &mut reader, index, &self.options),
            None => page.decode(&mut reader, index, &self.options),
        };
        let chunk = Arc::new(chunk.map_err(failed)?);
        waiting().push((level, reader));
        kept().insert((level, index), chunk.clone());
        Ok(chunk)
    }

    /// Reads the labels of a region of a file of one band of unsigned integers: the numbers as the file has them, up to 32 bits.
    ///
    /// # Errors
    /// [`DataError::Region`] if the region is not within the level, cannot be read, or is not of such numbers.
    pub fn read_labels(&self, level: usize, region: Region) -> Result<Vec<u32>> {
        check(self, level, region)?;
        let mut labels = vec![0; region.width as usize * region.height as usize];
        let mut are_labels = self.bands() == 1;
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

    /// Calls `f` with each row of each chunk that a region has pixels of.
    fn visit(&self, level: usize, region: Region, mut f: impl FnMut(&Chunk, Piece)) -> Result<()> {
        let page = &self.pages[level];
        let [chunk_width, chunk_height] = page.chunk;
        let across = page.size[0].div_ceil(chunk_width);
        let per_plane = across * page.size[1].div_ceil(chunk_height);
        let planes = if page.planar { page.bands } else { 1 };
        for plane in 0..planes {
            for row in region.top / chunk_height..=(region.top + region.height - 1) / chunk_height {
                for column in region.left / chunk_width..=(region.left + region.width - 1) / chunk_width {
                    let index = plane as u32 * per_plane + row * across + column;
                    let [left, top] = [column * chunk_width, row * chunk_height];
                    let size = [chunk_width.min(page.size[0] - left), chunk_height.min(page.size[1] - top)];
                    let place = Region { left, top, width: size[0], height: size[1] };
                    let chunk = self.chunk(level, index, place)?;
                    // The decoder gives the last tiles of further planes with their padding.
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
        self.pages[0].bands
    }

    fn geo(&self) -> GeoTags {
        self.geo.clone()
    }

    fn read(&self, level: usize, region: Region) -> Result<RegionPixels> {
        check(self, level, region)?;
        let page = &self.pages[level];
        let bands = page.bands;
        let (width, height) = (region.width as usize, region.height as usize);
        let mut values = vec![0.0f32; width * height * bands];
        let marked = self.missing.is_some() || !page.absent.is_empty();
        let mut missing = if marked { vec![true; width * height] } else { Vec::new() };
        self.visit(level, region, |chunk, Piece { plane, first, pixel, count }| {
            let target = &mut values[pixel * bands + plane..];
            let (values, step) = match page.planar {
                true => (count, bands),
                false => (count * bands, 1),
            };
            chunk.samples.copy(first, values, target, step, page.bits);
            if marked && !chunk.absent {
                let is_mark = |at: usize| self.missing.is_some_and(|mark| nodata::is_mark(chunk.samples.raw(at), mark));
                for (at, missing) in missing[pixel..pixel + count].iter_mut().enumerate() {
                    let first = first + at * chunk.channels;
                    *missing = *missing && (first..first + chunk.channels).all(is_mark);
                }
            }
        })?;
        let unknown = |pixel: usize| missing.get(pixel).copied().unwrap_or(false);
        if let Some(at) = values.iter().enumerate().position(|(at, value)| !value.is_finite() && !unknown(at / bands)) {
            let pixel = at / bands;
            let (x, y) = (region.left + (pixel % width) as u32, region.top + (pixel / width) as u32);
            return Err(DataError::NotFinite { path: self.path.clone(), x, y, value: values[at] });
        }
        if !missing.contains(&true) {
            missing.clear();
        }
        let image = Image::from_parts(region.width, region.height, bands, values);
        Ok(RegionPixels { image, missing })
    }
}

impl Page {
    fn of(reader: &mut Reader, options: &DecodeOptions) -> std::result::Result<Self, String> {
        let error = |error| explain(error, options);
        let (width, height) = reader.dimensions().map_err(error)?;
        let color = reader.colortype().map_err(|error| match error {
            TiffError::UnsupportedError(_) => format!("{error}; save it as gray, RGB or bands"),
            error => explain(error, options),
        })?;
        let bits = color.bit_depth();
        if !matches!(bits, 1 | 2 | 4 | 8 | 16 | 32 | 64) {
            return Err(format!("{bits} bits a sample are not supported; save it in 8 or 16"));
        }
        let ycbcr = matches!(color, ColorType::YCbCr(_));
        if ycbcr && bits != 8 || matches!(color, ColorType::CMYK(_) | ColorType::CMYKA(_) | ColorType::Lab(_)) {
            return Err(format!("colors of type {color:?} are not supported; save it as gray or RGB"));
        }
        let number = |reader: &mut Reader, tag, absent: u16| -> std::result::Result<u16, String> {
            // One for each band in some files, which then are alike.
            let values = reader.find_tag_unsigned_vec(tag).map_err(error)?.unwrap_or_default();
            Ok(values.first().copied().unwrap_or(absent))
        };
        // Extra samples are bands like the others.
        let bands = usize::from(number(reader, Tag::SamplesPerPixel, 1)?);
        if bands != usize::from(color.num_samples()) {
            return Err(format!("it has {bands} samples a pixel, of which {color:?} are the colors; save it as bands"));
        }
        let planar = number(reader, Tag::PlanarConfiguration, 1)? == PlanarConfiguration::Planar.to_u16();
        let (chunk_width, chunk_height) = reader.chunk_dimensions();
        let is_strips = reader.get_chunk_type() == ChunkType::Strip;
        let chunk = [if is_strips { width } else { chunk_width }, chunk_height.min(height.max(1))];
        let chunk = if is_strips { chunk } else { [chunk_width, chunk_height] };
        let format = number(reader, Tag::SampleFormat, 1)?;
        let plain = number(reader, Tag::Compression, 1)? == CompressionMethod::None.to_u16()
            && number(reader, Tag::Predictor, 1)? == Predictor::None.to_u16()
            && number(reader, Tag::PhotometricInterpretation, 1)? != 0;
        let kind = match (format, bits) {
            (1, 8) => Some(Kind::U8),
            (1, 16) => Some(Kind::U16),
            (3, 32) => Some(Kind::F32),
            _ => None,
        };
        let mut page = Self {
            ifd: 0,
            size: [width, height],
            bands,
            bits,
            ycbcr,
            planar,
            chunk,
            raw: None,
            absent: Arc::default(),
        };
        page.ifd = reader.ifd_pointer().map_or(0, |pointer| pointer.0);
        let counts = if is_strips { Tag::StripByteCounts } else { Tag::TileByteCounts };
        let counts = reader.get_tag_u64_vec(counts).map_err(error)?;
        page.absent = Arc::new((0..).zip(&counts).filter(|(_, bytes)| **bytes == 0).map(|(index, _)| index).collect());
        let row = u64::from(width) * bands as u64 * u64::from(bits).div_ceil(8);
        if let (true, true, false, false, Some(kind)) =
            (is_strips, plain && page.absent.is_empty(), planar, ycbcr, kind)
            && row * u64::from(page.chunk[1]) > PIECE as u64
        {
            let offsets = reader.get_tag_u64_vec(Tag::StripOffsets).map_err(error)?;
            let most = (PIECE as u64 / row.max(1)).clamp(1, u64::from(page.chunk[1])) as u32;
            // Pieces that strips are whole numbers of.
            let rows = (1..=most).rev().find(|rows| page.chunk[1].is_multiple_of(*rows)).unwrap_or(1);
            let (order, strip_rows) = (reader.byte_order(), page.chunk[1]);
            page.chunk[1] = rows;
            page.raw = Some(Raw { rows, strip_rows, offsets: Arc::new(offsets), order, kind });
        }
        Ok(page)
    }

    /// Whether a page is a smaller copy of another: the same bands and shape, up to the rounding of halved sides.
    fn reduces(&self, full: &Self) -> bool {
        let ratio = [0, 1].map(|axis| f64::from(full.size[axis]) / f64::from(self.size[axis].max(1)));
        let rounding = [0, 1].map(|axis| ratio[axis] / f64::from(self.size[axis].max(1)));
        let alike = (ratio[0] - ratio[1]).abs() <= rounding[0] + rounding[1] + 0.01 * ratio[0];
        self.bands == full.bands && self.bits == full.bits && ratio[0] > 1.5 && ratio[1] > 1.5 && alike
    }

    fn channels(&self) -> usize {
        if self.planar { 1 } else { self.bands }
    }

    /// Width and height of a tile, strip or piece.
    fn chunk_size(&self, index: u32) -> [u32; 2] {
        let across = self.size[0].div_ceil(self.chunk[0]);
        let index = index % (across * self.size[1].div_ceil(self.chunk[1]));
        let [column, row] = [index % across, index / across];
        [
            self.chunk[0].min(self.size[0] - column * self.chunk[0]),
            self.chunk[1].min(self.size[1] - row * self.chunk[1]),
        ]
    }

    fn without_data(&self, index: u32, options: &DecodeOptions) -> std::result::Result<Chunk, String> {
        let size = self.chunk_size(index);
        let count = size[0] as usize * size[1] as usize * self.channels();
        if count > options.limits.max_usize() {
            return Err(format!("its pixels need more than the limit of {} bytes", options.limits.max_bytes));
        }
        Ok(Chunk { size, channels: self.channels(), samples: Samples::U8(vec![0; count]), absent: true })
    }

    fn decode(&self, reader: &mut Reader, index: u32, options: &DecodeOptions) -> std::result::Result<Chunk, String> {
        let (width, height) = reader.chunk_data_dimensions(index);
        let size = [width, height];
        let decoded = reader.read_chunk(index).map_err(|error| explain(error, options))?;
        let channels = self.channels();
        let mut samples = match decoded {
            DecodingResult::U8(v) if self.bits < 8 => Samples::U8(unpack(&v, self.bits, width, height, channels)),
            DecodingResult::U8(v) => Samples::U8(v),
            DecodingResult::U16(v) => Samples::U16(v),
            DecodingResult::U32(v) => Samples::U32(v),
            DecodingResult::F32(v) => Samples::F32(v),
            DecodingResult::U64(v) => Samples::F32(v.into_iter().map(|v| v as f32).collect()),
            DecodingResult::F16(v) => Samples::F32(v.into_iter().map(|v| v.to_f32()).collect()),
            DecodingResult::F64(v) => Samples::F32(v.into_iter().map(|v| v as f32).collect()),
            DecodingResult::I8(v) => Samples::F32(v.into_iter().map(f32::from).collect()),
            DecodingResult::I16(v) => Samples::F32(v.into_iter().map(f32::from).collect()),
            DecodingResult::I32(v) => Samples::F32(v.into_iter().map(|v| v as f32).collect()),
            DecodingResult::I64(v) => Samples::F32(v.into_iter().map(|v| v as f32).collect()),
        };
        if let (true, false, Samples::U8(values)) = (self.ycbcr, self.planar, &mut samples) {
            values.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = rgb_of_ycbcr(*pixel));
        }
        Ok(Chunk { size, channels, samples, absent: false })
    }

    /// Rows of an uncompressed strip, which may be as large as the picture.
    fn read_raw(
        &self,
        raw: &Raw,
        reader: &mut Reader,
        index: u32,
        options: &DecodeOptions,
    ) -> std::result::Result<Chunk, String> {
        let size = self.chunk_size(index);
        let first = index * raw.rows;
        let row = self.size[0] as usize * self.bands;
        let count = row * size[1] as usize;
        let bytes = usize::from(self.bits / 8);
        let strip = raw.offsets.get((first / raw.strip_rows) as usize).ok_or("its table of strips is too short")?;
        let within = u64::from(first % raw.strip_rows) * (row * bytes) as u64;
        let offset = strip.checked_add(within).ok_or("the offset of a strip is beyond any file")?;
        if count * bytes > options.limits.max_usize() {
            return Err(format!("its rows need more than the limit of {} bytes", options.limits.max_bytes));
        }
        let mut read = vec![0u8; count * bytes];
        let file = reader.inner();
        let result = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut read));
        result.map_err(|error| explain(TiffError::IoError(error), options))?;
        let little = raw.order == ByteOrder::LittleEndian;
        let samples = match raw.kind {
            Kind::U8 => Samples::U8(read),
            Kind::U16 => {
                let value = |b: &[u8; 2]| if little { u16::from_le_bytes(*b) } else { u16::from_be_bytes(*b) };
                Samples::U16(read.as_chunks().0.iter().map(value).collect())
            }
            Kind::F32 => {
                let value = |b: &[u8; 4]| if little { f32::from_le_bytes(*b) } else { f32::from_be_bytes(*b) };
                Samples::F32(read.as_chunks().0.iter().map(value).collect())
            }
        };
        Ok(Chunk { size, channels: self.bands, samples, absent: false })
    }
}

fn explain(error: TiffError, options: &DecodeOptions) -> String {
    match error {
        TiffError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => "the file is truncated".into(),
        TiffError::LimitsExceeded => format!(
            "a tile, strip or tag needs more than the limit of {} bytes; rewrite it in tiles, or raise `Limits`",
            options.limits.max_bytes
        ),
        error => error.to_string(),
    }
}

fn geo_tags(reader: &mut Reader) -> GeoTags {
    let mut tags = Vec::new();
    for number in GeoTags::KNOWN {
        let tag = Tag::from_u16_exhaustive(number);
        let value = match number {
            geo::PIXEL_SCALE | geo::TIE_POINTS | geo::TRANSFORMATION | 34_736 => {
                reader.get_tag_f64_vec(tag).ok().map(TagValue::Doubles)
            }
            34_735 | 296 => reader.get_tag_u16_vec(tag).ok().map(TagValue::Shorts),
            34_737 => reader.get_tag_ascii_string(tag).ok().map(TagValue::Ascii),
            _ => {
                let pairs = reader.get_tag_u32_vec(tag).ok();
                pairs.map(|values| TagValue::Rationals(values.as_chunks().0.to_vec()))
            }
        };
        tags.extend(value.map(|value| (number, value)));
    }
    let mut geo = GeoTags { tags };
    if let Ok(description) = reader.get_tag_ascii_string(Tag::ImageDescription) {
        geo.describe(&description);
    }
    geo
}

/// A decoder that stands at a directory, or at the first.
fn open(path: &Path, options: &DecodeOptions, ifd: Option<u64>) -> Result<Reader> {
    let damaged = |reason: String| DataError::Decode { path: path.into(), format: "TIFF", reason };
    let file = Rewired::open(path, ifd)?;
    let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
    let mut limits = ::tiff::decoder::Limits::default();
    limits.decoding_buffer_size = options.limits.max_usize();
    limits.intermediate_buffer_size = options.limits.max_usize();
    // A table of tiles is no larger than the file; it takes three times as much in memory.
    limits.ifd_value_size = len.min(options.limits.max_usize() / 4);
    let error = |error| damaged(explain(error, options));
    let mut decoder = Decoder::new(file).map_err(error)?.with_limits(limits);
    // From the directory that stands before the file's own.
    decoder.next_image().map_err(error)?;
    Ok(decoder)
}
