//! Measures how far an attack brings a segmentation network or a detector down, by its budget.
//!
//! ```text
//! cargo run --example robustness -- --model runs/unet --data data/nuclei_sample --attack pgd --epsilons 0,1,2,4,8 --output out
//! ```
//!
//! It attacks the images of `test.txt`, or of `val.txt` where there is none; of a detector those of `--coco JSON`, which `--data` is the
//! folder of. It writes `robustness.csv` and `robustness.svg`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use burn::{
    data::dataset::{Dataset, DatasetError},
    tensor::Device,
};
use clap::Parser;
use segkiln::{
    Detector, Segmenter,
    data::{
        ColorMode, Image, MaskFormat, Sample,
        datasets::{CocoDetection, CocoOptions, FolderDataset, FolderOptions, InvalidBoxes},
        splits, write_whole,
    },
    explain::{
        Attack, AttackKind, Curve, DetectionSubject, ObjectAttack, PerturbationNorm, SegmentationSubject, robustness,
        robustness_of_objects,
    },
    models::detection::DetectionNetworkConfig,
    train::checkpoint::create_and_sweep,
};
use serde_json::json;

mod common;
#[path = "common/decoding.rs"]
mod decoding;

use common::{Failure, Machine, say};
use decoding::Decoding;

/// Measures a network against the budget of an attack.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Folder of a training run, or a .bpk file in one
    #[arg(long)]
    model: PathBuf,
    /// Folder of images and labels, as unet_train takes it
    #[arg(long)]
    data: PathBuf,
    /// Annotations of --data's images in COCO's format, for a detector
    #[arg(long)]
    coco: Option<PathBuf>,
    /// Attack: fgsm, pgd, segpgd or cospgd [default: segpgd]; of a detector fgsm, tog_untargeted (or pgd), tog_vanish, tog_fabricate or
    /// tog_mislabel [default: tog_untargeted]
    #[arg(long)]
    attack: Option<String>,
    /// Largest changes of a value, in 255ths; 0 is no attack
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,4,8", allow_negative_numbers = true)]
    epsilons: Vec<f64>,
    /// Steps of the attack
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Measure the budgets as the length of all changes (L2)
    #[arg(long)]
    l2: bool,
    /// Most images
    #[arg(long)]
    images: Option<usize>,
    /// Folder for the results
    #[arg(long, default_value = "runs/robustness")]
    output: PathBuf,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    machine: Machine,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let device = args.machine.device()?;
    create_and_sweep(&args.output)?;
    let curve = match &args.coco {
        Some(json) => of_objects(args, json, &device)?,
        None => of_pixels(args, &device)?,
    };
    let write = |name: &str, text: &str| {
        let path = args.output.join(name);
        write_whole(&path, text.as_bytes()).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    write("robustness.csv", &curve.csv())?;
    write("robustness.svg", &curve.svg()?)?;
    let mut points = Vec::new();
    for point in &curve.points {
        let mut line = json!({ "epsilon": point.epsilon });
        for (name, value) in &point.figures {
            line[name] = json!(value);
        }
        points.push(line);
    }
    say(json!({ "attack": curve.attack, "curve": points }))?;
    Ok(())
}

/// The attack that the flags describe, with a budget of 1.
fn attack(args: &Args, kind: AttackKind) -> Attack {
    let norm = if args.l2 { PerturbationNorm::L2 } else { PerturbationNorm::Linf };
    Attack { norm, seed: args.machine.seed, ..Attack::new(kind, 1.0) }.with_steps(args.steps)
}

fn unknown<T, const N: usize>(name: &str, known: [(&str, T); N]) -> String {
    format!("there is no attack {name:?} of such a network; the attacks are {}", known.map(|(name, _)| name).join(", "))
}

fn of_pixels(args: &Args, device: &Device) -> Result<Curve, Failure> {
    let name = args.attack.as_deref().unwrap_or("segpgd");
    let kind = AttackKind::by_name(name).ok_or_else(|| unknown(name, AttackKind::ALL))?;
    let segmenter = Segmenter::load(&args.model, device)?;
    let subject = SegmentationSubject::new(segmenter.model(), segmenter.card(), device)?;
    let lists = ["test.txt", "val.txt"].map(|list| args.data.join(list));
    let list = lists.iter().find(|list| list.is_file()).unwrap_or(&lists[1]);
    let classes = segmenter.classes();
    let color = segmenter.card().color.unwrap_or(ColorMode::Rgb);
    let mask = if classes.count() == 2 { MaskFormat::Binary } else { MaskFormat::default() };
    let (stems, decode) = (Some(splits::read_list(list)?), args.decode.options());
    let options = FolderOptions { stems, color, mask, decode, ..Default::default() };
    let dataset = FolderDataset::open(&args.data, classes, options)?;
    Ok(robustness(&subject, samples(args, &dataset)?, &attack(args, kind), &args.epsilons)?)
}

fn of_objects(args: &Args, json: &Path, device: &Device) -> Result<Curve, Failure> {
    let name = args.attack.as_deref().unwrap_or("tog_untargeted");
    let (kind, goal) = match (AttackKind::by_name(name), ObjectAttack::by_name(name)) {
        (Some(kind @ (AttackKind::Fgsm | AttackKind::Pgd)), _) => (kind, ObjectAttack::Untargeted),
        (_, Some(goal)) => (AttackKind::Pgd, goal),
        _ => return Err(unknown(name, ObjectAttack::ALL).into()),
    };
    let detector = Detector::load(&args.model, device)?;
    let card = detector.card();
    let categories = (!card.categories.is_empty()).then(|| card.categories.clone());
    let names = categories.as_ref().map(|_| card.classes.names()[1..].to_vec());
    let options = CocoOptions {
        categories,
        names,
        invalid_boxes: InvalidBoxes::Drop,
        masks: card.model.has_masks(),
        color: card.color,
        decode: args.decode.options(),
    };
    let dataset = CocoDetection::open(&args.data, json, options)?;
    let subject = DetectionSubject::new(detector.model(), card, device)?;
    Ok(robustness_of_objects(&subject, samples(args, &dataset)?, &attack(args, kind), goal, &args.epsilons)?)
}

/// The first images of a data set, and a word about each.
fn samples<T>(
    args: &Args,
    dataset: &dyn Dataset<Sample<T>>,
) -> Result<impl Iterator<Item = Result<(Image, T), DatasetError>>, Failure> {
    let count = dataset.len().min(args.images.unwrap_or(usize::MAX));
    if count == 0 {
        return Err(format!("{} has no image to attack", args.data.display()).into());
    }
    Ok((0..count).map(move |index| {
        eprintln!("image {} of {count}", index + 1);
        let sample = dataset.get(index)?;
        Ok((sample.image, sample.target))
    }))
}
