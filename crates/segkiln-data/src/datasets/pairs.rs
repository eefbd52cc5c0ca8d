//! Pairs of an image file and a mask file, which all data sets of files come down to.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use segkiln_core::{Classes, LabelMap};

use crate::{
    ColorMode, DataError, DecodeOptions, EXTENSIONS, FileFacts, MaskFormat, Orientation, Result, Sample,
    problem::Faults, read_labels, read_with_facts, warn,
};

/// Most names that an error lists.
const LISTED: usize = 10;

/// Extensions of images that this crate does not read. Other unknown files (notes, lists, `Thumbs.db`) are no samples.
const UNREADABLE: [&str; 14] =
    ["avif", "dcm", "exr", "gif", "heic", "jp2", "mat", "nii", "npy", "npz", "pbm", "pgm", "ppm", "tga"];

#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub name: String,
    pub image: PathBuf,
    pub mask: PathBuf,
}

/// Pairs of files and how to read them.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    pub pairs: Vec<Pair>,
    pub color: ColorMode,
    pub format: MaskFormat,
    /// Maps the labels of the files to those of the classes.
    pub relabel: fn(u32) -> u32,
    /// Classes that the labels are checked against.
    pub classes: Classes,
    pub decode: DecodeOptions,
}

impl Pairs {
    /// Reads a pair and checks that its parts fit each other and the classes.
    ///
    /// # Panics
    /// If `index` is past the end.
    pub fn get(&self, index: usize) -> Result<Sample> {
        self.read(index).map(|(sample, _)| sample)
    }

    /// [`get`](Self::get), with facts of the image's file.
    pub fn read(&self, index: usize) -> Result<(Sample, FileFacts)> {
        let pair = &self.pairs[index];
        let (image, facts) = read_with_facts(&pair.image, self.color, self.decode)?;
        let mask = read_labels(&pair.mask, &self.format, self.decode)?.map(self.relabel);
        let (image_size, mask_size) = (image.size(), mask.size());
        if image_size != mask_size {
            let cure = turn_cure(facts.orientation_tag, self.decode.orientation);
            let (image, mask) = (pair.image.clone(), pair.mask.clone());
            return Err(DataError::SizeMismatch { image, image_size, mask, mask_size, cure });
        }
        if self.format != MaskFormat::Instances {
            check_labels(&mask, &self.classes, &pair.mask)?;
        }
        Ok((Sample { name: pair.name.clone(), image, target: mask }, facts))
    }

    pub fn names(&self) -> Vec<&str> {
        self.pairs.iter().map(|pair| pair.name.as_str()).collect()
    }
}

/// Suggests a fix for sizes that differ, which an orientation tag may explain.
pub(super) fn turn_cure(tag: u8, orientation: Orientation) -> String {
    match orientation {
        _ if tag == 1 => "they must be equal".into(),
        Orientation::Apply => format!(
            "the image's orientation tag (EXIF {tag}) was applied; if the other was made for the pixels as they are stored, \
             read with `Orientation::Keep`"
        ),
        Orientation::Keep => format!(
            "the image's orientation tag (EXIF {tag}) was not applied; if the other was made for the image as viewers show \
             it, read with `Orientation::Apply`"
        ),
    }
}

fn check_labels(mask: &LabelMap, classes: &Classes, path: &Path) -> Result<()> {
    let Some(at) = mask.as_slice().iter().position(|label| !classes.allows(*label)) else { return Ok(()) };
    let label = mask.as_slice()[at];
    let cure = match (label, classes.count(), classes.ignore_index()) {
        (_, 2, _) => "read masks of 0 and 255, or of instance ids, as `MaskFormat::Binary`",
        (255, _, None) => "if 255 marks pixels to leave out, set it with `Classes::with_ignore_index`",
        _ => "add the class, or correct the mask",
    };
    let (x, y) = (at as u32 % mask.width(), at as u32 / mask.width());
    Err(DataError::LabelOutsideClasses { path: path.into(), label, x, y, classes: classes.count(), cure })
}

/// Files by what their images and masks have in common, sorted.
pub(super) type Files = BTreeMap<String, PathBuf>;

