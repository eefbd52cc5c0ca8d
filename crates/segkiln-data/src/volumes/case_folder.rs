use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use segkiln_core::Classes;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Case, Geometry, LabelVolume, NiftiHeader, Volume, read_nifti, read_nifti_labels};
use crate::{
    DataError, Limits, Result,
    datasets::{add_file, entries, hexadecimal},
    text::read_bytes,
};

/// A folder of NIfTI images with labels, as nnU-Net and the Medical Segmentation Decathlon have them: `imagesTr`, `labelsTr` and
/// `dataset.json`; or `images` and `labels`, with or without a `dataset.json`.
///
/// The labels `labelsTr/NAME.nii.gz` are those of the image `imagesTr/NAME.nii.gz`, whose volumes are its channels, or of the images
/// `NAME_0000.nii.gz`, `NAME_0001.nii.gz` and so on, a channel each. `dataset.json` names the classes (`labels`) and
/// the channels (`channel_names` or `modality`); a label that it calls `ignore` is not learned. Without it the classes are those
/// that the labels have.
#[derive(Debug, Clone)]
pub struct CaseFolder {
    classes: Classes,
    channels: Vec<String>,
    cases: Vec<CaseFiles>,
}

#[derive(Debug, Clone)]
struct CaseFiles {
    name: String,
    images: Vec<PathBuf>,
    labels: PathBuf,
}

/// What is read of `dataset.json`.
#[derive(Deserialize)]
struct DatasetFile {
    channel_names: Option<BTreeMap<String, String>>,
    modality: Option<BTreeMap<String, String>>,
    labels: BTreeMap<String, Value>,
}

impl CaseFolder {
    /// Lists the cases, in the order of their names.
    ///
    /// # Errors
    /// If a folder cannot be listed, there are no labels in it, labels have no image or an image no labels, `dataset.json` is missing
    /// beside `imagesTr` or damaged, or, without one, a file of labels cannot be read.
    pub fn open(root: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let root = root.as_ref();
        let is_decathlon = root.join("imagesTr").is_dir();
        let [images, labels] = if is_decathlon { ["imagesTr", "labelsTr"] } else { ["images", "labels"] };
        let (images, labels) = (volumes_of(&root.join(images))?, volumes_of(&root.join(labels))?);
        if labels.is_empty() {
            return Err(DataError::Empty { what: format!("the labels (.nii, .nii.gz) below {}", root.display()) });
        }
        let cases = pair(images, labels)?;
        let file = root.join("dataset.json");
        let (classes, channels) = match is_decathlon || file.exists() {
            true => described(&file)?,
            false => (found_classes(root, &cases, limits)?, Vec::new()),
        };
        for case in cases.iter().filter(|case| case.images.len() > 1 && !channels.is_empty()) {
            if case.images.len() != channels.len() {
                let reason =
                    format!("{} images, and {} names {} channels", case.images.len(), file.display(), channels.len());
                return Err(DataError::volume(&case.labels, "images", reason));
            }
        }
        Ok(Self { classes, channels, cases })
    }

    /// Returns the classes of the labels.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Returns the names of the channels, such as `CT`; empty without a `dataset.json`.
    pub fn channels(&self) -> &[String] {
        &self.channels
    }

    /// Whether `dataset.json` says that all channels are computed tomography, whose numbers mean the same in every case.
    pub fn is_ct(&self) -> bool {
        !self.channels.is_empty() && self.channels.iter().all(|name| name.eq_ignore_ascii_case("ct"))
    }

