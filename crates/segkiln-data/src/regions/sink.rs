//! Tiled, compressed (Big)TIFFs that are written as rows become complete.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use rayon::prelude::*;

use super::{GeoTags, TagValue};
use crate::{DataError, Result};

/// Numbers of a picture that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleType {
    /// Labels of 0 to 255.
    U8,
    /// Labels of 0 to 65,535.
    U16,
    /// Labels of 0 to 2³² - 1.
    U32,
    /// Probabilities.
    F32,
}

impl SampleType {
    fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 | Self::F32 => 4,
        }
    }

    /// Bits, and 1 for unsigned integers or 3 for floats.
    fn format(self) -> [u16; 2] {
        match self {
            Self::U8 => [8, 1],
            Self::U16 => [16, 1],
            Self::U32 => [32, 1],
            Self::F32 => [32, 3],
        }
    }
}

/// Size, numbers and place of the picture that a [`TiffSink`] writes.
#[derive(Debug, Clone, PartialEq)]
pub struct TiffSinkOptions {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Values of a pixel.
    pub bands: u16,
    /// Numbers.
    pub samples: SampleType,
    /// Tags that say where the picture lies.
    pub geo: GeoTags,
    /// Inputs that the picture is made of, in words: a sink that was interrupted is gone on with only if this is the same. None: it
    /// begins anew.
    pub identity: Option<String>,
}

/// First word of a journal.
const MAGIC: &str = "segkiln-tiff-1";

/// Types of values in a directory.
const ASCII: u16 = 2;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const RATIONAL: u16 = 5;
const DOUBLE: u16 = 12;
const LONG8: u16 = 16;

/// Side of a tile.
const TILE: usize = 256;
/// Pictures of this many bytes and more are BigTIFFs, however well they are compressed.
const BIG: u128 = 2 << 30;

/// A tiled TIFF, compressed by deflate, or a BigTIFF where the picture has 2 GiB and more, with overviews of half the size each.
///
/// Rows are given from the top, any number at a time. They stand in a file of another name, `NAME.part`, until
/// [`finish`](Self::finish) renames it; `NAME.part.journal` says which rows it has, so that [`create`](Self::create) goes on where a
/// process was killed. Labels are reduced to the most frequent of four in the overviews, probabilities to their mean.
///
/// A row of tiles is held in memory, and the table of tiles, 12 bytes each.
#[derive(Debug)]
pub struct TiffSink {
    path: PathBuf,
    options: TiffSinkOptions,
    file: File,
    journal: File,
    /// Bytes of the file.
    end: u64,
    /// Offset and bytes of each tile.
    tiles: Vec<(u64, u32)>,
    /// Rows of the row of tiles that is not complete.
    rows: Vec<u8>,
    written: u32,
}

/// A resolution of the picture in the file.
struct Layer {
    size: [u32; 2],
    tiles: Vec<(u64, u32)>,
}

impl Layer {
    fn across(&self) -> usize {
        (self.size[0] as usize).div_ceil(TILE)
    }
}

impl TiffSink {
    /// Begins a file, or goes on with what a process that was killed left of it; [`rows_written`](Self::rows_written) says how many
    /// rows there are.
    ///
    /// # Errors
    /// [`DataError::Encode`] if the picture has no pixels, [`DataError::Io`] if the file cannot be written.
    pub fn create(path: impl AsRef<Path>, options: TiffSinkOptions) -> Result<Self> {
        let path = path.as_ref();
        if options.width == 0 || options.height == 0 || options.bands == 0 {
            return Err(DataError::Encode { path: path.into(), reason: "the picture has no pixels".into() });
        }
        let (part, journal_path) = names(path);
        let is_ours = fs::read(&journal_path).is_ok_and(|journal| journal.starts_with(MAGIC.as_bytes()));
        if let (Some(other), false) = ([&part, &journal_path].into_iter().find(|path| path.exists()), is_ours) {
            let reason = format!("{} is there and is no unfinished result; rename it", other.display());
            return Err(DataError::Encode { path: path.into(), reason });
        }
        let mut sink = Self {
            path: path.into(),
            file: open(&part)?,
            journal: open(&journal_path)?,
            options,
            end: 0,
            tiles: Vec::new(),
            rows: Vec::new(),
            written: 0,
        };
        // Left free by a process that was killed.
        if let Err(TryLockError::WouldBlock) = sink.journal.try_lock() {
            return Err(sink.refused("another process is writing it"));
        }
        if !sink.go_on(&part)? {
            sink.begin().map_err(|error| DataError::io("write", &part, error))?;
        }
        Ok(sink)
    }

