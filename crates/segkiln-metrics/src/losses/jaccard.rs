use burn::config::Config;
use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use super::region::Region;
use crate::Result;

/// Configuration of [`JaccardLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct JaccardLossConfig {
    /// Channels that the loss is computed on; all by default.
    pub classes: Option<Vec<usize>>,
    /// Weight of each channel in the mean.
    pub class_weights: Option<Vec<f32>>,
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Added to the intersection and to the union.
    #[config(default = 0.0)]
    pub smooth: f64,
    /// Least denominator.
    #[config(default = 1e-7)]
    pub eps: f64,
    /// The loss is -ln(Jaccard) and not 1 - Jaccard.
    #[config(default = false)]
    pub log_loss: bool,
    /// Whether the input is logits and not already probabilities.
    #[config(default = true)]
    pub from_logits: bool,
}

impl JaccardLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// Negative or infinite weights or none above zero, a negative `smooth`, an `eps` outside 0 to 1, an empty list of
    /// classes.
    pub fn try_init(&self) -> Result<JaccardLoss> {
        let region = Region {
            alpha: 1.0,
            beta: 1.0,
            smooth: self.smooth,
            eps: self.eps,
            log_loss: self.log_loss,
            from_logits: self.from_logits,
            classes: self.classes.clone(),
            class_weights: self.class_weights.clone(),
            ignore_index: self.ignore_index,
        };
        Ok(JaccardLoss { region: region.validated()? })
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> JaccardLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Soft intersection over union (Rahman and Wang 2016), as segmentation_models_pytorch's `JaccardLoss`: 1 - Jaccard index
/// of each channel over the whole batch, then the mean of the channels. A class that no pixel has contributes 0.
#[derive(Debug, Clone)]
pub struct JaccardLoss {
    region: Region,
}

impl SegmentationLoss for JaccardLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        self.region.mean(self.region.channel_losses(logits, targets))
    }
}
