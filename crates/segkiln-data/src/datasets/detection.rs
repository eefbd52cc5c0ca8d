use std::path::PathBuf;

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::{Classes, Instances};

use super::pairs::turn_cure;
use crate::{ColorMode, DataError, DecodeOptions, Result, Sample, read_with_facts};

/// An image file and the objects in it.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionEntry {
    /// What errors and results call it: the stem of the image, or its id.
    pub name: String,
    /// Where the image is.
    pub image: PathBuf,
    /// Its objects, and the width and height that it must have.
    pub instances: Instances,
}

/// Images with objects. The objects are in memory; an image is read when its sample is asked for.
///
/// ```
/// # use burn::data::dataset::Dataset;
/// use segkiln_core::{BBox, Classes, Instance, Instances};
/// use segkiln_data::datasets::{DetectionDataset, DetectionEntry};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample");
///
/// let nucleus = Instance::new(BBox::new(10.0, 12.5, 30.0, 34.0)?, 1)?;
/// let entry = DetectionEntry {
///     name: "nuclei".into(),
///     image: format!("{folder}/image.png").into(),
///     instances: Instances::new(512, 512, vec![nucleus])?,
/// };
/// let dataset = DetectionDataset::new(vec![entry], Classes::new(["background", "nucleus"])?)?;
/// assert_eq!(dataset.get(0)?.target.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct DetectionDataset {
    entries: Vec<DetectionEntry>,
    classes: Classes,
    color: ColorMode,
    decode: DecodeOptions,
}

impl DetectionEntry {
    /// Whether there is an object to learn or to find: neither a crowd nor a difficult one.
    pub fn has_target(&self) -> bool {
        self.instances.as_slice().iter().any(|instance| !instance.crowd && !instance.difficult)
    }
}

impl DetectionDataset {
    /// A data set of these images, in this order, read as RGB.
    ///
    /// # Errors
    /// If there is no image, or a label is none of the classes.
    pub fn new(entries: Vec<DetectionEntry>, classes: Classes) -> Result<Self> {
        if entries.is_empty() {
            return Err(DataError::Empty { what: "the list of images".into() });
        }
        for entry in &entries {
            for (object, instance) in entry.instances.as_slice().iter().enumerate() {
                let (label, count) = (instance.label(), classes.count());
                if label as usize >= count {
                    let reason = format!("label {label} is none of the {count} classes (0 to {}); add it", count - 1);
                    return Err(DataError::Object { path: entry.image.clone(), object, reason });
                }
            }
        }
        Ok(Self { entries, classes, color: ColorMode::default(), decode: DecodeOptions::default() })
    }

    /// Channels that images are read into. Default: RGB.
    pub fn color(mut self, color: ColorMode) -> Self {
        self.color = color;
        self
    }

    /// How images are decoded.
    pub fn decode(mut self, decode: DecodeOptions) -> Self {
        self.decode = decode;
        self
    }

    /// The classes of the labels; class 0 is the background.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The images and their objects, in order.
    pub fn entries(&self) -> &[DetectionEntry] {
        &self.entries
    }
}

impl Dataset<Sample<Instances>> for DetectionDataset {
    fn get(&self, index: usize) -> std::result::Result<Sample<Instances>, DatasetError> {
        let DetectionEntry { name, image: path, instances } = &self.entries[index];
        let (image, facts) = read_with_facts(path, self.color, self.decode)?;
        let (image_size, target_size) = ((image.width(), image.height()), (instances.width(), instances.height()));
        if image_size != target_size {
            let cure = turn_cure(facts.orientation_tag, self.decode.orientation);
            return Err(DataError::TargetSize { image: path.clone(), image_size, target_size, cure }.into());
        }
        Ok(Sample { name: name.clone(), image, target: instances.clone() })
    }

    fn len(&self) -> usize {
        self.entries.len()
    }
}
