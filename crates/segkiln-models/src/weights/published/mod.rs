//! Weights that torchvision has published: what is known of each file, and the file itself, from a cache or the network.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use segkiln_models::{ModelConfig, SegmentationNetwork, SegmentationNetworkConfig, weights::{ResNet50Weights, Weights}};
//!
//! let file = ResNet50Weights::default().file(|done, total| eprintln!("{done} of {total:?} bytes"))?;
//! let unet = ModelConfig::by_name("unet_resnet50", 2)?.init(&Device::default()).load_pretrained(&file)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::{Path, PathBuf};

use segkiln_core::Classes;
use segkiln_data::Preset;

use super::WeightsError;
use crate::ConfigError;

mod cache;
#[cfg(feature = "pretrained")]
mod download;
mod table;

pub use table::*;

/// The weights that are published for one network.
pub trait Weights: Copy {
    /// Returns the description of the file.
    fn published(self) -> Published;

    /// The file; see [`Published::file`].
    ///
    /// # Errors
    /// As [`Published::file`].
    fn file(self, progress: impl FnMut(u64, Option<u64>)) -> Result<PathBuf, WeightsError> {
        self.published().file(progress)
    }
}

impl Weights for Published {
    fn published(self) -> Published {
        self
    }
}

/// A file of weights that torchvision has published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// torchvision's name of the network, such as `resnet50`.
    pub network: &'static str,
    /// torchvision's name of the weights, such as `IMAGENET1K_V2`.
    pub name: &'static str,
    /// The file's name.
    pub file: &'static str,
    /// Data set that the network was trained on.
    pub data: TrainingData,
    /// Preprocessing of an image before it is normalized with ImageNet's mean and standard deviation; none for detectors, which
    /// resize images themselves.
    pub preset: Option<Preset>,
    /// Whether these are torchvision's best for the network.
    pub is_default: bool,
}

/// Data set that a published network was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingData {
    /// ImageNet-1K: the class of a whole photograph.
    ImageNet,
    /// Images of COCO that show Pascal VOC's classes, labeled pixel by pixel.
    CocoVoc,
    /// COCO's objects.
    Coco,
}

impl TrainingData {
    /// Number of classes, with the background where there is one.
    pub fn classes(self) -> usize {
        match self {
            Self::ImageNet => 1000,
            Self::CocoVoc => 21,
            Self::Coco => 91,
        }
    }

    /// Returns the names of the classes; none of ImageNet's, which this library does not have.
    pub fn class_names(self) -> Option<Classes> {
        match self {
            Self::ImageNet => None,
            Self::CocoVoc => Some(Classes::voc()),
            Self::Coco => Some(Classes::coco()),
        }
    }
}

impl Published {
    /// The weights of a network by torchvision's names, also `DEFAULT`.
    ///
    /// # Errors
    /// If there are none of this name; the message lists those that there are.
    pub fn by_name(network: &str, name: &str) -> Result<Self, ConfigError> {
        let of: Vec<&Self> = ALL.iter().filter(|published| published.network == network).collect();
        let found = of.iter().find(|published| published.name == name || (name == "DEFAULT" && published.is_default));
        found.map(|published| **published).ok_or_else(|| {
            if of.is_empty() {
                let mut networks: Vec<&str> = ALL.iter().map(|published| published.network).collect();
                networks.dedup();
                let networks = networks.join(", ");
                let message = format!("no weights of {network} are published; there are some of {networks}");
                return ConfigError::with_message("weights", message);
            }
            let names: Vec<&str> = of.iter().map(|published| published.name).collect();
            let message = format!("{network} has no weights {name}; it has {} and DEFAULT", names.join(", "));
            ConfigError::with_message("weights", message)
        })
    }

    /// The weights of a network that are published as a file of this name, which has the first digits of its SHA-256; none if
    /// the file has another name.
    pub fn of_file(network: &str, path: &Path) -> Option<Self> {
        let file = path.file_name()?;
        ALL.iter().find(|published| published.network == network && file == published.file).copied()
    }

