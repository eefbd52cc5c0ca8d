//! Times this crate on benchmark cases, one JSON line a case:
//!
//! ```text
//! cargo run --release --example benchmark -- unet32_infer_256 unet32_train_256 --threads 2 --runs 5
//! ```
//!
//! A case whose name ends with `_bf16` or `_int8` is computed in that precision, 8 bits calibrated on noise. Weights and inputs
//! are random; one run warms up; results are read back before the clock stops.

use std::{process::ExitCode, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use clap::Parser;
use segkiln::core::Precision;
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;
mod evaluation;
mod explain;
mod networks;
mod operators;

use common::{Failure, Machine, say};
use evaluation::evaluation;
use networks::{
    detector, detector_train, named_infer, named_train, unet_infer, unet_train, unet3d_infer, unet3d_train,
};
use operators::{Convolution, regions, suppression};

/// Times benchmark cases.
#[derive(Parser)]
struct Args {
    /// Names of cases
    #[arg(required = true)]
    cases: Vec<String>,
    /// Threads of the CPU backends
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Timed runs a case
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Numbers that networks multiply in inference, f32, bf16 or int8, where the case's name does not end with one
    #[arg(long, default_value_t)]
    precision: Precision,
    #[command(flatten)]
    machine: Machine,
}

/// Function that is timed; it is called once before, to warm up.
type Case = Box<dyn FnMut()>;

fn case(name: &str, precision: Precision, device: &Device) -> Result<Case, Failure> {
    let network = (name.contains("_infer_") || name.contains("_train_")) && !name.starts_with("unet3d");
    if precision != Precision::F32 && !network {
        return Err(format!("{name} is computed in f32 only; it has no {precision}").into());
    }
    Ok(match name {
        "unet32_infer_256" => unet_infer(32, 256, precision, device)?,
        "unet64_infer_512" => unet_infer(64, 512, precision, device)?,
        "gradcam_unet32_256" => explain::grad_cam(32, 256, device)?,
        "pgd10_unet32_256" => explain::pgd(32, 256, device)?,
        "unet3d16_infer_96" => unet3d_infer(16, 96, device),
        "unet3d16_train_64" => unet3d_train(16, 64, device),
        "unet32_train_256" => unet_train(32, 256, 2, precision, device)?,
        "fasterrcnn_resnet50_fpn_infer_800" => detector("fasterrcnn_resnet50_fpn", [800, 1088], precision, device)?,
        "maskrcnn_resnet50_fpn_infer_800" => detector("maskrcnn_resnet50_fpn", [800, 1088], precision, device)?,
        "maskrcnn_resnet50_fpn_train_512" => detector_train("maskrcnn_resnet50_fpn", [512, 512], precision, device)?,
        "roi_align_forward" => regions(false, device),
        "roi_align_backward" => regions(true, device),
        "nms_10000" => suppression(10_000, device),
        "coco_eval_1000" => evaluation(1000, device)?,
        _ => {
            if let Some((network, side)) = named_case(name, "_infer_") {
                return named_infer(network, side, precision, device);
            }
            if let Some((network, side)) = named_case(name, "_train_") {
                return named_train(network, side, precision, device);
            }
            let convolution = Convolution::parse(name);
            convolution.ok_or_else(|| format!("no case {name:?}; known are {KNOWN}"))?.case(device)
        }
    })
}

/// The name and the side of a case such as `deeplabv3_resnet50_infer_520`.
fn named_case<'a>(name: &'a str, between: &str) -> Option<(&'a str, usize)> {
    let (network, side) = name.split_once(between)?;
    Some((network, side.parse().ok().filter(|side| (1..=4096).contains(side))?))
}

const KNOWN: &str = "unet32_infer_256, unet64_infer_512, NAME_infer_SIDE with the name of a segmentation network or a classifier \
                     (each also with _bf16 and _int8), unet32_train_256, NAME_train_SIDE of segmentation networks, unet3d16_infer_96, unet3d16_train_64, \
                     gradcam_unet32_256, pgd10_unet32_256, fasterrcnn_resnet50_fpn_infer_800, \
                     maskrcnn_resnet50_fpn_infer_800, maskrcnn_resnet50_fpn_train_512, roi_align_forward, roi_align_backward, \
                     nms_10000, coco_eval_1000, conv_iCI_oCO_kK_sS_dD_gG_nN and the same with _backward";

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    if args.runs == 0 {
        return Err("--runs must be at least 1".into());
    }
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let device = args.machine.device()?;
    for name in &args.cases {
        device.seed(args.machine.seed);
        let suffix = Precision::ALL
            .into_iter()
            .find_map(|precision| Some((name.strip_suffix(&format!("_{precision}"))?, precision)));
        let (base, precision) = suffix.unwrap_or((name, args.precision));
        let mut case = case(base, precision, &device)?;
        case();
        let mut times: Vec<f64> = (0..args.runs)
            .map(|_| {
                let start = Instant::now();
                case();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let middle = times.len() / 2;
        let median = if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2.0 };
        say(json!({ "case": name, "peer": "segkiln", "median_ms": median, "min_ms": times[0], "runs": args.runs }))?;
    }
    Ok(())
}

/// Values from 0 to `most`.
fn uniform(count: usize, most: f64, device: &Device) -> Vec<f32> {
    let values = Tensor::<1>::random([count], Distribution::Uniform(0.0, most), device);
    values.into_data().try_into_vec().expect("f32 values")
}
