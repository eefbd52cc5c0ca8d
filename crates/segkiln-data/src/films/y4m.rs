//! YUV4MPEG2: raw frames behind a line of text, which ffmpeg writes with `-f yuv4mpegpipe`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use image::{DynamicImage, GrayImage, ImageBuffer, RgbImage};
use y4m::{Colorspace, Error, Ratio, VendorExtensionString};

use segkiln_core::Size;

use super::{
    FilmOptions, FrameRate, FrameSink, FrameSource, Matrix,
    color::{Coding, Grid},
    frame_error, is_stream,
};
use crate::{DataError, Result};

/// Counts what is read, which tells a film's end from a truncated frame.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A film that is read.
pub(super) struct Reader<R: Read> {
    decoder: y4m::Decoder<Counted<BufReader<R>>>,
    bytes: Arc<AtomicU64>,
    name: PathBuf,
    frames: u64,
    coding: Coding,
    /// Chroma siting, horizontal and vertical; none in a mono film.
    grids: Option<[Grid; 2]>,
    size: Size,
}

impl<R: Read> Reader<R> {
    pub fn new(mut reader: BufReader<R>, name: &Path, options: &FilmOptions) -> Result<Self> {
        let refuse = |reason: String| DataError::Film { film: name.into(), reason };
        let start = reader.fill_buf().map_err(|source| DataError::io("read", name, source))?;
        if start.is_empty() {
            return Err(DataError::EmptyFile { path: name.into() });
        }
        let known = start.len().min(9);
        if start[..known] != b"YUV4MPEG2"[..known] {
            return Err(refuse("is no Y4M; ffmpeg writes it with `-f yuv4mpegpipe -`".into()));
        }
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Counted { inner: reader, bytes: bytes.clone() };
        let limits = y4m::Limits { bytes: options.decode.limits.max_usize() };
        let decoder = y4m::Decoder::new_with_limits(counted, limits).map_err(|error| {
            refuse(match error {
                Error::EOF => "ends within its header".into(),
                Error::UnknownColorspace => {
                    "has another color space than mono, 4:2:0, 4:2:2 and 4:4:4 in 8, 10 or 12 bits; give ffmpeg `-pix_fmt yuv420p`"
                        .into()
                }
                Error::OutOfMemory => {
                    format!("has frames of more than the limit of {} bytes; raise `Limits`", options.decode.limits.max_bytes)
                }
                Error::IoError(error) => format!("cannot be read: {error}"),
                _ => "has a damaged header: W and H must be numbers of at least 1, F two numbers".into(),
            })
        })?;
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let [width, height] = [side(decoder.get_width()), side(decoder.get_height())];
        options.decode.limits.check(name, width, height, 12)?;
        let space = decoder.get_colorspace();
        let bits = decoder.get_bit_depth() as u32;
        let is_mono = matches!(space, Colorspace::Cmono | Colorspace::Cmono12);
        // ffmpeg's defaults where the header does not say: the full range for gray, the limited one for colors.
        let is_full = range(decoder.get_raw_params()).unwrap_or(is_mono);
        let matrix = options.matrix.unwrap_or_else(|| Matrix::of_size(width, height));
        let grids = grids(space);
        if grids.is_some_and(|[_, vertical]| vertical.step == 2) && (width % 2 == 1 || height % 2 == 1) {
            return Err(refuse(format!(
                "has frames of {width}x{height} pixels, and 4:2:0 needs even sides; give ffmpeg `-pix_fmt yuv444p`"
            )));
        }
        let size = Size { width, height };
        Ok(Self { decoder, bytes, name: name.into(), frames: 0, coding: Coding { matrix, is_full, bits }, grids, size })
    }
}

/// Range of the samples by the header: true for full, false for limited, none where it does not say.
fn range(params: &[u8]) -> Option<bool> {
    let value = params.split(|byte| *byte == b' ').find_map(|param| param.strip_prefix(b"XCOLORRANGE="))?;
    match value {
        b"FULL" => Some(true),
        b"LIMITED" => Some(false),
        _ => None,
    }
}