    /// Rows that need not be given again; a number of whole rows of tiles, or all.
    pub fn rows_written(&self) -> u32 {
        self.written
    }

    /// The row that is to be given next.
    pub(super) fn next_row(&self) -> u32 {
        self.written + (self.rows.len() / self.row_bytes()) as u32
    }

    /// Values of a row.
    pub(super) fn row_values(&self) -> usize {
        self.options.width as usize * usize::from(self.options.bands)
    }

    pub(super) fn has_floats(&self) -> bool {
        self.options.samples == SampleType::F32
    }

    /// First line of the journal.
    fn header(&self) -> String {
        let TiffSinkOptions { width, height, bands, samples, geo, identity } = &self.options;
        format!("{MAGIC} {width} {height} {bands} {samples:?} {geo:?} {identity:?}\n")
    }

    fn begin(&mut self) -> io::Result<()> {
        self.journal.set_len(0)?;
        self.journal.rewind()?;
        let header = self.header();
        self.journal.write_all(header.as_bytes())?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        // The header is written when the directories are.
        self.file.write_all(&[0; 16])?;
        self.end = 16;
        (self.written, self.tiles, self.rows) = (0, Vec::new(), Vec::new());
        Ok(())
    }

    /// Reads the journal; whether what is there can be gone on with.
    fn go_on(&mut self, part: &Path) -> Result<bool> {
        if self.options.identity.is_none() {
            return Ok(false);
        }
        let header = self.header();
        let read = |error| DataError::io("read", part, error);
        let len = self.file.metadata().map_err(read)?.len();
        let mut lines = BufReader::new(&self.journal);
        let mut line = String::new();
        if lines.read_line(&mut line).is_err() || line != header {
            return Ok(false);
        }
        let (across, mut journal_len) = (self.across(), line.len() as u64);
        let mut end = 16;
        loop {
            line.clear();
            // A line without an end, or of another form, was being written when the process ended.
            if lines.read_line(&mut line).is_err() || !line.ends_with('\n') {
                break;
            }
            let bytes: Option<Vec<u32>> = line.split_whitespace().map(|bytes| bytes.parse().ok()).collect();
            let Some(bytes) = bytes.filter(|bytes| bytes.len() == across && self.written < self.options.height) else {
                break;
            };
            let next = bytes.iter().fold(end, |end, bytes| end + u64::from(*bytes));
            if next > len {
                break;
            }
            for bytes in bytes {
                self.tiles.push((end, bytes));
                end += u64::from(bytes);
            }
            self.written = self.options.height.min(self.written + TILE as u32);
            journal_len += line.len() as u64;
        }
        let cut = |file: &mut File, len: u64| file.set_len(len).and_then(|()| file.seek(SeekFrom::Start(len)));
        cut(&mut self.journal, journal_len).and_then(|_| cut(&mut self.file, end)).map_err(read)?;
        self.end = end;
        Ok(len >= 16)
    }

    fn across(&self) -> usize {
        (self.options.width as usize).div_ceil(TILE)
    }

    fn row_bytes(&self) -> usize {
        self.options.width as usize * self.pixel()
    }

    fn pixel(&self) -> usize {
        usize::from(self.options.bands) * self.options.samples.bytes()
    }

    /// Adds rows of labels, which must fit the sink's integers.
    ///
    /// # Errors
    /// [`DataError::Encode`] if a label does not fit, or the values are no whole rows or too many, [`DataError::Io`] if the disk
    /// refuses.
    pub fn push_labels(&mut self, labels: &[u32]) -> Result<()> {
        let most = match self.options.samples {
            SampleType::U8 => u32::from(u8::MAX),
            SampleType::U16 => u32::from(u16::MAX),
            SampleType::U32 => u32::MAX,
            SampleType::F32 => return Err(self.refused("it has probabilities, not labels")),
        };
        if let Some(label) = labels.iter().find(|label| **label > most) {
            return Err(self.refused(format!("label {label} does not fit its integers of up to {most}")));
        }
        let bytes = match self.options.samples {
            SampleType::U8 => labels.iter().map(|label| *label as u8).collect(),
            SampleType::U32 => labels.iter().flat_map(|label| label.to_le_bytes()).collect(),
            _ => labels.iter().flat_map(|label| (*label as u16).to_le_bytes()).collect::<Vec<u8>>(),
        };
        self.push(&bytes)
    }

