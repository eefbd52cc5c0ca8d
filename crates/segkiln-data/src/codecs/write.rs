use std::{
    collections::HashSet,
    fs,
    io::{self, BufWriter, Cursor, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma};
use segkiln_core::LabelMap;

use crate::{DataError, Result};

/// Writes a label map as a gray PNG: 8 bits where the largest label fits, else 16 bits.
///
/// The file appears under its name only when it is complete.
///
/// # Errors
/// If a label is over 65,535, the map has no pixels, or the file cannot be written.
pub fn write_labels(path: impl AsRef<Path>, map: &LabelMap) -> Result<()> {
    let path = path.as_ref();
    encode(path, &labels_to_image(map, path)?, ImageFormat::Png)
}

/// The labels as gray values: 8 bits where the largest label fits, else 16 bits. `path` is for error messages.
///
/// # Errors
/// [`DataError::Encode`] if a label is over 65,535, or the map has no pixels.
pub fn labels_to_image(map: &LabelMap, path: impl AsRef<Path>) -> Result<DynamicImage> {
    let refused = |reason: String| DataError::Encode { path: path.as_ref().into(), reason };
    let (width, height) = (map.width(), map.height());
    let largest = map.max().ok_or_else(|| refused("the label map has no pixels".into()))?;
    let image = if largest <= u32::from(u8::MAX) {
        let labels = map.as_slice().iter().map(|label| *label as u8).collect();
        ImageBuffer::<Luma<u8>, _>::from_raw(width, height, labels).map(DynamicImage::from)
    } else if largest <= u32::from(u16::MAX) {
        let labels = map.as_slice().iter().map(|label| *label as u16).collect();
        ImageBuffer::<Luma<u16>, _>::from_raw(width, height, labels).map(DynamicImage::from)
    } else {
        return Err(refused(format!("label {largest} does not fit 16 bits; number the labels anew")));
    };
    Ok(image.expect("a label map holds width * height labels"))
}

/// Writes an image in the format of the file's extension.
///
/// The file appears under its name only when it is complete.
///
/// # Errors
/// If the extension is not one of [`EXTENSIONS`](crate::EXTENSIONS), the format cannot hold such an image, or the file
/// cannot be written.
pub fn write_image(path: impl AsRef<Path>, image: &DynamicImage) -> Result<()> {
    let path = path.as_ref();
    let format = ImageFormat::from_path(path).ok().filter(|format| super::format_name(*format).is_some());
    let format = format.ok_or_else(|| DataError::Encode {
        path: path.into(),
        reason: format!("its extension is none of {}", super::EXTENSIONS.join(", ")),
    })?;
    encode(path, image, format)
}

/// Refuses outputs that are one of the inputs, by whatever path: nothing that a program reads is replaced.
///
/// ```
/// use segkiln_data::refuse_replacing;
/// # let folder = tempfile::tempdir()?;
/// # let photo = folder.path().join("photo.png");
/// # std::fs::write(&photo, "")?;
///
/// assert!(refuse_replacing([&photo], [folder.path().join("map.png")]).is_ok());
/// assert!(refuse_replacing([&photo], [folder.path().join(".").join("photo.png")]).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// [`DataError::Replaces`], naming the first such output.
pub fn refuse_replacing<P: AsRef<Path>, Q: AsRef<Path>>(
    inputs: impl IntoIterator<Item = P>,
    outputs: impl IntoIterator<Item = Q>,
) -> Result<()> {
    // What is not there is no file that could be replaced.
    let known: HashSet<PathBuf> = inputs.into_iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    let replaced = outputs.into_iter().find(|path| fs::canonicalize(path).is_ok_and(|path| known.contains(&path)));
    replaced.map_or(Ok(()), |path| Err(DataError::Replaces { path: path.as_ref().into() }))
}

fn encode(path: &Path, image: &DynamicImage, format: ImageFormat) -> Result<()> {
    let mut bytes = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut bytes), format)
        .map_err(|error| DataError::Encode { path: path.into(), reason: error.to_string() })?;
    write_whole(path, &bytes).map_err(|source| DataError::io("write", path, source))
}

/// Writes beside `path` and renames, so that neither a reader nor a crash meets half a file.
///
/// # Errors
/// The system's; what was at `path` before is untouched.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = WholeFile::begin(path)?;
    file.write_all(bytes)?;
    file.end()
}

/// A file that is written under another name, and has its own when it is complete; one that is dropped before is removed.
///
/// ```
/// use std::io::Write;
///
/// use segkiln_data::WholeFile;
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("table.csv");
///
/// let mut file = WholeFile::create(&path)?;
/// file.write_all(b"name,area\n")?;
/// assert!(!path.exists());
/// file.finish()?;
/// assert!(path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    partial: PathBuf,
    /// None when it is complete.
    file: Option<BufWriter<fs::File>>,
}

impl WholeFile {
    /// Begins a file.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        Self::begin(path).map_err(|error| DataError::io("write", path, error))
    }

    fn begin(path: &Path) -> io::Result<Self> {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let partial = path.with_file_name(format!(".{}.{}.{unique}.part", name.display(), std::process::id()));
        let file = fs::File::create_new(&partial)?;
        Ok(Self { path: path.into(), partial, file: Some(BufWriter::new(file)) })
    }

    /// The name that it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Completes the file, which replaces what had its name.
    ///
    /// # Errors
    /// [`DataError::Io`]; what was there before is untouched.
    pub fn finish(self) -> Result<()> {
        let path = self.path.clone();
        self.end().map_err(|error| DataError::io("write", &path, error))
    }

    /// Another handle of the file, to write to; all that is written through it comes before [`finish`](Self::finish).
    pub(crate) fn handle(&self) -> Result<fs::File> {
        let file = self.file.as_ref().map(|file| file.get_ref().try_clone());
        file.unwrap_or(Err(io::ErrorKind::NotFound.into())).map_err(|error| DataError::io("write", &self.path, error))
    }

    fn end(mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.flush()?;
            file.get_ref().sync_all()?;
        }
        fs::rename(&self.partial, &self.path)?;
        self.file = None;
        // So that the name outlasts a loss of power; the file is there in any case.
        #[cfg(unix)]
        if let Some(folder) = self.path.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().ok_or(io::ErrorKind::WriteZero)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // The first error is the one to report.
            let _ = fs::remove_file(&self.partial);
        }
    }
}
