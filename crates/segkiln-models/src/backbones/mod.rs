//! Networks that make feature maps of an image, for the heads of other networks: ResNet and ResNeXt, MobileNetV2,
//! MobileNetV3, EfficientNet, VGG, ConvNeXt.
//!
//! Their layers have torchvision's names and order, so its files of weights fit, and timm's of MobileNetV3, EfficientNet and
//! ConvNeXt; see [`weights`](crate::weights).

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};

mod classifier;
mod convnext;
mod efficientnet;
mod mobilenet_v2;
mod mobilenet_v3;
mod resnet;
pub(crate) mod smp;
mod vgg;

pub(crate) use classifier::TORCH_NAMES;
pub use classifier::{
    Classifier, ClassifierConfig, ClassifierHead, ConvNeXtHead, MobileNetV2Head, MobileNetV3Head, ResNetHead, VggHead,
};
pub(crate) use convnext::TORCH_NAMES as CONVNEXT;
pub use convnext::{ConvNeXt, ConvNeXtBlock, ConvNeXtConfig, ConvNeXtDownsample, ConvNeXtStage, ConvNeXtStem};
pub use efficientnet::{
    EfficientNet, EfficientNetConfig, EfficientNetLayer, EfficientNetMaps, EfficientNetStage, MbConv,
};
pub use mobilenet_v2::{MobileNetV2, MobileNetV2Config};
pub use mobilenet_v3::{MobileNetV3, MobileNetV3Config, MobileNetV3Size};
pub use resnet::{BasicBlock, Bottleneck, ResNet, ResNetBlock, ResNetBlockKind, ResNetConfig};
pub use vgg::{Vgg, VggConfig};

use crate::{
    ConfigError, bounds,
    layers::NormConfig,
    precision::{keep_full, keep_reduced_within},
};

/// Any backbone, as a file describes it.
#[derive(Config, Debug)]
pub enum BackboneConfig {
    /// ResNet and ResNeXt.
    ResNet(ResNetConfig),
    /// MobileNetV2.
    MobileNetV2(MobileNetV2Config),
    /// MobileNetV3.
    MobileNetV3(MobileNetV3Config),
    /// EfficientNet.
    EfficientNet(EfficientNetConfig),
    /// VGG with batch normalisation.
    Vgg(VggConfig),
    /// ConvNeXt.
    ConvNeXt(ConvNeXtConfig),
}

impl BackboneConfig {
    /// The names that [`by_name`](Self::by_name) knows: torchvision's, and timm's of those that it has not or that differ.
    pub const NAMES: [&str; 33] = [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
        "mobilenetv3_large_100",
        "mobilenetv3_small_100",
        "tf_mobilenetv3_large_100",
        "tf_mobilenetv3_small_100",
        "efficientnet_b0",
        "efficientnet_b1",
        "efficientnet_b2",
        "efficientnet_b3",
        "efficientnet_b4",
        "efficientnet_lite0",
        "tf_efficientnet_b0",
        "tf_efficientnet_b1",
        "tf_efficientnet_b2",
        "tf_efficientnet_b3",
        "tf_efficientnet_b4",
        "tf_efficientnet_lite0",
        "vgg11_bn",
        "vgg13_bn",
        "vgg16_bn",
        "vgg19_bn",
        "convnext_tiny",
        "convnext_small",
    ];

