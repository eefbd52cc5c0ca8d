//! COCO's JSON files (<https://cocodataset.org/#format-data>): annotations are read, a detector's results read and written.
//!
//! ```
//! use segkiln_data::coco::{CocoFile, CocoResult, CocoResultFile, write_results};
//!
//! # let folder = tempfile::tempdir()?;
//! # let (truth, found) = (folder.path().join("truth.json"), folder.path().join("found.json"));
//! # std::fs::write(&truth, r#"{
//! #     "images": [{"id": 7, "file_name": "a.png", "width": 6, "height": 4}],
//! #     "categories": [{"id": 3, "name": "cat"}],
//! #     "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], "area": 4,
//! #                      "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]}]}"#)?;
//! let file = CocoFile::read(&truth)?;
//! for annotation in file.annotations() {
//!     let image = file.image(&annotation.image_id).unwrap();
//!     let mask = file.mask(annotation)?.unwrap();
//!     assert_eq!((image.file_name.as_deref(), mask.area()), (Some("a.png"), 4));
//! }
//!
//! let bbox = Some([1.0, 1.0, 2.0, 2.0]);
//! let result = CocoResult { image_id: 7.into(), category_id: 3, bbox, score: 0.9, segmentation: None };
//! write_results(&found, &[result.clone()])?;
//! assert_eq!(CocoResultFile::read(&found)?.results(), [result]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Other fields may be there and hold anything. Boxes are `[x, y, width, height]` in pixels as the file has them, also
//! such as have no area: evaluation counts these too.

mod file;
mod json;
mod results;
mod segmentation;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use segkiln_core::{CoreError, Rle};
use serde::Serialize;

use self::json::{Chunk, Fault, Reader};
use crate::{DataError, Result};

pub use file::{CocoAnnotation, CocoCategory, CocoFile, CocoImage};
pub use results::{CocoResult, CocoResultFile, write_results};
pub use segmentation::Segmentation;

/// What an image is called in COCO's files: a number, or in some data sets a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum ImageId {
    /// As in COCO.
    Number(i64),
    /// For example a file's stem.
    Text(String),
}

impl From<i64> for ImageId {
    fn from(id: i64) -> Self {
        Self::Number(id)
    }
}

impl From<&str> for ImageId {
    fn from(id: &str) -> Self {
        Self::Text(id.into())
    }
}

impl fmt::Display for ImageId {
    /// The number, or the text in quotation marks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(id) => write!(f, "{id}"),
            Self::Text(id) => write!(f, "{id:?}"),
        }
    }
}

impl ImageId {
    fn parse(reader: &mut Reader) -> std::result::Result<Self, Fault> {
        Ok(match reader.at_string() {
            true => Self::Text(reader.string()?.into_owned()),
            false => Self::Number(reader.integer()?),
        })
    }
}

/// A file's name and content.
struct Source {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Source {
    /// Largest file in bytes.
    const MOST: u64 = 4 << 30;

    fn read(path: &Path) -> Result<Self> {
        let io = |source| DataError::io("read", path, source);
        // Asked before the file is opened: to open a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(DataError::NotAFile { path: path.into() });
        }
        if meta.len() > Self::MOST {
            let reason = format!("{} bytes are over the limit of {}; split the file", meta.len(), Self::MOST);
            return Err(DataError::Json { path: path.into(), line: 1, column: 1, reason });
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        File::open(path).and_then(|file| file.take(Self::MOST).read_to_end(&mut bytes)).map_err(io)?;
        if bytes.is_empty() {
            return Err(DataError::EmptyFile { path: path.into() });
        }
        Ok(Self { path: path.into(), bytes })
    }

    /// An error outside of entries.
    fn damaged(&self, fault: Fault) -> DataError {
        let [line, column] = json::position(&self.bytes, fault.at);
        let reason = match fault.field {
            Some(field) => format!("field `{field}`: {}", fault.reason),
            None => fault.reason,
        };
        DataError::Json { path: self.path.clone(), line, column, reason }
    }

