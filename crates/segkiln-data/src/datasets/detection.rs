use std::path::{Path, PathBuf};

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::{Classes, Instances};

use super::pairs::turn_cure;
use crate::{ColorMode, DataError, DecodeOptions, FileFacts, Image, Result, Sample, read_with_facts};

/// An image file and the objects in it.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionEntry {
    /// Name in errors and results: the stem of the image, or its id.
    pub name: String,
    /// Path of the image.
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

    /// Options of decoding.
    pub fn decode(mut self, decode: DecodeOptions) -> Self {
        self.decode = decode;
        self
    }

    /// Checks that there is an object to learn or to find; without, a training learns nothing and no epoch is better than
    /// another. `file` and `split` are the annotations and the use of the images, for the error.
    ///
    /// # Errors
    /// [`DataError::NoTarget`].
    pub fn check_targets(&self, file: &Path, split: &str) -> Result<()> {
        match self.entries.iter().any(DetectionEntry::has_target) {
            true => Ok(()),
            false => Err(DataError::NoTarget { path: file.into(), split: split.into(), images: self.entries.len() }),
        }
    }

    /// Reads an image and checks its size.
    pub(super) fn read(&self, index: usize) -> Result<(Image, FileFacts)> {
        let DetectionEntry { image: path, instances, .. } = &self.entries[index];
        let (image, facts) = read_with_facts(path, self.color, self.decode)?;
        let (image_size, target_size) = (image.size(), instances.size());
        if image_size != target_size {
            let cure = turn_cure(facts.orientation_tag, self.decode.orientation);
            return Err(DataError::TargetSize { image: path.clone(), image_size, target_size, cure });
        }
        Ok((image, facts))
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
        let DetectionEntry { name, instances, .. } = &self.entries[index];
        let (image, _) = self.read(index)?;
        Ok(Sample { name: name.clone(), image, target: instances.clone() })
    }

    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use image::DynamicImage;
    use segkiln_core::{BBox, Instance};

    use super::*;
    use crate::{
        datasets::{CocoDetection, CocoOptions, VocDetection, VocOptions},
        write_image,
    };

    #[test]
    fn crowds_and_difficult_objects_are_no_targets() {
        let of = |crowd, difficult| {
            let mut instance = Instance::new(BBox::new(1.0, 1.0, 3.0, 3.0).unwrap(), 1).unwrap();
            (instance.crowd, instance.difficult) = (crowd, difficult);
            let instances = Instances::new(8, 8, vec![instance]).unwrap();
            let entry = DetectionEntry { name: "a".into(), image: "a.png".into(), instances };
            DetectionDataset::new(vec![entry], Classes::binary())
                .unwrap()
                .check_targets(Path::new("a.json"), "training")
        };
        of(false, false).unwrap();
        for (crowd, difficult) in [(true, false), (false, true), (true, true)] {
            let error = of(crowd, difficult).unwrap_err().to_string();
            for part in ["a.json", "1 training image", "no object", "crowd", "difficult"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    /// A COCO file whose only training object is a crowd, or which has none at all.
    #[test]
    fn a_training_set_of_crowds_is_refused() {
        let root = tempfile::tempdir().unwrap();
        write_image(root.path().join("a.png"), &DynamicImage::new_rgb8(8, 8)).unwrap();
        let json = root.path().join("train.json");
        let counts = "{\"size\": [8, 8], \"counts\": [9, 3, 52]}";
        let crowd = format!(
            "{{\"id\": 1, \"image_id\": 1, \"category_id\": 1, \"bbox\": [1, 1, 1, 3], \"area\": 3, \"iscrowd\": 1, \
             \"segmentation\": {counts}}}"
        );
        for (annotations, fits) in
            [(crowd.clone(), false), (String::new(), false), (crowd.replace("\"iscrowd\": 1", "\"iscrowd\": 0"), true)]
        {
            let text = format!(
                "{{\"images\": [{{\"id\": 1, \"file_name\": \"a.png\", \"width\": 8, \"height\": 8}}], \
                 \"categories\": [{{\"id\": 1, \"name\": \"cell\"}}], \"annotations\": [{annotations}]}}"
            );
            std::fs::write(&json, text).unwrap();
            let dataset = CocoDetection::open(root.path(), &json, CocoOptions::default()).unwrap();
            assert_eq!(dataset.check_targets("training").is_ok(), fits, "{annotations}");
        }
    }

    /// A VOC validation list whose only object is difficult.
    #[test]
    fn a_validation_set_of_difficult_objects_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["JPEGImages", "Annotations", "ImageSets/Main"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        write_image(root.path().join("JPEGImages/a.png"), &DynamicImage::new_rgb8(8, 8)).unwrap();
        std::fs::write(root.path().join("ImageSets/Main/val.txt"), "a\n").unwrap();
        for (difficult, fits) in [(1, false), (0, true)] {
            let text = format!(
                "<annotation><size><width>8</width><height>8</height></size><object><name>cell</name>\
                 <difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>\
                 </object></annotation>"
            );
            std::fs::write(root.path().join("Annotations/a.xml"), text).unwrap();
            let dataset = VocDetection::open(root.path(), "val", VocOptions::default()).unwrap();
            assert_eq!(dataset.check_targets(root.path(), "validation").is_ok(), fits);
        }
    }
}
