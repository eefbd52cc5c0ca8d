use std::{collections::BTreeMap, sync::Arc};

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::{Classes, LabelMap};
use serde::{Deserialize, Serialize};

use super::{
    Case,
    patch_motion::{DrawnMotion, PatchMotion},
    slices::check_cases,
};
use crate::{
    DataError, DrawnDataset, Image, Result, Sample,
    rng::{Purpose, TransformRng},
};

/// Size, number and choice of the patches of [`PatchesDataset`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchOptions {
    /// Depth, height and width of a patch, in voxels.
    pub patch: [usize; 3],
    /// Patches of each case in an epoch.
    pub per_case: usize,
    /// Share of the patches around a voxel with foreground, of a class that is drawn first; as nnU-Net, which takes a third. The
    /// voxel is the patch's middle, but near a border of the case. The others lie anywhere.
    pub foreground: f32,
    /// Label that is no foreground though it is not 0. Voxels of a patch that are outside of its case have this label, or 0
    /// without it, and the value 0.
    pub ignore_index: Option<u32>,
    /// Seed of the places of the data set whose patches do not change.
    pub seed: u64,
}

/// Patches of volumes as a data set for networks of three dimensions.
///
/// As a [`Dataset`] it is for validation: patch `index` is the same each time. As a [`DrawnDataset`] it is for training: places are
/// drawn anew in each epoch, and patches are turned, scaled and mirrored [as asked for](Self::with_motion).
///
/// A sample's image has the slices of the patch one below the other, from the first to the last, and so have its labels:
/// `segkiln_models::volumes::StackedUNet3d` takes them so. Splits are made of cases, as for [`SlicesDataset`](super::SlicesDataset).
///
/// ```
/// use std::sync::Arc;
///
/// use burn::data::dataset::Dataset;
/// use segkiln_core::Classes;
/// use segkiln_data::{Loader, volumes::{Case, Geometry, LabelVolume, PatchMotion, PatchOptions, PatchesDataset, Volume}};
///
/// let spacing = [3.0, 1.0, 1.0];
/// let geometry = Geometry::with_spacing([6, 20, 20], spacing)?;
/// let image = Volume::new(geometry.clone(), 1, vec![0.5; 2400])?;
/// let labels = LabelVolume::new(geometry, vec![0; 2400])?;
/// let case = Case { name: "a".into(), image, labels };
/// let options = PatchOptions { patch: [4, 8, 16], per_case: 5, foreground: 0.33, ignore_index: None, seed: 1 };
/// let patches = PatchesDataset::new(vec![Arc::new(case)], &Classes::binary(), options)?;
/// assert_eq!(Dataset::len(&patches), 5);
/// let image = patches.get(0).unwrap().image;
/// assert_eq!((image.height(), image.width()), (4 * 8, 16));
///
/// let training = patches.with_motion(PatchMotion::nnunet(options.patch))?;
/// let loader = Loader::drawn(Arc::new(training)).batch_size(2);
/// # drop(loader);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PatchesDataset {
    cases: Vec<Arc<Case>>,
    options: PatchOptions,
    motion: Option<PatchMotion>,
    /// Voxels of each class of the foreground of each case.
    foreground: Vec<Vec<Vec<usize>>>,
}

impl PatchesDataset {
    /// Most voxels of a class and case that patches are drawn around: of more, every n-th.
    const PLACES: usize = 10_000;

    /// Patches of cases, in the order of the cases.
    ///
    /// # Errors
    /// If there is no case, an image and its labels differ in size, images in channels, a label is no class, or an option is out of
    /// its range.
    pub fn new(cases: Vec<Arc<Case>>, classes: &Classes, options: PatchOptions) -> Result<Self> {
        let PatchOptions { patch, per_case, foreground, ignore_index, .. } = options;
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
        let places = |case: &Arc<Case>| match foreground > 0.0 {
            true => foreground_voxels(case.labels.as_slice(), ignore_index),
            false => Vec::new(),
        };
        let foreground = cases.iter().map(places).collect();
        Ok(Self { cases, options, motion: None, foreground })
    }

    /// Turns, scales and mirrors the patches that are drawn.
    ///
    /// # Errors
    /// If a field of `motion` is out of its range.
    pub fn with_motion(mut self, motion: PatchMotion) -> Result<Self> {
        motion.check()?;
        self.motion = Some(motion);
        Ok(self)
    }

