use std::path::Path;

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};

use crate::{
    Summary,
    backbones::{Backbone, BackboneConfig, smp},
    deeplab::{
        DeepLabV1, DeepLabV1Config, DeepLabV2, DeepLabV2Config, DeepLabV3, DeepLabV3Config, DeepLabV3Plus,
        DeepLabV3PlusConfig,
    },
    fcn::{Fcn, FcnConfig},
    fpn::{Fpn, FpnConfig},
    lraspp::{LrAspp, LrAsppConfig},
    pspnet::{PspNet, PspNetConfig},
    unet::{
        AttentionUNet, AttentionUNetConfig, EncodedUNet, EncodedUNetConfig, EncodedUNetPlusPlus,
        EncodedUNetPlusPlusConfig, FusionUNet, FusionUNetConfig, UNet, UNetConfig, UNetPlusPlus, UNetPlusPlusConfig,
    },
    weights::{self, Exceptions, WeightsError, load_torch_but, torch_contents},
};

/// Any segmentation network of this crate, as a file describes it.
///
/// ```
/// use segkiln_models::{ModelConfig, unet::UNetConfig};
///
/// let config = ModelConfig::UNet(UNetConfig::new(1, 1).with_base(16));
/// let json = burn::config::config_to_json(&config);
/// assert!(json.contains("UNet"));
///
/// let config = ModelConfig::by_name("deeplabv3_resnet50", 21)?;
/// assert_eq!((config.in_channels(), config.classes()), (3, 21));
/// # Ok::<(), String>(())
/// ```
#[derive(Config, Debug)]
pub enum ModelConfig {
    /// U-Net.
    UNet(UNetConfig),
    /// UNet++.
    UNetPlusPlus(UNetPlusPlusConfig),
    /// Attention U-Net.
    AttentionUNet(AttentionUNetConfig),
    /// U-Net on any encoder.
    EncodedUNet(EncodedUNetConfig),
    /// UNet++ on any encoder.
    EncodedUNetPlusPlus(EncodedUNetPlusPlusConfig),
    /// U-Net on two encoders.
    FusionUNet(FusionUNetConfig),
    /// Fully convolutional network.
    Fcn(FcnConfig),
    /// DeepLabV1.
    DeepLabV1(DeepLabV1Config),
    /// DeepLabV2.
    DeepLabV2(DeepLabV2Config),
    /// DeepLabV3.
    DeepLabV3(DeepLabV3Config),
    /// DeepLabV3+.
    DeepLabV3Plus(DeepLabV3PlusConfig),
    /// Lite R-ASPP.
    LrAspp(LrAsppConfig),
    /// PSPNet.
    PspNet(PspNetConfig),
    /// Feature pyramid.
    Fpn(FpnConfig),
}

impl ModelConfig {
    /// What stands before a backbone's name in [`by_name`](Self::by_name).
    pub const DECODERS: [&str; 10] = [
        "deeplabv1",
        "deeplabv2",
        "deeplabv3",
        "deeplabv3plus",
        "fcn",
        "fpn",
        "lraspp",
        "pspnet",
        "unet",
        "unetplusplus",
    ];

