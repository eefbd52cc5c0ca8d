//! Semantic segmentation on a feature pyramid: Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019,
//! <https://arxiv.org/abs/1901.02446>; as segmentation_models_pytorch has it.

use burn::{
    config::Config,
    module::Module,
    nn::{
        Dropout, DropoutConfig,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};
use segkiln_ops::{ResizeMode, resize};

use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{
        ConvBlock, ConvBlockConfig, NormConfig, channel_dropout, conv2d, decoder_initializer, resize_to,
        segmentation_head, zero_bias,
    },
    segmentation::{SegmentationNetwork, on_backbone, owned, unused_stages},
    weights::{TorchName, TorchNames},
};

/// Configuration of an [`Fpn`].
#[derive(Config, Debug)]
pub struct FpnConfig {
    /// Backbone.
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Channels of the pyramid.
    #[config(default = 256)]
    pub pyramid_channels: usize,
    /// Channels before the logits: a multiple of 32, the groups of the norms.
    #[config(default = 128)]
    pub channels: usize,
    /// Share of the channels that are dropped in training.
    #[config(default = 0.2)]
    pub dropout: f64,
}

/// Groups of the norms.
const GROUPS: usize = 32;

impl FpnConfig {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        if !(1..=8192).contains(&self.pyramid_channels) {
            return Err(ConfigError::new(
                "pyramid_channels",
                format!("must be from 1 to 8192, are {}", self.pyramid_channels),
            ));
        }
        if !(1..=8192).contains(&self.channels) || !self.channels.is_multiple_of(GROUPS) {
            return Err(ConfigError::new(
                "channels",
                format!("must be a multiple of {GROUPS} to 8192, are {}", self.channels),
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigError::new("dropout", format!("must be at least 0 and below 1, is {}", self.dropout)));
        }
        Ok(())
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> Fpn {
        let stages = self.backbone.pyramid_stages();
        let of = self.backbone.channels();
        let lateral = |stage: usize| {
            let conv = Conv2dConfig::new([of[stage], self.pyramid_channels], [1, 1]);
            zero_bias(conv.with_initializer(decoder_initializer()).init(device), device)
        };
        let conv = |from| FpnConv {
            block: ConvBlockConfig::new(from, self.channels)
                .with_norm(NormConfig::Group { groups: GROUPS })
                .with_initializer(decoder_initializer())
                .init(device),
        };
        let branch = |enlarged: usize| FpnBranch {
            block: (0..enlarged.max(1))
                .map(|index| conv(if index == 0 { self.pyramid_channels } else { self.channels }))
                .collect(),
        };
        let [c2, c3, c4, c5] = stages;
        Fpn {
            encoder: self.backbone.init(device),
            decoder: FpnDecoder {
                p5: lateral(c5),
                p4: lateral(c4),
                p3: lateral(c3),
                p2: lateral(c2),
                seg_blocks: [3, 2, 1, 0].map(branch).into(),
                dropout: DropoutConfig::new(self.dropout).init(),
            },
            segmentation_head: segmentation_head(self.channels, self.classes, 1, device),
            stages,
        }
    }
}

/// The network; see [`FpnConfig`].
#[derive(Module, Debug)]
pub struct Fpn {
    /// Backbone.
    pub encoder: Backbone,
    /// Decoder, which sums the upsampled levels of the pyramid.
    pub decoder: FpnDecoder,
    /// 1×1 to the classes.
    pub segmentation_head: Conv2d,
    /// Backbone stages of strides 4 to 32.
    #[module(skip)]
    pub(crate) stages: [usize; 4],
}

impl Fpn {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let maps = self.encoder.forward(x, &self.stages);
        resize_to(conv2d(&self.segmentation_head, self.decoder.forward(maps)), [height, width], true)
    }
}

/// The pyramid, each level of it enlarged step by step to the largest, and their sum.
#[derive(Module, Debug)]
pub struct FpnDecoder {
    /// 1×1 of the map of stride 32.
    pub p5: Conv2d,
    /// 1×1 of that of stride 16.
    pub p4: Conv2d,
    /// 1×1 of that of stride 8.
    pub p3: Conv2d,
    /// 1×1 of that of stride 4.
    pub p2: Conv2d,
    /// Upsampling branches, the smallest level's first.
    pub seg_blocks: Vec<FpnBranch>,
    /// Channel dropout in training.
    pub dropout: Dropout,
}

/// 3×3 convolutions, each but that of the largest level followed by an enlargement.
#[derive(Module, Debug)]
pub struct FpnBranch {
    /// The convolutions.
    pub block: Vec<FpnConv>,
}

/// One of them.
#[derive(Module, Debug)]
pub struct FpnConv {
    /// 3×3.
    pub block: ConvBlock,
}

impl FpnDecoder {
    /// `maps`: the largest first.
    fn forward(&self, maps: Vec<Tensor<4>>) -> Tensor<4> {
        let mut levels: Vec<Tensor<4>> = Vec::with_capacity(maps.len());
        let laterals = [&self.p5, &self.p4, &self.p3, &self.p2];
        for (map, conv) in maps.into_iter().rev().zip(laterals) {
            let lateral = conv2d(conv, map);
            let [_, _, height, width] = lateral.dims();
            levels.push(match levels.last() {
                Some(above) => resize(above.clone(), [height, width], ResizeMode::Nearest) + lateral,
                None => lateral,
            });
        }
        let sizes: Vec<[usize; 2]> = levels.iter().map(|level| [level.dims()[2], level.dims()[3]]).collect();
        let branches = levels.into_iter().zip(&self.seg_blocks).enumerate().map(|(index, (level, branch))| {
            branch.block.iter().enumerate().fold(level, |x, (step, conv)| {
                let x = conv.block.forward(x);
                match sizes.get(index + step + 1) {
                    Some(size) => resize_to(x, *size, true),
                    None => x,
                }
            })
        });
        let sum = branches.reduce(|sum, branch| sum + branch).expect("there are four levels");
        channel_dropout(&self.dropout, sum)
    }
}

on_backbone!(FpnConfig => Fpn, "fpn", |backbone, _| Ok(backbone));

impl SegmentationNetwork for Fpn {
    type Config = FpnConfig;

    const TORCH_NAMES: TorchNames = &[
        ("Fpn", "segmentation_head", TorchName::Is("segmentation_head.0")),
        ("FpnDecoder", "p4", TorchName::Is("p4.skip_conv")),
        ("FpnDecoder", "p3", TorchName::Is("p3.skip_conv")),
        ("FpnDecoder", "p2", TorchName::Is("p2.skip_conv")),
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
        unused_stages(&self.encoder, Some(self.stages[3]))
    }
}
