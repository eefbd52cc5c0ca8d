use std::{collections::BTreeMap, sync::Arc};

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::{Classes, LabelMap};
use serde::{Deserialize, Serialize};

use super::{Case, slices::check_cases};
use crate::{
    DataError, Image, Result, Sample,
    rng::{Purpose, TransformRng},
};

/// Size, number and choice of the patches of [`PatchesDataset`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchOptions {
    /// Depth, height and width of a patch, in voxels.
    pub patch: [usize; 3],
    /// Patches of each case.
    pub per_case: usize,
    /// Share of the patches around a voxel with foreground, of a class that is drawn first; as nnU-Net, which takes a third. The
    /// voxel is the patch's middle, but near a border of the case. The others lie anywhere.
    pub foreground: f32,
    /// Label that is no foreground though it is not 0. Voxels of a patch that are outside of its case have this label, or 0
    /// without it, and the value 0.
    pub ignore_index: Option<u32>,
    /// Seed of the places.
    pub seed: u64,
}

/// Patches of volumes as a data set for networks of three dimensions. The places are drawn once: a patch is the same in each epoch.
///
/// A sample's image has the slices of the patch one below the other, from the first to the last, and so have its labels:
/// `segkiln_models::volumes::StackedUNet3d` takes them so. Splits are made of cases, as for [`SlicesDataset`](super::SlicesDataset).
///
/// ```
/// use std::sync::Arc;
///
/// use burn::data::dataset::Dataset;
/// use segkiln_core::Classes;
/// use segkiln_data::volumes::{Case, Geometry, LabelVolume, PatchOptions, PatchesDataset, Volume};
///
/// let geometry = Geometry::with_spacing([6, 20, 20], [3.0, 1.0, 1.0])?;
/// let image = Volume::new(geometry.clone(), 1, vec![0.5; 2400])?;
/// let labels = LabelVolume::new(geometry, vec![0; 2400])?;
/// let case = Case { name: "a".into(), image, labels };
/// let options = PatchOptions { patch: [4, 8, 16], per_case: 5, foreground: 0.33, ignore_index: None, seed: 1 };
/// let patches = PatchesDataset::new(vec![Arc::new(case)], &Classes::binary(), options)?;
/// assert_eq!(patches.len(), 5);
/// let image = patches.get(0).unwrap().image;
/// assert_eq!((image.height(), image.width()), (4 * 8, 16));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PatchesDataset {
    cases: Vec<Arc<Case>>,
    options: PatchOptions,
    /// Case and first voxel of each sample.
    samples: Vec<(usize, [usize; 3])>,
}

impl PatchesDataset {
    /// Draws patches of cases, in the order of the cases.
    ///
    /// # Errors
    /// If there is no case, an image and its labels differ in size, images in channels, a label is no class, or an option is out of
    /// its range.
    pub fn new(cases: Vec<Arc<Case>>, classes: &Classes, options: PatchOptions) -> Result<Self> {
        let PatchOptions { patch, per_case, foreground, ignore_index, seed } = options;
        let pixels = patch.iter().try_fold(1usize, |pixels, side| pixels.checked_mul(*side));
        if patch.contains(&0) || pixels.is_none_or(|pixels| pixels > 1 << 28) {
            return Err(DataError::option("patch", format!("must have 1 to 2^28 voxels, is {patch:?}")));
        }
        if per_case == 0 || cases.len().checked_mul(per_case).is_none_or(|count| count > 1 << 24) {
            return Err(DataError::option("per_case", format!("must be 1 to 2^24 over all cases, is {per_case}")));
        }
        if !(0.0..=1.0).contains(&foreground) {
            return Err(DataError::option("foreground", format!("must be from 0 to 1, is {foreground}")));
        }
        check_cases(&cases, classes, ignore_index)?;
        let mut samples = Vec::with_capacity(cases.len() * per_case);
        for (index, case) in cases.iter().enumerate() {
            let size = case.labels.geometry().size();
            let mut of_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (voxel, label) in case.labels.as_slice().iter().enumerate() {
                if foreground > 0.0 && *label != 0 && Some(*label) != ignore_index {
                    of_class.entry(*label).or_default().push(voxel);
                }
            }
            let of_class: Vec<Vec<usize>> = of_class.into_values().collect();
            for number in 0..per_case {
                let mut rng = TransformRng::for_purpose(Purpose::Split, seed, 3, (index * per_case + number) as u64);
                let last = [0, 1, 2].map(|axis| size[axis].saturating_sub(patch[axis]));
                let start = if rng.chance(foreground) && !of_class.is_empty() {
                    let voxels = &of_class[rng.below(of_class.len())];
                    let voxel = voxels[rng.below(voxels.len())];
                    let at = [voxel / (size[1] * size[2]), voxel / size[2] % size[1], voxel % size[2]];
                    [0, 1, 2].map(|axis| at[axis].saturating_sub(patch[axis] / 2).min(last[axis]))
                } else {
                    last.map(|last| rng.below(last + 1))
                };
                samples.push((index, start));
            }
        }
        Ok(Self { cases, options, samples })
    }

    /// Returns the cases.
    pub fn cases(&self) -> &[Arc<Case>] {
        &self.cases
    }

    /// Returns the case of a sample and the first voxel (slice, row, column) of its patch.
    ///
    /// # Panics
    /// If `index` is past the end.
    pub fn place(&self, index: usize) -> (&Case, [usize; 3]) {
        let (case, start) = self.samples[index];
        (&self.cases[case], start)
    }
}

