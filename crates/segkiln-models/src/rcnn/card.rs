use burn::config::Config;
use segkiln_core::Classes;
use segkiln_data::ColorMode;

use super::RcnnConfig;

/// What has to be known of a trained detector beside its weights, to predict with it: kept in one file, `config.json`.
#[derive(Config, Debug)]
pub struct DetectorCard {
    /// The network.
    pub model: RcnnConfig,
    /// What its classes are; class 0 is the background.
    pub classes: Classes,
    /// The channels that images are brought to.
    #[config(default = "ColorMode::Rgb")]
    pub color: ColorMode,
    /// What files of results call the classes from 1 on; their own numbers if none are given.
    #[config(default = "Vec::new()")]
    pub categories: Vec<i64>,
}

impl DetectorCard {
    /// Names for a network of which nothing more is known: COCO's if there are 91 classes, else numbers.
    pub fn default_classes(classes: usize) -> Classes {
        if classes == 91 {
            return Classes::coco();
        }
        let names = (1..classes.max(2)).map(|class| format!("class {class}"));
        Classes::new(["background".to_string()].into_iter().chain(names)).expect("names differ by their numbers")
    }

    /// What files of results call a class.
    pub fn category(&self, label: u32) -> i64 {
        self.categories.get((label as usize).wrapping_sub(1)).copied().unwrap_or(label.into())
    }

    /// Whether the parts fit each other.
    ///
    /// # Errors
    /// A sentence that names the fields that do not.
    pub fn check(&self) -> Result<(), String> {
        self.model.check()?;
        let (known, classes) = (self.model.classes, self.classes.count());
        let channels = self.model.mean.len();
        if known != classes {
            Err(format!("the model has {known} classes, {classes} have names"))
        } else if channels != self.color.channels() {
            Err(format!("the model takes {channels} channels, color {:?} has {}", self.color, self.color.channels()))
        } else if !self.categories.is_empty() && self.categories.len() + 1 != classes {
            Err(format!("{} categories for {classes} classes, of which one is background", self.categories.len()))
        } else {
            Ok(())
        }
    }
}
