use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use segkiln_core::{Rle, Size};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    CocoSegmentation, ImageId, decode, fields,
    source::{Source, entries, more_faults},
};
use crate::{DataError, Result, problem::Faults};

/// An image of a [`CocoFile`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CocoImage {
    /// Its id, which annotations and results name it by.
    pub id: ImageId,
    /// Path in the folder of images. Evaluation does without.
    pub file_name: Option<String>,
    /// Width in pixels, at least 1. Evaluation of boxes does without.
    #[serde(default, deserialize_with = "fields::side")]
    pub width: Option<u32>,
    /// Height in pixels, at least 1. Evaluation of boxes does without.
    #[serde(default, deserialize_with = "fields::side")]
    pub height: Option<u32>,
}

/// A class of a [`CocoFile`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CocoCategory {
    /// Its id. Those of COCO go from 1 to 90, with gaps.
    #[serde(deserialize_with = "fields::whole")]
    pub id: i64,
    /// Its name; empty where the file has none.
    #[serde(default, deserialize_with = "fields::text")]
    pub name: String,
}

/// An object of a [`CocoFile`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CocoAnnotation {
    /// Its id. Files should have each once, but not all do.
    #[serde(deserialize_with = "fields::whole")]
    pub id: i64,
    /// The image; it is in the file.
    pub image_id: ImageId,
    /// The class; it is in the file.
    #[serde(deserialize_with = "fields::whole")]
    pub category_id: i64,
    /// `[x, y, width, height]` in pixels, finite; width and height may be 0 or less.
    #[serde(default, deserialize_with = "fields::bbox")]
    pub bbox: Option<[f64; 4]>,
    /// Area of the object (not of its box) in pixels, as the annotators' program counted it.
    pub area: Option<f64>,
    /// Whether it is a crowd: a region of several objects that were not told apart. False where the file does not say.
    #[serde(rename = "iscrowd", default, deserialize_with = "fields::flag")]
    pub crowd: bool,
    /// The object's pixels, not decoded: see [`CocoFile::mask`].
    #[serde(default, deserialize_with = "fields::mask")]
    pub segmentation: Option<CocoSegmentation>,
}

/// A file of images, classes and annotated objects.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoFile {
    path: PathBuf,
    images: Vec<CocoImage>,
    categories: Vec<CocoCategory>,
    annotations: Vec<CocoAnnotation>,
    /// Places in `images`; of two images of one id the last, as in pycocotools.
    by_id: HashMap<ImageId, usize>,
}

