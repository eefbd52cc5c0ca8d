//! Films: sequences of frames of one size, read and written one frame at a time, so that memory does not grow with their length.
//!
//! | form | read | written |
//! |---|---|---|
//! | folder of images, or a pattern such as `frames/%06d.png` | yes | PNG |
//! | Y4M, in a file or (as `-`) on standard input and output | yes | yes |
//! | GIF | yes | yes |
//! | APNG, animated WebP | yes | yes |
//! | TIFF with many pages | yes | BigTIFF |
//!
//! Films in other formats come through [ffmpeg](https://ffmpeg.org): `ffmpeg -i film.mp4 -f yuv4mpegpipe -` writes Y4M.
//!
//! [`Film`] reads, [`FilmWriter`] writes, and [`process`] does both on threads of their own while the caller computes. Formats
//! of your own implement [`FrameSource`] and [`FrameSink`].

mod animated;
mod animation;
mod color;
mod folder;
mod pipeline;
mod smooth;
mod stack;
mod y4m;

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use image::{DynamicImage, GenericImageView, ImageFormat};

pub use color::Matrix;
pub use pipeline::{StageTimes, process};
pub use smooth::{Flicker, ProbabilitySmoother, most_likely};

use segkiln_core::Size;

use crate::{DataError, DecodeOptions, Result, WholeFile, codecs};

/// Frames a second, as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRate {
    /// Numerator, at least 1.
    pub numerator: u32,
    /// Denominator, at least 1.
    pub denominator: u32,
}

impl Default for FrameRate {
    /// 25 frames a second, ffmpeg's default.
    fn default() -> Self {
        Self { numerator: 25, denominator: 1 }
    }
}

/// Options of films that are read or written.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FilmOptions {
    /// Options of the frames' decoders.
    pub decode: DecodeOptions,
    /// Colors of Y4M, whose header does not name them. Default: BT.709 for frames of at least 1280 pixels' width or 720 pixels'
    /// height, BT.601 for smaller ones.
    pub matrix: Option<Matrix>,
}

/// A sequence of frames that is read once, from the first to the last.
pub trait FrameSource {
    /// Frames a second, if the format says so.
    fn rate(&self) -> Option<FrameRate>;

    /// Reads the next frame; none after the last.
    ///
    /// # Errors
    /// If the frame is damaged or cannot be read.
    fn next_frame(&mut self) -> Result<Option<DynamicImage>>;
}

/// A file, a folder or a stream that takes frames.
pub trait FrameSink: Send {
    /// Writes the next frame.
    ///
    /// # Errors
    /// If the format cannot hold it, or the system refuses.
    fn write_frame(&mut self, frame: &DynamicImage) -> Result<()>;

    /// Ends the film. The frames written so far are a valid film afterwards.
    ///
    /// # Errors
    /// If the system refuses.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A film that is read: an iterator over its frames, which all have one size. It ends after the first error.
///
/// ```
/// use segkiln_data::films::{Film, FilmOptions};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample/images");
///
/// let film = Film::open(folder, &FilmOptions::default())?;
/// assert!(film.count() > 1);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
pub struct Film {
    source: Box<dyn FrameSource>,
    name: PathBuf,
    size: Option<Size>,
    frames: u64,
    is_over: bool,
}

impl Film {
    /// Opens a film by its path; `-` is Y4M on standard input.
    ///
    /// # Errors
    /// If there is none, it is of no format that is read, or its header is damaged or over the limits.
    pub fn open(path: impl AsRef<Path>, options: &FilmOptions) -> Result<Self> {
        let path = path.as_ref();
        let source = guarded(path, 0, || open(path, options))?;
        Ok(Self::new(path, source))
    }

    /// Creates a film of your own format; `name` is for error messages.
    pub fn new(name: impl Into<PathBuf>, source: Box<dyn FrameSource>) -> Self {
        Self { source, name: name.into(), size: None, frames: 0, is_over: false }
    }

    /// Frames a second, if the film says so.
    pub fn rate(&self) -> Option<FrameRate> {
        self.source.rate()
    }

