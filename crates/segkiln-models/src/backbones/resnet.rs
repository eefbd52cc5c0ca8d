//! ResNet: He et al., CVPR 2016, <https://arxiv.org/abs/1512.03385>; ResNeXt: Xie et al., CVPR 2017,
//! <https://arxiv.org/abs/1611.05431>. As torchvision has them, with the stride in the 3×3 convolution of a bottleneck.

use burn::{
    config::Config,
    module::Module,
    nn::{
        Initializer, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use super::{BackboneFamily, BackboneNetwork, ClassifierHead, ResNetHead, Stage, Stages, Variants};
use crate::{
    ConfigError,
    bounds::product,
    layers::{Activation, ConvBlock, ConvBlockConfig, Norm, NormConfig, add_relu, conv_norm, max_pool2d_overlapping},
    trace,
};

/// Channels of the stem.
const STEM: usize = 64;

/// Kind of a ResNet's residual blocks.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum ResNetBlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3, 1×1 to four times the channels.
    Bottleneck,
}

/// Configuration of a [`ResNet`].
#[derive(Config, Debug)]
pub struct ResNetConfig {
    /// Kind of the residual blocks.
    pub block: ResNetBlockKind,
    /// Blocks of each of the four stages.
    pub layers: [usize; 4],
    /// Groups of the 3×3 convolutions of bottlenecks.
    #[config(default = 1)]
    pub groups: usize,
    /// Channels of each group in the first stage's bottlenecks.
    #[config(default = 64)]
    pub width: usize,
    /// Channels of the image.
    #[config(default = 3)]
    pub in_channels: usize,
    /// Whether the last three stages dilate instead of halving the map.
    #[config(default = "[false; 3]")]
    pub dilate: [bool; 3],
    /// Whether the first block of such a stage dilates as much as the others, as in segmentation_models_pytorch; in
    /// torchvision it dilates as the stage before.
    #[config(default = false)]
    pub dilate_first: bool,
    /// The normalization after each convolution.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
}

impl ResNetConfig {
    /// 18 layers.
    pub fn resnet18() -> Self {
        Self::new(ResNetBlockKind::Basic, [2, 2, 2, 2])
    }

    /// 34 layers.
    pub fn resnet34() -> Self {
        Self::new(ResNetBlockKind::Basic, [3, 4, 6, 3])
    }

    /// 50 layers.
    pub fn resnet50() -> Self {
        Self::new(ResNetBlockKind::Bottleneck, [3, 4, 6, 3])
    }

    /// 101 layers.
    pub fn resnet101() -> Self {
        Self::new(ResNetBlockKind::Bottleneck, [3, 4, 23, 3])
    }

    /// 152 layers.
    pub fn resnet152() -> Self {
        Self::new(ResNetBlockKind::Bottleneck, [3, 8, 36, 3])
    }

    /// ResNeXt of 50 layers with 32 groups.
    pub fn resnext50_32x4d() -> Self {
        Self::resnet50().with_groups(32).with_width(4)
    }

    /// ResNeXt of 101 layers with 32 groups.
    pub fn resnext101_32x8d() -> Self {
        Self::resnet101().with_groups(32).with_width(8)
    }

    /// ResNeXt of 101 layers with 64 groups.
    pub fn resnext101_64x4d() -> Self {
        Self::resnet101().with_groups(64).with_width(4)
    }

    /// The network with random weights (Kaiming normal), without a classifier.
    pub fn init(&self, device: &Device) -> ResNet {
        BackboneFamily::init(self, device)
    }

    /// Channels of the maps behind the stem.
    fn stage_channels(&self) -> [usize; 4] {
        [64, 128, 256, 512].map(|planes| planes * self.expansion())
    }

    fn expansion(&self) -> usize {
        match self.block {
            ResNetBlockKind::Basic => 1,
            ResNetBlockKind::Bottleneck => 4,
        }
    }

    /// `dilations`: of the convolution that has the stride, and of a 3×3 convolution after it.
    fn block(&self, from: usize, planes: usize, stride: usize, dilations: [usize; 2], device: &Device) -> ResNetBlock {
        let norm = |channels| self.norm.init(channels, device);
        let to = planes * self.expansion();
        let downsample = (stride != 1 || from != to).then(|| {
            ConvBlockConfig::new(from, to)
                .with_kernel(1)
                .with_padding(0)
                .with_stride(stride)
                .with_initializer(initializer())
                .with_norm(self.norm.clone())
                .with_activation(Activation::Identity)
                .init(device)
        });
        match self.block {
            ResNetBlockKind::Basic => ResNetBlock::Basic(BasicBlock {
                conv1: conv([from, planes], 3, stride, dilations[0], 1, device),
                bn1: norm(planes),
                conv2: conv([planes, planes], 3, 1, dilations[1], 1, device),
                bn2: norm(planes),
                downsample,
            }),
            ResNetBlockKind::Bottleneck => {
                let width = planes * self.width / 64 * self.groups;
                ResNetBlock::Bottleneck(Bottleneck {
                    conv1: conv([from, width], 1, 1, 1, 1, device),
                    bn1: norm(width),
                    conv2: conv([width, width], 3, stride, dilations[0], self.groups, device),
                    bn2: norm(width),
                    conv3: conv([width, to], 1, 1, 1, 1, device),
                    bn3: norm(to),
                    downsample,
                })
            }
        }
    }
}

impl BackboneFamily for ResNetConfig {
    type Network = ResNet;

    const VARIANTS: Variants<Self> = &[
        ("resnet18", Self::resnet18),
        ("resnet34", Self::resnet34),
        ("resnet50", Self::resnet50),
        ("resnet101", Self::resnet101),
        ("resnet152", Self::resnet152),
        ("resnext50_32x4d", Self::resnext50_32x4d),
        ("resnext101_32x8d", Self::resnext101_32x8d),
        ("resnext101_64x4d", Self::resnext101_64x4d),
    ];

    fn stages(&self) -> Stages {
        let channels = [STEM].into_iter().chain(self.stage_channels());
        let mut stride = 4;
        let dilated = self.dilate.map(|dilate| {
            stride *= if dilate { 1 } else { 2 };
            stride
        });
        let strides = [2, 4].into_iter().chain(dilated);
        let rows = channels.zip([2, 4, 8, 16, 32]).zip(strides);
        Stages::new(rows.map(|((channels, natural_stride), stride)| Stage { channels, natural_stride, stride }))
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

    fn with_output_stride(self, stride: usize) -> Self {
        self.with_dilate([8, 16, 32].map(|natural| natural > stride)).with_dilate_first(stride < 32)
    }

    fn with_torchvision_dilation(self) -> Self {
        self.with_dilate([false, true, true])
    }

    fn with_timm_layout(self) -> Self {
        self.with_dilate_first(false)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Self { block, layers, groups, width, .. } = self;
        if layers.iter().any(|blocks| !(1..=64).contains(blocks)) {
            return Err(ConfigError::new(
                "backbone layers",
                format!("must be from 1 to 64 blocks each, are {layers:?}"),
            ));
        }
        if *groups == 0 || *width == 0 || groups.checked_mul(*width).is_none_or(|width| width > 1024) {
            return Err(ConfigError::new(
                "backbone groups times width",
                format!("must be from 1 to 1024, are {groups} and {width}"),
            ));
        }
        if *block == ResNetBlockKind::Basic && (*groups, *width) != (1, 64) {
            return Err(ConfigError::new("backbone groups and width", "need the block Bottleneck"));
        }
        Ok(())
    }

    fn most_parameters(&self) -> u128 {
        let hidden = match self.block {
            ResNetBlockKind::Basic => vec![64, 128, 256, 512],
            ResNetBlockKind::Bottleneck => self.hidden_channels(),
        };
        let of = |((blocks, hidden), channels): ((&usize, &usize), usize)| {
            product(&[*blocks, 18 / self.groups.min(18), *hidden, *hidden]) + product(&[*blocks, 3, *hidden, channels])
        };
        self.layers.iter().zip(&hidden).zip(self.stage_channels()).map(of).sum()
    }

    fn hidden_channels(&self) -> Vec<usize> {
        match self.block {
            ResNetBlockKind::Basic => Vec::new(),
            ResNetBlockKind::Bottleneck => {
                [64, 128, 256, 512].map(|planes| planes * self.width / 64 * self.groups).into()
            }
        }
    }

    fn init(&self, device: &Device) -> ResNet {
        let mut channels = STEM;
        let mut dilation = 1;
        let mut stage = |index: usize| {
            let planes = 64 << index;
            let mut stride = if index == 0 { 1 } else { 2 };
            let mut first = dilation;
            if index > 0 && self.dilate[index - 1] {
                dilation *= stride;
                stride = 1;
                if self.dilate_first {
                    first = dilation;
                }
            }
            (0..self.layers[index])
                .map(|block| {
                    let (stride, first) = if block == 0 { (stride, first) } else { (1, dilation) };
                    let from = std::mem::replace(&mut channels, planes * self.expansion());
                    self.block(from, planes, stride, [first, dilation], device)
                })
                .collect()
        };
        let [layer1, layer2, layer3, layer4] = [0, 1, 2, 3].map(&mut stage);
        ResNet {
            conv1: conv([self.in_channels, STEM], 7, 2, 1, 1, device),
            bn1: self.norm.init(STEM, device),
            layer1,
            layer2,
            layer3,
            layer4,
        }
    }

    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        ClassifierHead::ResNet(ResNetHead::new(self.stages().last_channels(), classes, device))
    }
}

fn initializer() -> Initializer {
    Initializer::KaimingNormal { gain: 2f64.sqrt(), fan_out_only: true }
}

fn conv(channels: [usize; 2], kernel: usize, stride: usize, dilation: usize, groups: usize, device: &Device) -> Conv2d {
    let padding = kernel / 2 * dilation;
    Conv2dConfig::new(channels, [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .with_dilation([dilation; 2])
        .with_groups(groups)
        .with_bias(false)
        .with_initializer(initializer())
        .init(device)
}

/// The network; see [`ResNetConfig`]. Its stages: 0 the stem before pooling, 1 to 4 the layers.
#[derive(Module, Debug)]
pub struct ResNet {
    /// 7×7 with stride 2.
    pub conv1: Conv2d,
    /// Its norm.
    pub bn1: Option<Norm>,
    /// Stride 4.
    pub layer1: Vec<ResNetBlock>,
    /// Stride 8.
    pub layer2: Vec<ResNetBlock>,
    /// Stride 16.
    pub layer3: Vec<ResNetBlock>,
    /// Stride 32.
    pub layer4: Vec<ResNetBlock>,
}

impl BackboneNetwork for ResNet {
    const KEEPS_REDUCED_MAPS: bool = true;

    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        super::collect(0..5, x, stages, |stage, x| {
            let layer = match stage {
                0 => return conv_norm(&self.conv1, self.bn1.as_ref(), Activation::Relu, x),
                1 => return run(&self.layer1, max_pool2d_overlapping(x)),
                2 => &self.layer2,
                3 => &self.layer3,
                _ => &self.layer4,
            };
            run(layer, x)
        })
    }

    /// As torchvision: the norm of the stem learns only where all does.
    fn freeze_stages(mut self, trainable: usize) -> Self {
        let frozen = |layer: Vec<ResNetBlock>, from: usize| if trainable < from { layer.freeze() } else { layer };
        self.layer4 = frozen(self.layer4, 1);
        self.layer3 = frozen(self.layer3, 2);
        self.layer2 = frozen(self.layer2, 3);
        self.layer1 = frozen(self.layer1, 4);
        if trainable < 5 {
            self.conv1 = self.conv1.freeze();
            self.bn1 = self.bn1.freeze();
        }
        self
    }

    fn torch_names_after(&self, stage: usize) -> Vec<String> {
        (stage + 1..5).map(|stage| format!("layer{stage}.")).collect()
    }
}

fn run(blocks: &[ResNetBlock], x: Tensor<4>) -> Tensor<4> {
    blocks.iter().fold(x, |x, block| block.forward(x))
}

/// A block of either kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum ResNetBlock {
    /// Two 3×3 convolutions.
    Basic(BasicBlock),
    /// 1×1, 3×3, 1×1.
    Bottleneck(Bottleneck),
}

impl ResNetBlock {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (y, downsample) = match self {
            Self::Basic(block) => (block.residual(x.clone()), &block.downsample),
            Self::Bottleneck(block) => (block.residual(x.clone()), &block.downsample),
        };
        let x = match downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        trace::module(self, add_relu(y, x))
    }

    #[cfg(test)]
    pub(super) fn learns(&self) -> bool {
        match self {
            Self::Basic(block) => block.conv1.weight.is_require_grad(),
            Self::Bottleneck(block) => block.conv1.weight.is_require_grad(),
        }
    }
}

