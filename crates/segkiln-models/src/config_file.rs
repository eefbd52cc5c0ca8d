//! The file `config.json` of a run: the number of its format, and how it is read.
//!
//! Its content differs: training writes a network's card with its settings and data, prediction reads the card alone. What all
//! share is here: two fields before the content, `format` and `segkiln`, which keep their meaning in every format to come.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Format of `config.json` that this version writes. It reads this one and all before; a file without a number has format 0,
/// which differs from 1 in nothing else.
///
/// A new field that has a default is no new format; one that earlier versions would misunderstand is.
pub const FORMAT: u32 = 1;

/// Largest `config.json`, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Why a `config.json` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFileError {
    /// It is missing, damaged, or is not what training writes.
    #[error("cannot use {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason that the system or the parser gives.
        reason: String,
    },
    /// A later version wrote it.
    #[error(transparent)]
    NewerFormat(#[from] NewerFormat),
}

/// A `config.json` of a format that only later versions of this library know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} has format {format}, and segkiln {own} reads formats up to {FORMAT}; use {}",
    path.display(),
    match version {
        Some(version) => format!("segkiln {version}, which wrote it, or a later version"),
        None => "a later version of segkiln".to_owned(),
    },
    own = env!("CARGO_PKG_VERSION"),
)]
pub struct NewerFormat {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: u32,
    /// Version of this library that wrote it, if the file says so.
    pub version: Option<String>,
}

/// A `config.json`: the number of its format, and its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigFile<T> {
    #[serde(default)]
    format: u32,
    /// Version of this library that wrote the file.
    #[serde(default)]
    segkiln: String,
    /// All other fields.
    #[serde(flatten)]
    pub content: T,
}

impl<T> ConfigFile<T> {
    /// A file of today's format. The content is a struct or a map, without the fields `format` and `segkiln`.
    pub fn new(content: T) -> Self {
        Self { format: FORMAT, segkiln: env!("CARGO_PKG_VERSION").to_owned(), content }
    }
}

impl<T: Serialize> ConfigFile<T> {
    /// Text of the file, which ends with a new line.
    ///
    /// # Errors
    /// The content is no struct or map, or has keys that are no strings.
    pub fn to_text(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// Reads the content of a `config.json` of any format up to [`FORMAT`]; with `T` a [`ConfigFile`], the two fields before it too.
///
/// # Errors
/// [`ConfigFileError`], which names the file and, where a later version wrote it, that version.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigFileError> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        format: u32,
        #[serde(default)]
        segkiln: String,
    }
    let refuse = |reason: String| ConfigFileError::Read { path: path.to_owned(), reason };
    let meta = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    if !meta.is_file() || meta.len() > MOST_BYTES {
        return Err(refuse("it is no regular file of a common size".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let text = text.trim_start_matches('\u{feff}');
    let Header { format, segkiln } = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    if format > FORMAT {
        return Err(
            NewerFormat { path: path.to_owned(), format, version: is_version(&segkiln).then_some(segkiln) }.into()
        );
    }
    serde_json::from_str(text).map_err(|error| refuse(error.to_string()))
}

/// Whether a text of a file can be shown as a version.
fn is_version(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
    (1..=40).contains(&text.len()) && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Content {
        classes: u32,
        rate: f64,
    }

    const CONTENT: Content = Content { classes: 3, rate: 0.1 };

    /// Reads a file with this text.
    fn read_text<T: DeserializeOwned>(text: &str) -> Result<T, ConfigFileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn todays_format_is_written_and_read() {
        let text = ConfigFile::new(CONTENT).to_text().unwrap();
        let start = format!("{{\n  \"format\": {FORMAT},\n  \"segkiln\": \"{}\",\n", env!("CARGO_PKG_VERSION"));
        assert!(text.starts_with(&start) && text.ends_with("}\n"), "{text}");
        assert_eq!(read_text::<Content>(&text).unwrap(), CONTENT);
        assert_eq!(read_text::<ConfigFile<Content>>(&text).unwrap(), ConfigFile::new(CONTENT));
        // Any content, without the two fields.
        let file: ConfigFile<Value> = read_text(&text).unwrap();
        assert_eq!(file.content, json!({ "classes": 3, "rate": 0.1 }));
        assert_eq!(serde_json::from_str::<Value>(&file.to_text().unwrap()).unwrap()["format"], FORMAT);
    }

    #[test]
    fn files_without_a_format_are_read() {
        let text = json!({ "classes": 3, "rate": 0.1, "recipe": {} }).to_string();
        assert_eq!(read_text::<Content>(&text).unwrap(), CONTENT);
        assert_eq!(read_text::<Content>(&format!("\u{feff}{text}")).unwrap(), CONTENT);
        let file: ConfigFile<Content> = read_text(&text).unwrap();
        assert_ne!(file, ConfigFile::new(CONTENT));
        assert_eq!(ConfigFile::new(file.content), ConfigFile::new(CONTENT));
    }

    /// Whatever else the later format has.
    #[test]
    fn a_later_format_is_named_with_its_version() {
        let read = |version: Value| {
            let text = json!({ "format": FORMAT + 1, "segkiln": version, "networks": [] }).to_string();
            read_text::<Content>(&text).unwrap_err()
        };
        let error = read("0.9.1".into());
        let ConfigFileError::NewerFormat(newer) = &error else { panic!("{error}") };
        assert_eq!((newer.format, newer.version.as_deref()), (FORMAT + 1, Some("0.9.1")));
        let text = error.to_string();
        for part in
            ["config.json has format 2", "reads formats up to 1", "use segkiln 0.9.1, which wrote it, or a later"]
        {
            assert!(text.contains(part), "{text}");
        }
        for version in ["", "1\u{1b}[2J", &"9".repeat(41)] {
            let text = read(version.into()).to_string();
            assert!(text.ends_with("use a later version of segkiln"), "{text}");
        }
    }

    #[test]
    fn what_is_no_config_is_refused() {
        for (text, part) in [
            ("", "EOF"),
            ("[]", "expected"),
            ("{\"format\": -1}", "invalid value"),
            ("{\"format\": \"1\"}", "invalid type"),
            ("{\"format\": 1, \"classes\": 3}", "missing field `rate`"),
        ] {
            let error = read_text::<Content>(text).unwrap_err().to_string();
            assert!(error.contains("config.json") && error.contains(part), "{text}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let error = read::<Content>(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }
}
