//! Networks that make feature maps of an image, for the heads of other networks: ResNet and ResNeXt, MobileNetV2,
//! MobileNetV3, EfficientNet, VGG, ConvNeXt.
//!
//! Their layers have torchvision's names and order, so its files of weights fit, and timm's of MobileNetV3, EfficientNet and
//! ConvNeXt; see [`weights`](crate::weights). For a backbone of your own implement [`BackboneFamily`] and [`BackboneNetwork`],
//! and [register](register_backbone) it: it then stands beneath every decoder and detector as these do.

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};

mod classifier;
mod convnext;
mod custom;
mod efficientnet;
mod family;
mod inverted_residuals;
mod mobilenet_v2;
mod mobilenet_v3;
mod resnet;
pub(crate) mod smp;
mod vgg;

pub use classifier::{
    Classifier, ClassifierConfig, ClassifierHead, ConvNeXtHead, MobileNetV2Head, MobileNetV3Head, ResNetHead, VggHead,
};
pub use convnext::{ConvNeXt, ConvNeXtBlock, ConvNeXtConfig, ConvNeXtDownsample, ConvNeXtStage, ConvNeXtStem};
pub(crate) use custom::torch_names as custom_torch_names;
pub use custom::{CustomBackbone, CustomBackboneConfig, register_backbone};
pub use efficientnet::{
    EfficientNet, EfficientNetConfig, EfficientNetLayer, EfficientNetMaps, EfficientNetStage, MbConv,
};
pub use family::{BackboneFamily, BackboneNetwork, Stage, Stages, Variants};
pub use mobilenet_v2::{MobileNetV2, MobileNetV2Config};
pub use mobilenet_v3::{MobileNetV3, MobileNetV3Config, MobileNetV3Size};
pub use resnet::{BasicBlock, Bottleneck, ResNet, ResNetBlock, ResNetBlockKind, ResNetConfig};
pub use vgg::{Vgg, VggConfig};

use crate::{
    ConfigError, bounds,
    layers::NormConfig,
    precision::{keep_full, keep_reduced_within},
    weights::{OtherNames, TorchNames},
};

