//! TIFF: 1 to 32 bits, integers and floats, strips and tiles, interleaved and planar.

use std::{borrow::Cow, io::Cursor};

use ::tiff::{
    ColorType, TiffError,
    decoder::{Decoder, DecodingResult},
};

use super::{ImageFile, Limits, unpack};
use crate::{
    DataError, Result,
    raster::{Raster, Samples},
};

/// What the samples are for: signed and 64-bit integers may be labels, but are no brightness.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Image,
    Labels,
}

/// The first image of the file.
pub(super) fn decode(file: &ImageFile<'_>, limits: &Limits, purpose: Use) -> Result<Raster<'static>> {
    let damaged = |error: TiffError| -> DataError {
        match error {
            TiffError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                file.damaged("the file is truncated")
            }
            TiffError::LimitsExceeded => {
                file.damaged(format!("it needs more than the limit of {} bytes", limits.max_bytes))
            }
            other => file.damaged(other),
        }
    };
    let mut bounds = ::tiff::decoder::Limits::default();
    bounds.decoding_buffer_size = limits.max_usize();
    bounds.intermediate_buffer_size = limits.max_usize();
    let mut decoder = Decoder::new(Cursor::new(&file.bytes)).map_err(damaged)?.with_limits(bounds);
    let (width, height) = decoder.dimensions().map_err(damaged)?;
    let color = decoder.colortype().map_err(damaged)?;
    let bits = color.bit_depth();
    limits.check(file.path, width, height, u32::from(bits) * u32::from(color.num_samples()))?;
    let channels = match color {
        ColorType::Gray(_) => 1,
        ColorType::GrayA(_) => 2,
        ColorType::RGB(_) => 3,
        ColorType::RGBA(_) => 4,
        other => {
            return Err(file.damaged(format!("colours of type {other:?} are not supported; save it as grey or RGB")));
        }
    };

    let mut result = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result).map_err(damaged)?;
    if result.as_buffer(0).byte_len() < layout.complete_len {
        return Err(damaged(TiffError::LimitsExceeded));
    }
    let planes = layout.planes;
    let mut samples = match result {
        DecodingResult::U8(v) if bits < 8 => Samples::U8(unpack(&v, bits, width, height, channels).into()),
        DecodingResult::U8(v) => Samples::U8(interleave(v, planes)),
        DecodingResult::U16(v) => Samples::U16(interleave(v, planes)),
        DecodingResult::U32(v) => Samples::U32(interleave(v, planes)),
        DecodingResult::F16(v) => Samples::F32(interleave(v.iter().map(|v| v.to_f32()).collect(), planes)),
        DecodingResult::F32(v) => Samples::F32(interleave(v, planes)),
        DecodingResult::F64(v) => Samples::F32(interleave(v.iter().map(|v| *v as f32).collect(), planes)),
        wide if purpose == Use::Labels => Samples::U32(interleave(integers(file, wide)?, planes)),
        _ => return Err(file.damaged("signed and 64-bit integers are not supported; save it in 8, 16 or 32 bits")),
    };
    if let Samples::F32(values) = &samples
        && let Some(at) = values.iter().position(|value| !value.is_finite())
    {
        let pixel = at / channels;
        let (x, y) = ((pixel % width as usize) as u32, (pixel / width as usize) as u32);
        return Err(DataError::NotFinite { path: file.path.into(), x, y, value: values[at] });
    }

    if let (Use::Image, Samples::U8(values), 1..8) = (purpose, &mut samples, bits) {
        let scale = 255 / ((1 << bits) - 1);
        values.to_mut().iter_mut().for_each(|value| *value *= scale);
    }
    Ok(Raster { width, height, channels, samples, palette: None })
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
fn integers(file: &ImageFile<'_>, values: DecodingResult) -> Result<Vec<u32>> {
    fn narrow<T: Copy + TryInto<u32> + std::fmt::Display>(file: &ImageFile<'_>, values: Vec<T>) -> Result<Vec<u32>> {
        let convert = |value: &T| {
            (*value).try_into().map_err(|_| file.damaged(format!("{value} is no label: labels are 0 to {}", u32::MAX)))
        };
        values.iter().map(convert).collect()
    }
    match values {
        DecodingResult::I8(v) => narrow(file, v),
        DecodingResult::I16(v) => narrow(file, v),
        DecodingResult::I32(v) => narrow(file, v),
        DecodingResult::I64(v) => narrow(file, v),
        DecodingResult::U64(v) => narrow(file, v),
        _ => Err(file.damaged("its samples are no integers")),
    }
}
