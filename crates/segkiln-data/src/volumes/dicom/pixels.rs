//! Stored values of a frame, of native and of compressed pixel data.

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image as Jpeg2000};
use jpeg_decoder::{Decoder, PixelFormat};

use super::parse::{DicomFile, PixelBytes};
use crate::codecs::guarded;

/// Storage format of a frame's values (PS3.3, C.7.6.3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Layout {
    pub rows: usize,
    pub columns: usize,
    pub frames: usize,
    /// Bits of a value in the file: 8, 16 or 32.
    pub allocated: u16,
    /// Bits that mean something, and the place of the highest.
    pub stored: u16,
    pub high: u16,
    pub signed: bool,
    /// The least value is white (MONOCHROME1).
    pub inverted: bool,
}

impl Layout {
    pub fn pixels(&self) -> usize {
        self.rows * self.columns
    }

    fn bytes(&self) -> usize {
        usize::from(self.allocated / 8)
    }

    /// The value of bits as they are stored.
    fn value(&self, bits: u32) -> f64 {
        let bits = bits >> (self.high + 1 - self.stored);
        let unused = 32 - u32::from(self.stored);
        let (low, high) = match self.signed {
            true => (-(1i64 << (self.stored - 1)), (1i64 << (self.stored - 1)) - 1),
            false => (0, (1i64 << self.stored) - 1),
        };
        let value = match self.signed {
            true => i64::from((bits << unused) as i32 >> unused),
            false => i64::from(bits << unused >> unused),
        };
        (if self.inverted { low + high - value } else { value }) as f64
    }

    /// Values of native bytes.
    fn unpack(&self, bytes: &[u8], big: bool, mut take: impl FnMut(f64)) {
        match (self.bytes(), big) {
            (1, _) => bytes.iter().for_each(|byte| take(self.value((*byte).into()))),
            (2, false) => bytes.as_chunks().0.iter().for_each(|b| take(self.value(u16::from_le_bytes(*b).into()))),
            (2, true) => bytes.as_chunks().0.iter().for_each(|b| take(self.value(u16::from_be_bytes(*b).into()))),
            (_, false) => bytes.as_chunks().0.iter().for_each(|b| take(self.value(u32::from_le_bytes(*b)))),
            (_, true) => bytes.as_chunks().0.iter().for_each(|b| take(self.value(u32::from_be_bytes(*b)))),
        }
    }
}

/// Gives the stored values of a frame to `take`, row by row.
pub(super) fn frame(file: &DicomFile, layout: &Layout, frame: usize, take: impl FnMut(f64)) -> Result<(), String> {
    let length = layout.pixels() * layout.bytes();
    match file.pixels().ok_or("it has no pixel data")? {
        PixelBytes::Native(bytes) => {
            let part = bytes.get(frame * length..).and_then(|rest| rest.get(..length));
            let part = part.ok_or_else(|| {
                let needed = length * layout.frames;
                format!(
                    "it has {} bytes, and its {} frames need {needed}, is it truncated?",
                    bytes.len(),
                    layout.frames
                )
            })?;
            layout.unpack(part, file.is_big(), take);
            Ok(())
        }
        PixelBytes::Encapsulated(table, fragments) => {
            let packed = of_frame(table, &fragments, layout.frames, frame)?;
            guarded(|| decode(&file.syntax, &packed, layout, take), || "the decoder panicked".into())
        }
    }
}

/// Returns the compressed bytes of a frame: a fragment, all of them, or those from its offset in the table to the next.
fn of_frame(table: &[u8], fragments: &[&[u8]], frames: usize, frame: usize) -> Result<Vec<u8>, String> {
    if frames == 1 {
        return Ok(fragments.concat());
    }
    if fragments.len() == frames {
        return Ok(fragments[frame].to_vec());
    }
    let offsets: Vec<u32> = table.as_chunks().0.iter().map(|offset| u32::from_le_bytes(*offset)).collect();
    let Some(start) = offsets.get(frame).filter(|_| offsets.len() == frames) else {
        return Err(format!("{} fragments of {frames} frames have no table of offsets", fragments.len()));
    };
    let end = offsets.get(frame + 1).copied().unwrap_or(u32::MAX);
    // An offset counts from the first fragment, whose header has 8 bytes as all have.
    let mut at = 0u64;
    let mut bytes = Vec::new();
    for fragment in fragments {
        if at >= u64::from(*start) && at < u64::from(end) {
            bytes.extend_from_slice(fragment);
        }
        at += fragment.len() as u64 + 8;
    }
    if bytes.is_empty() { Err("its table of offsets leads nowhere".into()) } else { Ok(bytes) }
}

fn decode(syntax: &str, packed: &[u8], layout: &Layout, take: impl FnMut(f64)) -> Result<(), String> {
    match syntax.strip_prefix("1.2.840.10008.1.2.") {
        Some("5") => rle(packed, layout, take),
        Some("4.50" | "4.51" | "4.57" | "4.70") => jpeg(packed, layout, take),
        Some("4.90" | "4.91") => jpeg_2000(packed, layout, take),
        _ => Err(format!(
            "the transfer syntax {syntax} is not read; save it uncompressed, or in RLE, JPEG or JPEG 2000 (JPEG-LS, HTJ2K and films \
             have no decoder here)"
        )),
    }
}

