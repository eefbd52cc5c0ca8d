use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use burn::data::dataset::{Dataset, DatasetError};
use roxmltree::{Document, Node};
use segkiln_core::{Classes, Instance, Instances};

use super::{
    DetectionDataset, DetectionEntry, InvalidBoxes,
    boxes::Boxes,
    pairs::{Files, add, entries, files, join},
};
use crate::{ColorMode, DataError, Limits, Result, Sample, read_dynamic, splits::read_list};

/// Largest annotation: some 10,000 objects.
const MOST_BYTES: u64 = 4 << 20;
/// Most attributes and namespaces. An annotation has none, and the parser's time grows with the square of the one and the
/// cube of the other.
const MOST_ATTRIBUTES: usize = 10_000;
const MOST_NAMESPACES: usize = 100;

/// How a [`VocDetection`] reads its files.
#[derive(Debug, Clone, Default)]
pub struct VocOptions {
    /// The classes, the background first. Default: the background, and the names of all objects in all annotations of the
    /// set, sorted, so that the classes of all its splits are the same.
    pub classes: Option<Classes>,
    /// What is done with boxes that cannot be. Default: they are errors.
    pub invalid_boxes: InvalidBoxes,
    /// Channels that images are read into. Default: RGB.
    pub color: ColorMode,
    /// The largest image that is read.
    pub limits: Limits,
}

/// The detection part of Pascal VOC (Everingham et al. 2010), and other sets in its layout: `JPEGImages/STEM.jpg`,
/// `Annotations/STEM.xml`, `ImageSets/Main/<split>.txt`.
///
/// `xmin`, `ymin`, `xmax` and `ymax` are taken as they are for the corners of a box, as most users of torchvision's
/// `VOCDetection` take them, so that boxes and overlaps are comparable with theirs. In VOC's own count, pixels are numbered
/// from 1 and the last one belongs to the box: by that the box would begin one pixel further left and up.
///
/// ```no_run
/// use segkiln_data::datasets::{InvalidBoxes, VocDetection, VocOptions};
///
/// let options = VocOptions { invalid_boxes: InvalidBoxes::Drop, ..Default::default() };
/// let dataset = VocDetection::open("bccd", "train", options)?;
/// println!("{:?}, {} objects left out", dataset.classes().names(), dataset.dropped());
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone)]
pub struct VocDetection {
    dataset: DetectionDataset,
    boxes: Boxes,
}

impl VocDetection {
    /// A split (`train`, `val`, `trainval`) of the set at `root`. All its annotations are read now, and those of the other
    /// splits too if the classes are not given.
    ///
    /// # Errors
    /// If the list, a folder or an annotation cannot be read, the list is empty, a file that it names is missing, an object
    /// has no name or no box, its name is none of the classes, or its box cannot be (see [`InvalidBoxes`]).
    pub fn open(root: impl AsRef<Path>, split: &str, options: VocOptions) -> Result<Self> {
        let root = root.as_ref();
        let (images, annotations) = (root.join("JPEGImages"), root.join("Annotations"));
        let stems = read_list(root.join("ImageSets/Main").join(format!("{split}.txt")))?;
        let xml = xml_files(&annotations)?;
        let pairs = join((&images, &files(&images, "")?), "annotation", (&annotations, &xml), Some(&stems))?;
        let classes = match options.classes {
            Some(classes) => classes,
            None => collected(&annotations, xml.values())?,
        };
        let mut boxes = Boxes::new(options.invalid_boxes);
        let entry = |pair: super::pairs::Pair| {
            let annotation = Annotation::read(&pair.mask)?;
            let [width, height] = annotation.size(&pair.image, &options.limits)?;
            let instances = annotation.instances([width, height], &classes, &mut boxes)?;
            let instances = Instances::new(width, height, instances).expect("no object has a mask");
            Ok(DetectionEntry { name: pair.name, image: pair.image, instances })
        };
        let entries = pairs.into_iter().map(entry).collect::<Result<_>>()?;
        let dataset = DetectionDataset::new(entries, classes)?.color(options.color).limits(options.limits);
        Ok(Self { dataset, boxes })
    }

    /// The classes; class 0 is the background.
    pub fn classes(&self) -> &Classes {
        self.dataset.classes()
    }

    /// The images and their objects, in the order of the list.
    pub fn entries(&self) -> &[DetectionEntry] {
        self.dataset.entries()
    }

    /// How many objects were left out because of their boxes; see [`InvalidBoxes`].
    pub fn dropped(&self) -> usize {
        self.boxes.dropped
    }

    /// How many boxes reached beyond their images, and were clipped.
    pub fn clipped(&self) -> usize {
        self.boxes.clipped
    }
}

impl Dataset<Sample<Instances>> for VocDetection {
    fn get(&self, index: usize) -> std::result::Result<Sample<Instances>, DatasetError> {
        self.dataset.get(index)
    }

    fn len(&self) -> usize {
        self.dataset.len()
    }
}

