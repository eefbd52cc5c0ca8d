//! Trains Faster R-CNN, Mask R-CNN, RetinaNet or FCOS on COCO's or Pascal VOC's files: by default a small one on the real sample in the
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
    time::Instant,
};

use burn::data::dataset::Dataset;
use clap::{Parser, ValueEnum};
use segkiln::{
    Detector,
    core::Detection,
    data::{
        Image, Loader,
        transforms::{Compose, HorizontalFlip, Probability, RandomCrop, RandomTurn90},
        write_image,
    },
    metrics::metrics::coco::IouType,
    models::{
        DetectorCard,
        backbones::BackboneConfig,
        detection::{
            AnchorConfig, DetectionNetworkConfig, DetectionOptions, DetectorConfig,
            fcos::FcosConfig,
            frozen_epsilon,
            rcnn::{MaskConfig, RcnnConfig},
            retinanet::{BoxLoss, RetinaNetConfig},
        },
        layers::NormConfig,
    },
    train::{
        Run,
        checkpoint::sweep,
        detection::{DetectionTask, reference_options},
        optimizer::OptimizerConfig,
        schedule::ScheduleConfig,
        train,
    },
};
use serde_json::{Map, Value, json};

#[path = "common/check.rs"]
mod check;
mod common;
#[path = "common/detection_data.rs"]
mod data;
#[path = "common/weights.rs"]
mod weights;

use common::{Failure, Machine, say};
use data::Data;

