//! Measures what choosing the images to annotate gains: in each round a U-Net learns from the labels there are, and a criterion
//! chooses the next images of those whose labels were hidden.
//!
//! ```text
//! cargo run --example active_learning -- --data DIR --criterion random,entropy,bald,core-set
//! ```
//!
//! DIR is as for `unet_train`. Every criterion begins with the same images, and every network learns for the same number of steps.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use burn::data::dataset::{Dataset, transform::SelectionDataset};
use clap::{Parser, ValueEnum};
use segkiln::{
    Segmenter,
    core::Classes,
    data::{
        Loader, Sample, TransformRng,
        datasets::{Cached, FolderDataset},
        transforms::{Compose, HorizontalFlip, RandomCrop, RandomTurn90},
    },
    explain::{
        ExplanationTarget, Pixels, Question, SegmentationSubject,
        uncertainty::{Criterion, core_set, features, mirrored, ranked},
    },
    models::{ModelCard, ModelConfig, unet::UNetConfig},
    train::{Run, SegmentationTask, TrainingOptions, checkpoint::write_text, train},
};
use serde_json::json;

mod common;
#[path = "common/segmentation_data.rs"]
#[allow(dead_code, reason = "unet_train asks for more")]
mod data;
#[path = "common/decoding.rs"]
mod decoding;

use common::{Failure, Machine, say};
use data::{Data, Sources};
use decoding::Decoding;

/// Compares criteria of active learning.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    #[command(flatten)]
    sources: Sources,
    /// Criteria by which images are chosen
    #[arg(long, value_enum, value_delimiter = ',', default_value = "random,entropy,bald,core-set")]
    criterion: Vec<Choice>,
    /// Labeled images to begin with
    #[arg(long, default_value_t = 8)]
    begin: usize,
    /// Images that a round adds
    #[arg(long, default_value_t = 8)]
    add: usize,
    /// Rounds, the first of which has the images to begin with
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Channels of the U-Net at the image's size
    #[arg(long, default_value_t = 16)]
    base: usize,
    /// Epochs of each network, of 96 crops
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Side of the crops
    #[arg(long, default_value_t = 128)]
    crop: u32,
    /// Folder for the runs, and for `active_learning.csv`
    #[arg(long, default_value = "runs/active_learning")]
    out: PathBuf,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Random,
    Entropy,
    Bald,
    CoreSet,
}

/// Crops of an epoch, whatever the number of labels.
const EPOCH: usize = 96;
/// Layer whose means describe an image for the core set.
const LAYER: &str = "encoder.bottleneck";

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let data = args.sources.open(None, args.decode.options())?;
    let all = data.train.len();
    let most = args.rounds.saturating_sub(1).saturating_mul(args.add).saturating_add(args.begin);
    if [args.begin, args.add, args.rounds].contains(&0) || most > all {
        return Err(
            format!("--begin, --add and --rounds ask for more than the {all} images there are, or for none").into()
        );
    }
    let mut order: Vec<usize> = (0..all).collect();
    TransformRng::new(args.machine.seed, 0, 0).shuffle(&mut order);
    let (mut table, mut found) = (String::from("criterion,labels,dice\n"), Vec::new());
    let mut first = None;
    for criterion in &args.criterion {
        let mut labeled = order[..args.begin].to_vec();
        for round in 0..args.rounds {
            // What all begin with is learned once.
            let known = first.clone().filter(|_| round == 0);
            let (segmenter, dice) = match known {
                Some(known) => known,
                None => learn(args, &data, &labeled, &format!("{criterion:?}_{round}").to_lowercase())?,
            };
            first.get_or_insert_with(|| (segmenter.clone(), dice));
            let name = criterion.to_possible_value().expect("none is skipped").get_name().to_owned();
            say(format_args!("{name}, {} labels: Dice {dice:.4}", labeled.len()))?;
            table += &format!("{name},{},{dice:.5}\n", labeled.len());
            found.push(json!({ "criterion": name, "labels": labeled.len(), "dice": dice }));
            if round + 1 < args.rounds {
                let pool: Vec<usize> = order.iter().copied().filter(|index| !labeled.contains(index)).collect();
                let chosen = choose(*criterion, &segmenter, &data, [&pool, &labeled], args)?;
                labeled.extend(chosen.into_iter().map(|index| pool[index]));
            }
        }
    }
    let path = args.out.join("active_learning.csv");
    write_text(&path, &table)?;
    say(json!({ "rounds": found, "images": all, "seconds": start.elapsed().as_secs_f64() }))?;
    Ok(())
}

