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
    explain::AdversarialDetectionTraining,
    models::DetectorCard,
    train::{Run, detection, train},
};

#[path = "common/adversarial.rs"]
mod adversarial;
#[path = "common/check.rs"]
mod check;
mod common;
#[path = "common/detection_data.rs"]
mod data;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/detection_network.rs"]
mod network;
#[path = "common/training_precision.rs"]
mod training_precision;
#[path = "common/weights.rs"]
mod weights;

use adversarial::Adversarial;
use common::{Failure, Machine, say};
use data::{Data, Sources};
use decoding::Decoding;
use network::Network;
use training_precision::TrainingNumbers;

/// Trains a detector.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    sources: Sources,
    /// Weights to begin with: torchvision's of the backbone or of the whole network, a .bpk, or DEFAULT for those of the
    /// backbone that torchvision has published
    #[arg(long)]
    weights: Option<PathBuf>,
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
    adversarial: Adversarial,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    numbers: TrainingNumbers,
    #[command(flatten)]
    machine: Machine,
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
    let (masks, decode) = (args.network.arch.has_masks(), args.decode.options());
    if args.check_data {
        return check::tell(&args.sources.check(masks, decode)?);
    }
    let Data { train: images, valid, test, classes, categories, truth, is_sample, mut record } =
        args.sources.open(masks, decode)?;
    record.weights = args.weights.as_ref().map(|path| path.display().to_string());
    let backbone = args.network.backbone(is_sample);
    let begin = args.weights.as_ref().map(|given| weights::file(backbone, given, None)).transpose()?;
    let config = args.network.config(begin.as_deref(), classes.count(), is_sample)?;
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
    options.precision = args.numbers.precision(&device);
    if args.network.arch.is_dense() {
        // As in torchvision's reference training.
        options.learning_rate *= 0.5;
    }
    if args.optimizer.map_or(is_sample, |optimizer| optimizer == Optimizer::Adamw) {
        options = options.with_adamw();
    }
    options.learning_rate = args.lr.unwrap_or(options.learning_rate);
    // As torchvision: early layers of trained backbones stay as they are.
    options.trainable = args.weights.is_some().then_some(3);
    let mut task = detection::DetectionTask::new(card.clone());
    if let Some(attack) = args.adversarial.attack()? {
        task = task.with_hook(AdversarialDetectionTraining::new(attack, args.adversarial.share)?);
    }
    let outcome = train(Run {
        folder: args.out.clone(),
        task,
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
