//! UPerNet: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018,
//! <https://arxiv.org/abs/1807.10221>; as segmentation_models_pytorch has it.

use burn::{
    config::Config,
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};

use crate::{
    ConfigError, SegmentationNetwork,
    backbones::{Backbone, BackboneConfig},
    layers::{
        ConvBlock, ConvBlockConfig, LayerNorm2d, adaptive_avg_pool2d, conv2d, decoder_initializer, resize_to,
        segmentation_head,
    },
    segmentation::{on_backbone, owned, unused_stages},
    weights::{TorchName, TorchNames},
};

/// Configuration of a [`UPerNet`].
#[derive(Config, Debug)]
pub struct UPerNetConfig {
    /// Backbone of the maps of strides 4 to 32.
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Channels of the decoder.
    #[config(default = 256)]
    pub channels: usize,
}

/// Sides of the maps of means.
const SIZES: [usize; 4] = [1, 2, 3, 6];

impl UPerNetConfig {
    /// Checks that the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        match self.channels {
            1..=8192 => Ok(()),
            channels => Err(ConfigError::new("channels", format!("must be from 1 to 8192, are {channels}"))),
        }
    }

    /// Builds the network with random weights.
    pub fn init(&self, device: &Device) -> UPerNet {
        let stages = self.backbone.pyramid_stages();
        let of = self.backbone.channels();
        let [c2, c3, c4, c5] = stages.map(|stage| of[stage]);
        let to = self.channels;
        let conv = |from: usize, kernel: usize| {
            ConvBlockConfig::new(from, to)
                .with_kernel(kernel)
                .with_padding(kernel / 2)
                .with_initializer(decoder_initializer())
                .init(device)
        };
        UPerNet {
            encoder: self.backbone.init(device),
            decoder: UPerNetDecoder {
                feature_norms: [c2, c3, c4, c5].map(|channels| LayerNorm2d::new(channels, 1e-6, device)).into(),
                psp: UPerNetPyramid {
                    blocks: SIZES.map(|size| UPerNetPooling { conv: conv(c5, 1), size }).into(),
                    out_conv: conv(c5 + SIZES.len() * to, 3),
                },
                fpn_lateral_blocks: [c4, c3, c2].map(|channels| UPerNetLateral { conv: conv(channels, 1) }).into(),
                fpn_conv_blocks: (0..3).map(|_| conv(to, 3)).collect(),
                fusion_block: conv(4 * to, 3),
            },
            segmentation_head: segmentation_head(to, self.classes, 1, device),
            stages,
        }
    }
}

/// The network; see [`UPerNetConfig`].
#[derive(Module, Debug)]
pub struct UPerNet {
    /// Backbone.
    pub encoder: Backbone,
    /// Pyramid pooling and feature pyramid.
    pub decoder: UPerNetDecoder,
    /// 1×1 to the classes.
    pub segmentation_head: Conv2d,
    /// Stages of strides 4 to 32.
    #[module(skip)]
    stages: [usize; 4],
}

impl UPerNet {
    /// Computes logits at the image's height and width.
    ///
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let maps = self.encoder.forward(x, &self.stages);
        resize_to(conv2d(&self.segmentation_head, self.decoder.forward(maps)), [height, width], true)
    }
}

on_backbone!(UPerNetConfig => UPerNet, "upernet", |backbone, _| Ok(backbone));

impl SegmentationNetwork for UPerNet {
    type Config = UPerNetConfig;

    const TORCH_NAMES: TorchNames = &[
        ("UPerNet", "segmentation_head", TorchName::Is("segmentation_head.0")),
        ("UPerNetPooling", "conv", TorchName::Is("1")),
        ("UPerNetLateral", "conv", TorchName::Is("conv_norm_relu")),
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

/// Pyramid pooling of the smallest map, a feature pyramid from there, and the fusion of all its levels.
#[derive(Module, Debug)]
pub struct UPerNetDecoder {
    /// Norms of the maps' channels, the largest map's first.
    pub feature_norms: Vec<LayerNorm2d>,
    /// Pyramid pooling.
    pub psp: UPerNetPyramid,
    /// 1×1 of the other maps, the smallest first.
    pub fpn_lateral_blocks: Vec<UPerNetLateral>,
    /// 3×3 of the levels, the smallest first.
    pub fpn_conv_blocks: Vec<ConvBlock>,
    /// 3×3 over all levels at the largest one's size.
    pub fusion_block: ConvBlock,
}

/// A map with its means over regions of several sizes.
#[derive(Module, Debug)]
pub struct UPerNetPyramid {
    /// Means, one block a size.
    pub blocks: Vec<UPerNetPooling>,
    /// 3×3 over the map and its means.
    pub out_conv: ConvBlock,
}

/// Means over regions.
#[derive(Module, Debug)]
pub struct UPerNetPooling {
    /// 1×1 of the means.
    pub conv: ConvBlock,
    #[module(skip)]
    size: usize,
}

/// Lateral connection of a map.
#[derive(Module, Debug)]
pub struct UPerNetLateral {
    /// 1×1.
    pub conv: ConvBlock,
}

impl UPerNetDecoder {
    /// `maps`: the largest first.
    fn forward(&self, maps: Vec<Tensor<4>>) -> Tensor<4> {
        let mut maps: Vec<Tensor<4>> =
            maps.into_iter().zip(&self.feature_norms).map(|(map, norm)| norm.forward(map)).collect();
        let smallest = maps.pop().expect("there are four maps");
        let mut levels = vec![self.psp.forward(smallest)];
        for (map, lateral) in maps.into_iter().rev().zip(&self.fpn_lateral_blocks) {
            let lateral = lateral.conv.forward(map);
            let above = levels.last().expect("the first is there").clone();
            levels.push(resize_to(above, size(&lateral), false) + lateral);
        }
        let largest = levels.last().map(size).expect("there are four levels");
        let mut levels = levels.into_iter();
        let first = levels.next().map(|level| resize_to(level, largest, false));
        let others =
            levels.zip(&self.fpn_conv_blocks).map(|(level, conv)| resize_to(conv.forward(level), largest, false));
        let mut levels: Vec<Tensor<4>> = first.into_iter().chain(others).collect();
        levels.reverse();
        self.fusion_block.forward(levels)
    }
}

impl UPerNetPyramid {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let means = self.blocks.iter().map(|block| {
            let means = block.conv.forward(adaptive_avg_pool2d(x.clone(), block.size));
            resize_to(means, size(&x), false)
        });
        self.out_conv.forward([x.clone()].into_iter().chain(means).collect::<Vec<_>>())
    }
}

fn size(map: &Tensor<4>) -> [usize; 2] {
    let [_, _, height, width] = map.dims();
    [height, width]
}
