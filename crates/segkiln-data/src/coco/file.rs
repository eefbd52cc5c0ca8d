use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use segkiln_core::Rle;

use super::{
    Entry, ImageId, Segmentation, Source, decode,
    json::{Chunk, Fault, Reader},
    needed, parse_bbox,
};
use crate::{DataError, Result};

/// An image of a [`CocoFile`].
#[derive(Debug, Clone, PartialEq)]
pub struct CocoImage {
    /// Its id, which annotations and results name it by.
    pub id: ImageId,
    /// Where it lies in the folder of images. Evaluation does without.
    pub file_name: Option<String>,
    /// Width in pixels, at least 1. Evaluation of boxes does without.
    pub width: Option<u32>,
    /// Height in pixels, at least 1. Evaluation of boxes does without.
    pub height: Option<u32>,
}

/// A class of a [`CocoFile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CocoCategory {
    /// Its id. Those of COCO go from 1 to 90, with gaps.
    pub id: i64,
    /// Its name; empty where the file has none.
    pub name: String,
}

/// An object of a [`CocoFile`].
#[derive(Debug, Clone, PartialEq)]
pub struct CocoAnnotation {
    /// Its id. Files should have each once, but not all do.
    pub id: i64,
    /// The image; it is in the file.
    pub image_id: ImageId,
    /// The class; it is in the file.
    pub category_id: i64,
    /// `[x, y, width, height]` in pixels, finite; width and height may be 0 or less.
    pub bbox: Option<[f64; 4]>,
    /// Area of the object (not of its box) in pixels, as the annotators' program counted it.
    pub area: Option<f64>,
    /// Whether it is a crowd: a region of several objects that were not told apart. False where the file does not say.
    pub crowd: bool,
    /// The object's pixels, not decoded: see [`CocoFile::mask`].
    pub segmentation: Option<Segmentation>,
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

