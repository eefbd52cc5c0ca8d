//! Quantizes what `unet_train` or `rcnn_train` wrote: a network that computes in 8 bits, in a file of a quarter of the size.
//!
//! ```text
//! cargo run --example quantize -- --model runs/unet --calibrate data/nuclei_sample --output runs/unet_int8 --max-loss 0.003
//! ```
//!
//! The output is a folder as a training leaves it, which the programs, `Segmenter::load` and `Detector::load` take. Nothing is
//! trained: images show how large activations become, and layers that lose too much stay in bf16.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use burn::tensor::Device;
use clap::Parser;
use image::DynamicImage;
use segkiln::{
    Detector, PredictError, QuantizeOptions, Segmenter,
    data::{read_dynamic, refuse_replacing, write_whole},
    models::{
        RangeMethod,
        config_file::{self, ConfigFile},
        weights::save_quantized_layers,
    },
    quantize,
    train::checkpoint::create_and_sweep,
};
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/decoding.rs"]
mod decoding;
#[path = "../common/images.rs"]
mod images;
mod subject;

use common::{Failure, Machine, say};
use decoding::Decoding;
use subject::Subject;

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
    /// Most that Dice, or a detector's AP, may lose; layers that lose more are kept in bf16
    #[arg(long)]
    max_loss: Option<f64>,
    /// Folder as unet_train takes it, on whose val.txt Dice is measured, or with --coco a detector's images [default: against
    /// what the network says in f32 of the calibration images]
    #[arg(long)]
    data: Option<PathBuf>,
    /// COCO's annotations of the images in --data, on which a detector's AP (of boxes) is measured
    #[arg(long, value_name = "JSON", requires = "data")]
    coco: Option<PathBuf>,
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
    match Segmenter::load(&args.model, &device) {
        // The config is a detector's, or damaged, which the detector's error says.
        Err(PredictError::Config { .. }) => write_quantized(args, &Detector::load(&args.model, &device)?, &device),
        segmenter => write_quantized(args, &segmenter?, &device),
    }
}

fn write_quantized<S: Subject>(args: &Args, trained: &S, device: &Device) -> Result<(), Failure> {
    if trained.computation().quantization().is_some() {
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
    let samples = match &args.data {
        Some(folder) => trained.samples(folder, args.coco.as_deref(), args.decode.options())?,
        None => trained.own_samples(&pictures)?,
    };
    let settings = QuantizeOptions { method: args.method, max_loss: args.max_loss };
    let quantized = quantize(trained, &pictures, settings, S::predict, |subject: &S| subject.measure(&samples))?;
    // COCO's average precision is -1 where there is no object.
    if args.max_loss.is_some() && quantized.before < 0.0 {
        return Err(
            "--max-loss needs objects to measure, and there are none in these images; give others, or --data".into()
        );
    }
    for layer in &quantized.kept {
        say(format_args!("kept in bf16: {layer}"))?;
    }

    let quantization = quantized.predictor.computation().quantization().expect("it was quantized");
    let mut card = config_file::read::<ConfigFile<serde_json::Value>>(&described)?.content;
    card["precision"] = json!("int8");
    card["quantization"] = serde_json::to_value(quantization)?;
    let card = ConfigFile::new(card).to_text()?;
    create_and_sweep(&args.output)?;
    // Without its ranges the file is a network all the same; so they come last.
    save_quantized_layers(trained.network(), quantization, &weights)?;
    write_whole(&config, card.as_bytes()).map_err(|error| format!("cannot write {}: {error}", config.display()))?;

    // What is measured is what was written.
    let written = S::open(&args.output, device)?;
    let size = |file: &Path| std::fs::metadata(file).map(|meta| meta.len());
    let mut line = json!({
        "bytes_before": size(&given)?,
        "bytes_after": size(&weights)?,
        "ms_before": milliseconds(trained, &pictures[0])?,
        "ms_after": milliseconds(&written, &pictures[0])?,
        "kept_in_higher_precision": quantized.kept,
    });
    line[format!("{}_before", S::MEASURE)] = quantized.before.into();
    line[format!("{}_after", S::MEASURE)] = written.measure(&samples)?.into();
    Ok(say(line)?)
}

/// The median of five runs.
fn milliseconds<S: Subject>(subject: &S, picture: &DynamicImage) -> Result<f64, PredictError> {
    subject.predict(picture)?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        subject.predict(picture)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[2])
}