    /// The backbone that torchvision or timm calls so, for images of three channels: one of [`NAMES`](Self::NAMES), also as
    /// segmentation_models_pytorch calls its encoders, such as `tu-mobilenetv3_large_100`, `timm-efficientnet-b0` and
    /// `efficientnet-b0`.
    pub fn by_name(name: &str) -> Option<Self> {
        use MobileNetV3Size::{Large, Small};
        let config = match &*smp::translated(name)? {
            "resnet18" => Self::ResNet(ResNetConfig::resnet18()),
            "resnet34" => Self::ResNet(ResNetConfig::resnet34()),
            "resnet50" => Self::ResNet(ResNetConfig::resnet50()),
            "resnet101" => Self::ResNet(ResNetConfig::resnet101()),
            "resnet152" => Self::ResNet(ResNetConfig::resnet152()),
            "resnext50_32x4d" => Self::ResNet(ResNetConfig::resnext50_32x4d()),
            "resnext101_32x8d" => Self::ResNet(ResNetConfig::resnext101_32x8d()),
            "resnext101_64x4d" => Self::ResNet(ResNetConfig::resnext101_64x4d()),
            "mobilenet_v2" => Self::MobileNetV2(MobileNetV2Config::new()),
            "mobilenet_v3_large" => Self::MobileNetV3(MobileNetV3Config::new(Large)),
            "mobilenet_v3_small" => Self::MobileNetV3(MobileNetV3Config::new(Small)),
            "mobilenetv3_large_100" => {
                Self::MobileNetV3(MobileNetV3Config::new(Large).with_norm(NormConfig::default()))
            }
            "mobilenetv3_small_100" => {
                Self::MobileNetV3(MobileNetV3Config::new(Small).with_norm(NormConfig::default()))
            }
            "tf_mobilenetv3_large_100" => Self::MobileNetV3(MobileNetV3Config::new(Large).tensorflow()),
            "tf_mobilenetv3_small_100" => Self::MobileNetV3(MobileNetV3Config::new(Small).tensorflow()),
            "efficientnet_b0" => Self::EfficientNet(EfficientNetConfig::b(0)?),
            "efficientnet_b1" => Self::EfficientNet(EfficientNetConfig::b(1)?),
            "efficientnet_b2" => Self::EfficientNet(EfficientNetConfig::b(2)?),
            "efficientnet_b3" => Self::EfficientNet(EfficientNetConfig::b(3)?),
            "efficientnet_b4" => Self::EfficientNet(EfficientNetConfig::b(4)?),
            "efficientnet_lite0" => Self::EfficientNet(EfficientNetConfig::lite0()),
            "tf_efficientnet_b0" => Self::EfficientNet(EfficientNetConfig::b(0)?.tensorflow()),
            "tf_efficientnet_b1" => Self::EfficientNet(EfficientNetConfig::b(1)?.tensorflow()),
            "tf_efficientnet_b2" => Self::EfficientNet(EfficientNetConfig::b(2)?.tensorflow()),
            "tf_efficientnet_b3" => Self::EfficientNet(EfficientNetConfig::b(3)?.tensorflow()),
            "tf_efficientnet_b4" => Self::EfficientNet(EfficientNetConfig::b(4)?.tensorflow()),
            "tf_efficientnet_lite0" => Self::EfficientNet(EfficientNetConfig::lite0().tensorflow()),
            "vgg11_bn" => Self::Vgg(VggConfig::new().with_layers([1, 1, 2, 2, 2])),
            "vgg13_bn" => Self::Vgg(VggConfig::new().with_layers([2, 2, 2, 2, 2])),
            "vgg16_bn" => Self::Vgg(VggConfig::new()),
            "vgg19_bn" => Self::Vgg(VggConfig::new().with_layers([2, 2, 4, 4, 4])),
            "convnext_tiny" => Self::ConvNeXt(ConvNeXtConfig::tiny()),
            "convnext_small" => Self::ConvNeXt(ConvNeXtConfig::small()),
            _ => return None,
        };
        Some(match config {
            config if smp::is_timm(name) => config.as_of_timm(),
            Self::EfficientNet(config) if name == "efficientnet-b0" => {
                Self::EfficientNet(config.with_maps(EfficientNetMaps::Early))
            }
            config => config,
        })
    }

    /// Returns the config with another normalization; a ConvNeXt, whose layers are made for its own, stays as it is.
    pub fn with_norm(self, norm: NormConfig) -> Self {
        match self {
            Self::ResNet(config) => Self::ResNet(config.with_norm(norm)),
            Self::MobileNetV2(config) => Self::MobileNetV2(config.with_norm(norm)),
            Self::MobileNetV3(config) => Self::MobileNetV3(config.with_norm(norm)),
            Self::EfficientNet(config) => Self::EfficientNet(config.with_norm(norm)),
            Self::Vgg(config) => Self::Vgg(config.with_norm(norm)),
            Self::ConvNeXt(config) => Self::ConvNeXt(config),
        }
    }

    /// Returns the config for images of this many channels.
    pub fn with_in_channels(self, in_channels: usize) -> Self {
        match self {
            Self::ResNet(config) => Self::ResNet(config.with_in_channels(in_channels)),
            Self::MobileNetV2(config) => Self::MobileNetV2(config.with_in_channels(in_channels)),
            Self::MobileNetV3(config) => Self::MobileNetV3(config.with_in_channels(in_channels)),
            Self::EfficientNet(config) => Self::EfficientNet(config.with_in_channels(in_channels)),
            Self::Vgg(config) => Self::Vgg(config.with_in_channels(in_channels)),
            Self::ConvNeXt(config) => Self::ConvNeXt(config.with_in_channels(in_channels)),
        }
    }