/// The annotations of a folder by their stems.
fn xml_files(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    for path in entries(folder)? {
        let is_xml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("xml"));
        if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()).filter(|_| is_xml).map(str::to_owned) {
            add(&mut files, stem, path)?;
        }
    }
    Ok(files)
}

/// The background and the names of all objects, sorted.
fn collected<'a>(folder: &Path, paths: impl Iterator<Item = &'a PathBuf>) -> Result<Classes> {
    let mut names = BTreeSet::new();
    for path in paths {
        names.extend(Annotation::read(path)?.objects.into_iter().filter_map(|object| object.name));
    }
    let reason = |error| format!("the names of the objects in {} are no classes: {error}", folder.display());
    Classes::new(["background".to_owned()].into_iter().chain(names))
        .map_err(|error| DataError::option("classes", reason(error)))
}

/// What an annotation says.
struct Annotation {
    path: PathBuf,
    width: Option<String>,
    height: Option<String>,
    objects: Vec<Object>,
}

/// What is said of an object, if anything is.
struct Object {
    name: Option<String>,
    difficult: bool,
    /// `xmin`, `ymin`, `xmax`, `ymax`.
    corners: [Option<String>; 4],
}

const CORNERS: [&str; 4] = ["xmin", "ymin", "xmax", "ymax"];

impl Annotation {
    fn read(path: &Path) -> Result<Self> {
        let io = |source| DataError::io("read", path, source);
        let damaged = |reason: String| DataError::Decode { path: path.into(), format: "a VOC annotation", reason };
        // Asked before the file is opened: to open a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(DataError::NotAFile { path: path.into() });
        }
        if meta.len() > MOST_BYTES {
            return Err(damaged(format!("{} bytes are over the limit of {MOST_BYTES}", meta.len())));
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes)).map_err(io)?;
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8; save it in that encoding".into()))?;

        if text.matches('=').nth(MOST_ATTRIBUTES).is_some() || text.matches("xmlns").nth(MOST_NAMESPACES).is_some() {
            return Err(damaged(format!("it has over {MOST_ATTRIBUTES} attributes or {MOST_NAMESPACES} namespaces")));
        }
        let document = Document::parse(&text).map_err(|error| damaged(error.to_string()))?;
        let root = document.root_element();
        if !root.has_tag_name("annotation") {
            return Err(damaged(format!("its root is `{}`, not `annotation`", root.tag_name().name())));
        }
        let size = child(root, "size");
        let objects = root.children().filter(|node| node.has_tag_name("object"));
        let object = |node| {
            let bbox = child(node, "bndbox");
            Object {
                name: text_of(Some(node), "name"),
                difficult: text_of(Some(node), "difficult").is_some_and(|text| text == "1"),
                corners: CORNERS.map(|corner| text_of(bbox, corner)),
            }
        };
        Ok(Self {
            path: path.into(),
            width: text_of(size, "width"),
            height: text_of(size, "height"),
            objects: objects.map(object).collect(),
        })
    }

    /// Width and height that it says its image has; where it says none, those of the image.
    fn size(&self, image: &Path, limits: &Limits) -> Result<[u32; 2]> {
        let side = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok()).filter(|side| *side > 0);
        if let (Some(width), Some(height)) = (side(&self.width), side(&self.height)) {
            return Ok([width, height]);
        }
        let image = read_dynamic(image, limits)?;
        Ok([image.width(), image.height()])
    }

    fn instances(&self, size: [u32; 2], classes: &Classes, boxes: &mut Boxes) -> Result<Vec<Instance>> {
        let mut instances = Vec::with_capacity(self.objects.len());
        for (index, object) in self.objects.iter().enumerate() {
            let wrong = |reason| DataError::Object { path: self.path.clone(), object: index, reason };
            let name = object.name.as_ref().ok_or_else(|| wrong("it has no `name`".into()))?;
            let label = classes.names().iter().skip(1).position(|class| class == name).ok_or_else(|| {
                wrong(format!("{name:?} is none of the classes {:?}; add it to them", &classes.names()[1..]))
            })? as u32
                + 1;
            let mut corners = [0.0; 4];
            for ((corner, text), name) in corners.iter_mut().zip(&object.corners).zip(CORNERS) {
                let text = text.as_ref().ok_or_else(|| wrong(format!("its box has no `{name}`")))?;
                *corner = text.parse().map_err(|_| wrong(format!("`{name}` is no number but {text:?}")))?;
            }
            if let Some(bbox) = boxes.take(corners, size).map_err(wrong)? {
                let mut instance = Instance::new(bbox, label).expect("labels are counted from 1");
                instance.difficult = object.difficult;
                instances.push(instance);
            }
        }
        Ok(instances)
    }
}

fn child<'a, 'b>(node: Node<'a, 'b>, name: &str) -> Option<Node<'a, 'b>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// The text in the child of a name, without the space around it.
fn text_of(node: Option<Node>, name: &str) -> Option<String> {
    Some(child(node?, name)?.text().unwrap_or_default().trim().to_owned())
}
