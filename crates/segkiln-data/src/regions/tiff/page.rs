//! Directories of a TIFF: layout of a page, its place, and decoders that stand at it.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader},
    path::Path,
    sync::Arc,
};

use ::tiff::{
    ColorType, TiffError,
    decoder::ChunkType,
    tags::{ByteOrder, CompressionMethod, PlanarConfiguration, Predictor, Tag},
};

use crate::{
    DataError, DecodeOptions, Result, codecs,
    regions::{GeoTags, TagValue, geo},
};

/// Bytes of an uncompressed strip that are read at once.
const PIECE: usize = 1 << 20;

pub(super) type Reader = codecs::tiff::Reader<BufReader<File>>;

/// Layout of a level's page.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// Offset of its directory.
    pub ifd: u64,
    /// Width and height in pixels.
    pub size: [u32; 2],
    pub bands: usize,
    /// Bits of a sample.
    pub bits: u8,
    pub ycbcr: bool,
    pub planar: bool,
    /// Width and height of a tile, a strip, or a piece of a strip.
    pub chunk: [u32; 2],
    /// Set if uncompressed strips are read in pieces.
    pub raw: Option<Raw>,
    /// Tiles or strips without bytes, which GDAL leaves out where there is no data.
    pub absent: Arc<HashSet<u32>>,
}

/// Uncompressed strips that are read some rows at a time.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    /// Rows that are read at once.
    pub rows: u32,
    /// Rows of a strip, a multiple of `rows`.
    pub strip_rows: u32,
    /// Offset of each strip.
    pub offsets: Arc<Vec<u64>>,
    pub order: ByteOrder,
    pub kind: Kind,
}

/// Type of the samples of an uncompressed strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    U16,
    F32,
}

impl Page {
    /// Layout of the page that the decoder is at.
    pub fn of(reader: &mut Reader, options: &DecodeOptions) -> std::result::Result<Self, String> {
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
        let chunk = if is_strips { [width, chunk_height.min(height)] } else { [chunk_width, chunk_height] };
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
            ifd: reader.ifd_pointer().map_or(0, |pointer| pointer.0),
            size: [width, height],
            bands,
            bits,
            ycbcr,
            planar,
            chunk,
            raw: None,
            absent: Arc::default(),
        };
        let counts = if is_strips { Tag::StripByteCounts } else { Tag::TileByteCounts };
        let counts = reader.get_tag_u64_vec(counts).map_err(error)?;
        page.absent = Arc::new((0..).zip(&counts).filter(|(_, bytes)| **bytes == 0).map(|(index, _)| index).collect());
        let row = u64::from(width) * bands as u64 * u64::from(bits).div_ceil(8);
        if let (true, true, false, false, Some(kind)) =
            (is_strips, plain && page.absent.is_empty(), planar, ycbcr, kind)
            && row.saturating_mul(page.chunk[1].into()) > PIECE as u64
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

    /// Returns true for a smaller copy of `full`: the same bands and shape, up to the rounding of halved sides.
    pub fn reduces(&self, full: &Self) -> bool {
        let ratio = [0, 1].map(|axis| f64::from(full.size[axis]) / f64::from(self.size[axis].max(1)));
        let rounding = [0, 1].map(|axis| ratio[axis] / f64::from(self.size[axis].max(1)));
        let alike = (ratio[0] - ratio[1]).abs() <= rounding[0] + rounding[1] + 0.01 * ratio[0];
        self.bands == full.bands && self.bits == full.bits && ratio[0] > 1.5 && ratio[1] > 1.5 && alike
    }
}

/// Message of a decoder's error.
pub(super) fn explain(error: TiffError, options: &DecodeOptions) -> String {
    match error {
        TiffError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => "the file is truncated".into(),
        TiffError::LimitsExceeded => format!(
            "a tile, strip or tag needs more than the limit of {} bytes; rewrite it in tiles, or raise `Limits`",
            options.limits.max_bytes
        ),
        error => error.to_string(),
    }
}

/// Tags of the page that the decoder is at that say where its pixels lie.
pub(super) fn geo_tags(reader: &mut Reader) -> GeoTags {
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
pub(super) fn open(path: &Path, options: &DecodeOptions, ifd: Option<u64>) -> Result<Reader> {
    let file = File::open(path).map_err(|error| DataError::io("open", path, error))?;
    let metadata = file.metadata().map_err(|error| DataError::io("read", path, error))?;
    if !metadata.is_file() {
        return Err(DataError::NotAFile { path: path.into() });
    }
    let file = BufReader::with_capacity(1 << 16, file);
    codecs::tiff::open(file, metadata.len(), path, &options.limits, ifd)
}
