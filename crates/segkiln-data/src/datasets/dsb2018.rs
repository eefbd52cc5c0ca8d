use std::path::Path;

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::Classes;

use super::pairs::{Pairs, by_stem};
use crate::{ColorMode, DecodeOptions, MaskFormat, Result, Sample, splits::read_list};

/// Fluorescence images of nuclei from the Data Science Bowl 2018 (BBBC038; Caicedo et al. 2019), in the layout
/// `images/STEM.png`, `labels/STEM.png` (instance ids, 0 = background), `train.txt`, `val.txt`, `test.txt`.
#[derive(Debug, Clone)]
pub struct Dsb2018(pub(super) Pairs);

impl Dsb2018 {
    /// A split (`train`, `val`, `test`) of the set at `root`, gray. [`MaskFormat::Binary`] gives nuclei and background,
    /// [`MaskFormat::Instances`] the ids.
    ///
    /// # Errors
    /// If the list or a folder cannot be read, the list is empty, or a file that it names is missing.
    pub fn open(root: impl AsRef<Path>, split: &str, mask: MaskFormat) -> Result<Self> {
        let root = root.as_ref();
        let stems = read_list(root.join(format!("{split}.txt")))?;
        let pairs = by_stem(&root.join("images"), &root.join("labels"), "", Some(&stems), false)?;
        Ok(Self(Pairs {
            pairs,
            color: ColorMode::Gray,
            format: mask,
            relabel: |label| label,
            classes: Classes::binary(),
            decode: DecodeOptions::default(),
        }))
    }

    /// The stems, in the order of the list.
    pub fn names(&self) -> Vec<&str> {
        self.0.names()
    }
}

impl Dataset<Sample> for Dsb2018 {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        Ok(self.0.get(index)?)
    }

    fn len(&self) -> usize {
        self.0.pairs.len()
    }
}
