use burn::data::dataset::{Dataset, DatasetError};

use crate::{
    DataError, Result, Sample,
    regions::Region,
    transforms::{Border, crop},
};

/// Parts of one large sample, for instance three quadrants to train on and a fourth to validate on.
///
/// ```
/// # use burn::data::dataset::Dataset;
/// # use segkiln_core::LabelMap;
/// use segkiln_data::{Image, Sample, datasets::RegionsDataset, regions::Region};
///
/// let image = Image::new(4, 4, 1, vec![0.5; 16])?;
/// let sample = Sample { name: "big".into(), image, target: LabelMap::filled(4, 4, 0) };
/// let right = RegionsDataset::new(sample, vec![Region { left: 2, top: 0, width: 2, height: 4 }])?;
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
        let size = sample.image.size();
        let cut = |region: &Region| {
            let Region { left, top, width, height } = *region;
            if !region.is_within(size) {
                let reason = format!("{region:?} must have pixels and lie within {}, {size}", sample.name);
                return Err(DataError::option("region", reason));
            }
            let mut part = crop(&sample, left.into(), top.into(), width, height, Border::Mirror);
            part.name = format!("{}@{left},{top}+{width}x{height}", sample.name);
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
        let region = Region { left: 1, top: 1, width: 2, height: 1 };
        let part = RegionsDataset::new(ramp(4, 3, 3), vec![region]).unwrap().get(0).unwrap();
        assert_eq!(part.target.as_slice(), [5, 6]);
        assert!(agrees(&part));
    }

    #[test]
    fn regions_must_fit() {
        for region in [
            Region { left: 3, top: 0, width: 2, height: 1 },
            Region { left: 0, top: 0, width: 0, height: 1 },
            Region { left: u32::MAX, top: 0, width: u32::MAX, height: 1 },
        ] {
            let error = RegionsDataset::new(ramp(4, 3, 1), vec![region]).unwrap_err().to_string();
            assert!(error.contains("must have pixels and lie within test, 4x3"), "{error}");
        }
        assert!(matches!(RegionsDataset::new(ramp(1, 1, 1), vec![]), Err(DataError::Empty { .. })));
    }
}
