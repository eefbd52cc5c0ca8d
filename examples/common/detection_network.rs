//! Flags that describe a detector.

use std::path::Path;

use clap::ValueEnum;
use segkiln::models::{
    backbones::BackboneConfig,
    detection::{DetectionNetworkConfig, DetectionOptions, DetectorConfig, DetectorKind, with_detector_norms},
};

use crate::common::Failure;

/// A detector on a backbone.
#[derive(clap::Args)]
pub struct Network {
    /// The network: Mask R-CNN, Faster R-CNN, RetinaNet or FCOS; only the first learns masks
    #[arg(long, default_value_t = DetectorKind::MaskRcnn)]
    pub arch: DetectorKind,
    /// torchvision's name of the backbone [default: resnet50; for the sample resnet18]
    #[arg(long)]
    backbone: Option<String>,
    /// The backbone's norms [default: frozen with torchvision's --weights, else batch]
    #[arg(long, value_enum)]
    norm: Option<Norm>,
    /// Sides of the anchors in pixels of what the network sees; RetinaNet adds two thirds of an octave to each, of FCOS they
    /// are the units of distances [default: 32,64,128,256,512, of FCOS a quarter of them; for the sample a quarter]
    #[arg(long, value_delimiter = ',')]
    anchor_sizes: Option<Vec<f32>>,
    /// Most objects found in an image
    #[arg(long, default_value_t = 100)]
    detections: usize,
    /// The shorter side that images are resized to [default: 800; for the sample 256]
    #[arg(long)]
    min_size: Option<usize>,
    /// Largest longer side [default: 1333, or --min-size if that is more or for the sample]
    #[arg(long)]
    max_size: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Norm {
    Batch,
    Frozen,
}

impl Network {
    /// The backbone's name.
    pub fn backbone(&self, is_sample: bool) -> &str {
        self.backbone.as_deref().unwrap_or(if is_sample { "resnet18" } else { "resnet50" })
    }

    /// The network that the flags describe, to begin with these weights.
    pub fn config(&self, weights: Option<&Path>, classes: usize, is_sample: bool) -> Result<DetectorConfig, Failure> {
        let frozen = self.norm.map(|norm| norm == Norm::Frozen);
        let backbone = with_detector_norms(BackboneConfig::by_name(self.backbone(is_sample))?, frozen, weights)?;
        let config = DetectorConfig::on_backbone(self.arch, backbone, classes);
        let mut config = if is_sample { config.reduced() } else { config };
        if let Some(sizes) = &self.anchor_sizes {
            config = config.with_anchor_sizes(sizes.clone());
        }
        let min_size = self.min_size.or(is_sample.then_some(256));
        let max_size = self.max_size.or(min_size.filter(|_| is_sample));
        let max_detections = Some(self.detections);
        Ok(config.with_options(DetectionOptions { min_size, max_size, score_threshold: None, max_detections }))
    }
}