    /// Returns the cases.
    pub fn cases(&self) -> &[Arc<Case>] {
        &self.cases
    }

    /// Returns the case of a sample of the [`Dataset`] and the first voxel (slice, row, column) of its patch.
    ///
    /// # Panics
    /// If `index` is past the end.
    pub fn place(&self, index: usize) -> (&Case, [usize; 3]) {
        let mut rng = TransformRng::for_purpose(Purpose::Split, self.options.seed, 3, index as u64);
        let case = self.case_of(index);
        (&self.cases[case], self.draw_place(case, &mut rng))
    }

    fn case_of(&self, index: usize) -> usize {
        index / self.options.per_case
    }

    /// Draws the first voxel of a patch.
    fn draw_place(&self, case: usize, rng: &mut TransformRng) -> [usize; 3] {
        let PatchOptions { patch, foreground, .. } = self.options;
        let size = self.cases[case].labels.geometry().size();
        let last = [0, 1, 2].map(|axis| size[axis].saturating_sub(patch[axis]));
        let of_class = &self.foreground[case];
        if rng.chance(foreground) && !of_class.is_empty() {
            let voxels = &of_class[rng.below(of_class.len())];
            let voxel = voxels[rng.below(voxels.len())];
            let at = [voxel / (size[1] * size[2]), voxel / size[2] % size[1], voxel % size[2]];
            [0, 1, 2].map(|axis| at[axis].saturating_sub(patch[axis] / 2).min(last[axis]))
        } else {
            last.map(|last| rng.below(last + 1))
        }
    }

    /// The part of a case from `start`, which may be filled up at its ends.
    fn patch(&self, case: &Case, start: [usize; 3]) -> Patch {
        let PatchOptions { patch: [depth, height, width], ignore_index, .. } = self.options;
        let [slices, rows, columns] = case.image.geometry().size();
        let mut out = Patch::filled([depth, height, width], case.image.channels(), ignore_index.unwrap_or(0));
        for z in 0..depth.min(slices) {
            for y in 0..height.min(rows) {
                let count = width.min(columns);
                let from = ((start[0] + z) * rows + start[1] + y) * columns + start[2];
                let to = (z * height + y) * width;
                out.labels[to..to + count].copy_from_slice(&case.labels.as_slice()[from..from + count]);
                for channel in 0..out.channels {
                    let source = &case.image.channel(channel)[from..from + count];
                    let targets = out.values[to * out.channels..].iter_mut().skip(channel).step_by(out.channels);
                    for (target, value) in targets.zip(source) {
                        *target = *value;
                    }
                }
            }
        }
        out
    }
}

/// Voxels of each class of the foreground.
fn foreground_voxels(labels: &[u32], ignore_index: Option<u32>) -> Vec<Vec<usize>> {
    let is_foreground = |label: u32| label != 0 && Some(label) != ignore_index;
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for label in labels.iter().filter(|label| is_foreground(**label)) {
        *counts.entry(*label).or_default() += 1;
    }
    // The step, the number of voxels so far, and those that are kept.
    let mut of_class: BTreeMap<u32, (usize, usize, Vec<usize>)> = BTreeMap::new();
    for (label, count) in counts {
        of_class.insert(label, (count.div_ceil(PatchesDataset::PLACES), 0, Vec::new()));
    }
    for (voxel, label) in labels.iter().enumerate() {
        if let Some((step, seen, kept)) = of_class.get_mut(label) {
            if seen.is_multiple_of(*step) {
                kept.push(voxel);
            }
            *seen += 1;
        }
    }
    of_class.into_values().map(|(_, _, kept)| kept).collect()
}

/// Values and labels of a patch: `[depth, height, width, channels]` and `[depth, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Patch {
    pub size: [usize; 3],
    pub channels: usize,
    pub values: Vec<f32>,
    pub labels: Vec<u32>,
}

impl Patch {
    /// A patch of zeros with this label.
    pub fn filled(size: [usize; 3], channels: usize, label: u32) -> Self {
        let voxels = size.iter().product::<usize>();
        Self { size, channels, values: vec![0.0; voxels * channels], labels: vec![label; voxels] }
    }

    fn into_sample(self, name: String) -> Result<Sample> {
        let [depth, height, width] = self.size;
        let (columns, rows) = (width as u32, (depth * height) as u32);
        let target = LabelMap::new(columns, rows, self.labels).expect("a label a pixel");
        Ok(Sample { name, image: Image::new(columns, rows, self.channels, self.values)?, target })
    }
}