impl CocoFile {
    /// Reads and checks a file, on all of rayon's threads. Masks are not decoded. A file without `annotations` has
    /// none.
    ///
    /// # Errors
    /// If the file cannot be read, has over 4 GiB, is not JSON or is truncated; and with the entry and its field: a
    /// field that is missing or of another type, a number that is not finite, a box that is not within ±10⁹, an image
    /// without pixels or with more than 2³² - 1, or an annotation whose image or category the file does not have.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::parse(Source::read(path.as_ref())?)
    }

    pub(super) fn parse(mut source: Source) -> Result<Self> {
        let read = |bytes: &[u8]| {
            let Raw { images, categories, annotations } = serde_json::from_slice(bytes)?;
            let (images, categories) = (entries(&images)?, entries(&categories)?);
            Ok(Parsed { images, categories, annotations: entries(&annotations)? })
        };
        let Lists { images, categories, annotations } =
            source.parse(read).map_err(|first| all_faults(&source, first))?;
        let by_id = images.iter().enumerate().map(|(index, image)| (image.id.clone(), index)).collect();
        let file = Self { path: source.path, images, categories, annotations, by_id };
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<()> {
        let mut faults = Faults::default();
        let wrong = |entry: String, field: &str, reason: String| DataError::Coco {
            path: self.path.clone(),
            entry,
            field: field.into(),
            reason,
        };
        for CocoImage { id, width, height, .. } in &self.images {
            if let (Some(width), Some(height)) = (width, height)
                && width.checked_mul(*height).is_none()
            {
                let reason = format!("{width}x{height} pixels are more than 2^32 - 1; no such image can be read");
                faults.push(wrong(format!("image {id}"), "width", reason));
            }
        }
        let mut categories: HashMap<i64, &str> = HashMap::with_capacity(self.categories.len());
        for CocoCategory { id, name } in &self.categories {
            let first = *categories.entry(*id).or_insert(name);
            if first != name {
                let reason = format!("{id} is that of {first:?} and of {name:?}; give each category an id of its own");
                faults.push(wrong(format!("category {id}"), "id", reason));
            }
        }
        // Annotations of one image mostly stand together.
        let mut known = None;
        for annotation in &self.annotations {
            if known != Some(&annotation.image_id) && !self.by_id.contains_key(&annotation.image_id) {
                let reason = format!("no image has the id {}; add it or remove the annotation", annotation.image_id);
                faults.push(wrong(format!("annotation {}", annotation.id), "image_id", reason));
                continue;
            }
            known = Some(&annotation.image_id);
            if !categories.contains_key(&annotation.category_id) {
                let id = annotation.category_id;
                let reason = format!("no category has the id {id}; add it or remove the annotation");
                faults.push(wrong(format!("annotation {}", annotation.id), "category_id", reason));
            }
        }
        faults.finish()
    }

    /// Renames categories: each id of the file is looked up in `ids`, and stays as it is where it is not there.
    #[cfg(feature = "datasets")]
    pub(crate) fn renumber_categories(&mut self, ids: &HashMap<i64, i64>) {
        let renumber = |id: &mut i64| *id = ids.get(id).copied().unwrap_or(*id);
        self.categories.iter_mut().for_each(|category| renumber(&mut category.id));
        self.annotations.iter_mut().for_each(|annotation| renumber(&mut annotation.category_id));
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The images, in the file's order.
    pub fn images(&self) -> &[CocoImage] {
        &self.images
    }

    /// The classes, in the file's order.
    pub fn categories(&self) -> &[CocoCategory] {
        &self.categories
    }

    /// The objects, in the file's order.
    pub fn annotations(&self) -> &[CocoAnnotation] {
        &self.annotations
    }

    /// The image of an id.
    pub fn image(&self, id: &ImageId) -> Option<&CocoImage> {
        self.by_id.get(id).map(|index| &self.images[*index])
    }

    /// For each of [`images`](Self::images) its objects, in the file's order. Where two images have one id, the last
    /// has them.
    pub fn annotations_by_image(&self) -> Vec<Vec<&CocoAnnotation>> {
        let mut lists = vec![Vec::new(); self.images.len()];
        let mut last: Option<(&ImageId, usize)> = None;
        for annotation in &self.annotations {
            let index = match last {
                Some((id, index)) if *id == annotation.image_id => index,
                _ => self.by_id[&annotation.image_id],
            };
            last = Some((&annotation.image_id, index));
            lists[index].push(annotation);
        }
        lists
    }

    /// Width and height of an image.
    ///
    /// # Errors
    /// If there is no such image, or the file does not say.
    pub fn size(&self, id: &ImageId) -> Result<Size> {
        let wrong = |field: &str, reason: &str| DataError::Coco {
            path: self.path.clone(),
            entry: format!("image {id}"),
            field: field.into(),
            reason: reason.into(),
        };
        let image = self.image(id).ok_or_else(|| wrong("id", "no image has it"))?;
        let width = image.width.ok_or_else(|| wrong("width", "is missing; masks need it"))?;
        let height = image.height.ok_or_else(|| wrong("height", "is missing; masks need it"))?;
        Ok(Size { width, height })
    }

    /// Mask of an object; none if it has no `segmentation`.
    ///
    /// # Errors
    /// As [`CocoSegmentation::to_rle`], naming the file and the annotation; also if the image's size is not known.
    pub fn mask(&self, annotation: &CocoAnnotation) -> Result<Option<Rle>> {
        let Some(segmentation) = &annotation.segmentation else { return Ok(None) };
        let size = self.size(&annotation.image_id)?;
        decode(&self.path, || format!("annotation {}", annotation.id), segmentation, size).map(Some)
    }
}

/// All entries that cannot be read, where `first` is one of them.
fn all_faults(source: &Source, first: DataError) -> DataError {
    let known = match &first {
        DataError::Coco { entry, .. } => entry.clone(),
        DataError::Json { reason, .. } => reason.split(": ").next().unwrap_or_default().to_owned(),
        _ => return first,
    };
    let Ok(Raw { images, categories, annotations }) = serde_json::from_slice(source.json()) else { return first };
    let mut faults = Faults::default();
    faults.push(first);
    more_faults::<CocoImage>("image", &images, &source.path, &mut faults, &known);
    more_faults::<CocoCategory>("category", &categories, &source.path, &mut faults, &known);
    more_faults::<CocoAnnotation>("annotation", &annotations, &source.path, &mut faults, &known);
    faults.finish().expect_err("there is one at least")
}

/// The lists of a file.
#[derive(Deserialize)]
#[serde(expecting = "an object with images, categories and annotations")]
struct Lists<Image, Category, Annotation> {
    images: Vec<Image>,
    categories: Vec<Category>,
    #[serde(default = "Vec::new")]
    annotations: Vec<Annotation>,
}

type Parsed = Lists<CocoImage, CocoCategory, CocoAnnotation>;
type Raw<'a> = Lists<&'a RawValue, &'a RawValue, &'a RawValue>;
