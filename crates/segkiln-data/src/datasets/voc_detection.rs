use image::GenericImageView;
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use burn::data::dataset::{Dataset, DatasetError};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use roxmltree::{Document, Node};
use segkiln_core::{Classes, Instance, Instances, Size};

use super::{
    DetectionDataset, DetectionEntry, InvalidBoxes,
    boxes::Boxes,
    pairs::{Files, add, entries, files, join},
};
use crate::{
    ColorMode, DataError, DecodeOptions, Result, Sample,
    problem::Faults,
    read_dynamic,
    splits::read_list,
    text::{read_bytes, without_mark},
};

/// Largest annotation: some 10,000 objects.
const MOST_BYTES: u64 = 4 << 20;
/// Most attributes and namespaces. An annotation has none, and the parser's time grows with the square of the one and the
/// cube of the other.
const MOST_ATTRIBUTES: usize = 10_000;
const MOST_NAMESPACES: usize = 100;

/// Options of a [`VocDetection`].
#[derive(Debug, Clone, Default)]
pub struct VocOptions {
    /// The classes, the background first. Default: the background, and the names of all objects in all annotations of the
    /// set, sorted, so that the classes of all its splits are the same.
    pub classes: Option<Classes>,
    /// Handling of invalid boxes. Default: they are errors.
    pub invalid_boxes: InvalidBoxes,
    /// Channels that images are read into. Default: RGB.
    pub color: ColorMode,
    /// Options of decoding.
    pub decode: DecodeOptions,
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
    pub(super) dataset: DetectionDataset,
    boxes: Boxes,
}

impl VocDetection {
    /// A split (`train`, `val`, `trainval`) of the set at `root`. All its annotations are read now, and those of the other
    /// splits too if the classes are not given.
    ///
    /// # Errors
    /// If the list, a folder or an annotation cannot be read, the list is empty, a file that it names is missing, an object
    /// has no name or no box, its name is none of the classes, or its box cannot be (see [`InvalidBoxes`]). Several such
    /// faults are [`DataError::Several`].
    pub fn open(root: impl AsRef<Path>, split: &str, options: VocOptions) -> Result<Self> {
        let root = root.as_ref();
        let (images, annotations) = (root.join("JPEGImages"), root.join("Annotations"));
        let stems = read_list(root.join("ImageSets/Main").join(format!("{split}.txt")))?;
        let xml = xml_files(&annotations)?;
        let listed = stems.iter().map(String::as_str).collect();
        let image_files = files(&images, "", Some(&listed))?;
        let pairs = join((&images, &image_files), "annotation", (&annotations, &xml), Some(&stems))?;
        let classes = match options.classes {
            Some(classes) => classes,
            None => collected(&annotations, xml.values())?,
        };
        let mut boxes = Boxes::new(options.invalid_boxes);
        let labels: HashMap<&str, u32> = classes.names().iter().map(String::as_str).zip(0..).skip(1).collect();
        let labels = Labels { classes: &classes, of: labels };
        let mut entry = |pair: super::pairs::Pair| {
            let annotation = Annotation::read(&pair.mask)?;
            let size = annotation.size(&pair.image, &options.decode)?;
            let instances = annotation.instances(size, &labels, &mut boxes)?;
            let instances = Instances::new(size.width, size.height, instances).expect("no object has a mask");
            Ok(DetectionEntry { name: pair.name, image: pair.image, instances })
        };
        let mut faults = Faults::default();
        let entries = pairs.into_iter().filter_map(|pair| faults.take(entry(pair))).collect();
        faults.finish()?;
        let dataset = DetectionDataset::new(entries, classes)?.color(options.color).decode(options.decode);
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

    /// Checks that there is an object to learn or to find; `root` and `split` are the set's folder and the use of the images,
    /// for the error.
    ///
    /// # Errors
    /// [`DataError::NoTarget`].
    pub fn check_targets(&self, root: &Path, split: &str) -> Result<()> {
        self.dataset.check_targets(root, split)
    }

    /// Number of objects that were left out because of their boxes; see [`InvalidBoxes`].
    pub fn dropped(&self) -> usize {
        self.boxes.dropped
    }

    /// Number of boxes that reached beyond their images and were clipped.
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

/// The classes, and the label of each by its name.
struct Labels<'a> {
    classes: &'a Classes,
    of: HashMap<&'a str, u32>,
}

/// Fields of an annotation file, not yet checked.
struct Annotation {
    path: PathBuf,
    width: Option<String>,
    height: Option<String>,
    objects: Vec<Object>,
}

/// Fields of an object, not yet checked; `None` where the file lacks them.
struct Object {
    name: Option<String>,
    difficult: bool,
    /// `xmin`, `ymin`, `xmax`, `ymax`.
    corners: [Option<String>; 4],
}

const CORNERS: [&str; 4] = ["xmin", "ymin", "xmax", "ymax"];

impl Annotation {
    fn read(path: &Path) -> Result<Self> {
        let damaged = |reason: String| DataError::Decode { path: path.into(), format: "a VOC annotation", reason };
        let text = text(&read_bytes(path, MOST_BYTES)?).map_err(damaged)?;

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
    fn size(&self, image: &Path, decode: &DecodeOptions) -> Result<Size> {
        let side = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok()).filter(|side| *side > 0);
        if let (Some(width), Some(height)) = (side(&self.width), side(&self.height)) {
            return Ok(Size { width, height });
        }
        let image = read_dynamic(image, *decode)?;
        Ok(image.dimensions().into())
    }

