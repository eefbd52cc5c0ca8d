//! ConvNeXt: Liu et al., "A ConvNet for the 2020s", CVPR 2022, <https://arxiv.org/abs/2201.03545>; as torchvision has it.

use burn::{
    config::Config,
    module::{Module, Param},
    nn::{
        Dropout, DropoutConfig, Initializer, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use super::{BackboneFamily, BackboneNetwork, ClassifierHead, ConvNeXtHead, Stage, Stages, Variants};
use crate::{
    ConfigError,
    bounds::product,
    layers::{
        Activation, LayerNorm2d, NormConfig, conv2d, image_dropout, linear2d, pad_to_least, scaled_linear2d, zero_bias,
    },
    trace,
    weights::{TorchName, TorchNames, each_name},
};

/// Side of the stem's patches.
const PATCH: usize = 4;
/// Side of the blocks' kernels.
const KERNEL: usize = 7;
/// Factor from a block's channels to those within it.
const EXPANSION: usize = 4;
/// Initial value of the layer scale.
const LAYER_SCALE: f64 = 1e-6;
/// Added to the variance of the norms.
const EPSILON: f64 = 1e-6;

/// Configuration of a [`ConvNeXt`].
#[derive(Config, Debug)]
pub struct ConvNeXtConfig {
    /// Blocks of each stage; by default ConvNeXt-T's.
    #[config(default = "[3, 3, 9, 3]")]
    pub layers: [usize; 4],
    /// Channels of each stage.
    #[config(default = "[96, 192, 384, 768]")]
    pub widths: [usize; 4],
    /// Share of images for which the last block is left out in training; earlier blocks have less.
    #[config(default = 0.1)]
    pub dropped: f64,
    /// Channels of the image.
    #[config(default = 3)]
    pub in_channels: usize,
    /// Pixels of the image from one value of the last map to the next: 8, 16 or 32. Stages that would make it more dilate,
    /// as in timm.
    #[config(default = 32)]
    pub output_stride: usize,
}

impl ConvNeXtConfig {
    /// ConvNeXt-T.
    pub fn tiny() -> Self {
        Self::new()
    }

    /// The network with random weights (normal, of a deviation of 0.02), without a classifier.
    pub fn init(&self, device: &Device) -> ConvNeXt {
        BackboneFamily::init(self, device)
    }

    /// ConvNeXt-S.
    pub fn small() -> Self {
        Self::new().with_layers([3, 3, 27, 3]).with_dropped(0.4)
    }
}

impl BackboneFamily for ConvNeXtConfig {
    type Network = ConvNeXt;

    const VARIANTS: Variants<Self> = &[("convnext_tiny", Self::tiny), ("convnext_small", Self::small)];

    fn stages(&self) -> Stages {
        let rows = self.widths.into_iter().zip([4, 8, 16, 32]);
        Stages::new(rows.flat_map(|(width, stride)| [Stage::new(width, stride, self.output_stride); 2]))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        Self { in_channels, ..self }
    }

    fn norm(&self) -> Option<&NormConfig> {
        None
    }

    fn with_norm(self, _norm: NormConfig) -> Self {
        self
    }

    fn with_output_stride(self, output_stride: usize) -> Self {
        Self { output_stride, ..self }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.layers.iter().any(|blocks| !(1..=64).contains(blocks)) {
            return Err(ConfigError::new(
                "backbone layers",
                format!("must be from 1 to 64 blocks each, are {:?}", self.layers),
            ));
        }
        if self.widths.iter().any(|width| !(1..=4096).contains(width)) {
            return Err(ConfigError::new(
                "backbone widths",
                format!("must be from 1 to 4096 channels each, are {:?}", self.widths),
            ));
        }
        if !(0.0..1.0).contains(&self.dropped) {
            return Err(ConfigError::new(
                "backbone dropped",
                format!("must be at least 0 and below 1, is {}", self.dropped),
            ));
        }
        super::check_output_stride(self.output_stride)
    }

    fn most_parameters(&self) -> u128 {
        let blocks =
            self.layers.iter().zip(&self.widths).map(|(blocks, width)| product(&[*blocks, *width, 8 * width + 64]));
        let between = self.widths.windows(2).map(|widths| product(&[4, widths[0], widths[1]]));
        blocks.chain(between).sum()
    }

    fn init(&self, device: &Device) -> ConvNeXt {
        let blocks: usize = self.layers.iter().sum();
        let mut done = 0;
        let mut features = Vec::new();
        for (index, (layers, width)) in self.layers.into_iter().zip(self.widths).enumerate() {
            let dilation = (4usize << index).div_ceil(self.output_stride);
            features.push(if index == 0 {
                ConvNeXtStage::Stem(ConvNeXtStem {
                    conv: conv([self.in_channels, width], PATCH, PATCH, device),
                    norm: norm(width, device),
                })
            } else {
                ConvNeXtStage::Downsample(ConvNeXtDownsample::new([self.widths[index - 1], width], dilation, device))
            });
            let block = |_| {
                let dropped = self.dropped * done as f64 / (blocks - 1).max(1) as f64;
                done += 1;
                ConvNeXtBlock::new(width, dilation, dropped, device)
            };
            features.push(ConvNeXtStage::Blocks((0..layers).map(block).collect()));
        }
        ConvNeXt { features }
    }

    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        let [.., channels] = self.widths;
        ClassifierHead::ConvNeXt(ConvNeXtHead {
            norm: LayerNormConfig::new(channels).with_epsilon(EPSILON).init(device),
            linear: linear(channels, classes, device),
        })
    }
}

fn initializer() -> Initializer {
    Initializer::Normal { mean: 0.0, std: 0.02 }
}

/// A convolution without padding.
fn conv(channels: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Conv2d {
    let conv = Conv2dConfig::new(channels, [kernel; 2]).with_stride([stride; 2]).with_initializer(initializer());
    zero_bias(conv.init(device), device)
}

fn norm(channels: usize, device: &Device) -> LayerNorm2d {
    LayerNorm2d::new(channels, EPSILON, device)
}

fn linear(from: usize, to: usize, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(from, to).with_initializer(initializer()).init(device);
    linear.bias = linear.bias.map(|bias| Initializer::Zeros.init(bias.lazy_shape(), device));
    linear
}

/// The network; see [`ConvNeXtConfig`]. Its stages: 0 the stem, 1 the blocks of stride 4, then by turns what halves the map
/// and blocks.
#[derive(Module, Debug)]
pub struct ConvNeXt {
    /// One a stage.
    pub features: Vec<ConvNeXtStage>,
}

impl BackboneNetwork for ConvNeXt {
    const TORCH_NAMES: TorchNames = &[
        ("ConvNeXtStem", "conv", TorchName::Is("0")),
        ("ConvNeXtStem", "norm", TorchName::Is("1")),
        ("ConvNeXtDownsample", "norm", TorchName::Is("0")),
        ("ConvNeXtDownsample", "conv", TorchName::Is("1")),
        ("ConvNeXtBlock", "depthwise", TorchName::Is("block.0")),
        ("ConvNeXtBlock", "norm", TorchName::Is("block.2")),
        ("ConvNeXtBlock", "expand", TorchName::Is("block.3")),
        ("ConvNeXtBlock", "project", TorchName::Is("block.5")),
    ];

    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        super::collect(self.features.iter(), x, stages, |layer, x| layer.forward(x))
    }

    /// timm's, by torchvision's numbers of the stages: 0 the stem, then by turns blocks and what halves the map. Where timm
    /// gives maps out, an underscore stands before the number.
    fn other_names(names: &[&str]) -> Vec<(String, String)> {
        if !names.iter().any(|name| name.ends_with(".layer_scale")) {
            return Vec::new();
        }
        let layer = |number: &str| match number {
            "0" => Some("conv_dw"),
            "2" => Some("norm"),
            "3" => Some("mlp.fc1"),
            "5" => Some("mlp.fc2"),
            _ => None,
        };
        each_name(names, |parts| {
            let (group, rest) = match *parts {
                ["features", "0", part, kind] => ("stem", format!("{part}.{kind}")),
                ["features", stage, ref rest @ ..] => {
                    let Ok(stage) = stage.parse::<usize>() else { return Vec::new() };
                    let name = match *rest {
                        [part, kind] if stage % 2 == 0 => Some(format!("downsample.{part}.{kind}")),
                        [block, "layer_scale"] => Some(format!("blocks.{block}.gamma")),
                        [block, "block", number, kind] => {
                            layer(number).map(|layer| format!("blocks.{block}.{layer}.{kind}"))
                        }
                        _ => None,
                    };
                    let Some(name) = name else { return Vec::new() };
                    // Blocks of stage 1 and what comes before those of stage 3 are timm's stages 0 and 1.
                    ("stages", format!("{}.{name}", stage / 2))
                }
                ["classifier", "0", kind] => return vec![format!("head.norm.{kind}")],
                ["classifier", "2", kind] => return vec![format!("head.fc.{kind}")],
                _ => return Vec::new(),
            };
            ['.', '_'].map(|between| format!("{group}{between}{rest}")).into()
        })
    }

    fn freeze_stages(self, trainable: usize) -> Self {
        Self { features: super::freeze_layers(self.features, &[0, 1, 2, 4, 6], trainable) }
    }

    fn torch_names_after(&self, stage: usize) -> Vec<String> {
        (stage + 1..self.features.len()).map(|stage| format!("features.{stage}.")).collect()
    }
}

/// A stage of the network.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum ConvNeXtStage {
    /// Stem, which embeds patches.
    Stem(ConvNeXtStem),
    /// Residual blocks.
    Blocks(Vec<ConvNeXtBlock>),
    /// Downsampling between stages.
    Downsample(ConvNeXtDownsample),
}