impl Dataset<Sample> for PatchesDataset {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        let (case, start) = self.place(index);
        let PatchOptions { patch: [depth, height, width], ignore_index, .. } = self.options;
        let [slices, rows, columns] = case.image.geometry().size();
        let channels = case.image.channels();
        let voxels = depth * height * width;
        let mut values = vec![0.0; voxels * channels];
        let mut labels = vec![ignore_index.unwrap_or(0); voxels];
        for z in 0..depth.min(slices) {
            for y in 0..height.min(rows) {
                let count = width.min(columns);
                let from = ((start[0] + z) * rows + start[1] + y) * columns + start[2];
                let to = (z * height + y) * width;
                labels[to..to + count].copy_from_slice(&case.labels.as_slice()[from..from + count]);
                for channel in 0..channels {
                    let source = &case.image.channel(channel)[from..from + count];
                    let targets = values[to * channels..].iter_mut().skip(channel).step_by(channels);
                    for (target, value) in targets.zip(source) {
                        *target = *value;
                    }
                }
            }
        }
        let (columns, rows) = (width as u32, (depth * height) as u32);
        let name = format!("{}@{},{},{}", case.name, start[0], start[1], start[2]);
        let target = LabelMap::new(columns, rows, labels).expect("a label a pixel");
        Ok(Sample { name, image: Image::new(columns, rows, channels, values)?, target })
    }

    fn len(&self) -> usize {
        self.samples.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::{Geometry, LabelVolume, Volume};

    const OPTIONS: PatchOptions =
        PatchOptions { patch: [2, 4, 3], per_case: 40, foreground: 0.0, ignore_index: None, seed: 7 };

    /// Values are the voxels' numbers, and a second channel's a thousand more; labels are 1 in `marked`.
    fn case(size: [usize; 3], marked: &[usize]) -> Arc<Case> {
        let geometry = Geometry::with_spacing(size, [1.0; 3]).unwrap();
        let voxels = geometry.voxels();
        let values = (0..2 * voxels).map(|i| (i % voxels + i / voxels * 1000) as f32).collect();
        let labels = (0..voxels).map(|voxel| u32::from(marked.contains(&voxel))).collect();
        Arc::new(Case {
            name: "case".into(),
            image: Volume::new(geometry.clone(), 2, values).unwrap(),
            labels: LabelVolume::new(geometry, labels).unwrap(),
        })
    }

    #[test]
    fn patches_are_parts_of_the_volume() {
        let case = case([5, 6, 7], &[100]);
        let set = PatchesDataset::new(vec![case], &Classes::binary(), OPTIONS).unwrap();
        assert_eq!(set.len(), 40);
        for index in 0..set.len() {
            let sample = set.get(index).unwrap();
            let (_, [z, y, x]) = set.place(index);
            assert_eq!((sample.image.width(), sample.image.height(), sample.image.channels()), (3, 8, 2));
            for (pixel, (values, label)) in
                sample.image.as_slice().chunks_exact(2).zip(sample.target.as_slice()).enumerate()
            {
                let voxel = ((z + pixel / 12) * 6 + y + pixel / 3 % 4) * 7 + x + pixel % 3;
                assert_eq!(values, [voxel as f32, voxel as f32 + 1000.0]);
                assert_eq!(*label, u32::from(voxel == 100));
            }
        }
        let places: std::collections::BTreeSet<_> = set.samples.iter().collect();
        assert!(places.len() > 20, "{places:?}");
    }

    #[test]
    fn a_share_of_the_patches_has_foreground() {
        // In the corner, where few patches lie.
        let case = case([20, 20, 20], &[0]);
        let count = |foreground| {
            let options = PatchOptions { foreground, ..OPTIONS };
            let set = PatchesDataset::new(vec![case.clone()], &Classes::binary(), options).unwrap();
            (0..set.len()).filter(|index| set.get(*index).unwrap().target.as_slice().contains(&1)).count()
        };
        assert_eq!((count(0.0), count(1.0)), (0, 40));
        assert!((10..30).contains(&count(0.5)));
    }

    #[test]
    fn small_volumes_are_filled_up() {
        let case = case([1, 5, 2], &[]);
        let options = PatchOptions { ignore_index: Some(255), ..OPTIONS };
        let sample = PatchesDataset::new(vec![case], &Classes::binary(), options).unwrap().get(0).unwrap();
        assert_eq!(sample.target.as_slice()[..3], [0, 0, 255]);
        assert_eq!(sample.target.as_slice()[12..], [255; 12]);
        assert_eq!(sample.image.as_slice()[4..6], [0.0; 2]);
    }

    #[test]
    fn names_the_option_out_of_range() {
        let refused = |options| {
            PatchesDataset::new(vec![case([4; 3], &[])], &Classes::binary(), options).unwrap_err().to_string()
        };
        assert!(refused(PatchOptions { patch: [0, 1, 1], ..OPTIONS }).contains("patch"));
        assert!(refused(PatchOptions { patch: [usize::MAX, 2, 1], ..OPTIONS }).contains("patch"));
        assert!(refused(PatchOptions { per_case: 0, ..OPTIONS }).contains("per_case"));
        assert!(refused(PatchOptions { foreground: f32::NAN, ..OPTIONS }).contains("foreground"));
    }
}
