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

mod fields;
mod file;
mod results;
mod segmentation;
mod source;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path};

use segkiln_core::{CoreError, Rle, Size};
use serde::{Deserialize, Serialize};

use crate::{DataError, Result};

pub use file::{CocoAnnotation, CocoCategory, CocoFile, CocoImage};
pub use results::{CocoResult, CocoResultFile, write_results};
pub use segmentation::CocoSegmentation;

/// Id of an image in COCO files: a number, or in some data sets a string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged, expecting = "should be a whole number or a text")]
pub enum ImageId {
    /// Number, as COCO has it.
    Number(#[serde(deserialize_with = "fields::whole")] i64),
    /// Text, for example a file's stem.
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

/// The mask of an entry of `path` on an image of `size`.
fn decode(path: &Path, entry: impl FnOnce() -> String, segmentation: &CocoSegmentation, size: Size) -> Result<Rle> {
    segmentation.to_rle(size.width, size.height).map_err(|error| DataError::Coco {
        path: path.into(),
        entry: entry(),
        field: "segmentation".into(),
        reason: match error {
            CoreError::MaskMismatch { first, second } => format!(
                "the mask has {first} pixels, its image {second}; correct the size ([height, width]) of one of them"
            ),
            other => format!("{other}; correct it or remove the entry"),
        },
    })
}
