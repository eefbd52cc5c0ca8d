//! MobileNetV3: Howard et al., ICCV 2019, <https://arxiv.org/abs/1905.02244>; as torchvision and timm have it.

use burn::{
    config::Config,
    module::Module,
    nn::Initializer,
    tensor::{Device, Tensor},
};

use super::{
    BackboneFamily, BackboneNetwork, ClassifierHead, Dilation, MobileNetV3Head, Stage, Stages, Variants,
    inverted_residuals::{Blocks, stem},
    rounded,
};
use crate::{
    ConfigError,
    layers::{Activation, ConvBlock, ConvBlockConfig, NormConfig, SqueezeExcitation},
    trace,
    weights::each_name,
};

/// Channels of the stem.
const STEM: usize = 16;

/// Blocks of each of timm's stages, small and large.
const TIMM_BLOCKS: [&[usize]; 2] = [&[1, 2, 3, 2, 3], &[1, 2, 3, 4, 2, 3]];

/// One of the paper's two networks.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum MobileNetV3Size {
    /// 15 blocks.
    Large,
    /// 11 blocks.
    Small,
}

/// Configuration of a [`MobileNetV3`].
#[derive(Config, Debug)]
pub struct MobileNetV3Config {
    /// One of the paper's two networks.
    pub size: MobileNetV3Size,
    /// Channels of the image.
    #[config(default = 3)]
    pub in_channels: usize,
    /// Pixels of the image from one value of the last map to the next: 8, 16 or 32. Blocks that would make it more dilate.
    #[config(default = 32)]
    pub output_stride: usize,
    /// Whether the first of them does too, as torchvision's, or only those after it, as timm's.
    #[config(default = true)]
    pub dilate_first: bool,
    /// Whether convolutions pad as TensorFlow's, in which the paper's weights were learned; see
    /// [`same_padding`](ConvBlockConfig::same_padding).
    #[config(default = false)]
    pub same_padding: bool,
    /// The normalization after each convolution; torchvision's detectors have PyTorch's epsilon and momentum instead.
    #[config(default = "NormConfig::Batch { epsilon: 1e-3, momentum: 0.01 }")]
    pub norm: NormConfig,
}

/// A block of the paper's tables.
struct BlockSpec {
    kernel: usize,
    hidden: usize,
    channels: usize,
    squeeze: bool,
    activation: Activation,
    stride: usize,
    dilation: usize,
    /// Stride of the block's map, were nothing dilated.
    natural_stride: usize,
}

impl MobileNetV3Config {
    /// Returns the config with TensorFlow's padding.
    pub fn tensorflow(self) -> Self {
        self.with_same_padding(true)
    }

    /// The network with random weights (Kaiming normal), without a classifier.
    pub fn init(&self, device: &Device) -> MobileNetV3 {
        BackboneFamily::init(self, device)
    }

    /// timm's, with PyTorch's epsilon and momentum.
    fn timm(size: MobileNetV3Size) -> Self {
        Self::new(size).with_norm(NormConfig::default())
    }

    /// The first stages of torchvision's groups: the stem, the blocks with a stride, the last convolution.
    fn groups(&self) -> [usize; 6] {
        match self.size {
            MobileNetV3Size::Large => [0, 2, 4, 7, 13, 16],
            MobileNetV3Size::Small => [0, 1, 2, 4, 9, 12],
        }
    }

