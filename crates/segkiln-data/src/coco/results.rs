use std::path::{Path, PathBuf};

use segkiln_core::{Rle, Size};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    CocoSegmentation, ImageId, decode, fields,
    source::{Source, entries},
};
use crate::{DataError, Result, codecs::write_whole};

/// An object that a detector found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CocoResult {
    /// The image.
    pub image_id: ImageId,
    /// The class.
    #[serde(deserialize_with = "fields::whole")]
    pub category_id: i64,
    /// `[x, y, width, height]` in pixels, finite; width and height may be 0 or less.
    #[serde(default, deserialize_with = "fields::bbox", skip_serializing_if = "Option::is_none")]
    pub bbox: Option<[f64; 4]>,
    /// Confidence of the detector: finite, the greater the surer.
    pub score: f64,
    /// The object's pixels.
    #[serde(default, deserialize_with = "fields::mask", skip_serializing_if = "Option::is_none")]
    pub segmentation: Option<CocoSegmentation>,
}

/// A file of [`CocoResult`]s.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoResultFile {
    path: PathBuf,
    results: Vec<CocoResult>,
}

impl CocoResultFile {
    /// Results that are in memory; errors call them `path`.
    pub fn new(path: impl Into<PathBuf>, results: Vec<CocoResult>) -> Self {
        Self { path: path.into(), results }
    }

    /// Reads and checks a file, on all of rayon's threads. Masks are not decoded.
    ///
    /// # Errors
    /// If the file cannot be read, has over 4 GiB, is not JSON or is truncated; and with the entry and its field: a
    /// field that is missing or of another type, a number that is not finite, a box that is not within ±10⁹.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let mut source = Source::read(path.as_ref())?;
        let read = |bytes: &[u8]| entries(&serde_json::from_slice::<Vec<&RawValue>>(bytes)?);
        let results = source.parse(read)?;
        Ok(Self { path: source.path, results })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The objects, in the file's order.
    pub fn results(&self) -> &[CocoResult] {
        &self.results
    }

    /// Mask of [`results`](Self::results)`[index]` on an image of `size` (width, height); none if it has no `segmentation`.
    ///
    /// # Errors
    /// As [`CocoSegmentation::to_rle`], naming the file and the result.
    ///
    /// # Panics
    /// If there is no such result.
    pub fn mask(&self, index: usize, size: Size) -> Result<Option<Rle>> {
        let Some(segmentation) = &self.results[index].segmentation else { return Ok(None) };
        decode(&self.path, || entry(index), segmentation, size).map(Some)
    }

    /// Returns the error that a field of [`results`](Self::results)`[index]` cannot be used.
    pub fn wrong(&self, index: usize, field: &str, reason: impl Into<String>) -> DataError {
        DataError::Coco { path: self.path.clone(), entry: entry(index), field: field.into(), reason: reason.into() }
    }
}

fn entry(index: usize) -> String {
    format!("result number {index} (from 0)")
}

/// Writes what a detector found, as COCO's servers and pycocotools read it.
///
/// The file appears under its name only when it is complete.
///
/// # Errors
/// If a score, a box or a polygon has a number that is not finite, or the file cannot be written.
pub fn write_results(path: impl AsRef<Path>, results: &[CocoResult]) -> Result<()> {
    let path = path.as_ref();
    for (index, result) in results.iter().enumerate() {
        let polygons = match &result.segmentation {
            Some(CocoSegmentation::Polygons(polygons)) => polygons.as_slice(),
            _ => &[],
        };
        let wrong = [
            ("score", result.score.is_finite()),
            ("bbox", result.bbox.iter().flatten().all(|value| value.is_finite())),
            ("segmentation", polygons.iter().flatten().all(|value| value.is_finite())),
        ];
        if let Some((field, _)) = wrong.into_iter().find(|(_, finite)| !finite) {
            return Err(DataError::Coco {
                path: path.into(),
                entry: entry(index),
                field: field.into(),
                reason: "is not finite, which JSON cannot hold; leave out the result".into(),
            });
        }
    }
    let io = |source| DataError::io("write", path, source);
    let bytes = serde_json::to_vec(results).map_err(|error| io(error.into()))?;
    write_whole(path, &bytes).map_err(io)
}
