//! TIFFs of many pages, one of which is in memory at a time.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use image::DynamicImage;
use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, TiffKindBig, colortype};

use super::{FrameRate, FrameSink, FrameSource, frame_error};
use crate::{DataError, DecodeOptions, Result, codecs};

/// A stack that is read; reduced copies among its pages are left out.
pub(super) struct Source {
    decoder: codecs::tiff::Reader<BufReader<File>>,
    path: PathBuf,
    options: DecodeOptions,
    is_first: bool,
}

impl Source {
    pub fn new(file: BufReader<File>, path: &Path, options: DecodeOptions) -> Result<Self> {
        let len = file.get_ref().metadata().map_err(|error| DataError::io("read", path, error))?.len();
        let decoder = codecs::tiff::open(file, len, path, &options.limits, None)?;
        Ok(Self { decoder, path: path.into(), options, is_first: true })
    }
}

impl FrameSource for Source {
    fn rate(&self) -> Option<FrameRate> {
        None
    }

    fn next_frame(&mut self) -> Result<Option<DynamicImage>> {
        let damaged = |error| DataError::Decode { path: self.path.clone(), format: "TIFF", reason: format!("{error}") };
        loop {
            if !std::mem::take(&mut self.is_first) {
                if !self.decoder.more_images() {
                    return Ok(None);
                }
                codecs::tiff::next_page(&mut self.decoder).map_err(damaged)?;
            }
            if !codecs::tiff::is_reduced(&mut self.decoder) {
                break;
            }
        }
        codecs::tiff::decode_frame(&mut self.decoder, &self.path, &self.options).map(Some)
    }
}

/// A stack that is written, as BigTIFF, whose size has no bound.
pub(super) struct Sink {
    encoder: TiffEncoder<File, TiffKindBig>,
    path: PathBuf,
    frames: u64,
}

impl Sink {
    pub fn new(file: File, path: &Path) -> Result<Self> {
        let refused = |error: tiff::TiffError| DataError::Encode { path: path.into(), reason: error.to_string() };
        let encoder = TiffEncoder::new_big(file).map_err(refused)?;
        let encoder = encoder.with_compression(Compression::Deflate(DeflateLevel::Fast));
        Ok(Self { encoder, path: path.into(), frames: 0 })
    }
}

impl FrameSink for Sink {
    fn write_frame(&mut self, frame: &DynamicImage) -> Result<()> {
        let (width, height) = (frame.width(), frame.height());
        let written = match frame {
            DynamicImage::ImageLuma8(gray) => self.encoder.write_image::<colortype::Gray8>(width, height, gray),
            DynamicImage::ImageLuma16(gray) => self.encoder.write_image::<colortype::Gray16>(width, height, gray),
            other => self.encoder.write_image::<colortype::RGB8>(width, height, &other.to_rgb8()),
        };
        written.map_err(|error| frame_error(&self.path, self.frames, format!("cannot be written: {error}")))?;
        self.frames += 1;
        Ok(())
    }

    /// The encoder writes each page's directory with the page.
    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
