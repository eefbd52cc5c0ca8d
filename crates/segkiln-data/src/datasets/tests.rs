//! Data sets on disk that are right, and those that are not; the shared data, where it is at hand.

use std::{fs, path::PathBuf};

use burn::data::dataset::Dataset;
use image::{DynamicImage, GrayImage, RgbImage};
use segkiln_core::{Classes, LabelMap};
use tempfile::TempDir;

use super::*;
use crate::{
    ColorMode, DataError, Limits, MaskFormat, Result, Sample, read_labels,
    splits::{foreground_fractions, read_list},
    write_image, write_labels,
};

/// A data set on disk that goes away with the test.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn image(&self, name: &str, width: u32, height: u32) -> &Self {
        write_image(self.path(name), &RgbImage::new(width, height).into()).unwrap();
        self
    }

    fn mask(&self, name: &str, width: u32, labels: &[u32]) -> &Self {
        let map = LabelMap::new(width, labels.len() as u32 / width, labels.to_vec()).unwrap();
        write_labels(self.path(name), &map).unwrap();
        self
    }

    fn file(&self, name: &str, content: &str) -> &Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    fn folder(&self, options: FolderOptions) -> Result<FolderDataset> {
        FolderDataset::open(self.0.path(), &Classes::new(["a", "b", "c"]).unwrap(), options)
    }
}

fn message<T: std::fmt::Debug, E: std::fmt::Display + std::fmt::Debug>(result: std::result::Result<T, E>) -> String {
    result.unwrap_err().to_string()
}

fn assert_contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
}

#[test]
fn folders_are_paired_by_stem_whatever_the_extension() {
    let disk = Disk::new();
    disk.image("images/b.jpg", 2, 1).mask("labels/b.png", 2, &[0, 2]);
    disk.image("images/a.bmp", 2, 1).mask("labels/a.png", 2, &[1, 1]);
    disk.file("images/.hidden.png", "").file("images/notes.txt", "");
    let set = disk.folder(FolderOptions::default()).unwrap();
    assert_eq!(set.names(), ["a", "b"]);
    let sample = set.get(1).unwrap();
    assert_eq!((sample.name.as_str(), sample.image.channels(), sample.target.as_slice()), ("b", 3, &[0, 2][..]));

    let stems = Some(vec!["b".to_owned()]);
    assert_eq!(disk.folder(FolderOptions { stems, ..Default::default() }).unwrap().names(), ["b"]);
}

#[test]
fn folders_and_suffixes_can_be_named() {
    let disk = Disk::new();
    disk.image("photos/a.png", 2, 1).mask("truth/a_mask.png", 2, &[0, 1]);
    let options = FolderOptions {
        images: "photos".into(),
        labels: "truth".into(),
        label_suffix: "_mask".into(),
        color: ColorMode::Gray,
        ..Default::default()
    };
    let sample = disk.folder(options).unwrap().get(0).unwrap();
    assert_eq!((sample.image.channels(), sample.target.as_slice()), (1, &[0, 1][..]));
}

#[test]
fn missing_partners_are_listed_in_both_directions() {
    let disk = Disk::new();
    disk.image("images/both.png", 1, 1).mask("labels/both.png", 1, &[0]);
    disk.mask("labels/no_image.png", 1, &[0]);
    for i in 10..23 {
        disk.image(&format!("images/no_mask{i}.png"), 1, 1);
    }
    let error = message(disk.folder(FolderOptions::default()));
    assert_contains(
        &error,
        &["images", "labels", "no image for 1 (no_image)", "no mask for 13 (no_mask10, ", ", ...)"],
    );

    let stems = Some(vec!["both".to_owned(), "ghost".to_owned()]);
    let error = message(disk.folder(FolderOptions { stems, ..Default::default() }));
    assert_contains(&error, &["no image for 1 (ghost)", "no mask for 1 (ghost)"]);
}

#[test]
fn empty_and_absent_folders_are_errors() {
    let disk = Disk::new();
    assert_contains(&message(disk.folder(FolderOptions::default())), &["cannot list the folder", "images"]);
    disk.file("images/notes.txt", "").file("labels/notes.txt", "");
    assert_contains(&message(disk.folder(FolderOptions::default())), &["images has no samples"]);
    let nothing = FolderOptions { stems: Some(vec![]), ..Default::default() };
    assert_contains(&message(disk.folder(nothing)), &["has no samples"]);
}

