//! U-Net with two encoders, for images of two kinds of the same place: color and depth, two stains, radar and light. The maps
//! of both are fused at each level, as in Hazirbas et al., "FuseNet", ACCV 2016,
//! <https://doi.org/10.1007/978-3-319-54181-5_14>, but by a learned 1×1 convolution in place of a sum, and the decoder is
//! U-Net's.

use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};

use super::{EncodedUNet, EncodedUNetConfig, encoded::stages};
use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{ConvBlock, ConvBlockConfig, resize_to},
    segmentation::{SegmentationNetwork, SegmentationNetworkConfig, owned},
};

/// Configuration of a [`FusionUNet`].
#[derive(Config, Debug)]
pub struct FusionUNetConfig {
    /// The network with the first encoder, which sees the image's first channels.
    pub unet: EncodedUNetConfig,
    /// The second encoder, which sees the other channels.
    pub second: BackboneConfig,
}

impl FusionUNetConfig {
    /// Channels of the image: the encoders' one after the other.
    pub fn in_channels(&self) -> usize {
        self.unet.backbone.in_channels() + self.second.in_channels()
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.unet.check()?;
        self.second.check()?;
        let strides = |encoder: &BackboneConfig| {
            stages(encoder).into_iter().map(|stage| encoder.strides()[stage]).collect::<Vec<_>>()
        };
        let [first, second] = [&self.unet.backbone, &self.second].map(strides);
        if first == second {
            Ok(())
        } else {
            Err(ConfigError::new("second", format!("must have maps of the strides {first:?}, has {second:?}")))
        }
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> FusionUNet {
        let channels = |encoder: &BackboneConfig| {
            let of = encoder.channels();
            stages(encoder).into_iter().map(move |stage| of[stage])
        };
        let fuse = channels(&self.unet.backbone).zip(channels(&self.second));
        let fuse =
            fuse.map(|(to, more)| ConvBlockConfig::new(to + more, to).with_kernel(1).with_padding(0).init(device));
        FusionUNet {
            unet: self.unet.init(device),
            second: self.second.init(device),
            fuse: fuse.collect(),
            split: self.unet.backbone.in_channels(),
            stages: stages(&self.second),
        }
    }
}

/// The network; see [`FusionUNetConfig`].
#[derive(Module, Debug)]
pub struct FusionUNet {
    /// The first encoder and the decoder.
    pub unet: EncodedUNet,
    /// The second encoder.
    pub second: Backbone,
    /// 1×1 of both encoders' maps to the first one's channels, the largest map's first.
    pub fuse: Vec<ConvBlock>,
    /// Channels of the first encoder.
    #[module(skip)]
    split: usize,
    /// Stages of the second encoder whose maps are used.
    #[module(skip)]
    stages: Vec<usize>,
}

impl FusionUNet {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`; see [`FusionUNetConfig::in_channels`]
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, channels, height, width] = x.dims();
        let first = self.unet.maps(x.clone().slice([0..n, 0..self.split]));
        let second = self.second.forward(x.slice([0..n, self.split..channels]), &self.stages);
        let maps = first.into_iter().zip(second).zip(&self.fuse).map(|((map, more), fuse)| {
            let [_, _, rows, columns] = map.dims();
            // Poolings without padding round odd sizes another way.
            let more = if more.dims()[2..] == [rows, columns] { more } else { resize_to(more, [rows, columns], false) };
            fuse.forward([map, more])
        });
        self.unet.decode(maps.collect(), [height, width])
    }
}

impl SegmentationNetworkConfig for FusionUNetConfig {
    type Network = FusionUNet;

    fn check(&self) -> Result<(), ConfigError> {
        self.check()
    }

    fn init(&self, device: &Device) -> FusionUNet {
        self.init(device)
    }

    fn in_channels(&self) -> usize {
        self.in_channels()
    }

    fn with_in_channels(mut self, in_channels: usize) -> Self {
        let first = in_channels.saturating_sub(self.second.in_channels());
        self.unet.backbone = self.unet.backbone.with_in_channels(first);
        self
    }

    fn classes(&self) -> usize {
        self.unet.classes
    }

    fn has_backbone(&self) -> bool {
        true
    }
}

impl SegmentationNetwork for FusionUNet {
    type Config = FusionUNetConfig;

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.unet.encoder)
    }

    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        vec![&mut self.unet.encoder, &mut self.second]
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["unet.segmentation_head."])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, TensorData, Tolerance};

    use super::*;
    use crate::{ModelConfig, SegmentationModel, weights::save_torch};

    fn config() -> FusionUNetConfig {
        let encoder = |name, channels| BackboneConfig::by_name(name).unwrap().with_in_channels(channels);
        let unet = EncodedUNetConfig::new(encoder("resnet18", 3), 2).with_channels([32, 16, 8, 8, 8]);
        FusionUNetConfig::new(unet, encoder("vgg11_bn", 1))
    }

    #[test]
    fn encoders_must_have_maps_of_the_same_strides() {
        config().check().unwrap();
        let convnext = BackboneConfig::by_name("convnext_tiny").unwrap();
        let error = FusionUNetConfig { second: convnext, ..config() }.check().unwrap_err().to_string();
        assert!(error.contains("[2, 4, 8, 16, 32]") && error.contains("[4, 8, 16, 32]"), "{error}");
    }

    /// Its own, for other classes, and an encoder's.
    #[test]
    fn it_begins_with_weights() {
        let device = Device::default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let encoder = |channels| BackboneConfig::by_name("resnet18").unwrap().with_in_channels(channels);
        let config = |classes| {
            let unet = EncodedUNetConfig::new(encoder(3), classes).with_channels([32, 16, 8, 8, 8]);
            ModelConfig::FusionUNet(FusionUNetConfig::new(unet, encoder(1)))
        };
        save_torch(&config(2).init(&device), &path).unwrap();
        config(5).init(&device).load_pretrained(&path).unwrap();
        let backbone = encoder(3).init(&device);
        save_torch(&backbone, &path).unwrap();
        let SegmentationModel::FusionUNet(begun) = config(2).init(&device).load_pretrained(&path).unwrap() else {
            panic!("another network");
        };
        let x = Tensor::<4>::random([1, 1, 32, 32], Distribution::Default, &device);
        let map = |backbone: &Backbone, x: Tensor<4>| backbone.forward(x, &[2]).remove(0).into_data();
        // The second encoder's one channel has the sum of the three's weights.
        let expected = map(&backbone, x.clone().repeat_dim(1, 3));
        map(&begun.second, x).assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-3, 1e-4));
    }

    #[test]
    fn both_images_matter() {
        let device = Device::default();
        let network = config().init(&device);
        assert_eq!(config().in_channels(), 4);
        let x = Tensor::<4>::random([1, 4, 45, 64], Distribution::Default, &device);
        let logits = |x: Tensor<4>| -> TensorData { network.forward(x).into_data() };
        let all = logits(x.clone());
        assert_eq!(all.shape().to_vec(), [1, 2, 45, 64]);
        for channel in [0, 3] {
            let without = x.clone().slice_assign([0..1, channel..channel + 1], Tensor::zeros([1, 1, 45, 64], &device));
            assert_ne!(logits(without), all, "channel {channel}");
        }
    }
}