    /// Returns the names of the cases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.cases.iter().map(|case| &*case.name)
    }

    /// Number of cases, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "there is a case")]
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Reads a case, and the header of its first image. Voxels of all files are paired by their numbers.
    ///
    /// # Errors
    /// If a file cannot be read, images and labels of the case are not on one grid (size, spacing, and directions of the axes to a
    /// thousandth of a radian, where a header has them), there are other channels than `dataset.json` names, or a label is no class.
    ///
    /// # Panics
    /// If `index` is past the end.
    pub fn load(&self, index: usize, limits: &Limits) -> Result<(Case, NiftiHeader)> {
        let CaseFiles { name, images, labels: label_file } = &self.cases[index];
        let (first, header) = read_nifti(&images[0], limits)?;
        let geometry = first.geometry().clone();
        let on_grid = |path: &Path, found: &NiftiHeader| {
            let has_directions = header.has_directions() && found.has_directions();
            check_grid(path, found.geometry(), &images[0], &geometry, has_directions)
        };
        let (mut channels, mut values) = (first.channels(), first.as_slice().to_vec());
        for path in &images[1..] {
            let (more, found) = read_nifti(path, limits)?;
            on_grid(path, &found)?;
            channels += more.channels();
            values.extend_from_slice(more.as_slice());
        }
        if !self.channels.is_empty() && channels != self.channels.len() {
            let reason = format!("{channels}, and dataset.json names {}", self.channels.len());
            return Err(DataError::volume(&images[0], "channels", reason));
        }
        let (labels, found) = read_nifti_labels(label_file, limits)?;
        on_grid(label_file, &found)?;
        if let Some(label) = labels.as_slice().iter().find(|label| !self.classes.allows(**label)) {
            let reason = format!("{label} is none of the {} classes", self.classes.count());
            return Err(DataError::volume(label_file, "labels", reason));
        }
        let image = Volume::new(geometry.clone(), channels, values)?;
        // What a header of labels says of the place is often less exact.
        let labels = LabelVolume::new(geometry, labels.as_slice().to_vec())?;
        Ok((Case { name: name.clone(), image, labels }, header))
    }

    /// SHA-256 of the names and sizes of the files, by which a run that is resumed knows its data.
    ///
    /// # Errors
    /// If a file is no longer there.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for case in &self.cases {
            hash.update(case.name.as_bytes());
            case.images.iter().chain([&case.labels]).try_for_each(|path| add_file(&mut hash, path))?;
        }
        Ok(hexadecimal(hash))
    }
}

/// Checks that a file of a case is on the grid of its first image.
fn check_grid(path: &Path, found: &Geometry, first: &Path, expected: &Geometry, has_directions: bool) -> Result<()> {
    /// In radians; rounding in headers is far below it.
    const LARGEST_ANGLE: f64 = 1e-3;
    let first = first.display();
    let same = found.spacing().iter().zip(expected.spacing()).all(|(a, b)| (a - b).abs() <= 1e-3 * b);
    if found.size() != expected.size() || !same {
        let reason = format!(
            "{:?} voxels of {:?} mm, where {first} has {:?} of {:?}; all files of a case must be on one grid",
            found.size(),
            found.spacing(),
            expected.size(),
            expected.spacing()
        );
        return Err(DataError::volume(path, "size and spacing", reason));
    }
    let angle = found.angle_to(expected);
    if has_directions && angle > LARGEST_ANGLE {
        let reason = format!(
            "axes run {}, {:.2} degrees off those of {first} ({}); bring one of the files to the other's grid, or, if their voxels lie on each \
             other as they are, copy the affine of one to the other",
            found.axis_codes(),
            angle.to_degrees(),
            expected.axis_codes()
        );
        return Err(DataError::volume(path, "directions", reason));
    }
    Ok(())
}

/// The NIfTI files of a folder by their names without `.nii` or `.nii.gz`.
fn volumes_of(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for path in entries(folder)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(stem) = name.strip_suffix(".nii.gz").or_else(|| name.strip_suffix(".nii")) else { continue };
        if let Some(other) = files.insert(stem.to_owned(), path.clone()) {
            let reason = format!("{} has the same name; remove one of them", other.display());
            return Err(DataError::volume(&path, "name", reason));
        }
    }
    Ok(files)
}

fn pair(mut images: BTreeMap<String, PathBuf>, labels: BTreeMap<String, PathBuf>) -> Result<Vec<CaseFiles>> {
    let mut cases = Vec::with_capacity(labels.len());
    for (name, labels) in labels {
        let mut found: Vec<PathBuf> = images.remove(&name).into_iter().collect();
        if found.is_empty() {
            found = (0..).map_while(|channel| images.remove(&format!("{name}_{channel:04}"))).collect();
        }
        if found.is_empty() {
            let reason = format!("there is no image {name}.nii.gz or {name}_0000.nii.gz; add it, or remove the labels");
            return Err(DataError::volume(&labels, "image", reason));
        }
        cases.push(CaseFiles { name, images: found, labels });
    }
    match images.into_values().next() {
        Some(image) => {
            let reason =
                "there are none of this name, and of a channel none of its case; add them, or remove the image";
            Err(DataError::volume(&image, "labels", reason))
        }
        None => Ok(cases),
    }
}