    /// A network for RGB images by decoder and backbone: one of [`DECODERS`](Self::DECODERS), an underscore, one of
    /// [`BackboneConfig::NAMES`]; for `classes` channels of logits.
    ///
    /// `fcn`, `deeplabv3` and `lraspp` are torchvision's, such as `deeplabv3_mobilenet_v3_large`; `deeplabv1` and `deeplabv2`
    /// are the papers', on torchvision's backbones with an output stride of 8 (MobileNetV3: 16); the others are
    /// segmentation_models_pytorch's with its defaults, on those backbones that it has too. Its names of encoders are also
    /// understood: `unet_tu-mobilenetv3_large_100`, `fpn_timm-efficientnet-b0`, `pspnet_efficientnet-b1`.
    ///
    /// # Errors
    /// A sentence that says what is known, if the name is not, or the decoder needs a dilation that the backbone cannot
    /// have.
    pub fn by_name(name: &str, classes: usize) -> Result<Self, String> {
        let unknown = || {
            format!(
                "there is no network {name:?}; a name is a decoder ({}), an underscore and a backbone ({})",
                Self::DECODERS.join(", "),
                BackboneConfig::NAMES.join(", ")
            )
        };
        let (decoder, backbone) = name.split_once('_').ok_or_else(unknown)?;
        let is_timm = smp::is_timm(backbone);
        let backbone = BackboneConfig::by_name(backbone).ok_or_else(unknown)?;
        let strided = |backbone: BackboneConfig, stride| {
            let backbone = backbone.with_output_stride(stride)?;
            Ok::<_, String>(if is_timm { backbone.as_of_timm() } else { backbone })
        };
        let dilated = |backbone: BackboneConfig| match backbone {
            BackboneConfig::ResNet(config) => Ok(BackboneConfig::ResNet(config.with_dilate([false, true, true]))),
            BackboneConfig::MobileNetV3(config) => Ok(BackboneConfig::MobileNetV3(config.with_output_stride(16))),
            other => other.with_output_stride(8),
        };
        Ok(match decoder {
            "deeplabv1" => Self::DeepLabV1(DeepLabV1Config::new(dilated(backbone)?, classes)),
            "deeplabv2" => Self::DeepLabV2(DeepLabV2Config::new(dilated(backbone)?, classes)),
            "deeplabv3" => Self::DeepLabV3(DeepLabV3Config::new(dilated(backbone)?, classes)),
            "deeplabv3plus" => Self::DeepLabV3Plus(DeepLabV3PlusConfig::new(strided(backbone, 16)?, classes)),
            "fcn" => Self::Fcn(FcnConfig::new(dilated(backbone)?, classes)),
            "fpn" => Self::Fpn(FpnConfig::new(backbone, classes)),
            "lraspp" => Self::LrAspp(LrAsppConfig::new(dilated(backbone)?, classes)),
            "pspnet" => Self::PspNet(PspNetConfig::new(backbone, classes)),
            "unet" => Self::EncodedUNet(EncodedUNetConfig::new(backbone, classes)),
            "unetplusplus" => Self::EncodedUNetPlusPlus(EncodedUNetPlusPlusConfig::new(backbone, classes)),
            _ => return Err(unknown()),
        })
    }

    /// The same with a second head that learns from an earlier map, or without; of a network that can have none, the same.
    pub fn with_aux(self, aux: bool) -> Self {
        match self {
            Self::Fcn(config) => Self::Fcn(config.with_aux(aux)),
            Self::DeepLabV3(config) => Self::DeepLabV3(config.with_aux(aux)),
            other => other,
        }
    }

