use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
};

use burn::data::dataset::{Dataset, DatasetError};
use rayon::prelude::*;
use segkiln_core::{BBox, Classes, Instance, Instances, Size};

use super::{
    InvalidBoxes,
    boxes::Boxes,
    detection::{DetectionDataset, DetectionEntry},
};
use crate::{
    ColorMode, DataError, DecodeOptions, Result, Sample,
    coco::{CocoAnnotation, CocoFile, CocoImage, CocoSegmentation},
    problem::Faults,
    splits::is_inside,
    warn::{self, warn},
};

/// Options of a [`CocoDetection`].
#[derive(Debug, Clone, Default)]
pub struct CocoOptions {
    /// The categories of the classes from 1 on; those of the file, by rising id, if none are given. A model is evaluated with
    /// the categories that it was trained with.
    pub categories: Option<Vec<i64>>,
    /// The names of these categories, in the same order. Where the file has a category of the same name under another id, that
    /// is the one that is meant; where it has the id under another name, that is an error.
    pub names: Option<Vec<String>>,
    /// Handling of annotations that are not objects, because they have no area within the image.
    pub invalid_boxes: InvalidBoxes,
    /// Whether each object needs a mask.
    pub masks: bool,
    /// The channels that images are read into.
    pub color: ColorMode,
    /// Options of decoding.
    pub decode: DecodeOptions,
}

/// Images with objects as COCO's files describe them.
#[derive(Debug, Clone)]
pub struct CocoDetection {
    pub(super) dataset: DetectionDataset,
    file: CocoFile,
    categories: Vec<i64>,
    dropped: usize,
    dropped_parts: usize,
}