    pub(super) fn parse(source: Source) -> Result<Self> {
        let sections = Sections::find(&source.bytes).map_err(|fault| source.damaged(fault))?;
        let missing = |field: &str| {
            source.damaged(Fault { at: 0, field: Some(field.into()), reason: "is missing; write it".into() })
        };
        let images: Vec<CocoImage> = source.entries(&sections.images.ok_or_else(|| missing("images"))?)?;
        let categories: Vec<CocoCategory> =
            source.entries(&sections.categories.ok_or_else(|| missing("categories"))?)?;
        let annotations: Vec<CocoAnnotation> = source.entries(&sections.annotations.unwrap_or_default())?;
        let by_id = images.iter().enumerate().map(|(index, image)| (image.id.clone(), index)).collect();
        let file = Self { path: source.path, images, categories, annotations, by_id };
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<()> {
        let wrong = |annotation: &CocoAnnotation, field: &str, reason: String| {
            let entry = format!("annotation {}", annotation.id);
            Err(DataError::Coco { path: self.path.clone(), entry, field: field.into(), reason })
        };
        let categories: HashSet<i64> = self.categories.iter().map(|category| category.id).collect();
        // Annotations of one image mostly stand together.
        let mut known = None;
        for annotation in &self.annotations {
            if known != Some(&annotation.image_id) && !self.by_id.contains_key(&annotation.image_id) {
                let reason = format!("no image has the id {}; add it or remove the annotation", annotation.image_id);
                return wrong(annotation, "image_id", reason);
            }
            known = Some(&annotation.image_id);
            if !categories.contains(&annotation.category_id) {
                let id = annotation.category_id;
                let reason = format!("no category has the id {id}; add it or remove the annotation");
                return wrong(annotation, "category_id", reason);
            }
        }
        Ok(())
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
    pub fn size(&self, id: &ImageId) -> Result<[u32; 2]> {
        let wrong = |field: &str, reason: &str| DataError::Coco {
            path: self.path.clone(),
            entry: format!("image {id}"),
            field: field.into(),
            reason: reason.into(),
        };
        let image = self.image(id).ok_or_else(|| wrong("id", "no image has it"))?;
        let width = image.width.ok_or_else(|| wrong("width", "is missing; masks need it"))?;
        let height = image.height.ok_or_else(|| wrong("height", "is missing; masks need it"))?;
        Ok([width, height])
    }

    /// The pixels of an object; none if it has no `segmentation`.
    ///
    /// # Errors
    /// Of [`Segmentation::to_rle`], with the file and the annotation; or if the image's size is not known.
    pub fn mask(&self, annotation: &CocoAnnotation) -> Result<Option<Rle>> {
        let Some(segmentation) = &annotation.segmentation else { return Ok(None) };
        let size = self.size(&annotation.image_id)?;
        decode(&self.path, || format!("annotation {}", annotation.id), segmentation, size).map(Some)
    }
}

/// The arrays of the file.
#[derive(Default)]
struct Sections<'a> {
    images: Option<Vec<Chunk<'a>>>,
    categories: Option<Vec<Chunk<'a>>>,
    annotations: Option<Vec<Chunk<'a>>>,
}

impl<'a> Sections<'a> {
    fn find(bytes: &'a [u8]) -> std::result::Result<Self, Fault> {
        let mut sections = Self::default();
        let mut reader = Reader::new(bytes);
        reader.object(|reader, key| {
            match key {
                "images" => sections.images = Some(reader.chunks()?),
                "categories" => sections.categories = Some(reader.chunks()?),
                "annotations" => sections.annotations = Some(reader.chunks()?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.end()?;
        Ok(sections)
    }
}

impl Entry for CocoImage {
    const NAME: &'static str = "image";
    const HAS_ID: bool = true;

    fn parse(reader: &mut Reader) -> std::result::Result<Self, Fault> {
        let (mut id, mut file_name, mut width, mut height) = (None, None, None, None);
        let side = |reader: &mut Reader| {
            let before = reader.clone();
            match reader.nullable(Reader::unsigned)? {
                Some(0) => Err(before.fault("is 0; an image has at least one pixel")),
                side => Ok(side),
            }
        };
        reader.object(|reader, key| {
            match key {
                "id" => id = Some(ImageId::parse(reader)?),
                "file_name" => file_name = reader.nullable(Reader::string)?.map(Into::into),
                "width" => width = side(reader)?,
                "height" => height = side(reader)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        if let (Some(width), Some(height)) = (width, height)
            && width.checked_mul(height).is_none()
        {
            let fault =
                reader.fault(format!("{width}x{height} pixels are more than 2^32 - 1; no such image can be read"));
            return Err(Fault { field: Some("width".into()), ..fault });
        }
        Ok(Self { id: needed(id, "id", reader)?, file_name, width, height })
    }
}

impl Entry for CocoCategory {
    const NAME: &'static str = "category";
    const HAS_ID: bool = true;

    fn parse(reader: &mut Reader) -> std::result::Result<Self, Fault> {
        let (mut id, mut name) = (None, None);
        reader.object(|reader, key| {
            match key {
                "id" => id = Some(reader.integer()?),
                "name" => name = reader.nullable(Reader::string)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(Self { id: needed(id, "id", reader)?, name: name.unwrap_or_default().into() })
    }
}

impl Entry for CocoAnnotation {
    const NAME: &'static str = "annotation";
    const HAS_ID: bool = true;

    fn parse(reader: &mut Reader) -> std::result::Result<Self, Fault> {
        let (mut id, mut image_id, mut category_id) = (None, None, None);
        let (mut bbox, mut area, mut crowd, mut segmentation) = (None, None, false, None);
        reader.object(|reader, key| {
            match key {
                "id" => id = Some(reader.integer()?),
                "image_id" => image_id = Some(ImageId::parse(reader)?),
                "category_id" => category_id = Some(reader.integer()?),
                "bbox" => bbox = reader.nullable(parse_bbox)?.flatten(),
                "area" => area = reader.nullable(Reader::number)?,
                "iscrowd" => crowd = reader.nullable(Reader::flag)?.unwrap_or(false),
                "segmentation" => segmentation = reader.nullable(Segmentation::parse)?.flatten(),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(Self {
            id: needed(id, "id", reader)?,
            image_id: needed(image_id, "image_id", reader)?,
            category_id: needed(category_id, "category_id", reader)?,
            bbox,
            area,
            crowd,
            segmentation,
        })
    }
}
