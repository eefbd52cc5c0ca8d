//! Tiles and strips of a TIFF: read, decoded, kept.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

use ::tiff::{TiffError, decoder::DecodingResult};

use super::{
    codec::{Block, Codec},
    page::{Colors, Page, Reader, explain},
    samples::Samples,
};
use crate::{DecodeOptions, codecs::rgb_of_ycbcr};

/// Bytes of decoded tiles and strips that are kept: a row of tiles of a picture of 50,000 pixels in RGB.
const KEPT: usize = 160 << 20;
/// Bytes of a chunk's entries in the tables of those that are kept, about.
const ENTRY: usize = 96;

/// Decoded samples of a tile, a strip or some rows of it.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Width and height in pixels, as they are stored.
    pub size: [u32; 2],
    /// Values of a pixel: all bands, or 1 of a planar file.
    pub channels: usize,
    pub samples: Samples,
    /// Set if the file has no data for it; the samples are 0.
    pub absent: bool,
}

/// Chunks that were used last, by level and index.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Each chunk with the time of its last use.
    chunks: HashMap<(usize, u32), (Arc<Chunk>, u64)>,
    /// The keys by the time of their last use.
    by_use: BTreeMap<u64, (usize, u32)>,
    bytes: usize,
    clock: u64,
}

impl Kept {
    pub fn get(&mut self, key: (usize, u32)) -> Option<Arc<Chunk>> {
        let (chunk, used) = self.chunks.get_mut(&key)?;
        self.clock += 1;
        self.by_use.remove(&*used);
        self.by_use.insert(self.clock, key);
        *used = self.clock;
        Some(chunk.clone())
    }

    /// Keeps a chunk, and drops those that were not used for longest where all are too large.
    pub fn insert(&mut self, key: (usize, u32), chunk: Arc<Chunk>) {
        self.clock += 1;
        self.bytes += Self::bytes_of(&chunk);
        self.by_use.insert(self.clock, key);
        if let Some((old, used)) = self.chunks.insert(key, (chunk, self.clock)) {
            self.by_use.remove(&used);
            self.bytes -= Self::bytes_of(&old);
        }
        while self.bytes > KEPT
            && self.chunks.len() > 1
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            if let Some((old, _)) = self.chunks.remove(&oldest) {
                self.bytes -= Self::bytes_of(&old);
            }
        }
    }

    /// Bytes that a chunk takes, with those of its entries here.
    fn bytes_of(chunk: &Chunk) -> usize {
        chunk.samples.bytes() + size_of::<Chunk>() + ENTRY
    }
}