    /// The same for images of this many channels; the second encoder of a [`FusionUNet`] keeps its own.
    pub fn with_in_channels(mut self, mut in_channels: usize) -> Self {
        let backbone = match &mut self {
            Self::UNet(UNetConfig { in_channels: old, .. })
            | Self::UNetPlusPlus(UNetPlusPlusConfig { in_channels: old, .. })
            | Self::AttentionUNet(AttentionUNetConfig { in_channels: old, .. }) => {
                *old = in_channels;
                return self;
            }
            Self::EncodedUNet(config) => &mut config.encoder,
            Self::EncodedUNetPlusPlus(config) => &mut config.encoder,
            Self::FusionUNet(config) => {
                in_channels = in_channels.saturating_sub(config.second.in_channels());
                &mut config.unet.encoder
            }
            Self::Fcn(config) => &mut config.backbone,
            Self::DeepLabV1(config) => &mut config.backbone,
            Self::DeepLabV2(config) => &mut config.backbone,
            Self::DeepLabV3(config) => &mut config.backbone,
            Self::DeepLabV3Plus(config) => &mut config.encoder,
            Self::LrAspp(config) => &mut config.backbone,
            Self::PspNet(config) => &mut config.encoder,
            Self::Fpn(config) => &mut config.encoder,
        };
        *backbone = backbone.clone().with_in_channels(in_channels);
        self
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> SegmentationModel {
        match self {
            Self::UNet(config) => SegmentationModel::UNet(config.init(device)),
            Self::UNetPlusPlus(config) => SegmentationModel::UNetPlusPlus(config.init(device)),
            Self::AttentionUNet(config) => SegmentationModel::AttentionUNet(config.init(device)),
            Self::EncodedUNet(config) => SegmentationModel::EncodedUNet(config.init(device)),
            Self::EncodedUNetPlusPlus(config) => SegmentationModel::EncodedUNetPlusPlus(config.init(device)),
            Self::FusionUNet(config) => SegmentationModel::FusionUNet(config.init(device)),
            Self::Fcn(config) => SegmentationModel::Fcn(config.init(device)),
            Self::DeepLabV1(config) => SegmentationModel::DeepLabV1(config.init(device)),
            Self::DeepLabV2(config) => SegmentationModel::DeepLabV2(config.init(device)),
            Self::DeepLabV3(config) => SegmentationModel::DeepLabV3(config.init(device)),
            Self::DeepLabV3Plus(config) => SegmentationModel::DeepLabV3Plus(config.init(device)),
            Self::LrAspp(config) => SegmentationModel::LrAspp(config.init(device)),
            Self::PspNet(config) => SegmentationModel::PspNet(config.init(device)),
            Self::Fpn(config) => SegmentationModel::Fpn(config.init(device)),
        }
    }

    /// What the network costs for an image of this height and width. It is built and run once.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use segkiln_models::ModelConfig;
    ///
    /// let summary = ModelConfig::by_name("fpn_resnet18", 2)?.summary([64, 64], &Device::default());
    /// println!("{}", summary.blocks(2));
    /// # Ok::<(), String>(())
    /// ```
    pub fn summary(&self, [height, width]: [usize; 2], device: &Device) -> Summary {
        let device = device.clone().inner();
        let image = Tensor::zeros([1, self.in_channels(), height, width], &device);
        Summary::of(&self.init(&device), |model| drop(model.forward(image)))
    }

    /// Whether the network can be built. A config that came from a file is checked before anything is allocated.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), String> {
        /// More than any data set has.
        const MOST_CLASSES: usize = 8192;
        if !(1..=MOST_CLASSES).contains(&self.classes()) {
            return Err(format!("classes must be from 1 to {MOST_CLASSES}, is {}", self.classes()));
        }
        match self {
            Self::UNet(config) => config.blocks().check(),
            Self::UNetPlusPlus(config) => config.blocks().check(),
            Self::AttentionUNet(config) => config.blocks().check(),
            Self::EncodedUNet(config) => config.check(),
            Self::EncodedUNetPlusPlus(config) => config.check(),
            Self::FusionUNet(config) => config.check(),
            Self::Fcn(config) => config.check(),
            Self::DeepLabV1(config) => config.check(),
            Self::DeepLabV2(config) => config.check(),
            Self::DeepLabV3(config) => config.check(),
            Self::DeepLabV3Plus(config) => config.check(),
            Self::LrAspp(config) => config.check(),
            Self::PspNet(config) => config.check(),
            Self::Fpn(config) => config.check(),
        }
    }

    /// Whether the network is a decoder on a backbone.
    pub fn has_backbone(&self) -> bool {
        !matches!(self, Self::UNet(_) | Self::UNetPlusPlus(_) | Self::AttentionUNet(_))
    }

