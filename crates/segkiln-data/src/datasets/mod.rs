//! Data sets of [`Sample`](crate::Sample)s with label maps or with objects, for Burn's [`Dataset`](burn::data::dataset::Dataset) trait.
//!
//! Each is checked when it is opened (all pairs exist, none is empty) and again sample by sample when it is read (sizes
//! agree, labels are classes). Their order is that of the list, or else of the sorted names, never that of the file
//! system. Errors travel through Burn as `DatasetError`, whose message is that of the
//! [`DataError`](crate::DataError) within.
//!
//! Like a slice, a data set panics at an index past its end.

mod boxes;
mod cached;
mod chips;
mod cityscapes;
mod coco_detection;
mod detection;
mod dsb2018;
mod folder;
mod image_files;
mod in_memory;
mod pairs;
mod regions;
mod survey;
mod voc;
mod voc_detection;

pub use boxes::InvalidBoxes;
pub use cached::Cached;
pub use chips::{ChipDataset, Chips, SpatialSplit};
pub use cityscapes::Cityscapes;
pub use coco_detection::{CocoDetection, CocoOptions};
pub use detection::{DetectionDataset, DetectionEntry};
pub use dsb2018::Dsb2018;
pub use folder::{FolderDataset, FolderOptions};
pub use image_files::ImageFiles;
#[cfg(feature = "nifti")]
pub(crate) use image_files::{add_file, hexadecimal};
pub use in_memory::InMemoryDataset;
#[cfg(feature = "nifti")]
pub(crate) use pairs::entries;
pub use regions::RegionsDataset;
pub use survey::Survey;
pub use voc::VocSegmentation;
pub use voc_detection::{VocDetection, VocOptions};

#[cfg(test)]
mod tests;