/// Trains a detector.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// The network: Mask R-CNN, Faster R-CNN, RetinaNet or FCOS; only the first learns masks
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
    /// Sides of the anchors in pixels of what the network sees; RetinaNet adds two thirds of an octave to each, of FCOS they
    /// are the units of distances [default: 32,64,128,256,512, of FCOS a quarter of them; for the sample a quarter]
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
    /// Largest learning rate [default: 1e-3 with adamw; for 16 images with sgd 0.02, of RetinaNet and FCOS 0.01]
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
    Retinanet,
    Fcos,
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
        return check::tell(&data::check(args)?);
    }
    let Data { train: training, valid, test, classes, categories, truth, is_sample } = Data::open(args)?;
    let backbone = args.backbone.as_deref().unwrap_or(if is_sample { "resnet18" } else { "resnet50" });
    let begin = args.weights.as_ref().map(|given| weights::file(backbone, given, None)).transpose()?;
    let config = network(args, backbone, begin.as_deref(), classes.count(), is_sample)?;
    let card = DetectorCard::new(config, classes).with_categories(categories);

    let mut augment = Compose::new();
    let images = if is_sample { EPOCH } else { training.len() };
    let mut training = Loader::builder(training);
    if is_sample {
        // Few images are seen hundreds of times each.
        augment = augment.then(Probability { p: 0.5, transform: RandomCrop::new(CROP, CROP)? }).then(RandomTurn90);
        training = training.epoch_length(Some(EPOCH));
    }
    let training = training.transform(augment.then(HorizontalFlip { p: 0.5 }));
    let validation = Loader::builder(valid).batch_size(1);

    let optimizer = args.optimizer.unwrap_or(if is_sample { Optimizer::Adamw } else { Optimizer::Sgd });
    let epochs = args.epochs.unwrap_or(if is_sample { 24 } else { 26 });
    let mut options = reference_options(images, epochs, args.batch_size);
    options.seed = args.machine.seed;
    if matches!(args.arch, Arch::Retinanet | Arch::Fcos) {
        // As in torchvision's reference training.
        options.learning_rate *= 0.5;
    }
    if optimizer == Optimizer::Adamw {
        options.learning_rate = 1e-3;
        options.optimizer = OptimizerConfig::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 1e-4 };
        options.schedule = ScheduleConfig::Cosine { warmup: 0.05, floor: 0.01 };
    }
    options.learning_rate = args.lr.unwrap_or(options.learning_rate);
    // As torchvision: early layers of trained backbones stay as they are.
    options.trainable = args.weights.is_some().then_some(3);
    let outcome = train(Run {
        folder: args.out.clone(),
        task: DetectionTask::new(card.clone()),
        options,
        data: json!({ "weights": args.weights.as_ref().map(|path| path.display().to_string()) }),
        weights: begin,
        train: training,
        valid: validation,
        device: device.clone(),
        resume: args.resume,
    })?;

    let detector = Detector::new(outcome.model, card, &device)?;
    let pictures = args.out.join("overlays");
    std::fs::create_dir_all(&pictures).map_err(|error| format!("cannot create {}: {error}", pictures.display()))?;
    sweep(&pictures)?;
    let samples = test.iter().map(|sample| sample.map_err(Failure::from));
    let found = detector.detect_split(samples, |index, sample, detections| {
        if index < OVERLAYS {
            let shown: Vec<Detection> = detections.iter().filter(|found| found.score >= 0.5).cloned().collect();
            let picture = detector.comparison(&Image::to_dynamic(&sample.image), &sample.target, &shown)?;
            write_image(pictures.join(format!("{}.png", sample.name)), &picture.into())?;
        }
        Ok(())
    })?;
    let images = found.images();
    let mut line = Map::new();
    for (name, iou) in [("bbox", IouType::Bbox), ("segm", IouType::Segm)] {
        if iou == IouType::Segm && args.arch != Arch::Mask {
            continue;
        }
        let figures = match &truth {
            Some(file) => found.coco_figures_of_file(file, &detector, iou)?,
            None => found.coco_figures(iou)?,
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
/// Pictures drawn at the end.
const OVERLAYS: usize = 16;

/// The network that the flags describe.
fn network(
    args: &Args,
    name: &str,
    weights: Option<&Path>,
    classes: usize,
    is_sample: bool,
) -> Result<DetectorConfig, Failure> {
    let backbone = BackboneConfig::by_name(name)
        .ok_or_else(|| format!("there is no backbone {name:?}; the names are {}", BackboneConfig::NAMES.join(", ")))?;
    let theirs = weights.filter(|path| path.extension().is_none_or(|extension| extension != "bpk"));
    let norm = args.norm.unwrap_or(if theirs.is_some() { Norm::Frozen } else { Norm::Batch });
    let backbone = match norm {
        // As torchvision's detectors, whatever its classifiers have.
        Norm::Batch => backbone.with_norm(NormConfig::default()),
        Norm::Frozen => {
            let epsilon = theirs.map(frozen_epsilon).transpose()?.flatten();
            backbone.with_norm(NormConfig::Frozen { epsilon: epsilon.unwrap_or(1e-5) })
        }
    };
    let small = || is_sample.then(|| vec![8.0, 16.0, 32.0, 64.0, 128.0]);
    let sizes = args.anchor_sizes.clone().or_else(small);
    // A quarter of the channels is enough for one class of round objects.
    let channels = if is_sample { 64 } else { 256 };
    let config: DetectorConfig = match args.arch {
        Arch::Mask | Arch::Faster => {
            let mut config = RcnnConfig::with_backbone(backbone, classes).with_channels(channels);
            let levels = config.stages.len() + 1;
            if let Some(sizes) = sizes {
                // One size a level where there are as many, else all sizes on each.
                let sizes = match sizes.len() == levels {
                    true => sizes.into_iter().map(|size| vec![size]).collect(),
                    false => vec![sizes; levels],
                };
                config = config.with_anchors(AnchorConfig::new().with_sizes(sizes));
            }
            let mut mask = (args.arch == Arch::Mask).then(MaskConfig::new);
            if is_sample {
                let roi = config.roi.clone().with_representation(256).with_samples(128);
                let rpn = config.rpn.clone().with_before_nms_train(500).with_after_nms_train(500);
                config = config.with_roi(roi).with_rpn(rpn.with_before_nms(500).with_after_nms(500));
                mask = mask.map(|mask| mask.with_channels(64));
            }
            config.with_mask(mask).into()
        }
        Arch::Retinanet => {
            let mut config = RetinaNetConfig::with_backbone(backbone, classes).with_channels(channels);
            if is_sample {
                // From random weights, heads without norm hardly learn in so few steps: as the second version.
                config = config.with_head_norm(NormConfig::Group { groups: 32 }).with_box_loss(BoxLoss::GeneralizedIou);
            }
            match sizes {
                Some(sizes) => config.with_anchors(AnchorConfig::with_octaves(&sizes)).into(),
                None => config.into(),
            }
        }
        Arch::Fcos => {
            let config = FcosConfig::with_backbone(backbone, classes).with_channels(channels);
            match sizes {
                Some(sizes) => config.with_strides(sizes).into(),
                None => config.into(),
            }
        }
    };
    let min_size = args.min_size.or(is_sample.then_some(256));
    let max_size = args.max_size.or(min_size.filter(|_| is_sample));
    let max_detections = Some(args.detections);
    Ok(config.with_options(DetectionOptions { min_size, max_size, score_threshold: None, max_detections }))
}
