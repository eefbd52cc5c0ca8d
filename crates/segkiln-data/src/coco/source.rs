use std::{
    borrow::Cow,
    fmt::Write,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use serde_path_to_error::Segment;

use crate::{
    DataError, Result,
    problem::Faults,
    text::{read_bytes, without_mark},
};

/// A file's name and content.
pub(super) struct Source {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// `bytes` with NaN and Infinity replaced by valid JSON, where there are any; see [`finite`].
    pub finite: Option<Vec<u8>>,
}

impl Source {
    /// Largest file in bytes.
    const MOST: u64 = 4 << 30;

    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_bytes(path, Self::MOST)?;
        if bytes.is_empty() {
            return Err(DataError::EmptyFile { path: path.into() });
        }
        let bytes = match without_mark(&bytes) {
            Some(Cow::Borrowed(text)) if text.len() == bytes.len() => bytes,
            Some(text) => text.into_owned(),
            None => {
                let reason = "it is damaged UTF-16; save it as UTF-8".into();
                return Err(DataError::Json { path: path.into(), line: 1, column: 1, reason });
            }
        };
        Ok(Self { path: path.into(), bytes, finite: None })
    }

    /// Parses the file with `read`. If that fails, tries again with NaN and Infinity replaced: Python writes them, JSON has
    /// none, and they may stand in fields that nobody reads.
    pub fn parse<T: DeserializeOwned>(&mut self, read: impl Fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
        let error = match read(&self.bytes) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        self.finite = finite(&self.bytes);
        match &self.finite {
            Some(bytes) => read(bytes).map_err(|error| self.fault::<T>(error)),
            None => Err(self.fault::<T>(error)),
        }
    }

    pub fn json(&self) -> &[u8] {
        self.finite.as_ref().unwrap_or(&self.bytes)
    }

    /// Where the file is not a `T`. It is read again from its begin, because to know the path to each value takes time
    /// that whole files need not take; `error` is the first reading's.
    fn fault<T: DeserializeOwned>(&self, error: serde_json::Error) -> DataError {
        let mut json = serde_json::Deserializer::from_slice(self.json());
        let again = serde_path_to_error::deserialize::<_, T>(&mut json);
        let path: Vec<Segment> = again.as_ref().err().map(|at| at.path().iter().cloned().collect()).unwrap_or_default();
        let error = again.map_or_else(serde_path_to_error::Error::into_inner, |_| error);

        let [line, column] = [error.line(), error.column()];
        let reason = self.reason(&error);
        let Some((entry, field)) = self.entry(&path) else {
            return DataError::Json { path: self.path.clone(), line, column, reason };
        };
        if field.is_empty() {
            return DataError::Json { path: self.path.clone(), line, column, reason: format!("{entry}: {reason}") };
        }
        DataError::Coco { path: self.path.clone(), entry, field, reason: format!("{reason} (line {line})") }
    }

    fn reason(&self, error: &serde_json::Error) -> String {
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(&*text, |(reason, _)| reason);
        if error.is_eof() {
            return format!("{text}; the file is truncated");
        }
        let line = self.bytes.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
        let begin = error.column().saturating_sub(2).min(line.len());
        let near = String::from_utf8_lossy(&line[begin..line.len().min(begin + 12)]);
        match ["NaN", "Infinity"].into_iter().find(|word| self.finite.is_some() && near.contains(word)) {
            Some(word) => format!("{word} is not finite; correct the number or remove the entry"),
            None => text.into(),
        }
    }

    /// The entry and the field that a path leads to.
    fn entry(&self, path: &[Segment]) -> Option<(String, String)> {
        #[derive(Deserialize)]
        struct Id {
            id: Value,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Ids {
            images: Vec<Id>,
            categories: Vec<Id>,
            annotations: Vec<Id>,
        }
        let (section, index, rest) = match path {
            [Segment::Map { key }, Segment::Seq { index }, rest @ ..] => (key.as_str(), *index, rest),
            [Segment::Seq { index }, rest @ ..] if !matches!(rest, [Segment::Seq { .. }, ..]) => {
                ("results", *index, rest)
            }
            _ => return None,
        };
        // Of a damaged file, what can be had of it.
        let ids: Ids = serde_json::from_slice(self.json()).unwrap_or_default();
        let (name, ids) = match section {
            "images" => ("image", ids.images),
            "categories" => ("category", ids.categories),
            "annotations" => ("annotation", ids.annotations),
            _ => ("result", Vec::new()),
        };
        let entry = match ids.get(index) {
            Some(Id { id }) => format!("{name} {id}"),
            None => format!("{name} number {index} (from 0)"),
        };
        let mut field = String::new();
        for segment in rest {
            let _ = match segment {
                Segment::Map { key } if field.is_empty() => write!(field, "{key}"),
                Segment::Map { key } => write!(field, ".{key}"),
                Segment::Seq { index } => write!(field, "[{index}]"),
                _ => Ok(()),
            };
        }
        Some((entry, field))
    }
}

/// The faults of a list's entries, as `T`s, that `faults` does not have yet.
pub(super) fn more_faults<T: DeserializeOwned>(
    name: &str,
    raw: &[&RawValue],
    path: &Path,
    faults: &mut Faults,
    first: &str,
) {
    #[derive(Deserialize)]
    struct Id {
        id: Value,
    }
    for (index, entry) in raw.iter().enumerate() {
        let mut json = serde_json::Deserializer::from_str(entry.get());
        let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut json) else { continue };
        let number = format!("{name} number {index} (from 0)");
        let id = serde_json::from_str::<Id>(entry.get()).ok();
        let entry = id.map_or_else(|| number.clone(), |Id { id }| format!("{name} {id}"));
        if entry == first || number == first {
            continue;
        }
        let field = error.path().to_string();
        let text = error.into_inner().to_string();
        let text = text.rsplit_once(" at line ").map_or(&*text, |(reason, _)| reason);
        let reason = match text.starts_with("invalid type: map") {
            // What stands for NaN and Infinity.
            true => format!("{text}, or a number that is not finite; correct it or remove the entry"),
            false => text.to_owned(),
        };
        faults.push(DataError::Coco { path: path.into(), entry, field, reason });
    }
}

/// The file with `{}`, which no field that is read may be, for each NaN and Infinity outside of strings; none if there are none.
fn finite(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut finite = bytes.to_vec();
    let (mut at, mut found, mut in_string) = (0, false, false);
    while at < finite.len() {
        let rest = &finite[at..];
        let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word.as_bytes()));
        match (finite[at], word) {
            (b'\\', _) if in_string => at += 1,
            (b'"', _) => in_string = !in_string,
            (_, Some(word)) if !in_string => {
                finite[at..at + word.len()].fill(b' ');
                finite[at..at + 2].copy_from_slice(b"{}");
                at += word.len() - 1;
                found = true;
            }
            _ => {}
        }
        at += 1;
    }
    found.then_some(finite)
}

/// Parses the entries of a list on all threads.
pub(super) fn entries<'a, T: Deserialize<'a> + Send>(raw: &[&'a RawValue]) -> serde_json::Result<Vec<T>> {
    raw.par_iter().map(|entry| serde_json::from_str(entry.get())).collect()
}
