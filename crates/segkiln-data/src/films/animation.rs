//! GIF, APNG and animated WebP, by the decoders of `image`.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use image::{
    AnimationDecoder, Delay, DynamicImage, Frame, Frames, ImageDecoder, ImageError, ImageFormat,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        png::PngDecoder,
        webp::WebPDecoder,
    },
};

use segkiln_core::Size;

use super::{FrameRate, FrameSink, FrameSource, folder, frame_error};
use crate::{DataError, DecodeOptions, Result};

/// Opens a file; one of a still image is a film of one frame.
pub(super) fn open(
    file: BufReader<File>,
    path: &Path,
    format: ImageFormat,
    options: DecodeOptions,
) -> Result<Box<dyn FrameSource>> {
    let refused = |error: ImageError| DataError::Film { film: path.into(), reason: format!("is damaged: {error}") };
    let limits = &options.limits;
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(limits.max_bytes.saturating_mul(2));
    let check = |Size { width, height }: Size| limits.check(path, width, height, 4);
    let frames = match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file).map_err(refused)?;
            check(decoder.dimensions().into())?;
            decoder.set_limits(bounds).map_err(refused)?;
            decoder.into_frames()
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(file, bounds).map_err(refused)?;
            check(decoder.dimensions().into())?;
            if !decoder.is_apng().map_err(refused)? {
                return Ok(Box::new(folder::Source::one(path, options)));
            }
            decoder.apng().map_err(refused)?.into_frames()
        }
        _ => {
            let mut decoder = WebPDecoder::new(file).map_err(refused)?;
            check(decoder.dimensions().into())?;
            if !decoder.has_animation() {
                return Ok(Box::new(folder::Source::one(path, options)));
            }
            decoder.set_limits(bounds).map_err(refused)?;
            decoder.into_frames()
        }
    };
    let mut source = Source { frames, path: path.into(), number: 0, first: None, rate: None };
    let first = source.decode()?;
    source.rate = first.as_ref().and_then(|frame| rate(frame.delay()));
    source.first = first;
    Ok(Box::new(source))
}

/// Frames a second by the first frame's delay. A delay of no time, which GIFs have, says nothing.
fn rate(delay: Delay) -> Option<FrameRate> {
    let (numerator, denominator) = delay.numer_denom_ms();
    let rate = FrameRate { numerator: denominator.checked_mul(1000)?, denominator: numerator };
    (rate.numerator > 0 && rate.denominator > 0).then_some(rate)
}

struct Source {
    frames: Frames<'static>,
    path: PathBuf,
    number: u64,
    first: Option<Frame>,
    rate: Option<FrameRate>,
}

impl Source {
    fn decode(&mut self) -> Result<Option<Frame>> {
        let frame = self.frames.next().transpose();
        let frame = frame.map_err(|error| frame_error(&self.path, self.number, error.to_string()))?;
        self.number += 1;
        Ok(frame)
    }
}

impl FrameSource for Source {
    fn rate(&self) -> Option<FrameRate> {
        self.rate
    }

    fn next_frame(&mut self) -> Result<Option<DynamicImage>> {
        let frame = match self.first.take() {
            Some(first) => Some(first),
            None => self.decode()?,
        };
        Ok(frame.map(|frame| frame.into_buffer().into()))
    }
}

/// A GIF that is written, without an end to its repetitions. Frames of more than 256 colors lose some.
pub(super) struct GifSink {
    encoder: GifEncoder<File>,
    path: PathBuf,
    delay: Delay,
    frames: u64,
}

impl GifSink {
    pub fn new(file: File, path: &Path, rate: FrameRate) -> Result<Self> {
        /// Speed of the encoder, from 1 (best) to 30 (fastest); its docs recommend it.
        const SPEED: i32 = 10;
        let mut encoder = GifEncoder::new_with_speed(file, SPEED);
        let refused = |error: ImageError| DataError::Encode { path: path.into(), reason: error.to_string() };
        encoder.set_repeat(Repeat::Infinite).map_err(refused)?;
        let delay = Delay::from_numer_denom_ms(rate.denominator.saturating_mul(1000), rate.numerator.max(1));
        Ok(Self { encoder, path: path.into(), delay, frames: 0 })
    }
}

impl FrameSink for GifSink {
    fn write_frame(&mut self, frame: &DynamicImage) -> Result<()> {
        // A map of more than 256 labels would lose most of them in 8 bits.
        if matches!(frame, DynamicImage::ImageLuma16(_)) {
            let reason = "GIF holds 8 bits a channel, and this frame has 16 bits of gray; write a folder or a TIFF";
            return Err(frame_error(&self.path, self.frames, reason));
        }
        let frame = Frame::from_parts(frame.to_rgba8(), 0, 0, self.delay);
        let refused = |error: ImageError| frame_error(&self.path, self.frames, format!("cannot be written: {error}"));
        self.encoder.encode_frame(frame).map_err(refused)?;
        self.frames += 1;
        Ok(())
    }

    /// The encoder writes the trailer when it is dropped.
    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
