use segkiln_core::Classes;
use segkiln_data::{ColorMode, Normalize};
use serde::{Deserialize, Serialize};

use super::{ModelConfig, SegmentationNetworkConfig, check_classes};

use crate::ConfigError;

/// Description of a trained segmentation network that prediction needs beside its weights; part of `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "C: SegmentationNetworkConfig")]
pub struct ModelCard<C = ModelConfig> {
    /// The network.
    pub model: C,
    /// Names and colors of the classes that the channels of the logits stand for. A network with one channel has the two
    /// classes background and foreground.
    pub classes: Classes,
    /// Channels that pictures are brought to; None where images are no pictures but other channels, such as a satellite's
    /// bands, or color and depth.
    pub color: Option<ColorMode>,
    /// Mean and deviation that the images' values, 0 to 1, are normalized with.
    pub normalize: Normalize,
}

impl<C: SegmentationNetworkConfig> ModelCard<C> {
    /// Checks that the parts fit each other.
    ///
    /// # Errors
    /// A sentence that names the fields that do not.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.model.check()?;
        let (logits, classes) = (self.model.classes(), self.classes.count());
        check_classes(logits)?;
        let channels = self.model.in_channels();
        let refuse = |field: &'static str, message| Err(ConfigError::with_message(field, message));
        if logits != classes && !(logits == 1 && classes == 2) {
            refuse("classes", format!("the model has {logits} output channels for {classes} classes"))
        } else if let Some(color) = self.color.filter(|color| color.channels() != channels) {
            refuse("color", format!("the model takes {channels} channels, color {color:?} has {}", color.channels()))
        } else if channels != self.normalize.mean().len() {
            let values = self.normalize.mean().len();
            refuse("normalize", format!("the model takes {channels} channels, normalize has {values}"))
        } else {
            Ok(())
        }
    }
}
