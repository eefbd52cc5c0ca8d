use serde::{Deserialize, Serialize};

use super::{
    BceLossConfig, BoundaryLossConfig, CrossEntropyLossConfig, DiceLossConfig, FocalLossConfig, FocalTverskyLossConfig,
    JaccardLossConfig, LovaszLossConfig, MccLossConfig, SegmentationLoss, SumLoss, TverskyLossConfig,
};
use crate::Result;

/// Configuration of any loss, as written in configuration files.
///
/// ```
/// use segkiln_metrics::losses::{DiceLossConfig, LossConfig};
///
/// let config = LossConfig::Dice(DiceLossConfig::new());
/// let json = serde_json::to_string(&config)?;
/// assert!(json.starts_with(r#"{"dice":{"#));
/// assert_eq!(serde_json::from_str::<LossConfig>(&json)?, config);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossConfig {
    /// [`CrossEntropyLoss`](super::CrossEntropyLoss).
    CrossEntropy(CrossEntropyLossConfig),
    /// [`BceLoss`](super::BceLoss).
    Bce(BceLossConfig),
    /// [`DiceLoss`](super::DiceLoss).
    Dice(DiceLossConfig),
    /// [`JaccardLoss`](super::JaccardLoss).
    Jaccard(JaccardLossConfig),
    /// [`TverskyLoss`](super::TverskyLoss).
    Tversky(TverskyLossConfig),
    /// [`FocalLoss`](super::FocalLoss).
    Focal(FocalLossConfig),
    /// [`FocalTverskyLoss`](super::FocalTverskyLoss).
    FocalTversky(FocalTverskyLossConfig),
    /// [`LovaszLoss`](super::LovaszLoss).
    Lovasz(LovaszLossConfig),
    /// [`MccLoss`](super::MccLoss).
    Mcc(MccLossConfig),
    /// [`BoundaryLoss`](super::BoundaryLoss).
    Boundary(BoundaryLossConfig),
    /// [`SumLoss`]: pairs of weight and loss.
    Sum(Vec<(f64, LossConfig)>),
}

impl LossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// The errors of the loss's own `try_init`.
    pub fn try_init(&self) -> Result<Box<dyn SegmentationLoss>> {
        Ok(match self {
            Self::CrossEntropy(config) => Box::new(config.try_init()?),
            Self::Bce(config) => Box::new(config.try_init()?),
            Self::Dice(config) => Box::new(config.try_init()?),
            Self::Jaccard(config) => Box::new(config.try_init()?),
            Self::Tversky(config) => Box::new(config.try_init()?),
            Self::Focal(config) => Box::new(config.try_init()?),
            Self::FocalTversky(config) => Box::new(config.try_init()?),
            Self::Lovasz(config) => Box::new(config.try_init()?),
            Self::Mcc(config) => Box::new(config.try_init()?),
            Self::Boundary(config) => Box::new(config.try_init()?),
            Self::Sum(terms) => {
                let terms = terms.iter().map(|(weight, loss)| Ok((*weight, loss.try_init()?)));
                Box::new(SumLoss::new(terms.collect::<Result<_>>()?)?)
            }
        })
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> Box<dyn SegmentationLoss> {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}
