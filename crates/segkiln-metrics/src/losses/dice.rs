use burn::config::Config;
use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use super::region::Region;
use crate::Result;

/// Configuration of [`DiceLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct DiceLossConfig {
    /// Channels that the loss is computed on; all by default.
    pub classes: Option<Vec<usize>>,
    /// Weight of each channel in the mean.
    pub class_weights: Option<Vec<f32>>,
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Added to the intersection and to half the sum of both regions.
    #[config(default = 0.0)]
    pub smooth: f64,
    /// Least denominator.
    #[config(default = 1e-7)]
    pub eps: f64,
    /// The loss is -ln(Dice) and not 1 - Dice.
    #[config(default = false)]
    pub log_loss: bool,
    /// Whether the input is logits and not already probabilities.
    #[config(default = true)]
    pub from_logits: bool,
}

impl DiceLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// Negative or infinite weights or none above zero, a negative `smooth`, an `eps` outside 0 to 1, an empty list of
    /// classes.
    pub fn try_init(&self) -> Result<DiceLoss> {
        let region = Region {
            alpha: 0.5,
            beta: 0.5,
            smooth: self.smooth,
            eps: self.eps,
            log_loss: self.log_loss,
            from_logits: self.from_logits,
            classes: self.classes.clone(),
            class_weights: self.class_weights.clone(),
            ignore_index: self.ignore_index,
        };
        Ok(DiceLoss { region: region.validated()? })
    }

    /// Builds the loss.
    ///
    /// # Panics
    /// If [`try_init`](Self::try_init) returns an error.
    pub fn init(&self) -> DiceLoss {
        self.try_init().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Soft Dice loss (Milletari et al. 2016, *V-Net*), as segmentation_models_pytorch's `DiceLoss`: 1 - Dice of each channel
/// over the whole batch, then the mean of the channels. A class that no pixel has contributes 0.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use segkiln_metrics::losses::{DiceLossConfig, SegmentationLoss};
///
/// let device = Device::default();
/// let logits = Tensor::<4>::from_floats([[[[9.0, 9.0, -9.0, -9.0]]]], &device);
/// let targets = Tensor::<3, Int>::from_ints([[[1, 0, 0, 1]]], &device);
/// let loss = DiceLossConfig::new().init().forward(logits, targets).into_scalar::<f32>();
/// assert!((loss - 0.5).abs() < 1e-3);
/// ```
#[derive(Debug, Clone)]
pub struct DiceLoss {
    region: Region,
}

impl SegmentationLoss for DiceLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        self.region.mean(self.region.channel_losses(logits, targets))
    }
}
