use std::path::Path;

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::Classes;

use super::pairs::{Files, Pairs, add, entries, join};
use crate::{ColorMode, DecodeOptions, MaskFormat, Result, Sample};

/// Labels that the benchmark leaves out.
const VOID: u32 = 255;

/// The train id of each label id, as in the `labels.py` of cityscapesScripts: ids 0 to 33, of which 19 are classes. The
/// id -1 (license plate) is stored as 255.
#[rustfmt::skip]
const TRAIN_IDS: [u32; 34] = [
    VOID, VOID, VOID, VOID, VOID, VOID, VOID, // unlabeled, ego vehicle, borders, static, dynamic, ground
    0, 1, VOID, VOID,                         // road, sidewalk, parking, rail track
    2, 3, 4, VOID, VOID, VOID,                // building, wall, fence, guard rail, bridge, tunnel
    5, VOID, 6, 7,                            // pole, pole group, traffic light, traffic sign
    8, 9, 10,                                 // vegetation, terrain, sky
    11, 12, 13, 14, 15, VOID, VOID,           // person, rider, car, truck, bus, caravan, trailer
    16, 17, 18,                               // train, motorcycle, bicycle
];

/// Cityscapes (Cordts et al. 2016): `leftImg8bit/<split>/<city>/NAME_leftImg8bit.png` and
/// `gtFine/<split>/<city>/NAME_gtFine_labelIds.png`, whose label ids become the 19 train ids of
/// [`Classes::cityscapes`], and 255 for what is left out.
#[derive(Debug, Clone)]
pub struct Cityscapes(pub(super) Pairs);

impl Cityscapes {
    /// All cities of a split (`train`, `val`, `test`) of the set at `root`, RGB, sorted by name.
    ///
    /// # Errors
    /// If a folder cannot be listed, the split has no images, or files have no partner.
    pub fn open(root: impl AsRef<Path>, split: &str) -> Result<Self> {
        let images = root.as_ref().join("leftImg8bit").join(split);
        let labels = root.as_ref().join("gtFine").join(split);
        let image_files = files_of_cities(&images, "_leftImg8bit.png")?;
        let mask_files = files_of_cities(&labels, "_gtFine_labelIds.png")?;
        let pairs = join((&images, &image_files), "mask", (&labels, &mask_files), None)?;
        Ok(Self(Pairs {
            pairs,
            color: ColorMode::Rgb,
            format: MaskFormat::Index,
            // What is no id stays as it is, and is found not to be a class.
            relabel: |id| TRAIN_IDS.get(id as usize).copied().unwrap_or(id),
            classes: Classes::cityscapes(),
            decode: DecodeOptions::default(),
        }))
    }

    /// The names (`aachen_000000_000019`), in order.
    pub fn names(&self) -> Vec<&str> {
        self.0.names()
    }
}

impl Dataset<Sample> for Cityscapes {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        Ok(self.0.get(index)?)
    }

    fn len(&self) -> usize {
        self.0.pairs.len()
    }
}

/// The files in the folders of all cities whose names end in `suffix`, by what comes before it.
fn files_of_cities(folder: &Path, suffix: &str) -> Result<Files> {
    let mut files = Files::new();
    for city in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&city)? {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(suffix));
            if let Some(name) = name.map(str::to_owned) {
                add(&mut files, name, path)?;
            }
        }
    }
    Ok(files)
}