impl ConvNeXtStage {
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Stem(stem) => stem.forward(x),
            Self::Blocks(blocks) => blocks.iter().fold(x, |x, block| block.forward(x)),
            Self::Downsample(downsample) => downsample.forward(x),
        }
    }
}

/// Patch embedding: a convolution of patches that do not overlap, and a norm.
#[derive(Module, Debug)]
pub struct ConvNeXtStem {
    /// 4×4 convolution with stride 4.
    pub conv: Conv2d,
    /// Layer norm over the channels.
    pub norm: LayerNorm2d,
}

impl ConvNeXtStem {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // Where PyTorch refuses: a side of less than a patch is one patch.
        self.norm.forward(conv2d(&self.conv, pad_to_least(x, PATCH)))
    }
}

/// Halves height and width, or keeps them where the blocks that follow dilate.
#[derive(Module, Debug)]
pub struct ConvNeXtDownsample {
    /// Layer norm over the channels.
    pub norm: LayerNorm2d,
    /// 2×2 convolution with stride 2, or 1 where the blocks that follow dilate.
    pub conv: Conv2d,
}

impl ConvNeXtDownsample {
    fn new([from, to]: [usize; 2], dilation: usize, device: &Device) -> Self {
        let mut halved = conv([from, to], 2, 2, device);
        if dilation > 1 {
            // What the blocks before have.
            let reach = dilation / 2;
            let (before, after) = (reach / 2, reach.div_ceil(2));
            halved.stride = [1, 1];
            halved.dilation = [reach; 2];
            halved.padding = PaddingConfig2d::Explicit(before, before, after, after);
        }
        Self { norm: norm(from, device), conv: halved }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // Where PyTorch refuses: a side of one pixel stays one.
        conv2d(&self.conv, pad_to_least(self.norm.forward(x), self.conv.stride[0]))
    }
}

