//! Images, masks, objects, data sets, transforms and loaders for segmentation and detection.
//!
//! file → [`read_image`] and [`read_labels`] → [`Sample`] → [`transforms`], which move image and target together →
//! [`Loader`] → [`Batch`] of tensors, or [`DetectionBatch`]. Back: a label map → [`draw`], [`write_labels`].
//!
//! Two promises hold throughout. Bad input is an error that names the file and the reason, never a panic, a hang or a
//! silent skip. And random choices are a function of a seed, the epoch and a sample's position in it, never of which
//! thread comes first: two runs are the same to the bit, on one thread as on sixteen.
//!
//! Without the feature `datasets` (on by default) the crate has only codecs, [`films`], [`coco`]'s files, [`Image`], [`Normalize`],
//! [`DenseCrf`], [`Cleaning`], [`draw`], [`regions`] and [`instances`], and does not depend on Burn.
//!
//! ```
//! # use std::sync::Arc;
//! # use burn::tensor::Device;
//! # use segkiln_core::Classes;
//! use burn::data::dataloader::DataLoader;
//! use segkiln_data::{ColorMode, Limits, Loader, MaskFormat, Normalize, Sample, read_image, read_labels};
//! use segkiln_data::{datasets::InMemoryDataset, transforms::{Compose, HorizontalFlip, RandomCrop}};
//!
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample");
//! # let limits = Limits::default();
//! let sample = Sample {
//!     name: "nuclei".into(),
//!     image: read_image(format!("{folder}/image.png"), ColorMode::Gray, &limits)?,
//!     target: read_labels(format!("{folder}/labels.png"), &MaskFormat::Binary, &limits)?,
//! };
//! let normalize = Normalize::of_dataset(&InMemoryDataset::new(vec![sample.clone()]))?;
//! let loader = Loader::builder(Arc::new(InMemoryDataset::new(vec![sample])))
//!     .transform(Compose::new().then(RandomCrop::new(64, 64)?).then(HorizontalFlip { p: 0.5 }).then(normalize))
//!     .epoch_length(Some(8)) // eight crops of the one image
//!     .batch_size(4)
//!     .shuffle(true)
//!     .device(&Device::default())
//!     .build()?;
//! for batch in loader.iter() {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims(), [4, 1, 64, 64]);
//!     assert_eq!(batch.masks.dims(), [4, 64, 64]);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod coco;
mod codecs;
mod crf;
pub mod draw;
mod error;
pub mod films;
mod image;
pub mod instances;
mod normalize;
mod postprocess;
mod preset;
mod problem;
mod raster;
pub mod regions;
mod resize;
#[cfg(any(feature = "datasets", feature = "nifti"))]
mod statistics;
mod text;
#[cfg(feature = "nifti")]
pub mod volumes;
mod warn;

#[cfg(feature = "datasets")]
mod batch;
#[cfg(feature = "datasets")]
pub mod datasets;
#[cfg(feature = "datasets")]
mod loader;
#[cfg(feature = "datasets")]
mod rng;
#[cfg(feature = "datasets")]
mod sample;
#[cfg(feature = "datasets")]
pub mod splits;
#[cfg(feature = "datasets")]
pub mod transforms;

pub use codecs::{
    DecodeOptions, EXTENSIONS, FileFacts, Limits, MaskFormat, Orientation, WholeFile, labels_to_image, read_dynamic,
    read_image, read_labels, read_with_facts, refuse_replacing, write_image, write_labels, write_whole,
};
pub use crf::DenseCrf;
pub use error::{DataError, Result};
pub use image::{ColorMode, Image};
pub use normalize::Normalize;
pub use postprocess::{Cleaning, CleaningStep};
pub use preset::Preset;
#[cfg(feature = "datasets")]
pub use problem::check;
pub use problem::{CheckReport, Problem};
pub use resize::{Filter, resize_image, resize_image_by, resize_labels};

#[cfg(feature = "datasets")]
pub use batch::{Batch, Collate, Collated, DetectionBatch};
#[cfg(feature = "datasets")]
pub use loader::{DrawnDataset, EpochHandle, Loader, LoaderBuilder};
#[cfg(feature = "datasets")]
pub use rng::TransformRng;
#[cfg(feature = "datasets")]
pub use sample::Sample;
