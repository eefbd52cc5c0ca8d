//! TIFF: 1 to 32 bits, integers and floats, palettes, JPEG's colors, strips and tiles, interleaved and planar.

mod directories;

use std::{
    borrow::Cow,
    io::{Cursor, Read, Seek},
    path::Path,
};

use ::image::{DynamicImage, metadata::Orientation as Turn};
use ::tiff::{
    ColorType, TiffError, TiffUnsupportedError,
    decoder::{Decoder, DecodingResult},
    tags::{ByteOrder, PhotometricInterpretation, Tag},
};
use segkiln_core::Rgb;

pub(crate) use self::directories::{Reader, next_page, open};
use super::{DecodeOptions, ImageFile, Limits, Orientation, nodata, unpack};
use crate::{
    DataError, Result,
    raster::{Raster, Samples},
    regions::TiffSource,
    warn::{self, warn},
};

/// Numbers of the tag `Compression`: one whose bits are in an order of its own, and two that the decoder does not know and the reader of
/// regions does.
const JPEG: u16 = 7;
const ZSTD: u16 = 50_000;
const WEBP: u16 = 50_001;

/// Purpose of the samples: signed and 64-bit integers may be labels, but not brightness. Where the greatest number is black, numbers that
/// stand for classes are those of the file all the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Image,
    Labels,
    /// Labels that go by brightness.
    Levels,
}

/// A page of the file, and the turn that its orientation tag asks for. `bytes` is what a pixel takes afterwards.
pub(super) fn decode(
    file: &ImageFile<'_>,
    options: &DecodeOptions,
    purpose: Use,
    bytes: usize,
) -> Result<(Raster<'static>, Turn)> {
    let damaged = |error| damaged(file.path, &options.limits, error);
    let open = |bytes| -> Result<Reader<Cursor<&[u8]>>> {
        let bytes: &[u8] = bytes;
        let mut decoder = open(Cursor::new(bytes), bytes.len() as u64, file.path, &options.limits, None)?;
        for _ in 0..options.page.unwrap_or(0) {
            let absent = |_| file.damaged(format!("it has no page {} (counted from 0)", options.page.unwrap_or(0)));
            next_page(&mut decoder).map_err(absent)?;
        }
        Ok(decoder)
    };
    let mut decoder = open(&file.bytes)?;
    // The decoder refuses palettes; their indices can be read as gray.
    let (mut palette, mut patched) = (None, Vec::new());
    if let Err(TiffError::UnsupportedError(TiffUnsupportedError::InterpretationWithBits(
        PhotometricInterpretation::RGBPalette,
        bits,
    ))) = decoder.colortype()
    {
        let ([1 | 2 | 4 | 8], Some(ifd)) = (bits.as_slice(), decoder.ifd_pointer()) else {
            return Err(file.damaged(format!("palettes of {bits:?} bits are not supported; save it as RGB")));
        };
        let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(damaged)?;
        palette = Some(colors(&map, bits[0]).ok_or_else(|| file.damaged("its palette is too short"))?);
        patched = as_gray(&file.bytes, decoder.byte_order(), ifd.0)
            .ok_or_else(|| file.damaged("its directory cannot be read"))?;
    }
    if palette.is_some() {
        decoder = open(&patched)?;
    }
    let raster = samples(&mut decoder, file.path, options, purpose, bytes, palette)?;
    let turn = turn_of(&mut decoder);
    if options.page.is_none() {
        let more = further_pages(&mut decoder);
        if more > 0 {
            let text = "the first page is read, the others are not; choose one with `DecodeOptions::page`";
            warn(warn::PAGES, file.path, format_args!("it has {} pages: {text}", more + 1));
        }
    }
    Ok(match options.orientation {
        Orientation::Apply => (raster.turned(turn), turn),
        Orientation::Keep => (raster, turn),
    })
}

/// Decodes the page of a stack that the decoder is at, which was opened under these limits.
pub(crate) fn decode_frame(
    decoder: &mut Decoder<impl Read + Seek>,
    path: &Path,
    options: &DecodeOptions,
) -> Result<DynamicImage> {
    let raster = samples(decoder, path, options, Use::Image, 1, None)?;
    Ok(match options.orientation {
        Orientation::Apply => raster.turned(turn_of(decoder)),
        Orientation::Keep => raster,
    }
    .into_dynamic())
}

