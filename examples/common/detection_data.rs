//! Data sets that `rcnn_train` learns from: COCO's and Pascal VOC's files, and the sample in the repository.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::data::dataset::Dataset;
use clap::ValueEnum;
use segkiln::{
    DataRecord, coco_evaluate,
    core::{Classes, Instances},
    data::{
        self, CheckReport, DecodeOptions, MaskFormat, Sample,
        coco::{CocoFile, CocoResultFile},
        datasets::{
            Cached, CocoDetection, CocoOptions, DetectionDataset, DetectionEntry, ImageFiles, InvalidBoxes, Survey,
            VocDetection, VocOptions,
        },
        read_labels, splits,
    },
    metrics::coco::{CocoParams, IouType},
};

use crate::common::{Failure, say};

/// Bytes of decoded images that are kept.
const CACHE: usize = 2 << 30;
/// Images that are looked at before the first step.
const LOOKED_AT: usize = 500;
/// Classes of the sample in the repository.
const SAMPLE_CLASSES: [&str; 2] = ["background", "nucleus"];

/// A split of a data set.
pub type Split = Arc<dyn Dataset<Sample<Instances>>>;

/// Flags that name the data.
#[derive(clap::Args)]
pub struct Sources {
    /// Format of the annotations
    #[arg(long, value_enum, default_value_t = Format::Coco)]
    format: Format,
    /// Folder of the training images
    #[arg(long, requires = "train_json")]
    train_images: Option<PathBuf>,
    /// COCO's annotations of the training images
    #[arg(long, requires_all = ["train_images", "val_images", "val_json"])]
    train_json: Option<PathBuf>,
    /// Folder of the validation images
    #[arg(long, requires = "val_json")]
    val_images: Option<PathBuf>,
    /// COCO's annotations of the validation images
    #[arg(long, requires = "train_json")]
    val_json: Option<PathBuf>,
    /// Folder with JPEGImages, Annotations and ImageSets/Main/{train,val}.txt
    #[arg(long, conflicts_with = "train_json")]
    voc: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Coco,
    Voc,
}

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
    /// Record of the data in `config.json`.
    pub record: DataRecord,
}

impl Data {
    /// The splits of files on disk, after a look at some of them; what is measured is the validation split.
    fn of<D: ImageFiles + Dataset<Sample<Instances>> + 'static>(
        [train, valid]: [D; 2],
        classes: Classes,
        decode: DecodeOptions,
    ) -> Result<Self, Failure> {
        let splits = [&train, &valid];
        Survey::of_some(&splits, LOOKED_AT)?;
        let record = DataRecord::of(&splits, decode)?;
        let [train, valid]: [Split; 2] = [train, valid].map(|split| Arc::new(Cached::new(split, CACHE)) as Split);
        let test = valid.clone();
        Ok(Self { train, valid, test, classes, categories: vec![], truth: None, is_sample: false, record })
    }
}

