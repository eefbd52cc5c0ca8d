//! PNG masks. `image` expands palettes to colors and scales 1-, 2- and 4-bit values, so masks are read here.

use std::{borrow::Cow, io::Cursor};

use ::png::{BitDepth, ColorType, Decoder, DecodingError};

use ::image::metadata::Orientation as Turn;

use super::{DecodeOptions, ImageFile, Limits, Orientation, unpack};
use crate::{
    DataError, Result,
    raster::{Raster, Samples},
};

/// The samples as they are stored: palette indices, and small values unscaled.
pub(super) fn decode(file: &ImageFile<'_>, options: &DecodeOptions, bytes: usize) -> Result<Raster<'static>> {
    let limits = &options.limits;
    let mut reader = decoder(file, limits, bytes)?.read_info().map_err(|error| damaged(file, limits, error))?;
    let size = reader.output_buffer_size().ok_or_else(|| damaged(file, limits, DecodingError::LimitsExceeded))?;
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(|error| damaged(file, limits, error))?;
    let (width, height) = (reader.info().width, reader.info().height);
    if (frame.width, frame.height) != (width, height) {
        return Err(file.damaged("its first animation frame is smaller than the image"));
    }

    let channels = frame.color_type.samples();
    let bits = frame.bit_depth as u8;
    let samples = match frame.bit_depth {
        BitDepth::Sixteen => {
            let (words, _) = bytes.as_chunks::<2>();
            Samples::U16(Cow::Owned(words.iter().map(|word| u16::from_be_bytes(*word)).collect()))
        }
        BitDepth::Eight => Samples::U8(Cow::Owned(bytes)),
        small => Samples::U8(Cow::Owned(unpack(&bytes, small as u8, width, height, channels))),
    };
    let palette = (frame.color_type == ColorType::Indexed)
        .then(|| reader.info().palette.as_deref().unwrap_or_default().as_chunks::<3>().0.to_vec());
    let raster = Raster { width, height, channels, samples, bits, palette };
    Ok(match (options.orientation, reader.info().exif_metadata.as_deref().and_then(Turn::from_exif_chunk)) {
        (Orientation::Apply, Some(turn)) => raster.turned(turn),
        _ => raster,
    })
}

/// Holds the header against the limits.
pub(super) fn check_header(file: &ImageFile<'_>, limits: &Limits, bytes: usize) -> Result<()> {
    decoder(file, limits, bytes).map(drop)
}

fn decoder<'a>(file: &'a ImageFile<'_>, limits: &Limits, bytes: usize) -> Result<Decoder<Cursor<&'a Vec<u8>>>> {
    let bounds = ::png::Limits { bytes: limits.max_usize() };
    let mut decoder = Decoder::new_with_limits(Cursor::new(&file.bytes), bounds);
    let info = decoder.read_header_info().map_err(|error| damaged(file, limits, error))?;
    limits.check(file.path, info.width, info.height, info.bits_per_pixel().div_ceil(8).max(bytes))?;
    Ok(decoder)
}

fn damaged(file: &ImageFile<'_>, limits: &Limits, error: DecodingError) -> DataError {
    match error {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            file.damaged("the file is truncated")
        }
        DecodingError::LimitsExceeded => {
            file.damaged(format!("it needs more than the limit of {} bytes", limits.max_bytes))
        }
        other => file.damaged(other),
    }
}
