use segkiln_core::Size;

/// Errors of loss configurations and of metric inputs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// A field of a configuration outside its range.
    #[error("{name} must be {expected}, got {value}")]
    OutOfRange {
        /// Name of the field.
        name: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value given.
        value: f64,
    },
    /// Weights that are negative, not finite, or all zero.
    #[error("{name} must be finite, not negative and not all zero, got {values:?}")]
    Weights {
        /// Name of the field.
        name: &'static str,
        /// The weights given.
        values: Vec<f64>,
    },
    /// Different numbers of predictions and targets.
    #[error("{predicted} predicted labels for {target} target labels")]
    Length {
        /// Predicted labels.
        predicted: usize,
        /// Target labels.
        target: usize,
    },
    /// Predicted and target map differ in size.
    #[error("predicted map of {predicted} pixels for a target of {target}")]
    Size {
        /// Width and height of the prediction.
        predicted: Size,
        /// Width and height of the target.
        target: Size,
    },
    /// Labels that are not one a voxel.
    #[error("{labels} labels for a volume of {size:?} voxels")]
    Voxels {
        /// Depth, height and width.
        size: [usize; 3],
        /// Labels given.
        labels: usize,
    },
    /// A label that is neither a class nor ignored.
    #[error("{of} label {label} at position {position} is not one of {classes} classes")]
    Label {
        /// "predicted" or "target".
        of: &'static str,
        /// The label.
        label: u32,
        /// Index in the slice.
        position: usize,
        /// Number of classes.
        classes: usize,
    },
    /// An object or a detection that cannot be evaluated.
    #[error("{what} {index} of image {image}: {reason}")]
    Object {
        /// "object" or "detection".
        what: &'static str,
        /// Index in the list.
        index: usize,
        /// The image's number.
        image: i64,
        /// The cause.
        reason: String,
    },
    /// An image that was evaluated already.
    #[error("image {0} was added twice; give each image a number of its own")]
    ImageTwice(i64),
    /// Metrics with different settings, which cannot be merged.
    #[error("{0} that were set up differently cannot be merged")]
    Unlike(&'static str),
    /// A list that must not be empty is empty.
    #[error("{0} must not be empty")]
    Empty(&'static str),
}

/// A result whose error is a [`MetricsError`].
// Burn's `Config` derive writes `Result<T, E>` where this name may be in scope, hence the second parameter.
pub type Result<T, E = MetricsError> = std::result::Result<T, E>;
