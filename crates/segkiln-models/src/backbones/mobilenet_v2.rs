//! MobileNetV2: Sandler et al., CVPR 2018, <https://arxiv.org/abs/1801.04381>; as torchvision has it.

use burn::{
    config::Config,
    module::Module,
    nn::{
        Initializer,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use super::{
    BackboneFamily, BackboneNetwork, ClassifierHead, Dilation, MobileNetV2Head, Stage, Stages, Variants, rounded,
};
use crate::{
    ConfigError,
    layers::{Activation, ConvBlock, ConvBlockConfig, Norm, NormConfig, conv_norm},
    trace,
};

/// Expansion, channels, blocks, stride of the first block.
const SETTINGS: [[usize; 4]; 7] =
    [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]];
/// Channels of the stem.
const STEM: usize = 32;
/// Channels of the last layer.
const LAST: usize = 1280;

/// Configuration of a [`MobileNetV2`].
#[derive(Config, Debug)]
pub struct MobileNetV2Config {
    /// Channels of the image.
    #[config(default = 3)]
    pub in_channels: usize,
    /// Pixels of the image from one value of the last map to the next: 8, 16 or 32. Blocks that would make it more dilate.
    #[config(default = 32)]
    pub output_stride: usize,
    /// The normalization after each convolution.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
}

/// A block of the paper's table.
struct BlockSpec {
    expansion: usize,
    channels: usize,
    stride: usize,
    dilation: usize,
    /// Stride of the block's map, were nothing dilated.
    natural_stride: usize,
}

impl MobileNetV2Config {
    /// The network with random weights (Kaiming normal), without a classifier.
    pub fn init(&self, device: &Device) -> MobileNetV2 {
        BackboneFamily::init(self, device)
    }

    fn blocks(&self) -> Vec<BlockSpec> {
        // By what the stem leaves.
        let mut dilations = Dilation { natural: 2, output_stride: self.output_stride, first: true };
        let mut lines = Vec::new();
        for [expansion, channels, blocks, stride] in SETTINGS {
            for block in 0..blocks {
                let (stride, dilation) = dilations.next(if block == 0 { stride } else { 1 });
                let (channels, natural_stride) = (rounded(channels as f64), dilations.natural);
                lines.push(BlockSpec { expansion, channels, stride, dilation, natural_stride });
            }
        }
        lines
    }
}

impl BackboneFamily for MobileNetV2Config {
    type Network = MobileNetV2;

    const VARIANTS: Variants<Self> = &[("mobilenet_v2", Self::new)];

    fn stages(&self) -> Stages {
        let stage = |channels, natural_stride| Stage::new(channels, natural_stride, self.output_stride);
        let blocks = self.blocks().into_iter().map(|block| stage(block.channels, block.natural_stride));
        let rows = [stage(STEM, 2)].into_iter().chain(blocks).chain([stage(LAST, 32)]);
        // The block that has the last stride, and the last convolution.
        Stages::new(rows).with_detection_stages([14, 18])
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        Self { in_channels, ..self }
    }

    fn norm(&self) -> Option<&NormConfig> {
        Some(&self.norm)
    }

    fn with_norm(self, norm: NormConfig) -> Self {
        Self { norm, ..self }
    }

    fn with_output_stride(self, output_stride: usize) -> Self {
        Self { output_stride, ..self }
    }

    fn check(&self) -> Result<(), ConfigError> {
        super::check_output_stride(self.output_stride)
    }

    fn hidden_channels(&self) -> Vec<usize> {
        let from = [STEM].into_iter().chain(self.blocks().into_iter().map(|block| block.channels));
        from.zip(self.blocks()).map(|(from, block)| from * block.expansion).collect()
    }

    fn init(&self, device: &Device) -> MobileNetV2 {
        let block = |from, to, kernel: usize, stride, dilation, groups| {
            ConvBlockConfig::new(from, to)
                .with_centered_kernel(kernel, dilation)
                .with_stride(stride)
                .with_groups(groups)
                .with_initializer(initializer())
                .with_norm(self.norm.clone())
                .with_activation(Activation::Relu6)
                .init(device)
        };
        let mut channels = STEM;
        let inverted = |BlockSpec { expansion, channels: to, stride, dilation, .. }: BlockSpec| {
            let from = std::mem::replace(&mut channels, to);
            let hidden = from * expansion;
            let expand = (expansion != 1).then(|| MobileNetV2Layer::Block(block(from, hidden, 1, 1, 1, 1)));
            let depthwise = MobileNetV2Layer::Block(block(hidden, hidden, 3, stride, dilation, hidden));
            let project = Conv2dConfig::new([hidden, to], [1, 1]).with_bias(false).with_initializer(initializer());
            let project = MobileNetV2Layer::Project(project.init(device));
            let norm = self.norm.init(to, device).map(MobileNetV2Layer::Norm);
            MobileNetV2Stage::Inverted(InvertedResidual {
                conv: expand.into_iter().chain([depthwise, project]).chain(norm).collect(),
                residual: stride == 1 && from == to,
            })
        };
        let stem = MobileNetV2Stage::Block(block(self.in_channels, STEM, 3, 2, 1, 1));
        let middle: Vec<_> = self.blocks().into_iter().map(inverted).collect();
        let last = MobileNetV2Stage::Block(block(channels, LAST, 1, 1, 1, 1));
        MobileNetV2 { features: [stem].into_iter().chain(middle).chain([last]).collect() }
    }

    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        ClassifierHead::MobileNetV2(MobileNetV2Head::new(LAST, classes, 0.2, device))
    }
}