    fn read(&mut self) -> Result<Option<DynamicImage>> {
        let frame = self.frames;
        let read = guarded(&self.name, frame, || self.source.next_frame());
        let Some(image) = read.map_err(|error| at_frame(&self.name, frame, error))? else {
            return if frame == 0 { Err(frame_error(&self.name, 0, "the film has no frames")) } else { Ok(None) };
        };
        let size: Size = image.dimensions().into();
        let first = *self.size.get_or_insert(size);
        if size != first {
            let reason = format!("it has {size} pixels, the first {first}; bring all frames to one size");
            return Err(frame_error(&self.name, frame, reason));
        }
        self.frames += 1;
        Ok(Some(image))
    }
}

impl Iterator for Film {
    type Item = Result<DynamicImage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let frame = self.read().transpose();
        self.is_over = !matches!(frame, Some(Ok(_)));
        frame
    }
}

/// A film that is written, of frames of one size.
pub struct FilmWriter {
    sink: Box<dyn FrameSink>,
    name: PathBuf,
    size: Option<Size>,
    frames: u64,
}

impl FilmWriter {
    /// Creates a film in the format of the path's extension: `.y4m`, `.gif`, `.png` or `.apng`, `.webp`, `.tif`; `-` is Y4M on standard output, and a path
    /// without an extension, or with a pattern such as `%06d.png`, is a folder of PNG files.
    ///
    /// Frames of one channel are written as they are: a class map in Y4M is the plane of a mono film. Folders and TIFFs hold 16 bits
    /// of gray, the others 8. The file has its name from the start, so that a film that is cut short has the frames before; but where
    /// there is a file of that name, that stays until the new one is complete.
    ///
    /// # Errors
    /// If the format is none of these, or the system refuses.
    pub fn create(path: impl AsRef<Path>, rate: Option<FrameRate>, options: &FilmOptions) -> Result<Self> {
        let path = path.as_ref();
        Ok(Self::new(path, create(path, rate.unwrap_or_default(), options)?))
    }

    /// Creates a writer of your own format; `name` is for error messages.
    pub fn new(name: impl Into<PathBuf>, sink: Box<dyn FrameSink>) -> Self {
        Self { sink, name: name.into(), size: None, frames: 0 }
    }

    /// Writes the next frame.
    ///
    /// # Errors
    /// [`DataError::Frame`] if it is of another size than the first, or the format cannot hold it; [`DataError::Io`].
    pub fn write(&mut self, frame: &DynamicImage) -> Result<()> {
        let size: Size = frame.dimensions().into();
        if size != *self.size.get_or_insert(size) || size.pixels() == 0 {
            let reason = format!("{size} pixels is empty or not the size of the first frame");
            return Err(frame_error(&self.name, self.frames, reason));
        }
        let (name, number, sink) = (&self.name, self.frames, &mut self.sink);
        guarded(name, number, || sink.write_frame(frame))?;
        self.frames += 1;
        Ok(())
    }

    /// Ends the film.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn finish(self) -> Result<()> {
        self.sink.finish()
    }
}

fn frame_error(film: &Path, frame: u64, reason: impl Into<String>) -> DataError {
    DataError::Frame { film: film.into(), frame, reason: reason.into() }
}

/// Adds the film and the frame to an error.
fn at_frame(film: &Path, frame: u64, error: DataError) -> DataError {
    match error {
        DataError::Frame { .. } => error,
        DataError::Decode { path, format, reason } if path == film => {
            frame_error(film, frame, format!("cannot be decoded as {format}: {reason}"))
        }
        // The error of a file in a folder.
        other => frame_error(film, frame, other.to_string()),
    }
}

fn guarded<T>(film: &Path, frame: u64, run: impl FnOnce() -> Result<T>) -> Result<T> {
    codecs::guarded(run, || frame_error(film, frame, "the codec panicked"))
}

