use std::sync::Arc;

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::Classes;
use serde::{Deserialize, Serialize};

use super::{LabelVolume, Slicing, Volume};
use crate::{
    DataError, Result, Sample,
    rng::{Purpose, TransformRng},
};

/// A patient, or one of their examinations: an image and its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Name in errors and results.
    pub name: String,
    /// The image, with the intensities that the network learns from.
    pub image: Volume,
    /// Labels of its voxels.
    pub labels: LabelVolume,
}

/// Choice of the slices of [`SlicesDataset`].
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SliceOptions {
    /// Plane and neighbors of the slices.
    pub slicing: Slicing,
    /// Share of the samples that have foreground, in `(0, 1]`: slices of the kind that there is too much of are left out, at
    /// random. Without, all slices are samples, as it should be for validation.
    pub foreground: Option<f64>,
    /// Label that is no foreground though it is not 0.
    pub ignore_index: Option<u32>,
    /// Seed of the choice.
    pub seed: u64,
}

/// Slices of volumes as a data set.
///
/// Splits are made of cases, never of slices, which would put neighbors of a slice that is trained on into the validation:
/// [`random_split`](crate::splits::random_split) over the number of cases, or [`k_fold`](crate::splits::k_fold) over their
/// [`LabelVolume::foreground`], and then a data set of each part's cases.
///
/// ```
/// # use burn::data::dataset::Dataset;
/// # use std::sync::Arc;
/// # use segkiln_core::Classes;
/// use segkiln_data::{splits::k_fold, volumes::{Case, Geometry, LabelVolume, SliceOptions, SlicesDataset, Volume}};
///
/// # let case = |n: u32| -> segkiln_data::Result<Arc<Case>> {
/// #     let geometry = Geometry::with_spacing([4, 8, 8], [1.0; 3])?;
/// #     Ok(Arc::new(Case { name: format!("case {n}"), image: Volume::new(geometry.clone(), 1, vec![0.0; 256])?,
/// #         labels: LabelVolume::new(geometry, vec![u32::from(n > 1); 256])? }))
/// # };
/// let cases = [case(0)?, case(1)?, case(2)?, case(3)?];
/// let foreground: Vec<f64> = cases.iter().map(|case| case.labels.foreground(None)).collect();
/// let fold = &k_fold(&foreground, 2, 42)?[0];
/// let of = |indices: &[usize]| indices.iter().map(|index| cases[*index].clone()).collect();
/// let train = SlicesDataset::new(of(&fold.train), &Classes::binary(), SliceOptions::default())?;
/// assert_eq!(train.len(), 2 * 4);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone)]
pub struct SlicesDataset {
    cases: Vec<Arc<Case>>,
    slicing: Slicing,
    /// Case and slice of each sample, in order.
    samples: Vec<(usize, usize)>,
}

impl SlicesDataset {
    /// The slices of cases, in the order of the cases and then of the slices.
    ///
    /// # Errors
    /// If there is no case or no slice with foreground where some are asked for, an image and its labels differ in size, images in
    /// channels, a label is no class, or an option is out of its range.
    pub fn new(cases: Vec<Arc<Case>>, classes: &Classes, options: SliceOptions) -> Result<Self> {
        let SliceOptions { slicing, foreground, ignore_index, seed } = options;
        check_cases(&cases, classes, ignore_index)?;
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for (index, case) in cases.iter().enumerate() {
            let size = case.image.geometry().size();
            if slicing.neighbors >= slicing.count(size) {
                let reason = format!("{} on either side, of {} slices", slicing.neighbors, slicing.count(size));
                return Err(DataError::volume(case.name.as_ref(), "neighbors", reason));
            }
            for slice in 0..slicing.count(size) {
                let labels = slicing.labels(&case.labels, slice);
                let is_foreground = labels.as_slice().iter().any(|label| *label != 0 && Some(*label) != ignore_index);
                if is_foreground { &mut with } else { &mut without }.push((index, slice));
            }
        }
        if let Some(share) = foreground {
            balance(share, &mut with, &mut without, seed)?;
        }
        let mut samples = with;
        samples.append(&mut without);
        samples.sort_unstable();
        Ok(Self { cases, slicing, samples })
    }

    /// The cases.
    pub fn cases(&self) -> &[Arc<Case>] {
        &self.cases
    }

    /// Case and slice of a sample.
    ///
    /// # Panics
    /// If `index` is past the end.
    pub fn place(&self, index: usize) -> (&Case, usize) {
        let (case, slice) = self.samples[index];
        (&self.cases[case], slice)
    }
}

/// Refuses cases that samples cannot be made of.
///
/// # Errors
/// If there is none, an image and its labels differ in size, images in channels, or a label is no class.
pub(super) fn check_cases(cases: &[Arc<Case>], classes: &Classes, ignore_index: Option<u32>) -> Result<()> {
    let first = cases.first().ok_or_else(|| DataError::Empty { what: "the list of cases".into() })?;
    let channels = first.image.channels();
    for case in cases {
        let (size, label_size) = (case.image.geometry().size(), case.labels.geometry().size());
        let refused = |field: &str, reason: String| Err(DataError::volume(case.name.as_ref(), field, reason));
        if size != label_size {
            return refused(
                "size",
                format!("the image has {size:?} voxels, its labels have {label_size:?}; they must be equal"),
            );
        }
        if case.image.channels() != channels {
            let reason = format!("{} channels, where {} has {channels}", case.image.channels(), first.name);
            return refused("channels", reason);
        }
        let wrong = |label: &&u32| **label as usize >= classes.count() && Some(**label) != ignore_index;
        if let Some(label) = case.labels.as_slice().iter().find(wrong) {
            return refused("labels", format!("{label} is none of the {} classes", classes.count()));
        }
    }
    Ok(())
}

