use std::path::Path;

use burn::data::dataset::{Dataset, DatasetError};
use rayon::prelude::*;
use segkiln_core::{BBox, Classes, Instance, Instances};

use super::{
    InvalidBoxes,
    boxes::Boxes,
    detection::{DetectionDataset, DetectionEntry},
};
use crate::{
    ColorMode, DataError, Limits, Result, Sample,
    coco::{CocoAnnotation, CocoFile, CocoImage},
};

/// How a [`CocoDetection`] is read.
#[derive(Debug, Clone, Default)]
pub struct CocoOptions {
    /// The categories of the classes from 1 on; those of the file, by rising id, if none are given. A model is evaluated with
    /// the categories that it was trained with.
    pub categories: Option<Vec<i64>>,
    /// What is done with annotations that are no objects: without an area within the image.
    pub invalid_boxes: InvalidBoxes,
    /// Whether each object needs a mask.
    pub masks: bool,
    /// The channels that images are read into.
    pub color: ColorMode,
    /// The largest image that is read.
    pub limits: Limits,
}

/// Images with objects as COCO's files describe them.
#[derive(Debug, Clone)]
pub struct CocoDetection {
    dataset: DetectionDataset,
    file: CocoFile,
    categories: Vec<i64>,
    dropped: usize,
}

impl CocoDetection {
    /// The images in a folder and a file of annotations. The file is read now, an image when its sample is asked for. Where the
    /// file names its images with a folder that `images` does not have, their names alone are looked for.
    ///
    /// # Errors
    /// If the file cannot be read or has no image, an image has no file, no file name or no size, an annotation has another category than
    /// [`CocoOptions::categories`], no mask where each needs one, or a box that [`CocoOptions::invalid_boxes`] refuses: with
    /// the file, the annotation and the field.
    pub fn open(images: impl AsRef<Path>, annotations: impl AsRef<Path>, options: CocoOptions) -> Result<Self> {
        let file = CocoFile::read(annotations)?;
        let mut known: Vec<(i64, &str)> =
            file.categories().iter().map(|category| (category.id, category.name.as_str())).collect();
        known.sort_unstable();
        let categories: Vec<i64> = match &options.categories {
            Some(categories) => categories.clone(),
            None => known.iter().map(|(id, _)| *id).collect(),
        };
        // Ids tell categories apart; names need not.
        let mut names = vec!["background".to_string()];
        for id in &categories {
            let name = known.iter().find(|(known, _)| known == id).map_or("", |(_, name)| *name);
            let taken = name.is_empty() || names.iter().any(|other| other == name);
            names.push(if taken { format!("{name} ({id})").trim().to_string() } else { name.to_string() });
        }
        let classes = Classes::new(names).map_err(|error| DataError::Coco {
            path: file.path().into(),
            entry: "file".into(),
            field: "categories".into(),
            reason: error.to_string(),
        })?;
        let images = images.as_ref();
        let by_image = file.annotations_by_image();
        let read: Vec<(DetectionEntry, usize)> = (file.images().par_iter().zip(by_image))
            .map(|(image, annotations)| entry(&file, images, image, &annotations, &categories, &options))
            .collect::<Result<_>>()?;
        let dropped = read.iter().map(|(_, dropped)| dropped).sum();
        let dataset = DetectionDataset::new(read.into_iter().map(|(entry, _)| entry).collect(), classes)?;
        let dataset = dataset.color(options.color).limits(options.limits);
        Ok(Self { dataset, file, categories, dropped })
    }

    /// The classes of the labels; class 0 is the background.
    pub fn classes(&self) -> &Classes {
        self.dataset.classes()
    }

    /// The category of each class from 1 on.
    pub fn categories(&self) -> &[i64] {
        &self.categories
    }

    /// The images and their objects, in the file's order.
    pub fn entries(&self) -> &[DetectionEntry] {
        self.dataset.entries()
    }

    /// The file of annotations.
    pub fn file(&self) -> &CocoFile {
        &self.file
    }

    /// Annotations that [`InvalidBoxes::Drop`] left out.
    pub fn dropped(&self) -> usize {
        self.dropped
    }
}

impl Dataset<Sample<Instances>> for CocoDetection {
    fn get(&self, index: usize) -> std::result::Result<Sample<Instances>, DatasetError> {
        self.dataset.get(index)
    }

    fn len(&self) -> usize {
        self.dataset.len()
    }
}

