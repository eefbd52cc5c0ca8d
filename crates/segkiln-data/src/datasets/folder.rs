use std::path::Path;

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::Classes;

use super::pairs::{Pairs, by_stem};
use crate::{ColorMode, DecodeOptions, MaskFormat, Result, Sample, splits::read_list};

/// Options of a [`FolderDataset`]: places and reading of its files.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderOptions {
    /// Folder of the images within the root. Default: `images`.
    pub images: String,
    /// Folder of the masks within the root. Default: `labels`.
    pub labels: String,
    /// Suffix of a mask's name after the stem it shares with its image, such as `_mask` in `cell1_mask.png`. Default: none.
    pub label_suffix: String,
    /// The samples to take, in this order; see [`read_list`](crate::splits::read_list). Default: all, sorted.
    pub stems: Option<Vec<String>>,
    /// Leaves out samples that lack their image or their mask, with a warning that counts them, in place of an error. Default: no.
    pub drop_unpaired: bool,
    /// Channels that images are read into. Default: RGB.
    pub color: ColorMode,
    /// Format of the masks' values. Default: class indices.
    pub mask: MaskFormat,
    /// Options of decoding images and masks.
    pub decode: DecodeOptions,
}

impl Default for FolderOptions {
    fn default() -> Self {
        Self {
            images: "images".into(),
            labels: "labels".into(),
            label_suffix: String::new(),
            stems: None,
            drop_unpaired: false,
            color: ColorMode::default(),
            mask: MaskFormat::default(),
            decode: DecodeOptions::default(),
        }
    }
}

/// A folder of images and a folder of masks, paired by the names of the files without their extensions.
///
/// ```
/// # use burn::data::dataset::Dataset;
/// # use segkiln_core::{Classes, LabelMap};
/// use segkiln_data::{ColorMode, MaskFormat, datasets::{FolderDataset, FolderOptions}};
/// # use segkiln_data::{write_image, write_labels};
///
/// # let root = tempfile::tempdir()?;
/// # for folder in ["images", "labels"] { std::fs::create_dir(root.path().join(folder))?; }
/// # write_image(root.path().join("images/a.bmp"), &image::DynamicImage::new_rgb8(4, 4))?;
/// # write_labels(root.path().join("labels/a.png"), &LabelMap::filled(4, 4, 255))?;
/// // images/a.bmp, labels/a.png, ...
/// let options = FolderOptions { color: ColorMode::Gray, mask: MaskFormat::Binary, ..Default::default() };
/// let dataset = FolderDataset::open(root.path(), &Classes::binary(), options)?;
/// assert_eq!(dataset.names(), ["a"]);
/// assert_eq!(dataset.get(0)?.target.labels(), [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct FolderDataset(pub(super) Pairs);

impl FolderDataset {
    /// Pairs the files below `root`. Files without an extension of an image, hidden ones, and with a list those that it does
    /// not name are not samples.
    ///
    /// # Errors
    /// If a folder cannot be listed, there is nothing in it, a file has no partner, two files have one stem, or there is
    /// an image in a format that is not supported: all of them, see [`DataError::Several`](crate::DataError::Several).
    pub fn open(root: impl AsRef<Path>, classes: &Classes, options: FolderOptions) -> Result<Self> {
        let root = root.as_ref();
        let FolderOptions { images, labels, label_suffix, stems, drop_unpaired, color, mask, decode } = options;
        let (images, labels) = (root.join(images), root.join(labels));
        let pairs = by_stem(&images, &labels, &label_suffix, stems.as_deref(), drop_unpaired)?;
        let classes = classes.clone();
        Ok(Self(Pairs { pairs, color, format: mask, relabel: |label| label, classes, decode }))
    }

    /// [`open`](Self::open) of the samples that the list `SPLIT.txt` in the root names, see
    /// [`read_list`](crate::splits::read_list), in place of the options' stems.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if the list cannot be read.
    pub fn open_split(root: impl AsRef<Path>, split: &str, classes: &Classes, options: FolderOptions) -> Result<Self> {
        let stems = read_list(root.as_ref().join(format!("{split}.txt")))?;
        Self::open(root, classes, FolderOptions { stems: Some(stems), ..options })
    }

    /// The stems, in order.
    pub fn names(&self) -> Vec<&str> {
        self.0.names()
    }
}

impl Dataset<Sample> for FolderDataset {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        Ok(self.0.get(index)?)
    }

    fn len(&self) -> usize {
        self.0.pairs.len()
    }
}
