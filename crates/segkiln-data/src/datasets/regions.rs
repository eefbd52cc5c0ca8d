use burn::data::dataset::{Dataset, DatasetError};

use crate::{
    DataError, Result, Sample,
    transforms::{Border, crop},
};

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    /// Leftmost column.
    pub x: u32,
    /// Topmost row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Parts of one large sample, for instance three quadrants to train on and a fourth to validate on.
///
/// ```
/// # use burn::data::dataset::Dataset;
/// # use segkiln_core::LabelMap;
/// use segkiln_data::{Image, Sample, datasets::{Region, RegionsDataset}};
///
/// let image = Image::new(4, 4, 1, vec![0.5; 16])?;
/// let sample = Sample { name: "big".into(), image, target: LabelMap::filled(4, 4, 0) };
/// let right = RegionsDataset::new(sample, vec![Region { x: 2, y: 0, width: 2, height: 4 }])?;
/// let part = right.get(0)?;
/// assert_eq!((part.image.width(), part.target.height()), (2, 4));
/// assert_eq!(part.name, "big@2,0+2x4");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct RegionsDataset(Vec<Sample>);

impl RegionsDataset {
    /// The regions of a sample, in order; their names say where they lie.
    ///
    /// # Errors
    /// If there is no region, one is empty or reaches beyond the image, or image and mask differ in size.
    pub fn new(sample: Sample, regions: Vec<Region>) -> Result<Self> {
        sample.check()?;
        if regions.is_empty() {
            return Err(DataError::Empty { what: format!("the list of regions of {}", sample.name) });
        }
        let (width, height) = (u64::from(sample.image.width()), u64::from(sample.image.height()));
        let cut = |region: &Region| {
            let Region { x, y, width: columns, height: rows } = *region;
            let inside = u64::from(x) + u64::from(columns) <= width && u64::from(y) + u64::from(rows) <= height;
            if columns == 0 || rows == 0 || !inside {
                let reason = format!("{region:?} must have pixels and lie within {}, {width}x{height}", sample.name);
                return Err(DataError::option("region", reason));
            }
            let mut part = crop(&sample, i64::from(x), i64::from(y), columns, rows, Border::Mirror);
            part.name = format!("{}@{x},{y}+{columns}x{rows}", sample.name);
            Ok(part)
        };
        regions.iter().map(cut).collect::<Result<_>>().map(Self)
    }
}

impl Dataset<Sample> for RegionsDataset {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        Ok(self.0[index].clone())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn regions_are_cut() {
        let region = Region { x: 1, y: 1, width: 2, height: 1 };
        let part = RegionsDataset::new(ramp(4, 3, 3), vec![region]).unwrap().get(0).unwrap();
        assert_eq!(part.target.as_slice(), [5, 6]);
        assert!(agrees(&part));
    }

    #[test]
    fn regions_must_fit() {
        for region in [
            Region { x: 3, y: 0, width: 2, height: 1 },
            Region { x: 0, y: 0, width: 0, height: 1 },
            Region { x: u32::MAX, y: 0, width: u32::MAX, height: 1 },
        ] {
            let error = RegionsDataset::new(ramp(4, 3, 1), vec![region]).unwrap_err().to_string();
            assert!(error.contains("must have pixels and lie within test, 4x3"), "{error}");
        }
        assert!(matches!(RegionsDataset::new(ramp(1, 1, 1), vec![]), Err(DataError::Empty { .. })));
    }
}