    /// The normalisation of all layers, where it can be chosen.
    pub fn norm(&self) -> Option<&NormConfig> {
        match self {
            Self::ResNet(config) => Some(&config.norm),
            Self::MobileNetV2(config) => Some(&config.norm),
            Self::MobileNetV3(config) => Some(&config.norm),
            Self::EfficientNet(config) => Some(&config.norm),
            Self::Vgg(config) => Some(&config.norm),
            Self::ConvNeXt(_) => None,
        }
    }

    /// Channels of the images.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::ResNet(config) => config.in_channels,
            Self::MobileNetV2(config) => config.in_channels,
            Self::MobileNetV3(config) => config.in_channels,
            Self::EfficientNet(config) => config.in_channels,
            Self::Vgg(config) => config.in_channels,
            Self::ConvNeXt(config) => config.in_channels,
        }
    }

    /// Channels of each stage's map.
    pub fn channels(&self) -> Vec<usize> {
        match self {
            Self::ResNet(config) => config.channels(),
            Self::MobileNetV2(config) => config.channels(),
            Self::MobileNetV3(config) => config.channels(),
            Self::EfficientNet(config) => config.channels(),
            Self::Vgg(config) => config.channels(),
            Self::ConvNeXt(config) => config.channels(),
        }
    }

    /// Pixels of the image from one value of each stage's map to the next.
    pub fn strides(&self) -> Vec<usize> {
        match self {
            Self::ResNet(config) => config.strides(),
            Self::MobileNetV2(config) => config.strides(),
            Self::MobileNetV3(config) => config.strides(),
            Self::EfficientNet(config) => config.strides(),
            Self::Vgg(config) => config.strides(),
            Self::ConvNeXt(config) => config.strides(),
        }
    }

    /// The stages of which torchvision's detectors take maps.
    pub fn detection_stages(&self) -> Vec<usize> {
        match self {
            Self::ResNet(_) => vec![1, 2, 3, 4],
            Self::MobileNetV2(_) => vec![14, 18],
            Self::MobileNetV3(config) => config.detection_stages(),
            Self::EfficientNet(_) => vec![3, 5, 8],
            Self::Vgg(_) => vec![3, 4, 5],
            Self::ConvNeXt(_) => vec![1, 3, 5, 7],
        }
    }

    /// The stage of stride 2 of which decoders take a map; a ConvNeXt has none.
    pub fn half(&self) -> Option<usize> {
        match self {
            Self::ResNet(_) => Some(0),
            Self::MobileNetV2(_) => Some(1),
            Self::MobileNetV3(config) => Some(config.half()),
            Self::EfficientNet(config) => Some(config.half()),
            Self::Vgg(_) => Some(1),
            Self::ConvNeXt(_) => None,
        }
    }

    /// The stages of strides 4, 8, 16 and 32 of which decoders take maps, as in segmentation_models_pytorch; where the
    /// backbone dilates, the last ones have less.
    pub fn pyramid(&self) -> [usize; 4] {
        match self {
            Self::ResNet(_) => [1, 2, 3, 4],
            Self::MobileNetV2(_) => [3, 6, 13, 18],
            Self::MobileNetV3(config) => config.pyramid(),
            Self::EfficientNet(_) => [2, 3, 5, 7],
            Self::Vgg(_) => [2, 3, 4, 5],
            Self::ConvNeXt(_) => [1, 3, 5, 7],
        }
    }

    /// The stage of which torchvision's segmentation networks take a second map: for an auxiliary head, or for details.
    pub fn second_stage(&self) -> usize {
        match self {
            Self::MobileNetV3(config) => config.second_stage(),
            other => other.pyramid()[2],
        }
    }

    /// Returns the config with an output stride (that of the last map) of 8, 16 or 32: layers that would make it larger dilate
    /// instead. In a ResNet all layers of such a stage dilate, as in segmentation_models_pytorch; torchvision's networks have
    /// [`dilate`](ResNetConfig::dilate) without [`dilate_first`](ResNetConfig::dilate_first).
    ///
    /// # Errors
    /// A message, if the stride is another or this backbone cannot have it.
    pub fn with_output_stride(self, stride: usize) -> Result<Self, ConfigError> {
        match (self, stride) {
            (Self::ResNet(config), 8 | 16 | 32) => Ok(Self::ResNet(config.with_output_stride(stride))),
            (Self::MobileNetV2(config), 8 | 16 | 32) => Ok(Self::MobileNetV2(config.with_output_stride(stride))),
            (Self::EfficientNet(config), 8 | 16 | 32) => Ok(Self::EfficientNet(config.with_output_stride(stride))),
            (Self::ConvNeXt(config), 8 | 16 | 32) => Ok(Self::ConvNeXt(config.with_output_stride(stride))),
            (Self::MobileNetV3(config), 8 | 16 | 32) => Ok(Self::MobileNetV3(config.with_output_stride(stride))),
            (Self::Vgg(config), 8 | 16 | 32) => Ok(Self::Vgg(config.with_output_stride(stride))),
            (_, stride) => Err(ConfigError::new("output_stride", format!("must be 8, 16 or 32, is {stride}"))),
        }
    }

    /// Dilates the last stages as torchvision's segmentation networks do: to an output stride of 8, of a MobileNetV3 of 16.
    ///
    /// # Errors
    /// As [`with_output_stride`](Self::with_output_stride).
    pub fn with_torchvision_dilation(self) -> Result<Self, ConfigError> {
        match self {
            Self::ResNet(config) => Ok(Self::ResNet(config.with_dilate([false, true, true]))),
            Self::MobileNetV3(config) => Ok(Self::MobileNetV3(config.with_output_stride(16))),
            other => other.with_output_stride(8),
        }
    }

    /// Returns the config with timm's layout: the first layer of a dilated stage has the dilation of the layers before it, and
    /// an EfficientNet's map of stride 2 comes from stage 1.
    pub fn as_of_timm(self) -> Self {
        match self {
            Self::ResNet(config) => Self::ResNet(config.with_dilate_first(false)),
            Self::MobileNetV3(config) => Self::MobileNetV3(config.with_dilate_first(false)),
            Self::EfficientNet(config) => {
                Self::EfficientNet(config.with_dilate_first(false).with_maps(EfficientNetMaps::Timm))
            }
            other => other,
        }
    }

    /// Whether the backbone can be built. A config that came from a file is checked before anything is allocated.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        /// More channels than images have.
        const MOST: usize = 4096;
        if !(1..=MOST).contains(&self.in_channels()) {
            return Err(ConfigError::new(
                "backbone in_channels",
                format!("must be from 1 to {MOST}, is {}", self.in_channels()),
            ));
        }
        match self {
            Self::ResNet(config) => config.check()?,
            Self::MobileNetV2(config) => config.check()?,
            Self::EfficientNet(config) => config.check()?,
            Self::Vgg(config) => config.check()?,
            Self::ConvNeXt(config) => config.check()?,
            Self::MobileNetV3(config) => config.check()?,
        }
        let parameters = match self {
            Self::ResNet(config) => config.most_parameters(),
            Self::EfficientNet(config) => config.most_parameters(),
            Self::Vgg(config) => config.most_parameters(),
            Self::ConvNeXt(config) => config.most_parameters(),
            // Of few sizes.
            Self::MobileNetV2(_) | Self::MobileNetV3(_) => 0,
        };
        bounds::parameters("backbone layers, widths and groups", parameters)?;
        let Some(norm) = self.norm() else { return Ok(()) };
        let hidden = match self {
            Self::ResNet(config) => config.hidden(),
            Self::MobileNetV2(config) => config.hidden(),
            Self::MobileNetV3(config) => config.hidden(),
            Self::EfficientNet(config) => config.hidden(),
            Self::Vgg(_) | Self::ConvNeXt(_) => Vec::new(),
        };
        self.channels().iter().chain(&hidden).try_for_each(|channels| norm.check(*channels))
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> Backbone {
        match self {
            Self::ResNet(config) => Backbone::ResNet(config.init(device)),
            Self::MobileNetV2(config) => Backbone::MobileNetV2(config.init(device)),
            Self::MobileNetV3(config) => Backbone::MobileNetV3(config.init(device)),
            Self::EfficientNet(config) => Backbone::EfficientNet(config.init(device)),
            Self::Vgg(config) => Backbone::Vgg(config.init(device)),
            Self::ConvNeXt(config) => Backbone::ConvNeXt(config.init(device)),
        }
    }
}

