use crate::Size;

/// Errors of label maps, classes, boxes, masks and objects.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// The number of values is not width × height.
    #[error("a label map of {width}x{height} pixels needs {expected} values, got {actual}")]
    LabelCount {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Width × height.
        expected: u64,
        /// Values given.
        actual: usize,
    },
    /// A class list with fewer than two classes.
    #[error("a class list needs at least two classes (background and one more), got {0}")]
    TooFewClasses(usize),
    /// Two classes share a name.
    #[error("class name {0:?} is used twice")]
    DuplicateClass(String),
    /// A box without area, or with coordinates that are not finite.
    #[error("a box needs finite coordinates within ±1e9, x2 > x1 and y2 > y1, got x1 {x1}, y1 {y1}, x2 {x2}, y2 {y2}")]
    InvalidBox {
        /// Left.
        x1: f64,
        /// Top.
        y1: f64,
        /// Right.
        x2: f64,
        /// Bottom.
        y2: f64,
    },
    /// A mask without pixels, or with more than can be counted.
    #[error("a mask needs between 1 and 4,294,967,295 pixels, got {width}x{height}")]
    MaskSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Run lengths that do not sum to the mask's pixels.
    #[error("the runs of a mask of {width}x{height} pixels have {actual} pixels")]
    MaskCounts {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Pixels of all runs.
        actual: u64,
    },
    /// A compressed mask that cannot be read.
    #[error("a compressed mask has {reason} (character {position})")]
    MaskString {
        /// Index of the character.
        position: usize,
        /// The cause.
        reason: &'static str,
    },
    /// Two masks of different sizes.
    #[error("masks of {first} and {second} pixels cannot be compared")]
    MaskMismatch {
        /// Width and height.
        first: Size,
        /// Width and height.
        second: Size,
    },
    /// A mask that is neither polygons nor runs.
    #[error("a mask must be polygons [[x, y, ...], ...] or an object with size and counts")]
    MaskForm,
    /// A polygon that cannot be filled.
    #[error("polygon {index}: {reason}")]
    Polygon {
        /// Index of the polygon in the object's list.
        index: usize,
        /// The cause.
        reason: &'static str,
    },
    /// An object with the background's label, 0.
    #[error("an object's label must be at least 1, as 0 is the background; number the classes from 1")]
    BackgroundLabel,
    /// An object whose mask differs from its image in size.
    #[error("the mask of object {index} has {mask} pixels, its image {image}; they must be equal")]
    InstanceMask {
        /// Index of the object in the image's list.
        index: usize,
        /// Width and height of the mask.
        mask: Size,
        /// Width and height of the image.
        image: Size,
    },
    /// A palette shorter than the class list.
    #[error("{classes} classes need as many colors, the palette has {colors}")]
    PaletteTooShort {
        /// Classes in the list.
        classes: usize,
        /// Colors in the palette.
        colors: usize,
    },
}

/// A result whose error is a [`CoreError`].
pub type Result<T> = std::result::Result<T, CoreError>;
