//! Parts that a program can bring of its own, all of them unknown to segkiln: here a segmentation network and a loss; in modules a
//! backbone, a detector, a task, data sets and a transform.

pub mod backbone;
mod data;
pub mod detector;
pub mod task;

use burn::{
    config::Config,
    module::Module,
    nn::{
        BatchNorm, BatchNormConfig, Dropout, DropoutConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Int, Tensor,
        activation::{relu, sigmoid},
    },
};
pub use data::{DiscLabels, DiscObjects, Discs, RandomNegative};
use segkiln::{
    losses::SegmentationLoss,
    models::{
        ConfigError, SegmentationNetwork, SegmentationNetworkConfig,
        segmentation::HeadLogits,
        weights::{TorchName, TorchNames},
    },
};

/// Two convolutions of Burn, and a head on each.
#[derive(Module, Debug)]
pub struct TinyNet {
    first: Conv2d,
    norm: BatchNorm,
    second: Conv2d,
    dropout: Dropout,
    heads: [Conv2d; 2],
}

/// Config of a [`TinyNet`].
#[derive(Config, Debug)]
pub struct TinyNetConfig {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the logits.
    pub classes: usize,
    /// Channels of the layers.
    #[config(default = 6)]
    pub width: usize,
}

impl SegmentationNetwork for TinyNet {
    type Config = TinyNetConfig;

    const TORCH_NAMES: TorchNames = &[
        ("TinyNet", "first", TorchName::Is("layers.0")),
        ("TinyNet", "norm", TorchName::Is("layers.1")),
        ("TinyNet", "second", TorchName::Is("layers.3")),
    ];

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut heads = self.forward_heads(x);
        heads.pop().expect("there are two").logits
    }

    fn forward_heads(&self, x: Tensor<4>) -> Vec<HeadLogits> {
        let first = relu(self.norm.forward(self.first.forward(x)));
        let second = self.dropout.forward(relu(self.second.forward(first.clone())));
        vec![
            HeadLogits { weight: 0.25, logits: self.heads[0].forward(first) },
            HeadLogits { weight: 1.0, logits: self.heads[1].forward(second) },
        ]
    }

    fn class_tensors(&self) -> Vec<String> {
        vec!["heads.".into()]
    }
}

impl SegmentationNetworkConfig for TinyNetConfig {
    type Network = TinyNet;

    fn check(&self) -> Result<(), ConfigError> {
        let fits = (1..=512).contains(&self.width);
        if fits { Ok(()) } else { Err(ConfigError::new("width", "must be from 1 to 512")) }
    }

    fn init(&self, device: &Device) -> TinyNet {
        let conv = |from, to, side| {
            let padding = PaddingConfig2d::Explicit(side / 2, side / 2, side / 2, side / 2);
            Conv2dConfig::new([from, to], [side, side]).with_padding(padding).init(device)
        };
        TinyNet {
            first: conv(self.in_channels, self.width, 5),
            norm: BatchNormConfig::new(self.width).init(device),
            second: conv(self.width, self.width, 3),
            dropout: DropoutConfig::new(0.1).init(),
            heads: [conv(self.width, self.classes, 1), conv(self.width, self.classes, 1)],
        }
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        Self { in_channels, ..self }
    }

    fn classes(&self) -> usize {
        self.classes
    }
}

/// Mean squared error of the foreground's probability.
#[derive(Debug)]
pub struct SquaredError;

impl SegmentationLoss for SquaredError {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        (sigmoid(logits) - targets.float().unsqueeze_dim(1)).square().mean()
    }
}
