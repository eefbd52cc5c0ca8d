//! NIfTI-1 and NIfTI-2. (The crate `nifti` has only version 1, and no bound on what a header may ask for.)

mod header;

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};

use self::header::{Kind, Order};
use super::{LabelVolume, Volume};
use crate::{DataError, Limits, Result, write_whole};

pub use self::header::NiftiHeader;

/// Largest header extension that is carried over.
const MOST_EXTENSION: u64 = 64 << 20;

/// Reads the values of a NIfTI file (`.nii`, `.nii.gz`, or one of a pair of `.hdr` and `.img`), scaled as its header says.
///
/// The place of the voxels is that of nibabel's `affine`: of the sform where its code is above 0, else of the qform, else of the
/// spacing alone. Lengths in meters and micrometers become millimeters. Dimensions behind the third, and red, green and blue,
/// are channels.
///
/// # Errors
/// If the file cannot be read, is damaged, truncated or larger than the limits, has complex values or floats that are not
/// finite, or an affine that is singular; each names the field of the header.
///
/// ```
/// use segkiln_data::{Limits, volumes::read_nifti};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/volumes/float32.nii.gz");
///
/// let (volume, header) = read_nifti(path, &Limits::default())?;
/// assert_eq!((header.version(), volume.geometry().size()), (1, [4, 6, 5]));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
pub fn read_nifti(path: impl AsRef<Path>, limits: &Limits) -> Result<(Volume, NiftiHeader)> {
    let source = Source::open(path.as_ref(), limits)?;
    let (path, scale) = (source.path.clone(), source.header.scale.unwrap_or((1.0, 0.0)));
    let (values, header) = source.read(|value| (value * scale.0 + scale.1) as f32)?;
    let geometry = header.geometry.clone();
    let (voxels, samples) = (geometry.voxels(), header.kind.samples());
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let voxel = at / samples % voxels;
        let [_, height, width] = geometry.size();
        let place = format!("voxel (x {}, y {}, z {})", voxel % width, voxel / width % height, voxel / width / height);
        let reason = format!("{} is no number to learn from; replace such voxels", values[at]);
        return Err(DataError::volume(&path, place, reason));
    }
    let values = match samples {
        1 => values,
        // Red, green and blue lie side by side.
        n => values
            .chunks_exact(voxels * n)
            .flat_map(|volume| (0..n).flat_map(|channel| volume.iter().skip(channel).step_by(n).copied()))
            .collect(),
    };
    Ok((Volume::new(geometry, header.volumes * samples, values)?, header))
}

/// Reads the labels of a NIfTI file. Whole numbers that are stored as floats, or scaled, are labels too.
///
/// # Errors
/// The errors of [`read_nifti`], and if there is more than one volume, or a value that is no whole number from 0 to 2^32 - 1.
pub fn read_nifti_labels(path: impl AsRef<Path>, limits: &Limits) -> Result<(LabelVolume, NiftiHeader)> {
    /// Scaled by a factor of 32 bits, whole numbers are not quite whole.
    const TOLERANCE: f64 = 1e-3;
    let source = Source::open(path.as_ref(), limits)?;
    let path = source.path.clone();
    if source.header.volumes != 1 || source.header.kind.samples() != 1 {
        let reason = "labels have one volume of one value a voxel; choose one of those in the file";
        return Err(DataError::volume(&path, "dim", reason));
    }
    let (slope, inter) = source.header.scale.unwrap_or((1.0, 0.0));
    let mut wrong = None;
    let (labels, header) = source.read(|stored| {
        let value = stored * slope + inter;
        let whole = value.round();
        // NaN is no label either.
        if !((value - whole).abs() <= TOLERANCE && (0.0..=f64::from(u32::MAX)).contains(&whole)) {
            wrong.get_or_insert(value);
        }
        whole as u32
    })?;
    if let Some(value) = wrong {
        let reason = format!("{value} is no label; labels are whole numbers from 0 on; is this the image?");
        return Err(DataError::volume(&path, "labels", reason));
    }
    Ok((LabelVolume::new(header.geometry.clone(), labels)?, header))
}

/// Writes values as 32-bit floats, as `.nii` or `.nii.gz` by the extension. The file appears under its name only when it is
/// complete.
///
/// With the header of the image that the volume was made of, all its fields are carried over bit by bit, in its byte order, but
/// those of the type, and of the grid where this is another one. Without, the header is NIfTI-1's (NIfTI-2's where a dimension is
/// over 32,767) with the affine as the sform.
///
/// # Errors
/// If the extension is another one, a dimension does not fit the header's version, or the file cannot be written.
pub fn write_nifti(path: impl AsRef<Path>, volume: &Volume, header: Option<&NiftiHeader>) -> Result<()> {
    let path = path.as_ref();
    let mut header = header_for(volume.geometry(), volume.channels(), header);
    header
        .put_size(volume.geometry().size(), volume.channels())
        .map_err(|reason| DataError::Encode { path: path.into(), reason })?;
    header.put_kind(Kind::F32);
    let order = header.order;
    let bytes = volume.as_slice().iter().map(|value| match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    });
    write(path, header, bytes)
}

