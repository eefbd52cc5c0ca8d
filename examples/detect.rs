//! Finds objects with a torchvision detector's weights, or with what `rcnn_train` wrote.
//!
//! ```text
//! cargo run --example detect -- --arch maskrcnn_resnet50_fpn --weights maskrcnn.pth --image street.jpg --overlay found.png
//! cargo run --example detect -- --model runs/rcnn --image images/ --output found.json
//! ```
//!
//! The results are COCO's: for each object the image, the category, the box, the score and, from Mask R-CNN, the mask. An image
//! of a folder that cannot be read does not stop the others; the exit code is then 2. A TIFF of more than 2²⁶ pixels is read by
//! region, in tiles that overlap.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use image::DynamicImage;
use segkiln::{
    Detector, PartialFailure,
    data::{
        coco::{ImageId, write_results},
        read_dynamic, refuse_replacing, write_image,
    },
    models::detection::DetectionOptions,
    train::checkpoint::prepare_for,
};
use serde_json::json;

#[path = "common/class_names.rs"]
mod class_names;
mod common;
#[path = "common/decoding.rs"]
mod decoding;
#[path = "common/found.rs"]
mod found;
#[path = "common/images.rs"]
mod images;
#[path = "common/large.rs"]
mod large;
#[path = "common/precision.rs"]
mod precision;
#[path = "common/weights.rs"]
mod weights;

use class_names::ClassNames;
use common::{Failure, Machine, say};
use decoding::Decoding;
use found::{Found, file_of};
use large::Large;
use precision::Numbers;

/// Finds objects in images.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// torchvision's name of the network, such as maskrcnn_resnet50_fpn
    #[arg(long, required_unless_present = "model", conflicts_with = "model")]
    arch: Option<String>,
    /// Weights for --arch: torchvision's .pth or .safetensors, a .bpk, or COCO_V1, which torchvision has published
    #[arg(long, requires = "arch", default_value = "DEFAULT", hide_default_value = true)]
    weights: PathBuf,
    /// Folder of a training run, or a .bpk file in one
    #[arg(long)]
    model: Option<PathBuf>,
    /// Classes of --arch, with the background [default: 91]
    #[arg(long, requires = "arch")]
    num_classes: Option<usize>,
    #[command(flatten)]
    class_names: ClassNames,
    #[command(flatten)]
    numbers: Numbers,
    /// An image, or a folder of images
    #[arg(long)]
    image: PathBuf,
    /// Score that an object must exceed
    #[arg(long, default_value_t = 0.05)]
    score_threshold: f32,
    /// The shorter side that images are resized to [default: the network's]
    #[arg(long)]
    min_size: Option<usize>,
    /// Largest longer side [default: the network's, or --min-size if that is more]
    #[arg(long)]
    max_size: Option<usize>,
    /// File for the results, as COCO has them
    #[arg(long)]
    output: Option<PathBuf>,
    /// Picture with the objects drawn in; of a folder, the folder for the pictures
    #[arg(long)]
    overlay: Option<PathBuf>,
    /// File for the outlines and measures of the objects, as GeoJSON; of a folder of images, the folder for such files
    #[arg(long, value_name = "FILE")]
    geojson: Option<PathBuf>,
    /// Side of the tiles of TIFFs that are read by region [default: 768]
    #[arg(long)]
    tile: Option<u32>,
    #[command(flatten)]
    large: Large,
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
    let names = args.class_names.classes()?;
    let mut detector = match (&args.model, &args.arch) {
        (Some(model), _) => Detector::load(model, &device)?,
        (_, Some(arch)) => {
            let classes = args.num_classes.unwrap_or(91);
            let weights = weights::file(arch, &args.weights, Some(classes))?;
            Detector::by_name(arch, weights, classes, &device)?
        }
        _ => return Err("either --model or --arch must be given".into()),
    };
    if let Some(names) = names {
        detector = detector.with_classes(names)?;
    }
    let detector = detector.with_options(DetectionOptions {
        min_size: args.min_size,
        max_size: args.max_size,
        score_threshold: Some(args.score_threshold),
        max_detections: None,
    })?;
    let paths = images::images(&args.image)?;
    let detector = args.numbers.choose(detector, Detector::with_precision, |detector| {
        let readable = paths.iter().filter_map(|path| read_dynamic(path, args.decode.options()).ok());
        let first: Vec<DynamicImage> = readable.take(precision::IMAGES).collect();
        detector.with_fastest_precision(&first, precision::MAX_LOSS)
    })?;
    let many = args.image.is_dir();
    let picture = |path: &Path| file_of(args.overlay.as_ref(), many, path, "png");
    let geojson = |path: &Path| file_of(args.geojson.as_ref(), many, path, "geojson");
    let mut outputs = BTreeMap::new();
    for path in &paths {
        for target in [picture(path), geojson(path)].into_iter().flatten() {
            if let Some(other) = outputs.insert(target, path) {
                let (one, two) = (other.display(), path.display());
                return Err(format!("results of {one} and {two} would be one file; rename one").into());
            }
        }
    }
    let inputs = paths.iter().chain([&args.weights]).chain(args.large.areas());
    refuse_replacing(inputs, outputs.keys().chain(&args.output))?;
    prepare_for(outputs.keys().chain(&args.output))?;
    let mut results = Vec::new();
    let mut failed = 0;
    for path in &paths {
        let found = match Found::of(path, &detector, &args.large, args.tile, args.decode.options()) {
            Ok(found) => found,
            // What is wrong with one of a folder is not with the others.
            Err(error) if many && error.is_of_image() => {
                eprintln!("error: {}", images::named(path, error));
                failed += 1;
                continue;
            }
            Err(error) => return Err(images::named(path, error).into()),
        };
        say(format_args!("{}: {}", path.display(), found.summary(&detector)))?;
        match (picture(path), &found.image) {
            (Some(target), Some(image)) => {
                write_image(target, &detector.overlay(image, &found.detections)?.into())?;
            }
            (Some(_), None) => eprintln!("{}: too large to be drawn, or read by region alone", path.display()),
            (None, _) => {}
        }
        if let Some(target) = geojson(path) {
            found.write_geojson(&target, detector.classes().names())?;
        }
        let stem = images::stem(path);
        let id = stem.parse().map_or_else(|_| ImageId::Text(stem.clone()), ImageId::Number);
        results.extend(detector.coco_results(&id, &found.detections));
    }
    results.sort_by(|a, b| b.score.total_cmp(&a.score));
    if let Some(output) = &args.output {
        write_results(output, &results)?;
    }
    let (seconds, output) =
        (start.elapsed().as_secs_f64(), args.output.as_ref().map(|path| path.display().to_string()));
    let images = paths.len() - failed;
    let mut line = json!({ "images": images, "detections": results.len(), "output": output, "seconds": seconds });
    if failed > 0 {
        line["failed"] = failed.into();
    }
    say(line)?;
    match failed {
        0 => Ok(()),
        failed => Err(PartialFailure { failed, files: paths.len() }.into()),
    }
}
