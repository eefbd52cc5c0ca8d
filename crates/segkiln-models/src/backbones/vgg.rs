//! VGG: Simonyan and Zisserman, ICLR 2015, <https://arxiv.org/abs/1409.1556>, with batch normalization; as torchvision
//! has it.

use burn::{
    config::Config,
    module::Module,
    nn::{
        Initializer, PaddingConfig2d, Relu,
        conv::{Conv2d, Conv2dConfig},
        pool::{MaxPool2d, MaxPool2dConfig},
    },
    tensor::{Device, Tensor},
};

use super::{BackboneFamily, BackboneNetwork, ClassifierHead, Stage, Stages, Variants, VggHead};
use crate::{
    ConfigError,
    bounds::product,
    layers::{Activation, Norm, NormConfig, conv_norm, max_pool2d, max_pool2d_same, pad_to_least},
};

/// Channels of each stage.
const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];

/// Configuration of a [`Vgg`].
#[derive(Config, Debug)]
pub struct VggConfig {
    /// Convolutions of each stage; by default VGG16's.
    #[config(default = "[2, 2, 3, 3, 3]")]
    pub layers: [usize; 5],
    /// Channels of the image.
    #[config(default = 3)]
    pub in_channels: usize,
    /// The last map's stride: 32, 16 or 8. With less than 32 it is DeepLab's: the last poolings have windows of 3×3 and a
    /// stride of 1, and the convolutions between them dilate by 2.
    #[config(default = 32)]
    pub output_stride: usize,
    /// The normalization after each convolution.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
}

impl VggConfig {
    /// The network with random weights (Kaiming normal), without a classifier.
    pub fn init(&self, device: &Device) -> Vgg {
        BackboneFamily::init(self, device)
    }
}

impl BackboneFamily for VggConfig {
    type Network = Vgg;

    const VARIANTS: Variants<Self> = &[
        ("vgg11_bn", || Self::new().with_layers([1, 1, 2, 2, 2])),
        ("vgg13_bn", || Self::new().with_layers([2, 2, 2, 2, 2])),
        ("vgg16_bn", Self::new),
        ("vgg19_bn", || Self::new().with_layers([2, 2, 4, 4, 4])),
    ];

    fn stages(&self) -> Stages {
        let channels = CHANNELS.into_iter().chain(CHANNELS.last().copied());
        let rows = channels.zip([1, 2, 4, 8, 16, 32]);
        Stages::new(rows.map(|(channels, stride)| Stage::new(channels, stride, self.output_stride)))
            .with_detection_stages([3, 4, 5])
            .ending_with_pooling()
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

    fn check(&self) -> Result<(), ConfigError> {
        if self.layers.iter().any(|layers| !(1..=64).contains(layers)) {
            return Err(ConfigError::new(
                "backbone layers",
                format!("must be from 1 to 64 convolutions each, are {:?}", self.layers),
            ));
        }
        super::check_output_stride(self.output_stride)
    }

    fn most_parameters(&self) -> u128 {
        self.layers.iter().zip(CHANNELS).map(|(layers, channels)| product(&[*layers, 10, channels, channels])).sum()
    }

    fn init(&self, device: &Device) -> Vgg {
        let mut from = self.in_channels;
        let mut features = Vec::new();
        for (stage, (convolutions, channels)) in self.layers.into_iter().zip(CHANNELS).enumerate() {
            let stride = 1 << stage;
            let dilation = if stride > self.output_stride { 2 } else { 1 };
            for _ in 0..convolutions {
                let conv = Conv2dConfig::new([from, channels], [3, 3])
                    .with_padding(PaddingConfig2d::Explicit(dilation, dilation, dilation, dilation))
                    .with_dilation([dilation; 2])
                    .with_initializer(Initializer::KaimingNormal { gain: 2f64.sqrt(), fan_out_only: true })
                    .init(device);
                features.push(VggLayer::Conv(conv));
                features.extend(self.norm.init(channels, device).map(VggLayer::Norm));
                features.push(VggLayer::Relu(Relu::new()));
                from = channels;
            }
            let pool = match stride < self.output_stride {
                true => MaxPool2dConfig::new([2, 2]).with_strides([2, 2]),
                false => MaxPool2dConfig::new([3, 3])
                    .with_strides([1, 1])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)),
            };
            features.push(VggLayer::Pool(pool.init()));
        }
        Vgg { features }
    }

    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        ClassifierHead::Vgg(VggHead::new(self.stages().last_channels(), classes, device))
    }
}

/// The network; see [`VggConfig`]. A stage but the first begins with a pooling, which is all of the last.
#[derive(Module, Debug)]
pub struct Vgg {
    /// Layer by layer, as they are numbered in torchvision's files.
    pub features: Vec<VggLayer>,
}

/// A layer.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum VggLayer {
    /// 3×3 convolution, with bias.
    Conv(Conv2d),
    /// Its norm.
    Norm(Norm),
    /// ReLU.
    Relu(Relu),
    /// 2×2 max pooling, or 3×3 with a stride of 1.
    Pool(MaxPool2d),
}

impl BackboneNetwork for Vgg {
    const KEEPS_REDUCED_MAPS: bool = true;

    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        let layers: Vec<&VggLayer> = self.features.iter().collect();
        let stage_layers = layers.chunk_by(|_, next| !matches!(next, VggLayer::Pool(_)));
        super::collect(stage_layers, x, stages, |layers, x| {
            layers.iter().enumerate().fold(x, |x, (index, layer)| match layer {
                VggLayer::Conv(conv) => {
                    let norm = match layers.get(index + 1) {
                        Some(VggLayer::Norm(norm)) => Some(norm),
                        _ => None,
                    };
                    conv_norm(conv, norm, Activation::Relu, x)
                }
                // Computed with their convolution.
                VggLayer::Norm(_) | VggLayer::Relu(_) => x,
                VggLayer::Pool(pool) if pool.stride == [1, 1] => max_pool2d_same(x),
                VggLayer::Pool(_) => {
                    // Where PyTorch refuses: a side of one pixel stays one.
                    max_pool2d(pad_to_least(x, 2))
                }
            })
        })
    }

    fn freeze_stages(self, trainable: usize) -> Self {
        let pools = self.features.iter().enumerate().filter(|(_, layer)| matches!(layer, VggLayer::Pool(_)));
        let starts: Vec<usize> =
            [0].into_iter().chain(pools.map(|(index, _)| index + 1)).take(CHANNELS.len()).collect();
        Self { features: super::freeze_layers(self.features, &starts, trainable) }
    }
}
