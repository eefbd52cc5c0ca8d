//! Trains a 3D U-Net on a folder of NIfTI cases, and measures it case by case in millimeters.
//!
//! ```text
//! cargo run --example volume_train -- --data Task09_Spleen --out runs/spleen
//! cargo run --example unet_predict -- --model runs/spleen --input ct.nii.gz --output out
//! ```
//!
//! The folder has `imagesTr`, `labelsTr` and `dataset.json`, as nnU-Net and the Medical Segmentation Decathlon have them, or `images`
//! and `labels`. Volumes are turned to RAS, resampled to the median spacing and normalized: CT by the percentiles of the
//! foreground, others to a mean of 0 and a deviation of 1. One fold of the cases is for validation; their labels are written to
//! `validation`, their figures to `cases.csv` and `cases_summary.csv`. All cases are held in memory.

use std::{path::PathBuf, process::ExitCode, str::FromStr, sync::Arc, time::Instant};

use clap::Parser;
use segkiln::{
    DataRecord, Segmenter, VolumeOptions,
    data::{
        Loader, Normalize,
        splits::k_fold,
        volumes::{Case, CaseFolder, PatchMotion, PatchOptions, PatchTransform, PatchesDataset, write_nifti_labels},
    },
    metrics::CaseTable,
    models::{
        ModelCard,
        layers::NormConfig,
        volumes::{StackedUNet3d, StackedUNet3dConfig, UNet3dConfig},
    },
    train::{Run, SegmentationTask, TrainingOptions, checkpoint, train},
};
use serde_json::json;

mod common;
#[path = "common/decoding.rs"]
mod decoding;

use common::{Failure, Machine, say};
use decoding::Decoding;

/// Trains a 3D U-Net to tell the classes of volumes.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Folder with imagesTr/, labelsTr/ and dataset.json, or with images/ and labels/
    #[arg(long)]
    data: PathBuf,
    /// Passes over the training cases
    #[arg(long, default_value_t = 100)]
    epochs: usize,
    /// Patches a step
    #[arg(long, default_value_t = 2)]
    batch_size: usize,
    /// Patches of each case in an epoch
    #[arg(long, default_value_t = 16)]
    per_case: usize,
    /// Depth, height and width of the patches, in voxels after resampling
    #[arg(long, value_parser = three::<usize>, default_value = "32,96,96")]
    patch: [usize; 3],
    /// Depth, height and width in millimeters that voxels are resampled to [default: the median of the training cases]
    #[arg(long, value_parser = three::<f64>)]
    spacing: Option<[f64; 3]>,
    /// The images are CT, though no dataset.json says so
    #[arg(long)]
    ct: bool,
    /// Parts that the cases are split into, with alike shares of foreground
    #[arg(long, default_value_t = 5)]
    folds: usize,
    /// Part that is for validation, from 0
    #[arg(long, default_value_t = 0)]
    fold: usize,
    /// Largest learning rate of the one-cycle schedule
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    /// Channels of the first level; they double at each further one
    #[arg(long, default_value_t = 16)]
    base: usize,
    /// Number of times that depth, height and width are halved
    #[arg(long, default_value_t = 3)]
    depth: usize,
    /// Tolerance of the surface Dice in millimeters
    #[arg(long, default_value_t = 2.0)]
    tolerance: f64,
    /// Folder for the run's files
    #[arg(long, default_value = "runs/volumes")]
    out: PathBuf,
    /// Go on where the last run with the same settings in the same folder ended
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    machine: Machine,
}

