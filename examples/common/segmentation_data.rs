//! The folder that `unet_train` learns from, by default the sample in the repository.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use segkiln::{
    DataRecord,
    core::Classes,
    data::{
        self, CheckReport, ColorMode, DataError, DecodeOptions, MaskFormat, Normalize,
        datasets::{Cached, FolderDataset, FolderOptions, Survey},
    },
    models::{ModelCard, config_file},
};

use crate::common::Failure;

/// Bytes of decoded images that are kept.
const CACHE: usize = 2 << 30;

/// Flag that names the data.
#[derive(clap::Args)]
pub struct Sources {
    /// Folder with images/, labels/, train.txt, val.txt and perhaps test.txt [default: the sample in the repository]
    #[arg(long)]
    data: Option<PathBuf>,
}

/// Splits to learn from and to measure with, of background and foreground.
pub struct Data {
    pub train: Arc<Cached<FolderDataset>>,
    pub valid: Arc<Cached<FolderDataset>>,
    pub test: FolderDataset,
    /// Name of the split that is measured: `val` where there is no `test`.
    pub measured: &'static str,
    pub color: ColorMode,
    pub normalize: Normalize,
    pub seen: Survey,
    pub is_sample: bool,
    /// Record of the data in `config.json`.
    pub record: DataRecord,
}

impl Sources {
    fn folder(&self) -> PathBuf {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample");
        self.data.clone().unwrap_or_else(|| sample.into())
    }

    fn measured(&self) -> &'static str {
        if self.folder().join("test.txt").exists() { "test" } else { "val" }
    }

    fn split(&self, split: &str, color: ColorMode, decode: DecodeOptions) -> Result<FolderDataset, DataError> {
        self.open_split(split, FolderOptions { color, decode, ..Default::default() })
    }

    fn open_split(&self, split: &str, options: FolderOptions) -> Result<FolderDataset, DataError> {
        let options = FolderOptions { mask: MaskFormat::Binary, ..options };
        FolderDataset::open_split(self.folder(), split, &Classes::binary(), options)
    }

    /// Opens the splits after a look at every image: bad files are found here, not in epoch 7 or after the last. Channels and
    /// normalization are those of the run that a `.bpk` of `weights` is of, or of published weights, or what the images have.
    pub fn open(&self, weights: Option<&Path>, decode: DecodeOptions) -> Result<Data, Failure> {
        let [train, valid] = [self.split("train", ColorMode::Rgb, decode)?, self.split("val", ColorMode::Rgb, decode)?];
        let seen = Survey::of(&[&train, &valid])?;
        let earlier = weights.filter(|path| is_ours(path)).map(earlier_run).transpose()?;
        let is_published = weights.is_some() && earlier.is_none();
        let color = match &earlier {
            Some(card) => card.color.unwrap_or(ColorMode::Rgb),
            None if seen.gray && !is_published => ColorMode::Gray,
            None => ColorMode::Rgb,
        };
        let mut record = DataRecord::of(&[&train, &valid], decode)?;
        record.weights = weights.map(|path| path.display().to_string());
        let train = Arc::new(Cached::new(self.split("train", color, decode)?, CACHE));
        let valid = Arc::new(Cached::new(self.split("val", color, decode)?, CACHE));
        let test = self.split(self.measured(), color, decode)?;
        Survey::of(&[&test])?;
        let normalize = match earlier {
            Some(card) => card.normalize,
            None if is_published => Normalize::imagenet(),
            None => Normalize::of_dataset(&train)?,
        };
        let (measured, is_sample) = (self.measured(), self.data.is_none());
        Ok(Data { train, valid, test, measured, color, normalize, seen, is_sample, record })
    }

    /// Faults of the data that the flag names.
    pub fn check(&self, decode: DecodeOptions) -> CheckReport {
        let splits = BTreeSet::from(["train", "val", self.measured()]);
        data::check(splits.into_iter().flat_map(|split| {
            let opened = self.split(split, ColorMode::Rgb, decode);
            // Samples that have all their files are looked at, though others lack one.
            let options = FolderOptions { drop_unpaired: true, decode, ..Default::default() };
            let rest = opened.is_err().then(|| self.open_split(split, options).ok()).flatten();
            [Some(opened), rest.map(Ok)].into_iter().flatten()
        }))
    }
}

/// Whether a file of weights is one of this library's.
pub fn is_ours(weights: &Path) -> bool {
    weights.extension().is_some_and(|extension| extension == "bpk")
}

/// Reads the description of the run that a file of weights is of.
fn earlier_run(weights: &Path) -> Result<ModelCard, Failure> {
    let card = config_file::read(&weights.with_file_name("config.json"));
    Ok(card.map_err(|error| format!("{error}; a .bpk needs its run's"))?)
}
