//! Data sets on disk that are right, and those that are not; the shared data, where it is at hand.

use std::{fs, path::PathBuf};

use burn::data::dataset::Dataset;
use image::{DynamicImage, GrayImage, RgbImage};
use segkiln_core::{Classes, Instance, Instances, LabelMap};
use tempfile::TempDir;

use super::*;
use crate::{
    ColorMode, DataError, DecodeOptions, Limits, MaskFormat, Orientation, Result, Sample, check, read_labels,
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
    assert_contains(&error, &["no image for 1 (ghost) and no mask for 1 (ghost)"]);

    let dropping = FolderOptions { drop_unpaired: true, ..Default::default() };
    assert_eq!(disk.folder(dropping.clone()).unwrap().names(), ["both"]);
    let nothing = FolderOptions { stems: Some(vec!["ghost".to_owned()]), ..dropping };
    assert_contains(&message(disk.folder(nothing)), &["no image for 1 (ghost)"]);
}

#[test]
fn all_doubtful_files_of_both_folders_are_listed() {
    let disk = Disk::new();
    disk.image("images/a.png", 1, 1).image("images/a.bmp", 1, 1).mask("labels/a.png", 1, &[0]);
    disk.file("images/b.gif", "").file("labels/c.npy", "");
    let Err(DataError::Several { errors, more: 0 }) = disk.folder(FolderOptions::default()) else {
        panic!("three files are doubtful")
    };
    let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    for (problem, part) in problems.iter().zip(["same stem", "b.gif", "c.npy"]) {
        assert!(problem.contains(part), "{problem}");
    }
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
        encoder.set_palette(segkiln_core::Palette::voc(256).colors().as_flattened().to_vec());
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

/// An annotation of an image of 20 x 10 pixels.
fn annotation(objects: &str) -> String {
    let size = "<size><width>20</width><height>10</height><depth>3</depth></size>";
    format!("<?xml version=\"1.0\"?>\n<annotation>\n<folder>f</folder>{size}\n{objects}\n</annotation>\n")
}

fn object(name: &str, [xmin, ymin, xmax, ymax]: [&str; 4]) -> String {
    format!(
        "<object>\n\t<name> {name} </name><bndbox>\n<xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymin>{ymin}</ymin>\
         <ymax>{ymax}</ymax></bndbox></object>"
    )
}

/// A set in the layout of VOC whose annotations hold these objects; all images are of 20 x 10 pixels.
fn voc(objects: &[&str]) -> Disk {
    let disk = Disk::new();
    for (index, objects) in objects.iter().enumerate() {
        disk.image(&format!("JPEGImages/i{index}.jpg"), 20, 10);
        disk.file(&format!("Annotations/i{index}.xml"), &annotation(objects));
    }
    let stems: Vec<String> = (0..objects.len()).map(|index| format!("i{index}")).collect();
    disk.file("ImageSets/Main/all.txt", &stems.join("\n")).file("ImageSets/Main/first.txt", "i0\n");
    disk
}

fn open_voc(disk: &Disk, split: &str, invalid_boxes: InvalidBoxes) -> Result<VocDetection> {
    VocDetection::open(disk.0.path(), split, VocOptions { invalid_boxes, ..Default::default() })
}

#[test]
fn voc_detection_reads_boxes_as_they_are() {
    let part =
        "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>";
    let first = object("dog", ["3", "2.5", "20", "10"])
        .replace("</object>", &format!("{part}<difficult>1</difficult></object>"));
    let second = object("A&amp;B&#x21;<![CDATA[<]]>", ["1", "1", "2", "3"]);
    let disk = voc(&["", &(first + &second), &object("cat", ["5", "4", "6", "7"])]);
    let set = open_voc(&disk, "all", InvalidBoxes::Refuse).unwrap();
    assert_eq!(set.classes().names(), ["background", "A&B!<", "cat", "dog"]);
    assert_eq!((set.len(), set.dropped(), set.clipped()), (3, 0, 0));
    assert!(set.get(0).unwrap().target.is_empty());
    let sample = set.get(1).unwrap();
    assert_eq!((sample.name.as_str(), sample.image.channels()), ("i1", 3));
    let [dog, other] = sample.target.as_slice() else { panic!("two objects") };
    assert_eq!((dog.label(), dog.bbox.xyxy(), dog.difficult), (3, [3.0, 2.5, 20.0, 10.0], true));
    assert_eq!((other.label(), other.bbox.xyxy(), other.difficult), (1, [1.0, 1.0, 2.0, 3.0], false));
    // The classes are those of the whole set, or the given ones.
    assert_eq!(open_voc(&disk, "first", InvalidBoxes::Refuse).unwrap().classes(), set.classes());
    let given = VocOptions { classes: Some(Classes::new(["none", "dog"]).unwrap()), ..Default::default() };
    assert_eq!(VocDetection::open(disk.0.path(), "first", given.clone()).unwrap().classes().count(), 2);
    let error = message(VocDetection::open(disk.0.path(), "all", given));
    assert_contains(&error, &["i1.xml, object 1", r#""A&B!<" is none of the classes ["dog"]"#]);
}

#[test]
fn invalid_boxes_are_refused_or_dropped() {
    let objects = [["5", "5", "5", "5"], ["-3", "2", "4", "30"], ["20", "1", "25", "3"], ["nan", "1", "2", "3"]];
    let objects: String = objects.map(|corners| object("cell", corners)).concat();
    let disk = voc(&[&objects]);
    let error = message(open_voc(&disk, "all", InvalidBoxes::Refuse));
    assert_contains(&error, &["i0.xml, object 0: the box from (5, 5) to (5, 5) has no area within the image of 20x10"]);
    let set = open_voc(&disk, "all", InvalidBoxes::Drop).unwrap();
    assert_eq!((set.dropped(), set.clipped()), (3, 1));
    let target = set.get(0).unwrap().target;
    assert_eq!(target.as_slice().iter().map(|i| i.bbox.xyxy()).collect::<Vec<_>>(), [[0.0, 2.0, 4.0, 10.0]]);
}

#[test]
fn annotations_that_are_none_are_errors() {
    let whole = object("cell", ["1", "1", "2", "2"]);
    let refused = |objects: &str, parts: &[&str]| {
        // Not even where invalid boxes are dropped.
        let disk = voc(&["", objects]);
        disk.file("Annotations/i0.xml", &annotation(&whole));
        assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Drop)), parts);
    };
    refused("<object><bndbox/></object>", &["i1.xml, object 0: it has no `name`"]);
    refused("<object><name>cell</name></object>", &["i1.xml, object 0: its box has no `xmin`"]);
    refused(&object("cell", ["1", "1", "2", "two"]), &["i1.xml, object 0: `ymax` is no number but \"two\""]);
    refused("<object>", &["i1.xml cannot be decoded as a VOC annotation", "expected 'object' tag"]);
    refused("<!-- ", &["i1.xml cannot be decoded as a VOC annotation"]);
    refused("<object><name>&nbsp;</name></object>", &["unknown entity reference 'nbsp'"]);

    let disk = voc(&[&whole]);
    for (content, part) in
        [("", "root node"), ("<a></a>", "its root is `a`, not `annotation`"), ("<annotation>", "VOC annotation")]
    {
        disk.file("Annotations/i0.xml", content);
        assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Drop)), &["i0.xml", part]);
    }
    fs::write(disk.path("Annotations/i0.xml"), [0x3c, 0xff, 0x3e, 0]).unwrap();
    assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Drop)), &["i0.xml", "not UTF-8"]);
    disk.file("Annotations/i0.xml", &annotation(""));
    assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Drop)), &["Annotations are no classes"]);
    disk.file("Annotations/i0.xml", &annotation(&object("background", ["1", "1", "2", "2"])));
    assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Drop)), &["\"background\" is used twice"]);
    fs::remove_file(disk.path("Annotations/i0.xml")).unwrap();
    assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Drop)), &["no annotation for 1 (i0)"]);
}

