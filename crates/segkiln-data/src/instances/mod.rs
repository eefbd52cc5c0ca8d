//! Objects of class maps of any size: connected components, touching objects split by a watershed, their shapes and measures.
//!
//! Maps are read by rows ([`LabelRows`]), twice, so that pictures that do not fit memory give the same objects with the same numbers
//! as small ones:
//!
//! - [`Components`]: connected runs of pixels, by union-find; [`find_objects`] numbers the objects and hands over rows of
//!   numbers and, as they become complete, [`Object`]s.
//! - [`distance_squared`], [`split`]: distance transform, and the seeded watershed on it.
//! - [`Object`]: area, centroid, perimeter, box, means of the bands, polygons with holes, runs.
//! - [`GeoJsonWriter`], [`CsvWriter`], [`CocoWriter`]: objects in files, written one by one.
//!
//! ```
//! use segkiln_core::LabelMap;
//! use segkiln_data::instances::{InstanceOptions, Object, find_objects};
//!
//! // 1 1 0 2
//! // 0 0 0 2
//! // 1 0 2 0
//! let map = LabelMap::new(4, 3, vec![1, 1, 0, 2, 0, 0, 0, 2, 1, 0, 2, 0])?;
//! let (mut numbers, mut areas) = (Vec::new(), Vec::new());
//! let row = |row: &[u32]| {
//!     numbers.extend_from_slice(row);
//!     Ok(())
//! };
//! let mut object = |object: Object| {
//!     areas.push((object.number, object.class, object.area()));
//!     Ok(())
//! };
//! find_objects(&map, None, &InstanceOptions::default(), row, Some(&mut object))?;
//! assert_eq!(numbers, [1, 1, 0, 2, 0, 0, 0, 2, 3, 0, 2, 0]);
//! assert_eq!(areas, [(1, 1, 2), (2, 2, 3), (3, 1, 1)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod components;
mod distance;
mod find;
mod object;
mod polygon;
mod splitter;
mod watershed;
mod write;

use std::path::Path;

use segkiln_core::{LabelMap, Size};

pub use components::Components;
pub use distance::distance_squared;
pub use find::{Found, IntensityImage, find_objects};
pub use object::{Object, ObjectRun};
pub use polygon::Polygon;
pub use watershed::split;
pub use write::{CocoWriter, CsvWriter, GeoJsonOptions, GeoJsonWriter, Placement};

use crate::{
    DataError, Limits, Result,
    regions::{Region, RegionSource, TiffSource},
};

/// Neighbors of a pixel that are connected to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Connectivity {
    /// The four beside, above and below it: scikit-image's `connectivity=1`.
    Four,
    /// The four at its corners too: `connectivity=2`, scikit-image's default.
    #[default]
    Eight,
}

impl Connectivity {
    /// Columns that a run in the next row may lie beside a run and be connected.
    fn reach(self) -> u32 {
        match self {
            Self::Four => 0,
            Self::Eight => 1,
        }
    }
}

/// Options of [`find_objects`]: how the objects of a class map are told apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InstanceOptions {
    /// Neighbors that are connected.
    pub connectivity: Connectivity,
    /// Splitting of components into objects that touch; none by default.
    pub watershed: Option<WatershedOptions>,
    /// Bounds what is held at once: the table of components with 4 bytes each, the runs of objects that are not complete, and, with a
    /// quarter of it, the rows that wait for a watershed; components stay whole where those would be more.
    pub limits: Limits,
}

impl Default for InstanceOptions {
    fn default() -> Self {
        Self { connectivity: Connectivity::Eight, watershed: None, limits: Limits::default() }
    }
}

/// Watershed of components: seeds are the peaks of the distance to the component's border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatershedOptions {
    /// Pixels that seeds are at least apart, in rows or columns; of seeds nearer than that the one farther inside stays.
    pub min_distance: u32,
    /// Pixels of the bounding box above which a component stays whole, as it is split in memory, with about 40 bytes a pixel.
    pub max_window: u64,
}

impl Default for WatershedOptions {
    /// 7 pixels, a third of the width of nuclei at common magnifications; windows of 4 Mi pixels.
    fn default() -> Self {
        Self { min_distance: 7, max_window: 1 << 22 }
    }
}

/// A map of labels that is read by rows.
pub trait LabelRows {
    /// The file, or what stands for it in messages.
    fn path(&self) -> &Path;

    /// Width and height in pixels.
    fn size(&self) -> Size;

    /// `count` rows from row `top` on, row-major. The rows are within the map, and asked for from the top down.
    ///
    /// # Errors
    /// [`DataError::Region`] if they cannot be read.
    fn rows(&self, top: u32, count: u32) -> Result<Vec<u32>>;
}

impl LabelRows for LabelMap {
    fn path(&self) -> &Path {
        Path::new("the label map")
    }

    fn size(&self) -> Size {
        self.size()
    }

    fn rows(&self, top: u32, count: u32) -> Result<Vec<u32>> {
        let width = self.width() as usize;
        Ok(self.as_slice()[top as usize * width..(top + count) as usize * width].to_vec())
    }
}

/// The labels of level 0.
impl LabelRows for TiffSource {
    fn path(&self) -> &Path {
        RegionSource::path(self)
    }

    fn size(&self) -> Size {
        self.levels()[0].size()
    }

    fn rows(&self, top: u32, count: u32) -> Result<Vec<u32>> {
        self.read_labels(0, Region { left: 0, top, width: self.size().width, height: count })
    }
}

/// Rows that are read at once: a row of a [`TiffSink`](crate::regions::TiffSink)'s tiles, or less of a wide picture.
const ROWS: u32 = 256;
/// Pixels that are read at once.
const MOST_PIXELS: u32 = 1 << 22;

/// Calls `f` with each row of a map.
pub(crate) fn each_row<M: LabelRows + ?Sized>(map: &M, mut f: impl FnMut(u32, &[u32]) -> Result<()>) -> Result<()> {
    let Size { width, height } = map.size();
    let band = ROWS.min(MOST_PIXELS / width.max(1)).max(1);
    let mut top = 0;
    while top < height && width > 0 {
        let count = band.min(height - top);
        let labels = map.rows(top, count)?;
        for (y, row) in (top..).zip(labels.chunks_exact(width as usize)) {
            f(y, row)?;
        }
        top += count;
    }
    Ok(())
}

/// Error of something larger than the limits.
fn held(path: &Path, what: impl Into<String>, limits: &Limits) -> DataError {
    DataError::Held { path: path.into(), what: what.into(), limit: limits.max_bytes }
}

#[cfg(test)]
mod tests;
