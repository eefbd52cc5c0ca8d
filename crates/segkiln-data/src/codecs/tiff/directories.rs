//! Directories of a TIFF, opened and followed within bounds.
//!
//! The `tiff` crate reads the first directory when it creates a decoder, before limits can be set, and takes memory for all values
//! that a tag says it has before it reads them. Here the decoder first sees a small directory of ours, gets its limits, and goes to a
//! directory of the file only after the counts of its tags were compared with the file's bytes.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use ::tiff::{
    TiffError, TiffFormatError, TiffResult,
    decoder::Decoder,
    tags::{IfdPointer, Tag, Type},
};

use super::damaged;
use crate::{DataError, Limits, Result};

/// Decoder of a file that stands behind a directory of ours.
pub(crate) type Reader<R> = Decoder<Rewired<R>>;

/// Opens a file of `len` bytes under limits, which hold from its first directory on. The decoder stands at the directory at `ifd`, or
/// at the file's first.
pub(crate) fn open<R: Read + Seek>(
    file: R,
    len: u64,
    path: &Path,
    limits: &Limits,
    ifd: Option<u64>,
) -> Result<Reader<R>> {
    let mut bounds = ::tiff::decoder::Limits::default();
    bounds.decoding_buffer_size = limits.max_usize();
    bounds.intermediate_buffer_size = limits.max_usize();
    let file = Rewired::new(file, len, path, ifd)?;
    let damaged = |error| damaged(path, limits, error);
    let mut decoder = Decoder::new(file).map_err(damaged)?.with_limits(bounds);
    next_page(&mut decoder).map_err(damaged)?;
    Ok(decoder)
}

/// Goes to the next directory, if its tags have no more values than the file has bytes.
pub(crate) fn next_page<R: Read + Seek>(decoder: &mut Reader<R>) -> TiffResult<()> {
    let next = match decoder.ifd_pointer() {
        Some(current) => decoder.read_directory(current)?.next(),
        None => None,
    };
    if let Some(next) = next {
        check(decoder, next)?;
    }
    decoder.next_image()
}

/// Tags that are read at each directory, by the decoder or by us.
const READ: [Tag; 24] = [
    Tag::NewSubfileType,
    Tag::FillOrder,
    Tag::Orientation,
    Tag::GdalNodata,
    Tag::ImageWidth,
    Tag::ImageLength,
    Tag::BitsPerSample,
    Tag::Compression,
    Tag::PhotometricInterpretation,
    Tag::StripOffsets,
    Tag::SamplesPerPixel,
    Tag::RowsPerStrip,
    Tag::StripByteCounts,
    Tag::PlanarConfiguration,
    Tag::Predictor,
    Tag::TileWidth,
    Tag::TileLength,
    Tag::TileOffsets,
    Tag::TileByteCounts,
    Tag::ExtraSamples,
    Tag::SampleFormat,
    Tag::JPEGTables,
    Tag::ChromaSubsampling,
    Tag::ColorMap,
];

/// Tags that are read of one directory of a file.
const READ_ONCE: [Tag; 11] = [
    Tag::ImageDescription,
    Tag::XResolution,
    Tag::YResolution,
    Tag::ResolutionUnit,
    Tag::SubIfd,
    Tag::ModelPixelScaleTag,
    Tag::ModelTiepointTag,
    Tag::ModelTransformationTag,
    Tag::GeoKeyDirectoryTag,
    Tag::GeoDoubleParamsTag,
    Tag::GeoAsciiParamsTag,
];

fn check<R: Read + Seek>(decoder: &mut Reader<R>, directory: IfdPointer) -> TiffResult<()> {
    let entries = decoder.read_directory(directory)?;
    let file = decoder.inner();
    // The decoder has just read it to its end.
    let mut bytes = file.position.saturating_sub(directory.0);
    for tag in READ.into_iter().chain(READ_ONCE) {
        let Some(entry) = entries.get(tag) else { continue };
        let values = entry.count().saturating_mul(bytes_of(entry.field_type()));
        if values > file.len {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "a tag has more values than the file has bytes");
            return Err(TiffError::IoError(error));
        }
        if READ.contains(&tag) {
            bytes = bytes.saturating_add(values);
        }
    }
    // Directories and tables of a sound file lie side by side. Where thousands of them overlap, to follow all takes the square of the
    // file's bytes.
    file.followed = file.followed.saturating_add(bytes);
    if file.followed > file.len.saturating_mul(4) {
        return Err(TiffError::FormatError(TiffFormatError::CycleInOffsets));
    }
    Ok(())
}