#[test]
fn doubtful_files_are_errors() {
    let disk = Disk::new();
    disk.image("images/a.png", 1, 1).image("images/a.bmp", 1, 1).mask("labels/a.png", 1, &[0]);
    assert_contains(&message(disk.folder(FolderOptions::default())), &["a.bmp", "a.png", "same stem"]);
    let disk = Disk::new();
    disk.image("images/a.png", 1, 1).mask("labels/a.png", 1, &[0]).file("images/b.gif", "").file("labels/b.gif", "");
    assert_contains(&message(disk.folder(FolderOptions::default())), &["b.gif is not an image that can be read"]);
}

#[test]
fn sizes_must_agree() {
    let disk = Disk::new();
    disk.image("images/a.png", 3, 2).mask("labels/a.png", 2, &[0; 6]);
    let error = message(disk.folder(FolderOptions::default()).unwrap().get(0));
    assert_contains(&error, &["images/a.png has 3x2 pixels", "labels/a.png 2x3"]);
}

#[test]
fn labels_must_be_classes() {
    let disk = Disk::new();
    disk.image("images/a.png", 2, 2).mask("labels/a.png", 2, &[0, 1, 2, 3]);
    let error = message(disk.folder(FolderOptions::default()).unwrap().get(0));
    assert_contains(&error, &["labels/a.png: label 3 at pixel (x 1, y 1) is none of the 3 classes", "add the class"]);

    disk.mask("labels/a.png", 2, &[0, 0, 255, 2]);
    let error = message(disk.folder(FolderOptions::default()).unwrap().get(0));
    assert_contains(&error, &["label 255 at pixel (x 0, y 1)", "with_ignore_index"]);
    let open = |classes: &Classes, mask| {
        let options = FolderOptions { mask, ..Default::default() };
        FolderDataset::open(disk.0.path(), classes, options).unwrap().get(0)
    };
    let ignoring = Classes::new(["a", "b", "c"]).unwrap().with_ignore_index(Some(255));
    assert_eq!(open(&ignoring, MaskFormat::Index).unwrap().target.as_slice(), [0, 0, 255, 2]);
    assert_contains(&message(open(&Classes::binary(), MaskFormat::Index)), &["MaskFormat::Binary"]);
    assert_eq!(open(&Classes::binary(), MaskFormat::Binary).unwrap().target.as_slice(), [0, 0, 1, 1]);
    assert_eq!(open(&Classes::binary(), MaskFormat::Instances).unwrap().target.as_slice(), [0, 0, 255, 2]);
}

#[test]
fn swapped_folders_are_noticed() {
    let disk = Disk::new();
    let noise = GrayImage::from_fn(64, 64, |x, y| image::Luma([((x * x + 7 * y * y + x * y * 13) % 251) as u8]));
    write_image(disk.path("images/a.png"), &DynamicImage::from(noise)).unwrap();
    disk.mask("labels/a.png", 64, &[1; 4096]);
    let swapped = FolderOptions { images: "labels".into(), labels: "images".into(), ..Default::default() };
    for mask in [MaskFormat::Index, MaskFormat::Binary, MaskFormat::Instances] {
        let options = FolderOptions { mask, ..swapped.clone() };
        let error = message(disk.folder(options).unwrap().get(0));
        assert_contains(&error, &["images/a.png", "are images and masks swapped?"]);
    }
    assert!(disk.folder(FolderOptions::default()).unwrap().get(0).is_ok());
}

#[test]
fn voc_reads_palette_indices_and_void() {
    let disk = Disk::new();
    disk.file("ImageSets/Segmentation/train.txt", "2007_000032\n2007_000039\n");
    for stem in ["2007_000032", "2007_000039"] {
        disk.image(&format!("JPEGImages/{stem}.jpg"), 3, 1);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 3, 1);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(segkiln_core::Palette::voc(256).colours().as_flattened().to_vec());
        encoder.write_header().unwrap().write_image_data(&[0, 15, 255]).unwrap();
        fs::write(disk.path(&format!("SegmentationClass/{stem}.png")), bytes).unwrap();
    }
    let set = VocSegmentation::open(disk.0.path(), "train").unwrap();
    assert_eq!(set.names(), ["2007_000032", "2007_000039"]);
    assert_eq!(set.get(1).unwrap().target.as_slice(), [0, 15, 255]);
    assert_contains(&message(VocSegmentation::open(disk.0.path(), "val")), &["val.txt"]);
    disk.file("ImageSets/Segmentation/val.txt", "2007_000032\nother\n");
    assert_contains(&message(VocSegmentation::open(disk.0.path(), "val")), &["JPEGImages", "no image for 1 (other)"]);
    disk.file("ImageSets/Segmentation/val.txt", "\n");
    assert_contains(&message(VocSegmentation::open(disk.0.path(), "val")), &["val.txt has no samples"]);
}