/// Residual block: a depthwise convolution, then two pointwise layers.
#[derive(Module, Debug)]
pub struct ConvNeXtBlock {
    /// Layer scale, the factor of each channel of the branch, `[channels, 1, 1]`.
    pub layer_scale: Param<Tensor<3>>,
    /// 7×7 depthwise convolution.
    pub depthwise: Conv2d,
    /// Layer norm over the channels.
    pub norm: LayerNorm2d,
    /// Pointwise layer to more channels.
    pub expand: Linear,
    /// Pointwise layer back to the block's channels.
    pub project: Linear,
    /// Stochastic depth in training, which drops the branch of some images: Huang et al., ECCV 2016,
    /// <https://arxiv.org/abs/1603.09382>.
    pub dropped: Dropout,
}

impl ConvNeXtBlock {
    fn new(channels: usize, dilation: usize, dropped: f64, device: &Device) -> Self {
        let padding = KERNEL / 2 * dilation;
        let depthwise = Conv2dConfig::new([channels; 2], [KERNEL; 2])
            .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
            .with_dilation([dilation; 2])
            .with_groups(channels)
            .with_initializer(initializer());
        Self {
            layer_scale: Initializer::Constant { value: LAYER_SCALE }.init([channels, 1, 1], device),
            depthwise: zero_bias(depthwise.init(device), device),
            norm: norm(channels, device),
            expand: linear(channels, EXPANSION * channels, device),
            project: linear(EXPANSION * channels, channels, device),
            dropped: DropoutConfig::new(dropped).init(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.norm.forward(conv2d(&self.depthwise, x.clone()));
        let y = linear2d(&self.expand, Activation::Gelu, y);
        let scale = self.layer_scale.val();
        let channels = scale.dims()[0];
        let y = scaled_linear2d(&self.project, scale.reshape([channels]), y);
        trace::module(self, x + image_dropout(&self.dropped, y))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};
    use segkiln_core::Precision;

    use super::*;
    use crate::{InferenceSession, trace::LayerMaps};

    /// Who looks at the layers sees the linear layer without the scale that is otherwise packed with it.
    #[test]
    fn looking_at_the_layers_of_a_session_changes_nothing() {
        let device = Device::default();
        let config = ConvNeXtConfig::new().with_layers([1; 4]).with_widths([16, 32, 32, 32]);
        let mut network = config.init(&device);
        for stage in &mut network.features {
            if let ConvNeXtStage::Blocks(blocks) = stage {
                for block in blocks {
                    block.layer_scale = Param::from_tensor(block.layer_scale.val().full_like(0.5));
                }
            }
        }
        let x = Tensor::random([1, 3, 64, 64], Distribution::Normal(0.0, 1.0), &device);
        let forward = || BackboneNetwork::forward(&network, x.clone(), &[1]).remove(0);
        for looks in [[false, true, false], [true, false, true]] {
            let session = InferenceSession::new(Precision::Bf16, &device).unwrap();
            let [first, second, third] = looks.map(|looks| {
                session.run(|| if looks { LayerMaps::of(&network, forward).1 } else { forward() }).into_data()
            });
            second.assert_approx_eq::<f32>(&first, Tolerance::absolute(1e-4));
            third.assert_eq(&first, true);
        }
    }
}
