//! Measures how far an attack brings a segmentation network down, by its budget.
//!
//! ```text
//! cargo run --example robustness -- --model runs/unet --data data/nuclei_sample --attack pgd --epsilons 0,1,2,4,8 --output out
//! ```
//!
//! It attacks the images of `test.txt`, or of `val.txt` where there is none, and writes `robustness.csv` and `robustness.svg`.

use std::{path::PathBuf, process::ExitCode};

use burn::data::dataset::{Dataset, DatasetError};
use clap::Parser;
use segkiln::{
    Segmenter,
    data::{
        ColorMode, MaskFormat,
        datasets::{FolderDataset, FolderOptions},
        splits, write_whole,
    },
    explain::{Attack, AttackKind, Norm, SegmentationSubject, robustness},
};
use serde_json::{Value, json};

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
    /// Attack: fgsm, pgd, segpgd or cospgd
    #[arg(long, default_value = "segpgd")]
    attack: String,
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
    let kind = AttackKind::by_name(&args.attack).ok_or_else(|| {
        let known = AttackKind::ALL.map(|(name, _)| name).join(", ");
        format!("there is no attack {:?}; the attacks are {known}", args.attack)
    })?;
    let segmenter = Segmenter::load(&args.model, &device)?;
    let subject = SegmentationSubject::new(segmenter.model(), segmenter.card(), &device)?;

    let lists = ["test.txt", "val.txt"].map(|list| args.data.join(list));
    let list = lists.iter().find(|list| list.is_file()).unwrap_or(&lists[1]);
    let classes = segmenter.classes();
    let color = segmenter.card().color.unwrap_or(ColorMode::Rgb);
    let mask = if classes.count() == 2 { MaskFormat::Binary } else { MaskFormat::default() };
    let (stems, decode) = (Some(splits::read_list(list)?), args.decode.options());
    let options = FolderOptions { stems, color, mask, decode, ..Default::default() };
    let dataset = FolderDataset::open(&args.data, classes, options)?;
    let count = dataset.iter().count().min(args.images.unwrap_or(usize::MAX));
    if count == 0 {
        return Err(format!("{} names no image", list.display()).into());
    }
    std::fs::create_dir_all(&args.output)
        .map_err(|error| format!("cannot create {}: {error}", args.output.display()))?;

    let norm = if args.l2 { Norm::L2 } else { Norm::Linf };
    let attack = Attack { norm, seed: args.machine.seed, ..Attack::new(kind, 1.0) }.with_steps(args.steps);
    let samples = (0..count).map(|index| {
        eprintln!("image {} of {count}", index + 1);
        let sample = dataset.get(index)?;
        Ok::<_, DatasetError>((sample.image, sample.target))
    });
    let curve = robustness(&subject, samples, &attack, &args.epsilons)?;
    let write = |name: &str, text: &str| {
        let path = args.output.join(name);
        write_whole(&path, text.as_bytes()).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    write("robustness.csv", &curve.csv())?;
    write("robustness.svg", &curve.svg()?)?;
    let points: Vec<Value> = curve
        .points
        .iter()
        .map(|point| {
            json!({ "epsilon": point.epsilon, "dice": point.dice, "iou": point.iou, "pixel_accuracy": point.pixel_accuracy })
        })
        .collect();
    say(json!({ "attack": curve.attack, "images": count, "curve": points }))?;
    Ok(())
}
