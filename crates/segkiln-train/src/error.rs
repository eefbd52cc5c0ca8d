use std::path::PathBuf;

use segkiln_models::config_file::{ConfigFileError, NewerFormat};

/// Why a training did not start or did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] segkiln_data::DataError),
    /// The loss or a metric was configured with nonsense.
    #[error(transparent)]
    Metrics(#[from] segkiln_metrics::MetricsError),
    /// Weights could not be read or written.
    #[error(transparent)]
    Weights(#[from] segkiln_models::weights::WeightsError),
    /// The network cannot be built.
    #[error(transparent)]
    Network(#[from] segkiln_models::detection::DetectionError),
    /// A batch does not fit the network.
    #[error("the images {images}: {source}")]
    Batch {
        /// Names of the batch's images.
        images: String,
        /// Mismatch of batch and network; images and objects are counted within the batch, from 0.
        source: segkiln_models::detection::DetectionError,
    },
    /// A hook could not change a batch.
    #[error("the images {images} could not be changed before the step: {source}")]
    Hook {
        /// Names of the batch's images.
        images: String,
        /// The hook's reason.
        source: crate::HookError,
    },
    /// A field of the recipe is out of range.
    #[error("recipe: {field} {reason}")]
    Recipe {
        /// The field.
        field: &'static str,
        /// Required values, and the actual one.
        reason: String,
    },
    /// A file of the run could not be written; what was there before is untouched.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Message of the system.
        reason: String,
    },
    /// A file of the run could not be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Message of the system or the file format, and suggested fix.
        reason: String,
    },
    /// A run is to be resumed whose config.json a later version of this library wrote.
    #[error(transparent)]
    NewerFormat(#[from] NewerFormat),
    /// A run is to be resumed with other settings than it was started with.
    #[error(
        "{} was started with other settings ({difference}); resume with the same, or start in another folder",
        path.display()
    )]
    OtherRun {
        /// The run's config.json.
        path: PathBuf,
        /// The first settings that differ.
        difference: String,
    },
    /// Another process trains in the folder.
    #[error("another training is at work in {}; wait for its end, or start in another folder", path.display())]
    Locked {
        /// The run's folder.
        path: PathBuf,
    },
    /// A file where a run's file is to be, which no training wrote.
    #[error("{} is not of a training; start in another folder, or move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Weights or running statistics left the finite numbers.
    #[error(
        "{tensor} is not finite after epoch {epoch}; stopped, what the epochs before it wrote is kept. Lower the learning \
         rate or clip the gradients"
    )]
    NonFiniteWeights {
        /// Epoch, from 1.
        epoch: usize,
        /// The first such tensor, by its path in the network.
        tensor: String,
    },
    /// The loss left the finite numbers.
    #[error(
        "the loss is {loss} at step {step} of epoch {epoch} (learning rate {learning_rate:.2e}); stopped, what the \
         epochs before it wrote is kept. Lower the learning rate or clip the gradients"
    )]
    NonFiniteLoss {
        /// NaN or infinity.
        loss: f64,
        /// Epoch, from 1.
        epoch: usize,
        /// Step in the epoch, from 1.
        step: usize,
        /// Learning rate of the step.
        learning_rate: f64,
    },
    /// burn-train stopped with an error.
    #[error("training stopped: {0}")]
    Stopped(String),
    /// A picture could not be drawn.
    #[error("cannot draw {}: {reason}", path.display())]
    Draw {
        /// The file.
        path: PathBuf,
        /// Message of the plotting library.
        reason: String,
    },
}

impl From<ConfigFileError> for TrainError {
    fn from(error: ConfigFileError) -> Self {
        match error {
            ConfigFileError::NewerFormat(error) => Self::NewerFormat(error),
            ConfigFileError::Read { path, reason } => Self::Read { path, reason },
        }
    }
}

/// A result whose error is a [`TrainError`].
pub type Result<T> = std::result::Result<T, TrainError>;