    /// Channels of the images that the network takes.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::UNet(config) => config.in_channels,
            Self::UNetPlusPlus(config) => config.in_channels,
            Self::AttentionUNet(config) => config.in_channels,
            Self::EncodedUNet(config) => config.encoder.in_channels(),
            Self::EncodedUNetPlusPlus(config) => config.encoder.in_channels(),
            Self::FusionUNet(config) => config.in_channels(),
            Self::Fcn(config) => config.backbone.in_channels(),
            Self::DeepLabV1(config) => config.backbone.in_channels(),
            Self::DeepLabV2(config) => config.backbone.in_channels(),
            Self::DeepLabV3(config) => config.backbone.in_channels(),
            Self::DeepLabV3Plus(config) => config.encoder.in_channels(),
            Self::LrAspp(config) => config.backbone.in_channels(),
            Self::PspNet(config) => config.encoder.in_channels(),
            Self::Fpn(config) => config.encoder.in_channels(),
        }
    }

    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::UNet(config) => config.classes,
            Self::UNetPlusPlus(config) => config.classes,
            Self::AttentionUNet(config) => config.classes,
            Self::EncodedUNet(config) => config.classes,
            Self::EncodedUNetPlusPlus(config) => config.classes,
            Self::FusionUNet(config) => config.unet.classes,
            Self::Fcn(config) => config.classes,
            Self::DeepLabV1(config) => config.classes,
            Self::DeepLabV2(config) => config.classes,
            Self::DeepLabV3(config) => config.classes,
            Self::DeepLabV3Plus(config) => config.classes,
            Self::LrAspp(config) => config.classes,
            Self::PspNet(config) => config.classes,
            Self::Fpn(config) => config.classes,
        }
    }
}

/// Any segmentation network of this crate behind one type.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum SegmentationModel {
    /// U-Net.
    UNet(UNet),
    /// UNet++.
    UNetPlusPlus(UNetPlusPlus),
    /// Attention U-Net.
    AttentionUNet(AttentionUNet),
    /// U-Net on any encoder.
    EncodedUNet(EncodedUNet),
    /// UNet++ on any encoder.
    EncodedUNetPlusPlus(EncodedUNetPlusPlus),
    /// U-Net on two encoders.
    FusionUNet(FusionUNet),
    /// Fully convolutional network.
    Fcn(Fcn),
    /// DeepLabV1.
    DeepLabV1(DeepLabV1),
    /// DeepLabV2.
    DeepLabV2(DeepLabV2),
    /// DeepLabV3.
    DeepLabV3(DeepLabV3),
    /// DeepLabV3+.
    DeepLabV3Plus(DeepLabV3Plus),
    /// Lite R-ASPP.
    LrAspp(LrAspp),
    /// PSPNet.
    PspNet(PspNet),
    /// Feature pyramid.
    Fpn(Fpn),
}

