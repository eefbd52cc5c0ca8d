use std::sync::Arc;

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::{LabelMap, Size};

use crate::{
    DataError, Result, Sample,
    regions::{Region, RegionSource, TiffSource},
    rng::{Purpose, TransformRng},
};

/// Blocks that a scene is split into, at most.
const MOST_BLOCKS: usize = 1 << 24;

/// Split of a scene into square chips to train on and to validate on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpatialSplit {
    /// Side of the square chips in pixels.
    pub chip: u32,
    /// Side, in chips, of the blocks that are for one purpose as a whole.
    pub block: u32,
    /// Share of the blocks that are for validation, between 0 and 1.
    pub validation: f64,
    /// Pixels that are at least between a chip to train on and one to validate on; chips that are nearer are left out of training.
    pub gap: u32,
}

impl Default for SpatialSplit {
    fn default() -> Self {
        Self { chip: 512, block: 4, validation: 0.2, gap: 512 }
    }
}

/// Chips of a scene, from the top and from the left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chips {
    /// Chips to train on.
    pub train: Vec<Region>,
    /// Chips to validate on.
    pub val: Vec<Region>,
}

impl SpatialSplit {
    /// Splits a scene of so many pixels. Neighboring pixels are alike, so that chips drawn one by one would validate on what was learned:
    /// blocks of chips are drawn, at random by the seed, and a gap is left around those for validation (Roberts et al., 2017). What is
    /// left of a chip at the right and at the bottom is not used.
    ///
    /// ```
    /// use segkiln_core::Size;
    /// use segkiln_data::datasets::SpatialSplit;
    ///
    /// let scene = Size { width: 1000, height: 1200 };
    /// let chips = SpatialSplit { chip: 100, block: 2, validation: 0.25, gap: 100 }.of(scene, 0)?;
    /// assert!(chips.val.len() >= 24 && chips.train.len() >= 24);
    /// # Ok::<(), segkiln_data::DataError>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::Option`] if a side is 0, there are more than 2²⁴ blocks or the share is not between 0 and 1, [`DataError::Empty`] if no
    /// chip is left for one purpose.
    pub fn of(&self, Size { width, height }: Size, seed: u64) -> Result<Chips> {
        let Self { chip, block, validation, gap } = *self;
        if chip == 0 || block == 0 {
            return Err(DataError::option("chip", "chips and blocks must have a side of at least 1"));
        }
        if !(validation > 0.0 && validation < 1.0) {
            return Err(DataError::option("validation", format!("must be between 0 and 1, not {validation}")));
        }
        let [columns, rows] = [width / chip, height / chip];
        let [across, down] = [columns, rows].map(|count| count.div_ceil(block) as usize);
        if across.saturating_mul(down) > MOST_BLOCKS {
            return Err(DataError::option("block", format!("{across}x{down} blocks are too many; make them larger")));
        }
        let mut order: Vec<usize> = (0..across * down).collect();
        TransformRng::for_purpose(Purpose::Split, seed, 0, 0).shuffle(&mut order);
        order.truncate(((across * down) as f64 * validation).round().max(1.0) as usize);
        let mut is_val = vec![false; across * down];
        order.into_iter().for_each(|block| is_val[block] = true);
        let region = |column: u32, row: u32| Region { left: column * chip, top: row * chip, width: chip, height: chip };
        let at = |column: u32, row: u32| is_val[(row / block) as usize * across + (column / block) as usize];
        // Chips that are nearer than the gap.
        let near = gap.div_ceil(chip);
        let mut chips = Chips { train: Vec::new(), val: Vec::new() };
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            if at(column, row) {
                chips.val.push(region(column, row));
                continue;
            }
            let end = |at: u32, count: u32| count.min(at.saturating_add(near).saturating_add(1));
            let around = |at: u32, count: u32| at.saturating_sub(near)..end(at, count);
            let is_free = around(row, rows).all(|other| around(column, columns).all(|column| !at(column, other)));
            if is_free {
                chips.train.push(region(column, row));
            }
        }
        for (part, purpose) in [(&chips.train, "training"), (&chips.val, "validation")] {
            if part.is_empty() {
                let what = format!(
                    "the {purpose} part of {columns}x{rows} chips in blocks of {block} with a gap of {gap} pixels"
                );
                return Err(DataError::Empty { what });
            }
        }
        Ok(chips)
    }
}

/// Chips of a scene with any number of bands, and of a map of its classes in a TIFF, read when they are asked for.
///
/// Pixels without data have the mean of the others, as in [`read_image`](crate::read_image), and the label that losses ignore, if one is
/// given. [`Normalize::of_dataset`](crate::Normalize::of_dataset) of the chips to train on normalizes each band.
#[derive(Debug)]
pub struct ChipDataset<S> {
    scene: Arc<S>,
    labels: Arc<TiffSource>,
    chips: Vec<Region>,
    ignore: Option<u32>,
}

impl<S: RegionSource> ChipDataset<S> {
    /// Chips of level 0.
    ///
    /// # Errors
    /// [`DataError::SizeMismatch`] if scene and map differ in size, [`DataError::Empty`] if there are no chips.
    pub fn new(scene: Arc<S>, labels: Arc<TiffSource>, chips: Vec<Region>, ignore: Option<u32>) -> Result<Self> {
        let (image_size, mask_size) = (scene.levels()[0].size(), labels.levels()[0].size());
        if image_size != mask_size {
            return Err(DataError::SizeMismatch {
                image: scene.path().into(),
                image_size,
                mask: labels.path().into(),
                mask_size,
                cure: "bring them to one grid".into(),
            });
        }
        if chips.is_empty() {
            return Err(DataError::Empty { what: format!("the list of chips of {}", scene.path().display()) });
        }
        Ok(Self { scene, labels, chips, ignore })
    }
}

