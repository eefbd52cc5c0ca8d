//! Directories of a TIFF: layout of a page, its place, and decoders that stand at it.

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
    sync::Arc,
};

use ::tiff::{
    TiffError,
    decoder::ChunkType,
    tags::{PlanarConfiguration, Tag},
};
use segkiln_core::Rgb;

use super::{
    codec::Codec,
    samples::{Encoding, Number, Prediction},
};
use crate::{
    DataError, DecodeOptions, Result,
    codecs::{self, palette},
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
    /// Whether it says that it is a reduced copy of another page (NewSubfileType).
    pub is_reduced: bool,
    /// Values of a pixel, as they are stored.
    pub samples: usize,
    pub encoding: Encoding,
    pub codec: Codec,
    pub planar: bool,
    pub colors: Colors,
    /// Width and height of a tile, a strip, or a piece of a strip.
    pub chunk: [u32; 2],
    /// Rows of a strip that is read in pieces, a multiple of the piece's; else those of the chunk.
    pub strip_rows: u32,
    pub blocks: Arc<Blocks>,
}

/// Meaning of a pixel's values.
#[derive(Debug, Clone)]
pub(super) enum Colors {
    /// Bands, gray and RGB among them.
    Bands,
    /// Full-range YCbCr of JPEG.
    YCbCr,
    /// Colors by their index.
    Palette(Arc<Vec<Rgb>>),
}

/// Where the tiles or strips of a page are.
#[derive(Debug)]
pub(super) struct Blocks {
    pub offsets: Vec<u64>,
    /// Bytes of each; none where GDAL leaves blocks out that have no data.
    pub bytes: Vec<u64>,
    /// Whether there are some without bytes.
    pub has_absent: bool,
}

impl Page {
    /// Layout of the page that the decoder is at.
    pub fn of(reader: &mut Reader, options: &DecodeOptions) -> std::result::Result<Self, String> {
        let error = |error| explain(error, options);
        let (width, height) = reader.dimensions().map_err(error)?;
        let is_reduced = codecs::tiff::is_reduced(reader);
        let number = |reader: &mut Reader, tag, absent: u16| -> std::result::Result<u16, String> {
            // One for each band in some files, which then are alike.
            let values = reader.find_tag_unsigned_vec(tag).map_err(error)?.unwrap_or_default();
            Ok(values.first().copied().unwrap_or(absent))
        };
        // Extra samples are bands like the others.
        let samples = usize::from(number(reader, Tag::SamplesPerPixel, 1)?);
        let planar = number(reader, Tag::PlanarConfiguration, 1)? == PlanarConfiguration::Planar.to_u16();
        let codec = Codec::of(number(reader, Tag::Compression, 1)?)?;
        let photometric = number(reader, Tag::PhotometricInterpretation, 1)?;
        let mut encoding = Encoding {
            bits: u8::try_from(number(reader, Tag::BitsPerSample, 1)?).unwrap_or(u8::MAX),
            number: match number(reader, Tag::SampleFormat, 1)? {
                1 | 4 => Number::Unsigned,
                2 => Number::Signed,
                3 => Number::Float,
                _ => return Err("complex numbers are not supported; save real ones".into()),
            },
            order: reader.byte_order(),
            prediction: match number(reader, Tag::Predictor, 1)? {
                2 => Prediction::Horizontal,
                3 => Prediction::Float,
                _ => Prediction::None,
            },
            reversed: number(reader, Tag::FillOrder, 1)? == 2,
            inverted: photometric == 0,
        };
        let bits = encoding.bits;
        let unsigned = encoding.number == Number::Unsigned;
        let colors = match photometric {
            0 if samples > 1 => {
                return Err("several bands of which the greatest number is black; save it as bands".into());
            }
            0..=2 => Colors::Bands,
            3 if samples == 1 && unsigned && bits <= 16 => {
                let map = reader.get_tag_u16_vec(Tag::ColorMap).map_err(error)?;
                Colors::Palette(Arc::new(palette(&map, bits).ok_or("its palette is too short")?))
            }
            6 if samples == 3 && unsigned && bits == 8 && !planar => Colors::YCbCr,
            _ => {
                let name = match photometric {
                    3 => "an index among other bands",
                    5 => "CMYK",
                    6 => "YCbCr in planes or other than 8 bits",
                    8..=10 => "Lab",
                    32_803 | 34_892 => "a camera's raw data",
                    _ => "of an unknown number",
                };
                let cure = "save it as gray, RGB or bands";
                return Err(format!("its photometric interpretation is not supported: {photometric}, {name}; {cure}"));
            }
        };
        if matches!(colors, Colors::YCbCr) && codec != Codec::Jpeg {
            let subsampling: Vec<u16> =
                reader.find_tag_unsigned_vec(Tag::ChromaSubsampling).map_err(error)?.unwrap_or_default();
            if subsampling != [1, 1] {
                return Err("subsampled YCbCr is supported within JPEG only; save it as RGB".into());
            }
        }
        match codec {
            Codec::Jpeg if bits != 8 || !unsigned => {
                return Err(format!(
                    "JPEG of {bits} bits is not supported; save it without compression, or by deflate"
                ));
            }
            // The decoder leaves extra samples out.
            Codec::Jpeg if !planar && reader.colortype().map_or(0, |color| color.num_samples().into()) != samples => {
                return Err(format!("JPEG of {samples} samples a pixel; save it as bands by deflate"));
            }
            Codec::Group4 if bits != 1 || samples != 1 || encoding.reversed => {
                return Err(
                    "CCITT group 4 is for one bit a pixel, the highest of a byte first; save it by deflate".into()
                );
            }
            Codec::WebP if bits != 8 || !unsigned || planar => {
                return Err("WebP is for bands of 8 bits side by side; save it by deflate".into());
            }
            // These have been made colors or numbers when they are given to us.
            Codec::Jpeg => {
                encoding = Encoding { prediction: Prediction::None, reversed: false, inverted: false, ..encoding };
            }
            Codec::Group4 => encoding = Encoding { prediction: Prediction::None, ..encoding },
            _ => {}
        }
        encoding.check()?;
        let is_strips = reader.get_chunk_type() == ChunkType::Strip;
        let (chunk_width, chunk_height) = reader.chunk_dimensions();
        let chunk = if is_strips { [width, chunk_height.min(height)] } else { [chunk_width, chunk_height] };
        let [offsets, bytes] = match is_strips {
            true => [Tag::StripOffsets, Tag::StripByteCounts],
            false => [Tag::TileOffsets, Tag::TileByteCounts],
        };
        let offsets = reader.get_tag_u64_vec(offsets).map_err(error)?;
        let bytes = reader.get_tag_u64_vec(bytes).map_err(error)?;
        let has_absent = bytes.contains(&0);
        let mut page = Self {
            ifd: reader.ifd_pointer().map_or(0, |pointer| pointer.0),
            size: [width, height],
            is_reduced,
            samples,
            encoding,
            codec,
            planar,
            colors,
            chunk,
            strip_rows: chunk[1],
            blocks: Arc::new(Blocks { offsets, bytes, has_absent }),
        };
        let row = encoding.row_bytes(u64::from(width) * page.channels() as u64).unwrap_or(u64::MAX);
        if is_strips && codec == Codec::None && !has_absent && row.saturating_mul(chunk[1].into()) > PIECE as u64 {
            let most = (PIECE as u64 / row.max(1)).clamp(1, u64::from(chunk[1])) as u32;
            // Pieces that strips are whole numbers of.
            page.chunk[1] = (1..=most).rev().find(|rows| chunk[1].is_multiple_of(*rows)).unwrap_or(1);
        }
        Ok(page)
    }

