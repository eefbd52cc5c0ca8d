//! Trains a U-Net on a folder of images and masks: by default on the real sample in the repository.
//!
//! ```text
//! cargo run --example unet_train
//! cargo run --example unet_train -- --data DIR --epochs 12 --base 32 --batch-size 4
//! ```
//!
//! DIR holds `images/STEM.EXT`, `labels/STEM.png` (0 is background, any other value foreground) and `train.txt`,
//! `val.txt` and, if there is one, `test.txt`: stems, one a line.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use burn::data::dataset::Dataset;
use clap::Parser;
use segkiln::{
    Segmenter,
    core::Classes,
    data::{
        Loader,
        transforms::{Affine, Compose, Gamma, HorizontalFlip, Probability, RandomCrop, RandomTurn90},
    },
    explain::AdversarialTraining,
    models::{
        ModelCard, ModelConfig,
        backbones::BackboneConfig,
        unet::{EncodedUNetConfig, UNetConfig},
    },
    train::{Run, SegmentationTask, TrainingOptions, train},
};
use serde_json::json;

#[path = "common/adversarial.rs"]
mod adversarial;
#[path = "common/check.rs"]
mod check;
#[path = "common/cleaning.rs"]
mod cleaning;
mod common;
#[path = "common/segmentation_data.rs"]
mod data;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/training_precision.rs"]
mod training_precision;
#[path = "common/weights.rs"]
mod weights;

use adversarial::Adversarial;
use cleaning::Postprocessing;
use common::{Failure, Machine, say};
use data::{Data, Sources, is_ours};
use decoding::Decoding;
use training_precision::TrainingNumbers;

/// Trains a U-Net to tell foreground from background.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    #[command(flatten)]
    sources: Sources,
    /// Passes over the training images
    #[arg(long, default_value_t = 24)]
    epochs: usize,
    /// Images a step
    #[arg(long, default_value_t = 4)]
    batch_size: usize,
    /// Side of the random crops in pixels [default: 128 for the sample, else 256 or the images' size if that is less]
    #[arg(long)]
    crop: Option<u32>,
    /// Largest learning rate of the one-cycle schedule
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    /// Channels of the first level; they double at each of four more
    #[arg(long, default_value_t = 16, conflicts_with = "encoder")]
    base: usize,
    /// A backbone, such as mobilenet_v2, for the network's contracting path [default: the paper's, of --base channels]
    #[arg(long)]
    encoder: Option<String>,
    /// Weights to begin with: a .bpk of the same network, to go on from an earlier run; or the --encoder's, torchvision's .pth
    /// or .safetensors, or DEFAULT for those that it has published; images are then RGB and normalized as its
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Folder for the run's files
    #[arg(long, default_value = "runs/unet")]
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
    postprocessing: Postprocessing,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    numbers: TrainingNumbers,
    #[command(flatten)]
    machine: Machine,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let (device, decode) = (args.machine.device()?, args.decode.options());
    if args.check_data {
        return check::tell(&args.sources.check(decode));
    }
    let Data { train: train_split, valid, test, measured, color, normalize, seen, is_sample, record } =
        args.sources.open(args.weights.as_deref(), decode)?;
    let published = args.weights.as_ref().filter(|path| !is_ours(path));
    let begin = match (published, &args.encoder) {
        (Some(given), Some(encoder)) => Some(weights::file(encoder, given, None)?),
        (Some(_), None) => return Err("--weights other than a .bpk are those of an --encoder; give one".into()),
        (None, _) => args.weights.clone(),
    };
    let crop = args.crop.unwrap_or((if is_sample { 128 } else { 256 }).min(seen.longest_side.next_multiple_of(16)));
    if crop > LARGEST_CROP {
        return Err(format!("--crop must be at most {LARGEST_CROP}, is {crop}").into());
    }
    let mut augment = Compose::new();
    if train_split.len() < SHORTEST_EPOCH {
        // Few images are seen hundreds of times each, so they are also bent, scaled and lit differently.
        let transform = Affine::new().rotate([-20.0, 20.0])?.scale([0.8, 1.25])?;
        augment = augment.then(Probability { p: 0.5, transform }).then(Gamma::new([0.7, 1.4])?);
    }
    let augment = augment
        .then(RandomCrop::new(crop, crop)?)
        .then(HorizontalFlip { p: 0.5 })
        .then(RandomTurn90)
        .then(normalize.clone());
    let training = Loader::builder(train_split.clone())
        .transform(augment)
        .epoch_length(Some(train_split.len().max(SHORTEST_EPOCH)));
    let batch_size = if seen.one_size { args.batch_size } else { 1 };
    let validation = Loader::builder(valid.clone()).transform(normalize.clone()).batch_size(batch_size);
    let card = ModelCard {
        model: match &args.encoder {
            None => ModelConfig::UNet(UNetConfig::new(color.channels(), 1).with_base(args.base)),
            Some(name) => {
                let encoder = BackboneConfig::by_name(name)?.with_in_channels(color.channels());
                ModelConfig::EncodedUNet(EncodedUNetConfig::new(encoder, 1))
            }
        },
        classes: Classes::binary(),
        color: Some(color),
        normalize,
    };
    let options = TrainingOptions {
        seed: args.machine.seed,
        epochs: args.epochs,
        batch_size: args.batch_size,
        learning_rate: args.lr,
        precision: args.numbers.precision(&device),
        ..TrainingOptions::default()
    };
    let mut data = record.to_json();
    data["crop"] = crop.into();
    let mut task = SegmentationTask::new(card.clone());
    if let Some(attack) = args.adversarial.attack()? {
        let (share, normalize) = (args.adversarial.share, &card.normalize);
        task = task.with_hook(AdversarialTraining::new(attack, share, normalize, &card.classes)?);
    }
    let outcome = train(Run {
        folder: args.out.clone(),
        task,
        options,
        data,
        weights: begin,
        train: training,
        valid: validation,
        device: device.clone(),
        resume: args.resume,
    })?;

    let segmenter = Segmenter::new(outcome.model, card, &device)?;
    args.postprocessing.choose(&segmenter, &*valid, &args.out)?;
    let matrix = segmenter.draw_split(&test, &args.out.join("overlays"), OVERLAYS)?;
    Ok(say(json!({
        "split": measured,
        "dice": matrix.dice(1),
        "iou": matrix.iou(1),
        "pixel_accuracy": matrix.pixel_accuracy(),
        "images": test.len(),
        "epochs": outcome.history.epochs().len(),
        "seconds": start.elapsed().as_secs_f64(),
    }))?)
}

/// Small sets are gone through several times an epoch, so that an epoch is worth validating and saving.
const SHORTEST_EPOCH: usize = 96;
/// Larger crops would not fit into memory with the network's features.
const LARGEST_CROP: u32 = 4096;
/// Pictures drawn at the end.
const OVERLAYS: usize = 16;