/// Name of the patch of a case that begins at a voxel.
fn name(case: &Case, start: [usize; 3]) -> String {
    format!("{}@{},{},{}", case.name, start[0], start[1], start[2])
}

impl Dataset<Sample> for PatchesDataset {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        let (case, start) = self.place(index);
        Ok(self.patch(case, start).into_sample(name(case, start))?)
    }

    fn len(&self) -> usize {
        self.cases.len() * self.options.per_case
    }
}

impl DrawnDataset for PatchesDataset {
    fn len(&self) -> usize {
        Dataset::len(self)
    }

    fn draw(&self, index: usize, rng: &mut TransformRng) -> Result<Sample> {
        let case = self.case_of(index);
        let start = self.draw_place(case, rng);
        let case = &*self.cases[case];
        let PatchOptions { patch, ignore_index, .. } = self.options;
        let drawn = self.motion.map(|motion| motion.draw(case.image.geometry().spacing(), rng));
        let mut out = match drawn {
            Some(DrawnMotion { turn: Some(turn), .. }) => turn.apply(case, start, patch, ignore_index.unwrap_or(0)),
            _ => self.patch(case, start),
        };
        if let Some(DrawnMotion { mirrored, .. }) = drawn {
            out.mirror(mirrored);
        }
        out.into_sample(name(case, start))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use burn::data::dataloader::DataLoader;

    use super::*;
    use crate::{
        Loader,
        volumes::{Geometry, LabelVolume, Volume},
    };

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
        assert_eq!(Dataset::len(&set), 40);
        for index in 0..Dataset::len(&set) {
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
        let places: BTreeSet<_> = (0..Dataset::len(&set)).map(|index| set.place(index).1).collect();
        assert!(places.len() > 20, "{places:?}");
    }

    #[test]
    fn a_share_of_the_patches_has_foreground() {
        // In the corner, where few patches lie.
        let case = case([20, 20, 20], &[0]);
        let count = |foreground| {
            let options = PatchOptions { foreground, ..OPTIONS };
            let set = PatchesDataset::new(vec![case.clone()], &Classes::binary(), options).unwrap();
            (0..Dataset::len(&set)).filter(|index| set.get(*index).unwrap().target.as_slice().contains(&1)).count()
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

    #[test]
    fn patches_are_drawn_anew_in_each_epoch_and_the_same_when_it_comes_again() {
        let case = case([9, 20, 20], &[1000, 1001, 2100]);
        let options = PatchOptions { per_case: 6, foreground: 0.5, ..OPTIONS };
        let patches = PatchesDataset::new(vec![case], &Classes::binary(), options).unwrap();
        let moved = PatchMotion { p_rotation: 0.5, p_scaling: 0.5, ..PatchMotion::nnunet(options.patch) };
        for patches in [patches.clone(), patches.with_motion(moved).unwrap()] {
            let contents = |workers: usize, epoch: usize| -> Vec<_> {
                let loader = Loader::drawn(Arc::new(patches.clone())).batch_size(4).seed(3).shuffle(true);
                let loader = loader.workers(workers).build().unwrap();
                loader.epoch().set(epoch);
                let batches = loader.iter().map(|batch| batch.unwrap());
                batches.map(|batch| (batch.names, batch.images.into_data(), batch.masks.into_data())).collect()
            };
            // As after a resumption: a loader that has seen nothing before.
            let second = contents(2, 1);
            assert_eq!(second, contents(0, 1));
            assert_ne!(second, contents(2, 2));
            let places: BTreeSet<String> =
                (0..4).flat_map(|epoch| contents(0, epoch)).flat_map(|batch| batch.0).collect();
            assert!(places.len() > 12, "{places:?}");
        }
    }

    #[test]
    fn foreground_in_plenty_is_thinned_out_evenly() {
        let labels: Vec<u32> =
            (0..50_000).map(|voxel| if voxel < 30_000 { 1 } else { 2 * u32::from(voxel == 40_000) }).collect();
        let found = foreground_voxels(&labels, None);
        assert_eq!((found[0].len(), found[0][1], &found[1]), (10_000, 3, &vec![40_000]));
        assert_eq!(foreground_voxels(&labels, Some(1)), [[40_000]]);
    }
}