/// Chroma siting, as ffmpeg reads the names: plain 4:2:0 is JPEG's; depths above 8 bits are MPEG-2's.
fn grids(space: Colorspace) -> Option<[Grid; 2]> {
    Some(match space {
        Colorspace::Cmono | Colorspace::Cmono12 => return None,
        Colorspace::C420 | Colorspace::C420jpeg => [Grid::CENTERED, Grid::CENTERED],
        Colorspace::C420paldv => [Grid::COSITED, Grid::COSITED],
        Colorspace::C420mpeg2 | Colorspace::C420p10 | Colorspace::C420p12 => [Grid::COSITED, Grid::CENTERED],
        Colorspace::C422 | Colorspace::C422p10 | Colorspace::C422p12 => [Grid::COSITED, Grid::SAME],
        _ => [Grid::SAME, Grid::SAME],
    })
}

impl<R: Read> FrameSource for Reader<R> {
    fn rate(&self) -> Option<FrameRate> {
        let Ratio { num, den } = self.decoder.get_framerate();
        let [numerator, denominator] = [u32::try_from(num).ok()?, u32::try_from(den).ok()?];
        (numerator > 0 && denominator > 0).then_some(FrameRate { numerator, denominator })
    }

    fn next_frame(&mut self) -> Result<Option<DynamicImage>> {
        let start = self.bytes.load(Ordering::Relaxed);
        let frame = match self.decoder.read_frame() {
            Ok(frame) => frame,
            Err(Error::EOF) if self.bytes.load(Ordering::Relaxed) == start => return Ok(None),
            Err(error) => {
                let reason = match error {
                    Error::EOF => "the film ends within the frame".into(),
                    Error::IoError(error) => format!("cannot be read: {error}"),
                    _ => "no frame begins where one should; the header lies about the size, or the film is damaged"
                        .into(),
                };
                return Err(frame_error(&self.name, self.frames, reason));
            }
        };
        self.frames += 1;
        let planes = [frame.get_y_plane(), frame.get_u_plane(), frame.get_v_plane()];
        let (Size { width, height }, coding, grids) = (self.size, self.coding, self.grids);
        let planes = Planes { planes, width: width as usize, height: height as usize, coding };
        let image = match (coding.bits, grids) {
            (8, None) => GrayImage::from_raw(width, height, planes.gray(byte)).map(DynamicImage::from),
            (8, Some(grids)) => RgbImage::from_raw(width, height, planes.rgb(grids, byte)).map(DynamicImage::from),
            (_, None) => ImageBuffer::from_raw(width, height, planes.gray(word)).map(DynamicImage::ImageLuma16),
            (_, Some(grids)) => {
                ImageBuffer::from_raw(width, height, planes.rgb(grids, word)).map(DynamicImage::ImageRgb16)
            }
        };
        Ok(Some(image.expect("the conversion gives width * height pixels")))
    }
}

fn byte(value: f32) -> u8 {
    (255.0 * value).round() as u8
}

fn word(value: f32) -> u16 {
    (65_535.0 * value).round() as u16
}

/// The planes of a frame, of one byte a sample, or two (little-endian) above 8 bits.
struct Planes<'a> {
    planes: [&'a [u8]; 3],
    width: usize,
    height: usize,
    coding: Coding,
}

impl Planes<'_> {
    /// Samples of a row of a plane.
    fn row(&self, plane: usize, row: usize, width: usize, out: &mut Vec<f32>) {
        out.clear();
        let plane = self.planes[plane];
        if self.coding.bits == 8 {
            out.extend(plane[row * width..][..width].iter().map(|value| f32::from(*value)));
        } else {
            let (samples, _) = plane[2 * row * width..][..2 * width].as_chunks::<2>();
            out.extend(samples.iter().map(|value| f32::from(u16::from_le_bytes(*value))));
        }
    }

    fn gray<T>(&self, value: impl Fn(f32) -> T) -> Vec<T> {
        let mut luma = Vec::with_capacity(self.width);
        let mut out = Vec::with_capacity(self.width * self.height);
        for y in 0..self.height {
            self.row(0, y, self.width, &mut luma);
            out.extend(self.coding.gray(&luma).map(&value));
        }
        out
    }

    fn rgb<T>(&self, [horizontal, vertical]: [Grid; 2], value: impl Fn(f32) -> T) -> Vec<T> {
        let [columns, rows] = [horizontal.samples(self.width), vertical.samples(self.height)];
        let beside: Vec<(usize, usize, f32)> = (0..self.width).map(|x| horizontal.neighbors(x, columns)).collect();
        let (mut luma, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
        let mut chroma = [vec![0.0; self.width], vec![0.0; self.width]];
        let mut out = Vec::with_capacity(3 * self.width * self.height);
        for y in 0..self.height {
            self.row(0, y, self.width, &mut luma);
            let (above, below, weight) = vertical.neighbors(y, rows);
            for (plane, chroma) in chroma.iter_mut().enumerate() {
                self.row(plane + 1, above, columns, &mut first);
                if weight > 0.0 {
                    self.row(plane + 1, below, columns, &mut second);
                    first.iter_mut().zip(&second).for_each(|(first, second)| *first += weight * (second - *first));
                }
                for (chroma, (left, right, weight)) in chroma.iter_mut().zip(&beside) {
                    *chroma = first[*left] + weight * (first[*right] - first[*left]);
                }
            }
            self.coding.rgb(&luma, [&chroma[0], &chroma[1]], |rgb| out.extend(rgb.map(&value)));
        }
        out
    }
}

