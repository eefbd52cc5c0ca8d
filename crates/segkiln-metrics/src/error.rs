/// What can be wrong with a loss's configuration or a metric's input.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// A number of a configuration lies outside its range.
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
    /// A list that must not be empty is empty.
    #[error("{0} must not be empty")]
    Empty(&'static str),
}

/// A result whose error is a [`MetricsError`].
// Burn's `Config` derive writes `Result<T, E>` where this name may be in scope, hence the second parameter.
pub type Result<T, E = MetricsError> = std::result::Result<T, E>;
