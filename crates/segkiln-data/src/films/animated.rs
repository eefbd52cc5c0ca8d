//! APNG and animated WebP: frames that the encoders of `png` and `image-webp` make of stills, in containers of many frames. After
//! each frame the file is complete, so that a film that is cut short has the frames before.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use flate2::Crc;
use image::{
    DynamicImage, ExtendedColorType, ImageEncoder,
    codecs::{png::PngEncoder, webp::WebPEncoder},
};
use segkiln_core::Size;

use super::{FrameRate, FrameSink, frame_error};
use crate::{DataError, Result};

/// The frame in 8 bits a channel: readers of animations, ours among them, often have no more.
fn plain(frame: &DynamicImage) -> std::result::Result<DynamicImage, &'static str> {
    match frame {
        // A map of more than 256 labels would lose most of them in 8 bits.
        DynamicImage::ImageLuma16(_) => {
            Err("animations hold 8 bits a channel, and this frame has 16 bits of gray; write a folder or a TIFF")
        }
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageRgb8(_) => Ok(frame.clone()),
        _ if frame.color().has_alpha() => Ok(frame.to_rgba8().into()),
        _ => Ok(frame.to_rgb8().into()),
    }
}

fn size(frame: &DynamicImage) -> Size {
    Size { width: frame.width(), height: frame.height() }
}

/// An APNG that is written, without an end to its repetitions: <https://www.w3.org/TR/png-3/>.
pub(super) struct ApngSink {
    file: File,
    path: PathBuf,
    rate: FrameRate,
    color: Option<ExtendedColorType>,
    frames: u32,
    /// Number of the next chunk of the animation.
    chunk: u32,
    /// Where the next frame begins.
    end: u64,
}

/// Place of the chunk that counts the frames: behind the signature and the header.
const FRAME_COUNT_AT: u64 = 8 + 25;

impl ApngSink {
    pub fn new(file: File, path: &Path, rate: FrameRate) -> Self {
        Self { file, path: path.into(), rate, color: None, frames: 0, chunk: 0, end: 0 }
    }

    /// The header and the data of a still.
    fn still(frame: &DynamicImage) -> image::ImageResult<(Vec<u8>, Vec<u8>)> {
        let mut still = Vec::new();
        PngEncoder::new(&mut still).write_image(
            frame.as_bytes(),
            frame.width(),
            frame.height(),
            frame.color().into(),
        )?;
        let (mut at, mut header, mut data) = (8, Vec::new(), Vec::new());
        while let Some(length) = still.get(at..at + 4).and_then(|length| length.try_into().ok()) {
            let length = u32::from_be_bytes(length) as usize;
            let content = &still[at + 8..at + 8 + length];
            match &still[at + 4..at + 8] {
                b"IHDR" => header = content.to_vec(),
                b"IDAT" => data.extend_from_slice(content),
                _ => {}
            }
            at += length + 12;
        }
        Ok((header, data))
    }

    fn put(&mut self, frame: &DynamicImage) -> image::ImageResult<()> {
        let (header, data) = Self::still(frame)?;
        let mut out = Vec::with_capacity(data.len() + 200);
        if self.frames == 0 {
            out.extend_from_slice(b"\x89PNG\r\n\x1a\n");
            chunk(&mut out, b"IHDR", &header);
            chunk(&mut out, b"acTL", &[0; 8]);
        }
        let Size { width, height } = size(frame);
        let [numerator, denominator] = delay(self.rate);
        let mut control = Vec::new();
        for number in [self.chunk, width, height, 0, 0] {
            control.extend_from_slice(&number.to_be_bytes());
        }
        control.extend_from_slice(&numerator.to_be_bytes());
        control.extend_from_slice(&denominator.to_be_bytes());
        // The frame stays and covers the one before.
        control.extend_from_slice(&[0, 0]);
        chunk(&mut out, b"fcTL", &control);
        self.chunk += 1;
        if self.frames == 0 {
            chunk(&mut out, b"IDAT", &data);
        } else {
            chunk(&mut out, b"fdAT", &[&self.chunk.to_be_bytes(), &data[..]].concat());
            self.chunk += 1;
        }
        let length = out.len() as u64;
        chunk(&mut out, b"IEND", &[]);
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&out)?;
        self.end += length;
        self.frames += 1;
        let mut count = Vec::new();
        chunk(&mut count, b"acTL", &[self.frames.to_be_bytes(), [0; 4]].concat());
        self.file.seek(SeekFrom::Start(FRAME_COUNT_AT))?;
        self.file.write_all(&count)?;
        Ok(())
    }
}

