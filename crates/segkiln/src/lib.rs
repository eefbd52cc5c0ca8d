//! Image segmentation and detection in pure Rust on the [Burn](https://burn.dev) framework.
//!
//! Predict with a trained network in three lines:
//!
//! ```no_run
//! use segkiln::{image, prelude::*};
//!
//! let segmenter = Segmenter::load("runs/unet", &Device::default())?;
//! let result = segmenter.segment(&image::open("cells.png")?)?;
//! println!("{} foreground pixels", result.map().as_slice().iter().filter(|label| **label == 1).count());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Training (feature `train`) is in the module `train`; `examples/unet_train.rs` shows it whole. The feature `pretrained`
//! downloads the weights that torchvision has published; see [`models::weights::Weights`].
//!
//! # Backends
//! Networks are written once. Cargo features (`flex`, the default, for CPUs; `cuda`, `rocm`, `vulkan`, `metal`, `webgpu`,
//! `wgpu`) choose what is built in, and a `Device` chooses at run time.
//!
//! # Crates
//! - label maps, classes, palettes: [`mod@core`]
//! - tensor operators: [`ops`]
//! - networks: [`models`]
//! - images, masks, data sets, transforms, loaders, drawing: [`data`]
//! - films: `data::films`; tracking: [`track`]
//! - losses and metrics (feature `metrics`, which `train` includes): `losses`, `metrics`
//! - training (feature `train`): `train`
//! - explanations, adversarial examples, uncertainty (feature `explain`): `explain`

#[cfg(not(target_pointer_width = "64"))]
compile_error!("segkiln needs a 64-bit target; segkiln-core and segkiln-data compile for 32 bits too");

#[cfg(feature = "metrics")]
mod coco;
mod detector;
mod device;
mod error;
#[cfg(feature = "metrics")]
mod evaluation;
mod large;
mod large_detection;
mod quantize;
mod read_ahead;
#[cfg(feature = "train")]
mod record;
mod run;
mod segmentation;
mod segmenter;
mod tiles;
#[cfg(feature = "nifti")]
mod volume;
pub mod warnings;
mod windows;

#[cfg(feature = "metrics")]
pub use coco::{CocoError, coco_evaluate};
pub use detector::Detector;
pub use device::{UnknownDevice, device_by_name, select_device};
pub use error::PredictError;
#[cfg(feature = "metrics")]
pub use evaluation::SplitDetections;
/// The crate whose pictures predictors take, with the formats BMP, GIF, JPEG, PNG, TIFF and WebP.
pub use image;
pub use large::{LargeOptions, Progress, Seams};
pub use large_detection::LargeDetection;
pub use quantize::{
    Computation, PrecisionTrial, Quantizable, QuantizeError, QuantizeOptions, Quantized, fastest_precision, quantize,
};
#[cfg(feature = "train")]
pub use record::DataRecord;
pub use run::PartialFailure;
pub use segkiln_core as core;
pub use segkiln_data as data;
#[cfg(feature = "explain")]
pub use segkiln_explain as explain;
#[cfg(feature = "metrics")]
pub use segkiln_metrics::losses;
pub use segkiln_models as models;
pub use segkiln_ops as ops;
pub use segkiln_track as track;
#[cfg(feature = "train")]
pub use segkiln_train as train;
pub use segmentation::Segmentation;
pub use segmenter::{SegmentOptions, Segmenter};
#[cfg(feature = "nifti")]
pub use volume::VolumeOptions;
pub use windows::{WindowOptions, segment_windows};
/// Metrics of segmentation and detection.
#[cfg(feature = "metrics")]
pub mod metrics {
    pub use segkiln_metrics::{MetricsError, metrics::*};
}

/// Imports that most programs need.
pub mod prelude {
    pub use burn::tensor::Device;
    pub use segkiln_core::{BBox, Classes, Detection, LabelMap};
    pub use segkiln_data::DenseCrf;
    pub use segkiln_models::{SegmentationNetwork, SegmentationNetworkConfig};

    pub use crate::{Detector, PredictError, SegmentOptions, Segmentation, Segmenter, device_by_name, select_device};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
