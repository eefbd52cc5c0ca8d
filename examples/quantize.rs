//! Quantizes what `unet_train` wrote: a network that computes in 8 bits, in a file of a quarter of the size.
//!
//! ```text
//! cargo run --example quantize -- --model runs/unet --calibrate data/nuclei_sample --output runs/unet_int8 --max-loss 0.003
//! ```
//!
//! The output is a folder as a training leaves it, which `unet_predict` and `Segmenter::load` take. Nothing is trained: images
//! show how large activations become, and layers that lose too much stay in bf16.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use burn::data::dataset::Dataset;
use clap::Parser;
use image::DynamicImage;
use segkiln::{
    PredictError, QuantizeOptions, SegmentOptions, Segmenter,
    core::LabelMap,
    data::{
        ColorMode, MaskFormat, Sample,
        datasets::{FolderDataset, FolderOptions},
        read_dynamic, refuse_replacing, write_whole,
    },
    metrics::ConfusionMatrix,
    models::{
        RangeMethod,
        config_file::{self, ConfigFile},
        weights::save_quantized_layers,
    },
    quantize,
};
use serde_json::json;

mod common;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/images.rs"]
mod images;

use common::{Failure, Machine, say};
use decoding::Decoding;

/// Quantizes a trained network to 8 bits.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Folder of a training run
    #[arg(long)]
    model: PathBuf,
    /// Images to find the ranges of activations on: a folder of images, or one as unet_train takes it
    #[arg(long)]
    calibrate: PathBuf,
    /// Folder for the quantized network
    #[arg(long)]
    output: PathBuf,
    /// Most that Dice may lose; layers that lose more are kept in bf16
    #[arg(long)]
    max_loss: Option<f64>,
    /// Folder as unet_train takes it, on whose val.txt Dice is measured [default: against what the network says in f32 of the
    /// calibration images]
    #[arg(long)]
    data: Option<PathBuf>,
    /// How ranges are chosen: minmax, percentile or mse
    #[arg(long, default_value_t)]
    method: RangeMethod,
    /// Most images to calibrate on
    #[arg(long, default_value_t = 32)]
    images: usize,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    machine: Machine,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    if args.max_loss.is_some_and(|loss| !(0.0..=1.0).contains(&loss)) {
        return Err("--max-loss must be from 0 to 1".into());
    }
    let device = args.machine.device()?;
    let segmenter = Segmenter::load(&args.model, &device)?;
    if segmenter.quantization().is_some() {
        return Err(format!("{} is quantized already; give the network that was trained", args.model.display()).into());
    }
    let [weights, config] = ["best.bpk", "config.json"].map(|name| args.output.join(name));
    let given = match args.model.is_dir() {
        true => args.model.join("best.bpk"),
        false => args.model.clone(),
    };
    let described = given.with_file_name("config.json");
    refuse_replacing([&given, &described], [&weights, &config])?;

    // A folder of training data has its images in one of its own.
    let folder = [args.calibrate.join("images"), args.calibrate.clone()].into_iter().find(|folder| folder.is_dir());
    let mut files = images::images(&folder.unwrap_or_else(|| args.calibrate.clone()))?;
    files.truncate(args.images.max(1));
    let pictures = files.iter().map(|file| read_dynamic(file, args.decode.options())).collect::<Result<Vec<_>, _>>()?;
    let truth = args.data.as_deref().map(|folder| samples(folder, &segmenter, args)).transpose()?;
    let own = match truth {
        Some(_) => Vec::new(),
        None => pictures.iter().map(|picture| labels(&segmenter, picture)).collect::<Result<Vec<_>, _>>()?,
    };
    let dice = |segmenter: &Segmenter| -> Result<f64, PredictError> {
        let mut matrix = ConfusionMatrix::new(segmenter.classes().count(), segmenter.classes().ignore_index())
            .expect("the classes of a card can be counted");
        let mut update = |found: &LabelMap, expected: &LabelMap| {
            matrix.update_maps(found, expected).expect("a map has the labels of its classes and the size of its mask");
        };
        match &truth {
            Some(samples) => {
                for Sample { image, target, .. } in samples {
                    let found = segmenter.segment_values(image, &options())?;
                    update(found.map(), target);
                }
            }
            None => {
                for (picture, expected) in pictures.iter().zip(&own) {
                    update(&labels(segmenter, picture)?, expected);
                }
            }
        }
        Ok(mean_dice(&matrix))
    };
    let settings = QuantizeOptions { method: args.method, max_loss: args.max_loss };
    let predict = |segmenter: &Segmenter, picture: &DynamicImage| labels(segmenter, picture).map(drop);
    let quantized = quantize(&segmenter, &pictures, settings, predict, dice)?;
    for layer in &quantized.kept {
        say(format_args!("kept in bf16: {layer}"))?;
    }

    let quantization = quantized.predictor.quantization().expect("it was quantized");
    let mut card = config_file::read::<ConfigFile<serde_json::Value>>(&described)?.content;
    card["precision"] = json!("int8");
    card["quantization"] = serde_json::to_value(quantization)?;
    let card = ConfigFile::new(card).to_text()?;
    std::fs::create_dir_all(&args.output)
        .map_err(|error| format!("cannot create {}: {error}", args.output.display()))?;
    // Without its ranges the file is a network all the same; so they come last.
    save_quantized_layers(segmenter.model(), quantization, &weights)?;
    write_whole(&config, card.as_bytes()).map_err(|error| format!("cannot write {}: {error}", config.display()))?;

    // What is measured is what was written.
    let written = Segmenter::load(&args.output, &device)?;
    let after = dice(&written)?;
    let size = |file: &Path| std::fs::metadata(file).map(|meta| meta.len());
    say(json!({
        "bytes_before": size(&given)?,
        "bytes_after": size(&weights)?,
        "dice_before": quantized.before,
        "dice_after": after,
        "ms_before": milliseconds(&segmenter, &pictures[0])?,
        "ms_after": milliseconds(&written, &pictures[0])?,
        "kept_in_higher_precision": quantized.kept,
    }))?;
    Ok(())
}

fn options() -> SegmentOptions {
    SegmentOptions { probabilities: false, ..Default::default() }
}

fn labels(segmenter: &Segmenter, picture: &DynamicImage) -> Result<LabelMap, PredictError> {
    Ok(segmenter.segment_with(picture, &options())?.map().clone())
}

/// The validation split of a folder.
fn samples(folder: &Path, segmenter: &Segmenter, args: &Args) -> Result<Vec<Sample>, Failure> {
    let classes = segmenter.classes();
    let color = segmenter.card().color.unwrap_or(ColorMode::Rgb);
    let mask = if classes.count() == 2 { MaskFormat::Binary } else { MaskFormat::default() };
    let decode = args.decode.options();
    let options = FolderOptions { color, mask, decode, ..Default::default() };
    let dataset = FolderDataset::open_split(folder, "val", classes, options)?;
    Ok(dataset.iter().collect::<Result<_, _>>()?)
}

/// The mean of the classes that are there but for the first, the background.
fn mean_dice(matrix: &ConfusionMatrix) -> f64 {
    let found: Vec<f64> = (1..matrix.classes()).filter_map(|class| matrix.dice(class)).collect();
    found.iter().sum::<f64>() / found.len().max(1) as f64
}

/// The median of five runs.
fn milliseconds(segmenter: &Segmenter, picture: &DynamicImage) -> Result<f64, PredictError> {
    labels(segmenter, picture)?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        labels(segmenter, picture)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[2])
}