    /// Adds rows of probabilities, the bands of a pixel side by side.
    ///
    /// # Errors
    /// As [`push_labels`](Self::push_labels).
    pub fn push_probabilities(&mut self, values: &[f32]) -> Result<()> {
        if self.options.samples != SampleType::F32 {
            return Err(self.refused("it has labels, not probabilities"));
        }
        self.push(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    pub(super) fn refused(&self, reason: impl Into<String>) -> DataError {
        DataError::Encode { path: self.path.clone(), reason: reason.into() }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        let row = self.row_bytes();
        let given = self.written as usize + self.rows.len() / row + bytes.len() / row;
        if !bytes.len().is_multiple_of(row) || given > self.options.height as usize {
            return Err(self.refused(format!("it has {} rows of {} pixels", self.options.height, self.options.width)));
        }
        while !bytes.is_empty() {
            let wanted = TILE.min((self.options.height - self.written) as usize) * row - self.rows.len();
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.rows.extend_from_slice(now);
            bytes = later;
            if now.len() == wanted {
                self.write_tiles()?;
            }
        }
        Ok(())
    }

    /// Writes the row of tiles that is complete.
    fn write_tiles(&mut self) -> Result<()> {
        let (across, pixel, row) = (self.across(), self.pixel(), self.row_bytes());
        let count = self.rows.len() / row;
        let compressed: io::Result<Vec<Vec<u8>>> = (0..across)
            .into_par_iter()
            .map(|column| {
                let columns = column * TILE * pixel..row.min((column + 1) * TILE * pixel);
                // Beyond the picture tiles are 0.
                let mut tile = vec![0; TILE * TILE * pixel];
                for (source, target) in self.rows.chunks_exact(row).zip(tile.chunks_exact_mut(TILE * pixel)) {
                    target[..columns.len()].copy_from_slice(&source[columns.clone()]);
                }
                deflate(&tile)
            })
            .collect();
        let (part, _) = names(&self.path);
        let failed = |error| DataError::io("write", &part, error);
        let mut line = String::new();
        for tile in compressed.map_err(failed)? {
            self.tiles.push((self.end, tile.len() as u32));
            self.file.write_all(&tile).map_err(failed)?;
            self.end += tile.len() as u64;
            line.push_str(&format!("{} ", tile.len()));
        }
        // The tiles first, so that the journal never speaks of what is not there.
        self.file.sync_data().map_err(failed)?;
        line.push('\n');
        self.journal.write_all(line.as_bytes()).and_then(|()| self.journal.sync_data()).map_err(failed)?;
        self.written += count as u32;
        self.rows.clear();
        Ok(())
    }

    /// Writes overviews and directories, and gives the file its name.
    ///
    /// # Errors
    /// [`DataError::Encode`] if rows are missing, [`DataError::Io`] if the disk refuses; what was written stays, to go on with.
    pub fn finish(mut self) -> Result<()> {
        if self.written < self.options.height {
            let given = self.written as usize + self.rows.len() / self.row_bytes();
            return Err(self.refused(format!("{given} of {} rows were given", self.options.height)));
        }
        let (part, journal) = names(&self.path);
        let failed = |error| DataError::io("write", &part, error);
        self.write_rest().map_err(failed)?;
        self.file.sync_all().map_err(failed)?;
        fs::rename(&part, &self.path).map_err(|error| DataError::io("write", &self.path, error))?;
        #[cfg(unix)]
        if let Some(folder) = self.path.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            // The name outlasts a loss of power; the file is there in any case.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        // Nothing reads it any more.
        let _ = fs::remove_file(journal);
        Ok(())
    }

    fn write_rest(&mut self) -> io::Result<()> {
        let size = [self.options.width, self.options.height];
        let mut layers = vec![Layer { size, tiles: std::mem::take(&mut self.tiles) }];
        while let Some(last) = layers.last()
            && last.size.iter().any(|side| *side as usize > TILE)
        {
            let next = self.overview(last)?;
            layers.push(next);
        }
        let values = u128::from(size[0]) * u128::from(size[1]) * self.pixel() as u128;
        // With overviews, a third more.
        let big = values >= BIG || self.end >= BIG as u64;
        let mut header = if big { vec![b'I', b'I', 43, 0, 8, 0, 0, 0] } else { vec![b'I', b'I', 42, 0] };
        let mut next = self.end.next_multiple_of(16);
        header.extend(&next.to_le_bytes()[..if big { 8 } else { 4 }]);
        for (index, layer) in layers.iter().enumerate() {
            let is_last = index + 1 == layers.len();
            let bytes = self.directory(layer, index, big, next, is_last);
            self.file.seek(SeekFrom::Start(next))?;
            self.file.write_all(&bytes)?;
            next += bytes.len() as u64;
        }
        self.file.rewind()?;
        self.file.write_all(&header)
    }

    /// The picture in half the width and height.
    fn overview(&mut self, from: &Layer) -> io::Result<Layer> {
        let mut layer = Layer { size: from.size.map(|side| side.div_ceil(2)), tiles: Vec::new() };
        let (pixel, across) = (self.pixel(), layer.across());
        for row in 0..(layer.size[1] as usize).div_ceil(TILE) {
            // The two rows of tiles that are reduced.
            let mut read: Vec<Vec<Vec<u8>>> = Vec::new();
            for source in [2 * row, 2 * row + 1] {
                let tiles = from.tiles.chunks(from.across()).nth(source).unwrap_or_default();
                let mut compressed = Vec::with_capacity(tiles.len());
                for (offset, bytes) in tiles {
                    let mut tile = vec![0; *bytes as usize];
                    self.file.seek(SeekFrom::Start(*offset))?;
                    self.file.read_exact(&mut tile)?;
                    compressed.push(tile);
                }
                read.push(compressed);
            }
            let (samples, bands) = (self.options.samples, usize::from(self.options.bands));
            let tiles: io::Result<Vec<Vec<u8>>> = (0..across)
                .into_par_iter()
                .map(|column| {
                    let mut tile = vec![0; TILE * TILE * pixel];
                    for (a, rows) in read.iter().enumerate() {
                        for b in 0..2 {
                            let Some(compressed) = rows.get(2 * column + b) else { continue };
                            let mut source = vec![0; TILE * TILE * pixel];
                            ZlibDecoder::new(&compressed[..]).read_exact(&mut source)?;
                            // How many of the source's pixels are of the picture.
                            let there = [2 * column + b, 2 * row + a].map(|index| index * TILE);
                            let there = [0, 1].map(|axis| (from.size[axis] as usize - there[axis]).min(TILE));
                            let first = (a * TILE / 2 * TILE + b * TILE / 2) * pixel;
                            reduce(&source, there, &mut tile[first..], samples, bands);
                        }
                    }
                    deflate(&tile)
                })
                .collect();
            self.file.seek(SeekFrom::Start(self.end))?;
            for tile in tiles? {
                layer.tiles.push((self.end, tile.len() as u32));
                self.file.write_all(&tile)?;
                self.end += tile.len() as u64;
            }
        }
        Ok(layer)
    }

    /// A directory that begins at `at` and, but for the last, is followed by another.
    fn directory(&self, layer: &Layer, index: usize, big: bool, at: u64, is_last: bool) -> Vec<u8> {
        let bands = usize::from(self.options.bands);
        let [bits, format] = self.options.samples.format();
        let scale = [0, 1].map(|axis| {
            let full = [self.options.width, self.options.height][axis];
            f64::from(full) / f64::from(layer.size[axis])
        });
        let mut entries: Vec<(u16, u16, Vec<u8>)> = Vec::new();
        let shorts = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let longs = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        // Reduced copies say so.
        entries.push((254, LONG, longs(&[u32::from(index > 0)])));
        entries.push((256, LONG, longs(&[layer.size[0]])));
        entries.push((257, LONG, longs(&[layer.size[1]])));
        entries.push((258, SHORT, shorts(&vec![bits; bands])));
        entries.push((259, SHORT, shorts(&[8]))); // deflate
        entries.push((262, SHORT, shorts(&[1]))); // 0 is black
        entries.push((277, SHORT, shorts(&[self.options.bands])));
        entries.push((284, SHORT, shorts(&[1]))); // bands side by side
        entries.push((322, LONG, longs(&[TILE as u32])));
        entries.push((323, LONG, longs(&[TILE as u32])));
        let offsets = layer.tiles.iter().map(|(offset, _)| *offset);
        entries.push(match big {
            true => (324, LONG8, offsets.flat_map(u64::to_le_bytes).collect()),
            false => (324, LONG, offsets.flat_map(|offset| (offset as u32).to_le_bytes()).collect()),
        });
        entries.push((325, LONG, layer.tiles.iter().flat_map(|(_, bytes)| bytes.to_le_bytes()).collect()));
        if bands > 1 {
            entries.push((338, SHORT, shorts(&vec![0; bands - 1])));
        }
        entries.push((339, SHORT, shorts(&vec![format; bands])));
        for (tag, value) in self.options.geo.scaled(scale).tags {
            entries.push(match value {
                TagValue::Ascii(text) => (tag, ASCII, text.bytes().chain([0]).collect()),
                TagValue::Shorts(values) => (tag, SHORT, shorts(&values)),
                TagValue::Rationals(values) => (tag, RATIONAL, longs(values.as_flattened())),
                TagValue::Doubles(values) => (tag, DOUBLE, values.into_iter().flat_map(f64::to_le_bytes).collect()),
            });
        }
        entries.sort_by_key(|(tag, ..)| *tag);
        let width = if big { 8 } else { 4 };
        let number = |value: u64, width: usize| value.to_le_bytes()[..width].to_vec();
        let head = if big { 8 } else { 2 };
        let fixed = head + entries.len() * (4 + 2 * width) + width;
        let mut bytes = number(entries.len() as u64, head);
        let mut values = Vec::new();
        for (tag, kind, value) in entries {
            let size = match kind {
                ASCII => 1,
                SHORT => 2,
                LONG => 4,
                _ => 8,
            };
            bytes.extend(tag.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(number((value.len() / size) as u64, width));
            if value.len() <= width {
                bytes.extend(&value);
                bytes.resize(bytes.len() + width - value.len(), 0);
            } else {
                // Values begin at multiples of 16 from the directory on.
                let start = (fixed + values.len()).next_multiple_of(16);
                values.resize(start - fixed, 0);
                bytes.extend(number(at + start as u64, width));
                values.extend(value);
            }
        }
        let whole = (fixed + values.len()).next_multiple_of(16);
        bytes.extend(number(if is_last { 0 } else { at + whole as u64 }, width));
        bytes.extend(values);
        bytes.resize(whole, 0);
        bytes
    }
}

/// Names of the file that is being written, and of its journal.
fn names(path: &Path) -> (PathBuf, PathBuf) {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    (with(".part"), with(".part.journal"))
}

fn open(path: &Path) -> Result<File> {
    let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
    options.map_err(|error| DataError::io("write", path, error))
}

fn deflate(tile: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(tile)?;
    encoder.finish()
}

/// Writes each two by two pixels of a tile, of which so many columns and rows are of the picture, as one pixel of another tile.
fn reduce(source: &[u8], [columns, rows]: [usize; 2], target: &mut [u8], samples: SampleType, bands: usize) {
    let size = samples.bytes();
    let pixel = bands * size;
    for row in 0..rows.div_ceil(2) {
        for column in 0..columns.div_ceil(2) {
            for band in 0..bands {
                let mut four = [0; 4];
                let mut count = 0;
                for (y, x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    if 2 * row + y < rows && 2 * column + x < columns {
                        four[count] = ((2 * row + y) * TILE + 2 * column + x) * pixel + band * size;
                        count += 1;
                    }
                }
                let place = (row * TILE + column) * pixel + band * size;
                let (four, target) = (&four[..count], &mut target[place..place + size]);
                let number = |at: &usize| f32::from_le_bytes(std::array::from_fn(|byte| source[*at + byte]));
                match samples {
                    SampleType::F32 => {
                        let mean = four.iter().map(number).sum::<f32>() / count as f32;
                        target.copy_from_slice(&mean.to_le_bytes());
                    }
                    SampleType::U8 | SampleType::U16 | SampleType::U32 => {
                        let label = |at: &usize| &source[*at..*at + size];
                        let times = |at: &usize| four.iter().filter(|other| label(other) == label(at)).count();
                        // Of labels as frequent as others, the first.
                        let best = four.iter().rev().max_by_key(|at| times(at));
                        target.copy_from_slice(best.map_or(&[0; 4][..size], label));
                    }
                }
            }
        }
    }
}