fn damaged(path: &Path, limits: &Limits, error: TiffError) -> DataError {
    let reason = match error {
        TiffError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => "the file is truncated".into(),
        TiffError::LimitsExceeded => format!("it needs more than the limit of {} bytes", limits.max_bytes),
        other => other.to_string(),
    };
    DataError::Decode { path: path.into(), format: "TIFF", reason }
}

/// Samples of the page that the decoder is at; `palette` has the colors of one that was made gray.
fn samples(
    decoder: &mut Decoder<impl Read + Seek>,
    path: &Path,
    options: &DecodeOptions,
    purpose: Use,
    bytes: usize,
    palette: Option<Vec<Rgb>>,
) -> Result<Raster<'static>> {
    let limits = &options.limits;
    let damaged = |error| damaged(path, limits, error);
    let refused = |reason: String| DataError::Decode { path: path.into(), format: "TIFF", reason };
    let (width, height) = decoder.dimensions().map_err(damaged)?;
    let color = decoder.colortype().map_err(damaged)?;
    let bits = color.bit_depth();
    let decoded = (usize::from(bits) * usize::from(color.num_samples())).div_ceil(8);
    limits.check(path, width, height, decoded.max(bytes))?;
    if !matches!(bits, 1 | 2 | 4 | 8 | 16 | 32 | 64) {
        return Err(refused(format!("{bits} bits a sample are not supported; save it in 8 or 16")));
    }
    // The decoder does not turn the bytes; in JPEG the order does not count.
    let mut number = |tag| decoder.find_tag_unsigned::<u16>(tag).ok().flatten();
    let compression = number(Tag::Compression);
    if number(Tag::FillOrder) == Some(2) && compression != Some(JPEG) {
        return Err(refused(
            "bytes that begin with their lowest bit (FillOrder 2) are not supported; save it anew".into(),
        ));
    }
    let channels = match color {
        ColorType::Gray(_) => 1,
        ColorType::GrayA(_) => 2,
        ColorType::Multiband { num_samples: 2, .. } if has_alpha(decoder) => 2,
        ColorType::RGB(_) | ColorType::YCbCr(8) => 3,
        ColorType::RGBA(_) => 4,
        other => {
            return Err(refused(format!("colors of type {other:?} are not supported; save it as gray or RGB")));
        }
    };

    let is_inverted = decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation).ok().flatten() == Some(0);
    let by_region = decoder.ifd_pointer().filter(|_| matches!(compression, Some(ZSTD | WEBP)));
    let mut samples = match by_region {
        Some(ifd) => {
            let samples = TiffSource::read_page(path, *options, ifd.0)?;
            if samples.len() != width as usize * height as usize * channels {
                return Err(refused(format!("its pixels have other than {channels} values")));
            }
            if is_inverted { brightness(samples, bits) } else { samples }
        }
        None => decoded_samples(decoder, path, limits, purpose)?,
    };
    // What marks missing data, and what is a class, are numbers of the file.
    if is_inverted {
        invert(&mut samples, bits);
    }
    let tagged = || nodata::of_tag(&decoder.get_tag_ascii_string(Tag::GdalNodata).ok()?);
    match &mut samples {
        Samples::F32(values) => {
            let missing = options.nodata.or_else(tagged).map(|mark| if is_inverted { 1.0 - mark } else { mark });
            nodata::fill(values.to_mut(), channels, missing, path)?;
            nodata::check(values, channels, width, purpose == Use::Image, path)?;
        }
        Samples::U8(values) => nodata::fill(values.to_mut(), channels, options.nodata, path)?,
        Samples::U16(values) => nodata::fill(values.to_mut(), channels, options.nodata, path)?,
        Samples::U32(values) => nodata::fill(values.to_mut(), channels, options.nodata, path)?,
    }
    if is_inverted && purpose != Use::Labels {
        invert(&mut samples, bits);
    }
    if let (Use::Image, None, Samples::U8(values), 1..8) = (purpose, &palette, &mut samples, bits) {
        let scale = 255 / ((1 << bits) - 1);
        values.to_mut().iter_mut().for_each(|value| *value *= scale);
    }
    Ok(Raster { width, height, channels, samples, bits, palette })
}