impl FrameSink for ApngSink {
    fn write_frame(&mut self, frame: &DynamicImage) -> Result<()> {
        let number = self.frames;
        let refused = |reason: String| frame_error(&self.path, number.into(), reason);
        let frame = plain(frame).map_err(|reason| refused(reason.into()))?;
        let color = ExtendedColorType::from(frame.color());
        let first = *self.color.get_or_insert(color);
        if color != first {
            return Err(refused(format!("is {color:?}, the first {first:?}, and APNG has one for all frames")));
        }
        self.put(&frame).map_err(|error| frame_error(&self.path, number.into(), format!("cannot be written: {error}")))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.file.flush().map_err(|error| DataError::io("write", &self.path, error))
    }
}

/// Adds a chunk of PNG.
fn chunk(out: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    out.extend_from_slice(&(content.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(name);
    out.extend_from_slice(content);
    let mut crc = Crc::new();
    crc.update(&out[start..]);
    out.extend_from_slice(&crc.sum().to_be_bytes());
}

/// Seconds a frame as a fraction of 16 bits.
fn delay(rate: FrameRate) -> [u16; 2] {
    match (u16::try_from(rate.denominator), u16::try_from(rate.numerator)) {
        (Ok(numerator), Ok(denominator)) => [numerator, denominator.max(1)],
        _ => [milliseconds(rate).min(u16::MAX.into()) as u16, 1000],
    }
}

fn milliseconds(rate: FrameRate) -> u32 {
    let milliseconds = 1000.0 * f64::from(rate.denominator) / f64::from(rate.numerator.max(1));
    milliseconds.round().clamp(1.0, f64::from((1u32 << 24) - 1)) as u32
}

/// An animated WebP without losses that is written, without an end to its repetitions:
/// <https://developers.google.com/speed/webp/docs/riff_container>.
pub(super) struct WebPSink {
    file: File,
    path: PathBuf,
    rate: FrameRate,
    frames: u64,
    end: u64,
}

impl WebPSink {
    pub fn new(file: File, path: &Path, rate: FrameRate) -> Self {
        Self { file, path: path.into(), rate, frames: 0, end: 0 }
    }

    fn put(&mut self, frame: &DynamicImage) -> image::ImageResult<()> {
        let mut still = Vec::new();
        WebPEncoder::new_lossless(&mut still).encode(
            frame.as_bytes(),
            frame.width(),
            frame.height(),
            frame.color().into(),
        )?;
        // Behind `RIFF`, a length and `WEBP`: the one chunk of a still.
        let data = &still[12..];
        let Size { width, height } = size(frame);
        let small = |out: &mut Vec<u8>, number: u32| out.extend_from_slice(&number.to_le_bytes()[..3]);
        let mut out = Vec::with_capacity(data.len() + 100);
        if self.frames == 0 {
            out.extend_from_slice(b"RIFF\0\0\0\0WEBP");
            // An animation, with transparent pixels perhaps.
            riff(&mut out, b"VP8X", 10);
            out.extend_from_slice(&[0x12, 0, 0, 0]);
            small(&mut out, width - 1);
            small(&mut out, height - 1);
            riff(&mut out, b"ANIM", 6);
            out.extend_from_slice(&[0; 6]);
        }
        riff(&mut out, b"ANMF", 16 + data.len() as u32);
        [0, 0, width - 1, height - 1, milliseconds(self.rate)].iter().for_each(|number| small(&mut out, *number));
        // The frame covers the one before.
        out.push(2);
        out.extend_from_slice(data);
        let end = self.end + out.len() as u64;
        let Ok(length) = u32::try_from(end - 8) else {
            return Err(io::Error::other("a WebP has at most 4 GiB; write a folder, or Y4M").into());
        };
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&out)?;
        self.file.seek(SeekFrom::Start(4))?;
        self.file.write_all(&length.to_le_bytes())?;
        (self.end, self.frames) = (end, self.frames + 1);
        Ok(())
    }
}

/// Adds the name and the length of a chunk of RIFF.
fn riff(out: &mut Vec<u8>, name: &[u8; 4], length: u32) {
    out.extend_from_slice(name);
    out.extend_from_slice(&length.to_le_bytes());
}

impl FrameSink for WebPSink {
    fn write_frame(&mut self, frame: &DynamicImage) -> Result<()> {
        /// The format counts sides in 14 bits.
        const LONGEST: u32 = 1 << 14;
        let refused = |reason: &str| frame_error(&self.path, self.frames, reason);
        if frame.width().max(frame.height()) > LONGEST {
            return Err(refused("WebP has sides of up to 16,384 pixels; write a folder, Y4M or a TIFF"));
        }
        let (number, frame) = (self.frames, plain(frame).map_err(refused)?);
        self.put(&frame).map_err(|error| frame_error(&self.path, number, format!("cannot be written: {error}")))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.file.flush().map_err(|error| DataError::io("write", &self.path, error))
    }
}
