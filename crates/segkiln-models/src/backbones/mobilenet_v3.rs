//! MobileNetV3: Howard et al., ICCV 2019, <https://arxiv.org/abs/1905.02244>; as torchvision and timm have it.

use burn::{
    config::Config,
    module::Module,
    nn::Initializer,
    tensor::{Device, Tensor},
};

use super::{Dilation, rounded};
use crate::{
    layers::{Activation, ConvBlock, ConvBlockConfig, NormConfig, SqueezeExcitation},
    trace,
};

/// Which of the paper's two networks.
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
    /// Which of the paper's two networks.
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
    /// The normalisation after each convolution; torchvision's detectors have PyTorch's epsilon and momentum instead.
    #[config(default = "NormConfig::Batch { epsilon: 1e-3, momentum: 0.01 }")]
    pub norm: NormConfig,
}

/// A line of the paper's tables.
struct Line {
    kernel: usize,
    hidden: usize,
    channels: usize,
    squeeze: bool,
    activation: Activation,
    stride: usize,
    dilation: usize,
}

impl MobileNetV3Config {
    /// Returns the config with TensorFlow's padding.
    pub fn tensorflow(self) -> Self {
        self.with_same_padding(true)
    }

    fn lines(&self) -> Vec<Line> {
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
        let mut dilation = Dilation { natural: 2, output_stride: self.output_stride, first: self.dilate_first };
        let line = |&(kernel, hidden, channels, squeeze, activation, stride): &_| {
            let (stride, dilation) = dilation.next(stride);
            Line { kernel, hidden, channels, squeeze, activation, stride, dilation }
        };
        lines.iter().map(line).collect()
    }

    pub(super) fn channels(&self) -> Vec<usize> {
        let mut channels: Vec<usize> = [16].into_iter().chain(self.lines().iter().map(|line| line.channels)).collect();
        channels.push(6 * channels[channels.len() - 1]);
        channels
    }

    /// Channels within each block.
    pub(super) fn hidden(&self) -> Vec<usize> {
        self.lines().iter().map(|line| line.hidden).collect()
    }

    pub(super) fn strides(&self) -> Vec<usize> {
        super::total_strides([2].into_iter().chain(self.lines().iter().map(|line| line.stride)).chain([1]))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        super::check_output_stride(self.output_stride)
    }

    /// The block that has the last stride, and the last convolution.
    pub(super) fn detection_stages(&self) -> Vec<usize> {
        match self.size {
            MobileNetV3Size::Large => vec![13, 16],
            MobileNetV3Size::Small => vec![9, 12],
        }
    }

    /// The last stage of stride 2.
    pub(super) fn half(&self) -> usize {
        match self.size {
            MobileNetV3Size::Large => 1,
            MobileNetV3Size::Small => 0,
        }
    }

    /// The last stages of the other strides.
    pub(super) fn pyramid(&self) -> [usize; 4] {
        match self.size {
            MobileNetV3Size::Large => [3, 6, 12, 16],
            MobileNetV3Size::Small => [1, 3, 8, 12],
        }
    }

    /// The first block of stride 8.
    pub(super) fn second_stage(&self) -> usize {
        match self.size {
            MobileNetV3Size::Large => 4,
            MobileNetV3Size::Small => 2,
        }
    }

    /// Channels before the classes of torchvision's classifier.
    pub(super) fn classifier_channels(&self) -> usize {
        match self.size {
            MobileNetV3Size::Large => 1280,
            MobileNetV3Size::Small => 1024,
        }
    }

    /// The network with random weights (Kaiming normal), without a classifier.
    pub fn init(&self, device: &Device) -> MobileNetV3 {
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
        let mut from = 16;
        let inverted = |line: &Line| {
            let Line { kernel, hidden, channels, activation, stride, dilation, .. } = *line;
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
        let stem = MobileNetV3Stage::Block(block([self.in_channels, 16], 3, 2, 1, 1, Activation::HardSwish));
        let middle: Vec<_> = self.lines().iter().map(inverted).collect();
        let last = MobileNetV3Stage::Block(block([from, 6 * from], 1, 1, 1, 1, Activation::HardSwish));
        MobileNetV3 {
            features: [stem].into_iter().chain(middle).chain([last]).collect(),
            groups: match self.size {
                MobileNetV3Size::Large => vec![0, 2, 4, 7, 13, 16],
                MobileNetV3Size::Small => vec![0, 1, 2, 4, 9, 12],
            },
        }
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

impl MobileNetV3 {
    pub(super) fn freeze_stages(self, trainable: usize) -> Self {
        let features = super::freeze_layers(self.features, &self.groups, trainable);
        Self { features, groups: self.groups }
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

/// To more channels, each by itself, weighed, back to few.
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
    /// With norm and activation.
    Block(ConvBlock),
    /// Weighs channels.
    Squeeze(SqueezeExcitation),
}
