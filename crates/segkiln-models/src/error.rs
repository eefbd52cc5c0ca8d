use std::borrow::Cow;

/// Error of a config with which no network can be built, or of a name that no network has.
///
/// ```
/// use segkiln_models::ConfigError;
///
/// let error = ConfigError::new("channels", "must be at least 1, is 0");
/// assert_eq!((error.field(), error.to_string().as_str()), ("channels", "channels must be at least 1, is 0"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    field: Cow<'static, str>,
    message: String,
}

impl ConfigError {
    /// Error of the value of a field. `problem` goes on behind the field's name: the values that it may have, and the one that
    /// it has.
    pub fn new(field: impl Into<Cow<'static, str>>, problem: impl AsRef<str>) -> Self {
        let field = field.into();
        Self { message: format!("{field} {}", problem.as_ref()), field }
    }

    /// Error of a field that does not fit others, with a whole sentence.
    pub fn with_message(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// Returns the field, as files call it.
    pub fn field(&self) -> &str {
        &self.field
    }
}
