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
    PartialFailure, PrecisionTrial, SegmentError, SegmentOptions, Segmenter,
    core::{Precision, PrecisionChoice},
    data::{DenseCrf, read_dynamic, refuse_replacing, write_image, write_labels},
    fastest_precision,
};
use serde_json::json;

mod common;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/images.rs"]
mod images;

use common::{Failure, Machine, say};
use decoding::Decoding;

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
    /// Numbers that the network multiplies: f32, bf16, int8, or auto, the fastest that
    /// gives 99.5 % of the first images' pixels their class of f32 [default: int8 if the model is quantized, else f32]
    #[arg(long)]
    precision: Option<PrecisionChoice>,
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
    let mut segmenter = Segmenter::load(&args.model, &device)?;
    let options = SegmentOptions {
        tile: args.tile,
        overlap: args.overlap,
        flips: args.tta,
        crf: args.crf.then(DenseCrf::default),
        probabilities: false,
    };
    let images = inputs(&args.input)?;
    segmenter = match args.precision {
        Some(PrecisionChoice::Fixed(precision)) => segmenter.with_precision(precision)?,
        Some(PrecisionChoice::Auto) => fastest(&segmenter, images.values(), &options, args)?,
        None => segmenter,
    };
    let outputs = |stem: &str| ["", "_overlay"].map(|end| args.output.join(format!("{stem}{end}.png")));
    refuse_replacing(images.values(), images.keys().flat_map(|stem| outputs(stem)))?;
    std::fs::create_dir_all(&args.output)
        .map_err(|error| format!("cannot create {}: {error}", args.output.display()))?;
    let decode = args.decode.options();
    let mut failed = 0;
    for (stem, path) in &images {
        let segmented = read_dynamic(path, decode).map_err(SegmentError::from).and_then(|image| {
            let result = segmenter.segment_with(&image, &options)?;
            Ok((result, image))
        });
        let (result, image) = match segmented {
            Ok(segmented) => segmented,
            // What is wrong with one of a folder is not with the others.
            Err(SegmentError::Data(error)) if args.input.is_dir() => {
                eprintln!("error: {error}");
                failed += 1;
                continue;
            }
            Err(SegmentError::Data(error)) => return Err(error.into()),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        };
        let [map, overlay] = outputs(stem);
        write_labels(map, result.map())?;
        write_image(overlay, &result.overlay(&image, 0.4)?.into())?;
        say(path.display())?;
    }
    let (seconds, output) = (start.elapsed().as_secs_f64(), args.output.display().to_string());
    let precision = segmenter.precision().name();
    let mut line =
        json!({ "images": images.len() - failed, "output": output, "precision": precision, "seconds": seconds });
    if failed > 0 {
        line["failed"] = failed.into();
    }
    say(line)?;
    match failed {
        0 => Ok(()),
        failed => Err(PartialFailure { failed, files: images.len() }.into()),
    }
}

/// The segmenter in the precision that is fastest on the first images.
fn fastest<'a>(
    segmenter: &Segmenter,
    files: impl Iterator<Item = &'a PathBuf>,
    options: &SegmentOptions,
    args: &Args,
) -> Result<Segmenter, Failure> {
    const IMAGES: usize = 3;
    const MAX_LOSS: f64 = 0.005;
    let readable = files.filter_map(|file| read_dynamic(file, args.decode.options()).ok());
    let images: Vec<DynamicImage> = readable.take(IMAGES).collect();
    let labels = |segmenter: &Segmenter, image: &DynamicImage| {
        segmenter.segment_with(image, options).map(|result| result.map().as_slice().to_vec())
    };
    let full = segmenter.clone().with_precision(Precision::F32)?;
    let expected = images.iter().map(|image| labels(&full, image)).collect::<Result<Vec<_>, _>>()?.concat();
    let agreement = |segmenter: &Segmenter| {
        let found = images.iter().map(|image| labels(segmenter, image)).collect::<Result<Vec<_>, _>>()?.concat();
        let same = found.iter().zip(&expected).filter(|(found, expected)| found == expected).count();
        Ok(same as f64 / expected.len().max(1) as f64)
    };
    let predict = |segmenter: &Segmenter, image: &DynamicImage| labels(segmenter, image).map(drop);
    let (segmenter, trials) = fastest_precision(segmenter, &images, MAX_LOSS, predict, agreement)?;
    for PrecisionTrial { precision, seconds, measure } in trials {
        say(format_args!(
            "{precision}: {:.1} ms an image, {:.2} % of pixels as in f32",
            1e3 * seconds,
            100.0 * measure
        ))?;
    }
    Ok(segmenter)
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