impl SegmentationModel {
    /// Logits of the image's height and width.
    ///
    /// # Shapes
    /// `[batch, in_channels, height, width]` → `[batch, classes, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::UNet(model) => model.forward_full(x),
            Self::UNetPlusPlus(model) => model.forward(x),
            Self::AttentionUNet(model) => model.forward(x),
            Self::EncodedUNet(model) => model.forward(x),
            Self::EncodedUNetPlusPlus(model) => model.forward(x),
            Self::FusionUNet(model) => model.forward(x),
            Self::Fcn(model) => model.forward(x),
            Self::DeepLabV1(model) => model.forward(x),
            Self::DeepLabV2(model) => model.forward(x),
            Self::DeepLabV3(model) => model.forward(x),
            Self::DeepLabV3Plus(model) => model.forward(x),
            Self::LrAspp(model) => model.forward(x),
            Self::PspNet(model) => model.forward(x),
            Self::Fpn(model) => model.forward(x),
        }
    }

    /// Whether there is a second head, of [`ModelConfig::with_aux`].
    pub fn has_aux(&self) -> bool {
        match self {
            Self::Fcn(model) => model.aux_classifier.is_some(),
            Self::DeepLabV3(model) => model.aux_classifier.is_some(),
            _ => false,
        }
    }

    /// What makes the maps, of networks that take any; of a [`FusionUNet`] the first.
    pub fn backbone(&self) -> Option<&Backbone> {
        match self {
            Self::UNet(_) | Self::UNetPlusPlus(_) | Self::AttentionUNet(_) => None,
            Self::EncodedUNet(model) => Some(&model.encoder),
            Self::EncodedUNetPlusPlus(model) => Some(&model.encoder),
            Self::FusionUNet(model) => Some(&model.unet.encoder),
            Self::Fcn(model) => Some(&model.backbone),
            Self::DeepLabV1(model) => Some(&model.backbone),
            Self::DeepLabV2(model) => Some(&model.backbone),
            Self::DeepLabV3(model) => Some(&model.backbone),
            Self::DeepLabV3Plus(model) => Some(&model.encoder),
            Self::LrAspp(model) => Some(&model.backbone),
            Self::PspNet(model) => Some(&model.encoder),
            Self::Fpn(model) => Some(&model.encoder),
        }
    }

    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        match self {
            Self::UNet(_) | Self::UNetPlusPlus(_) | Self::AttentionUNet(_) => Vec::new(),
            Self::EncodedUNet(model) => vec![&mut model.encoder],
            Self::EncodedUNetPlusPlus(model) => vec![&mut model.encoder],
            Self::FusionUNet(model) => vec![&mut model.unet.encoder, &mut model.second],
            Self::Fcn(model) => vec![&mut model.backbone],
            Self::DeepLabV1(model) => vec![&mut model.backbone],
            Self::DeepLabV2(model) => vec![&mut model.backbone],
            Self::DeepLabV3(model) => vec![&mut model.backbone],
            Self::DeepLabV3Plus(model) => vec![&mut model.encoder],
            Self::LrAspp(model) => vec![&mut model.backbone],
            Self::PspNet(model) => vec![&mut model.encoder],
            Self::Fpn(model) => vec![&mut model.encoder],
        }
    }

    /// Weights to begin a training with: a `.bpk` of the same network; torchvision's or segmentation_models_pytorch's of
    /// it, also for other classes, whose head then keeps its own; or torchvision's or timm's of its backbone, also a
    /// classifier's and for another number of channels (see [`Exceptions::channels`]). Both encoders of a [`FusionUNet`] begin
    /// with those.
    ///
    /// # Errors
    /// [`WeightsError`], naming the tensors if the file is of none of these.
    pub fn begin_with(mut self, path: &Path) -> Result<Self, WeightsError> {
        if path.extension().is_some_and(|extension| extension == "bpk") {
            return weights::load(self, path);
        }
        let is_whole = |name: &str| ["encoder.", "backbone."].iter().any(|part| name.contains(part));
        let contents = torch_contents(path)?;
        if let Some(Backbone::EfficientNet(backbone)) = self.backbone()
            && !backbone.same_padding()
            && weights::is_efficientnet_pytorch(&contents)
        {
            let reason =
                "its names are EfficientNet-PyTorch's, which pads as TensorFlow; take a backbone `tf_efficientnet_`";
            return Err(WeightsError::Read { path: path.into(), reason: reason.into() });
        }
        if self.backbone().is_none() || contents.iter().any(|(name, _)| is_whole(name)) {
            let kept = &[
                "segmentation_head.",
                "unet.segmentation_head.",
                "fc8.",
                "aspp.",
                "classifier.4.",
                "aux_classifier.4.",
                "classifier.low_classifier.",
                "classifier.high_classifier.",
            ];
            // A second head that this network does not have.
            let spare: &[&str] = if self.has_aux() { &[] } else { &["aux_classifier."] };
            return self.load_torch(path, Exceptions { kept, spare, channels: true, ..Exceptions::default() });
        }
        let spare = &["fc.", "_fc.", "classifier.", "head.", "conv_head."];
        for backbone in self.backbones_mut() {
            let exceptions = Exceptions { spare, channels: true, ..Exceptions::default() };
            *backbone = load_torch_but(backbone.clone(), path, exceptions)?;
        }
        Ok(self)
    }

    /// [`load_torch_but`]; what of its encoder the network does not use may also be missing.
    ///
    /// # Errors
    /// As [`load_torch_but`].
    pub fn load_torch(self, path: &Path, exceptions: Exceptions<'_>) -> Result<Self, WeightsError> {
        let after = |(encoder, stage): (&Backbone, usize)| {
            encoder.torch_names_after(stage).into_iter().map(|name| format!("encoder.{name}")).collect()
        };
        let unused: Vec<String> = self.last_map().map_or(Vec::new(), after);
        let absent: Vec<&str> = exceptions.absent.iter().copied().chain(unused.iter().map(String::as_str)).collect();
        load_torch_but(self, path, Exceptions { absent: &absent, ..exceptions })
    }

    /// The encoder of segmentation_models_pytorch's networks, and the last of its stages that is used.
    fn last_map(&self) -> Option<(&Backbone, usize)> {
        match self {
            Self::EncodedUNet(model) => Some((&model.encoder, *model.stages.last()?)),
            Self::EncodedUNetPlusPlus(model) => Some((&model.encoder, *model.stages.last()?)),
            Self::DeepLabV3Plus(model) => Some((&model.encoder, model.stages[1])),
            Self::PspNet(model) => Some((&model.encoder, model.stage)),
            Self::Fpn(model) => Some((&model.encoder, model.stages[3])),
            _ => None,
        }
    }

    /// Keeps the backbone's layers from learning but for the last `trainable` groups; see [`Backbone::freeze_stages`].
    pub fn freeze_backbone(mut self, trainable: usize) -> Self {
        for backbone in self.backbones_mut() {
            *backbone = backbone.clone().freeze_stages(trainable);
        }
        self
    }

    /// The logits of each head, for a loss with deep supervision, and what each weighs in it. The last is the main one:
    /// UNet++'s deepest, or that beside an auxiliary head, which weighs half as much as torchvision has it. Networks with
    /// one head give one.
    ///
    /// # Shapes
    /// `[batch, in_channels, height, width]` → at least one `[batch, classes, height, width]`
    pub fn forward_all(&self, x: Tensor<4>) -> Vec<(f64, Tensor<4>)> {
        let heads = match self {
            Self::UNetPlusPlus(model) => model.forward_all(x),
            Self::Fcn(model) => model.forward_all(x),
            Self::DeepLabV3(model) => model.forward_all(x),
            other => vec![other.forward(x)],
        };
        let weights = if self.has_aux() { vec![0.5, 1.0] } else { vec![1.0 / heads.len() as f64; heads.len()] };
        weights.into_iter().zip(heads).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::NormConfig;

    #[test]
    fn group_norm_fits_the_gates() {
        let config =
            AttentionUNetConfig::new(1, 2).with_base(8).with_depth(1).with_norm(NormConfig::Group { groups: 8 });
        let config = ModelConfig::AttentionUNet(config);
        config.check().unwrap();
        let device = Device::default();
        assert_eq!(config.init(&device).forward(Tensor::zeros([1, 1, 8, 8], &device)).dims(), [1, 2, 8, 8]);
    }

    #[test]
    fn configs_out_of_range_are_named() {
        let unet = || UNetConfig::new(1, 2);
        let refused = |config: UNetConfig| ModelConfig::UNet(config).check().unwrap_err();
        assert!(ModelConfig::UNet(unet()).check().is_ok());
        assert!(refused(UNetConfig::new(0, 2)).contains("in_channels"));
        assert!(refused(unet().with_base(usize::MAX)).contains("base"));
        assert!(refused(unet().with_depth(63)).contains("depth"));
        assert!(refused(unet().with_base(64).with_depth(12)).contains("12 times"));
        assert!(refused(unet().with_depth(0)).contains("depth"));
        assert!(refused(unet().with_dropout(f64::NAN)).contains("dropout"));
        assert!(refused(unet().with_norm(NormConfig::Group { groups: 5 })).contains("5 norm groups"));
        assert!(refused(unet().with_norm(NormConfig::Batch { epsilon: 0.0, momentum: 0.1 })).contains("epsilon"));
    }
}