/// Any backbone behind one type.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Backbone {
    /// ResNet and ResNeXt.
    ResNet(ResNet),
    /// MobileNetV2.
    MobileNetV2(MobileNetV2),
    /// MobileNetV3.
    MobileNetV3(MobileNetV3),
    /// EfficientNet.
    EfficientNet(EfficientNet),
    /// VGG with batch normalisation.
    Vgg(Vgg),
    /// ConvNeXt.
    ConvNeXt(ConvNeXt),
}

impl Backbone {
    /// The maps of some stages, in rising order; nothing is computed after the last of them.
    ///
    /// # Shapes
    /// `[n, in_channels, h, w]` → of each stage `[n, channels, ⌈h / stride⌉, ⌈w / stride⌉]`, of VGG and ConvNeXt rounded
    /// down but to at least 1; see [`BackboneConfig::channels`] and [`BackboneConfig::strides`]
    pub fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        match self {
            // All that happens to a map of these is in a layer.
            Self::ResNet(network) => keep_reduced_within(|| network.forward(x, stages)),
            Self::Vgg(network) => keep_reduced_within(|| network.forward(x, stages)),
            other => keep_full(|| other.forward_full(x, stages)),
        }
    }

    /// [`forward`](Self::forward) of those whose blocks compute with maps by themselves.
    fn forward_full(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        match self {
            Self::ResNet(network) => network.forward(x, stages),
            Self::MobileNetV2(network) => collect(network.features.iter(), x, stages, |layer, x| layer.forward(x)),
            Self::MobileNetV3(network) => collect(network.features.iter(), x, stages, |layer, x| layer.forward(x)),
            Self::EfficientNet(network) => network.forward(x, stages),
            Self::Vgg(network) => network.forward(x, stages),
            Self::ConvNeXt(network) => collect(network.features.iter(), x, stages, |layer, x| layer.forward(x)),
        }
    }

    /// Prefixes of the PyTorch names of the tensors that come after a stage; timm leaves these tensors out of an encoder whose
    /// later maps are not used.
    pub(crate) fn torch_names_after(&self, stage: usize) -> Vec<String> {
        match self {
            Self::ResNet(_) => (stage + 1..5).map(|stage| format!("layer{stage}.")).collect(),
            // timm's VGG is another.
            Self::MobileNetV2(_) | Self::Vgg(_) => Vec::new(),
            Self::MobileNetV3(_) | Self::EfficientNet(_) | Self::ConvNeXt(_) => {
                /// More than any has.
                const STAGES: usize = 32;
                (stage + 1..STAGES).map(|stage| format!("features.{stage}.")).collect()
            }
        }
    }

    /// Keeps all but the last `trainable` of torchvision's groups of layers from learning, parameters and running
    /// statistics: of a ResNet or a ConvNeXt the stem and the four stages (5 groups), of a MobileNet or an EfficientNet
    /// those between strides, of VGG those between poolings.
    pub fn freeze_stages(self, trainable: usize) -> Self {
        match self {
            Self::ResNet(network) => Self::ResNet(network.freeze_stages(trainable)),
            Self::MobileNetV2(network) => Self::MobileNetV2(network.freeze_stages(trainable)),
            Self::MobileNetV3(network) => Self::MobileNetV3(network.freeze_stages(trainable)),
            Self::EfficientNet(network) => Self::EfficientNet(network.freeze_stages(trainable)),
            Self::Vgg(network) => Self::Vgg(network.freeze_stages(trainable)),
            Self::ConvNeXt(network) => Self::ConvNeXt(network.freeze_stages(trainable)),
        }
    }
}

