/// What can be wrong with a host-side value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// A class list without a class.
    #[error("a class list needs at least two classes (background and one more), got {0}")]
    TooFewClasses(usize),
    /// Two classes share a name.
    #[error("class name {0:?} is used twice")]
    DuplicateClass(String),
    /// A palette shorter than the class list.
    #[error("{classes} classes need as many colours, the palette has {colours}")]
    PaletteTooShort {
        /// Classes in the list.
        classes: usize,
        /// Colours in the palette.
        colours: usize,
    },
}

/// A result whose error is a [`CoreError`].
pub type Result<T> = std::result::Result<T, CoreError>;
