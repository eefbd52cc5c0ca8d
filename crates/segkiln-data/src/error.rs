use std::path::{Path, PathBuf};

use segkiln_core::Size;

use crate::regions::Region;

/// Errors of images, masks, lists, data sets and the options of this crate.
///
/// Each message names the file (where there is one), what is wrong with it, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Operation that failed, such as `list the folder`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A folder, a device or a pipe where a file is expected.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// Path that was opened.
        path: PathBuf,
    },
    /// A file that is larger than files of its kind are.
    #[error("{path}: {bytes} bytes are over the limit of {most}")]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        most: u64,
    },
    /// Several faults of one data set.
    #[error("{} problems, the first: {}", errors.len() + more, errors.first().map(ToString::to_string).unwrap_or_default())]
    Several {
        /// The first of them.
        errors: Vec<DataError>,
        /// Number of further ones.
        more: usize,
    },
    /// A file of 0 bytes.
    #[error("{path} is empty (0 bytes)")]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// The file is no image, or none that can be read.
    #[error("{path} is not an image that can be read: PNG, JPEG, TIFF, BMP and WebP are")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// An image file that is damaged, truncated, or uses a feature that is not supported.
    #[error("{path} cannot be decoded as {format}: {reason}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Format of the file by its content or extension.
        format: &'static str,
        /// Message of the decoder.
        reason: String,
    },
    /// An image larger than [`Limits`](crate::Limits) allows; nothing of that size was allocated.
    #[error(
        "{path}: the header says {width}x{height} pixels, over the limit of {limit}; raise `Limits` if that is true"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Width in pixels that the header claims.
        width: u32,
        /// Height in pixels that the header claims.
        height: u32,
        /// The limit, in words.
        limit: String,
    },
    /// A float image with a NaN or an infinity.
    #[error("{path}: pixel (x {x}, y {y}) is {value}; images must be finite, replace such pixels before training")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Column.
        x: u32,
        /// Row.
        y: u32,
        /// The value.
        value: f32,
    },
    /// A float image with a value that can only mark missing data.
    #[error(
        "{path}: pixel (x {x}, y {y}) is {value}, which marks missing data; give that value as `DecodeOptions::nodata`, or \
         replace such pixels"
    )]
    MissingData {
        /// The file.
        path: PathBuf,
        /// Column.
        x: u32,
        /// Row.
        y: u32,
        /// The value.
        value: f32,
    },
    /// A region of a large picture that cannot be read.
    #[error(
        "{path}, level {level}: the {}x{} pixels from column {} and row {} on cannot be read: {reason}",
        region.width, region.height, region.left, region.top
    )]
    Region {
        /// The file.
        path: PathBuf,
        /// Level of resolution, 0 is the finest.
        level: usize,
        /// The region that was asked for, or the tile or strip of the file.
        region: Region,
        /// Why not.
        reason: String,
    },
    /// A film that cannot be read or written.
    #[error("{film} {reason}")]
    Film {
        /// The film, `-` for standard input or output.
        film: PathBuf,
        /// Problem, and suggested fix.
        reason: String,
    },
    /// A frame of a film that cannot be read or written; those before it are good.
    #[error("{film}, frame {frame} (counted from 0): {reason}")]
    Frame {
        /// The film, `-` for standard input or output.
        film: PathBuf,
        /// The frame, from 0.
        frame: u64,
        /// Problem, and suggested fix.
        reason: String,
    },
    /// Results that need more memory than the limits allow.
    #[error(
        "{path}: {what} need more than the limit of {limit} bytes; raise `Limits`, or clean the map of small objects first"
    )]
    Held {
        /// The map.
        path: PathBuf,
        /// Results that are held.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A picture of other bands than are asked for.
    #[error("{path} has {bands} bands, and {expected} are expected; choose some of them, or a network for so many")]
    Bands {
        /// The file.
        path: PathBuf,
        /// Its bands.
        bands: usize,
        /// Bands that are asked for.
        expected: usize,
    },
    /// An image could not be written.
    #[error("cannot write {path}: {reason}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A result that would take the place of what it was made from.
    #[error("{path} is an input and would be replaced; give another folder or name for the results")]
    Replaces {
        /// The file.
        path: PathBuf,
    },
    /// A number of values that is not width × height × channels, or a zero among these.
    #[error(
        "an image of {width}x{height} pixels and {channels} channels needs {expected} values (at least 1), got {actual}"
    )]
    ImageShape {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Values a pixel.
        channels: usize,
        /// Width × height × channels.
        expected: u128,
        /// Values given.
        actual: usize,
    },
    /// A mask that holds a photograph rather than labels.
    #[error("{path} does not look like a mask: {reason}; are images and masks swapped?")]
    NotAMask {
        /// The file.
        path: PathBuf,
        /// Evidence that the file is not a mask.
        reason: String,
    },
    /// A mask whose values are not labels.
    #[error("{path}: {reason}")]
    MaskValue {
        /// The file.
        path: PathBuf,
        /// The pixel, and what to do.
        reason: String,
    },
    /// A color of a color-mapped mask that the palette lacks.
    #[error(
        "{path}: pixel (x {x}, y {y}) has the color {color:?}, which is none of the palette's {colors}; add it, or \
         save the mask without smoothing"
    )]
    UnknownColor {
        /// The file.
        path: PathBuf,
        /// Column.
        x: u32,
        /// Row.
        y: u32,
        /// Red, green, blue.
        color: [u8; 3],
        /// Colors in the palette.
        colors: usize,
    },
    /// A label that is no class.
    #[error("{path}: label {label} at pixel (x {x}, y {y}) is none of the {classes} classes; {cure}")]
    LabelOutsideClasses {
        /// The mask.
        path: PathBuf,
        /// The label.
        label: u32,
        /// Column of its first pixel.
        x: u32,
        /// Row of its first pixel.
        y: u32,
        /// Number of classes.
        classes: usize,
        /// Suggested fix.
        cure: &'static str,
    },
    /// An image and a mask of different sizes.
    #[error("{image} has {image_size} pixels, its mask {mask} {mask_size}; {cure}")]
    SizeMismatch {
        /// The image.
        image: PathBuf,
        /// Its width and height.
        image_size: Size,
        /// The mask.
        mask: PathBuf,
        /// Its width and height.
        mask_size: Size,
        /// Suggested fix.
        cure: String,
    },
    /// A sample whose image and target are of different sizes, or an image that its annotation says is of another size.
    #[error("{image} has {image_size} pixels, its target or annotation {target_size}; {cure}")]
    TargetSize {
        /// The image, or the name of the sample.
        image: PathBuf,
        /// Its width and height.
        image_size: Size,
        /// Width and height of the target.
        target_size: Size,
        /// Suggested fix.
        cure: String,
    },
    /// An object of an annotation that cannot be used.
    #[error("{path}, object {object}: {reason}")]
    Object {
        /// The annotation, or the image where it has no file of its own.
        path: PathBuf,
        /// Index of the object within the file, from 0.
        object: usize,
        /// Problem of the object, and suggested fix.
        reason: String,
    },
    /// Images without masks, masks without images, or listed samples without either.
    #[error("{images} and {labels} do not pair up: {reason}")]
    MissingPairs {
        /// Folder of the images.
        images: PathBuf,
        /// Folder of the masks.
        labels: PathBuf,
        /// The stems on each side (the first of them).
        reason: String,
    },
    /// Two files of one stem, so that it is unclear which one is meant.
    #[error("{first} and {second} have the same stem; keep one of them")]
    DuplicateStem {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Nothing to load.
    #[error("{what} has no samples")]
    Empty {
        /// The folder, list or split.
        what: String,
    },
    /// No object to learn or to find in a split.
    #[error(
        "{path}: there is no object in the {images} {split} image{s}, other than crowds and difficult ones, which are neither \
         learned nor counted; add some, or clear those flags", s = if *images == 1 { "" } else { "s" }
    )]
    NoTarget {
        /// The annotations.
        path: PathBuf,
        /// `training` or `validation`.
        split: String,
        /// Images of the split.
        images: usize,
    },
    /// A list file with an unusable line.
    #[error("{path}, line {line}: {reason}")]
    List {
        /// The list.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Problem of the line.
        reason: String,
    },
    /// A file that is not JSON, or ends before it should.
    #[error("{path}, line {line}, column {column}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Byte within the line, from 1.
        column: usize,
        /// Problem at that position.
        reason: String,
    },
    /// A COCO file with a value that cannot be used.
    #[error("{path}, {entry}, field `{field}`: {reason}")]
    Coco {
        /// The file.
        path: PathBuf,
        /// The image, category, annotation or result.
        entry: String,
        /// Its field.
        field: String,
        /// Problem of the field, and suggested fix.
        reason: String,
    },
    /// A volume with a header, a tag or a slice that cannot be used.
    #[error("{path}, {field}: {reason}")]
    Volume {
        /// The file, or the folder of a series.
        path: PathBuf,
        /// Field of the header, or the tag, such as `dim[3]`.
        field: String,
        /// Problem of the field, and suggested fix.
        reason: String,
    },
    /// An option out of its range.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Required values, and the actual one.
        reason: String,
    },
    /// An image with a number of channels that an operation cannot take.
    #[error("{what} needs {expected} channels, the image has {actual}")]
    Channels {
        /// Operation that needs the channels, such as `normalize`.
        what: &'static str,
        /// Channels needed.
        expected: usize,
        /// Channels there.
        actual: usize,
    },
    /// Samples of different sizes in one batch.
    #[error(
        "a batch needs samples of one size, but {first} is {} and {second} is {} (width x height x channels); \
         add a crop or resize transform, or set the batch size to 1",
        size(first_size),
        size(second_size)
    )]
    BatchSizes {
        /// Name of a sample.
        first: String,
        /// Its width, height and channels.
        first_size: (u32, u32, usize),
        /// Name of a sample of another size.
        second: String,
        /// Its width, height and channels.
        second_size: (u32, u32, usize),
    },
    /// A data set or a transform panicked on one of the loader's threads.
    #[error("loading sample {index} of the data set panicked: {message}")]
    Panicked {
        /// Index in the data set.
        index: usize,
        /// The panic's message.
        message: String,
    },
    /// A target's collate function panicked on one of the loader's threads.
    #[error("joining the samples of batch {batch} panicked: {message}")]
    PanickedCollate {
        /// Batch of the epoch, from 0.
        batch: usize,
        /// The panic's message.
        message: String,
    },
    /// An error of a data set that is not this crate's.
    #[cfg(feature = "datasets")]
    #[error(transparent)]
    Dataset(#[from] burn::data::dataset::DatasetError),
}

/// A result whose error is a [`DataError`].
pub type Result<T> = std::result::Result<T, DataError>;

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    #[cfg(feature = "nifti")]
    pub(crate) fn volume(path: &Path, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Volume { path: path.into(), field: field.into(), reason: reason.into() }
    }

    pub(crate) fn option(option: &'static str, reason: impl Into<String>) -> Self {
        Self::Option { option, reason: reason.into() }
    }
}

fn size((width, height, channels): &(u32, u32, usize)) -> String {
    format!("{width}x{height}x{channels}")
}

/// Burn's data sets and loaders speak [`DatasetError`](burn::data::dataset::DatasetError), which shows the message of
/// the error inside it unchanged and keeps that error as its `source()`.
#[cfg(feature = "datasets")]
impl From<DataError> for burn::data::dataset::DatasetError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Dataset(inner) => inner,
            other => Self::new(other),
        }
    }
}
