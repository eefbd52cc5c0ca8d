//! Steps of cleaning that `unet_train` chooses, and the flag for them.

use std::path::Path;

use burn::data::dataset::Dataset;
use segkiln::{
    Segmenter,
    data::{Sample, write_whole},
};

use crate::common::Failure;

/// Flag of the steps that clean maps.
#[derive(clap::Args)]
pub struct Postprocessing {
    /// Choose steps that clean the maps, those that raise the Dice coefficient of the validation images, and write them as cleaning.json,
    /// for unet_predict --clean
    #[arg(long)]
    choose_cleaning: bool,
}

impl Postprocessing {
    /// Chooses steps on the validation images, if it is asked for, and writes them into the run's folder.
    pub fn choose(&self, segmenter: &Segmenter, valid: &impl Dataset<Sample>, folder: &Path) -> Result<(), Failure> {
        if !self.choose_cleaning {
            return Ok(());
        }
        let samples = (0..valid.len()).map(|index| valid.get(index).map_err(Failure::from));
        let cleaning = segmenter.choose_cleaning(samples)?;
        let path = folder.join("cleaning.json");
        let bytes = serde_json::to_vec(&cleaning)?;
        write_whole(&path, &bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        eprintln!("{} steps clean the maps: {}", cleaning.steps.len(), path.display());
        Ok(())
    }
}
