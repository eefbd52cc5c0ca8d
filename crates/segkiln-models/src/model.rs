use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};

use crate::unet::{AttentionUNet, AttentionUNetConfig, UNet, UNetConfig, UNetPlusPlus, UNetPlusPlusConfig};

/// Any segmentation network of this crate, as a file describes it.
///
/// ```
/// use segkiln_models::{ModelConfig, unet::UNetConfig};
///
/// let config = ModelConfig::UNet(UNetConfig::new(1, 1).with_base(16));
/// let json = burn::config::config_to_json(&config);
/// assert!(json.contains("UNet"));
/// ```
#[derive(Config, Debug)]
pub enum ModelConfig {
    /// U-Net.
    UNet(UNetConfig),
    /// UNet++.
    UNetPlusPlus(UNetPlusPlusConfig),
    /// Attention U-Net.
    AttentionUNet(AttentionUNetConfig),
}

impl ModelConfig {
    /// The network with random weights.
    pub fn init(&self, device: &Device) -> SegmentationModel {
        match self {
            Self::UNet(config) => SegmentationModel::UNet(config.init(device)),
            Self::UNetPlusPlus(config) => SegmentationModel::UNetPlusPlus(config.init(device)),
            Self::AttentionUNet(config) => SegmentationModel::AttentionUNet(config.init(device)),
        }
    }

    /// Whether the network can be built. A config that came from a file is checked before anything is allocated.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), String> {
        let blocks = match self {
            Self::UNet(config) => config.blocks(),
            Self::UNetPlusPlus(config) => config.blocks(),
            Self::AttentionUNet(config) => config.blocks(),
        };
        blocks.check(self.classes())
    }

    /// Channels of the images that the network takes.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::UNet(config) => config.in_channels,
            Self::UNetPlusPlus(config) => config.in_channels,
            Self::AttentionUNet(config) => config.in_channels,
        }
    }

    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::UNet(config) => config.classes,
            Self::UNetPlusPlus(config) => config.classes,
            Self::AttentionUNet(config) => config.classes,
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
        }
    }

    /// The logits of each head, for a loss with deep supervision. The last is the deepest decoder's; networks with one
    /// head give one.
    ///
    /// # Shapes
    /// `[batch, in_channels, height, width]` → at least one `[batch, classes, height, width]`
    pub fn forward_all(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        match self {
            Self::UNetPlusPlus(model) => model.forward_all(x),
            other => vec![other.forward(x)],
        }
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