#[test]
fn annotations_are_read_in_the_encoding_they_declare() {
    let whole = annotation(&object("红细胞", ["1", "1", "2", "2"]));
    let whole = whole.split_once("?>").map_or(&*whole, |(_, whole)| whole).to_owned();
    let (gbk, ..) = encoding_rs::GBK.encode(&whole);
    let wide: Vec<u8> = format!("\u{feff}{whole}").encode_utf16().flat_map(u16::to_be_bytes).collect();
    let declared =
        |name: &str, text: &[u8]| [format!("<?xml version='1.0' encoding='{name}'?>").as_bytes(), text].concat();
    let disk = voc(&[&object("cell", ["1", "1", "2", "2"])]);
    let marked = format!("\u{feff}<?xml version='1.0' encoding='utf-8'?>{whole}").into_bytes();
    for bytes in [declared("GBK", &gbk), declared("gb2312", &gbk), declared("UTF-8", whole.as_bytes()), marked, wide] {
        fs::write(disk.path("Annotations/i0.xml"), bytes).unwrap();
        assert_eq!(open_voc(&disk, "all", InvalidBoxes::Refuse).unwrap().classes().names(), ["background", "红细胞"]);
    }
    for (bytes, part) in [(declared("UTF-8", &gbk), "it is not UTF-8"), (declared("martian", b"<a/>"), "\"martian\"")] {
        fs::write(disk.path("Annotations/i0.xml"), bytes).unwrap();
        assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Refuse)), &["i0.xml", part]);
    }
}