/// Generates [`BackboneConfig`] and [`Backbone`] with all that they pass on to the family they hold.
macro_rules! backbones {
    ($($(#[$doc:meta])* $variant:ident($config:ident, $network:ident),)+) => {
        /// Any backbone, as a file describes it.
        #[derive(Config, Debug)]
        pub enum BackboneConfig {
            $($(#[$doc])* $variant($config),)+
        }

        impl BackboneConfig {
            const COUNT: usize = 0 $(+ <$config as BackboneFamily>::VARIANTS.len())+;

            /// The names of this crate's backbones: torchvision's, and timm's of those that it has not or that differ.
            /// [`by_name`](Self::by_name) also knows those of [registered](register_backbone) ones.
            pub const NAMES: [&'static str; Self::COUNT] = {
                let mut names = [""; Self::COUNT];
                let mut next = 0;
                $(
                    let variants = <$config as BackboneFamily>::VARIANTS;
                    let end = next + variants.len();
                    let first = next;
                    while next < end {
                        names[next] = variants[next - first].0;
                        next += 1;
                    }
                )+
                names
            };

            /// The backbone that torchvision or timm calls so, for images of three channels: one of [`NAMES`](Self::NAMES), also
            /// as segmentation_models_pytorch calls its encoders, such as `tu-mobilenetv3_large_100`, `timm-efficientnet-b0`
            /// and `efficientnet-b0`; or a [registered](register_backbone) one.
            ///
            /// # Errors
            /// Lists the names, if there is no such backbone.
            pub fn by_name(name: &str) -> Result<Self, ConfigError> {
                let plain = smp::translated(name).unwrap_or_default();
                $(
                    let variants = <$config as BackboneFamily>::VARIANTS;
                    if let Some((_, config)) = variants.iter().find(|(variant, _)| *variant == plain) {
                        return Ok(Self::$variant(match smp::is_timm(name) {
                            true => config().with_timm_layout(),
                            false => config().with_encoder_layout(name),
                        }));
                    }
                )+
                if let Some(config) = custom::registered(name) {
                    return Ok(Self::Custom(config));
                }
                let message = format!("there is no backbone {name:?}; the names are {}", Self::NAMES.join(", "));
                Err(ConfigError::with_message("backbone", message))
            }

            /// Returns the config with another normalization; a ConvNeXt, whose layers are made for its own, stays as it is.
            pub fn with_norm(self, norm: NormConfig) -> Self {
                match self {
                    $(Self::$variant(config) => Self::$variant(BackboneFamily::with_norm(config, norm)),)+
                }
            }

            /// Returns the config for images of this many channels.
            pub fn with_in_channels(self, in_channels: usize) -> Self {
                match self {
                    $(Self::$variant(config) => Self::$variant(BackboneFamily::with_in_channels(config, in_channels)),)+
                }
            }

            /// The normalization of all layers, where it can be chosen.
            pub fn norm(&self) -> Option<&NormConfig> {
                match self {
                    $(Self::$variant(config) => BackboneFamily::norm(config),)+
                }
            }

            /// Channels of the images.
            pub fn in_channels(&self) -> usize {
                match self {
                    $(Self::$variant(config) => BackboneFamily::in_channels(config),)+
                }
            }

            /// Returns the table of stages, and who takes which maps.
            pub fn stages(&self) -> Stages {
                match self {
                    $(Self::$variant(config) => config.stages(),)+
                }
            }

            /// Returns the config with an output stride (that of the last map) of 8, 16 or 32: layers that would make it larger
            /// dilate instead. In a ResNet all layers of such a stage dilate, as in segmentation_models_pytorch; torchvision's
            /// networks have [`dilate`](ResNetConfig::dilate) without [`dilate_first`](ResNetConfig::dilate_first).
            ///
            /// # Errors
            /// If the stride is another.
            pub fn with_output_stride(self, stride: usize) -> Result<Self, ConfigError> {
                if ![8, 16, 32].contains(&stride) {
                    return Err(ConfigError::new("output_stride", format!("must be 8, 16 or 32, is {stride}")));
                }
                Ok(match self {
                    $(Self::$variant(config) => Self::$variant(BackboneFamily::with_output_stride(config, stride)),)+
                })
            }

            /// Dilates the last stages as torchvision's segmentation networks do: to an output stride of 8, of a MobileNetV3 of
            /// 16.
            pub fn with_torchvision_dilation(self) -> Self {
                match self {
                    $(Self::$variant(config) => Self::$variant(config.with_torchvision_dilation()),)+
                }
            }

            /// Returns the config with timm's layout: the first layer of a dilated stage has the dilation of the layers before
            /// it, and an EfficientNet's map of stride 2 comes from stage 1.
            pub fn with_timm_layout(self) -> Self {
                match self {
                    $(Self::$variant(config) => Self::$variant(config.with_timm_layout()),)+
                }
            }

            /// Least score of the proposals of torchvision's R-CNNs on this backbone.
            pub fn min_proposal_score(&self) -> f32 {
                match self {
                    $(Self::$variant(config) => config.min_proposal_score(),)+
                }
            }

            /// Whether the backbone can be built. A config that came from a file is checked before anything is allocated.
            ///
            /// # Errors
            /// Names the field out of range.
            pub fn check(&self) -> Result<(), ConfigError> {
                /// More channels than images have.
                const MOST: usize = 4096;
                if !(1..=MOST).contains(&self.in_channels()) {
                    let problem = format!("must be from 1 to {MOST}, is {}", self.in_channels());
                    return Err(ConfigError::new("backbone in_channels", problem));
                }
                let (parameters, hidden) = match self {
                    $(Self::$variant(config) => {
                        config.check()?;
                        (config.most_parameters(), config.hidden_channels())
                    })+
                };
                bounds::parameters("backbone layers, widths and groups", parameters)?;
                let Some(norm) = self.norm() else { return Ok(()) };
                self.channels().iter().chain(&hidden).try_for_each(|channels| norm.check(*channels))
            }

            /// The network with random weights.
            pub fn init(&self, device: &Device) -> Backbone {
                match self {
                    $(Self::$variant(config) => Backbone::$variant(BackboneFamily::init(config, device)),)+
                }
            }

            /// The classifier of torchvision's or timm's network, with random weights.
            pub(crate) fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
                match self {
                    $(Self::$variant(config) => config.classifier_head(classes, device),)+
                }
            }
        }

        /// Any backbone behind one type.
        #[derive(Module, Debug)]
        #[allow(clippy::large_enum_variant)]
        pub enum Backbone {
            $($(#[$doc])* $variant($network),)+
        }

        impl Backbone {
            /// The maps of some stages, in rising order; nothing is computed after the last of them.
            ///
            /// # Shapes
            /// `[n, in_channels, h, w]` → of each stage `[n, channels, ⌈h / stride⌉, ⌈w / stride⌉]`, of VGG and ConvNeXt rounded
            /// down but to at least 1; see [`BackboneConfig::channels`] and [`BackboneConfig::strides`]
            pub fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
                match self {
                    $(Self::$variant(network) => match <$network as BackboneNetwork>::KEEPS_REDUCED_MAPS {
                        true => keep_reduced_within(|| BackboneNetwork::forward(network, x, stages)),
                        false => keep_full(|| BackboneNetwork::forward(network, x, stages)),
                    },)+
                }
            }

            /// Prefixes of the PyTorch names of the tensors that come after a stage; timm leaves these tensors out of an encoder
            /// whose later maps are not used.
            pub(crate) fn torch_names_after(&self, stage: usize) -> Vec<String> {
                match self {
                    $(Self::$variant(network) => network.torch_names_after(stage),)+
                }
            }

            /// Reason why a file of PyTorch's with these tensors is of another backbone although their names and shapes fit.
            pub(crate) fn misfit(&self, contents: &[(String, Vec<usize>)]) -> Option<&'static str> {
                match self {
                    $(Self::$variant(network) => network.misfit(contents),)+
                }
            }

            /// Keeps all but the last `trainable` of torchvision's groups of layers from learning, parameters and running
            /// statistics: of a ResNet or a ConvNeXt the stem and the four stages (5 groups), of a MobileNet or an
            /// EfficientNet those between strides, of VGG those between poolings.
            pub fn freeze_stages(self, trainable: usize) -> Self {
                match self {
                    $(Self::$variant(network) => Self::$variant(BackboneNetwork::freeze_stages(network, trainable)),)+
                }
            }
        }

        /// Names of fields in PyTorch's files.
        pub(crate) const TORCH_NAMES: &[TorchNames] =
            &[classifier::TORCH_NAMES, $(<$network as BackboneNetwork>::TORCH_NAMES,)+];

        /// Other names of the backbones' tensors.
        pub(crate) const OTHER_NAMES: &[OtherNames] = &[$(<$network as BackboneNetwork>::other_names,)+];
    };
}

backbones! {
    /// ResNet and ResNeXt.
    ResNet(ResNetConfig, ResNet),
    /// MobileNetV2.
    MobileNetV2(MobileNetV2Config, MobileNetV2),
    /// MobileNetV3.
    MobileNetV3(MobileNetV3Config, MobileNetV3),
    /// EfficientNet.
    EfficientNet(EfficientNetConfig, EfficientNet),
    /// VGG with batch normalization.
    Vgg(VggConfig, Vgg),
    /// ConvNeXt.
    ConvNeXt(ConvNeXtConfig, ConvNeXt),
    /// One of another program.
    Custom(CustomBackboneConfig, CustomBackbone),
}

impl BackboneConfig {
    /// Takes the config of a family that is [registered](register_backbone).
    ///
    /// # Errors
    /// As [`CustomBackboneConfig::new`].
    pub fn custom(config: impl BackboneFamily) -> Result<Self, ConfigError> {
        CustomBackboneConfig::new(config).map(Self::Custom)
    }

    /// Channels of each stage's map.
    pub fn channels(&self) -> Vec<usize> {
        self.stages().channels()
    }

    /// Pixels of the image from one value of each stage's map to the next.
    pub fn strides(&self) -> Vec<usize> {
        self.stages().strides()
    }

    /// The stages of which torchvision's detectors take maps.
    pub fn detection_stages(&self) -> Vec<usize> {
        self.stages().detection_stages()
    }

    /// The stage of stride 2 of which decoders take a map; a ConvNeXt has none.
    pub fn stride2_stage(&self) -> Option<usize> {
        self.stages().stride2_stage()
    }

    /// The stages of strides 4, 8, 16 and 32 of which decoders take maps, as in segmentation_models_pytorch; where the
    /// backbone dilates, the last ones have less.
    pub fn pyramid_stages(&self) -> [usize; 4] {
        self.stages().pyramid_stages()
    }

    /// The stage of which torchvision's segmentation networks take a second map: for an auxiliary head, or for details.
    pub fn aux_stage(&self) -> usize {
        self.stages().aux_stage()
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

/// Stops the gradients of the layers that come before a group; `starts` has each group's first layer.
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
            assert!(config.stride2_stage().is_none_or(|stage| strides[stage] == 2), "{name}");
            assert_eq!(config.pyramid_stages().map(|stage| strides[stage]), [4, 8, 16, 32], "{name}");
            for stride in [8, 16, 32] {
                let dilated = config.clone().with_output_stride(8).unwrap().with_output_stride(stride).unwrap();
                assert_eq!(dilated.strides().last(), Some(&stride), "{name}");
                assert_eq!(dilated.pyramid_stages(), config.pyramid_stages(), "{name}");
                let last = dilated.channels().len() - 1;
                let map = dilated.init(&device).forward(Tensor::zeros([1, 3, 33, 64], &device), &[last]);
                assert_eq!(map[0].dims(), [1, dilated.channels()[last], rows(stride), 64 / stride], "{name}");
            }
        }
    }

    /// The stages that the detectors and decoders of torchvision and segmentation_models_pytorch take.
    #[test]
    fn stages_are_those_of_the_references() {
        let of = |name: &str| {
            let stages = BackboneConfig::by_name(name).unwrap().stages();
            (stages.stride2_stage(), stages.pyramid_stages(), stages.detection_stages(), stages.aux_stage())
        };
        assert_eq!(of("resnet50"), (Some(0), [1, 2, 3, 4], vec![1, 2, 3, 4], 3));
        assert_eq!(of("mobilenet_v2"), (Some(1), [3, 6, 13, 18], vec![14, 18], 13));
        assert_eq!(of("mobilenet_v3_large"), (Some(1), [3, 6, 12, 16], vec![13, 16], 4));
        assert_eq!(of("mobilenet_v3_small"), (Some(0), [1, 3, 8, 12], vec![9, 12], 2));
        assert_eq!(of("efficientnet_b0"), (Some(0), [2, 3, 5, 7], vec![3, 5, 8], 5));
        assert_eq!(of("tu-efficientnet_b0"), (Some(1), [2, 3, 5, 7], vec![3, 5, 8], 5));
        assert_eq!(of("vgg16_bn"), (Some(1), [2, 3, 4, 5], vec![3, 4, 5], 4));
        assert_eq!(of("convnext_tiny"), (None, [1, 3, 5, 7], vec![1, 3, 5, 7], 5));
        for unknown in ["resnet51", "", "tu-vgg16_bn"] {
            let error = BackboneConfig::by_name(unknown).unwrap_err().to_string();
            assert!(error.contains(&format!("{unknown:?}")) && error.contains("resnet50"), "{error}");
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