    /// Parses the entries of an array on all threads.
    fn entries<T: Entry>(&self, chunks: &[Chunk]) -> Result<Vec<T>> {
        let parse = |chunk: &Chunk| {
            let mut reader = chunk.reader.clone();
            (chunk.first..chunk.first + chunk.count)
                .map(|index| {
                    let before = reader.clone();
                    let entry = T::parse(&mut reader).map_err(|fault| self.wrong::<T>(index, before, fault));
                    reader.next_element();
                    entry
                })
                .collect::<Result<Vec<T>>>()
        };
        // In order, so that of several errors the first in the file is told.
        let parts: Vec<Result<Vec<T>>> = chunks.par_iter().map(parse).collect();
        let mut entries = Vec::with_capacity(chunks.iter().map(|chunk| chunk.count).sum());
        for part in parts {
            entries.extend(part?);
        }
        Ok(entries)
    }

    fn wrong<T: Entry>(&self, index: usize, mut reader: Reader, fault: Fault) -> DataError {
        let Some(field) = fault.field.clone() else { return self.damaged(fault) };
        let mut id = None;
        // Of a damaged entry, what can be had of it.
        let _ = reader.object(|reader, key| match key {
            "id" if T::HAS_ID => {
                id = ImageId::parse(&mut reader.clone()).ok();
                reader.skip()
            }
            _ => reader.skip(),
        });
        let entry = match id {
            Some(id) => format!("{} {id}", T::NAME),
            None => format!("{} number {index} (from 0)", T::NAME),
        };
        let [line, _] = json::position(&self.bytes, fault.at);
        let reason = format!("{} (line {line})", fault.reason);
        DataError::Coco { path: self.path.clone(), entry, field, reason }
    }
}

/// What COCO's files list.
trait Entry: Sized + Send {
    /// What one is called in messages.
    const NAME: &'static str;
    /// Whether the field `id` names one.
    const HAS_ID: bool;

    fn parse(reader: &mut Reader) -> std::result::Result<Self, Fault>;
}

/// The value of a field that must be there.
fn needed<T>(value: Option<T>, field: &str, reader: &Reader) -> std::result::Result<T, Fault> {
    value.ok_or_else(|| Fault { field: Some(field.into()), ..reader.fault("is missing; write it") })
}

/// A box `[x, y, width, height]`; none where the array is empty.
fn parse_bbox(reader: &mut Reader) -> std::result::Result<Option<[f64; 4]>, Fault> {
    const MOST: f64 = 1e9;
    let before = reader.clone();
    let (mut bbox, mut count) = ([0.0; 4], 0);
    reader.array(|reader| {
        let value = reader.number()?;
        if value.abs() > MOST {
            return Err(reader.fault(format!("{value} is not within ±1e9; correct the box or remove the entry")));
        }
        if let Some(place) = bbox.get_mut(count) {
            *place = value;
        }
        count += 1;
        Ok(())
    })?;
    match count {
        0 => Ok(None),
        4 => Ok(Some(bbox)),
        _ => Err(before.fault(format!("has {count} numbers; a box is [x, y, width, height]"))),
    }
}

/// The mask of an entry of `path` on an image of `size` (width, height).
fn decode(path: &Path, entry: impl FnOnce() -> String, segmentation: &Segmentation, size: [u32; 2]) -> Result<Rle> {
    segmentation.to_rle(size[0], size[1]).map_err(|error| DataError::Coco {
        path: path.into(),
        entry: entry(),
        field: "segmentation".into(),
        reason: match error {
            CoreError::MaskMismatch { first, second } => format!(
                "the mask has {}x{} pixels, its image {}x{}; correct the size ([height, width]) of one of them",
                first[0], first[1], second[0], second[1]
            ),
            other => format!("{other}; correct it or remove the entry"),
        },
    })
}
