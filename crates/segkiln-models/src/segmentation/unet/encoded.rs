//! U-Net on any encoder: the paper's decoder on a network that has learned elsewhere; as segmentation_models_pytorch has it.

use burn::{
    config::Config,
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};
use segkiln_ops::Joined;

use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{ConvBlock, ConvBlockConfig, conv2d, decoder_initializer, segmentation_head, upsample_nearest},
    precision::keep_reduced,
    segmentation::{SegmentationNetwork, on_backbone, owned, unused_stages},
    weights::{TorchName, TorchNames},
};

/// Configuration of an [`EncodedUNet`].
#[derive(Config, Debug)]
pub struct EncodedUNetConfig {
    /// Backbone.
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Channels of the decoder's levels, the smallest map's first.
    #[config(default = "[256, 128, 64, 32, 16]")]
    pub channels: [usize; 5],
}

impl EncodedUNetConfig {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        super::check_channels(&self.channels)
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> EncodedUNet {
        let stages = stages(&self.backbone);
        let mut of = stages.iter().rev().map(|stage| self.backbone.channels()[*stage]);
        let last = of.next().expect("there are at least four maps");
        let mut from = last;
        let skips = of.chain(std::iter::repeat(0));
        let blocks = self.channels.into_iter().zip(skips).map(|(to, skip)| {
            let from = std::mem::replace(&mut from, to);
            EncodedUNetBlock::new(from + skip, to, device)
        });
        let blocks = blocks.collect();
        let center = center(&self.backbone, last, device);
        EncodedUNet {
            encoder: self.backbone.init(device),
            decoder: EncodedUNetDecoder { center, blocks },
            segmentation_head: segmentation_head(self.channels[4], self.classes, 3, device),
            stages,
        }
    }
}

/// The network; see [`EncodedUNetConfig`].
#[derive(Module, Debug)]
pub struct EncodedUNet {
    /// Backbone.
    pub encoder: Backbone,
    /// The expanding path.
    pub decoder: EncodedUNetDecoder,
    /// 3×3 to the classes.
    pub segmentation_head: Conv2d,
    #[module(skip)]
    pub(crate) stages: Vec<usize>,
}

impl EncodedUNet {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        // All that happens to a map is in a layer.
        keep_reduced(|| self.decode(self.maps(x), [height, width]))
    }

    /// The encoder's maps, the largest first.
    pub(super) fn maps(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        self.encoder.forward(x, &self.stages)
    }

    /// The logits, of such maps and the image's height and width.
    pub(super) fn decode(&self, maps: Vec<Tensor<4>>, size: [usize; 2]) -> Tensor<4> {
        conv2d(&self.segmentation_head, self.decoder.forward(maps, size))
    }
}

/// The stages of which the decoder takes maps, the largest first.
pub(super) fn stages(encoder: &BackboneConfig) -> Vec<usize> {
    encoder.stride2_stage().into_iter().chain(encoder.pyramid_stages()).collect()
}

/// The expanding path.
#[derive(Module, Debug)]
pub struct EncodedUNetDecoder {
    /// 3×3 convolutions of the smallest map, where the encoder ends with a pooling.
    pub center: Vec<ConvBlock>,
    /// The smallest map's first.
    pub blocks: Vec<EncodedUNetBlock>,
}

/// Two 3×3 convolutions of an upsampled map and the encoder's.
#[derive(Module, Debug)]
pub struct EncodedUNetBlock {
    /// First convolution, of both maps.
    pub conv1: ConvBlock,
    /// Second convolution, of the first one's output.
    pub conv2: ConvBlock,
}

impl EncodedUNetBlock {
    pub(super) fn new(from: usize, to: usize, device: &Device) -> Self {
        Self { conv1: block(from, to, device), conv2: block(to, to, device) }
    }

    pub(super) fn forward(&self, x: impl Into<Joined>) -> Tensor<4> {
        self.conv2.forward(self.conv1.forward(x))
    }
}

fn block(from: usize, to: usize, device: &Device) -> ConvBlock {
    ConvBlockConfig::new(from, to).with_initializer(decoder_initializer()).init(device)
}

/// The center of segmentation_models_pytorch, where the encoder ends with a pooling.
pub(super) fn center(encoder: &BackboneConfig, channels: usize, device: &Device) -> Vec<ConvBlock> {
    let count = if encoder.stages().ends_with_pooling() { 2 } else { 0 };
    (0..count).map(|_| block(channels, channels, device)).collect()
}

/// Height and width of the encoder's map, or where it has none, of the image's halved so often: as in
/// segmentation_models_pytorch.
pub(super) fn skip_size(skip: Option<&Tensor<4>>, image: [usize; 2], level: usize) -> [usize; 2] {
    match skip {
        Some(skip) => [skip.dims()[2], skip.dims()[3]],
        None => image.map(|side| (side >> level).max(1)),
    }
}

impl EncodedUNetDecoder {
    /// `maps`: the largest first; `size`: the image's.
    fn forward(&self, mut maps: Vec<Tensor<4>>, size: [usize; 2]) -> Tensor<4> {
        let smallest = maps.pop().expect("there are at least four maps");
        let smallest = self.center.iter().fold(smallest, |x, block| block.forward(x));
        self.blocks.iter().rev().enumerate().rev().fold(smallest, |x, (level, block)| {
            let skip = maps.pop();
            let x = upsample_nearest(x, skip_size(skip.as_ref(), size, level));
            block.forward(match skip {
                Some(skip) => Joined::from([x, skip]),
                None => x.into(),
            })
        })
    }
}

on_backbone!(EncodedUNetConfig => EncodedUNet, "unet", |backbone, _| Ok(backbone));

impl SegmentationNetwork for EncodedUNet {
    type Config = EncodedUNetConfig;

    const TORCH_NAMES: TorchNames = &[("EncodedUNet", "segmentation_head", TorchName::Is("segmentation_head.0"))];

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
        unused_stages(&self.encoder, self.stages.last().copied())
    }
}