/// Two 3×3 convolutions; the first has the stride.
#[derive(Module, Debug)]
pub struct BasicBlock {
    /// 3×3.
    pub conv1: Conv2d,
    /// Its norm.
    pub bn1: Option<Norm>,
    /// 3×3.
    pub conv2: Conv2d,
    /// Its norm.
    pub bn2: Option<Norm>,
    /// Projection of the shortcut to the output's shape, where the input has another.
    pub downsample: Option<ConvBlock>,
}

impl BasicBlock {
    fn residual(&self, x: Tensor<4>) -> Tensor<4> {
        let x = conv_norm(&self.conv1, self.bn1.as_ref(), Activation::Relu, x);
        conv_norm(&self.conv2, self.bn2.as_ref(), Activation::Identity, x)
    }
}

/// 1×1, 3×3, 1×1; the 3×3 has the stride.
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// 1×1.
    pub conv1: Conv2d,
    /// Its norm.
    pub bn1: Option<Norm>,
    /// 3×3.
    pub conv2: Conv2d,
    /// Its norm.
    pub bn2: Option<Norm>,
    /// 1×1.
    pub conv3: Conv2d,
    /// Its norm.
    pub bn3: Option<Norm>,
    /// Projection of the shortcut to the output's shape, where the input has another.
    pub downsample: Option<ConvBlock>,
}

impl Bottleneck {
    fn residual(&self, x: Tensor<4>) -> Tensor<4> {
        let x = conv_norm(&self.conv1, self.bn1.as_ref(), Activation::Relu, x);
        let x = conv_norm(&self.conv2, self.bn2.as_ref(), Activation::Relu, x);
        conv_norm(&self.conv3, self.bn3.as_ref(), Activation::Identity, x)
    }
}
