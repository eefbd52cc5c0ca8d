//! EfficientNet: Tan and Le, ICML 2019, <https://arxiv.org/abs/1905.11946>; as torchvision and timm have it.

use burn::{
    config::Config,
    module::Module,
    nn::{Dropout, DropoutConfig, Initializer},
    tensor::{Device, Tensor},
};

use super::{Dilation, rounded};
use crate::{
    bounds::product,
    layers::{Activation, ConvBlock, ConvBlockConfig, NormConfig, SqueezeExcitation, image_dropout},
    trace,
};

/// Expansion, kernel, stride, channels and blocks of B0's stages.
const SETTINGS: [[usize; 5]; 7] = [
    [1, 3, 1, 16, 1],
    [6, 3, 2, 24, 2],
    [6, 5, 2, 40, 2],
    [6, 3, 2, 80, 3],
    [6, 5, 1, 112, 3],
    [6, 5, 2, 192, 4],
    [6, 3, 1, 320, 1],
];
/// Channels of B0's stem.
const STEM: usize = 32;
/// Share of images for which the last block is left out in training; earlier blocks have less.
const DROPPED: f64 = 0.2;

/// Configuration of an [`EfficientNet`].
#[derive(Config, Debug)]
pub struct EfficientNetConfig {
    /// Width multiplier: the factor of B0's channels.
    #[config(default = 1.0)]
    pub width: f64,
    /// Depth multiplier: the factor of B0's numbers of blocks.
    #[config(default = 1.0)]
    pub depth: f64,
    /// Share of the values before the classes of torchvision's classifier that are dropped in training.
    #[config(default = 0.2)]
    pub dropout: f64,
    /// Channels of the image.
    #[config(default = 3)]
    pub in_channels: usize,
    /// Pixels of the image from one value of the last map to the next: 8, 16 or 32. Blocks that would make it more dilate.
    #[config(default = 32)]
    pub output_stride: usize,
    /// Whether the first of them does too, as segmentation_models_pytorch's, or only those after it, as timm's.
    #[config(default = true)]
    pub dilate_first: bool,
    /// Whether it is EfficientNet-Lite: no weighing of channels, ReLU6 in place of SiLU, and B0's stem, last convolution
    /// and numbers of blocks in the first and the last stage.
    #[config(default = false)]
    pub lite: bool,
    /// Whether convolutions pad as TensorFlow's, in which the paper's weights were learned; see
    /// [`same_padding`](ConvBlockConfig::same_padding).
    #[config(default = false)]
    pub same_padding: bool,
    /// Which maps decoders take.
    #[config(default = "EfficientNetMaps::Stages")]
    pub maps: EfficientNetMaps,
    /// The normalisation after each convolution.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
}

/// The maps of strides 2 and 16 that decoders take.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum EfficientNetMaps {
    /// The stem's and stage 5's, as segmentation_models_pytorch of its own EfficientNets.
    Stages,
    /// The stem's and that of stage 5's first block, as segmentation_models_pytorch of `efficientnet-b0`.
    Early,
    /// Stage 1's and stage 5's, as timm.
    Timm,
}

/// A stage of the paper's table, for a network's width and depth.
struct Line {
    expansion: usize,
    kernel: usize,
    stride: usize,
    /// Dilation of the first block, and of the others.
    dilations: [usize; 2],
    channels: usize,
    blocks: usize,
}

impl EfficientNetConfig {
    /// B0 to B4.
    pub fn b(number: usize) -> Option<Self> {
        let (width, depth, dropout) = match number {
            0 => (1.0, 1.0, 0.2),
            1 => (1.0, 1.1, 0.2),
            2 => (1.1, 1.2, 0.3),
            3 => (1.2, 1.4, 0.3),
            4 => (1.4, 1.8, 0.4),
            _ => return None,
        };
        Some(Self::new().with_width(width).with_depth(depth).with_dropout(dropout))
    }

    /// EfficientNet-Lite0, of TensorFlow's repository; as timm has it.
    pub fn lite0() -> Self {
        Self::new().with_lite(true)
    }

    /// Returns the config with TensorFlow's padding, and its epsilon and momentum of batch norm.
    pub fn tensorflow(self) -> Self {
        self.with_same_padding(true).with_norm(NormConfig::Batch { epsilon: 1e-3, momentum: 0.01 })
    }