/// Pairs the files of two folders by stem. With a list of stems, those, in its order; else all, sorted, and none may be
/// without its partner, or with `drop_unpaired` these are left out. The stem of a mask is its name without `suffix`.
pub(super) fn by_stem(
    images: &Path,
    labels: &Path,
    suffix: &str,
    stems: Option<&[String]>,
    drop_unpaired: bool,
) -> Result<Vec<Pair>> {
    let listed = stems.map(|stems| stems.iter().map(String::as_str).collect());
    let mut faults = Faults::default();
    let image_files = faults.take(files(images, "", listed.as_ref())).unwrap_or_default();
    let mask_files = faults.take(files(labels, suffix, listed.as_ref())).unwrap_or_default();
    faults.finish()?;
    match pair_up((images, &image_files), "mask", (labels, &mask_files), stems)? {
        (pairs, None) => Ok(pairs),
        (pairs, Some(reason)) if drop_unpaired && !pairs.is_empty() => {
            warn::warn(warn::UNPAIRED, images, format_args!("{reason}: left out"));
            Ok(pairs)
        }
        (_, Some(reason)) => Err(DataError::MissingPairs { images: images.into(), labels: labels.into(), reason }),
    }
}

/// Pairs images and masks, or what else is said of images, each given with the folder that they are from. None may be without its
/// partner.
pub(super) fn join(
    images: (&Path, &Files),
    what: &str,
    masks: (&Path, &Files),
    stems: Option<&[String]>,
) -> Result<Vec<Pair>> {
    match pair_up(images, what, masks, stems)? {
        (pairs, None) => Ok(pairs),
        (_, Some(reason)) => Err(DataError::MissingPairs { images: images.0.into(), labels: masks.0.into(), reason }),
    }
}

/// The pairs, and what is said of those without a partner.
fn pair_up(
    images: (&Path, &Files),
    what: &str,
    masks: (&Path, &Files),
    stems: Option<&[String]>,
) -> Result<(Vec<Pair>, Option<String>)> {
    let stems: Vec<&str> = match stems {
        Some(stems) => stems.iter().map(String::as_str).collect(),
        None => {
            images.1.keys().chain(masks.1.keys()).map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect()
        }
    };
    if stems.is_empty() {
        return Err(DataError::Empty { what: images.0.display().to_string() });
    }
    let mut pairs = Vec::with_capacity(stems.len());
    let (mut no_image, mut no_mask) = (Vec::new(), Vec::new());
    for stem in stems {
        match (images.1.get(stem), masks.1.get(stem)) {
            (Some(image), Some(mask)) => {
                pairs.push(Pair { name: stem.into(), image: image.clone(), mask: mask.clone() })
            }
            (image, mask) => {
                no_image.extend(image.is_none().then_some(stem));
                no_mask.extend(mask.is_none().then_some(stem));
            }
        }
    }
    let lacking = [lacking("image", &no_image), lacking(what, &no_mask)];
    let reason: Vec<String> = lacking.into_iter().flatten().collect();
    Ok((pairs, (!reason.is_empty()).then(|| reason.join(" and "))))
}

/// `no mask for 3 (a, b, c)`, cut short where there are many.
fn lacking(what: &str, stems: &[&str]) -> Option<String> {
    let shown = stems[..stems.len().min(LISTED)].join(", ");
    let more = if stems.len() > LISTED { ", ..." } else { "" };
    (!stems.is_empty()).then(|| format!("no {what} for {} ({shown}{more})", stems.len()))
}

/// Adds a file; two of one stem are an error.
pub(super) fn add(files: &mut Files, stem: String, path: PathBuf) -> Result<()> {
    match files.insert(stem, path.clone()) {
        None => Ok(()),
        Some(first) => Err(DataError::DuplicateStem { first, second: path }),
    }
}

/// The image files of a folder by their stems, or all files that cannot be told or read. Hidden files are left out, and with a list those that it does not name.
pub(super) fn files(folder: &Path, suffix: &str, listed: Option<&HashSet<&str>>) -> Result<Files> {
    let (mut files, mut faults) = (Files::new(), Faults::default());
    for path in entries(folder)? {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let readable = EXTENSIONS.contains(&extension.as_str());
        if !readable && !UNREADABLE.contains(&extension.as_str()) {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let stem = stem.map(|stem| stem.strip_suffix(suffix).unwrap_or(stem).to_owned());
        if listed.is_some_and(|listed| !stem.as_deref().is_some_and(|stem| listed.contains(stem))) {
            continue;
        }
        if !readable {
            faults.push(DataError::UnknownFormat { path });
            continue;
        }
        let Some(stem) = stem else {
            let invalid = std::io::Error::new(std::io::ErrorKind::InvalidData, "its name is not UTF-8; rename it");
            faults.push(DataError::io("use", &path, invalid));
            continue;
        };
        faults.take(add(&mut files, stem, path));
    }
    faults.finish()?;
    Ok(files)
}

/// Lists a folder's entries except for hidden files, sorted.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| DataError::io("list the folder", folder, source);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}
