//! Metrics of segmentation and detection, on the host.
//!
//! All are exact over all images added: they keep counts (or one value an image where the literature defines the figure so) and
//! divide at the end, so the size and order of the batches do not matter. Metrics of one kind that saw different data are
//! combined by `merge`.
//!
//! ```
//! use segkiln_metrics::metrics::{Average, ConfusionMatrix};
//!
//! let mut matrix = ConfusionMatrix::new(2, Some(255))?;
//! matrix.update(&[1, 1, 0, 0], &[1, 0, 0, 255])?;
//! assert_eq!(matrix.iou(1), Some(0.5));
//! assert_eq!(matrix.mean_iou(Average::Macro), Some(0.5));
//! # Ok::<(), segkiln_metrics::MetricsError>(())
//! ```

mod boundary_iou;
#[cfg(feature = "train")]
mod burn_train;
mod cases;
pub mod coco;
mod confusion;
#[cfg(feature = "train")]
mod detection_train;
mod image_mean;
mod instances;
mod surface;
pub mod voc;

pub use boundary_iou::BoundaryIou;
#[cfg(feature = "train")]
pub use burn_train::{Score, SegmentationInput, SegmentationMetric};
pub use cases::{CaseFigure, CaseFigures, CaseTable, Quartiles};
pub use confusion::{Average, ConfusionMatrix, Figure};
#[cfg(feature = "train")]
pub use detection_train::{DetectionInput, DetectionMetric};
pub use image_mean::ImageMean;
pub use instances::{IOU_THRESHOLDS, InstanceMetrics, InstanceOverlaps, Matched};
pub use surface::{SurfaceDistances, SurfaceMetrics};
