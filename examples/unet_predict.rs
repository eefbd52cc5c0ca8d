//! Segments images with what `unet_train` wrote.
//!
//! ```text
//! cargo run --example unet_predict -- --model runs/unet --input data/nuclei_sample/image.png --output out
//! ```
//!
//! For each image it writes `STEM.png`, the class of each pixel as a grey value, and `STEM_overlay.png`. An image of a folder
//! that cannot be read does not stop the others; the exit code is then 2.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use image::DynamicImage;
use segkiln::{
    PartialFailure, PredictError, SegmentOptions, Segmenter,
    data::{DenseCrf, read_dynamic, refuse_replacing, write_image, write_labels},
};
use serde_json::json;

mod common;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/images.rs"]
mod images;
#[path = "common/precision.rs"]
mod precision;

use common::{Failure, Machine, say};
use decoding::Decoding;
use precision::Numbers;

/// Segments images with a trained network.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Folder of a training run, or a .bpk file in one
    #[arg(long)]
    model: PathBuf,
    /// An image, or a folder of images
    #[arg(long)]
    input: PathBuf,
    /// Folder for the results
    #[arg(long)]
    output: PathBuf,
    /// Side of the tiles that large images are cut into [default: images of up to a million pixels whole, else 512]
    #[arg(long)]
    tile: Option<u32>,
    /// Share of a tile that neighbours have in common
    #[arg(long, default_value_t = 0.25)]
    overlap: f32,
    /// Average over the four mirror images
    #[arg(long)]
    tta: bool,
    /// Move the borders to the image's edges with a dense CRF
    #[arg(long)]
    crf: bool,
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
    let segmenter = Segmenter::load(&args.model, &device)?;
    let options = SegmentOptions {
        tile: args.tile,
        overlap: args.overlap,
        flips: args.tta,
        crf: args.crf.then(DenseCrf::default),
        probabilities: false,
        logits: false,
    };
    let images = inputs(&args.input)?;
    let segmenter = args.numbers.choose(segmenter, Segmenter::with_precision, |segmenter| {
        let readable = images.values().filter_map(|file| read_dynamic(file, args.decode.options()).ok());
        let first: Vec<DynamicImage> = readable.take(precision::IMAGES).collect();
        segmenter.with_fastest_precision(&first, &options, precision::MAX_LOSS)
    })?;
    let outputs = |stem: &str| ["", "_overlay"].map(|end| args.output.join(format!("{stem}{end}.png")));
    refuse_replacing(images.values(), images.keys().flat_map(|stem| outputs(stem)))?;
    std::fs::create_dir_all(&args.output)
        .map_err(|error| format!("cannot create {}: {error}", args.output.display()))?;
    let decode = args.decode.options();
    let mut failed = 0;
    for (stem, path) in &images {
        let segmented = read_dynamic(path, decode).map_err(PredictError::from).and_then(|image| {
            let result = segmenter.segment_with(&image, &options)?;
            Ok((result, image))
        });
        let (result, image) = match segmented {
            Ok(segmented) => segmented,
            // What is wrong with one of a folder is not with the others.
            Err(PredictError::Data(error)) if args.input.is_dir() => {
                eprintln!("error: {error}");
                failed += 1;
                continue;
            }
            Err(PredictError::Data(error)) => return Err(error.into()),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        };
        let [map, overlay] = outputs(stem);
        write_labels(map, result.map())?;
        write_image(overlay, &result.overlay(&image, 0.4)?.into())?;
        say(path.display())?;
    }
    let (seconds, output) = (start.elapsed().as_secs_f64(), args.output.display().to_string());
    let numbers = segmenter.precision().name();
    let mut line =
        json!({ "images": images.len() - failed, "output": output, "precision": numbers, "seconds": seconds });
    if failed > 0 {
        line["failed"] = failed.into();
    }
    say(line)?;
    match failed {
        0 => Ok(()),
        failed => Err(PartialFailure { failed, files: images.len() }.into()),
    }
}

/// The images by the name of their results, which must differ.
fn inputs(input: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut images: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in images::images(input)? {
        let stem = images::stem(&path);
        if let Some(other) = images.insert(stem.clone(), path.clone()) {
            let (one, two) = (other.display(), path.display());
            return Err(format!("{one} and {two} would both be written to {stem}.png; rename one").into());
        }
    }
    for stem in images.keys() {
        if let Some(other) = stem.strip_suffix("_overlay").and_then(|other| images.get(other)) {
            return Err(format!("the overlay of {} would overwrite {stem}.png; rename one", other.display()).into());
        }
    }
    Ok(images)
}
