//! Segments an image with a named network and weights of torchvision or segmentation_models_pytorch.
//!
//! ```text
//! cargo run --example segment -- --arch deeplabv3_resnet50 --weights deeplabv3.pth --image street.jpg --output classes.png
//! ```

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;
use segkiln::{
    PredictError, SegmentOptions, Segmenter,
    data::{DataError, Filter, Preset, read_dynamic, refuse_replacing, write_labels},
    models::{ModelConfig, weights::save_safetensors},
    train::checkpoint::prepare_for,
};
use serde_json::{Map, json};

#[path = "common/class_names.rs"]
mod class_names;
mod common;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/precision.rs"]
mod precision;
#[path = "common/weights.rs"]
mod weights;

use class_names::ClassNames;
use common::{Failure, Machine, say};
use decoding::Decoding;
use precision::Numbers;

/// Segments an image with a named network.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Decoder and backbone, such as deeplabv3_resnet50, lraspp_mobilenet_v3_large or unet_resnet34
    #[arg(long)]
    arch: String,
    /// Its weights: .pth or .safetensors of torchvision or segmentation_models_pytorch, a .bpk, or a name of torchvision's
    #[arg(long, default_value = "DEFAULT")]
    weights: PathBuf,
    /// Channels of its logits
    #[arg(long, default_value_t = 21)]
    num_classes: usize,
    #[command(flatten)]
    class_names: ClassNames,
    #[command(flatten)]
    numbers: Numbers,
    /// The image
    #[arg(long)]
    image: PathBuf,
    /// The shorter side that the image is resized to; 0 leaves it as it is
    #[arg(long, default_value_t = 520)]
    size: u32,
    /// File for the logits of the resized image: the tensor `out`, [1, classes, height, width]
    #[arg(long)]
    logits: Option<PathBuf>,
    /// Picture of the class of each pixel of the image, as a gray value
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    machine: Machine,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let device = args.machine.device()?;
    ModelConfig::by_name(&args.arch, args.num_classes)?;
    refuse_replacing([&args.image, &args.weights], args.output.iter().chain(&args.logits))?;
    let image = read_dynamic(&args.image, args.decode.options())?;
    let names = args.class_names.classes()?;
    let weights = weights::file(&args.arch, &args.weights, Some(args.num_classes))?;
    let preset = Preset { resize: (args.size > 0).then_some(args.size), crop: None, filter: Filter::Bilinear };
    let mut segmenter =
        Segmenter::by_name(&args.arch, weights, args.num_classes, &device)?.with_preset(Some(preset))?;
    if let Some(names) = names {
        segmenter = segmenter.with_classes(names)?;
    }
    let options = SegmentOptions { probabilities: false, logits: args.logits.is_some(), ..SegmentOptions::default() };
    let first = std::slice::from_ref(&image);
    let segmenter = args.numbers.choose(segmenter, Segmenter::with_precision, |segmenter| {
        segmenter.with_fastest_precision(first, &options, precision::MAX_LOSS)
    })?;
    let result = segmenter.segment_with(&image, &options).map_err(|error| match error {
        PredictError::Data(error @ DataError::Option { option: "resize", .. }) => {
            format!("{error}; give another --size").into()
        }
        error => Failure::from(error),
    })?;
    prepare_for(args.output.iter().chain(&args.logits))?;
    if let (Some(path), Some(logits)) = (&args.logits, result.logits()) {
        save_safetensors(vec![("out".into(), logits.clone())], path)?;
    }
    if let Some(path) = &args.output {
        write_labels(path, result.map())?;
    }
    let shares = segmenter.classes().names().iter().zip(result.shares()).filter(|(_, share)| *share > 0.0);
    let shares: Map<_, _> = shares.map(|(name, share)| (name.clone(), json!(share))).collect();
    let seconds = start.elapsed().as_secs_f64();
    let [output, logits] =
        [&args.output, &args.logits].map(|path| path.as_ref().map(|path| path.display().to_string()));
    say(json!({ "classes": shares, "output": output, "logits": logits, "seconds": seconds }))?;
    Ok(())
}