impl Page {
    /// Reads a tile, a strip or a piece of one.
    pub fn read_chunk(&self, reader: &mut Reader, index: u32, options: &DecodeOptions) -> Result<Chunk, String> {
        let place = self.place(index);
        let channels = self.channels();
        let pixels = u64::from(place.width) * u64::from(place.rows);
        let most = pixels.saturating_mul(channels as u64).saturating_mul(self.encoding.sample_bytes());
        let bytes = self.encoding.row_bytes(u64::from(place.width) * channels as u64);
        let bytes = bytes.and_then(|bytes| bytes.checked_mul(place.rows.into())).unwrap_or(u64::MAX);
        if most.max(bytes) > options.limits.max_bytes {
            let limit = options.limits.max_bytes;
            return Err(format!(
                "its pixels need more than the limit of {limit} bytes; rewrite it in tiles, or raise `Limits`"
            ));
        }
        let size = [place.width, place.rows];
        if self.blocks.bytes.get(place.block) == Some(&0) {
            let samples = Samples::U8(vec![0; pixels as usize * channels]);
            return Ok(Chunk { size, channels, samples, absent: true });
        }
        if matches!(self.codec, Codec::Jpeg | Codec::Group4) {
            return self.decode_by_crate(reader, index, options);
        }
        let row = place.width as usize * channels;
        let block = Block {
            width: place.width,
            rows: place.rows,
            channels,
            bytes: bytes as usize,
            limit: options.limits.max_usize(),
        };
        let mut data = self.read_block(reader, &place, bytes, options)?;
        if self.encoding.reversed {
            data.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
        let bytes = self.codec.decode(data, block)?;
        Ok(self.chunk_of(size, Samples::of(bytes, row, channels, &self.encoding)))
    }

    /// Where a chunk is.
    fn place(&self, index: u32) -> Place {
        let across = self.size[0].div_ceil(self.chunk[0]);
        let down = self.size[1].div_ceil(self.chunk[1]);
        let (plane, row) = (index / (across * down), index % (across * down) / across);
        let top = row * self.chunk[1];
        let blocks_down = self.size[1].div_ceil(self.strip_rows);
        let block = (plane * blocks_down + top / self.strip_rows) * across + index % across;
        // Tiles are as wide at the right edge as elsewhere.
        let rows = self.chunk[1].min(self.size[1] - top);
        Place { block: block as usize, first_row: top % self.strip_rows, width: self.chunk[0], rows }
    }

    /// The bytes of a tile or strip, of an uncompressed one those of its rows.
    fn read_block(
        &self,
        reader: &mut Reader,
        place: &Place,
        decoded: u64,
        options: &DecodeOptions,
    ) -> Result<Vec<u8>, String> {
        let missing = "its table of tiles or strips is too short";
        let offset = *self.blocks.offsets.get(place.block).ok_or(missing)?;
        let there = *self.blocks.bytes.get(place.block).ok_or(missing)?;
        let (first, bytes) = match self.codec {
            Codec::None => {
                let row = decoded / u64::from(place.rows);
                (row * u64::from(place.first_row), decoded)
            }
            _ => (0, there),
        };
        if first + bytes > there {
            return Err(format!("it has {there} bytes, and its pixels need {}", first + bytes));
        }
        if bytes > options.limits.max_bytes {
            return Err(format!("its {bytes} bytes are more than the limit of {}", options.limits.max_bytes));
        }
        let file = reader.inner();
        let start = offset.checked_add(first).filter(|start| start.saturating_add(bytes) <= file.len());
        let start = start.ok_or_else(|| {
            format!("the file is truncated: {bytes} bytes from {offset} on are behind its end at {}", file.len())
        })?;
        let mut data = vec![0; bytes as usize];
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut data));
        read.map_err(|error| explain(TiffError::IoError(error), options))?;
        Ok(data)
    }

    /// A tile or a strip of JPEG or CCITT group 4.
    fn decode_by_crate(&self, reader: &mut Reader, index: u32, options: &DecodeOptions) -> Result<Chunk, String> {
        let (width, height) = reader.chunk_data_dimensions(index);
        let decoded = reader.read_chunk(index).map_err(|error| explain(error, options))?;
        let channels = self.channels();
        let samples = match (decoded, self.codec) {
            (DecodingResult::U8(mut bits), Codec::Group4) => {
                // Made brightness, where numbers of the file are wanted.
                if self.encoding.inverted {
                    bits.iter_mut().for_each(|bits| *bits = !*bits);
                }
                Samples::of(bits, width as usize, channels, &self.encoding)
            }
            (DecodingResult::U8(values), _) => Samples::U8(values),
            _ => return Err("its compression is not for such numbers".into()),
        };
        Ok(self.chunk_of([width, height], samples))
    }

    /// The chunk, YCbCr as RGB.
    fn chunk_of(&self, size: [u32; 2], mut samples: Samples) -> Chunk {
        if let (Colors::YCbCr, Samples::U8(values)) = (&self.colors, &mut samples) {
            values.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = rgb_of_ycbcr(*pixel));
        }
        Chunk { size, channels: self.channels(), samples, absent: false }
    }
}

/// Where a chunk's bytes are.
struct Place {
    /// Index of its tile or strip.
    block: usize,
    /// Its first row in the strip.
    first_row: u32,
    /// Width of the tile or strip.
    width: u32,
    /// Rows of it that are of the picture.
    rows: u32,
}
