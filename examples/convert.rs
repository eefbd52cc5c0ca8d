//! Brings weights into another format: PyTorch's into ours, ours into PyTorch's names, either into 8 bits.
//!
//! ```text
//! cargo run --example convert -- --arch deeplabv3_resnet50 --weights deeplabv3.pth --output deeplabv3.bpk
//! cargo run --example convert -- --model runs/unet --output unet.safetensors
//! ```

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use burn::{module::Module, tensor::Device};
use clap::Parser;
use segkiln::{
    Detector, PredictError, Segmenter,
    data::{refuse_replacing, write_whole},
    models::{
        ModelConfig, SegmentationNetwork, SegmentationNetworkConfig,
        detection::{DetectionNetworkConfig, DetectorConfig},
        weights::{Exceptions, WeightsError, load, parameters, save, save_quantized, save_torch, torch_network},
    },
    train::checkpoint::prepare_for,
};
use serde_json::json;

mod common;
#[path = "common/weights.rs"]
mod weights;

use common::{Failure, Machine, say};

/// Brings weights into another format.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Name of the network: decoder and backbone, such as unet_resnet34, or torchvision's of a detector
    #[arg(long, required_unless_present = "model", conflicts_with = "model")]
    arch: Option<String>,
    /// Its weights: .pth, .safetensors, a .bpk, or a name of torchvision's for those that it has published
    #[arg(long, requires = "arch", default_value = "DEFAULT", hide_default_value = true)]
    weights: PathBuf,
    /// Classes of --arch [default: 21, of a detector 91]
    #[arg(long, requires = "arch")]
    num_classes: Option<usize>,
    /// Folder of a training run, or a .bpk file in one, in place of --arch
    #[arg(long)]
    model: Option<PathBuf>,
    /// The new file: .bpk for this project, .safetensors with PyTorch's names
    #[arg(long)]
    output: PathBuf,
    /// Weights of 8 bits, in a .bpk
    #[arg(long)]
    quantize: bool,
    #[command(flatten)]
    machine: Machine,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let device = args.machine.device()?;
    let form = Form::of(&args.output, args.quantize)?;
    refuse_replacing(args.model.iter().chain([&args.weights]), [&args.output])?;
    let parameters = match (&args.model, &args.arch) {
        (Some(model), _) => match Segmenter::load(model, &device) {
            Ok(segmenter) => form.write(segmenter.model(), &args.output)?,
            Err(segmenter) => match Detector::load(model, &device) {
                Ok(detector) => form.write(detector.model(), &args.output)?,
                // Of the two what is wrong with the weights, as the config is then read.
                Err(detector) => match segmenter {
                    PredictError::Config { .. } if !matches!(detector, PredictError::Config { .. }) => {
                        return Err(detector.into());
                    }
                    segmenter => return Err(segmenter.into()),
                },
            },
        },
        (_, Some(arch)) => {
            let is_detector = DetectorConfig::by_name(arch, 91).is_some();
            let classes = args.num_classes.unwrap_or(if is_detector { 91 } else { 21 });
            match is_detector {
                true => {
                    let file = weights::file(arch, &args.weights, Some(classes))?;
                    let detector = Detector::by_name(arch, &file, classes, &device)?;
                    form.write(detector.model(), &args.output)?
                }
                false => {
                    let config = ModelConfig::by_name(arch, classes)?;
                    config.check()?;
                    let file = weights::file(arch, &args.weights, Some(classes))?;
                    let name = if is_ours(&file) { arch.clone() } else { torch_network(arch, &file)? };
                    if name != *arch {
                        return Err(format!("{} is of {name}; give that as --arch", file.display()).into());
                    }
                    // A second head is kept where there is one.
                    let model = read(&config.clone().with_aux(true), &file, &device)
                        .or_else(|_| read(&config.with_aux(false), &file, &device))?;
                    form.write(&model, &args.output)?
                }
            }
        }
        _ => return Err("either --model or --arch must be given".into()),
    };
    if let (Some(model), Form::Ours | Form::Quantized) = (&args.model, form) {
        keep_config(model, &args.output)?;
    }
    let bytes = std::fs::metadata(&args.output).map_err(|error| format!("{}: {error}", args.output.display()))?.len();
    say(json!({ "output": args.output.display().to_string(), "parameters": parameters, "bytes": bytes }))?;
    Ok(())
}

fn read(config: &ModelConfig, file: &Path, device: &Device) -> Result<impl Module + use<>, WeightsError> {
    let model = config.init(device);
    if is_ours(file) { load(model, file) } else { model.load_torch(file, Exceptions::default()) }
}

fn is_ours(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "bpk")
}

/// Writes the run's `config.json` beside the new file, where there is none, so that the new folder can be loaded too.
fn keep_config(model: &Path, output: &Path) -> Result<(), Failure> {
    let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new("")) };
    let [from, to] = [folder.join("config.json"), output.with_file_name("config.json")];
    prepare_for([&to])?;
    if !to.exists() {
        let written = std::fs::read(&from).and_then(|config| write_whole(&to, &config));
        written.map_err(|error| format!("cannot copy {} to {}: {error}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Format of the output.
#[derive(Clone, Copy)]
enum Form {
    Ours,
    Quantized,
    Torch,
}

impl Form {
    fn of(output: &Path, quantize: bool) -> Result<Self, Failure> {
        match (output.extension().and_then(|extension| extension.to_str()), quantize) {
            (Some("bpk"), false) => Ok(Self::Ours),
            (Some("bpk"), true) => Ok(Self::Quantized),
            (Some("safetensors"), false) => Ok(Self::Torch),
            (Some("safetensors"), true) => Err("--quantize needs an --output that ends in .bpk".into()),
            _ => Err(format!("--output must end in .bpk or .safetensors, is {}", output.display()).into()),
        }
    }

    /// The number of parameters.
    fn write(self, module: &impl Module, output: &Path) -> Result<usize, Failure> {
        prepare_for([output])?;
        match self {
            Self::Ours => save(module, output),
            Self::Quantized => save_quantized(module, output),
            Self::Torch => save_torch(module, output),
        }?;
        Ok(parameters(module))
    }
}
