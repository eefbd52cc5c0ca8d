//! Files of a training run, as predictors read them.

use std::path::{Path, PathBuf};

use segkiln_models::{
    ConfigError, NetworkQuantization,
    config_file::{self, ConfigFileError},
    weights::WeightsError,
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::PredictError;

/// Some files of a folder could not be used; the others were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{failed} of {files} files failed")]
pub struct PartialFailure {
    /// Files that failed.
    pub failed: usize,
    /// Files in all.
    pub files: usize,
}

impl From<ConfigFileError> for PredictError {
    fn from(error: ConfigFileError) -> Self {
        match error {
            ConfigFileError::NewerFormat(error) => Self::NewerFormat(error),
            ConfigFileError::Read { path, reason } => Self::Config { path, reason },
        }
    }
}

/// The file of weights and the card of a run: of a folder (its `best.bpk` and `config.json`), or of a `.bpk` file beside a
/// `config.json`.
pub(crate) fn open<C: DeserializeOwned>(
    path: &Path,
    check: impl Fn(&C) -> Result<(), ConfigError>,
) -> Result<(PathBuf, C), PredictError> {
    let file = weights_file(path)?;
    let path = file.with_file_name("config.json");
    let card: C = config_file::read(&path)?;
    check(&card).map_err(|error| refused(path, &error))?;
    Ok((file, card))
}

/// The file of weights that a run's folder or a `.bpk` file in one names; `config.json` is beside it.
pub(crate) fn weights_file(path: &Path) -> Result<PathBuf, PredictError> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(path.join("best.bpk")),
        Ok(_) => Ok(path.to_owned()),
        Err(error) => {
            let reason = error.to_string();
            Err(PredictError::Weights(WeightsError::Read { path: path.into(), reason }))
        }
    }
}

/// The layers that a run's network computes in 8 bits, if it was quantized, by its file of weights.
pub(crate) fn quantization(file: &Path) -> Result<Option<NetworkQuantization>, PredictError> {
    #[derive(Deserialize)]
    struct Quantized {
        #[serde(default)]
        quantization: Option<NetworkQuantization>,
    }
    let path = file.with_file_name("config.json");
    let Quantized { quantization } = config_file::read(&path)?;
    if let Some(quantization) = &quantization {
        quantization.check().map_err(|error| refused(path, &error))?;
    }
    Ok(quantization)
}

fn refused(path: PathBuf, error: &ConfigError) -> PredictError {
    PredictError::Config { path, reason: error.to_string() }
}