fn initializer() -> Initializer {
    Initializer::KaimingNormal { gain: 2f64.sqrt(), fan_out_only: true }
}

/// The network; see [`MobileNetV2Config`]. Its stages: 0 the stem, 1 to 17 the blocks, 18 the last convolution.
#[derive(Module, Debug)]
pub struct MobileNetV2 {
    /// One a stage.
    pub features: Vec<MobileNetV2Stage>,
}

impl BackboneNetwork for MobileNetV2 {
    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        super::collect(self.features.iter(), x, stages, |layer, x| layer.forward(x))
    }

    fn freeze_stages(self, trainable: usize) -> Self {
        Self { features: super::freeze_layers(self.features, &[0, 2, 4, 7, 14, 18], trainable) }
    }
}

/// A stage of the network.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum MobileNetV2Stage {
    /// A convolution by itself.
    Block(ConvBlock),
    /// A block of the paper.
    Inverted(InvertedResidual),
}

impl MobileNetV2Stage {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Block(block) => block.forward(x),
            Self::Inverted(block) => block.forward(x),
        }
    }
}

/// Expansion to more channels, depthwise convolution, projection to few.
#[derive(Module, Debug)]
pub struct InvertedResidual {
    /// The layers.
    pub conv: Vec<MobileNetV2Layer>,
    #[module(skip)]
    residual: bool,
}

/// A layer of a block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum MobileNetV2Layer {
    /// Convolution with norm and activation.
    Block(ConvBlock),
    /// The last convolution.
    Project(Conv2d),
    /// Its norm.
    Norm(Norm),
}

impl InvertedResidual {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut y = x.clone();
        for (index, layer) in self.conv.iter().enumerate() {
            y = match (layer, self.conv.get(index + 1)) {
                (MobileNetV2Layer::Block(block), _) => block.forward(y),
                (MobileNetV2Layer::Project(conv), Some(MobileNetV2Layer::Norm(norm))) => {
                    conv_norm(conv, Some(norm), Activation::Identity, y)
                }
                (MobileNetV2Layer::Project(conv), _) => conv_norm(conv, None, Activation::Identity, y),
                // Computed with its convolution.
                (MobileNetV2Layer::Norm(_), _) => y,
            };
        }
        trace::module(self, if self.residual { x + y } else { y })
    }
}