impl<S: RegionSource> Dataset<Sample> for ChipDataset<S> {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        let region = self.chips[index];
        let pixels = self.scene.read(0, region)?;
        let mut labels = self.labels.read_labels(0, region)?;
        let (mut image, missing) = (pixels.image, pixels.missing);
        let bands = image.channels();
        for band in 0..bands {
            let there = image.as_slice()[band..].iter().step_by(bands).zip(&missing).filter(|(_, missing)| !**missing);
            let (sum, count) = there.fold((0.0, 0u32), |(sum, count), (value, _)| (sum + f64::from(*value), count + 1));
            let mean = if count > 0 { (sum / f64::from(count)) as f32 } else { 0.0 };
            let values = image.as_mut_slice()[band..].iter_mut().step_by(bands).zip(&missing);
            values.filter(|(_, missing)| **missing).for_each(|(value, _)| *value = mean);
        }
        if let Some(ignore) = self.ignore {
            labels.iter_mut().zip(&missing).filter(|(_, missing)| **missing).for_each(|(label, _)| *label = ignore);
        }
        let Region { left, top, width, height } = region;
        let target = LabelMap::new(width, height, labels).expect("a region has width * height labels");
        let stem = self.scene.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Sample { name: format!("{stem}@{left},{top}+{width}x{height}"), image, target })
    }

    fn len(&self) -> usize {
        self.chips.len()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        DecodeOptions, Normalize,
        regions::{GeoTags, SampleType, TiffSink, TiffSinkOptions},
    };

    #[test]
    fn neighbors_are_not_on_both_sides() {
        let split = SpatialSplit { chip: 10, block: 3, validation: 0.2, gap: 15 };
        let scene = Size { width: 405, height: 309 };
        let chips = split.of(scene, 7).unwrap();
        assert_eq!(split.of(scene, 7).unwrap(), chips);
        assert_ne!(split.of(scene, 8).unwrap(), chips);
        let apart = |a: u32, b: u32| a.abs_diff(b).saturating_sub(10);
        for (train, val) in chips.train.iter().flat_map(|train| chips.val.iter().map(move |val| (train, val))) {
            assert!(apart(train.left, val.left).max(apart(train.top, val.top)) >= 15, "{train:?} {val:?}");
        }
        let all = 40.0 * 30.0;
        assert!((0.15..0.25).contains(&(chips.val.len() as f64 / all)), "{}", chips.val.len());
        assert!(chips.train.iter().chain(&chips.val).all(|chip| chip.is_within((400, 300).into())));
        let wide = SpatialSplit { gap: 1000, ..split };
        assert!(wide.of(scene, 7).unwrap_err().to_string().contains("training part"));
        assert!(SpatialSplit { validation: 1.0, ..split }.of(scene, 7).is_err());
        assert!(split.of((5, 5).into(), 7).is_err());
    }

    #[test]
    fn chips_are_read_with_their_labels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.tif");
        let options = TiffSinkOptions {
            width: 90,
            height: 70,
            bands: 1,
            samples: SampleType::U8,
            geo: GeoTags::default(),
            identity: None,
        };
        let mut labels = TiffSink::create(&path, options).unwrap();
        labels.push_labels(&(0..90 * 70).map(|at| at % 7).collect::<Vec<u32>>()).unwrap();
        labels.finish().unwrap();
        let labels = Arc::new(TiffSource::open(&path, DecodeOptions::default()).unwrap());
        let open = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/regions").join(name);
            Arc::new(TiffSource::open(path, DecodeOptions::default()).unwrap())
        };
        let region = Region { left: 30, top: 20, width: 9, height: 8 };
        let other = Region { left: 60, top: 0, width: 20, height: 30 };
        let five = ChipDataset::new(open("planar_u16.tif"), labels.clone(), vec![region, other], None).unwrap();
        let sample = five.get(0).unwrap();
        assert_eq!((five.len(), sample.name.as_str()), (2, "planar_u16@30,20+9x8"));
        assert_eq!(sample.target.get(1, 2), Some((22 * 90 + 31) % 7));
        assert_eq!(sample.image.as_slice(), five.scene.read(0, region).unwrap().image.as_slice());
        // Each band is normalized by itself.
        assert_eq!(Normalize::of_dataset(&five).unwrap().mean().len(), 5);
        let hole = Region { left: 20, top: 10, width: 20, height: 20 };
        let sample =
            ChipDataset::new(open("f32_nodata.tif"), labels.clone(), vec![hole], Some(255)).unwrap().get(0).unwrap();
        let missing = |x: u32, y: u32| x >= 10 && y >= 10;
        let (values, classes) = (sample.image.as_slice(), sample.target.as_slice());
        let there: Vec<f32> = (0..400).filter(|at| !missing(at % 20, at / 20)).map(|at| values[at as usize]).collect();
        let mean = there.iter().sum::<f32>() / there.len() as f32;
        for at in 0..400u32 {
            let is_missing = missing(at % 20, at / 20);
            assert_eq!(classes[at as usize] == 255, is_missing);
            assert!(!is_missing || (values[at as usize] - mean).abs() < 1e-3);
        }
        assert!(ChipDataset::new(open("ome.tif"), labels, vec![region], None).is_err());
    }
}
