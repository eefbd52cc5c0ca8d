use burn::config::Config;
use segkiln_core::Classes;
use segkiln_data::{ColorMode, Normalize};

use crate::ModelConfig;

/// What has to be known of a trained network beside its weights, to predict with it: kept in one file, `config.json`.
#[derive(Config, Debug)]
pub struct ModelCard {
    /// The network.
    pub model: ModelConfig,
    /// What the channels of the logits mean. A network with one channel has the two classes background and foreground.
    pub classes: Classes,
    /// The channels that pictures are brought to; None where images are no pictures but other channels, such as a satellite's
    /// bands, or colour and depth.
    pub color: Option<ColorMode>,
    /// What the images' values, 0 to 1, are normalised with.
    pub normalize: Normalize,
}

impl ModelCard {
    /// Whether the parts fit each other.
    ///
    /// # Errors
    /// A sentence that names the fields that do not.
    pub fn check(&self) -> Result<(), String> {
        self.model.check()?;
        let (logits, classes) = (self.model.classes(), self.classes.count());
        let channels = self.model.in_channels();
        if logits != classes && !(logits == 1 && classes == 2) {
            Err(format!("the model has {logits} output channels for {classes} classes"))
        } else if let Some(color) = self.color.filter(|color| color.channels() != channels) {
            Err(format!("the model takes {channels} channels, color {color:?} has {}", color.channels()))
        } else if channels != self.normalize.mean().len() {
            Err(format!("the model takes {channels} channels, normalize has {}", self.normalize.mean().len()))
        } else {
            Ok(())
        }
    }
}
