//! Compression of tiles and strips.

use std::io::{Cursor, Read};

use flate2::bufread::ZlibDecoder;
use image_webp::WebPDecoder;
use ruzstd::decoding::{
    StreamingDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use weezl::{BitOrder, LzwStatus, decode::Configuration};

/// Method by which a tile or strip is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Deflate,
    Lzw,
    PackBits,
    Zstd,
    WebP,
    /// JPEG and CCITT group 4, which the `tiff` crate decodes.
    Jpeg,
    Group4,
}

/// Size of a compressed block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// Width in pixels.
    pub width: u32,
    /// Rows that are wanted; a tile at the lower edge has more.
    pub rows: u32,
    /// Values of a pixel.
    pub channels: usize,
    /// Bytes of the rows.
    pub bytes: usize,
    /// Most bytes that a decoder may take.
    pub limit: usize,
}

impl Codec {
    /// Codec of a number of the tag `Compression`.
    pub fn of(compression: u16) -> Result<Self, String> {
        let name = match compression {
            1 => return Ok(Self::None),
            4 => return Ok(Self::Group4),
            5 => return Ok(Self::Lzw),
            7 => return Ok(Self::Jpeg),
            8 | 32_946 => return Ok(Self::Deflate),
            32_773 => return Ok(Self::PackBits),
            50_000 => return Ok(Self::Zstd),
            50_001 => return Ok(Self::WebP),
            2 => "CCITT run lengths",
            3 => "CCITT group 3",
            6 => "old-style JPEG",
            22_610 | 34_934 => "JPEG XR",
            33_003 | 33_004 | 33_005 | 34_712 => "JPEG 2000",
            34_887 => "LERC",
            34_925 => "LZMA",
            34_933 => "PNG",
            50_002 | 52_546 => "JPEG XL",
            _ => "of an unknown number",
        };
        let cure = "rewrite it, for example by `gdal_translate -co TILED=YES -co COMPRESS=DEFLATE`";
        Err(format!("its compression is not supported: {compression}, {name}; {cure}"))
    }

    /// Decodes a block. What follows its rows is left.
    pub fn decode(self, data: Vec<u8>, block: Block) -> Result<Vec<u8>, String> {
        let wanted = block.bytes;
        let decoded = match self {
            Self::None => {
                let mut data = data;
                data.truncate(wanted);
                data
            }
            Self::Deflate => first_bytes(ZlibDecoder::new(&*data), wanted)?,
            Self::Zstd => zstd(&data, wanted)?,
            Self::Lzw => lzw(&data, wanted)?,
            Self::PackBits => pack_bits(&data, wanted),
            Self::WebP => web_p(data, block)?,
            Self::Jpeg | Self::Group4 => return Err("the `tiff` crate decodes this".into()),
        };
        match decoded.len() {
            len if len < wanted => Err(format!("its data end after {len} of {wanted} bytes")),
            _ => Ok(decoded),
        }
    }
}

fn damaged(error: &dyn std::error::Error) -> String {
    format!("its data are damaged: {error}")
}

/// The first bytes of a stream, or all.
fn first_bytes(stream: impl Read, wanted: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(wanted);
    match stream.take(wanted as u64).read_to_end(&mut bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(damaged(&error)),
        _ => Ok(bytes),
    }
}

/// Frames of zstd (RFC 8878), one after the other, of which some may be for others to read.
fn zstd(mut data: &[u8], wanted: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted && !data.is_empty() {
        let decoder = match StreamingDecoder::new(&mut data) {
            Ok(decoder) => decoder,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                data = data.get(length as usize..).unwrap_or_default();
                continue;
            }
            Err(error) => return Err(damaged(&error)),
        };
        bytes.extend_from_slice(&first_bytes(decoder, wanted - bytes.len())?);
    }
    Ok(bytes)
}