fn wrong_size(width: usize, height: usize, layout: &Layout) -> String {
    format!("its data are of {width}x{height} pixels, where the header says {}x{}", layout.columns, layout.rows)
}

fn jpeg(packed: &[u8], layout: &Layout, take: impl FnMut(f64)) -> Result<(), String> {
    let damaged = |error: jpeg_decoder::Error| format!("its JPEG cannot be decoded: {error}");
    let mut decoder = Decoder::new(packed);
    decoder.set_max_decoding_buffer_size(layout.pixels() * 2);
    // The size first: nothing is allocated for one that is not the header's.
    decoder.read_info().map_err(damaged)?;
    let info = decoder.info().ok_or("its JPEG has no header")?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    if [width, height] != [layout.columns, layout.rows] {
        return Err(wrong_size(width, height, layout));
    }
    let bytes = decoder.decode().map_err(damaged)?;
    let bits = match info.pixel_format {
        PixelFormat::L8 => 8,
        PixelFormat::L16 => 16,
        other => return Err(format!("its JPEG has pixels of {other:?} where gray is expected")),
    };
    let layout = Layout { allocated: bits, high: layout.stored - 1, ..*layout };
    if layout.stored > bits {
        return Err(format!("its JPEG has {bits} bits, where the header says {}", layout.stored));
    }
    layout.unpack(&bytes, cfg!(target_endian = "big"), take);
    Ok(())
}

fn jpeg_2000(packed: &[u8], layout: &Layout, mut take: impl FnMut(f64)) -> Result<(), String> {
    /// Place of the number of components in a codestream (ISO 15444-1, A.5.1).
    const CSIZ: usize = 40;
    /// Place of the first component's precision and sign.
    const SSIZ: usize = 42;
    let damaged = |error: &dyn std::fmt::Display| format!("its JPEG 2000 cannot be decoded: {error}");
    if !packed.starts_with(b"\xFF\x4F\xFF\x51") {
        return Err("its JPEG 2000 does not begin as a codestream".into());
    }
    // Before decoding, which takes memory for each component.
    if !packed.get(CSIZ..).is_some_and(|rest| rest.starts_with(&[0, 1])) {
        return Err("its JPEG 2000 has not one component where gray is expected".into());
    }
    let settings = DecodeSettings { strict: true, ..Default::default() };
    let image = Jpeg2000::new(packed, &settings).map_err(|error| damaged(&error))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    if [width, height] != [layout.columns, layout.rows] {
        return Err(wrong_size(width, height, layout));
    }
    let precision = u32::from(image.original_bit_depth());
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(|error| damaged(&error))?;
    let [component] = decoded.components() else {
        return Err(format!("its JPEG 2000 has {} components where gray is expected", decoded.components().len()));
    };
    if precision > 16 || precision < u32::from(layout.stored) || component.samples().len() != layout.pixels() {
        return Err(format!("its JPEG 2000 has {precision} bits, where the header says {}", layout.stored));
    }
    // The decoder takes signed samples for unsigned ones, half of the range above what they are.
    let below = if packed[SSIZ] & 0x80 != 0 { 1i32 << (precision - 1) } else { 0 };
    let layout = Layout { high: layout.stored - 1, ..*layout };
    component.samples().iter().for_each(|sample| take(layout.value((sample.round() as i32 - below) as u32)));
    Ok(())
}

/// Run lengths of the bytes of all values, the highest bytes first (PS3.5, annex G).
fn rle(packed: &[u8], layout: &Layout, mut take: impl FnMut(f64)) -> Result<(), String> {
    let (pixels, count) = (layout.pixels(), layout.bytes());
    let header: Vec<usize> = packed
        .get(..64)
        .ok_or("its RLE has no header")?
        .as_chunks()
        .0
        .iter()
        .map(|n| u32::from_le_bytes(*n) as usize)
        .collect();
    if header[0] != count {
        return Err(format!("its RLE has {} segments, and values of {count} bytes need as many", header[0]));
    }
    let mut planes = Vec::with_capacity(count);
    for segment in 0..count {
        let end = if segment + 1 < count { header[segment + 2] } else { packed.len() };
        let bytes = packed.get(header[segment + 1]..end).ok_or("its RLE has a segment beyond its end")?;
        planes.push(unpack_bits(bytes, pixels).ok_or("its RLE ends before its image")?);
    }
    for pixel in 0..pixels {
        take(layout.value(planes.iter().fold(0, |bits, plane| bits << 8 | u32::from(plane[pixel]))));
    }
    Ok(())
}

fn unpack_bits(mut bytes: &[u8], count: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let (&length, rest) = bytes.split_first()?;
        match length as i8 {
            -128 => bytes = rest,
            repeat @ ..0 => {
                let (&value, rest) = rest.split_first()?;
                let repeat = (1 - isize::from(repeat)) as usize;
                out.extend(std::iter::repeat_n(value, repeat.min(count - out.len())));
                bytes = rest;
            }
            copied => {
                let copied = copied as usize + 1;
                out.extend_from_slice(rest.get(..copied.min(count - out.len()))?);
                bytes = rest.get(copied..).unwrap_or_default();
            }
        }
    }
    Some(out)
}
