use segkiln_core::Classes;
use segkiln_data::ColorMode;
use serde::{Deserialize, Serialize};

use super::{DetectionNetworkConfig, DetectorConfig};

use crate::ConfigError;

/// Description of a trained detector that prediction needs beside its weights; part of `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "C: DetectionNetworkConfig")]
pub struct DetectorCard<C = DetectorConfig> {
    /// The network.
    pub model: C,
    /// Names and colors of its classes; class 0 is the background.
    pub classes: Classes,
    /// Channels that images are brought to.
    #[serde(default = "rgb")]
    pub color: ColorMode,
    /// Numbers of the classes from 1 on in files of results; the classes' own if there are none.
    #[serde(default)]
    pub categories: Vec<i64>,
}

fn rgb() -> ColorMode {
    ColorMode::Rgb
}

/// Names of the classes of a network of which nothing more is known than their number, with the background: "background",
/// "class 1" and so on.
pub fn unnamed_classes(classes: usize) -> Classes {
    let names = (1..classes.max(2)).map(|class| format!("class {class}"));
    Classes::new(["background".to_string()].into_iter().chain(names)).expect("names differ by their numbers")
}

impl<C: DetectionNetworkConfig> DetectorCard<C> {
    /// Card of a network that takes RGB images, with the classes' own numbers as categories.
    pub fn new(model: C, classes: Classes) -> Self {
        Self { model, classes, color: ColorMode::Rgb, categories: Vec::new() }
    }

    /// Sets the channels that images are brought to.
    pub fn with_color(self, color: ColorMode) -> Self {
        Self { color, ..self }
    }

    /// Sets the numbers of the classes from 1 on in files of results.
    pub fn with_categories(self, categories: Vec<i64>) -> Self {
        Self { categories, ..self }
    }

    /// Number of a class in files of results.
    pub fn category(&self, label: u32) -> i64 {
        self.categories.get((label as usize).wrapping_sub(1)).copied().unwrap_or(label.into())
    }

    /// Checks that the parts fit each other.
    ///
    /// # Errors
    /// A sentence that names the fields that do not.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.model.check()?;
        let (known, classes) = (self.model.classes(), self.classes.count());
        let channels = self.model.transform().mean.len();
        let refuse = |field: &'static str, message| Err(ConfigError::with_message(field, message));
        if known != classes {
            refuse("classes", format!("the model has {known} classes, {classes} have names"))
        } else if channels != self.color.channels() {
            let (color, has) = (self.color, self.color.channels());
            refuse("color", format!("the model takes {channels} channels, color {color:?} has {has}"))
        } else if !self.categories.is_empty() && self.categories.len() + 1 != classes {
            let categories = self.categories.len();
            refuse("categories", format!("{categories} categories for {classes} classes, of which one is background"))
        } else {
            Ok(())
        }
    }
}