/// An image, and how many of its annotations were left out.
fn entry(
    file: &CocoFile,
    folder: &Path,
    image: &CocoImage,
    annotations: &[&CocoAnnotation],
    categories: &[i64],
    options: &CocoOptions,
) -> Result<(DetectionEntry, usize)> {
    let wrong = |entry: String, field: &str, reason: String| DataError::Coco {
        path: file.path().into(),
        entry,
        field: field.into(),
        reason,
    };
    let Some(name) = &image.file_name else {
        let reason = "is missing; training needs the image's file".into();
        return Err(wrong(format!("image {}", image.id), "file_name", reason));
    };
    let stem = Path::new(name).file_stem().map_or_else(|| name.clone(), |stem| stem.to_string_lossy().into_owned());
    let mut path = folder.join(name);
    if !path.exists() {
        let alone = Path::new(name).file_name().map(|name| folder.join(name)).filter(|path| path.exists());
        let missing = || wrong(format!("image {}", image.id), "file_name", format!("{} is not there", path.display()));
        path = alone.ok_or_else(missing)?;
    }
    let [width, height] = file.size(&image.id)?;
    let mut boxes = Boxes::new(options.invalid_boxes);
    let mut instances = Vec::with_capacity(annotations.len());
    for annotation in annotations {
        let refuse = |field: &str, reason: String| wrong(format!("annotation {}", annotation.id), field, reason);
        let Some(class) = categories.iter().position(|id| *id == annotation.category_id) else {
            let reason = format!("is {}, which is none of the known categories; add it", annotation.category_id);
            return Err(refuse("category_id", reason));
        };
        // Who learns boxes alone is not to be bothered by masks.
        let wanted = options.masks || annotation.bbox.is_none();
        let mask = if wanted { file.mask(annotation)? } else { None };
        if options.masks && mask.is_none() {
            return Err(refuse(
                "segmentation",
                "is missing; give each object a mask, or train with boxes alone".into(),
            ));
        }
        let corners = match (annotation.bbox, mask.as_ref().map(|mask| mask.bbox().map(|bbox| bbox.xyxy()))) {
            // A mask without pixels is no object, whatever box it has.
            (_, Some(None)) => [0.0; 4],
            (Some([x, y, width, height]), _) => [x, y, x + width, y + height],
            (None, Some(Some(corners))) => corners,
            (None, None) => return Err(refuse("bbox", "is missing, and so is a mask".into())),
        };
        let bbox: Option<BBox> = boxes.take(corners, [width, height]).map_err(|reason| refuse("bbox", reason))?;
        if let Some(bbox) = bbox {
            let mut instance = Instance::new(bbox, class as u32 + 1).expect("classes of objects begin at 1");
            instance.crowd = annotation.crowd;
            instance.mask = mask;
            instances.push(instance);
        }
    }
    let instances = Instances::new(width, height, instances).expect("masks were read for the image's size");
    Ok((DetectionEntry { name: stem, image: path, instances }, boxes.dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "images": [{"id": 5, "file_name": "a.png", "width": 4, "height": 3}, {"id": 9, "file_name": "images/b.png", "width": 2, "height": 2}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 17, "bbox": [1, 0, 2, 2], "area": 4, "segmentation": {"size": [3, 4], "counts": [3, 2, 1, 2, 4]}},
            {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 4, 9], "area": 12, "iscrowd": 1, "segmentation": {"size": [3, 4], "counts": [0, 12]}},
            {"id": 3, "image_id": 5, "category_id": 3, "bbox": [1, 1, 0, 2], "area": 0, "segmentation": {"size": [3, 4], "counts": [0, 1, 11]}}
        ]}"#;

    fn open(options: CocoOptions) -> Result<CocoDetection> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gt.json");
        std::fs::write(&path, FILE).unwrap();
        for name in ["a.png", "b.png"] {
            std::fs::write(folder.path().join(name), []).unwrap();
        }
        CocoDetection::open(folder.path(), path, options)
    }

    #[test]
    fn objects_are_read_with_gapped_categories() {
        let options = CocoOptions { invalid_boxes: InvalidBoxes::Drop, masks: true, ..CocoOptions::default() };
        let dataset = open(options).unwrap();
        assert_eq!(dataset.categories(), [3, 17]);
        assert_eq!(dataset.classes().names(), ["background", "dog", "cat"]);
        assert_eq!((dataset.len(), dataset.dropped()), (2, 1));
        let [first, second] = dataset.entries() else { unreachable!() };
        assert_eq!((first.name.as_str(), second.instances.len()), ("a", 0));
        let [cat, dogs] = first.instances.as_slice() else { unreachable!() };
        assert_eq!((cat.label(), cat.crowd, dogs.label(), dogs.crowd), (2, false, 1, true));
        assert_eq!(dogs.bbox.xyxy(), [0.0, 0.0, 4.0, 3.0]);
        assert_eq!(cat.mask.as_ref().unwrap().area(), 4);
    }

    #[test]
    fn what_is_no_object_is_named() {
        let error = open(CocoOptions::default()).unwrap_err().to_string();
        assert!(error.contains("gt.json") && error.contains("annotation 3") && error.contains("bbox"), "{error}");
        let categories = Some(vec![3]);
        let options = CocoOptions { invalid_boxes: InvalidBoxes::Drop, categories, ..CocoOptions::default() };
        let error = open(options).unwrap_err().to_string();
        assert!(error.contains("annotation 1") && error.contains("category_id") && error.contains("17"), "{error}");
    }
}
