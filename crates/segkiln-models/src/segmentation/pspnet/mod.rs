//! PSPNet: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, <https://arxiv.org/abs/1612.01105>; as
//! segmentation_models_pytorch has it.

use burn::{
    config::Config,
    module::Module,
    nn::{Dropout, DropoutConfig, conv::Conv2d},
    tensor::{Device, Tensor},
};

use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{
        ConvBlock, ConvBlockConfig, NormConfig, adaptive_avg_pool2d, channel_dropout, conv2d, decoder_initializer,
        resize_to, segmentation_head,
    },
    segmentation::{SegmentationNetwork, on_backbone, owned, unused_stages},
    weights::{TorchName, TorchNames},
};

/// Configuration of a [`PspNet`].
#[derive(Config, Debug)]
pub struct PspNetConfig {
    /// Backbone.
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Map of the encoder's pyramid that is used: 3 for that of stride 8, as in segmentation_models_pytorch; 5, with an
    /// output stride of 8, for the paper's.
    #[config(default = 3)]
    pub depth: usize,
    /// Channels before the logits.
    #[config(default = 512)]
    pub channels: usize,
    /// Share of the channels that are dropped in training.
    #[config(default = 0.2)]
    pub dropout: f64,
}

/// Sides of the maps of means.
const SIZES: [usize; 4] = [1, 2, 3, 6];

impl PspNetConfig {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        if !(1..=5).contains(&self.depth) {
            return Err(ConfigError::new("depth", format!("must be from 1 to 5, is {}", self.depth)));
        }
        if self.depth == 1 && self.backbone.stride2_stage().is_none() {
            return Err(ConfigError::new("depth", "must be from 2 to 5, is 1: the encoder has no map of stride 2"));
        }
        if !(1..=8192).contains(&self.channels) {
            return Err(ConfigError::new("channels", format!("must be from 1 to 8192, are {}", self.channels)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigError::new("dropout", format!("must be at least 0 and below 1, is {}", self.dropout)));
        }
        Ok(())
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> PspNet {
        let stages = self.backbone.pyramid_stages();
        let stage = match self.depth {
            1 => self.backbone.stride2_stage().unwrap_or(stages[0]),
            depth => stages[depth - 2],
        };
        let from = self.backbone.channels()[stage];
        let each = (from / SIZES.len()).max(1);
        let one = |from, to| {
            ConvBlockConfig::new(from, to).with_kernel(1).with_padding(0).with_initializer(decoder_initializer())
        };
        let blocks = SIZES.map(|size| {
            // A single value has no statistics.
            let norm = if size == 1 { NormConfig::None } else { NormConfig::default() };
            PspBlock { pool: one(from, each).with_norm(norm).init(device), size }
        });
        PspNet {
            encoder: self.backbone.init(device),
            decoder: PspDecoder {
                psp: blocks.into(),
                conv: one(from + SIZES.len() * each, self.channels).init(device),
                dropout: DropoutConfig::new(self.dropout).init(),
            },
            segmentation_head: segmentation_head(self.channels, self.classes, 3, device),
            stage,
        }
    }
}

/// The network; see [`PspNetConfig`].
#[derive(Module, Debug)]
pub struct PspNet {
    /// Backbone.
    pub encoder: Backbone,
    /// Decoder with pyramid pooling.
    pub decoder: PspDecoder,
    /// 3×3 to the classes.
    pub segmentation_head: Conv2d,
    #[module(skip)]
    pub(crate) stage: usize,
}

impl PspNet {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let map = self.encoder.forward(x, &[self.stage]).remove(0);
        resize_to(conv2d(&self.segmentation_head, self.decoder.forward(map)), [height, width], true)
    }
}

/// A map and its means over regions of several sizes.
#[derive(Module, Debug)]
pub struct PspDecoder {
    /// One a size.
    pub psp: Vec<PspBlock>,
    /// 1×1 of all.
    pub conv: ConvBlock,
    /// Dropout, in training.
    pub dropout: Dropout,
}

/// Means over regions.
#[derive(Module, Debug)]
pub struct PspBlock {
    /// 1×1 of the means.
    pub pool: ConvBlock,
    #[module(skip)]
    size: usize,
}

impl PspDecoder {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let mut maps: Vec<Tensor<4>> = self
            .psp
            .iter()
            .map(|block| {
                let means = block.pool.forward(adaptive_avg_pool2d(x.clone(), block.size));
                resize_to(means, [height, width], true)
            })
            .collect();
        maps.push(x);
        channel_dropout(&self.dropout, self.conv.forward(Tensor::cat(maps, 1)))
    }
}

on_backbone!(PspNetConfig => PspNet, "pspnet", |backbone, _| Ok(backbone));

impl SegmentationNetwork for PspNet {
    type Config = PspNetConfig;

    const TORCH_NAMES: TorchNames = &[
        ("PspNet", "segmentation_head", TorchName::Is("segmentation_head.0")),
        ("PspDecoder", "psp", TorchName::Is("psp.blocks")),
        ("PspBlock", "pool", TorchName::Is("pool.1")),
    ];

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.encoder)
    }

    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        vec![&mut self.encoder]
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["segmentation_head."])
    }

    fn unused_tensors(&self) -> Vec<String> {
        unused_stages(&self.encoder, Some(self.stage))
    }
}
