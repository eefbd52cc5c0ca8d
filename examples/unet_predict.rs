//! Segments images with what `unet_train` wrote.
//!
//! ```text
//! cargo run --example unet_predict -- --model runs/unet --input data/nuclei_sample/image.png --output out
//! ```
//!
//! For each image it writes `STEM.png`, the class of each pixel as a gray value, and `STEM_overlay.png`. A TIFF of more than 2²⁶
//! pixels is read by region and gives `STEM.tif`, tiled and with overviews; a run that was killed goes on where it ended. An
//! image of a folder that cannot be read does not stop the others; the exit code is then 2.
//!
//! A volume (`.nii`, `.nii.gz`, or a DICOM file or series) gives `STEM.nii.gz`, the labels on its own grid.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use image::DynamicImage;
use segkiln::{
    PartialFailure, PredictError, Progress, Seams, SegmentOptions, Segmentation, Segmenter,
    data::{
        DecodeOptions, DenseCrf, read_dynamic, refuse_replacing,
        regions::{RegionSource, TiffSource},
        write_image, write_labels,
    },
};
use serde_json::json;

mod common;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/images.rs"]
mod images;
#[path = "common/large.rs"]
mod large;
#[path = "common/precision.rs"]
mod precision;
#[path = "common/volumes.rs"]
mod volumes;

use common::{Failure, Machine, say};
use decoding::Decoding;
use large::Large;
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
    #[command(flatten)]
    large: Large,
    #[command(flatten)]
    volumes: Volumes,
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
    if Volumes::are(&args.input) {
        return args.volumes.segment(&segmenter, &args.input, &args.output, &options, args.decode.options());
    }
    let images = inputs(&args.input)?;
    let segmenter = args.numbers.choose(segmenter, Segmenter::with_precision, |segmenter| {
        let readable = images.values().filter_map(|file| read_dynamic(file, args.decode.options()).ok());
        let first: Vec<DynamicImage> = readable.take(precision::IMAGES).collect();
        segmenter.with_fastest_precision(&first, &options, precision::MAX_LOSS)
    })?;
    let outputs = |stem: &str| [".png", "_overlay.png", ".tif"].map(|end| args.output.join(format!("{stem}{end}")));
    let written = images.iter().flat_map(|(stem, path)| {
        let [map, overlay, tiff] = outputs(stem);
        match args.large.source(path, args.decode.options()) {
            Ok(Some(_)) => vec![tiff],
            _ => vec![map, overlay],
        }
    });
    refuse_replacing(images.values(), written)?;
    std::fs::create_dir_all(&args.output)
        .map_err(|error| format!("cannot create {}: {error}", args.output.display()))?;
    let decode = args.decode.options();
    let mut failed = 0;
    for (stem, path) in &images {
        let [map, overlay, tiff] = outputs(stem);
        let segmented = match args.large.source(path, decode).map_err(PredictError::from) {
            Ok(Some(source)) => segment_large(args, &segmenter, &source, &tiff).map(|()| None),
            Ok(None) => segment_whole(&segmenter, path, &options, decode).map(Some),
            Err(error) => Err(error),
        };
        let whole = match segmented {
            Ok(whole) => whole,
            // What is wrong with one of a folder is not with the others.
            Err(PredictError::Data(error)) if args.input.is_dir() => {
                eprintln!("error: {error}");
                failed += 1;
                continue;
            }
            Err(PredictError::Data(error)) => return Err(error.into()),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
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

fn segment_whole(
    segmenter: &Segmenter,
    path: &Path,
    options: &SegmentOptions,
    decode: DecodeOptions,
) -> Result<(Segmentation, DynamicImage), PredictError> {
    let image = read_dynamic(path, decode)?;
    Ok((segmenter.segment_with(&image, options)?, image))
}

fn segment_large(args: &Args, segmenter: &Segmenter, source: &TiffSource, output: &Path) -> Result<(), PredictError> {
    let options = args.large.options(args.tile, args.overlap, args.tta);
    match segmenter.seams(source, &options)? {
        Seams::Margin(margin) => eprintln!("tiles of {} pixels with margins of {margin}: no seams", options.tile),
        Seams::Blended => eprintln!("tiles of {} pixels, blended: outputs depend on more than a margin", options.tile),
    }
    let sink = segmenter.map_sink(source, output, &options, Large::identity(&args.model, source.path()))?;
    if sink.rows_written() > 0 {
        eprintln!("going on after row {}", sink.rows_written());
    }
    let mut said = Instant::now();
    segmenter.segment_large(source, &options, sink, |Progress { done, tiles, left }| {
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            eprintln!("tile {done} of {tiles}, {} s left", left.as_secs());
        }
    })?;
    Ok(())
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