/// A network that learned from the labels of these images, and its Dice on the validation images.
fn learn(args: &Args, data: &Data, labeled: &[usize], name: &str) -> Result<(Segmenter, f64), Failure> {
    let device = args.machine.device()?;
    let card = ModelCard {
        model: ModelConfig::UNet(UNetConfig::new(data.color.channels(), 1).with_base(args.base)),
        classes: Classes::binary(),
        color: Some(data.color),
        normalize: data.normalize.clone(),
    };
    let augment = Compose::new()
        .then(RandomCrop::new(args.crop, args.crop)?)
        .then(HorizontalFlip { p: 0.5 })
        .then(RandomTurn90)
        .then(data.normalize.clone());
    let labels: SelectionDataset<Cached<FolderDataset>, Sample> =
        SelectionDataset::from_indices_checked(data.train.clone(), labeled.to_vec());
    let outcome = train(Run {
        folder: args.out.join(name),
        task: SegmentationTask::new(card.clone()),
        options: TrainingOptions { seed: args.machine.seed, epochs: args.epochs, ..TrainingOptions::default() },
        data: json!({ "labeled": labeled }),
        weights: None,
        train: Loader::builder(Arc::new(labels)).transform(augment).epoch_length(Some(EPOCH)),
        valid: Loader::builder(data.valid.clone()).transform(data.normalize.clone()).batch_size(1),
        device: device.clone(),
        resume: false,
    })?;
    let segmenter = Segmenter::new(outcome.model, card, &device)?;
    let samples = (0..data.valid.len()).map(|index| data.valid.get(index).map_err(Failure::from));
    let matrix = segmenter.segment_split(samples, |_, _, _| Ok::<_, Failure>(()))?;
    Ok((segmenter, matrix.dice(1).unwrap_or(0.0)))
}

/// Indices in the pool of the images to label next.
fn choose(
    choice: Choice,
    segmenter: &Segmenter,
    data: &Data,
    [pool, labeled]: [&[usize]; 2],
    args: &Args,
) -> Result<Vec<usize>, Failure> {
    let subject = SegmentationSubject::new(segmenter.model(), segmenter.card(), &args.machine.device()?)?;
    let image = |index: usize| data.train.get(index).map(|sample| sample.image);
    let by = |criterion| -> Result<Vec<usize>, Failure> {
        let images: Vec<_> = pool.iter().map(|index| image(*index)).collect::<Result<_, _>>()?;
        let ranked = ranked(pool.len(), criterion, |index| mirrored(&subject, &images[index]))?;
        Ok(ranked.into_iter().map(|(index, _)| index).take(args.add).collect())
    };
    match choice {
        // The pool is in random order.
        Choice::Random => Ok((0..args.add).collect()),
        Choice::Entropy => by(Criterion::Entropy),
        Choice::Bald => by(Criterion::Bald),
        Choice::CoreSet => {
            let describe = |index: &usize| -> Result<Vec<f32>, Failure> {
                let target = ExplanationTarget::class(1, Pixels::Image);
                Ok(features(&Question::new(&subject, &image(*index)?, &target)?.with_layers(&[LAYER])?)?)
            };
            let described = |indices: &[usize]| indices.iter().map(describe).collect::<Result<Vec<_>, _>>();
            Ok(core_set(&described(pool)?, &described(labeled)?, args.add)?)
        }
    }
}
