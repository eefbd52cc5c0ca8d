//! EfficientNet: Tan and Le, ICML 2019, <https://arxiv.org/abs/1905.11946>; as torchvision and timm have it.

use burn::{
    config::Config,
    module::Module,
    nn::{Dropout, DropoutConfig, Initializer},
    tensor::{Device, Tensor},
};

use super::{
    BackboneFamily, BackboneNetwork, ClassifierHead, Dilation, MobileNetV2Head, Stage, Stages, Variants,
    inverted_residuals::{Blocks, stem},
    rounded,
};
use crate::{
    ConfigError,
    bounds::product,
    layers::{Activation, ConvBlock, ConvBlockConfig, NormConfig, SqueezeExcitation, image_dropout},
    trace,
    weights::each_name,
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
    /// Maps that decoders take.
    #[config(default = "EfficientNetMaps::Stages")]
    pub maps: EfficientNetMaps,
    /// The normalization after each convolution.
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
struct StageSpec {
    expansion: usize,
    kernel: usize,
    stride: usize,
    /// Dilation of the first block, and of the others.
    dilations: [usize; 2],
    channels: usize,
    blocks: usize,
    /// Stride of the stage's map, were nothing dilated.
    natural_stride: usize,
}

impl EfficientNetConfig {
    /// B0.
    pub fn b0() -> Self {
        Self::new()
    }

    /// B1.
    pub fn b1() -> Self {
        Self::new().with_depth(1.1)
    }

    /// B2.
    pub fn b2() -> Self {
        Self::new().with_width(1.1).with_depth(1.2).with_dropout(0.3)
    }

    /// B3.
    pub fn b3() -> Self {
        Self::new().with_width(1.2).with_depth(1.4).with_dropout(0.3)
    }

    /// B4.
    pub fn b4() -> Self {
        Self::new().with_width(1.4).with_depth(1.8).with_dropout(0.4)
    }

    /// EfficientNet-Lite0, of TensorFlow's repository; as timm has it.
    pub fn lite0() -> Self {
        Self::new().with_lite(true)
    }

    /// Returns the config with TensorFlow's padding, and its epsilon and momentum of batch norm.
    pub fn tensorflow(self) -> Self {
        self.with_same_padding(true).with_norm(NormConfig::Batch { epsilon: 1e-3, momentum: 0.01 })
    }

    /// The network with random weights (Kaiming normal), without a classifier.
    pub fn init(&self, device: &Device) -> EfficientNet {
        BackboneFamily::init(self, device)
    }

    fn specs(&self) -> Vec<StageSpec> {
        // By what the stem leaves.
        let mut dilations = Dilation { natural: 2, output_stride: self.output_stride, first: self.dilate_first };
        let line = |(index, [expansion, kernel, stride, channels, blocks]): (usize, [usize; 5])| {
            let (stride, first) = dilations.next(stride);
            let (_, others) = dilations.next(1);
            let fixed = self.lite && (index == 0 || index == SETTINGS.len() - 1);
            StageSpec {
                expansion,
                kernel,
                stride,
                dilations: [first, others],
                channels: rounded(channels as f64 * self.width),
                blocks: if fixed { blocks } else { (blocks as f64 * self.depth).ceil() as usize },
                natural_stride: dilations.natural,
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
}

impl BackboneFamily for EfficientNetConfig {
    type Network = EfficientNet;

    const VARIANTS: Variants<Self> = &[
        ("efficientnet_b0", Self::b0),
        ("efficientnet_b1", Self::b1),
        ("efficientnet_b2", Self::b2),
        ("efficientnet_b3", Self::b3),
        ("efficientnet_b4", Self::b4),
        ("efficientnet_lite0", Self::lite0),
        ("tf_efficientnet_b0", || Self::b0().tensorflow()),
        ("tf_efficientnet_b1", || Self::b1().tensorflow()),
        ("tf_efficientnet_b2", || Self::b2().tensorflow()),
        ("tf_efficientnet_b3", || Self::b3().tensorflow()),
        ("tf_efficientnet_b4", || Self::b4().tensorflow()),
        ("tf_efficientnet_lite0", || Self::lite0().tensorflow()),
    ];

    fn stages(&self) -> Stages {
        let stage = |channels, natural_stride| Stage::new(channels, natural_stride, self.output_stride);
        let specs = self.specs().into_iter().map(|spec| stage(spec.channels, spec.natural_stride));
        let rows = [stage(self.stem(), 2)].into_iter().chain(specs).chain([stage(self.last(), 32)]);
        // Decoders do without the last convolution.
        let stride2 = usize::from(self.maps == EfficientNetMaps::Timm);
        Stages::new(rows).with_decoder_stages([stride2, 2, 3, 5, 7]).with_detection_stages([3, 5, 8])
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

    fn with_timm_layout(self) -> Self {
        self.with_dilate_first(false).with_maps(EfficientNetMaps::Timm)
    }

    fn with_encoder_layout(self, name: &str) -> Self {
        if name == "efficientnet-b0" { self.with_maps(EfficientNetMaps::Early) } else { self }
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (name, factor) in [("width", self.width), ("depth", self.depth)] {
            if !(0.1..=8.0).contains(&factor) {
                return Err(ConfigError::new(
                    format!("backbone {name}"),
                    format!("must be from 0.1 to 8, is {factor}"),
                ));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigError::new(
                "backbone dropout",
                format!("must be at least 0 and below 1, is {}", self.dropout),
            ));
        }
        super::check_output_stride(self.output_stride)
    }

    fn most_parameters(&self) -> u128 {
        let lines = self.specs();
        let from = [self.stem()].into_iter().chain(lines.iter().map(|line| line.channels));
        let of = |(line, from): (&StageSpec, usize)| {
            let channels = from.max(line.channels);
            // Two convolutions, the depthwise one, and the two of squeeze and excitation.
            product(&[line.blocks, channels * line.expansion, 3 * channels + line.kernel * line.kernel])
        };
        lines.iter().zip(from).map(of).sum()
    }

    fn hidden_channels(&self) -> Vec<usize> {
        let lines = self.specs();
        let from = [self.stem()].into_iter().chain(lines.iter().map(|line| line.channels));
        lines
            .iter()
            .zip(from)
            .flat_map(|(line, from)| [from, line.channels].map(|from| from * line.expansion))
            .collect()
    }

    fn init(&self, device: &Device) -> EfficientNet {
        let block = |[from, to]: [usize; 2], kernel: usize, stride, dilation, groups, activation| {
            ConvBlockConfig::new(from, to)
                .with_centered_kernel(kernel, dilation)
                .with_same_padding(self.same_padding)
                .with_stride(stride)
                .with_groups(groups)
                .with_initializer(Initializer::KaimingNormal { gain: 2f64.sqrt(), fan_out_only: true })
                .with_norm(self.norm.clone())
                .with_activation(activation)
                .init(device)
        };
        let activation = if self.lite { Activation::Relu6 } else { Activation::Silu };
        let lines = self.specs();
        let blocks: usize = lines.iter().map(|line| line.blocks).sum();
        let (mut from, mut done) = (self.stem(), 0);
        let mut inverted = |line: &StageSpec, first: bool| {
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

    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        ClassifierHead::MobileNetV2(MobileNetV2Head::new(self.last(), classes, self.dropout, device))
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

impl BackboneNetwork for EfficientNet {
    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
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

    /// timm's, and EfficientNet-PyTorch's.
    fn other_names(names: &[&str]) -> Vec<(String, String)> {
        let blocks = Blocks::new(names, true);
        let Some(last) = blocks.last() else { return Vec::new() };
        each_name(names, |parts| match *parts {
            ["features", stage, part, kind] if stage.parse() == Ok(last) => match part {
                "0" => vec![format!("conv_head.{kind}"), format!("_conv_head.{kind}")],
                "1" => vec![format!("bn2.{kind}"), format!("_bn1.{kind}")],
                _ => Vec::new(),
            },
            ["classifier", "1", kind] => vec![format!("classifier.{kind}"), format!("_fc.{kind}")],
            ["features", stage, block, "block", layer, part, kind] => match (stage.parse(), block.parse()) {
                (Ok(stage), Ok(block)) => {
                    blocks.others((stage, block), [layer, part, kind], (stage.saturating_sub(1), block))
                }
                _ => Vec::new(),
            },
            _ => stem(parts),
        })
    }

    fn freeze_stages(self, trainable: usize) -> Self {
        Self { features: super::freeze_layers(self.features, &[0, 2, 3, 4, 6], trainable), ..self }
    }

    fn torch_names_after(&self, stage: usize) -> Vec<String> {
        (stage + 1..self.features.len()).map(|stage| format!("features.{stage}.")).collect()
    }

    fn misfit(&self, contents: &[(String, Vec<usize>)]) -> Option<&'static str> {
        let is_theirs = |name: &str| name == "_conv_stem.weight" || name.ends_with("._conv_stem.weight");
        (!self.same_padding && contents.iter().any(|(name, _)| is_theirs(name))).then_some(
            "its names are EfficientNet-PyTorch's, which pads as TensorFlow; take a backbone `tf_efficientnet_`",
        )
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

/// Expansion to more channels, depthwise convolution, squeeze-and-excitation (but in EfficientNet-Lite), projection to few.
#[derive(Module, Debug)]
pub struct MbConv {
    /// The layers.
    pub block: Vec<EfficientNetLayer>,
    /// Drops the block for some images in training: stochastic depth, Huang et al., ECCV 2016, <https://arxiv.org/abs/1603.09382>.
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
    /// Convolution with norm and activation.
    Block(ConvBlock),
    /// Weighs channels.
    Squeeze(SqueezeExcitation),
}