/// True for `-`: standard input or output.
fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn open(path: &Path, options: &FilmOptions) -> Result<Box<dyn FrameSource>> {
    if is_stream(path) {
        return Ok(Box::new(y4m::Reader::new(BufReader::new(std::io::stdin()), path, options)?));
    }
    if folder::Pattern::of(path).is_some() || path.is_dir() {
        return Ok(Box::new(folder::Source::new(path, options.decode)?));
    }
    let io = |source| DataError::io("read", path, source);
    // Asked before the file is opened: to open a pipe would wait for a writer.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(DataError::NotAFile { path: path.into() });
    }
    let mut first = Vec::new();
    File::open(path).and_then(|file| file.take(64).read_to_end(&mut first)).map_err(io)?;
    let file = || File::open(path).map(BufReader::new).map_err(io);
    if first.is_empty() {
        return Err(DataError::EmptyFile { path: path.into() });
    }
    if first.starts_with(b"YUV4MPEG2") {
        return Ok(Box::new(y4m::Reader::new(file()?, path, options)?));
    }
    // BigTIFF, which `image` does not know.
    let is_big_tiff = first.starts_with(b"II+\0") || first.starts_with(b"MM\0+");
    match image::guess_format(&first) {
        _ if is_big_tiff => Ok(Box::new(stack::Source::new(file()?, path, options.decode)?)),
        Ok(format @ (ImageFormat::Gif | ImageFormat::Png | ImageFormat::WebP)) => {
            animation::open(file()?, path, format, options.decode)
        }
        Ok(ImageFormat::Tiff) => Ok(Box::new(stack::Source::new(file()?, path, options.decode)?)),
        // An image is a film of one frame.
        Ok(ImageFormat::Jpeg | ImageFormat::Bmp) => Ok(Box::new(folder::Source::one(path, options.decode))),
        _ => {
            let cure = "is no film that can be read: folders, Y4M, GIF, APNG, WebP and TIFF are; for others run `ffmpeg -i FILE -f \
                        yuv4mpegpipe -` and read its output as `-`";
            Err(DataError::Film { film: path.into(), reason: cure.into() })
        }
    }
}

fn create(path: &Path, rate: FrameRate, options: &FilmOptions) -> Result<Box<dyn FrameSink>> {
    if is_stream(path) {
        return Ok(Box::new(y4m::Writer::new(std::io::stdout(), path, rate, options)));
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    let is_folder = folder::Pattern::of(path).is_some() || extension.is_none() || path.is_dir();
    if is_folder {
        return Ok(Box::new(folder::Sink::new(path)?));
    }
    let io = |source| DataError::io("write", path, source);
    let mut replacement = None;
    let mut file = || -> Result<File> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        match path.is_file() {
            true => replacement.insert(WholeFile::create(path)?).handle(),
            false => File::create(path).map_err(io),
        }
    };
    let sink: Box<dyn FrameSink> = match extension.as_deref() {
        Some("y4m") => Box::new(y4m::Writer::new(file()?, path, rate, options)),
        Some("gif") => Box::new(animation::GifSink::new(file()?, path, rate)?),
        Some("png" | "apng") => Box::new(animated::ApngSink::new(file()?, path, rate)),
        Some("webp") => Box::new(animated::WebPSink::new(file()?, path, rate)),
        Some("tif" | "tiff") => Box::new(stack::Sink::new(file()?, path)?),
        _ => {
            let cure = "has the extension of no film that can be written: .y4m, .gif, .png (APNG), .webp and .tif are, and folders; for others write `-` \
                        and pipe it to `ffmpeg -i - FILE`";
            return Err(DataError::Film { film: path.into(), reason: cure.into() });
        }
    };
    Ok(match replacement {
        Some(file) => Box::new(Replacing { sink, file, is_empty: true }),
        None => sink,
    })
}

/// A film that replaces another when it is complete.
struct Replacing {
    sink: Box<dyn FrameSink>,
    file: WholeFile,
    is_empty: bool,
}

impl FrameSink for Replacing {
    fn write_frame(&mut self, frame: &DynamicImage) -> Result<()> {
        self.sink.write_frame(frame)?;
        self.is_empty = false;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.sink.finish()?;
        // A film that failed at its first frame is no reason to lose the one before.
        if self.is_empty { Ok(()) } else { self.file.finish() }
    }
}

#[cfg(test)]
mod tests;