/// Writes labels in the fewest of 8, 16 or 32 bits, as [`write_nifti`] does. Of the header also the calibration and the intent
/// are not carried over, which are the image's.
///
/// # Errors
/// The errors of [`write_nifti`].
pub fn write_nifti_labels(path: impl AsRef<Path>, labels: &LabelVolume, header: Option<&NiftiHeader>) -> Result<()> {
    let path = path.as_ref();
    let mut header = header_for(labels.geometry(), 1, header);
    header.put_size(labels.geometry().size(), 1).map_err(|reason| DataError::Encode { path: path.into(), reason })?;
    header.clear_meaning();
    let (all, order) = (labels.as_slice(), header.order);
    match all.iter().copied().max().unwrap_or_default() {
        0..=0xFF => {
            header.put_kind(Kind::U8);
            write(path, header, all.iter().map(|label| [*label as u8]))
        }
        0x100..=0xFFFF => {
            header.put_kind(Kind::U16);
            let bytes = |label: &u32| match order {
                Order::Little => (*label as u16).to_le_bytes(),
                Order::Big => (*label as u16).to_be_bytes(),
            };
            write(path, header, all.iter().map(bytes))
        }
        _ => {
            header.put_kind(Kind::U32);
            let bytes = |label: &u32| match order {
                Order::Little => label.to_le_bytes(),
                Order::Big => label.to_be_bytes(),
            };
            write(path, header, all.iter().map(bytes))
        }
    }
}

fn header_for(geometry: &super::Geometry, volumes: usize, header: Option<&NiftiHeader>) -> NiftiHeader {
    match header {
        Some(header) if header.geometry == *geometry => header.clone(),
        Some(header) => {
            let mut header = header.clone();
            header.put_place(geometry);
            header
        }
        None => NiftiHeader::new(geometry, volumes),
    }
}

fn write<const N: usize>(path: &Path, header: NiftiHeader, voxels: impl Iterator<Item = [u8; N]>) -> Result<()> {
    let refused = |reason: String| DataError::Encode { path: path.into(), reason };
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let is_packed = name.ends_with(".nii.gz");
    if !is_packed && !name.ends_with(".nii") {
        return Err(refused("volumes are written as .nii or .nii.gz; give it such a name".into()));
    }
    let mut bytes = header.bytes;
    bytes.extend_from_slice(&header.extension);
    bytes.extend(voxels.flatten());
    if is_packed {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&bytes).map_err(|source| DataError::io("compress", path, source))?;
        bytes = packed.finish().map_err(|source| DataError::io("compress", path, source))?;
    }
    write_whole(path, &bytes).map_err(|source| DataError::io("write", path, source))
}

/// A file whose header has been read, at the first voxel.
struct Source {
    path: PathBuf,
    header: NiftiHeader,
    bytes: Bytes,
}

impl Source {
    fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let pair = Pair::of(path)?;
        let mut bytes = Bytes::open(&pair.header, limits)?;
        let mut size = [0; 4];
        bytes.fill(&mut size)?;
        let layout = NiftiHeader::layout(size).ok_or_else(|| {
            let reason = format!("it begins with {}, which no header of NIfTI does", size.escape_ascii());
            DataError::Decode { path: pair.header.clone(), format: "NIfTI", reason }
        })?;
        let mut raw = vec![0; layout.0.length];
        raw[..4].copy_from_slice(&size);
        bytes.fill(&mut raw[4..])?;
        let mut header = NiftiHeader::parse(&pair.header, raw, layout, pair.voxels.is_none(), limits)?;
        match pair.voxels {
            None => {
                header.extension = bytes.part(header.offset - header.bytes.len() as u64)?;
                Ok(Self { path: pair.header, header, bytes })
            }
            Some(path) => {
                (&mut bytes.reader)
                    .take(MOST_EXTENSION)
                    .read_to_end(&mut header.extension)
                    .map_err(|e| bytes.error(e))?;
                let mut bytes = Bytes::open(&path, limits)?;
                bytes.part(header.offset)?;
                Ok(Self { path, header, bytes })
            }
        }
    }

    /// Reads all values in the order of the file.
    fn read<T>(mut self, mut convert: impl FnMut(f64) -> T) -> Result<(Vec<T>, NiftiHeader)> {
        let kind = self.header.kind;
        let count = self.header.geometry.voxels() * self.header.volumes * kind.samples();
        // A file that cannot hold so many is not given the memory for them: deflate packs at most 1032 to 1.
        let held = self.bytes.length.saturating_mul(if self.bytes.is_packed { 1032 } else { 1 });
        let mut values = Vec::with_capacity(count.min((held / kind.bytes() as u64) as usize));
        let mut chunk = vec![0; 1 << 16];
        let mut left = count * kind.bytes();
        while left > 0 {
            let part = left.min(chunk.len());
            self.bytes.fill(&mut chunk[..part])?;
            kind.each(self.header.order, &chunk[..part], |value| values.push(convert(value)));
            left -= part;
        }
        self.bytes.finish()?;
        Ok((values, self.header))
    }
}

