//! Tiles and strips of a TIFF: read, decoded, kept.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

use ::tiff::{TiffError, decoder::DecodingResult, tags::ByteOrder};

use super::page::{Kind, Page, Raw, Reader, explain};
use crate::{
    DecodeOptions,
    codecs::{rgb_of_ycbcr, unpack},
};

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

/// Samples row by row, in the nearest type that holds the file's.
#[derive(Debug)]
pub(super) enum Samples {
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

    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    /// A value as the file has it.
    pub fn raw(&self, index: usize) -> f64 {
        match self {
            Self::U8(values) => values[index].into(),
            Self::U16(values) => values[index].into(),
            Self::U32(values) => values[index].into(),
            Self::F32(values) => values[index].into(),
        }
    }

    /// Copies unsigned integers as they are. Returns false, and copies nothing, if the samples are others.
    pub fn copy_labels(&self, first: usize, target: &mut [u32]) -> bool {
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
    pub fn copy(&self, first: usize, count: usize, target: &mut [f32], step: usize, bits: u8) {
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
        match &self.raw {
            _ if self.absent.contains(&index) => self.without_data(index, options),
            Some(raw) => self.read_raw(raw, reader, index, options),
            None => self.decode(reader, index, options),
        }
    }

    /// Values of a pixel in a chunk.
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

    /// A chunk that the file leaves out.
    fn without_data(&self, index: u32, options: &DecodeOptions) -> Result<Chunk, String> {
        let size = self.chunk_size(index);
        let count = size[0] as usize * size[1] as usize * self.channels();
        if count > options.limits.max_usize() {
            return Err(format!("its pixels need more than the limit of {} bytes", options.limits.max_bytes));
        }
        Ok(Chunk { size, channels: self.channels(), samples: Samples::U8(vec![0; count]), absent: true })
    }

    /// A tile or a strip.
    fn decode(&self, reader: &mut Reader, index: u32, options: &DecodeOptions) -> Result<Chunk, String> {
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
    fn read_raw(&self, raw: &Raw, reader: &mut Reader, index: u32, options: &DecodeOptions) -> Result<Chunk, String> {
        let size = self.chunk_size(index);
        let first = index * raw.rows;
        let row = self.size[0] as usize * self.bands;
        let count = row * size[1] as usize;
        let bytes = usize::from(self.bits / 8);
        let strip = raw.offsets.get((first / raw.strip_rows) as usize).ok_or("its table of strips is too short")?;
        let within = u64::from(first % raw.strip_rows).checked_mul((row * bytes) as u64);
        let offset = within.and_then(|within| strip.checked_add(within));
        let offset = offset.ok_or("the offset of a strip is beyond any file")?;
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
