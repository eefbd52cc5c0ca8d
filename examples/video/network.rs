//! The network that looks at the frames, of either kind.

use std::path::PathBuf;

use burn::tensor::Device;
use segkiln::{
    Detector, PredictError, Segmenter,
    data::{Filter, Preset},
    models::detection::{DetectionOptions, DetectorConfig},
};

use crate::{common::Failure, weights};

/// Flags that name the network.
#[derive(clap::Args)]
pub struct NetworkArgs {
    /// Folder of a training run, or a .bpk file in one
    #[arg(long, required_unless_present = "arch", conflicts_with = "arch")]
    model: Option<PathBuf>,
    /// Name of a segmentation or detection network, such as deeplabv3_resnet50 or maskrcnn_resnet50_fpn
    #[arg(long)]
    arch: Option<String>,
    /// Weights for --arch: .pth or .safetensors, a .bpk, or a name of torchvision's
    #[arg(long, requires = "arch", default_value = "DEFAULT", hide_default_value = true)]
    pub weights: PathBuf,
    /// Classes of --arch, with the background [default: 21, of detectors 91]
    #[arg(long, requires = "arch")]
    num_classes: Option<usize>,
    /// The shorter side that frames are resized to [default: the network's, of segmentation networks the frames' own]
    #[arg(long)]
    size: Option<u32>,
    /// Score that objects of detectors must exceed [default: 0.5, with --track 0.1]
    #[arg(long)]
    score_threshold: Option<f32>,
}

/// A network of either kind.
pub enum Network {
    Segmenter(Box<Segmenter>),
    Detector(Box<Detector>),
}

impl Network {
    pub fn load(args: &NetworkArgs, track: bool, device: &Device) -> Result<Self, Failure> {
        let network = match (&args.model, &args.arch) {
            (Some(model), _) => match Segmenter::load(model, device) {
                // The config is a detector's, or damaged, which the detector's error says.
                Err(PredictError::Config { .. }) => Self::Detector(Detector::load(model, device)?.into()),
                segmenter => Self::Segmenter(segmenter?.into()),
            },
            (_, Some(arch)) => {
                let is_detector = DetectorConfig::names().contains(&arch.as_str());
                let classes = args.num_classes.unwrap_or(if is_detector { 91 } else { 21 });
                let file = weights::file(arch, &args.weights, Some(classes))?;
                match is_detector {
                    true => Self::Detector(Detector::by_name(arch, file, classes, device)?.into()),
                    false => Self::Segmenter(Segmenter::by_name(arch, file, classes, device)?.into()),
                }
            }
            _ => return Err("either --model or --arch must be given".into()),
        };
        Ok(match network {
            Self::Segmenter(segmenter) => {
                if args.score_threshold.is_some() {
                    return Err("--score-threshold is for detectors, and this is a segmentation network".into());
                }
                let preset = |size| Preset { resize: Some(size), crop: None, filter: Filter::Bilinear };
                Self::Segmenter(match args.size {
                    Some(size) => segmenter.with_preset(Some(preset(size)))?.into(),
                    None => segmenter,
                })
            }
            Self::Detector(detector) => {
                let threshold = args.score_threshold.unwrap_or(if track { 0.1 } else { 0.5 });
                let options = DetectionOptions {
                    min_size: args.size.map(|size| size as usize),
                    max_size: None,
                    score_threshold: Some(threshold),
                    max_detections: None,
                };
                Self::Detector(detector.with_options(options)?.into())
            }
        })
    }
}