/// LZW of TIFF 6.0, or of libtiff before it, which began its codes with the lowest bit and made them longer one code later. Both
/// begin with the code that clears the table, by which they are told apart.
fn lzw(data: &[u8], wanted: usize) -> Result<Vec<u8>, String> {
    let is_old = matches!(data, [0, second, ..] if second & 1 == 1);
    let configuration = match is_old {
        true => Configuration::new(BitOrder::Lsb, 8),
        false => Configuration::with_tiff_size_switch(BitOrder::Msb, 8),
    };
    let mut decoder = configuration.with_yield_on_full_buffer(true).build();
    let (mut bytes, mut read, mut written) = (vec![0; wanted], 0, 0);
    while written < wanted {
        let result = decoder.decode_bytes(&data[read..], &mut bytes[written..]);
        read += result.consumed_in;
        written += result.consumed_out;
        match result.status.map_err(|error| damaged(&error))? {
            LzwStatus::Ok if result.consumed_in + result.consumed_out > 0 => {}
            _ => break,
        }
    }
    bytes.truncate(written);
    Ok(bytes)
}

/// Runs of bytes, of TIFF 6.0, section 9.
fn pack_bits(mut data: &[u8], wanted: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted
        && let [head, rest @ ..] = data
    {
        data = match (*head, rest) {
            (0..=127, _) => {
                let (literal, rest) = rest.split_at(rest.len().min(usize::from(*head) + 1));
                bytes.extend_from_slice(literal);
                rest
            }
            (129..=255, [value, rest @ ..]) => {
                bytes.resize(bytes.len() + 257 - usize::from(*head), *value);
                rest
            }
            _ => rest,
        };
    }
    bytes.truncate(wanted);
    bytes
}

/// An image of three or four channels, whichever of them the encoder left out or added.
fn web_p(data: Vec<u8>, block: Block) -> Result<Vec<u8>, String> {
    let mut decoder = WebPDecoder::new(Cursor::new(data)).map_err(|error| damaged(&error))?;
    let (width, height) = decoder.dimensions();
    if width != block.width || height < block.rows {
        return Err(format!("its WebP image has {width}x{height} pixels, not {}x{}", block.width, block.rows));
    }
    let (found, wanted) = (if decoder.has_alpha() { 4 } else { 3 }, block.channels);
    if !(3..=4).contains(&wanted) {
        return Err(format!("it has {wanted} bands, and its WebP image has {found}"));
    }
    let len = width as usize * height as usize * found;
    if len > block.limit {
        return Err(format!("its WebP image of {width}x{height} pixels is over the limit of {} bytes", block.limit));
    }
    let mut image = vec![0; len];
    decoder.set_memory_limit(block.limit);
    decoder.read_image(&mut image).map_err(|error| damaged(&error))?;
    Ok(match (found, wanted) {
        (3, 4) => image.as_chunks::<3>().0.iter().flat_map(|[r, g, b]| [*r, *g, *b, 255]).collect(),
        (4, 3) => image.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]).collect(),
        _ => image,
    })
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use weezl::encode::Encoder;

    use super::*;

    fn noise() -> Vec<u8> {
        (0..40_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 27) as u8).collect()
    }

    #[test]
    fn frames_of_zstd_follow_each_other() {
        let all = noise();
        let frame = |part: &[u8]| compress_to_vec(part, CompressionLevel::Fastest);
        // Between them is one that is for others.
        let others = [&0x184D_2A53u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"abc"].concat();
        let data = [frame(&all[..5000]), others, frame(&[]), frame(&all[5000..])].concat();
        for wanted in [0, 1, 5000, 5001, all.len()] {
            assert!(zstd(&data, wanted).unwrap() == all[..wanted], "{wanted}");
        }
        assert_eq!(zstd(&data, all.len() + 1).unwrap().len(), all.len());
        // Cut short, lying and endless ones end.
        for length in 0..200 {
            let _ = zstd(&data[..length], all.len());
        }
        assert!(zstd(&[&data[..], b"nothing"].concat(), all.len() + 1).is_err());
        let lying = [&0x184D_2A53u32.to_le_bytes()[..], &u32::MAX.to_le_bytes()].concat();
        assert!(zstd(&lying, 10).unwrap().is_empty());
    }

    #[test]
    fn lzw_of_either_kind_is_read() {
        let all = noise();
        let old = Encoder::new(BitOrder::Lsb, 8).encode(&all).unwrap();
        let new = Encoder::with_tiff_size_switch(BitOrder::Msb, 8).encode(&all).unwrap();
        assert_ne!(old[..2], new[..2]);
        for data in [old, new] {
            assert!(lzw(&data, all.len()).unwrap() == all);
            assert!(lzw(&data, 777).unwrap() == all[..777]);
            for length in 0..200 {
                let _ = lzw(&data[..length], all.len());
            }
        }
    }
}
