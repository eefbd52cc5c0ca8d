//! Data sets that `rcnn_train` learns from: COCO's and Pascal VOC's files, and the sample in the repository.

use std::{path::Path, sync::Arc};

use burn::data::dataset::Dataset;
use segkiln::{
    coco_evaluate,
    core::{Classes, Instances},
    data::{
        self, Limits, MaskFormat, Report, Sample,
        coco::{CocoFile, CocoResultFile},
        datasets::{
            Cached, CocoDetection, CocoOptions, DetectionDataset, DetectionEntry, InvalidBoxes, VocDetection,
            VocOptions,
        },
        read_labels, splits,
    },
    metrics::metrics::coco::{CocoParams, IouType},
};

use crate::{
    Arch, Args, Format,
    common::{Failure, say},
};

/// Bytes of decoded images that are kept.
const CACHE: usize = 2 << 30;

/// A split of a data set.
pub type Split = Arc<dyn Dataset<Sample<Instances>>>;

/// Splits to learn from and to measure with.
pub struct Data {
    pub train: Split,
    pub valid: Split,
    pub test: Split,
    pub classes: Classes,
    /// Numbers of the classes from 1 on in COCO's files.
    pub categories: Vec<i64>,
    /// Annotations that COCO's figures are computed with, where there is a file.
    pub truth: Option<CocoFile>,
    pub is_sample: bool,
}

impl Data {
    /// Opens what the flags name, by default the sample.
    pub fn open(args: &Args) -> Result<Self, Failure> {
        let masks = args.arch == Arch::Mask;
        if let (Some(train_images), Some(train_json), Some(val_images), Some(val_json)) =
            (&args.train_images, &args.train_json, &args.val_images, &args.val_json)
        {
            if args.format == Format::Voc {
                return Err("--format voc takes --voc DIR and no JSON files".into());
            }
            let options = CocoOptions { invalid_boxes: InvalidBoxes::Drop, masks, ..CocoOptions::default() };
            let train = CocoDetection::open(train_images, train_json, options.clone())?;
            let categories = train.categories().to_vec();
            let names = Some(train.classes().names()[1..].to_vec());
            let options = CocoOptions { categories: Some(categories.clone()), names, ..options };
            let valid = CocoDetection::open(val_images, val_json, options)?;
            left_out(train_json, train.dropped())?;
            left_out(val_json, valid.dropped())?;
            some_object(train_json, "training", train.entries())?;
            some_object(val_json, "validation", valid.entries())?;
            let (classes, truth) = (train.classes().clone(), evaluable(valid.file(), masks)?);
            let valid: Split = Arc::new(Cached::new(valid, CACHE));
            return Ok(Self {
                train: Arc::new(Cached::new(train, CACHE)),
                valid: valid.clone(),
                test: valid,
                classes,
                categories,
                truth,
                is_sample: false,
            });
        }
        if let Some(folder) = &args.voc {
            if masks {
                return Err("Pascal VOC's annotations have no masks; give --arch faster".into());
            }
            let options = VocOptions { invalid_boxes: InvalidBoxes::Drop, ..VocOptions::default() };
            let train = VocDetection::open(folder, "train", options.clone())?;
            let classes = train.classes().clone();
            let valid = VocDetection::open(folder, "val", VocOptions { classes: Some(classes.clone()), ..options })?;
            left_out(folder, train.dropped() + valid.dropped())?;
            some_object(folder, "training", train.entries())?;
            some_object(folder, "validation", valid.entries())?;
            let valid: Split = Arc::new(Cached::new(valid, CACHE));
            return Ok(Self {
                train: Arc::new(Cached::new(train, CACHE)),
                valid: valid.clone(),
                test: valid,
                classes,
                categories: Vec::new(),
                truth: None,
                is_sample: false,
            });
        }
        if args.format == Format::Voc {
            return Err("--format voc needs --voc DIR".into());
        }
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample"));
        let classes = Classes::new(["background", "nucleus"])?;
        let split = |name| -> Result<Split, Failure> {
            Ok(Arc::new(Cached::new(sample(folder, name, classes.clone())?, CACHE)))
        };
        Ok(Self {
            train: split("train")?,
            valid: split("val")?,
            test: split("test")?,
            classes: classes.clone(),
            categories: Vec::new(),
            truth: None,
            is_sample: true,
        })
    }
}

fn left_out(what: &Path, objects: usize) -> Result<(), Failure> {
    if objects > 0 {
        say(format_args!("{}: {objects} objects without an area within their images are left out", what.display()))?;
    }
    Ok(())
}

/// The file, if COCO's figures can be computed with it; else they will be computed with the objects that were read.
fn evaluable(file: &CocoFile, masks: bool) -> Result<Option<CocoFile>, Failure> {
    let nothing = CocoResultFile::new("results", Vec::new());
    let kinds = [IouType::Bbox, IouType::Segm];
    for iou in kinds.into_iter().take(if masks { 2 } else { 1 }) {
        if let Err(error) = coco_evaluate(file, &nothing, iou, CocoParams::default()) {
            say(format_args!("{error}; objects are evaluated by the areas of their masks or boxes"))?;
            return Ok(None);
        }
    }
    Ok(Some(file.clone()))
}

/// Without objects there is nothing to learn, and no epoch would be better than another.
fn some_object(what: &Path, split: &str, images: &[DetectionEntry]) -> Result<(), Failure> {
    match images.iter().any(DetectionEntry::has_target) {
        true => Ok(()),
        false => Err(format!(
            "{}: there is no object in any {split} image, other than crowds and difficult ones",
            what.display()
        )
        .into()),
    }
}

/// Faults of the data that the flags name.
pub fn check(args: &Args) -> Result<Report, Failure> {
    let options = CocoOptions { masks: args.arch == Arch::Mask, ..CocoOptions::default() };
    Ok(match (&args.voc, &args.train_json) {
        (Some(folder), _) => {
            data::check(["train", "val"].map(|split| VocDetection::open(folder, split, VocOptions::default())))
        }
        (None, Some(train_json)) => {
            let train =
                CocoDetection::open(args.train_images.as_deref().unwrap_or(Path::new("")), train_json, options.clone());
            let known =
                train.as_ref().ok().map(|train| (train.categories().to_vec(), train.classes().names()[1..].to_vec()));
            let (categories, names) = known.unzip();
            let options = CocoOptions { categories, names, ..options };
            let valid = args.val_images.as_ref().zip(args.val_json.as_ref());
            let valid = valid.map(|(images, json)| CocoDetection::open(images, json, options));
            data::check([train].into_iter().chain(valid))
        }
        (None, None) => {
            let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample"));
            let classes = Classes::new(["background", "nucleus"])?;
            let splits = ["train", "val", "test"].map(|split| sample(folder, split, classes.clone()));
            data::check(splits.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().map(Ok))
        }
    })
}

/// Images whose labels are the numbers of objects.
fn sample(folder: &Path, split: &str, classes: Classes) -> Result<DetectionDataset, Failure> {
    let mut entries = Vec::new();
    for stem in splits::read_list(folder.join(format!("{split}.txt")))? {
        let labels =
            read_labels(folder.join(format!("labels/{stem}.png")), &MaskFormat::Instances, &Limits::default())?;
        let image = folder.join(format!("images/{stem}.png"));
        entries.push(DetectionEntry { name: stem, image, instances: Instances::from_labels(&labels, |_| 1)? });
    }
    Ok(DetectionDataset::new(entries, classes)?)
}