/// The outputs of some of a chain's layers.
fn collect<L>(
    layers: impl Iterator<Item = L>,
    mut x: Tensor<4>,
    stages: &[usize],
    mut forward: impl FnMut(L, Tensor<4>) -> Tensor<4>,
) -> Vec<Tensor<4>> {
    let last = stages.iter().max().map_or(0, |last| last + 1);
    let mut maps = Vec::with_capacity(stages.len());
    for (stage, layer) in layers.enumerate().take(last) {
        x = forward(layer, x);
        if stages.contains(&stage) {
            maps.push(x.clone());
        }
    }
    maps
}

/// The stride of each stage's map, of the strides of the stages.
fn total_strides(strides: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut total = 1;
    let multiplied = strides.into_iter().map(|stride| {
        total *= stride;
        total
    });
    multiplied.collect()
}

/// Strides and dilations of successive blocks under a limit on the total stride.
struct Dilation {
    /// Total stride without dilations.
    natural: usize,
    output_stride: usize,
    /// Whether the block that loses its stride dilates too.
    first: bool,
}

impl Dilation {
    /// Stride and dilation of the next block, which would have this stride.
    fn next(&mut self, stride: usize) -> (usize, usize) {
        let before = self.natural.div_ceil(self.output_stride);
        self.natural *= stride;
        let stride = if self.natural <= self.output_stride { stride } else { 1 };
        (stride, if self.first { self.natural.div_ceil(self.output_stride) } else { before })
    }
}