#[test]
fn all_faults_of_annotations_are_listed() {
    let good = object("cell", ["1", "1", "2", "2"]);
    let bad = object("cell", ["1", "1", "1", "2"]) + &object("cell", ["1", "1", "x", "2"]);
    let disk = voc(&[&format!("{good}{bad}"), &bad]);
    let Err(DataError::Several { errors, more: 0 }) = open_voc(&disk, "all", InvalidBoxes::Refuse) else {
        panic!("not several")
    };
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    for (error, part) in
        text.iter().zip(["i0.xml, object 1", "i0.xml, object 2", "i1.xml, object 0", "i1.xml, object 1"])
    {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(text.len(), 4);
}

#[test]
fn files_that_no_list_names_are_no_one_s_business() {
    let disk = Disk::new();
    disk.image("images/a.png", 1, 1).mask("labels/a.png", 1, &[0]);
    disk.file("images/b.gif", "").file("labels/c.tga", "").image("images/d.png", 1, 1).image("images/d.bmp", 1, 1);
    let listed = |stem: &str| FolderOptions { stems: Some(vec![stem.into()]), ..Default::default() };
    assert_eq!(disk.folder(listed("a")).unwrap().names(), ["a"]);
    assert_contains(&message(disk.folder(listed("b"))), &["b.gif is not an image that can be read"]);
    assert_contains(&message(disk.folder(listed("d"))), &["same stem"]);
}

#[test]
fn fingerprints_tell_names_and_sizes() {
    let disk = Disk::new();
    disk.image("images/a.png", 2, 1).mask("labels/a.png", 2, &[0, 1]);
    disk.image("images/b.png", 2, 1).mask("labels/b.png", 2, &[0, 1]);
    let of = |stems: &[&str]| {
        let stems = Some(stems.iter().map(|stem| (*stem).to_owned()).collect());
        disk.folder(FolderOptions { stems, ..Default::default() }).unwrap().fingerprint().unwrap()
    };
    let [both, turned, one] = [of(&["a", "b"]), of(&["b", "a"]), of(&["a"])];
    assert!(both.len() == 64 && both != turned && both != one && both == of(&["a", "b"]));
    disk.image("images/b.png", 9, 7);
    assert_ne!(both, of(&["a", "b"]));
}

#[test]
fn sizes_that_differ_by_an_orientation_tag_name_it() {
    let disk = Disk::new();
    disk.image("images/a.jpg", 16, 8).mask("labels/a.png", 16, &[0; 128]);
    let plain = fs::read(disk.path("images/a.jpg")).unwrap();
    let exif = b"\xff\xe1\0\x22Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    fs::write(disk.path("images/a.jpg"), [&plain[..2], exif, &plain[2..]].concat()).unwrap();
    let open = |orientation| {
        let decode = DecodeOptions { orientation, ..Default::default() };
        disk.folder(FolderOptions { decode, ..Default::default() }).unwrap().get(0)
    };
    assert_contains(&message(open(Orientation::Apply)), &["8x16", "16x8", "EXIF 6", "Orientation::Keep"]);
    assert_eq!(open(Orientation::Keep).unwrap().image.width(), 16);
    disk.mask("labels/a.png", 8, &[0; 128]);
    assert_eq!(open(Orientation::Apply).unwrap().image.width(), 8);
    assert_contains(&message(open(Orientation::Keep)), &["EXIF 6", "Orientation::Apply"]);
}

#[test]
fn checks_list_every_fault() {
    let disk = Disk::new();
    for stem in ["a", "b", "c"] {
        disk.image(&format!("images/{stem}.png"), 2, 1).mask(&format!("labels/{stem}.png"), 2, &[0, 1]);
    }
    disk.mask("labels/a.png", 2, &[0, 9]).file("images/c.png", "no image");
    let report = check([disk.folder(FolderOptions::default())]);
    assert_eq!((report.count, report.images), (2, 3));
    let [first, second] = report.problems.as_slice() else { panic!("{report:?}") };
    assert!(first.file.ends_with("labels/a.png") && first.problem.starts_with("label 9"), "{first:?}");
    assert_eq!(first.cure, "add the class, or correct the mask");
    assert!(second.file.ends_with("images/c.png") && !second.problem.contains("c.png"), "{second:?}");
}

#[test]
fn hostile_annotations_cost_no_more_than_they_are_long() {
    let disk = voc(&[&object("cell", ["1", "1", "2", "2"])]);
    let attributes = |count: usize| format!("<a{}>", (0..count).map(|i| format!(" a{i}=''")).collect::<String>());
    let spaces = |count: usize| (0..count).map(|i| format!("<a xmlns:n{i}='u{i}'>")).collect::<String>();
    let nested = ["<a>".repeat(500_000), "<annotation>&amp;".repeat(200_000)];
    for content in nested.into_iter().chain([1_000, 9_999, 100_000].map(attributes)).chain([100, 9_999].map(spaces)) {
        disk.file("Annotations/i0.xml", &content);
        let start = std::time::Instant::now();
        assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Drop)), &["i0.xml cannot be decoded"]);
        assert!(start.elapsed().as_secs() < 10);
    }
    disk.file("Annotations/i0.xml", &" ".repeat((4 << 20) + 1));
    assert_contains(&message(open_voc(&disk, "all", InvalidBoxes::Drop)), &["are over the limit"]);
}

