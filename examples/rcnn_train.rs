//! Trains Faster R-CNN, Mask R-CNN, RetinaNet or FCOS on COCO's or Pascal VOC's files: by default a small one on the real sample in the
//! repository.
//!
//! ```text
//! cargo run --example rcnn_train
//! cargo run --example rcnn_train -- --train-images images --train-json train.json --val-images images --val-json val.json
//! cargo run --example rcnn_train -- --arch faster --format voc --voc VOC2012 --weights resnet50.pth
//! ```

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, ValueEnum};
use segkiln::{
    Detector,
    data::{
        Loader,
        transforms::{Compose, HorizontalFlip, Probability, RandomCrop, RandomTurn90},
    },
    models::{
        DetectorCard,
        backbones::BackboneConfig,
        detection::{DetectionNetworkConfig, DetectionOptions, DetectorConfig, DetectorKind, with_detector_norms},
    },
    train::{Run, detection, train},
};

#[path = "common/check.rs"]
mod check;
mod common;
#[path = "common/detection_data.rs"]
mod data;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/weights.rs"]
mod weights;

use common::{Failure, Machine, say};
use data::{Data, Sources};
use decoding::Decoding;

/// Trains a detector.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// The network: Mask R-CNN, Faster R-CNN, RetinaNet or FCOS; only the first learns masks
    #[arg(long, default_value_t = DetectorKind::MaskRcnn)]
    arch: DetectorKind,
    #[command(flatten)]
    sources: Sources,
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
    /// Optimizer [default: sgd; for the sample adamw]
    #[arg(long, value_enum)]
    optimizer: Option<Optimizer>,
    /// The shorter side that images are resized to [default: 800; for the sample 256]
    #[arg(long)]
    min_size: Option<usize>,
    /// Largest longer side [default: 1333, or --min-size if that is more or for the sample]
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
    decode: Decoding,
    #[command(flatten)]
    machine: Machine,
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
    let (masks, decode) = (args.arch.has_masks(), args.decode.options());
    if args.check_data {
        return check::tell(&args.sources.check(masks, decode)?);
    }
    let Data { train: images, valid, test, classes, categories, truth, is_sample, mut record } =
        args.sources.open(masks, decode)?;
    record.weights = args.weights.as_ref().map(|path| path.display().to_string());
    let backbone = args.backbone.as_deref().unwrap_or(if is_sample { "resnet18" } else { "resnet50" });
    let begin = args.weights.as_ref().map(|given| weights::file(backbone, given, None)).transpose()?;
    let config = network(args, backbone, begin.as_ref(), classes.count(), is_sample)?;
    let card = DetectorCard::new(config, classes).with_categories(categories);

    let mut augment = Compose::new();
    let mut training = Loader::builder(images.clone());
    if is_sample {
        // Few images are seen hundreds of times each.
        augment = augment.then(Probability { p: 0.5, transform: RandomCrop::new(CROP, CROP)? }).then(RandomTurn90);
        training = training.epoch_length(Some(EPOCH));
    }

    let epochs = args.epochs.unwrap_or(if is_sample { 24 } else { 26 });
    let mut options =
        detection::reference_options(if is_sample { EPOCH } else { images.len() }, epochs, args.batch_size);
    options.seed = args.machine.seed;
    if args.arch.is_dense() {
        // As in torchvision's reference training.
        options.learning_rate *= 0.5;
    }
    if args.optimizer.map_or(is_sample, |optimizer| optimizer == Optimizer::Adamw) {
        options = options.with_adamw();
    }
    options.learning_rate = args.lr.unwrap_or(options.learning_rate);
    // As torchvision: early layers of trained backbones stay as they are.
    options.trainable = args.weights.is_some().then_some(3);
    let outcome = train(Run {
        folder: args.out.clone(),
        task: detection::DetectionTask::new(card.clone()),
        options,
        data: record.to_json(),
        weights: begin,
        train: training.transform(augment.then(HorizontalFlip { p: 0.5 })),
        valid: Loader::builder(valid).batch_size(1),
        device: device.clone(),
        resume: args.resume,
    })?;

    let detector = Detector::new(outcome.model, card, &device)?;
    let found = detector.draw_split(&*test, &args.out.join("overlays"), OVERLAYS)?;
    let mut line = serde_json::to_value(found.figures(truth.as_ref(), &detector)?)?;
    line["images"] = found.images().into();
    line["epochs"] = outcome.history.epochs().len().into();
    line["seconds"] = start.elapsed().as_secs_f64().into();
    Ok(say(line)?)
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
    weights: Option<&PathBuf>,
    classes: usize,
    is_sample: bool,
) -> Result<DetectorConfig, Failure> {
    let frozen = args.norm.map(|norm| norm == Norm::Frozen);
    let backbone = with_detector_norms(BackboneConfig::by_name(name)?, frozen, weights.map(PathBuf::as_path))?;
    let config = DetectorConfig::on_backbone(args.arch, backbone, classes);
    let mut config = if is_sample { config.reduced() } else { config };
    if let Some(sizes) = &args.anchor_sizes {
        config = config.with_anchor_sizes(sizes.clone());
    }
    let min_size = args.min_size.or(is_sample.then_some(256));
    let max_size = args.max_size.or(min_size.filter(|_| is_sample));
    let max_detections = Some(args.detections);
    Ok(config.with_options(DetectionOptions { min_size, max_size, score_threshold: None, max_detections }))
}