/// Leaves out what there is too much of.
fn balance(share: f64, with: &mut Vec<(usize, usize)>, without: &mut Vec<(usize, usize)>, seed: u64) -> Result<()> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(DataError::option("foreground", format!("must be above 0 and at most 1, got {share}")));
    }
    if with.is_empty() {
        return Err(DataError::Empty { what: "the slices with foreground".into() });
    }
    let (many, few) = (with.len() as f64, without.len() as f64);
    let background = (many * (1.0 - share) / share).round();
    let keep = |slices: &mut Vec<(usize, usize)>, count: f64, part: u64| {
        TransformRng::for_purpose(Purpose::Split, seed, 2, part).shuffle(slices);
        slices.truncate(count as usize);
    };
    match background <= few {
        true => keep(without, background, 0),
        false => keep(with, (few * share / (1.0 - share)).round().max(1.0), 1),
    }
    Ok(())
}

impl Dataset<Sample> for SlicesDataset {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        let (case, slice) = self.place(index);
        let name = format!("{}@{slice}", case.name);
        let (image, target) = (self.slicing.image(&case.image, slice)?, self.slicing.labels(&case.labels, slice));
        Ok(Sample { name, image, target })
    }

    fn len(&self) -> usize {
        self.samples.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::Geometry;

    /// A case of `slices` slices, of which the first `foreground` have label 1 in a pixel.
    fn case(name: &str, slices: usize, foreground: usize) -> Arc<Case> {
        let geometry = Geometry::with_spacing([slices, 2, 3], [2.0, 1.0, 1.0]).unwrap();
        let labels = (0..slices * 6).map(|i| u32::from(i % 6 == 4 && i / 6 < foreground)).collect();
        let values = (0..slices * 6).map(|i| i as f32).collect();
        Arc::new(Case {
            name: name.into(),
            image: Volume::new(geometry.clone(), 1, values).unwrap(),
            labels: LabelVolume::new(geometry, labels).unwrap(),
        })
    }

    #[test]
    fn slices_with_foreground_come_at_the_share_asked_for() {
        let cases = vec![case("a", 40, 6), case("b", 60, 14)];
        let count = |foreground, seed| {
            let options = SliceOptions { foreground, seed, ..Default::default() };
            let set = SlicesDataset::new(cases.clone(), &Classes::binary(), options).unwrap();
            let with = (0..set.len()).filter(|i| set.get(*i).unwrap().target.as_slice().contains(&1)).count();
            assert!(set.samples.is_sorted());
            (with, set.len(), set.samples)
        };
        let all = count(None, 0);
        assert_eq!((all.0, all.1), (20, 100));
        let (with, total, samples) = count(Some(0.5), 0);
        assert_eq!((with, total), (20, 40));
        assert_eq!(samples, count(Some(0.5), 0).2);
        assert_ne!(samples, count(Some(0.5), 1).2);
        assert_eq!(count(Some(1.0), 0).1, 20);
        // There is too little background for so small a share of foreground.
        assert_eq!((count(Some(0.1), 0).0, count(Some(0.1), 0).1), (9, 89));
    }

    #[test]
    fn samples_have_neighbors_as_channels() {
        let slicing = Slicing { neighbors: 1, ..Default::default() };
        let options = SliceOptions { slicing, ..Default::default() };
        let set = SlicesDataset::new(vec![case("a", 3, 1)], &Classes::binary(), options).unwrap();
        let sample = set.get(1).unwrap();
        assert_eq!((sample.name.as_str(), sample.image.channels()), ("a@1", 3));
        assert_eq!(sample.image.as_slice()[..3], [0.0, 6.0, 12.0]);
        assert_eq!(set.place(1).1, 1);
    }

    #[test]
    fn cases_that_do_not_fit_are_refused() {
        let refused = |cases: Vec<Arc<Case>>, options| {
            SlicesDataset::new(cases, &Classes::binary(), options).unwrap_err().to_string()
        };
        let plain = SliceOptions::default();
        assert!(refused(vec![], plain).contains("no samples"));
        let mut odd = Case::clone(&case("odd", 4, 1));
        odd.labels = case("", 3, 1).labels.clone();
        assert!(refused(vec![case("a", 4, 1), Arc::new(odd.clone())], plain).contains("odd, size"));
        let geometry = odd.image.geometry().clone();
        odd.labels = LabelVolume::new(geometry.clone(), vec![7; 24]).unwrap();
        assert!(refused(vec![Arc::new(odd.clone())], plain).contains("7 is none of the 2 classes"));
        odd.image = Volume::new(geometry, 2, vec![0.0; 48]).unwrap();
        assert!(refused(vec![case("a", 4, 1), Arc::new(odd)], plain).contains("2 channels, where a has 1"));
        let with = |foreground| SliceOptions { foreground: Some(foreground), ..plain };
        assert!(refused(vec![case("a", 4, 1)], with(0.0)).contains("above 0"));
        assert!(refused(vec![case("a", 4, 0)], with(0.5)).contains("with foreground"));
        let far = SliceOptions { slicing: Slicing { neighbors: 4, ..Default::default() }, ..plain };
        assert!(refused(vec![case("a", 4, 1)], far).contains("neighbors"));
    }
}