#[test]
fn annotated_sizes_are_held_against_the_images() {
    let disk = voc(&[&object("cell", ["1", "1", "2", "2"])]);
    disk.image("JPEGImages/i0.jpg", 20, 11);
    let error = message(open_voc(&disk, "all", InvalidBoxes::Refuse).unwrap().get(0));
    assert_contains(&error, &["i0.jpg has 20x11 pixels, its target or annotation 20x10"]);
    // An annotation without a size takes the image's.
    let sizeless = annotation(&object("cell", ["1", "1", "2", "11"])).replace("<width>20</width>", "<width>0</width>");
    disk.file("Annotations/i0.xml", &sizeless);
    let set = open_voc(&disk, "all", InvalidBoxes::Refuse).unwrap();
    assert_eq!((set.clipped(), set.get(0).unwrap().target.height()), (0, 11));
}

#[test]
fn detection_data_sets_check_their_labels() {
    let bbox = segkiln_core::BBox::new(0.0, 0.0, 1.0, 1.0).unwrap();
    let instances = Instances::new(2, 2, vec![Instance::new(bbox, 2).unwrap()]).unwrap();
    let entry = DetectionEntry { name: "a".into(), image: "a.png".into(), instances };
    let error = message(DetectionDataset::new(vec![entry.clone()], Classes::binary()));
    assert_contains(&error, &["a.png, object 0: label 2 is none of the 2 classes (0 to 1)"]);
    let set = DetectionDataset::new(vec![entry], Classes::new(["none", "a", "b"]).unwrap()).unwrap();
    assert_contains(&message(set.get(0)), &["a.png"]);
    assert_contains(&message(DetectionDataset::new(vec![], Classes::binary())), &["no samples"]);
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
fn bccd_loads_but_for_one_invalid_box_a_split() {
    let Some(root) = shared("bccd") else { return };
    // Counts and sums of the raw coordinates by Python's xml.etree.
    let splits = [
        (
            "train",
            205,
            "BloodImage_00343.xml, object 3",
            [209, 2381, 214],
            [750_278.0, 528_368.0, 1_049_444.0, 812_586.0],
        ),
        ("val", 87, "BloodImage_00338.xml, object 12", [83, 967, 87], [306_538.0, 216_307.0, 428_015.0, 332_736.0]),
    ];
    for (split, images, invalid, counts, sums) in splits {
        let open = |invalid_boxes| VocDetection::open(&root, split, VocOptions { invalid_boxes, ..Default::default() });
        assert_contains(&message(open(InvalidBoxes::Refuse)), &[invalid, "has no area within the image of 640x480"]);
        let set = open(InvalidBoxes::Drop).unwrap();
        assert_eq!(set.classes().names(), ["background", "Platelets", "RBC", "WBC"]);
        assert_eq!((set.len(), set.dropped(), set.clipped()), (images, 1, 0));
        let (mut found, mut sum) = ([0; 3], [0.0; 4]);
        for instance in set.entries().iter().flat_map(|entry| entry.instances.as_slice()) {
            found[instance.label() as usize - 1] += 1;
            sum.iter_mut().zip(instance.bbox.xyxy()).for_each(|(sum, value)| *sum += value);
        }
        assert_eq!((found, sum), (counts, sums));
        let sample = set.get(images - 1).unwrap();
        assert_eq!((sample.image.width(), sample.image.height(), sample.image.channels()), (640, 480, 3));
    }
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