/// The files of a volume: one, or a header and its voxels.
struct Pair {
    header: PathBuf,
    voxels: Option<PathBuf>,
}

impl Pair {
    fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        let (stem, packed) = lower.strip_suffix(".gz").map_or((lower.as_str(), ""), |stem| (stem, ".gz"));
        let other = |from: &str, to: &str| {
            let stem = &name[..stem.len() - from.len()];
            let found = [packed, "", ".gz"].map(|packed| path.with_file_name(format!("{stem}{to}{packed}")));
            let first = found[0].clone();
            found.into_iter().find(|path| path.is_file()).unwrap_or(first)
        };
        match Path::new(stem).extension().and_then(|extension| extension.to_str()) {
            Some("nii") => Ok(Self { header: path.into(), voxels: None }),
            Some("hdr") => Ok(Self { header: path.into(), voxels: Some(other(".hdr", ".img")) }),
            Some("img") => Ok(Self { header: other(".img", ".hdr"), voxels: Some(path.into()) }),
            _ => Err(DataError::Decode {
                path: path.into(),
                format: "NIfTI",
                reason: "its extension is none of nii, nii.gz, hdr and img".into(),
            }),
        }
    }
}

/// The bytes of a file, unpacked where it is gzip.
struct Bytes {
    path: PathBuf,
    reader: Box<dyn Read>,
    is_packed: bool,
    /// Bytes on disk.
    length: u64,
    /// Bytes read so far.
    done: u64,
}

impl Bytes {
    fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let io = |source| DataError::io("read", path, source);
        // Asked before the file is opened: to open a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(DataError::NotAFile { path: path.into() });
        }
        let (length, most) = (meta.len(), limits.max_bytes);
        if length == 0 {
            return Err(DataError::EmptyFile { path: path.into() });
        }
        if length > most {
            return Err(DataError::FileSize { path: path.into(), bytes: length, most });
        }
        let mut file = File::open(path).map_err(io)?;
        let mut first = Vec::new();
        (&mut file).take(2).read_to_end(&mut first).map_err(io)?;
        let is_packed = first == [0x1F, 0x8B];
        let file = BufReader::with_capacity(1 << 16, std::io::Cursor::new(first).chain(file));
        let reader: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        Ok(Self { path: path.into(), reader, is_packed, length, done: 0 })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.reader.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                let reason =
                    format!("it ends before byte {} of its content, is it truncated?", self.done + buffer.len() as u64);
                DataError::Decode { path: self.path.clone(), format: "NIfTI", reason }
            }
            _ => self.error(error),
        })?;
        self.done += buffer.len() as u64;
        Ok(())
    }

    /// The next bytes, of which there may be few however many are asked for.
    fn part(&mut self, bytes: u64) -> Result<Vec<u8>> {
        if bytes > MOST_EXTENSION {
            let reason = format!("{bytes} bytes before the voxels are over the limit of {MOST_EXTENSION}");
            return Err(DataError::volume(&self.path, "vox_offset", reason));
        }
        let mut part = Vec::new();
        (&mut self.reader).take(bytes).read_to_end(&mut part).map_err(|error| self.error(error))?;
        if (part.len() as u64) < bytes {
            let reason = format!("it ends before its voxels, which begin at byte {}", self.done + bytes);
            return Err(DataError::Decode { path: self.path.clone(), format: "NIfTI", reason });
        }
        self.done += bytes;
        Ok(part)
    }

    /// Reads on to the checksum of gzip. What follows the voxels is no part of the volume, and not much is looked at.
    fn finish(&mut self) -> Result<()> {
        if self.is_packed {
            std::io::copy(&mut (&mut self.reader).take(1 << 20), &mut std::io::sink())
                .map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    fn error(&self, error: std::io::Error) -> DataError {
        match error.kind() {
            ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof if self.is_packed => {
                let reason = format!("its gzip is damaged: {error}");
                DataError::Decode { path: self.path.clone(), format: "NIfTI", reason }
            }
            _ => DataError::io("read", &self.path, error),
        }
    }
}

/// Recognizes NIfTI files by their names: `.nii`, `.hdr` or `.img`, each with or without `.gz`.
pub fn is_nifti(path: &Path) -> bool {
    Pair::of(path).is_ok()
}