/// Reads depth, height and width.
fn three<T: FromStr>(text: &str) -> Result<[T; 3], &'static str> {
    let numbers: Option<Vec<T>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or("must be depth,height,width")
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let (device, decode, seed, patch) = (args.machine.device()?, args.decode.options(), args.machine.seed, args.patch);
    let folder = CaseFolder::open(&args.data, &decode.limits)?;
    let (classes, ignore_index) = (folder.classes().clone(), folder.classes().ignore_index());
    // A tolerance out of range is refused before the training, not after it.
    let table = CaseTable::new((1..classes.count() as u32).collect(), args.tolerance)?;
    let turned = VolumeOptions { canonical: true, ..VolumeOptions::default() };
    let load = |index| turned.prepare_case(&folder.load(index, &decode.limits)?.0);
    let cases = (0..folder.len()).map(load).collect::<Result<Vec<Case>, _>>()?;
    let foreground: Vec<f64> = cases.iter().map(|case| case.labels.foreground(ignore_index)).collect();
    let folds = k_fold(&foreground, args.folds, seed)?;
    let fold = folds.get(args.fold).ok_or_else(|| format!("--fold must be less than {}", folds.len()))?;
    let training: Vec<&Case> = fold.train.iter().map(|index| &cases[*index]).collect();
    let mut volume = VolumeOptions::planned(&training, folder.is_ct() || args.ct, ignore_index)?;
    volume.patch = Some(patch);
    volume.spacing = args.spacing.or(volume.spacing);
    let prepare = |case: Case| volume.prepare_case(&case).map(Arc::new);
    let cases = cases.into_iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
    let patches = |part: &[usize]| {
        let part = part.iter().map(|index| cases[*index].clone()).collect();
        let options = PatchOptions { patch, per_case: args.per_case, foreground: 1.0 / 3.0, ignore_index, seed };
        PatchesDataset::new(part, &classes, options)
    };
    let training = patches(&fold.train)?.with_motion(PatchMotion::nnunet(patch))?;
    let (validation, channels) = (patches(&fold.val)?, cases[0].image.channels());
    let unet = UNet3dConfig::new(channels, if classes.count() == 2 { 1 } else { classes.count() })
        .with_base(args.base)
        .with_depth(args.depth)
        .with_norm(NormConfig::Instance)
        .with_deep_supervision(true);
    let model = StackedUNet3dConfig::new(unet, patch[0]);
    let card = ModelCard { model, classes: classes.clone(), color: None, normalize: Normalize::identity(channels) };
    let mut data = DataRecord { sha256: vec![folder.fingerprint()?], decode, weights: None }.to_json();
    data["volume"] = serde_json::to_value(&volume)?;
    data["patches"] = json!({ "per_case": args.per_case, "folds": args.folds, "fold": args.fold });
    let outcome = train(Run {
        folder: args.out.clone(),
        task: SegmentationTask::new(card.clone()),
        options: TrainingOptions {
            seed,
            epochs: args.epochs,
            batch_size: args.batch_size,
            learning_rate: args.lr,
            ..TrainingOptions::default()
        },
        data,
        weights: None,
        train: Loader::drawn(Arc::new(training)).transform(PatchTransform::nnunet(patch)),
        valid: Loader::builder(Arc::new(validation)).batch_size(args.batch_size),
        device: device.clone(),
        resume: args.resume,
    })?;

    let segmenter = Segmenter::<StackedUNet3d>::new(outcome.model, card, &device)?;
    let table = measure(args, &folder, &fold.val, &segmenter, &volume, table)?;
    let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    say(json!({
        "split": "val",
        "dice": mean(table.rows().iter().filter_map(|row| row.dice).collect()),
        "surface_dice": mean(table.rows().iter().filter_map(|row| row.surface_dice).collect()),
        "cases": fold.val.len(),
        "epochs": outcome.history.epochs().len(),
        "seconds": start.elapsed().as_secs_f64(),
    }))?;
    Ok(())
}

/// Segments cases as they are in their files, and writes labels and figures.
fn measure(
    args: &Args,
    folder: &CaseFolder,
    cases: &[usize],
    segmenter: &Segmenter<StackedUNet3d>,
    options: &VolumeOptions,
    mut table: CaseTable,
) -> Result<CaseTable, Failure> {
    let (ignored, written) = (folder.classes().ignore_index(), args.out.join("validation"));
    checkpoint::create_and_sweep(&written)?;
    for index in cases {
        let (case, header) = folder.load(*index, &args.decode.options().limits)?;
        let found = segmenter.segment_volume_windows(&case.image, options, 0.5)?;
        write_nifti_labels(written.join(format!("{}.nii.gz", case.name)), &found, Some(&header))?;
        // What is ignored counts neither for nor against it.
        let pairs = found.as_slice().iter().zip(case.labels.as_slice());
        let counted: Vec<u32> =
            pairs.map(|(found, truth)| if ignored == Some(*truth) { *truth } else { *found }).collect();
        let (size, spacing) = (found.geometry().size(), found.geometry().spacing());
        table.add(case.name, &counted, case.labels.as_slice(), size, spacing)?;
    }
    for (name, text) in [("cases.csv", table.to_csv()), ("cases_summary.csv", table.summary_csv())] {
        checkpoint::write_text(&args.out.join(name), &text)?;
    }
    Ok(table)
}