/// Classes and channels that `dataset.json` names.
fn described(path: &Path) -> Result<(Classes, Vec<String>)> {
    const MOST_BYTES: u64 = 64 << 20;
    let file: DatasetFile = serde_json::from_slice(&read_bytes(path, MOST_BYTES)?).map_err(|error| {
        DataError::Json { path: path.into(), line: error.line(), column: error.column(), reason: error.to_string() }
    })?;
    let refused = |reason: String| DataError::volume(path, "labels", reason);
    let mut names = BTreeMap::new();
    let mut ignored = None;
    for (key, value) in &file.labels {
        // nnU-Net has numbers by names, the decathlon names by numbers.
        let (label, name) = match (value.as_u64().and_then(|label| u32::try_from(label).ok()), value, key.parse()) {
            (Some(label), _, _) => (label, key),
            (None, Value::String(name), Ok(label)) => (label, name),
            _ => return Err(refused(format!("{key:?}: {value} is no label; regions of several labels are not read"))),
        };
        if name == "ignore" {
            ignored = Some(label);
        } else if let Some(other) = names.insert(label, name.clone()) {
            return Err(refused(format!("{label} is both {other:?} and {name:?}")));
        }
    }
    if let Some(missing) = (0..).zip(names.keys()).find_map(|(label, found)| (label != *found).then_some(label)) {
        return Err(refused(format!("no name for {missing}; labels are 0 for the background, 1, 2 and so on")));
    }
    if ignored.is_some_and(|label| names.contains_key(&label)) {
        return Err(refused("the ignored label has a name too".into()));
    }
    let classes = Classes::new(names.into_values()).map_err(|error| refused(error.to_string()))?;
    // By number: as text, 10 comes before 2.
    let channels = file.channel_names.or(file.modality).unwrap_or_default();
    let mut channels: Vec<(u32, String)> =
        channels.into_iter().map(|(number, name)| (number.parse().unwrap_or(u32::MAX), name)).collect();
    channels.sort();
    Ok((classes.with_ignore_index(ignored), channels.into_iter().map(|(_, name)| name).collect()))
}

