//! Trains a Faster R-CNN or a Mask R-CNN on COCO's or Pascal VOC's files: by default a small one on the real sample in the
//! repository.
//!
//! ```text
//! cargo run --example rcnn_train
//! cargo run --example rcnn_train -- --train-images images --train-json train.json --val-images images --val-json val.json
//! cargo run --example rcnn_train -- --arch faster --format voc --voc VOC2012 --weights resnet50.pth
//! ```

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use burn::data::dataset::Dataset;
use clap::{Parser, ValueEnum};
use rayon::prelude::*;
use segkiln::{
    Detector, coco_evaluate,
    core::{Classes, CoreError, Detection, Instances},
    data::{
        self, Image, Limits, Loader, MaskFormat, Sample,
        coco::{CocoFile, CocoResult, CocoResultFile, ImageId, Segmentation},
        datasets::{
            Cached, CocoDetection, CocoOptions, DetectionDataset, DetectionEntry, InvalidBoxes, VocDetection,
            VocOptions,
        },
        draw, read_labels, splits,
        transforms::{Compose, HorizontalFlip, Probability, RandomCrop, RandomTurn90},
        write_image,
    },
    metrics::metrics::coco::{CocoDetection as Found, CocoEvaluator, CocoFigures, CocoParams, CocoTruth, IouType},
    models::{
        DetectorCard,
        backbones::BackboneConfig,
        layers::NormConfig,
        rcnn::{AnchorConfig, MaskConfig, RcnnConfig},
    },
    train::{
        checkpoint::sweep,
        detection::{DetectionConfig, DetectionRecipe, DetectionRun, train_detector},
        optimizer::OptimizerConfig,
        schedule::ScheduleConfig,
    },
};
use serde_json::{Map, Value, json};

#[path = "common/check.rs"]
mod check;
mod common;
#[path = "common/weights.rs"]
mod weights;

use common::{Failure, Machine, say};