fn check_output_stride(stride: usize) -> Result<(), ConfigError> {
    match stride {
        8 | 16 | 32 => Ok(()),
        _ => Err(ConfigError::new("backbone output_stride", format!("must be 8, 16 or 32, is {stride}"))),
    }
}

/// Without gradients in the layers that come before a group; `starts` has each group's first layer.
fn freeze_layers<M: Module>(layers: Vec<M>, starts: &[usize], trainable: usize) -> Vec<M> {
    let learning = match trainable.min(starts.len()) {
        0 => layers.len(),
        groups => starts[starts.len() - groups],
    };
    let freeze = |(index, layer): (usize, M)| if index < learning { layer.freeze() } else { layer };
    layers.into_iter().enumerate().map(freeze).collect()
}

/// The nearest multiple of eight that is not below nine tenths, as the MobileNets round channels.
fn rounded(channels: f64) -> usize {
    let nearest = (((channels + 4.0) as usize) / 8 * 8).max(8);
    if (nearest as f64) < 0.9 * channels { nearest + 8 } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_the_promised_shapes() {
        let device = Device::default();
        for name in BackboneConfig::NAMES {
            let config = BackboneConfig::by_name(name).unwrap();
            config.check().unwrap();
            // Large ones take long.
            if ["101", "152", "_b3", "_b4", "vgg19", "convnext_small"].iter().any(|large| name.contains(large)) {
                continue;
            }
            let down = name.starts_with("vgg") || name.starts_with("convnext");
            let rows = |stride: usize| if down { 33 / stride } else { 33usize.div_ceil(stride) };
            let stages: Vec<usize> = (0..config.channels().len()).collect();
            let maps = config.init(&device).forward(Tensor::zeros([1, 3, 33, 64], &device), &stages);
            assert_eq!(maps.len(), stages.len(), "{name}");
            for ((map, channels), stride) in maps.iter().zip(config.channels()).zip(config.strides()) {
                assert_eq!(map.dims(), [1, channels, rows(stride), 64 / stride], "{name}");
            }
            let strides = config.strides();
            assert!(config.half().is_none_or(|stage| strides[stage] == 2), "{name}");
            assert_eq!(config.pyramid().map(|stage| strides[stage]), [4, 8, 16, 32], "{name}");
            for stride in [8, 16, 32] {
                let dilated = config.clone().with_output_stride(8).unwrap().with_output_stride(stride).unwrap();
                assert_eq!(dilated.strides().last(), Some(&stride), "{name}");
                let last = dilated.channels().len() - 1;
                let map = dilated.init(&device).forward(Tensor::zeros([1, 3, 33, 64], &device), &[last]);
                assert_eq!(map[0].dims(), [1, dilated.channels()[last], rows(stride), 64 / stride], "{name}");
            }
        }
    }

    #[test]
    fn freezing_spares_the_last_groups() {
        let device = Device::default().autodiff();
        let learns = |trainable| {
            let network = ResNetConfig::resnet18().init(&device).freeze_stages(trainable);
            [
                network.conv1.weight.is_require_grad(),
                network.layer1.first().is_some_and(ResNetBlock::learns),
                network.layer4.first().is_some_and(ResNetBlock::learns),
            ]
        };
        assert_eq!(learns(0), [false, false, false]);
        assert_eq!(learns(3), [false, false, true]);
        assert_eq!(learns(5), [true, true, true]);
    }
}
