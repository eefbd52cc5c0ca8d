use segkiln_data::{DecodeOptions, Result, datasets::ImageFiles};
use serde::Serialize;
use serde_json::Value;

use crate::warnings;

/// Record of a training's data, for the field `data` of its `config.json`. A run that is resumed must have the same but for
/// the warnings.
///
/// ```
/// use segkiln::DataRecord;
/// use segkiln::data::datasets::ImageFiles;
///
/// let record = DataRecord::of(&[] as &[&dyn ImageFiles], Default::default())?;
/// let mut data = record.to_json();
/// data["crop"] = 256.into();
/// assert!(data["decode"]["limits"]["max_bytes"].is_u64());
/// # Ok::<(), segkiln::data::DataError>(())
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct DataRecord {
    /// Names, sizes and objects of each split's files; see [`ImageFiles::fingerprint`].
    pub sha256: Vec<String>,
    /// Options of decoding.
    pub decode: DecodeOptions,
    /// Weights that the training begins with, as the user named them.
    pub weights: Option<String>,
}

impl DataRecord {
    /// Record of these splits, without weights.
    ///
    /// # Errors
    /// If a file is no longer there.
    pub fn of<D: ImageFiles + ?Sized>(splits: &[&D], decode: DecodeOptions) -> Result<Self> {
        let sha256 = splits.iter().map(|split| split.fingerprint()).collect::<Result<_>>()?;
        Ok(Self { sha256, decode, weights: None })
    }

    /// The record as `config.json` has it, with the warnings that were [collected](warnings::collected) so far.
    pub fn to_json(&self) -> Value {
        let mut data = serde_json::to_value(self).expect("the keys are strings");
        data["warnings"] = serde_json::to_value(warnings::collected()).expect("the keys are strings");
        data
    }
}
