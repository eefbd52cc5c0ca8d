use std::path::Path;

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::Classes;

use super::pairs::{Pairs, by_stem};
use crate::{ColorMode, DecodeOptions, MaskFormat, Result, Sample, splits::read_list};

/// The semantic segmentation part of Pascal VOC (Everingham et al. 2010), and other sets in its layout:
/// `JPEGImages/*.jpg`, `SegmentationClass/*.png` (palette indices; 255 is void), `ImageSets/Segmentation/<split>.txt`.
#[derive(Debug, Clone)]
pub struct VocSegmentation(pub(super) Pairs);

impl VocSegmentation {
    /// A split (`train`, `val`, `trainval`) of the set at `root` (`VOCdevkit/VOC2012`), RGB, with the 21 classes of
    /// [`Classes::voc`].
    ///
    /// # Errors
    /// If the list or a folder cannot be read, the list is empty, or a file that it names is missing.
    pub fn open(root: impl AsRef<Path>, split: &str) -> Result<Self> {
        Self::with_classes(root, split, &Classes::voc())
    }

    /// Opens a split with other classes.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_classes(root: impl AsRef<Path>, split: &str, classes: &Classes) -> Result<Self> {
        let root = root.as_ref();
        let stems = read_list(root.join("ImageSets/Segmentation").join(format!("{split}.txt")))?;
        let pairs = by_stem(&root.join("JPEGImages"), &root.join("SegmentationClass"), "", Some(&stems), false)?;
        Ok(Self(Pairs {
            pairs,
            color: ColorMode::Rgb,
            format: MaskFormat::Index,
            relabel: |label| label,
            classes: classes.clone(),
            decode: DecodeOptions::default(),
        }))
    }

    /// The stems, in the order of the list.
    pub fn names(&self) -> Vec<&str> {
        self.0.names()
    }
}

impl Dataset<Sample> for VocSegmentation {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        Ok(self.0.get(index)?)
    }

    fn len(&self) -> usize {
        self.0.pairs.len()
    }
}