/// Trains a detector.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Whether masks are learned beside boxes
    #[arg(long, value_enum, default_value_t = Arch::Mask)]
    arch: Arch,
    /// What the annotations are
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
    /// torchvision's name of the backbone [default: resnet50; for the sample resnet18]
    #[arg(long)]
    backbone: Option<String>,
    /// The backbone's norms [default: frozen with torchvision's --weights, else batch]
    #[arg(long, value_enum)]
    norm: Option<Norm>,
    /// Weights to begin with: torchvision's of the backbone or of the whole network, a .bpk, or DEFAULT for those of the
    /// backbone that torchvision has published
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Sides of the anchors in pixels of what the network sees [default: 32,64,128,256,512; for the sample a quarter of them]
    #[arg(long, value_delimiter = ',')]
    anchor_sizes: Option<Vec<f32>>,
    /// Most objects found in an image
    #[arg(long, default_value_t = 100)]
    detections: usize,
    /// Passes over the training images [default: 26; for the sample 24]
    #[arg(long)]
    epochs: Option<usize>,
    /// Images a step
    #[arg(long, default_value_t = 2)]
    batch_size: usize,
    /// Largest learning rate [default: 0.02 for 16 images with sgd, 1e-3 with adamw]
    #[arg(long)]
    lr: Option<f64>,
    /// What turns gradients into steps [default: sgd; for the sample adamw]
    #[arg(long, value_enum)]
    optimizer: Option<Optimizer>,
    /// The shorter side that images are resized to [default: 800; for the sample 256]
    #[arg(long)]
    min_size: Option<usize>,
    /// What the longer side may not exceed [default: 1333, or --min-size if that is more or for the sample]
    #[arg(long)]
    max_size: Option<usize>,
    /// Folder for the run's files
    #[arg(long, default_value = "runs/rcnn")]
    out: PathBuf,
    /// Go on where the last run with the same settings in the same folder ended
    #[arg(long)]
    resume: bool,
    /// List what is wrong with the data, and train nothing
    #[arg(long)]
    check_data: bool,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arch {
    Mask,
    Faster,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Coco,
    Voc,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Norm {
    Batch,
    Frozen,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Optimizer {
    Sgd,
    Adamw,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let device = args.machine.device()?;
    if args.check_data {
        return check_data(args);
    }
    let Data { train, valid, test, classes, categories, truth, is_sample } = Data::open(args)?;
    let backbone = args.backbone.as_deref().unwrap_or(if is_sample { "resnet18" } else { "resnet50" });
    let begin = args.weights.as_ref().map(|given| weights::file(backbone, given, None)).transpose()?;
    let config = network(args, backbone, begin.as_deref(), classes.count(), is_sample)?;
    let card = DetectorCard::new(config, classes).with_categories(categories);

    let mut augment = Compose::new();
    let mut training = Loader::builder(train.clone());
    if is_sample {
        // Few images are seen hundreds of times each.
        augment = augment.then(Probability { p: 0.5, transform: RandomCrop::new(CROP, CROP)? }).then(RandomTurn90);
        training = training.epoch_length(Some(EPOCH));
    }
    let training = training.transform(augment.then(HorizontalFlip { p: 0.5 }));
    let validation = Loader::builder(valid).batch_size(1);

    let optimizer = args.optimizer.unwrap_or(if is_sample { Optimizer::Adamw } else { Optimizer::Sgd });
    let epochs = args.epochs.unwrap_or(if is_sample { 24 } else { 26 });
    let images = if is_sample { EPOCH } else { train.len() };
    let mut recipe =
        DetectionRecipe { seed: args.machine.seed, ..DetectionRecipe::new(images, epochs, args.batch_size) };
    if optimizer == Optimizer::Adamw {
        recipe.learning_rate = 1e-3;
        recipe.optimizer = OptimizerConfig::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 1e-4 };
        recipe.schedule = ScheduleConfig::Cosine { warmup: 0.05, floor: 0.01 };
    }
    recipe.learning_rate = args.lr.unwrap_or(recipe.learning_rate);
    // As torchvision: early layers of trained backbones stay as they are.
    recipe.trainable = args.weights.is_some().then_some(3);
    let outcome = train_detector(DetectionRun {
        folder: args.out.clone(),
        config: DetectionConfig {
            card: card.clone(),
            recipe,
            data: json!({ "weights": args.weights.as_ref().map(|path| path.display().to_string()) }),
        },
        weights: begin,
        train: training,
        valid: validation,
        device: device.clone(),
        resume: args.resume,
    })?;

    let detector = Detector::new(outcome.model, card, &device)?;
    let found = find(&detector, &test, &args.out.join("overlays"))?;
    let images = found.len();
    let mut line = Map::new();
    for (name, iou) in [("bbox", IouType::Bbox), ("segm", IouType::Segm)] {
        if iou == IouType::Segm && args.arch == Arch::Faster {
            continue;
        }
        let figures = match &truth {
            Some(file) => by_file(file, &detector, &found, iou)?,
            None => by_objects(&found, iou)?,
        };
        line.insert(name.into(), serde_json::to_value(figures)?);
    }
    line.insert("images".into(), images.into());
    line.insert("epochs".into(), outcome.history.epochs().len().into());
    line.insert("seconds".into(), start.elapsed().as_secs_f64().into());
    say(Value::Object(line))?;
    Ok(())
}

/// Side of the crops of the sample in pixels, which the network sees a third larger.
const CROP: u32 = 192;
/// Samples of an epoch of the sample: parts and crops of them.
const EPOCH: usize = 48;
/// Bytes of decoded images that are kept.
const CACHE: usize = 2 << 30;
/// Pictures drawn at the end.
const OVERLAYS: usize = 16;

type Split = Arc<dyn Dataset<Sample<Instances>>>;

/// What is learned from and what is measured with.
struct Data {
    train: Split,
    valid: Split,
    test: Split,
    classes: Classes,
    /// What COCO's files call the classes from 1 on.
    categories: Vec<i64>,
    /// What COCO's figures are computed with, where there is a file.
    truth: Option<CocoFile>,
    is_sample: bool,
}

impl Data {
    fn open(args: &Args) -> Result<Self, Failure> {
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

/// Lists what is wrong with the data that the flags name.
fn check_data(args: &Args) -> Result<(), Failure> {
    let masks = args.arch == Arch::Mask;
    let options = CocoOptions { masks, ..CocoOptions::default() };
    let report = match (&args.voc, &args.train_json) {
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
    };
    check::tell(&report)
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

/// The network that the flags describe.
fn network(
    args: &Args,
    name: &str,
    weights: Option<&Path>,
    classes: usize,
    is_sample: bool,
) -> Result<RcnnConfig, Failure> {
    let backbone = BackboneConfig::by_name(name)
        .ok_or_else(|| format!("there is no backbone {name:?}; the names are {}", BackboneConfig::NAMES.join(", ")))?;
    let theirs = weights.filter(|path| path.extension().is_none_or(|extension| extension != "bpk"));
    let norm = args.norm.unwrap_or(if theirs.is_some() { Norm::Frozen } else { Norm::Batch });
    let backbone = match norm {
        // As torchvision's detectors, whatever its classifiers have.
        Norm::Batch => backbone.with_norm(NormConfig::default()),
        Norm::Frozen => {
            let epsilon = theirs.map(RcnnConfig::frozen_epsilon).transpose()?.flatten();
            backbone.with_norm(NormConfig::Frozen { epsilon: epsilon.unwrap_or(1e-5) })
        }
    };
    let mut config = RcnnConfig::with_backbone(backbone, classes);
    let maps = config.stages.len() + 1;
    let sizes = match &args.anchor_sizes {
        Some(sizes) => Some(sizes.clone()),
        None if is_sample => Some(vec![8.0, 16.0, 32.0, 64.0, 128.0]),
        None => None,
    };
    if let Some(sizes) = sizes {
        // One size a map where there are as many, else all sizes on each.
        let sizes = match sizes.len() == maps {
            true => sizes.into_iter().map(|size| vec![size]).collect(),
            false => vec![sizes; maps],
        };
        config = config.with_anchors(AnchorConfig::new().with_sizes(sizes));
    }
    let min_size = args.min_size.unwrap_or(if is_sample { 256 } else { config.min_size });
    let max_size = args.max_size.unwrap_or(if is_sample { min_size } else { config.max_size.max(min_size) });
    let mut roi = config.roi.clone().with_detections(args.detections);
    let mut rpn = config.rpn.clone();
    let mut mask = (args.arch == Arch::Mask).then(MaskConfig::new);
    if is_sample {
        // A quarter of the channels is enough for one class of round objects.
        config = config.with_channels(64);
        roi = roi.with_representation(256).with_samples(128);
        rpn = rpn.with_before_nms_train(500).with_after_nms_train(500).with_before_nms(500).with_after_nms(500);
        mask = mask.map(|mask| mask.with_channels(64));
    }
    Ok(config.with_min_size(min_size).with_max_size(max_size).with_roi(roi).with_rpn(rpn).with_mask(mask))
}

/// An image of the split that is measured with.
struct Measured {
    truth: Instances,
    found: Vec<Detection>,
}

/// Looks at every image of a split, and draws some beside what is there.
fn find(detector: &Detector, split: &Split, pictures: &Path) -> Result<Vec<Measured>, Failure> {
    std::fs::create_dir_all(pictures).map_err(|error| format!("cannot create {}: {error}", pictures.display()))?;
    sweep(pictures)?;
    let mut measured = Vec::with_capacity(split.len());
    for (index, sample) in split.iter().enumerate() {
        let Sample { name, image, target } = sample?;
        let found = detector.detect_values(&image)?;
        if index < OVERLAYS {
            let plain = Image::to_dynamic(&image);
            let shown: Vec<Detection> = found.iter().filter(|detection| detection.score >= 0.5).cloned().collect();
            let truth = target.as_slice().iter().map(|instance| {
                let mut known = Detection::new(instance.bbox, instance.label(), 1.0)?;
                known.mask = instance.mask.clone();
                Ok(known)
            });
            let truth: Vec<Detection> = truth.collect::<Result<_, CoreError>>()?;
            let drawn = [plain.to_rgb8(), detector.overlay(&plain, &truth)?, detector.overlay(&plain, &shown)?];
            let row = draw::side_by_side(&drawn);
            write_image(pictures.join(format!("{name}.png")), &row.into())?;
        }
        measured.push(Measured { truth: target, found });
    }
    Ok(measured)
}

/// COCO's figures with the objects of the data set.
fn by_objects(images: &[Measured], iou: IouType) -> Result<CocoFigures, Failure> {
    let mut evaluator = CocoEvaluator::new(iou, CocoParams::default())?;
    for (image, number) in images.iter().zip(1..) {
        let truths: Vec<CocoTruth> =
            image.truth.as_slice().iter().zip(1..).map(|(instance, id)| CocoTruth::of(instance, id)).collect();
        let found: Vec<Found> = image.found.iter().map(Found::of).collect();
        evaluator.add_image(number, &truths, &found)?;
    }
    Ok(evaluator.evaluate().figures())
}

/// COCO's figures with the file of annotations, as `coco_eval` computes them from files.
fn by_file(file: &CocoFile, detector: &Detector, images: &[Measured], iou: IouType) -> Result<CocoFigures, Failure> {
    let ids: Vec<&ImageId> = file.images().iter().map(|image| &image.id).collect();
    let results: Vec<CocoResult> = images
        .par_iter()
        .zip(ids)
        .flat_map_iter(|(image, id)| {
            image.found.iter().map(|detection| CocoResult {
                image_id: id.clone(),
                category_id: detector.card().category(detection.label()),
                bbox: Some(detection.bbox.xywh()),
                score: detection.score.into(),
                segmentation: detection.mask.as_ref().map(|mask| Segmentation::Runs {
                    size: [mask.height(), mask.width()],
                    counts: mask.counts().to_vec(),
                }),
            })
        })
        .collect();
    let results = CocoResultFile::new("results", results);
    Ok(coco_evaluate(file, &results, iou, CocoParams::default())?.evaluate().figures())
}
