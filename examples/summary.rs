//! Cost of a network: parameters, multiply-adds, activations.
//!
//! ```text
//! cargo run --example summary -- --arch unet_mobilenet_v2 --size 512
//! ```

use std::process::ExitCode;

use clap::Parser;
use segkiln::models::{ModelConfig, SegmentationNetworkConfig};
use serde_json::json;

mod common;

use common::{Failure, Machine, say};

/// Shows what a named network costs.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Decoder and backbone, such as deeplabv3_resnet50, lraspp_mobilenet_v3_large or unet_resnet34
    #[arg(long)]
    arch: String,
    /// Channels of its logits
    #[arg(long, default_value_t = 21)]
    num_classes: usize,
    /// Sides of the image
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: u16,
    /// A line for what has the same first so many names; 0 shows the total alone
    #[arg(long, default_value_t = 2)]
    depth: usize,
    #[command(flatten)]
    machine: Machine,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let device = args.machine.device()?;
    let config = ModelConfig::by_name(&args.arch, args.num_classes)?;
    config.check()?;
    let summary = config.summary([args.size.into(); 2], &device);
    say(summary.blocks(args.depth))?;
    let total = summary.total();
    say(json!({
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "activations": total.activations,
    }))?;
    Ok(())
}