/// Samples of the page that the decoder is at, of a compression that the decoder knows.
fn decoded_samples(
    decoder: &mut Decoder<impl Read + Seek>,
    path: &Path,
    limits: &Limits,
    purpose: Use,
) -> Result<Samples<'static>> {
    let damaged = |error| damaged(path, limits, error);
    let refused = |reason: String| DataError::Decode { path: path.into(), format: "TIFF", reason };
    let (width, height) = decoder.dimensions().map_err(damaged)?;
    let color = decoder.colortype().map_err(damaged)?;
    let (bits, channels) = (color.bit_depth(), usize::from(color.num_samples()));
    let mut result = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result).map_err(damaged)?;
    if result.as_buffer(0).byte_len() < layout.complete_len {
        return Err(damaged(TiffError::LimitsExceeded));
    }
    // Several of these are in a byte, and only unsigned ones are taken apart.
    if bits < 8 && !matches!(result, DecodingResult::U8(_)) {
        return Err(refused(format!("signed integers of {bits} bits are not supported; save it in 8")));
    }
    let planes = layout.planes;
    if bits < 8 && planes > 1 {
        return Err(refused(format!("planes of {bits} bits are not supported; save it in 8")));
    }
    let mut samples = match result {
        DecodingResult::U8(v) if bits < 8 => Samples::U8(unpack(&v, bits, width, height, channels).into()),
        DecodingResult::U8(v) => Samples::U8(interleave(v, planes)),
        DecodingResult::U16(v) => Samples::U16(interleave(v, planes)),
        DecodingResult::U32(v) => Samples::U32(interleave(v, planes)),
        DecodingResult::F16(v) => Samples::F32(interleave(v.iter().map(|v| v.to_f32()).collect(), planes)),
        DecodingResult::F32(v) => Samples::F32(interleave(v, planes)),
        DecodingResult::F64(v) => Samples::F32(interleave(v.iter().map(|v| *v as f32).collect(), planes)),
        wide if purpose != Use::Image => Samples::U32(interleave(integers(path, wide)?, planes)),
        _ => return Err(refused("signed and 64-bit integers are not supported; save it in 8, 16 or 32 bits".into())),
    };
    if let (ColorType::YCbCr(_), Samples::U8(values)) = (color, &mut samples) {
        values.to_mut().as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = rgb(*pixel));
    }
    Ok(samples)
}

/// Numbers of a file whose greatest is black, as the decoder would give them.
fn brightness(mut samples: Samples<'static>, bits: u8) -> Samples<'static> {
    match &mut samples {
        Samples::F32(values) => values.to_mut().iter_mut().for_each(|value| *value = 1.0 - *value),
        integers => invert(integers, bits),
    }
    samples
}

/// Makes the greatest integers the least; floats stay as they are.
fn invert(samples: &mut Samples<'_>, bits: u8) {
    let most = u32::MAX >> 32u8.saturating_sub(bits);
    match samples {
        Samples::U8(values) => values.to_mut().iter_mut().for_each(|value| *value ^= most as u8),
        Samples::U16(values) => values.to_mut().iter_mut().for_each(|value| *value ^= most as u16),
        Samples::U32(values) => values.to_mut().iter_mut().for_each(|value| *value ^= most),
        Samples::F32(_) => {}
    }
}

/// Returns true for a page that is a reduced copy of another.
pub(crate) fn is_reduced(decoder: &mut Decoder<impl Read + Seek>) -> bool {
    decoder.find_tag_unsigned::<u32>(Tag::NewSubfileType).ok().flatten().unwrap_or(0) & 1 == 1
}

fn turn_of(decoder: &mut Decoder<impl Read + Seek>) -> Turn {
    let tag = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    tag.and_then(Turn::from_exif).unwrap_or(Turn::NoTransforms)
}

fn has_alpha(decoder: &mut Decoder<impl Read + Seek>) -> bool {
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).ok().flatten();
    matches!(extra.as_deref(), Some([1 | 2]))
}

