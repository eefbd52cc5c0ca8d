//! Segments images with what `unet_train` wrote.
//!
//! ```text
//! cargo run --example unet_predict -- --model runs/unet --input data/nuclei_sample/image.png --output out
//! ```
//!
//! For each image it writes `STEM.png`, the class of each pixel as a gray value, and `STEM_overlay.png`. A TIFF of more than 2²⁶
//! pixels is read by region and gives `STEM.tif`, tiled and with overviews; a run that was killed goes on where it ended.
//! `--instances` numbers the objects, and `--geojson` writes their outlines and measures. An image of a folder that cannot be read
//! does not stop the others; the exit code is then 2.
//!
//! A volume (`.nii`, `.nii.gz`, or a DICOM file or series) gives `STEM.nii.gz`, the labels on its own grid; by a network of images
//! slice by slice, by one of `volume_train` window by window.

use std::{collections::HashSet, path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;
use image::DynamicImage;
use segkiln::{
    PartialFailure, PredictError, SegmentOptions, Segmenter,
    data::{Cleaning, DenseCrf, read_dynamic, refuse_replacing, write_image, write_labels},
    train::checkpoint::prepare_for,
};
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/decoding.rs"]
mod decoding;
#[path = "../common/images.rs"]
mod images;
#[path = "../common/large.rs"]
mod large;
#[path = "../common/objects.rs"]
mod objects;
mod pictures;
#[path = "../common/precision.rs"]
mod precision;
#[path = "../common/volumes.rs"]
mod volumes;

use common::{Failure, Machine, say};
use decoding::Decoding;
use large::Large;
use objects::Objects;
use pictures::{Results, inputs, segment_large, segment_whole};
use precision::Numbers;
use volumes::Volumes;

/// Segments images with a trained network.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Folder of a training run, or a .bpk file in one
    #[arg(long)]
    model: PathBuf,
    /// An image, a volume, or a folder of images or of a DICOM series
    #[arg(long)]
    input: PathBuf,
    /// Folder for the results
    #[arg(long)]
    output: PathBuf,
    /// Side of the tiles that large images are cut into [default: images of up to a million pixels whole, else 512]
    #[arg(long)]
    tile: Option<u32>,
    /// Share of a tile that neighbors have in common
    #[arg(long, default_value_t = 0.25)]
    overlap: f32,
    /// Average over the four mirror images
    #[arg(long)]
    tta: bool,
    /// Move the borders to the image's edges with a dense CRF
    #[arg(long)]
    crf: bool,
    /// Steps that clean the maps, as JSON: {"steps": [[CLASS, "largest"], [CLASS, {"min_area": 64}]]}; unet_train chooses some
    #[arg(long, value_name = "FILE")]
    clean: Option<PathBuf>,
    #[command(flatten)]
    large: Large,
    #[command(flatten)]
    results: Results,
    #[command(flatten)]
    volumes: Volumes,
    #[command(flatten)]
    objects: Objects,
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
    let options = SegmentOptions {
        tile: args.tile,
        overlap: args.overlap,
        flips: args.tta,
        crf: args.crf.then(DenseCrf::default),
        probabilities: false,
        logits: false,
    };
    let cleaning = args.clean.as_ref().map(Cleaning::read).transpose()?;
    if Volumes::are(&args.input) {
        if cleaning.is_some() {
            return Err("--clean is for images, not for volumes".into());
        }
        if args.numbers.is_reduced() {
            return Err("--precision bf16 and int8 are for images, not for volumes".into());
        }
        return args.volumes.segment(&args.model, &device, &args.input, &args.output, &options, args.decode.options());
    }
    Volumes::refuse_pictures(&args.model)?;
    let segmenter = Segmenter::load(&args.model, &device)?;
    let pictures = inputs(&args.input)?;
    let segmenter = args.numbers.choose(segmenter, Segmenter::with_precision, |segmenter| {
        let readable = pictures.values().filter_map(|file| read_dynamic(file, args.decode.options()).ok());
        let first: Vec<DynamicImage> = readable.take(precision::IMAGES).collect();
        segmenter.with_fastest_precision(&first, &options, precision::MAX_LOSS)
    })?;
    let outputs = |stem: &str| [".png", "_overlay.png"].map(|end| args.output.join(format!("{stem}{end}")));
    let many = args.input.is_dir();
    let objects = |stem: &str| args.objects.files(stem, &args.output, many);
    // Asked once of each: it opens the file.
    let decode = args.decode.options();
    let is_whole = |path| args.results.is_read_whole(&args.large, path, decode);
    let whole: Vec<bool> = pictures.values().map(|path| is_whole(path)).collect();
    let written = pictures.keys().zip(&whole).flat_map(|(stem, whole)| {
        let own = if *whole { outputs(stem).into() } else { args.results.files(stem, &args.output) };
        own.into_iter().chain(objects(stem).paths())
    });
    let written: Vec<PathBuf> = written.collect();
    let mut known = HashSet::new();
    if let Some(twice) = written.iter().find(|path| !known.insert(*path)) {
        return Err(format!("{} would be written twice; rename an image", twice.display()).into());
    }
    refuse_replacing(pictures.values().chain(args.large.areas()).chain(&args.clean), &written)?;
    prepare_for(&written)?;
    let mut failed = 0;
    for ((stem, path), whole) in pictures.iter().zip(whole) {
        let [map, overlay] = outputs(stem);
        let source = if whole { Ok(None) } else { args.results.source(&args.large, path, decode) };
        let segmented = match source.map_err(PredictError::from) {
            Ok(Some(source)) => {
                let files = args.results.files(stem, &args.output);
                segment_large(args, &segmenter, &source, &files, cleaning.as_ref(), &objects(stem)).map(|()| None)
            }
            Ok(None) => segment_whole(args, &segmenter, path, (&options, cleaning.as_ref()), &objects(stem)).map(Some),
            Err(error) => Err(error),
        };
        let whole = match segmented {
            Ok(whole) => whole,
            // What is wrong with one of a folder is not with the others.
            Err(error) if many && error.is_of_image() => {
                eprintln!("error: {}", images::named(path, error));
                failed += 1;
                continue;
            }
            Err(error) => return Err(images::named(path, error).into()),
        };
        if let Some((result, image)) = whole {
            write_labels(map, result.map())?;
            write_image(overlay, &result.overlay(&image, 0.4)?.into())?;
        }
        say(path.display())?;
    }
    let (seconds, output) = (start.elapsed().as_secs_f64(), args.output.display().to_string());
    let numbers = segmenter.precision().name();
    let mut line =
        json!({ "images": pictures.len() - failed, "output": output, "precision": numbers, "seconds": seconds });
    if failed > 0 {
        line["failed"] = failed.into();
    }
    say(line)?;
    match failed {
        0 => Ok(()),
        failed => Err(PartialFailure { failed, files: pictures.len() }.into()),
    }
}