    fn blocks(&self) -> Vec<BlockSpec> {
        use Activation::{HardSwish, Relu};
        let lines: &[(usize, usize, usize, bool, Activation, usize)] = match self.size {
            MobileNetV3Size::Large => &[
                (3, 16, 16, false, Relu, 1),
                (3, 64, 24, false, Relu, 2),
                (3, 72, 24, false, Relu, 1),
                (5, 72, 40, true, Relu, 2),
                (5, 120, 40, true, Relu, 1),
                (5, 120, 40, true, Relu, 1),
                (3, 240, 80, false, HardSwish, 2),
                (3, 200, 80, false, HardSwish, 1),
                (3, 184, 80, false, HardSwish, 1),
                (3, 184, 80, false, HardSwish, 1),
                (3, 480, 112, true, HardSwish, 1),
                (3, 672, 112, true, HardSwish, 1),
                (5, 672, 160, true, HardSwish, 2),
                (5, 960, 160, true, HardSwish, 1),
                (5, 960, 160, true, HardSwish, 1),
            ],
            MobileNetV3Size::Small => &[
                (3, 16, 16, true, Relu, 2),
                (3, 72, 24, false, Relu, 2),
                (3, 88, 24, false, Relu, 1),
                (5, 96, 40, true, HardSwish, 2),
                (5, 240, 40, true, HardSwish, 1),
                (5, 240, 40, true, HardSwish, 1),
                (5, 120, 48, true, HardSwish, 1),
                (5, 144, 48, true, HardSwish, 1),
                (5, 288, 96, true, HardSwish, 2),
                (5, 576, 96, true, HardSwish, 1),
                (5, 576, 96, true, HardSwish, 1),
            ],
        };
        // By what the stem leaves.
        let mut dilations = Dilation { natural: 2, output_stride: self.output_stride, first: self.dilate_first };
        let line = |&(kernel, hidden, channels, squeeze, activation, stride): &_| {
            let (stride, dilation) = dilations.next(stride);
            let natural_stride = dilations.natural;
            BlockSpec { kernel, hidden, channels, squeeze, activation, stride, dilation, natural_stride }
        };
        lines.iter().map(line).collect()
    }
}

impl BackboneFamily for MobileNetV3Config {
    type Network = MobileNetV3;

    const VARIANTS: Variants<Self> = &[
        ("mobilenet_v3_large", || Self::new(MobileNetV3Size::Large)),
        ("mobilenet_v3_small", || Self::new(MobileNetV3Size::Small)),
        ("mobilenetv3_large_100", || Self::timm(MobileNetV3Size::Large)),
        ("mobilenetv3_small_100", || Self::timm(MobileNetV3Size::Small)),
        ("tf_mobilenetv3_large_100", || Self::new(MobileNetV3Size::Large).tensorflow()),
        ("tf_mobilenetv3_small_100", || Self::new(MobileNetV3Size::Small).tensorflow()),
    ];

    fn stages(&self) -> Stages {
        let stage = |channels, natural_stride| Stage::new(channels, natural_stride, self.output_stride);
        let blocks = self.blocks();
        let last = 6 * blocks.last().map_or(0, |block| block.channels);
        let blocks = blocks.into_iter().map(|block| stage(block.channels, block.natural_stride));
        let rows = [stage(STEM, 2)].into_iter().chain(blocks).chain([stage(last, 32)]);
        // As torchvision: the block that has the last stride, and the last convolution; the first block of stride 8.
        let [.., stride8, _, stride32, end] = self.groups();
        Stages::new(rows).with_detection_stages([stride32, end]).with_aux_stage(stride8)
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

    fn with_torchvision_dilation(self) -> Self {
        self.with_output_stride(16)
    }

    fn with_timm_layout(self) -> Self {
        self.with_dilate_first(false)
    }

    fn min_proposal_score(&self) -> f32 {
        0.05
    }

    fn check(&self) -> Result<(), ConfigError> {
        super::check_output_stride(self.output_stride)
    }

    fn hidden_channels(&self) -> Vec<usize> {
        self.blocks().iter().map(|line| line.hidden).collect()
    }

    fn init(&self, device: &Device) -> MobileNetV3 {
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
        let mut from = STEM;
        let inverted = |line: &BlockSpec| {
            let BlockSpec { kernel, hidden, channels, activation, stride, dilation, .. } = *line;
            let expand =
                (hidden != from).then(|| MobileNetV3Layer::Block(block([from, hidden], 1, 1, 1, 1, activation)));
            let depthwise =
                MobileNetV3Layer::Block(block([hidden, hidden], kernel, stride, dilation, hidden, activation));
            let squeeze = line.squeeze.then(|| {
                let squeezed = rounded((hidden / 4) as f64);
                let activations = [Activation::Relu, Activation::HardSigmoid];
                MobileNetV3Layer::Squeeze(SqueezeExcitation::new([hidden, squeezed], activations, device))
            });
            let project = MobileNetV3Layer::Block(block([hidden, channels], 1, 1, 1, 1, Activation::Identity));
            let residual = stride == 1 && from == channels;
            from = channels;
            let layers = expand.into_iter().chain([depthwise]).chain(squeeze).chain([project]);
            MobileNetV3Stage::Inverted(InvertedResidualV3 { block: layers.collect(), residual })
        };
        let stem = MobileNetV3Stage::Block(block([self.in_channels, STEM], 3, 2, 1, 1, Activation::HardSwish));
        let middle: Vec<_> = self.blocks().iter().map(inverted).collect();
        let last = MobileNetV3Stage::Block(block([from, 6 * from], 1, 1, 1, 1, Activation::HardSwish));
        MobileNetV3 { features: [stem].into_iter().chain(middle).chain([last]).collect(), groups: self.groups().into() }
    }

    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        let hidden = match self.size {
            MobileNetV3Size::Large => 1280,
            MobileNetV3Size::Small => 1024,
        };
        ClassifierHead::MobileNetV3(MobileNetV3Head::new(self.stages().last_channels(), hidden, classes, device))
    }
}