#[test]
fn cityscapes_ids_become_train_ids() {
    let disk = Disk::new();
    for (city, name) in [("ulm", "ulm_1"), ("aachen", "aachen_2"), ("aachen", "aachen_1")] {
        disk.image(&format!("leftImg8bit/val/{city}/{name}_leftImg8bit.png"), 5, 1);
        disk.mask(&format!("gtFine/val/{city}/{name}_gtFine_labelIds.png"), 5, &[0, 7, 26, 33, 255]);
        disk.mask(&format!("gtFine/val/{city}/{name}_gtFine_instanceIds.png"), 1, &[0]);
    }
    let set = Cityscapes::open(disk.0.path(), "val").unwrap();
    assert_eq!(set.names(), ["aachen_1", "aachen_2", "ulm_1"]);
    assert_eq!(set.get(0).unwrap().target.as_slice(), [255, 0, 13, 18, 255]);

    disk.mask("gtFine/val/ulm/ulm_1_gtFine_labelIds.png", 5, &[0, 34, 0, 0, 0]);
    let error = message(Cityscapes::open(disk.0.path(), "val").unwrap().get(2));
    assert_contains(&error, &["ulm_1_gtFine_labelIds.png: label 34 at pixel (x 1, y 0)"]);

    disk.image("leftImg8bit/val/ulm/ulm_9_leftImg8bit.png", 5, 1);
    disk.mask("gtFine/val/bonn/bonn_1_gtFine_labelIds.png", 1, &[0]);
    let error = message(Cityscapes::open(disk.0.path(), "val"));
    assert_contains(&error, &["no mask for 1 (ulm_9)", "no image for 1 (bonn_1)"]);
    assert!(Cityscapes::open(disk.0.path(), "train").is_err());
}

/// The shared data, or a message that says what is not tested.
fn shared(name: &str) -> Option<PathBuf> {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let root = std::env::var_os("SEGKILN_DATA").map_or_else(|| workspace.into(), PathBuf::from).join(name);
    if !root.is_dir() {
        eprintln!("SKIPPED: {} is not there; set SEGKILN_DATA to the folder that holds {name}", root.display());
        return None;
    }
    Some(root)
}

#[test]
fn dsb2018_loads_and_no_label_map_is_taken_for_a_photograph() {
    let Some(root) = shared("dsb2018") else { return };
    let mut nuclei = 0;
    for (split, count) in [("train", 222), ("val", 45)] {
        let set = Dsb2018::open(&root, split, MaskFormat::Instances).unwrap();
        assert_eq!(set.len(), count);
        assert_eq!(set.names(), read_list(root.join(format!("{split}.txt"))).unwrap());
        for index in 0..set.len() {
            let sample: Sample = set.get(index).unwrap();
            assert_eq!((sample.image.width(), sample.image.height(), sample.image.channels()), (256, 256, 1));
            nuclei += sample.target.labels().iter().filter(|label| **label > 0).count();
        }
    }
    assert_eq!(nuclei, 7680);
    let val = Dsb2018::open(&root, "val", MaskFormat::Binary).unwrap();
    let foreground = foreground_fractions(&val, None).unwrap();
    assert!(foreground.iter().all(|share| *share > 0.0 && *share < 0.7));
}

#[test]
fn images_in_place_of_masks_are_noticed() {
    let folders = [("dsb2018", "images", 267), ("bccd", "JPEGImages", 292)];
    for (set, folder, count) in folders {
        let Some(root) = shared(set) else { continue };
        let images: Vec<PathBuf> =
            fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(images.len(), count);
        for image in images {
            for format in [MaskFormat::Index, MaskFormat::Binary, MaskFormat::Instances] {
                let error = read_labels(&image, &format, &Limits::default()).unwrap_err();
                assert!(matches!(error, DataError::NotAMask { .. }), "{error}");
            }
        }
    }
}