    fn lines(&self) -> Vec<Line> {
        // By what the stem leaves.
        let mut dilation = Dilation { natural: 2, output_stride: self.output_stride, first: self.dilate_first };
        let line = |(index, [expansion, kernel, stride, channels, blocks]): (usize, [usize; 5])| {
            let (stride, first) = dilation.next(stride);
            let (_, others) = dilation.next(1);
            let fixed = self.lite && (index == 0 || index == SETTINGS.len() - 1);
            Line {
                expansion,
                kernel,
                stride,
                dilations: [first, others],
                channels: rounded(channels as f64 * self.width),
                blocks: if fixed { blocks } else { (blocks as f64 * self.depth).ceil() as usize },
            }
        };
        SETTINGS.into_iter().enumerate().map(line).collect()
    }

    fn stem(&self) -> usize {
        if self.lite { STEM } else { rounded(STEM as f64 * self.width) }
    }

    /// Channels of the last convolution.
    fn last(&self) -> usize {
        let [.., [_, _, _, channels, _]] = SETTINGS;
        4 * if self.lite { channels } else { rounded(channels as f64 * self.width) }
    }

    pub(super) fn channels(&self) -> Vec<usize> {
        let channels = self.lines().into_iter().map(|line| line.channels);
        [self.stem()].into_iter().chain(channels).chain([self.last()]).collect()
    }

    /// Channels within the blocks of each stage.
    pub(super) fn hidden(&self) -> Vec<usize> {
        let lines = self.lines();
        let from = [self.stem()].into_iter().chain(lines.iter().map(|line| line.channels));
        lines
            .iter()
            .zip(from)
            .flat_map(|(line, from)| [from, line.channels].map(|from| from * line.expansion))
            .collect()
    }

    /// The stage of stride 2 of which decoders take a map.
    pub(super) fn half(&self) -> usize {
        usize::from(self.maps == EfficientNetMaps::Timm)
    }

    pub(super) fn strides(&self) -> Vec<usize> {
        super::total_strides([2].into_iter().chain(self.lines().iter().map(|line| line.stride)).chain([1]))
    }

    /// Upper bound of the number of parameters.
    pub(super) fn most_parameters(&self) -> u128 {
        let lines = self.lines();
        let from = [self.stem()].into_iter().chain(lines.iter().map(|line| line.channels));
        let of = |(line, from): (&Line, usize)| {
            let channels = from.max(line.channels);
            // Two convolutions, the depthwise one, and the two of squeeze and excitation.
            product(&[line.blocks, channels * line.expansion, 3 * channels + line.kernel * line.kernel])
        };
        lines.iter().zip(from).map(of).sum()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        for (name, factor) in [("width", self.width), ("depth", self.depth)] {
            if !(0.1..=8.0).contains(&factor) {
                return Err(format!("backbone {name} must be from 0.1 to 8, is {factor}"));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("backbone dropout must be at least 0 and below 1, is {}", self.dropout));
        }
        super::check_output_stride(self.output_stride)
    }