/// The network; see [`MobileNetV3Config`]. Its stages: 0 the stem, then the blocks, last a convolution.
#[derive(Module, Debug)]
pub struct MobileNetV3 {
    /// One a stage.
    pub features: Vec<MobileNetV3Stage>,
    /// The first stages of the groups that freeze together.
    #[module(skip)]
    groups: Vec<usize>,
}

impl BackboneNetwork for MobileNetV3 {
    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        super::collect(self.features.iter(), x, stages, |layer, x| layer.forward(x))
    }

    /// timm's, whose stages have a list of blocks each.
    fn other_names(names: &[&str]) -> Vec<(String, String)> {
        let blocks = Blocks::new(names, false);
        let count = blocks.count();
        let stages = TIMM_BLOCKS.into_iter().find(|stages| stages.iter().sum::<usize>() == count);
        let (Some(stages), Some(last)) = (stages, blocks.last()) else { return Vec::new() };
        each_name(names, |parts| match *parts {
            ["features", stage, part, kind] if stage.parse() == Ok(last) => match part {
                "0" => vec![format!("blocks.{}.0.conv.{kind}", stages.len())],
                "1" => vec![format!("blocks.{}.0.bn1.{kind}", stages.len())],
                _ => Vec::new(),
            },
            ["classifier", "0", kind] => vec![format!("conv_head.{kind}")],
            ["classifier", "3", kind] => vec![format!("classifier.{kind}")],
            ["features", stage, "block", layer, part, kind] => match stage.parse::<usize>() {
                Ok(stage) => {
                    let (mut timm, mut rest) = (0, stage.saturating_sub(1));
                    while timm < stages.len() && rest >= stages[timm] {
                        rest -= stages[timm];
                        timm += 1;
                    }
                    blocks.others((stage, 0), [layer, part, kind], (timm, rest))
                }
                Err(_) => Vec::new(),
            },
            _ => stem(parts),
        })
    }

    fn freeze_stages(self, trainable: usize) -> Self {
        let features = super::freeze_layers(self.features, &self.groups, trainable);
        Self { features, groups: self.groups }
    }

    fn torch_names_after(&self, stage: usize) -> Vec<String> {
        (stage + 1..self.features.len()).map(|stage| format!("features.{stage}.")).collect()
    }
}

/// A stage of the network.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum MobileNetV3Stage {
    /// A convolution by itself.
    Block(ConvBlock),
    /// A block of the paper.
    Inverted(InvertedResidualV3),
}

impl MobileNetV3Stage {
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Block(block) => block.forward(x),
            Self::Inverted(block) => block.forward(x),
        }
    }
}

/// Expansion to more channels, depthwise convolution, squeeze-and-excitation, projection to few.
#[derive(Module, Debug)]
pub struct InvertedResidualV3 {
    /// The layers.
    pub block: Vec<MobileNetV3Layer>,
    #[module(skip)]
    residual: bool,
}

impl InvertedResidualV3 {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.block.iter().fold(x.clone(), |y, layer| match layer {
            MobileNetV3Layer::Block(block) => block.forward(y),
            MobileNetV3Layer::Squeeze(squeeze) => squeeze.forward(y),
        });
        trace::module(self, if self.residual { x + y } else { y })
    }
}

/// A layer of a block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum MobileNetV3Layer {
    /// Convolution with norm and activation.
    Block(ConvBlock),
    /// Weighs channels.
    Squeeze(SqueezeExcitation),
}