/// A film that is written: 4:4:4 of the limited range, so that no color is lost between pixels; gray frames as mono.
pub(super) struct Writer<W: Write> {
    state: State<W>,
    name: PathBuf,
    rate: FrameRate,
    matrix: Option<Matrix>,
    frames: u64,
}

/// The header needs the first frame's size and channels.
enum State<W: Write> {
    Waiting(W),
    Open { encoder: y4m::Encoder<W>, is_mono: bool, coding: Coding },
    Failed,
}

impl<W: Write> Writer<W> {
    /// Frames are handed to `writer` whole, so it needs no buffer.
    pub fn new(writer: W, name: &Path, rate: FrameRate, options: &FilmOptions) -> Self {
        Self { state: State::Waiting(writer), name: name.into(), rate, matrix: options.matrix, frames: 0 }
    }

    fn open(&self, writer: W, frame: &DynamicImage) -> Result<State<W>> {
        let (width, height, is_mono) = (frame.width(), frame.height(), !frame.color().has_color());
        let matrix = self.matrix.unwrap_or_else(|| Matrix::of_size(width, height));
        let rate = Ratio::new(self.rate.numerator as usize, self.rate.denominator as usize);
        let range: &[u8] = if is_mono { b"COLORRANGE=FULL" } else { b"COLORRANGE=LIMITED" };
        let encoder = y4m::encode(width as usize, height as usize, rate)
            .with_colorspace(if is_mono { Colorspace::Cmono } else { Colorspace::C444 })
            .append_vendor_extension(VendorExtensionString::new(range.to_vec()).expect("it holds no space"))
            .write_header(writer)
            .map_err(|error| write_error(&self.name, error))?;
        Ok(State::Open { encoder, is_mono, coding: Coding { matrix, is_full: is_mono, bits: 8 } })
    }
}

fn write_error(film: &Path, error: Error) -> DataError {
    let source = match error {
        Error::IoError(error) => error,
        other => std::io::Error::other(other),
    };
    DataError::io("write", film, source)
}

impl<W: Write + Send> FrameSink for Writer<W> {
    fn write_frame(&mut self, frame: &DynamicImage) -> Result<()> {
        self.state = match std::mem::replace(&mut self.state, State::Failed) {
            State::Waiting(writer) => self.open(writer, frame)?,
            other => other,
        };
        let State::Open { encoder, is_mono, coding } = &mut self.state else {
            return Err(frame_error(&self.name, self.frames, "the film could not be begun"));
        };
        let written = if *is_mono {
            let DynamicImage::ImageLuma8(gray) = frame else {
                let reason = "mono Y4M holds 8 bits a pixel and one channel; write a folder or a TIFF";
                return Err(frame_error(&self.name, self.frames, reason));
            };
            encoder.write_frame(&y4m::Frame::new([gray.as_raw(), &[], &[]], None))
        } else {
            let rgb = frame.to_rgb8();
            let pixels = rgb.as_raw().as_chunks::<3>().0;
            let mut planes = [(); 3].map(|()| Vec::with_capacity(pixels.len()));
            for pixel in pixels {
                planes.iter_mut().zip(coding.ycbcr(*pixel)).for_each(|(plane, value)| plane.push(value));
            }
            encoder.write_frame(&y4m::Frame::new([&planes[0], &planes[1], &planes[2]], None))
        };
        written.map_err(|error| write_error(&self.name, error))?;
        self.frames += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        // Standard output keeps what follows the last line break.
        match is_stream(&self.name) {
            true => std::io::stdout().flush().map_err(|source| DataError::io("write", &self.name, source)),
            false => Ok(()),
        }
    }
}