    /// The network with random weights (Kaiming normal), without a classifier.
    pub fn init(&self, device: &Device) -> EfficientNet {
        let block = |[from, to]: [usize; 2], kernel: usize, stride, dilation, groups, activation| {
            ConvBlockConfig::new(from, to)
                .with_kernel(kernel)
                .with_padding(kernel / 2 * dilation)
                .with_same_padding(self.same_padding)
                .with_stride(stride)
                .with_dilation(dilation)
                .with_groups(groups)
                .with_initializer(Initializer::KaimingNormal { gain: 2f64.sqrt(), fan_out_only: true })
                .with_norm(self.norm.clone())
                .with_activation(activation)
                .init(device)
        };
        let activation = if self.lite { Activation::Relu6 } else { Activation::Silu };
        let lines = self.lines();
        let blocks: usize = lines.iter().map(|line| line.blocks).sum();
        let (mut from, mut done) = (self.stem(), 0);
        let mut inverted = |line: &Line, first: bool| {
            let to = line.channels;
            let (stride, dilation) = if first { (line.stride, line.dilations[0]) } else { (1, line.dilations[1]) };
            let from = std::mem::replace(&mut from, to);
            let hidden = from * line.expansion;
            let expand = (hidden != from).then(|| block([from, hidden], 1, 1, 1, 1, activation));
            let depthwise = block([hidden, hidden], line.kernel, stride, dilation, hidden, activation);
            let squeeze = (!self.lite).then(|| {
                let squeezed = (from / 4).max(1);
                SqueezeExcitation::new([hidden, squeezed], [activation, Activation::Sigmoid], device)
            });
            let project = block([hidden, to], 1, 1, 1, 1, Activation::Identity);
            let dropped = DROPPED * done as f64 / blocks as f64;
            done += 1;
            MbConv {
                block: (expand.into_iter().chain([depthwise]).map(EfficientNetLayer::Block))
                    .chain(squeeze.map(EfficientNetLayer::Squeeze))
                    .chain([EfficientNetLayer::Block(project)])
                    .collect(),
                dropped: DropoutConfig::new(dropped).init(),
                residual: stride == 1 && from == to,
            }
        };
        let middle: Vec<EfficientNetStage> = lines
            .iter()
            .map(|line| EfficientNetStage::Blocks((0..line.blocks).map(|index| inverted(line, index == 0)).collect()))
            .collect();
        let stem = block([self.in_channels, self.stem()], 3, 2, 1, 1, activation);
        let last = block([from, self.last()], 1, 1, 1, 1, activation);
        EfficientNet {
            features: [EfficientNetStage::Block(stem)]
                .into_iter()
                .chain(middle)
                .chain([EfficientNetStage::Block(last)])
                .collect(),
            early: self.maps == EfficientNetMaps::Early,
            same_padding: self.same_padding,
        }
    }
}

/// The network; see [`EfficientNetConfig`]. Its stages: 0 the stem, 1 to 7 the paper's, 8 the last convolution.
#[derive(Module, Debug)]
pub struct EfficientNet {
    /// One a stage.
    pub features: Vec<EfficientNetStage>,
    #[module(skip)]
    early: bool,
    #[module(skip)]
    same_padding: bool,
}

impl EfficientNet {
    /// Whether convolutions pad as TensorFlow's.
    pub fn same_padding(&self) -> bool {
        self.same_padding
    }

    pub(super) fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        let mut early = None;
        let mut maps = super::collect(self.features.iter().enumerate(), x, stages, |(stage, layer), x| match layer {
            EfficientNetStage::Blocks(blocks) if self.early && stage == EARLY => {
                let x = blocks[0].forward(x);
                early = Some(x.clone());
                blocks[1..].iter().fold(x, |x, block| block.forward(x))
            }
            layer => layer.forward(x),
        });
        if let (Some(map), Some(at)) = (early, stages.iter().position(|stage| *stage == EARLY)) {
            maps[at] = map;
        }
        maps
    }

    pub(super) fn freeze_stages(self, trainable: usize) -> Self {
        Self { features: super::freeze_layers(self.features, &[0, 2, 3, 4, 6], trainable), ..self }
    }
}

/// The stage of [`EfficientNetMaps::Early`].
const EARLY: usize = 5;

/// A stage of the network.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum EfficientNetStage {
    /// A convolution by itself.
    Block(ConvBlock),
    /// Blocks of the paper.
    Blocks(Vec<MbConv>),
}

impl EfficientNetStage {
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Block(block) => block.forward(x),
            Self::Blocks(blocks) => blocks.iter().fold(x, |x, block| block.forward(x)),
        }
    }
}

/// To more channels, each by itself, weighed (but in EfficientNet-Lite), back to few.
#[derive(Module, Debug)]
pub struct MbConv {
    /// The layers.
    pub block: Vec<EfficientNetLayer>,
    /// In training, of some images: stochastic depth, Huang et al., ECCV 2016, <https://arxiv.org/abs/1603.09382>.
    pub dropped: Dropout,
    #[module(skip)]
    residual: bool,
}

impl MbConv {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.block.iter().fold(x.clone(), |y, layer| match layer {
            EfficientNetLayer::Block(block) => block.forward(y),
            EfficientNetLayer::Squeeze(squeeze) => squeeze.forward(y),
        });
        trace::module(self, if self.residual { x + image_dropout(&self.dropped, y) } else { y })
    }
}

/// A layer of a block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum EfficientNetLayer {
    /// With norm and activation.
    Block(ConvBlock),
    /// Weighs channels.
    Squeeze(SqueezeExcitation),
}
