//! Files of a training run, as predictors read them.

use std::path::{Path, PathBuf};

use segkiln_models::{ConfigError, NetworkQuantization, weights::WeightsError};
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

/// Largest `config.json`.
const MOST_BYTES: u64 = 64 << 20;

/// The file of weights and the card of a run: of a folder (its `best.bpk` and `config.json`), or of a `.bpk` file beside a
/// `config.json`.
pub(crate) fn open<C: DeserializeOwned>(
    path: &Path,
    check: impl Fn(&C) -> Result<(), ConfigError>,
) -> Result<(PathBuf, C), PredictError> {
    let file = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => path.join("best.bpk"),
        Ok(_) => path.to_owned(),
        Err(error) => {
            let reason = error.to_string();
            return Err(PredictError::Weights(WeightsError::Read { path: path.into(), reason }));
        }
    };
    let card: C = config(&file)?;
    check(&card).map_err(|error| refused(&file, error))?;
    Ok((file, card))
}

/// The layers that a run's network computes in 8 bits, if it was quantized, by its file of weights.
pub(crate) fn quantization(file: &Path) -> Result<Option<NetworkQuantization>, PredictError> {
    #[derive(Deserialize)]
    struct Quantized {
        #[serde(default)]
        quantization: Option<NetworkQuantization>,
    }
    let Quantized { quantization } = config(file)?;
    if let Some(quantization) = &quantization {
        quantization.check().map_err(|error| refused(file, error))?;
    }
    Ok(quantization)
}

/// Error of the config of a file of weights.
fn refused(file: &Path, error: ConfigError) -> PredictError {
    PredictError::Config { path: file.with_file_name("config.json"), reason: error.to_string() }
}

/// Reads the `config.json` beside a file of weights.
fn config<C: DeserializeOwned>(file: &Path) -> Result<C, PredictError> {
    let config = file.with_file_name("config.json");
    let refuse = |reason: String| PredictError::Config { path: config.clone(), reason };
    let meta = std::fs::metadata(&config).map_err(|error| refuse(error.to_string()))?;
    if !meta.is_file() || meta.len() > MOST_BYTES {
        return Err(refuse("it is no regular file of a common size".into()));
    }
    let text = std::fs::read_to_string(&config).map_err(|error| refuse(error.to_string()))?;
    serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| refuse(error.to_string()))
}