    /// Values of a pixel, as they are read.
    pub fn bands(&self) -> usize {
        if matches!(self.colors, Colors::Palette(_)) { 3 } else { self.samples }
    }

    /// Values of a pixel in a chunk.
    pub fn channels(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    /// Returns true for what may be a smaller copy of `full`: the same bands and numbers, and the same shape up to the rounding of
    /// halved sides.
    pub fn reduces(&self, full: &Self) -> bool {
        let ratio = self.ratio(full);
        let rounding = [0, 1].map(|axis| ratio[axis] / f64::from(self.size[axis].max(1)));
        let alike = (ratio[0] - ratio[1]).abs() <= rounding[0] + rounding[1] + 0.01 * ratio[0];
        self.has_numbers_of(full) && ratio[0] > 1.5 && ratio[1] > 1.5 && alike
    }

    /// Returns true if the sides are those of `full` halved once or several times, each time rounded up or down.
    pub fn halves(&self, full: &Self) -> bool {
        let times = self.ratio(full)[0].max(1.0).log2().round() as u32;
        let is_half = |axis: usize| {
            let side = u64::from(full.size[axis]);
            (side >> times..=side.div_ceil(1 << times)).contains(&u64::from(self.size[axis]))
        };
        times > 0 && is_half(0) && is_half(1)
    }

    /// Returns true if its pixels may be those of `full`: bands, bits, kind of numbers and meaning are the same.
    pub fn has_numbers_of(&self, full: &Self) -> bool {
        self.bands() == full.bands()
            && self.encoding.bits == full.encoding.bits
            && self.encoding.number == full.encoding.number
            && matches!(self.colors, Colors::Palette(_)) == matches!(full.colors, Colors::Palette(_))
    }

    fn ratio(&self, full: &Self) -> [f64; 2] {
        [0, 1].map(|axis| f64::from(full.size[axis]) / f64::from(self.size[axis].max(1)))
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
