//! Times this crate on benchmark cases, one JSON line a case:
//!
//! ```text
//! cargo run --release --example benchmark -- unet32_infer_256 unet32_train_256 --threads 2 --runs 5
//! ```
//!
//! Weights and inputs are random, in f32; one run warms up; results are read back before the clock stops.

use std::{process::ExitCode, time::Instant};

use burn::{
    module::Module,
    optim::{AdamConfig, GradientsParams},
    tensor::{Device, Distribution, Int, Tensor},
};
use clap::Parser;
use segkiln::{
    metrics::losses::{CrossEntropyLossConfig, SegmentationLoss},
    models::unet::{UNet, UNetConfig},
    select_device,
};
use serde_json::json;

mod common;

use common::{Failure, say};

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
    /// A backend that is built in, such as flex, cuda or vulkan [default: the best one, or BURN_DEVICE]
    #[arg(long)]
    device: Option<String>,
    /// Seed of weights and inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

type Case = (&'static str, fn(&Device) -> Box<dyn FnMut()>);

const CASES: [Case; 3] = [
    ("unet32_infer_256", |device| unet_infer(32, 256, device)),
    ("unet64_infer_512", |device| unet_infer(64, 512, device)),
    ("unet32_train_256", |device| unet_train(32, 256, 2, device)),
];

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    if args.runs == 0 {
        return Err("--runs must be at least 1".into());
    }
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let device = select_device(args.device.as_deref())?;
    for name in &args.cases {
        let Some((_, case)) = CASES.iter().find(|(known, _)| known == name) else {
            let known: Vec<_> = CASES.iter().map(|(name, _)| *name).collect();
            return Err(format!("no case {name:?}; known are {}", known.join(", ")).into());
        };
        device.seed(args.seed);
        let mut case = case(&device);
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

fn unet_infer(base: usize, side: usize, device: &Device) -> Box<dyn FnMut()> {
    let unet = UNetConfig::new(3, 2).with_base(base).init(device).materialize();
    let x = Tensor::<4>::random([1, 3, side, side], Distribution::Normal(0.0, 1.0), device);
    Box::new(move || {
        unet.forward(x.clone()).into_data();
    })
}

fn unet_train(base: usize, side: usize, batch: usize, device: &Device) -> Box<dyn FnMut()> {
    let device = device.clone().autodiff();
    let mut unet = Some(UNetConfig::new(3, 2).with_base(base).init(&device).materialize());
    let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
    let loss = CrossEntropyLossConfig::new().init();
    let x = Tensor::<4>::random([batch, 3, side, side], Distribution::Normal(0.0, 1.0), &device);
    let y = Tensor::<3>::random([batch, side, side], Distribution::Uniform(0.0, 2.0), &device);
    let y: Tensor<3, Int> = y.int();
    Box::new(move || {
        let model: UNet = unet.take().expect("put back below");
        let value = loss.forward(model.forward(x.clone()), y.clone());
        let gradients = GradientsParams::from_grads(value.backward(), &model);
        unet = Some(optimizer.step(1e-3, model, gradients));
        value.into_scalar::<f32>();
        device.sync().expect("the device finishes its work");
    })
}