impl Sources {
    /// Opens what the flags name, by default the sample.
    pub fn open(&self, masks: bool, decode: DecodeOptions) -> Result<Data, Failure> {
        if let (Some(train_images), Some(train_json), Some(val_images), Some(val_json)) =
            (&self.train_images, &self.train_json, &self.val_images, &self.val_json)
        {
            if self.format == Format::Voc {
                return Err("--format voc takes --voc DIR and no JSON files".into());
            }
            let options = CocoOptions { invalid_boxes: InvalidBoxes::Drop, masks, decode, ..CocoOptions::default() };
            let train = CocoDetection::open(train_images, train_json, options.clone())?;
            let categories = train.categories().to_vec();
            let names = Some(train.classes().names()[1..].to_vec());
            let options = CocoOptions { categories: Some(categories.clone()), names, ..options };
            let valid = CocoDetection::open(val_images, val_json, options)?;
            left_out(train_json, train.dropped())?;
            left_out(val_json, valid.dropped())?;
            train.check_targets("training")?;
            valid.check_targets("validation")?;
            let (classes, truth) = (train.classes().clone(), evaluable(valid.file(), masks)?);
            return Ok(Data { categories, truth, ..Data::of([train, valid], classes, decode)? });
        }
        if let Some(folder) = &self.voc {
            if masks {
                return Err("Pascal VOC's annotations have no masks; give --arch faster".into());
            }
            let options = VocOptions { invalid_boxes: InvalidBoxes::Drop, decode, ..VocOptions::default() };
            let train = VocDetection::open(folder, "train", options.clone())?;
            let classes = train.classes().clone();
            let valid = VocDetection::open(folder, "val", VocOptions { classes: Some(classes.clone()), ..options })?;
            left_out(folder, train.dropped() + valid.dropped())?;
            train.check_targets(folder, "training")?;
            valid.check_targets(folder, "validation")?;
            return Data::of([train, valid], classes, decode);
        }
        if self.format == Format::Voc {
            return Err("--format voc needs --voc DIR".into());
        }
        let test: Split = Arc::new(Cached::new(sample("test", decode)?, CACHE));
        let splits = [sample("train", decode)?, sample("val", decode)?];
        Ok(Data { test, is_sample: true, ..Data::of(splits, Classes::new(SAMPLE_CLASSES)?, decode)? })
    }

    /// Faults of the data that the flags name.
    pub fn check(&self, masks: bool, decode: DecodeOptions) -> Result<CheckReport, Failure> {
        let options = CocoOptions { masks, decode, ..CocoOptions::default() };
        Ok(match (&self.voc, &self.train_json) {
            (Some(folder), _) => {
                let open = |split| VocDetection::open(folder, split, VocOptions { decode, ..VocOptions::default() });
                let splits = ["train", "val"].map(open);
                let empty = [(&splits[0], "training"), (&splits[1], "validation")]
                    .map(|(split, name)| split.as_ref().ok()?.check_targets(folder, name).err());
                data::check(splits.into_iter().chain(empty.into_iter().flatten().map(Err)))
            }
            (None, Some(train_json)) => {
                let images = self.train_images.as_deref().unwrap_or(Path::new(""));
                let train = CocoDetection::open(images, train_json, options.clone());
                let known = train.as_ref().ok();
                let known = known.map(|train| (train.categories().to_vec(), train.classes().names()[1..].to_vec()));
                let (categories, names) = known.unzip();
                let options = CocoOptions { categories, names, ..options };
                let valid = self.val_images.as_ref().zip(self.val_json.as_ref());
                let valid = valid.map(|(images, json)| CocoDetection::open(images, json, options));
                let empty = [(Some(&train), "training"), (valid.as_ref(), "validation")]
                    .map(|(split, name)| split?.as_ref().ok()?.check_targets(name).err());
                data::check([train].into_iter().chain(valid).chain(empty.into_iter().flatten().map(Err)))
            }
            (None, None) => {
                let splits = ["train", "val", "test"].map(|split| sample(split, decode));
                data::check(splits.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().map(Ok))
            }
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
    for iou in [IouType::Bbox, IouType::Segm].into_iter().take(if masks { 2 } else { 1 }) {
        if let Err(error) = coco_evaluate(file, &CocoResultFile::new("results", vec![]), iou, CocoParams::default()) {
            say(format_args!("{error}; objects are evaluated by the areas of their masks or boxes"))?;
            return Ok(None);
        }
    }
    Ok(Some(file.clone()))
}

/// A split of the sample in the repository, whose labels are the numbers of objects.
fn sample(split: &str, decode: DecodeOptions) -> Result<DetectionDataset, Failure> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample"));
    let mut entries = Vec::new();
    for stem in splits::read_list(folder.join(format!("{split}.txt")))? {
        let labels = read_labels(folder.join(format!("labels/{stem}.png")), &MaskFormat::Instances, decode)?;
        let image = folder.join(format!("images/{stem}.png"));
        entries.push(DetectionEntry { name: stem, image, instances: Instances::from_labels(&labels, |_| 1)? });
    }
    Ok(DetectionDataset::new(entries, Classes::new(SAMPLE_CLASSES)?)?.decode(decode))
}