    fn instances(&self, size: Size, labels: &Labels<'_>, boxes: &mut Boxes) -> Result<Vec<Instance>> {
        let mut instances = Vec::with_capacity(self.objects.len());
        let mut faults = Faults::default();
        for (index, object) in self.objects.iter().enumerate() {
            let wrong = |reason| DataError::Object { path: self.path.clone(), object: index, reason };
            let instance = object.instance(size, labels, boxes).map_err(wrong);
            instances.extend(faults.take(instance).flatten());
        }
        faults.finish()?;
        Ok(instances)
    }
}

impl Object {
    fn instance(
        &self,
        size: Size,
        labels: &Labels<'_>,
        boxes: &mut Boxes,
    ) -> std::result::Result<Option<Instance>, String> {
        let name = self.name.as_ref().ok_or("it has no `name`; add it or remove the object")?;
        let label = *labels.of.get(name.as_str()).ok_or_else(|| {
            let (names, count) = (labels.classes.names(), labels.classes.count());
            let (names, more) = (&names[1..count.min(21)], count > 21);
            format!("{name:?} is none of the classes {names:?}{}; add it to them", if more { " and more" } else { "" })
        })?;
        let mut corners = [0.0; 4];
        for ((corner, text), name) in corners.iter_mut().zip(&self.corners).zip(CORNERS) {
            let text = text.as_ref().ok_or_else(|| format!("its box has no `{name}`"))?;
            *corner = text.parse().map_err(|_| format!("`{name}` is no number but {text:?}"))?;
        }
        Ok(boxes.take(corners, size)?.map(|bbox| {
            let mut instance = Instance::new(bbox, label).expect("labels are counted from 1");
            instance.difficult = self.difficult;
            instance
        }))
    }
}

/// The text of an XML file in the encoding of its byte-order mark or, without one, its declaration.
fn text(bytes: &[u8]) -> std::result::Result<String, String> {
    let marked = without_mark(bytes).ok_or("it is damaged UTF-16; save it as UTF-8")?;
    if marked.len() != bytes.len() {
        return String::from_utf8(marked.into_owned()).map_err(|_| "it is not UTF-8; save it in that encoding".into());
    }
    let declared = declared_encoding(bytes);
    let name = declared.as_deref().unwrap_or("UTF-8");
    let encoding = Encoding::for_label(name.as_bytes())
        .ok_or_else(|| format!("it declares the encoding {name:?}, which is not known; save it as UTF-8"))?;
    // A declaration that can be read byte by byte is in no UTF-16.
    let encoding = if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding };
    let text = encoding.decode_without_bom_handling_and_without_replacement(bytes);
    let text = text.ok_or_else(|| format!("it is not {}; save it in that encoding", encoding.name()))?;
    // The parser refuses other declarations than UTF-8, which the text now is.
    Ok(match (declared, text.find("?>")) {
        (Some(_), Some(end)) => text[end + 2..].to_owned(),
        _ => text.into_owned(),
    })
}

/// The encoding in `<?xml ... encoding="..."?>`.
fn declared_encoding(bytes: &[u8]) -> Option<String> {
    let declaration = bytes.trim_ascii_start().strip_prefix(b"<?xml")?;
    let end = declaration.windows(2).position(|pair| pair == b"?>")?;
    let declaration = String::from_utf8_lossy(&declaration[..end]);
    let value = declaration.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
    Some(value[1..].split_once(quote)?.0.to_owned())
}

fn child<'a, 'b>(node: Node<'a, 'b>, name: &str) -> Option<Node<'a, 'b>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// The text in the child of a name, without the space around it.
fn text_of(node: Option<Node>, name: &str) -> Option<String> {
    Some(child(node?, name)?.text().unwrap_or_default().trim().to_owned())
}
