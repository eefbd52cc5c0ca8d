//! Trains a U-Net with two encoders on two pictures of the same place.
//!
//! The pictures are made of the nuclei sample: one shows the nuclei with an even number, as a first stain would, the other those
//! with an odd one. What is to be found are all. `--network first` sees the first picture alone, `--network stacked` both as the
//! channels of one image.
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
    SegmentOptions, Segmenter,
    core::{Classes, LabelMap},
    data::{
        ColorMode, Image, Limits, Loader, MaskFormat, Normalize, Sample,
        datasets::InMemoryDataset,
        read_image, read_labels, splits,
        transforms::{Compose, HorizontalFlip, RandomCrop, RandomTurn90},
    },
    metrics::metrics::ConfusionMatrix,
    models::{
        ModelCard, ModelConfig,
        backbones::BackboneConfig,
        unet::{EncodedUNetConfig, FusionUNetConfig},
    },
    select_device,
    train::{Recipe, Run, RunConfig, train},
};
use serde_json::json;

mod common;
#[path = "common/weights.rs"]
mod weights;

use common::{Failure, say};

/// Trains a U-Net with two encoders on two pictures of the same nuclei.
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
    /// A backend that is built in, such as flex, cuda or vulkan [default: the best one, or BURN_DEVICE]
    #[arg(long)]
    device: Option<String>,
    /// What every random choice depends on
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Network {
    /// An encoder a picture.
    Fusion,
    /// One encoder for both.
    Stacked,
    /// One encoder, for the first picture.
    First,
}

impl Network {
    fn channels(self) -> usize {
        if self == Self::First { 1 } else { 2 }
    }

    fn config(self, encoder: BackboneConfig) -> ModelConfig {
        let unet = |channels| EncodedUNetConfig::new(encoder.clone().with_in_channels(channels), 1);
        match self {
            Self::Fusion => {
                ModelConfig::FusionUNet(FusionUNetConfig::new(unet(1), encoder.clone().with_in_channels(1)))
            }
            _ => ModelConfig::EncodedUNet(unet(self.channels())),
        }
    }
}

/// Crops an epoch.
const EPOCH: usize = 96;
/// Side of the crops.
const CROP: u32 = 128;

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let device = select_device(args.device.as_deref())?;
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample"));
    let [training, validation, test] =
        ["train", "val", "test"].map(|split| pictures(folder, split, args.network.channels()));
    let (training, validation, test) = (InMemoryDataset::new(training?), InMemoryDataset::new(validation?), test?);
    let normalize = Normalize::of_dataset(&training)?;
    let augment = Compose::new().then(RandomCrop::new(CROP, CROP)?).then(HorizontalFlip { p: 0.5 }).then(RandomTurn90);
    let encoder = BackboneConfig::by_name(&args.encoder).ok_or_else(|| {
        format!("--encoder: there is no {:?}; known are {}", args.encoder, BackboneConfig::NAMES.join(", "))
    })?;
    let card = ModelCard {
        model: args.network.config(encoder),
        classes: Classes::binary(),
        color: None,
        normalize: normalize.clone(),
    };
    let begin = args.weights.as_ref().map(|given| weights::file(&args.encoder, given)).transpose()?;
    let recipe = Recipe { seed: args.seed, epochs: args.epochs, learning_rate: 1e-3, ..Recipe::new(1, None) };
    let outcome = train(Run {
        folder: args.out.clone(),
        config: RunConfig { card: card.clone(), recipe, data: json!({ "crop": CROP }) },
        weights: begin,
        train: Loader::builder(Arc::new(training)).transform(augment.then(normalize.clone())).epoch_length(Some(EPOCH)),
        valid: Loader::builder(Arc::new(validation)).transform(normalize),
        device: device.clone(),
        resume: false,
    })?;

    let segmenter = Segmenter::new(outcome.model, card, &device)?;
    let mut matrix = ConfusionMatrix::new(2, None)?;
    for sample in &test {
        let result = segmenter.segment_values(&sample.image, &SegmentOptions::default())?;
        matrix.update(result.map().as_slice(), sample.target.as_slice())?;
    }
    say(json!({
        "network": format!("{:?}", args.network).to_lowercase(),
        "dice": matrix.dice(1),
        "iou": matrix.iou(1),
        "epochs": outcome.history.epochs().len(),
        "seconds": start.elapsed().as_secs_f64(),
    }))?;
    Ok(())
}

/// The pictures of a split, as the first `channels` of two.
fn pictures(folder: &Path, split: &str, channels: usize) -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::new();
    for stem in splits::read_list(folder.join(format!("{split}.txt")))? {
        let file = |part: &str| folder.join(format!("{part}/{stem}.png"));
        let image = read_image(file("images"), ColorMode::Gray, &Limits::default())?;
        let nuclei = read_labels(file("labels"), &MaskFormat::Instances, &Limits::default())?;
        let stains = [stain(&image, &nuclei, 0), stain(&image, &nuclei, 1)];
        let pixels = (0..nuclei.as_slice().len()).flat_map(|at| stains[..channels].iter().map(move |stain| stain[at]));
        let image = Image::new(image.width(), image.height(), channels, pixels.collect())?;
        let labels = nuclei.as_slice().iter().map(|nucleus| u32::from(*nucleus > 0)).collect();
        samples.push(Sample { name: stem, image, target: LabelMap::new(nuclei.width(), nuclei.height(), labels)? });
    }
    Ok(samples)
}

/// The picture in which the nuclei with an even or an odd number alone are seen; where the others are, there is background from
/// elsewhere.
fn stain(image: &Image, nuclei: &LabelMap, parity: u32) -> Vec<f32> {
    let pixels = || image.as_slice().iter().zip(nuclei.as_slice());
    let background: Vec<f32> = pixels().filter(|(_, nucleus)| **nucleus == 0).map(|(value, _)| *value).collect();
    let elsewhere = |at: usize| background.get(at * 7919 % background.len().max(1)).copied().unwrap_or(0.0);
    let seen = |nucleus: u32| nucleus == 0 || nucleus % 2 == parity;
    pixels().enumerate().map(|(at, (value, nucleus))| if seen(*nucleus) { *value } else { elsewhere(at) }).collect()
}