/// Classes by the largest label.
fn found_classes(root: &Path, cases: &[CaseFiles], limits: &Limits) -> Result<Classes> {
    /// More are rather the numbers of objects, or an ignored label.
    const MOST: u32 = 64;
    let mut largest = 1;
    for case in cases {
        let (labels, _) = read_nifti_labels(&case.labels, limits)?;
        largest = labels.as_slice().iter().copied().fold(largest, u32::max);
        if largest >= MOST {
            let reason = format!(
                "{largest} is no likely number of a class; number them 0 for the background, 1, 2 and so on (a mask of 0 and 255: 0 and 1), \
                 and name them in {}",
                root.join("dataset.json").display()
            );
            return Err(DataError::volume(&case.labels, "labels", reason));
        }
    }
    if largest == 1 {
        return Ok(Classes::binary());
    }
    let names = ["background".to_owned()].into_iter().chain((1..=largest).map(|label| format!("class {label}")));
    Ok(Classes::new(names).expect("names are two or more and differ"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::volumes::{write_nifti, write_nifti_labels};

    /// Volumes of 1 × 2 × 2 voxels with these labels.
    fn write(folder: &TempDir, images: &[&str], labels: &[(&str, u32)]) {
        let geometry = Geometry::with_spacing([1, 2, 2], [3.0, 1.0, 1.0]).unwrap();
        for path in images {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_nifti(&path, &Volume::new(geometry.clone(), 1, vec![0.5; 4]).unwrap(), None).unwrap();
        }
        for (path, label) in labels {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_nifti_labels(&path, &LabelVolume::new(geometry.clone(), vec![0, 1, *label, 0]).unwrap(), None)
                .unwrap();
        }
    }

    fn open(folder: &TempDir) -> Result<CaseFolder> {
        CaseFolder::open(folder.path(), &Limits::default())
    }

    #[test]
    fn reads_folders_of_nnu_net_of_the_decathlon_and_plain_ones() {
        let nnunet = tempfile::tempdir().unwrap();
        let images =
            ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz", "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"];
        write(&nnunet, &images, &[("labelsTr/a.nii.gz", 3), ("labelsTr/b.nii.gz", 2)]);
        let json = r#"{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "liver": 1, "tumor": 2, "ignore": 3}}"#;
        fs::write(nnunet.path().join("dataset.json"), json).unwrap();
        let folder = open(&nnunet).unwrap();
        assert_eq!(folder.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(folder.classes().names(), ["background", "liver", "tumor"]);
        assert_eq!((folder.classes().ignore_index(), folder.is_ct(), folder.channels().len()), (Some(3), false, 2));
        let (case, _) = folder.load(0, &Limits::default()).unwrap();
        assert_eq!((case.image.channels(), case.labels.as_slice()), (2, &[0, 1, 3, 0][..]));
        assert_eq!(folder.fingerprint().unwrap().len(), 64);

        let decathlon = tempfile::tempdir().unwrap();
        write(&decathlon, &["imagesTr/x.nii.gz"], &[("labelsTr/x.nii.gz", 1)]);
        let json = r#"{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "training": []}"#;
        fs::write(decathlon.path().join("dataset.json"), json).unwrap();
        let folder = open(&decathlon).unwrap();
        assert!(folder.is_ct() && folder.classes().names()[1] == "spleen");

        let plain = tempfile::tempdir().unwrap();
        write(&plain, &["images/x.nii", "images/y.nii.gz"], &[("labels/x.nii", 1), ("labels/y.nii.gz", 2)]);
        assert_eq!(open(&plain).unwrap().classes().names(), ["background", "class 1", "class 2"]);
    }

    #[test]
    fn names_what_does_not_fit() {
        let message = |images: &[&str], labels: &[(&str, u32)], json: &str| {
            let folder = tempfile::tempdir().unwrap();
            write(&folder, images, labels);
            if !json.is_empty() {
                fs::write(folder.path().join("dataset.json"), json).unwrap();
            }
            open(&folder).and_then(|folder| folder.load(0, &Limits::default()).map(drop)).unwrap_err().to_string()
        };
        let labels = [("labels/a.nii", 1)];
        for (images, labels, json, expected) in [
            (&["images/b.nii"][..], &labels[..], "", "a.nii, image: there is no image a.nii.gz"),
            (&["images/a.nii", "images/b.nii"], &labels, "", "b.nii, labels: there are none"),
            (&["images/a.nii"], &[("labels/b.txt.nii", 1)], "", "there is no image b.txt.nii.gz"),
            (&["images/a.nii"], &[("labels/a.nii", 99)], "", "99 is no likely number of a class; number them 0"),
            (&["images/a.nii"], &labels, "{", "dataset.json, line 1"),
            (&["images/a.nii"], &labels, r#"{"labels": {"a": [1, 2]}}"#, "regions of several labels"),
            (&["images/a.nii"], &labels, r#"{"labels": {"a": 0, "b": 2}}"#, "no name for 1"),
            (&["images/a.nii"], &labels, r#"{"labels": {"a": 0, "b": 0}}"#, "both"),
            (
                &["images/a.nii"],
                &[("labels/a.nii", 2)],
                r#"{"labels": {"a": 0, "b": 1}}"#,
                "2 is none of the 2 classes",
            ),
            (&["imagesTr/a.nii"], &[("labelsTr/a.nii", 2)], "", "dataset.json"),
            (
                &["images/a.nii"],
                &labels,
                r#"{"modality": {"0": "T1", "1": "T2"}, "labels": {"a": 0, "b": 1}}"#,
                "a.nii, channels: 1, and dataset.json names 2",
            ),
            (
                &["images/a_0000.nii", "images/a_0001.nii"],
                &labels,
                r#"{"channel_names": {"0": "CT"}, "labels": {"a": 0, "b": 1}}"#,
                "2 images, and",
            ),
        ] {
            let found = message(images, labels, json);
            assert!(found.contains(expected), "{found}\nwithout {expected}");
        }
    }

    #[test]
    fn axes_in_other_directions_are_refused() {
        let load = |turned: [[f64; 4]; 4], has_directions: bool| {
            let folder = tempfile::tempdir().unwrap();
            write(&folder, &["images/a.nii"], &[]);
            let path = folder.path().join("labels/a.nii");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let labels = LabelVolume::new(Geometry::new([1, 2, 2], turned).unwrap(), vec![0, 1, 1, 0]).unwrap();
            write_nifti_labels(&path, &labels, None).unwrap();
            if !has_directions {
                // The codes of qform and sform.
                let mut bytes = fs::read(&path).unwrap();
                bytes[252..256].fill(0);
                fs::write(&path, bytes).unwrap();
            }
            open(&folder).unwrap().load(0, &Limits::default()).map(drop).map_err(|error| error.to_string())
        };
        let turned = |angle: f64| {
            let (sin, cos) = angle.sin_cos();
            [[cos, -sin, 0.0, 0.0], [sin, cos, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
        };
        assert_eq!(load(turned(0.0), true), Ok(()));
        assert_eq!(load(turned(5e-4), true), Ok(()));
        let error = load(turned(5e-3), true).unwrap_err();
        assert!(
            error.contains("a.nii, directions: axes run RAS, 0.29 degrees off") && error.contains("copy"),
            "{error}"
        );
        let mut mirrored = turned(0.0);
        (mirrored[0][0], mirrored[0][3]) = (-1.0, 1.0);
        let error = load(mirrored, true).unwrap_err();
        assert!(error.contains("axes run LAS, 180.00 degrees off"), "{error}");
        // A header that says nothing of directions contradicts none.
        assert_eq!(load(mirrored, false), Ok(()));
    }
}
