//! Segments an image with a named network and weights of torchvision or segmentation_models_pytorch.
//!
//! ```text
//! cargo run --example segment -- --arch deeplabv3_resnet50 --weights deeplabv3.pth --image street.jpg --output classes.png
//! ```

use std::{path::PathBuf, process::ExitCode, time::Instant};

use burn::tensor::{Int, Tensor};
use clap::Parser;
use segkiln::{
    SegmentOptions, Segmenter,
    core::{LabelMap, PrecisionChoice},
    data::{ColorMode, Filter, Image, Preset, read_dynamic, refuse_replacing, resize_labels, write_labels},
    models::{ModelConfig, weights::save_safetensors},
    ops::{ResizeMode, resize},
};
use serde_json::{Map, json};

mod common;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/precision.rs"]
mod precision;
#[path = "common/weights.rs"]
mod weights;

use common::{Failure, Machine, create_parent, say};
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
    /// The image
    #[arg(long)]
    image: PathBuf,
    /// The shorter side that the image is resized to; 0 leaves it as it is
    #[arg(long, default_value_t = 520)]
    size: u32,
    /// File for the logits of the resized image: the tensor `out`, [1, classes, height, width]
    #[arg(long)]
    logits: Option<PathBuf>,
    /// Picture of the class of each pixel of the image, as a grey value
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    numbers: Numbers,
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
    let weights = weights::file(&args.arch, &args.weights, Some(args.num_classes))?;
    let mut segmenter = Segmenter::by_name(&args.arch, weights, args.num_classes, &device)?;
    let (width, height) = (image.width(), image.height());
    let size = if args.size == 0 { width.min(height) } else { args.size };
    let preset = Preset { resize: size, crop: None, filter: Filter::Bilinear };
    let seen = preset.apply(&Image::from_dynamic(&image, ColorMode::Rgb));
    let seen = seen.map_err(|error| format!("{error}; give another --size"))?;
    segmenter = match args.numbers.precision {
        Some(PrecisionChoice::Fixed(precision)) => segmenter.with_precision(precision)?,
        Some(PrecisionChoice::Auto) => {
            let (first, options) = (std::slice::from_ref(&seen), SegmentOptions::default());
            let (segmenter, trials) = segmenter.with_fastest_precision(first, &options, precision::MAX_LOSS)?;
            precision::tell(&trials)?;
            segmenter
        }
        None => segmenter,
    };
    let logits = segmenter.logits(seen)?;
    if let Some(path) = &args.logits {
        create_parent(path)?;
        let data = logits.clone().try_into_data().map_err(|error| error.to_string())?;
        save_safetensors(vec![("out".into(), data)], path)?;
    }
    let map = classes(logits, width, height)?;
    if let Some(path) = &args.output {
        create_parent(path)?;
        write_labels(path, &map)?;
    }
    let mut shares = Map::new();
    for (class, name) in segmenter.classes().names().iter().enumerate() {
        let pixels = map.as_slice().iter().filter(|label| **label as usize == class).count();
        if pixels > 0 {
            shares.insert(name.clone(), json!(pixels as f64 / map.as_slice().len() as f64));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let [output, logits] =
        [&args.output, &args.logits].map(|path| path.as_ref().map(|path| path.display().to_string()));
    say(json!({ "classes": shares, "output": output, "logits": logits, "seconds": seconds }))?;
    Ok(())
}

/// The most likely class of each pixel of an image of this size; of a single logit, whether it is positive.
fn classes(logits: Tensor<4>, width: u32, height: u32) -> Result<LabelMap, Failure> {
    /// Bytes of enlarged logits.
    const MOST: u64 = 1 << 30;
    let [_, channels, ..] = logits.dims();
    // Of a large photograph the classes are enlarged in place of the logits.
    let whole = u64::from(width) * u64::from(height) * 4 * channels as u64 <= MOST;
    let logits = if whole { resize(logits, [height as usize, width as usize], ResizeMode::default()) } else { logits };
    let [_, _, rows, columns] = logits.dims();
    let labels: Tensor<4, Int> = match channels {
        1 => logits.greater_elem(0.0).int(),
        _ => logits.argmax(1),
    };
    let labels = labels.try_into_data().map_err(|error| error.to_string())?;
    let map = LabelMap::new(columns as u32, rows as u32, labels.iter::<i64>().map(|label| label as u32).collect())?;
    Ok(resize_labels(&map, width, height)?)
}