impl CocoDetection {
    /// The images in a folder and a file of annotations. The file is read now, an image when its sample is asked for. Where the
    /// file names its images with a folder that `images` does not have, or that leads out of it, their names alone are looked
    /// for; `\` is taken for `/`.
    ///
    /// # Errors
    /// If the file cannot be read or has no image, an image has no file, no file name or no size, two images have one file, an
    /// annotation has another category than [`CocoOptions::categories`], no mask where each needs one, or a box that
    /// [`CocoOptions::invalid_boxes`] refuses: with the file, the annotation and the field. Several such faults are
    /// [`DataError::Several`].
    pub fn open(images: impl AsRef<Path>, annotations: impl AsRef<Path>, options: CocoOptions) -> Result<Self> {
        let mut file = CocoFile::read(annotations)?;
        if let (Some(categories), Some(names)) = (&options.categories, &options.names) {
            match_names(&mut file, categories, names)?;
        }
        let known: HashMap<i64, &str> =
            file.categories().iter().map(|category| (category.id, category.name.as_str())).collect();
        let categories: Vec<i64> = match &options.categories {
            Some(categories) => categories.clone(),
            None => known.keys().copied().collect::<BTreeSet<_>>().into_iter().collect(),
        };
        let classes = classes(&file, &categories, &known)?;
        let images = images.as_ref();
        let by_image = file.annotations_by_image();
        let class_of: HashMap<i64, u32> = categories.iter().copied().zip(1..).collect();
        let reader = Reader { file: &file, folder: images, class_of, options: &options };
        let read: Vec<Read> = file
            .images()
            .par_iter()
            .zip(by_image)
            .map(|(image, annotations)| reader.entry(image, &annotations))
            .collect();
        let mut faults = Faults::default();
        let mut entries: Vec<DetectionEntry> = Vec::with_capacity(read.len());
        let mut taken: HashMap<PathBuf, &CocoImage> = HashMap::with_capacity(read.len());
        let (mut dropped, mut dropped_parts) = (0, 0);
        for (read, image) in read.into_iter().zip(file.images()) {
            read.faults.into_iter().for_each(|fault| faults.push(fault));
            (dropped, dropped_parts) = (dropped + read.dropped, dropped_parts + read.dropped_parts);
            let Some(entry) = read.entry else { continue };
            if let Some(other) = taken.insert(entry.image.clone(), image) {
                let path = entry.image.display();
                let reason = format!("leads to {path}, and so does that of image {}; give each its own file", other.id);
                faults.push(reader.wrong(format!("image {}", image.id), "file_name", reason));
            }
            entries.push(entry);
        }
        faults.finish()?;
        name_apart(&mut entries, images);
        if dropped_parts > 0 {
            let text = format_args!("{dropped_parts} parts of polygons have less than three vertices and are left out");
            warn(warn::POLYGON_PARTS, file.path(), text);
        }
        let dataset = DetectionDataset::new(entries, classes)?;
        let dataset = dataset.color(options.color).decode(options.decode);
        Ok(Self { dataset, file, categories, dropped, dropped_parts })
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

    /// Checks that there is an object to learn or to find; `split` is the use of the images, for the error.
    ///
    /// # Errors
    /// [`DataError::NoTarget`], which names the file of annotations.
    pub fn check_targets(&self, split: &str) -> Result<()> {
        self.dataset.check_targets(self.file.path(), split)
    }

    /// The file of annotations; its categories have the ids of [`CocoOptions::categories`] where names matched.
    pub fn file(&self) -> &CocoFile {
        &self.file
    }

    /// Annotations that [`InvalidBoxes::Drop`] left out.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Parts of polygons with less than three vertices that were left out.
    pub fn dropped_parts(&self) -> usize {
        self.dropped_parts
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

/// Names images of one stem in several folders by their folders too: results are written by name.
fn name_apart(entries: &mut [DetectionEntry], folder: &Path) {
    let mut counts: HashMap<String, usize> = HashMap::with_capacity(entries.len());
    entries.iter().for_each(|entry| *counts.entry(entry.name.clone()).or_default() += 1);
    for entry in entries.iter_mut().filter(|entry| counts[&entry.name] > 1) {
        let path = entry.image.strip_prefix(folder).unwrap_or(&entry.image);
        let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        entry.name = parts.join("_");
    }
}

/// The background and the names of categories; ids tell categories apart, names need not.
fn classes(file: &CocoFile, categories: &[i64], known: &HashMap<i64, &str>) -> Result<Classes> {
    let mut names = vec!["background".to_string()];
    let mut taken = HashSet::from(["background".to_string()]);
    for id in categories {
        let name = known.get(id).copied().unwrap_or_default();
        let name = match name.is_empty() || taken.contains(name) {
            true => numbered(name, *id),
            false => name.to_string(),
        };
        taken.insert(name.clone());
        names.push(name);
    }
    Classes::new(names).map_err(|error| DataError::Coco {
        path: file.path().into(),
        entry: "file".into(),
        field: "categories".into(),
        reason: error.to_string(),
    })
}

/// Name of a category that cannot go by its name alone.
fn numbered(name: &str, id: i64) -> String {
    format!("{name} ({id})").trim().to_string()
}

/// Gives the categories of a file the ids that others have for their names.
fn match_names(file: &mut CocoFile, categories: &[i64], names: &[String]) -> Result<()> {
    let id_of: HashMap<&str, i64> = names.iter().map(String::as_str).zip(categories.iter().copied()).collect();
    let name_of: HashMap<i64, &str> = categories.iter().copied().zip(names.iter().map(String::as_str)).collect();
    // Names that were made of ids say nothing.
    let made = |id: i64, name: &str| name.is_empty() || name.ends_with(&format!("({id})"));
    let mut ids = HashMap::new();
    let mut faults = Faults::default();
    for category in file.categories() {
        let known = name_of.get(&category.id).copied();
        // Names that several categories have do not tell them apart; the id does.
        let is_same = |name: &str| name == category.name || name == numbered(&category.name, category.id);
        if known.is_some_and(is_same) {
            continue;
        }
        let expected = known.filter(|name| !made(category.id, name));
        match (id_of.get(category.name.as_str()), expected) {
            (Some(id), _) if *id != category.id => drop(ids.insert(category.id, *id)),
            (Some(_), _) | (None, None) => {}
            (None, Some(_)) if category.name.is_empty() => {}
            (None, Some(expected)) => faults.push(DataError::Coco {
                path: file.path().into(),
                entry: format!("category {}", category.id),
                field: "name".into(),
                reason: format!(
                    "is {:?}, but {expected:?} in the training's file; name the categories alike in both",
                    category.name
                ),
            }),
        }
    }
    // An id that another category gives up must not stay with its old owner.
    let given: HashSet<i64> = ids.values().copied().collect();
    for category in file.categories() {
        if given.contains(&category.id)
            && !ids.contains_key(&category.id)
            && id_of.get(category.name.as_str()) != Some(&category.id)
        {
            faults.push(DataError::Coco {
                path: file.path().into(),
                entry: format!("category {}", category.id),
                field: "name".into(),
                reason: format!("{:?} is none of the training's; name the categories alike in both", category.name),
            });
        }
    }
    faults.finish()?;
    if !ids.is_empty() {
        let text =
            format_args!("{} categories have other ids than in the training's file and go by their names", ids.len());
        warn(warn::CATEGORIES, file.path(), text);
        file.renumber_categories(&ids);
    }
    Ok(())
}

/// An image as it was read, and what was wrong with it.
#[derive(Default)]
struct Read {
    entry: Option<DetectionEntry>,
    dropped: usize,
    dropped_parts: usize,
    faults: Vec<DataError>,
}

struct Reader<'a> {
    file: &'a CocoFile,
    folder: &'a Path,
    class_of: HashMap<i64, u32>,
    options: &'a CocoOptions,
}

impl Reader<'_> {
    fn wrong(&self, entry: String, field: &str, reason: String) -> DataError {
        DataError::Coco { path: self.file.path().into(), entry, field: field.into(), reason }
    }

    fn entry(&self, image: &CocoImage, annotations: &[&CocoAnnotation]) -> Read {
        let mut read = Read::default();
        let path = self.path(image).map_err(|error| read.faults.push(error)).ok();
        let size = self.size(image).map_err(|error| read.faults.push(error)).ok();
        let Some(size) = size else { return read };
        let mut boxes = Boxes::new(self.options.invalid_boxes);
        let mut instances = Vec::with_capacity(annotations.len());
        for annotation in annotations {
            match self.instance(annotation, size, &mut boxes) {
                Ok(instance) => {
                    let parts = |mask: &CocoSegmentation| mask.degenerate_parts();
                    let parts = annotation.segmentation.as_ref().filter(|_| self.options.masks).map_or(0, parts);
                    read.dropped_parts += if instance.is_some() { parts } else { 0 };
                    instances.extend(instance);
                }
                Err(error) => read.faults.push(error),
            }
        }
        read.dropped = boxes.dropped;
        let instances =
            Instances::new(size.width, size.height, instances).expect("masks were read for the image's size");
        read.entry = path.map(|(path, stem)| DetectionEntry { name: stem, image: path, instances });
        read
    }

    /// The image's file, and its stem.
    fn path(&self, image: &CocoImage) -> Result<(PathBuf, String)> {
        let wrong = |reason: String| self.wrong(format!("image {}", image.id), "file_name", reason);
        let given = image.file_name.as_ref();
        let given = given.ok_or_else(|| wrong("is missing; training needs the image's file".into()))?;
        let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        // As it is, where a name has such characters; then as Windows writes it.
        let slashed = given.replace('\\', "/");
        let alone = slashed.rsplit('/').next().unwrap_or_default();
        let names = [given.as_str(), &slashed, alone];
        let inside = names.into_iter().filter(|name| is_inside(name) && !name.is_empty());
        let found = inside.map(|name| self.folder.join(name)).find(|path| path.is_file());
        let found = found.ok_or_else(|| {
            let path = self.folder.join(if is_inside(given) { given } else { alone });
            wrong(format!("{} is not there", path.display()))
        })?;
        let stem = stem(&found).unwrap_or_else(|| given.clone());
        Ok((found, stem))
    }

    fn size(&self, image: &CocoImage) -> Result<Size> {
        let size = self.file.size(&image.id)?;
        let limits = self.options.decode.limits;
        let path = Path::new(image.file_name.as_deref().unwrap_or_default());
        match limits.check(path, size.width, size.height, 1) {
            Ok(()) => Ok(size),
            Err(_) => {
                let reason = format!("{size} pixels are over the limits for images; raise `Limits` if that is true");
                Err(self.wrong(format!("image {}", image.id), "width", reason))
            }
        }
    }

    fn instance(
        &self,
        annotation: &CocoAnnotation,
        Size { width, height }: Size,
        boxes: &mut Boxes,
    ) -> Result<Option<Instance>> {
        let options = self.options;
        let refuse = |field: &str, reason: String| self.wrong(format!("annotation {}", annotation.id), field, reason);
        let Some(class) = self.class_of.get(&annotation.category_id) else {
            let reason = format!("is {}, which is none of the known categories; add it", annotation.category_id);
            return Err(refuse("category_id", reason));
        };
        // Who learns boxes alone is not to be bothered by masks.
        let wanted = options.masks || annotation.bbox.is_none();
        let is_nothing = |mask: &CocoSegmentation| match mask {
            CocoSegmentation::Polygons(polygons) => mask.degenerate_parts() == polygons.len(),
            _ => false,
        };
        let droppable = options.invalid_boxes == InvalidBoxes::Drop;
        if wanted && droppable && annotation.segmentation.as_ref().is_some_and(is_nothing) {
            boxes.dropped += 1;
            return Ok(None);
        }
        let mask = if wanted { self.file.mask(annotation)? } else { None };
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
        let bbox: Option<BBox> =
            boxes.take(corners, Size { width, height }).map_err(|reason| refuse("bbox", reason))?;
        Ok(bbox.map(|bbox| {
            let mut instance = Instance::new(bbox, *class).expect("classes of objects begin at 1");
            instance.crowd = annotation.crowd;
            instance.mask = mask;
            instance
        }))
    }
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

    /// A file whose images are all there, in a folder that goes away with the second value.
    fn written(json: &str, files: &[&str]) -> (PathBuf, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, []).unwrap();
        }
        let path = folder.path().join("gt.json");
        std::fs::write(&path, json).unwrap();
        (path, folder)
    }

    fn images(names: &[&str]) -> String {
        let image = |(id, name): (usize, &&str)| {
            format!(r#"{{"id": {id}, "file_name": {}, "width": 4, "height": 3}}"#, serde_json::to_string(name).unwrap())
        };
        let images: Vec<String> = names.iter().enumerate().map(image).collect();
        format!(r#"{{"images": [{}], "categories": [{{"id": 1, "name": "cat"}}]}}"#, images.join(", "))
    }

    #[test]
    fn names_stay_in_their_folder() {
        let (path, folder) = written(
            &images(&["sub\\\\a.png", "..\\\\b.png", "/etc/c.png", "../d.png"]),
            &["in/sub/a.png", "b.png", "in/b.png", "in/c.png", "d.png", "in/d.png"],
        );
        let root = folder.path().join("in");
        let dataset = CocoDetection::open(&root, &path, CocoOptions::default()).unwrap();
        let found: Vec<_> = dataset.entries().iter().map(|entry| entry.image.clone()).collect();
        assert_eq!(found, ["sub/a.png", "b.png", "c.png", "d.png"].map(|name| root.join(name)));
        std::fs::remove_file(root.join("b.png")).unwrap();
        let error = CocoDetection::open(&root, &path, CocoOptions::default()).unwrap_err().to_string();
        assert!(error.contains("image 1") && error.contains("is not there"), "{error}");
    }

    #[test]
    fn images_of_one_name_in_two_folders_are_told_apart() {
        let names = ["left/a.png", "right/a.png", "right/b.png"];
        let (path, folder) = written(&images(&names), &names);
        let dataset = CocoDetection::open(folder.path(), &path, CocoOptions::default()).unwrap();
        let names: Vec<&str> = dataset.entries().iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["left_a.png", "right_a.png", "b"]);
    }

    #[test]
    fn two_images_of_one_file_are_an_error() {
        let (path, folder) = written(&images(&["left/a.png", "right/a.png"]), &["a.png"]);
        let error = CocoDetection::open(folder.path(), &path, CocoOptions::default()).unwrap_err().to_string();
        assert!(error.contains("image 1") && error.contains("image 0") && error.contains("file_name"), "{error}");
    }

    #[test]
    fn all_faults_are_listed_at_once() {
        let json = FILE.replace("\"bbox\": [1, 0, 2, 2]", "\"bbox\": [9, 9, 2, 2]").replace("images/b.png", "c.png");
        let (path, folder) = written(&json, &["a.png"]);
        let Err(DataError::Several { errors, more: 0 }) =
            CocoDetection::open(folder.path(), path, CocoOptions::default())
        else {
            panic!("not several")
        };
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 3);
        for (error, part) in text.iter().zip(["annotation 1,", "annotation 3,", "image 9,"]) {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn degenerate_parts_are_dropped_and_counted() {
        let json =
            FILE.replace(r#"{"size": [3, 4], "counts": [3, 2, 1, 2, 4]}"#, "[[1, 0, 3, 0, 3, 2, 1, 2], [1, 1, 2, 2]]");
        let open = |json: &str, invalid_boxes| {
            let (path, folder) = written(json, &["a.png", "b.png"]);
            CocoDetection::open(folder.path(), path, CocoOptions { invalid_boxes, masks: true, ..Default::default() })
        };
        let dataset = open(&json, InvalidBoxes::Drop).unwrap();
        assert_eq!((dataset.dropped(), dataset.dropped_parts()), (1, 1));
        assert_eq!(dataset.entries()[0].instances.as_slice()[0].mask.as_ref().unwrap().area(), 4);
        let nothing = json.replace("[1, 0, 3, 0, 3, 2, 1, 2], ", "");
        assert_eq!(open(&nothing, InvalidBoxes::Drop).unwrap().dropped(), 2);
        let error = open(&nothing, InvalidBoxes::Refuse).unwrap_err().to_string();
        assert!(error.contains("annotation 1") && error.contains("three vertices"), "{error}");
    }

    #[test]
    fn categories_go_by_their_names() {
        let swapped = FILE.replace("\"cat\"", "\"x\"").replace("dog", "cat").replace("\"x\"", "\"dog\"");
        let given = |json: &str| {
            let (path, folder) = written(json, &["a.png", "b.png"]);
            let options = CocoOptions {
                invalid_boxes: InvalidBoxes::Drop,
                categories: Some(vec![3, 17]),
                names: Some(vec!["dog".into(), "cat".into()]),
                ..CocoOptions::default()
            };
            CocoDetection::open(folder.path(), path, options)
        };
        let labels = |dataset: CocoDetection| -> Vec<u32> {
            dataset.entries()[0].instances.as_slice().iter().map(Instance::label).collect()
        };
        assert_eq!(labels(given(FILE).unwrap()), [2, 1]);
        let dataset = given(&swapped).unwrap();
        assert_eq!(dataset.file().annotations()[0].category_id, 3);
        assert_eq!(labels(dataset), [1, 2]);
        let other = given(&FILE.replace("\"cat\"", "\"horse\"")).unwrap_err().to_string();
        assert!(other.contains("category 17") && other.contains("horse") && other.contains("cat"), "{other}");
        let nameless = FILE.replace(", \"name\": \"cat\"", "").replace(", \"name\": \"dog\"", "");
        assert_eq!(labels(given(&nameless).unwrap()), [2, 1]);
    }

    #[test]
    fn categories_of_one_name_go_by_their_ids() {
        let twins = FILE.replace("dog", "cat");
        let (path, folder) = written(&twins, &["a.png", "b.png"]);
        let options = CocoOptions { invalid_boxes: InvalidBoxes::Drop, ..CocoOptions::default() };
        let train = CocoDetection::open(folder.path(), &path, options.clone()).unwrap();
        let (categories, names) = (train.categories().to_vec(), train.classes().names()[1..].to_vec());
        let options = CocoOptions { categories: Some(categories), names: Some(names), ..options };
        let valid = CocoDetection::open(folder.path(), &path, options).unwrap();
        assert_eq!(valid.entries()[0].instances, train.entries()[0].instances);
        assert_eq!(valid.file().annotations()[0].category_id, train.file().annotations()[0].category_id);
    }

    #[test]
    fn many_categories_take_no_square_of_time() {
        let categories: Vec<String> = (0..100_000).map(|id| format!(r#"{{"id": {id}, "name": "c"}}"#)).collect();
        let json = images(&["a.png"]).replace(r#"{"id": 1, "name": "cat"}"#, &categories.join(","));
        let (path, folder) = written(&json, &["a.png"]);
        let start = std::time::Instant::now();
        assert_eq!(
            CocoDetection::open(folder.path(), path, CocoOptions::default()).unwrap().categories().len(),
            100_000
        );
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    #[test]
    fn boundless_images_are_refused_before_their_masks_are_read() {
        let json = FILE.replacen("\"width\": 4", "\"width\": 100000000", 1);
        let (path, folder) = written(&json, &["a.png", "b.png"]);
        let error = CocoDetection::open(folder.path(), path, CocoOptions::default()).unwrap_err().to_string();
        assert!(error.contains("image 5") && error.contains("100000000x3"), "{error}");
    }
}