/// Pages after the first that are no reduced copies of it.
fn further_pages(decoder: &mut Reader<impl Read + Seek>) -> usize {
    /// More pages are not counted.
    const MOST: usize = 10_000;
    let mut pages = 0;
    while pages < MOST && decoder.more_images() && next_page(decoder).is_ok() {
        pages += usize::from(!is_reduced(decoder));
    }
    pages
}

/// Full-range YCbCr of JPEG (ITU-T T.871) as RGB.
pub(crate) fn rgb([y, cb, cr]: [u8; 3]) -> Rgb {
    let [y, cb, cr] = [f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0];
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|value| value.round() as u8)
}

/// The colors of a map that has all red values, then the green and the blue ones, in 16 bits.
pub(crate) fn colors(map: &[u16], bits: u8) -> Option<Vec<Rgb>> {
    let count = 1 << bits;
    // Some programs write 8 bits, which libtiff tells by the same rule.
    let shift = if map.iter().all(|value| *value < 256) { 0 } else { 8 };
    let value = |at: usize| Some((*map.get(at)? >> shift) as u8);
    (0..count).map(|i| Some([value(i)?, value(count + i)?, value(2 * count + i)?])).collect()
}

/// The file with its directory at `ifd` saying that its samples are gray.
fn as_gray(bytes: &[u8], order: ByteOrder, ifd: u64) -> Option<Vec<u8>> {
    const PHOTOMETRIC: u16 = 262;
    let mut bytes = bytes.to_vec();
    let short = |at: usize| {
        let value = <[u8; 2]>::try_from(bytes.get(at..at + 2)?).ok()?;
        Some(if order == ByteOrder::LittleEndian { u16::from_le_bytes(value) } else { u16::from_be_bytes(value) })
    };
    let is_big = short(2)? == 43;
    let ifd = usize::try_from(ifd).ok()?;
    // Of a BigTIFF's 64-bit count of entries, only the lowest 16 bits can be set in a file that was read.
    let count = match (is_big, order) {
        (true, ByteOrder::BigEndian) => short(ifd.checked_add(6)?)?,
        _ => short(ifd)?,
    };
    let (first, size, value) = if is_big { (8, 20, 12) } else { (2, 12, 8) };
    let entry = (0..usize::from(count)).map(|entry| ifd + first + size * entry);
    let at = entry.into_iter().find(|at| short(*at) == Some(PHOTOMETRIC))? + value;
    let gray = if order == ByteOrder::LittleEndian { 1u16.to_le_bytes() } else { 1u16.to_be_bytes() };
    bytes.get_mut(at..at + 2)?.copy_from_slice(&gray);
    Some(bytes)
}

/// `[planes, pixels]` to `[pixels, planes]`.
fn interleave<T: Copy>(values: Vec<T>, planes: usize) -> Cow<'static, [T]> {
    if planes <= 1 {
        return values.into();
    }
    let pixels = values.len() / planes;
    (0..pixels).flat_map(|i| (0..planes).map(move |p| p * pixels + i)).map(|i| values[i]).collect()
}

/// Signed and 64-bit labels, which must be such that 32 bits hold.
fn integers(path: &Path, values: DecodingResult) -> Result<Vec<u32>> {
    fn refused(path: &Path, reason: String) -> DataError {
        DataError::Decode { path: path.into(), format: "TIFF", reason }
    }
    fn narrow<T: Copy + TryInto<u32> + std::fmt::Display>(path: &Path, values: Vec<T>) -> Result<Vec<u32>> {
        let convert = |value: &T| {
            (*value).try_into().map_err(|_| refused(path, format!("{value} is no label: labels are 0 to {}", u32::MAX)))
        };
        values.iter().map(convert).collect()
    }
    match values {
        DecodingResult::I8(v) => narrow(path, v),
        DecodingResult::I16(v) => narrow(path, v),
        DecodingResult::I32(v) => narrow(path, v),
        DecodingResult::I64(v) => narrow(path, v),
        DecodingResult::U64(v) => narrow(path, v),
        _ => Err(refused(path, "its samples are no integers".into())),
    }
}