fn bytes_of(kind: Type) -> u64 {
    match kind {
        Type::BYTE | Type::SBYTE | Type::ASCII | Type::UNDEFINED => 1,
        Type::SHORT | Type::SSHORT => 2,
        Type::LONG | Type::SLONG | Type::FLOAT | Type::IFD => 4,
        _ => 8,
    }
}

/// A file with a small directory of ours before its own, which are as they were.
#[derive(Debug)]
pub(crate) struct Rewired<R> {
    file: R,
    /// Bytes of the file.
    len: u64,
    header: Vec<u8>,
    directory: Vec<u8>,
    /// Where our directory seems to be: far behind the file, so that who reads over the file's end finds nothing.
    at: u64,
    position: u64,
    /// Where the file's own reader stands.
    actual: u64,
    /// Bytes of the file's directories that were followed, and of the tables that they name.
    followed: u64,
}

impl<R> Rewired<R> {
    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.len
    }
}

impl<R: Read + Seek> Rewired<R> {
    /// Prepares a file of `len` bytes, whose reader is at its start. The directory behind ours is the one at `ifd`, or the file's first.
    fn new(mut file: R, len: u64, path: &Path, ifd: Option<u64>) -> Result<Self> {
        let io = |error| DataError::io("read", path, error);
        let damaged = |reason: &str| DataError::Decode { path: path.into(), format: "TIFF", reason: reason.into() };
        let mut header = Vec::new();
        file.by_ref().take(16).read_to_end(&mut header).map_err(io)?;
        let little = header.starts_with(b"II");
        let short = |at: usize| {
            let bytes = [header.get(at).copied()?, header.get(at + 1).copied()?];
            Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
        };
        let big = short(2) == Some(43);
        let wanted = if big { 16 } else { 8 };
        if header.len() < wanted || !(little || header.starts_with(b"MM")) || !matches!(short(2), Some(42 | 43)) {
            return Err(damaged("it does not begin as a TIFF does, or is truncated"));
        }
        header.truncate(wanted);
        let width = wanted / 2;
        let number = |value: u64, width: usize| {
            let mut bytes = value.to_le_bytes()[..width].to_vec();
            if !little {
                bytes.reverse();
            }
            bytes
        };
        let mut own = header[wanted - width..].to_vec();
        if little {
            own.reverse();
        }
        let own = own.into_iter().fold(0u64, |value, byte| value << 8 | u64::from(byte));
        let next = ifd.unwrap_or(own);
        // One pixel in one strip: width, height, photometric interpretation, offset and bytes of the strip.
        let entries = [(256, 1), (257, 1), (262, 1), (273, 8), (279, 1)];
        let mut directory = number(entries.len() as u64, if big { 8 } else { 2 });
        for (tag, value) in entries {
            directory.extend(number(tag, 2));
            directory.extend(number(4, 2));
            directory.extend(number(1, width));
            directory.extend(number(value, 4));
            directory.resize(directory.len() + width - 4, 0);
        }
        directory.extend(number(next, width));
        let at = if big { 1 << 62 } else { u64::from(u32::MAX - 255) };
        if len > at {
            return Err(damaged("it has 4 GiB and is no BigTIFF"));
        }
        header.truncate(wanted - width);
        header.extend(number(at, width));
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        Ok(Self { file, len, header, directory, at, position: 0, actual: 0, followed: 0 })
    }
}

impl<R: Read + Seek> Read for Rewired<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = if self.position < self.header.len() as u64 {
            let rest = &self.header[self.position as usize..];
            let count = rest.len().min(target.len());
            target[..count].copy_from_slice(&rest[..count]);
            count
        } else if self.position >= self.at {
            let skipped = usize::try_from(self.position - self.at).unwrap_or(usize::MAX);
            let rest = self.directory.get(skipped..).unwrap_or_default();
            let count = rest.len().min(target.len());
            target[..count].copy_from_slice(&rest[..count]);
            count
        } else if self.position >= self.len {
            0
        } else {
            if self.actual != self.position {
                let step = self.position as i64 - self.actual as i64;
                self.file.seek_relative(step)?;
                self.actual = self.position;
            }
            let count = self.file.read(target)?;
            self.actual += count as u64;
            count
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl<R> Seek for Rewired<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(step) => self.position.checked_add_signed(step),
            SeekFrom::End(step) => self.len.checked_add_signed(step),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
