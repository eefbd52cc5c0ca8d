//! Average precision and recall of a detector's results, with the numbers of pycocotools.
//!
//! ```text
//! cargo run --example coco_eval -- --gt instances_val2017.json --dt results.json --iou bbox
//! ```

use std::{collections::HashSet, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use segkiln::{
    coco_evaluate,
    data::coco::{CocoFile, CocoResultFile},
    metrics::coco::{CocoParams, IouType},
};
use serde_json::json;

mod common;

use common::{Failure, Machine, say};

/// Evaluates detections as COCO does.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Annotations, in COCO's format
    #[arg(long)]
    gt: PathBuf,
    /// Results, in COCO's format
    #[arg(long)]
    dt: PathBuf,
    /// Overlap that counts: of boxes or masks
    #[arg(long)]
    iou: Iou,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Clone, Copy, ValueEnum)]
enum Iou {
    Bbox,
    Segm,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    args.machine.device()?;
    let (truth, found) = (CocoFile::read(&args.gt)?, CocoResultFile::read(&args.dt)?);
    let categories: HashSet<i64> = truth.categories().iter().map(|category| category.id).collect();
    let unknown = found.results().iter().filter(|result| !categories.contains(&result.category_id)).count();
    if unknown > 0 {
        let (dt, gt) = (args.dt.display(), args.gt.display());
        eprintln!("{unknown} results of {dt} are left out: {gt} does not have their categories");
    }
    let iou = match args.iou {
        Iou::Bbox => IouType::Bbox,
        Iou::Segm => IouType::Segm,
    };
    let evaluation = coco_evaluate(&truth, &found, iou, CocoParams::default())?.evaluate();
    say(&evaluation)?;
    say(json!({ "stats": evaluation.figures().values() }))?;
    Ok(())
}
