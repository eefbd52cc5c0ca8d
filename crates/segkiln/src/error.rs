use std::path::PathBuf;

use segkiln_data::DataError;
use segkiln_models::{
    ConfigError, PrecisionError, config_file::NewerFormat, detection::DetectionError, weights::WeightsError,
};

/// Error of a predictor, [`Segmenter`](crate::Segmenter) or [`Detector`](crate::Detector): its network could not be loaded, or an
/// image not be predicted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// `config.json` is missing, or is not what training writes.
    #[error("cannot use {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Reason that the system or the parser gives.
        reason: String,
    },
    /// A later version of this library wrote `config.json`.
    #[error(transparent)]
    NewerFormat(#[from] NewerFormat),
    /// No network has this name, or it cannot be built for so many classes.
    #[error(transparent)]
    Network(#[from] ConfigError),
    /// The weights are missing, damaged, or another network's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The parts of the card do not fit each other.
    #[error("the network's card: {0}")]
    Card(ConfigError),
    /// An option is out of range.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Allowed values.
        reason: String,
    },
    /// The device cannot compute in the precision.
    #[error(transparent)]
    Precision(#[from] PrecisionError),
    /// The image cannot be brought to what the network takes, or the result not be drawn.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The detector cannot be built, or does not take the image.
    #[error(transparent)]
    Detection(#[from] DetectionError),
    /// The device could not compute or give back the result.
    #[error("the device failed: {0}")]
    Device(String),
    /// The network gives NaN for a pixel.
    #[error(
        "the network gives NaN at pixel (x {x}, y {y}); its weights or the image's values are too large or not finite"
    )]
    Undefined {
        /// Column.
        x: usize,
        /// Row.
        y: usize,
    },
}

impl PredictError {
    /// Whether the image is what is wrong, so that others may be predicted all the same.
    pub fn is_of_image(&self) -> bool {
        match self {
            Self::Data(_) | Self::Undefined { .. } | Self::Option { option: "image", .. } => true,
            Self::Detection(error) => {
                matches!(error, DetectionError::NoImages | DetectionError::Image { .. } | DetectionError::Core(_))
            }
            _ => false,
        }
    }

    /// Error of an option.
    pub(crate) fn option(option: &'static str, reason: impl Into<String>) -> Self {
        Self::Option { option, reason: reason.into() }
    }
}