    /// All that are known.
    pub fn all() -> &'static [Self] {
        ALL
    }

    /// Address of the file.
    pub fn url(&self) -> String {
        format!("https://download.pytorch.org/models/{}", self.file)
    }

    /// The file's SHA-256 in hexadecimal digits: all 64 where they are known, else the eight that torchvision tells, with which
    /// it begins.
    pub fn sha256(&self) -> &'static str {
        let stem = self.file.rsplit_once('.').map_or(self.file, |(stem, _)| stem);
        let told = stem.rsplit_once('-').map_or("", |(_, digits)| digits);
        DIGESTS.into_iter().find(|digest| digest.starts_with(told)).unwrap_or(told)
    }

    /// Returns the terms under which the weights are published, as far as they are known.
    pub fn license(&self) -> &'static str {
        match self.data {
            TrainingData::ImageNet => {
                "torchvision is BSD-3-Clause and states no other terms; ImageNet's are for research"
            }
            TrainingData::CocoVoc | TrainingData::Coco => {
                "torchvision is BSD-3-Clause and states no other terms; COCO's annotations are CC BY 4.0"
            }
        }
    }

    /// The file on this machine, if it is in the cache (see [`file`](Self::file)).
    pub fn cached(&self) -> Option<PathBuf> {
        cache::find(self.file)
    }

    /// The file on this machine. Where it is in no cache, the feature `pretrained` downloads it; `progress` is told the bytes
    /// that are there, and how many there will be if that is known.
    ///
    /// The cache is the folder `$SEGKILN_CACHE`, or else `segkiln` in the user's folder of caches. What PyTorch has
    /// downloaded is found too. A download that was interrupted goes on where it ended; its file has its name only when
    /// it is whole and its SHA-256 begins as it must.
    ///
    /// Each use hashes the file, a second for a few hundred megabytes: one that this library downloaded must be what it was
    /// then (`NAME.sha256` beside it remembers that), one that was put there otherwise and is not the published one is used
    /// with a warning.
    ///
    /// # Errors
    /// [`WeightsError::Absent`], which says what to download and where to put it, or [`WeightsError::Damaged`].
    pub fn file(&self, progress: impl FnMut(u64, Option<u64>)) -> Result<PathBuf, WeightsError> {
        if let Some(path) = self.cached() {
            cache::verify(&path, self.sha256())?;
            return Ok(path);
        }
        let path = cache::folder().map(|folder| folder.join(self.file));
        let fetched = match &path {
            Some(path) => self.fetch(path, progress),
            None => Err("there is no folder for caches; name one by SEGKILN_CACHE".into()),
        };
        let absent = |reason| WeightsError::Absent {
            network: self.network,
            path: path.clone().unwrap_or_else(|| self.file.into()),
            url: self.url(),
            reason,
        };
        fetched.map_err(absent)?;
        Ok(path.expect("a file was put there"))
    }

    #[cfg(feature = "pretrained")]
    fn fetch(&self, path: &Path, progress: impl FnMut(u64, Option<u64>)) -> Result<(), String> {
        download::download(&self.url(), self.sha256(), path, progress)?;
        cache::remember(path)
    }

    #[cfg(not(feature = "pretrained"))]
    fn fetch(&self, _path: &Path, _progress: impl FnMut(u64, Option<u64>)) -> Result<(), String> {
        Err("the program is built without the feature `pretrained`, which downloads".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ModelConfig,
        backbones::ClassifierConfig,
        detection::{DetectionNetworkConfig, DetectorConfig},
    };

    #[test]
    fn every_file_is_of_a_network_that_there_is() {
        for published in Published::all() {
            let name = published.network;
            match published.data {
                TrainingData::ImageNet => assert!(ClassifierConfig::by_name(name).is_ok(), "{name}"),
                TrainingData::CocoVoc => assert!(ModelConfig::by_name(name, 21).is_ok(), "{name}"),
                TrainingData::Coco => assert!(DetectorConfig::by_name(name, 91).is_some(), "{name}"),
            }
            let digits = published.sha256();
            assert!(
                [8, 64].contains(&digits.len()) && published.file.contains(&format!("-{}.", &digits[..8])),
                "{name}"
            );
            assert!(digits.chars().all(|digit| digit.is_ascii_hexdigit()), "{name}");
            if let Some(classes) = published.data.class_names() {
                assert_eq!(classes.count(), published.data.classes(), "{name}");
            }
            assert_eq!(Published::of_file(name, &Path::new("cache").join(published.file)), Some(*published));
            let defaults = Published::all().iter().filter(|other| other.network == name && other.is_default);
            assert_eq!(defaults.count(), 1, "{name}");
        }
    }

    #[test]
    fn digests_are_of_a_file_each() {
        for digest in DIGESTS {
            let of = Published::all().iter().filter(|published| published.sha256() == digest);
            let files: std::collections::BTreeSet<&str> = of.map(|published| published.file).collect();
            assert_eq!(files.len(), 1, "{digest}");
        }
    }

    #[test]
    fn weights_are_found_by_name() {
        let published = Published::by_name("resnet50", "DEFAULT").unwrap();
        assert_eq!(published, ResNet50Weights::default().published());
        assert_eq!(published.name, "IMAGENET1K_V2");
        assert_eq!(published.url(), "https://download.pytorch.org/models/resnet50-11ad3fa6.pth");
        let error = Published::by_name("resnet50", "COCO_V1").unwrap_err().to_string();
        assert!(error.contains("IMAGENET1K_V1, IMAGENET1K_V2 and DEFAULT"), "{error}");
        assert!(Published::by_name("resnet51", "DEFAULT").unwrap_err().to_string().contains("resnet50"));
    }
}
