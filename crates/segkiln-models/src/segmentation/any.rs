//! The list of segmentation networks, from which the types that `config.json` and names select are generated.

use std::path::Path;

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;

use super::{HeadLogits, SegmentationNetwork, SegmentationNetworkConfig, check_classes};
use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    deeplab::{
        DeepLabV1, DeepLabV1Config, DeepLabV2, DeepLabV2Config, DeepLabV3, DeepLabV3Config, DeepLabV3Plus,
        DeepLabV3PlusConfig,
    },
    fcn::{Fcn, FcnConfig},
    fpn::{Fpn, FpnConfig},
    lraspp::{LrAspp, LrAsppConfig},
    pspnet::{PspNet, PspNetConfig},
    segformer::{SegFormer, SegFormerConfig},
    unet::{
        AttentionUNet, AttentionUNetConfig, EncodedUNet, EncodedUNetConfig, EncodedUNetPlusPlus,
        EncodedUNetPlusPlusConfig, FusionUNet, FusionUNetConfig, UNet, UNetConfig, UNetPlusPlus, UNetPlusPlusConfig,
    },
    upernet::{UPerNet, UPerNetConfig},
    weights::{self, TorchNames, WeightsError},
};

/// Generates [`ModelConfig`] and [`SegmentationModel`] with all that they pass on to the network they hold.
macro_rules! segmentation_networks {
    ($($(#[$doc:meta])* $variant:ident($config:ident, $network:ident),)+) => {
        /// Any segmentation network of this crate, as a file describes it.
        ///
        /// ```
        /// use segkiln_models::{ModelConfig, SegmentationNetworkConfig, unet::UNetConfig};
        ///
        /// let config = ModelConfig::UNet(UNetConfig::new(1, 1).with_base(16));
        /// let json = burn::config::config_to_json(&config);
        /// assert!(json.contains("UNet"));
        ///
        /// let config = ModelConfig::by_name("deeplabv3_resnet50", 21)?;
        /// assert_eq!((config.in_channels(), config.classes()), (3, 21));
        /// # Ok::<(), segkiln_models::ConfigError>(())
        /// ```
        #[derive(Debug, Clone, Serialize)]
        pub enum ModelConfig {
            $($(#[$doc])* $variant($config),)+
        }

        /// Form in files: the config under the name of its variant.
        #[derive(Deserialize)]
        enum Named {
            $($variant($config),)+
        }

        impl From<Named> for ModelConfig {
            fn from(named: Named) -> Self {
                match named {
                    $(Named::$variant(config) => Self::$variant(config),)+
                }
            }
        }

        impl ModelConfig {
            /// Decoders that stand before a backbone's name in [`by_name`](Self::by_name).
            pub fn decoders() -> Vec<&'static str> {
                let lists: &[&[&'static str]] = &[$(<$config as SegmentationNetworkConfig>::DECODERS,)+];
                lists.concat()
            }

            /// Names that [`by_name`](Self::by_name) knows of networks that are no decoder on a backbone.
            pub fn names() -> Vec<&'static str> {
                let lists: &[&[&'static str]] = &[$(<$config as SegmentationNetworkConfig>::NAMES,)+];
                lists.concat()
            }
        }

        impl SegmentationNetworkConfig for ModelConfig {
            type Network = SegmentationModel;

            fn named(name: &str, classes: usize) -> Result<Option<Self>, ConfigError> {
                $(
                    if let Some(config) = $config::named(name, classes)? {
                        return Ok(Some(Self::$variant(config)));
                    }
                )+
                Ok(None)
            }

            fn check(&self) -> Result<(), ConfigError> {
                check_classes(self.classes())?;
                match self {
                    $(Self::$variant(config) => SegmentationNetworkConfig::check(config),)+
                }
            }

            fn init(&self, device: &Device) -> SegmentationModel {
                match self {
                    $(Self::$variant(config) => SegmentationModel::$variant(config.init(device)),)+
                }
            }

            fn in_channels(&self) -> usize {
                match self {
                    $(Self::$variant(config) => SegmentationNetworkConfig::in_channels(config),)+
                }
            }

            fn with_in_channels(self, in_channels: usize) -> Self {
                match self {
                    $(Self::$variant(config) => {
                        Self::$variant(SegmentationNetworkConfig::with_in_channels(config, in_channels))
                    })+
                }
            }

            fn classes(&self) -> usize {
                match self {
                    $(Self::$variant(config) => SegmentationNetworkConfig::classes(config),)+
                }
            }

            fn with_aux(self, aux: bool) -> Self {
                match self {
                    $(Self::$variant(config) => Self::$variant(SegmentationNetworkConfig::with_aux(config, aux)),)+
                }
            }

            fn has_backbone(&self) -> bool {
                match self {
                    $(Self::$variant(config) => config.has_backbone(),)+
                }
            }
        }

        /// Any segmentation network of this crate behind one type.
        #[derive(Module, Debug)]
        #[allow(clippy::large_enum_variant, reason = "a network is moved a few times in its life")]
        pub enum SegmentationModel {
            $($(#[$doc])* $variant($network),)+
        }

        $(
            impl From<$config> for ModelConfig {
                fn from(config: $config) -> Self {
                    Self::$variant(config)
                }
            }

            impl From<$network> for SegmentationModel {
                fn from(network: $network) -> Self {
                    Self::$variant(network)
                }
            }
        )+

        impl SegmentationNetwork for SegmentationModel {
            type Config = ModelConfig;

            fn forward(&self, x: Tensor<4>) -> Tensor<4> {
                match self {
                    $(Self::$variant(network) => SegmentationNetwork::forward(network, x),)+
                }
            }

            fn forward_heads(&self, x: Tensor<4>) -> Vec<HeadLogits> {
                match self {
                    $(Self::$variant(network) => network.forward_heads(x),)+
                }
            }

            fn backbone(&self) -> Option<&Backbone> {
                match self {
                    $(Self::$variant(network) => network.backbone(),)+
                }
            }

            fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
                match self {
                    $(Self::$variant(network) => network.backbones_mut(),)+
                }
            }

            fn class_tensors(&self) -> Vec<String> {
                match self {
                    $(Self::$variant(network) => network.class_tensors(),)+
                }
            }

            fn unused_tensors(&self) -> Vec<String> {
                match self {
                    $(Self::$variant(network) => network.unused_tensors(),)+
                }
            }

            fn training_tensors(&self) -> Vec<String> {
                match self {
                    $(Self::$variant(network) => network.training_tensors(),)+
                }
            }

            fn freeze_backbone(self, trainable: usize) -> Self {
                match self {
                    $(Self::$variant(network) => Self::$variant(network.freeze_backbone(trainable)),)+
                }
            }

            fn load_pretrained(self, path: &Path) -> Result<Self, WeightsError> {
                if weights::is_own(path) {
                    // Of this type: its tensors' paths begin with the variant's name.
                    return weights::load(self, path);
                }
                Ok(match self {
                    $(Self::$variant(network) => Self::$variant(network.load_pretrained(path)?),)+
                })
            }
        }

        /// Names of the networks' fields in PyTorch's files.
        pub(crate) const TORCH_NAMES: &[TorchNames] = &[$(<$network as SegmentationNetwork>::TORCH_NAMES,)+];
    };
}

segmentation_networks! {
    /// U-Net.
    UNet(UNetConfig, UNet),
    /// UNet++.
    UNetPlusPlus(UNetPlusPlusConfig, UNetPlusPlus),
    /// Attention U-Net.
    AttentionUNet(AttentionUNetConfig, AttentionUNet),
    /// U-Net on any backbone.
    EncodedUNet(EncodedUNetConfig, EncodedUNet),
    /// UNet++ on any backbone.
    EncodedUNetPlusPlus(EncodedUNetPlusPlusConfig, EncodedUNetPlusPlus),
    /// U-Net on two backbones.
    FusionUNet(FusionUNetConfig, FusionUNet),
    /// Fully convolutional network.
    Fcn(FcnConfig, Fcn),
    /// DeepLabV1.
    DeepLabV1(DeepLabV1Config, DeepLabV1),
    /// DeepLabV2.
    DeepLabV2(DeepLabV2Config, DeepLabV2),
    /// DeepLabV3.
    DeepLabV3(DeepLabV3Config, DeepLabV3),
    /// DeepLabV3+.
    DeepLabV3Plus(DeepLabV3PlusConfig, DeepLabV3Plus),
    /// Lite R-ASPP.
    LrAspp(LrAsppConfig, LrAspp),
    /// PSPNet.
    PspNet(PspNetConfig, PspNet),
    /// Feature pyramid.
    Fpn(FpnConfig, Fpn),
    /// SegFormer.
    SegFormer(SegFormerConfig, SegFormer),
    /// UPerNet.
    UPerNet(UPerNetConfig, UPerNet),
}

impl Config for ModelConfig {}

impl ModelConfig {
    /// Returns the network with this name, for RGB images and `classes` channels of logits: one of
    /// [`names`](Self::names); or one of [`decoders`](Self::decoders), an underscore and one of
    /// [`BackboneConfig::NAMES`].
    ///
    /// `fcn`, `deeplabv3` and `lraspp` are torchvision's, such as `deeplabv3_mobilenet_v3_large`; `deeplabv1` and `deeplabv2`
    /// are the papers', on torchvision's backbones with an output stride of 8 (MobileNetV3: 16); the others are
    /// segmentation_models_pytorch's with its defaults, on those backbones that it has too. Its names of encoders are also
    /// understood: `unet_tu-mobilenetv3_large_100`, `fpn_timm-efficientnet-b0`, `pspnet_efficientnet-b1`.
    ///
    /// # Errors
    /// A sentence that says what is known, if the name is not, or that the decoder needs a dilation which the backbone
    /// cannot have.
    pub fn by_name(name: &str, classes: usize) -> Result<Self, ConfigError> {
        Self::named(name, classes)?.ok_or_else(|| {
            let mut decoders = Self::decoders();
            decoders.sort_unstable();
            let whole = Self::names();
            let whole = if whole.is_empty() { String::new() } else { format!(", or one of {}", whole.join(", ")) };
            ConfigError::with_message(
                "name",
                format!(
                    "there is no network {name:?}; a name is a decoder ({}), an underscore and a backbone ({}){whole}",
                    decoders.join(", "),
                    BackboneConfig::NAMES.join(", ")
                ),
            )
        })
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    /// Reads the config by its variant's name. Files of earlier versions call some networks' backbone `encoder`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        rename_encoders(&mut value);
        serde_json::from_value::<Named>(value).map(Self::from).map_err(D::Error::custom)
    }
}

/// Renames fields `encoder` to `backbone`.
fn rename_encoders(config: &mut Value) {
    let Value::Object(fields) = config else { return };
    if let Some(encoder) = fields.remove("encoder") {
        fields.insert("backbone".into(), encoder);
    }
    fields.values_mut().for_each(rename_encoders);
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
        let refused = |config: UNetConfig| ModelConfig::UNet(config).check().unwrap_err().to_string();
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

    #[test]
    fn files_of_earlier_versions_are_read() {
        for name in
            ["unet_resnet18", "unetplusplus_vgg11_bn", "deeplabv3plus_resnet18", "pspnet_resnet18", "fpn_resnet18"]
        {
            let config = ModelConfig::by_name(name, 2).unwrap();
            let json = serde_json::to_string(&config).unwrap();
            assert!(json.contains("\"backbone\""), "{json}");
            let read: ModelConfig = serde_json::from_str(&json.replace("\"backbone\"", "\"encoder\"")).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
        }
        let error = serde_json::from_str::<ModelConfig>(r#"{"YNet": {}}"#).unwrap_err().to_string();
        assert!(error.contains("YNet") && error.contains("PspNet"), "{error}");
    }
}
