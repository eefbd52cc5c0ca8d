//! Trains a U-Net with two encoders on two pictures of the same place.
//!
//! The pictures are made of the nuclei sample, as a satellite's camera and its radar see the ground: one is sharp, but clouds
//! cover a part of it; the other sees through them, twelve times as coarse. `--network stacked` sees both as the channels of one
//! image, `--network sharp` and `--network coarse` one alone.
//!
//! ```text
//! cargo run --example fusion_train -- --network fusion
//! ```

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use clap::{Parser, ValueEnum};
use segkiln::{
    Segmenter,
    core::Classes,
    data::{
        ColorMode, Image, Limits, Loader, MaskFormat, Normalize, Sample,
        datasets::InMemoryDataset,
        read_image, read_labels, resize_image, splits,
        transforms::{Compose, HorizontalFlip, RandomCrop, RandomTurn90},
    },
    models::{
        ModelCard, ModelConfig,
        backbones::BackboneConfig,
        unet::{EncodedUNetConfig, FusionUNetConfig},
    },
    train::{Run, SegmentationTask, TrainingOptions, train},
};
use serde_json::json;

mod common;
#[path = "common/weights.rs"]
mod weights;

use common::{Failure, Machine, say};

/// Trains a U-Net with two encoders on two pictures of the same place.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Which network sees what
    #[arg(long, value_enum, default_value_t = Network::Fusion)]
    network: Network,
    /// torchvision's name of the encoders
    #[arg(long, default_value = "mobilenet_v2")]
    encoder: String,
    /// Weights of the encoders to begin with: a file, or DEFAULT for those that torchvision has published
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Passes over the training images
    #[arg(long, default_value_t = 12)]
    epochs: usize,
    /// Folder for the run's files
    #[arg(long, default_value = "runs/fusion")]
    out: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Network {
    /// An encoder a picture.
    Fusion,
    /// One encoder for both.
    Stacked,
    /// One encoder, for the sharp picture.
    Sharp,
    /// One encoder, for the coarse picture.
    Coarse,
}

impl Network {
    /// Which of the pictures it sees.
    fn pictures(self) -> &'static [usize] {
        match self {
            Self::Fusion | Self::Stacked => &[0, 1],
            Self::Sharp => &[0],
            Self::Coarse => &[1],
        }
    }

    fn config(self, encoder: BackboneConfig) -> ModelConfig {
        let unet = |channels| EncodedUNetConfig::new(encoder.clone().with_in_channels(channels), 1);
        match self {
            Self::Fusion => {
                ModelConfig::FusionUNet(FusionUNetConfig::new(unet(1), encoder.clone().with_in_channels(1)))
            }
            _ => ModelConfig::EncodedUNet(unet(self.pictures().len())),
        }
    }
}

/// Crops an epoch.
const EPOCH: usize = 96;
/// Side of the crops.
const CROP: u32 = 128;
/// Pixels of the sharp picture from one of the coarse one to the next.
const COARSE: u32 = 12;

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let device = args.machine.device()?;
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample"));
    let [training, validation, test] =
        ["train", "val", "test"].map(|split| pictures(folder, split, args.network.pictures()));
    let (training, validation, test) = (InMemoryDataset::new(training?), InMemoryDataset::new(validation?), test?);
    let normalize = Normalize::of_dataset(&training)?;
    let augment = Compose::new().then(RandomCrop::new(CROP, CROP)?).then(HorizontalFlip { p: 0.5 }).then(RandomTurn90);
    let encoder = BackboneConfig::by_name(&args.encoder)?;
    let card = ModelCard {
        model: args.network.config(encoder),
        classes: Classes::binary(),
        color: None,
        normalize: normalize.clone(),
    };
    let begin = args.weights.as_ref().map(|given| weights::file(&args.encoder, given, None)).transpose()?;
    let options = TrainingOptions {
        seed: args.machine.seed,
        epochs: args.epochs,
        learning_rate: 1e-3,
        ..TrainingOptions::default()
    };
    let outcome = train(Run {
        folder: args.out.clone(),
        task: SegmentationTask::new(card.clone()),
        options,
        data: json!({ "crop": CROP }),
        weights: begin,
        train: Loader::builder(Arc::new(training)).transform(augment.then(normalize.clone())).epoch_length(Some(EPOCH)),
        valid: Loader::builder(Arc::new(validation)).transform(normalize),
        device: device.clone(),
        resume: false,
    })?;

    let segmenter = Segmenter::new(outcome.model, card, &device)?;
    let matrix = segmenter.segment_split(test.into_iter().map(Ok::<_, Failure>), |_, _, _| Ok(()))?;
    say(json!({
        "network": format!("{:?}", args.network).to_lowercase(),
        "dice": matrix.dice(1),
        "iou": matrix.iou(1),
        "epochs": outcome.history.epochs().len(),
        "seconds": start.elapsed().as_secs_f64(),
    }))?;
    Ok(())
}

/// The pictures of a split, each a channel.
fn pictures(folder: &Path, split: &str, which: &[usize]) -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::new();
    for stem in splits::read_list(folder.join(format!("{split}.txt")))? {
        let file = |part: &str| folder.join(format!("{part}/{stem}.png"));
        let image = read_image(file("images"), ColorMode::Gray, &Limits::default())?;
        let target = read_labels(file("labels"), &MaskFormat::Binary, &Limits::default())?;
        let (width, height) = (image.width(), image.height());
        let coarse = resize_image(&image, width.div_ceil(COARSE), height.div_ceil(COARSE))?;
        let pictures = [clouded(image), resize_image(&coarse, width, height)?];
        let seen: Vec<&[f32]> = which.iter().map(|index| pictures[*index].as_slice()).collect();
        let pixels = (0..target.as_slice().len()).flat_map(|at| seen.iter().map(move |picture| picture[at]));
        let image = Image::new(width, height, which.len(), pixels.collect())?;
        samples.push(Sample { name: stem, image, target });
    }
    Ok(samples)
}

/// With white discs of a third of the area.
fn clouded(mut image: Image) -> Image {
    // Pixels from one cloud to the next, and a cloud's radius.
    const APART: u32 = 64;
    const RADIUS: u32 = 21;
    let width = image.width();
    for (at, value) in image.as_mut_slice().iter_mut().enumerate() {
        let (x, y) = (at as u32 % width, at as u32 / width);
        // Every second row is shifted.
        let x = x + (y / APART % 2) * APART / 2;
        let from_middle = |side: u32| (side % APART).abs_diff(APART / 2);
        if from_middle(x).pow(2) + from_middle(y).pow(2) <= RADIUS * RADIUS {
            *value = 1.0;
        }
    }
    image
}
