//! VGG: Simonyan and Zisserman, ICLR 2015, <https://arxiv.org/abs/1409.1556>, with batch normalisation; as torchvision
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
    /// The normalisation after each convolution.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
}

impl VggConfig {
    pub(super) fn channels(&self) -> Vec<usize> {
        CHANNELS.iter().chain(CHANNELS.last()).copied().collect()
    }

    /// Upper bound of the number of parameters.
    pub(super) fn most_parameters(&self) -> u128 {
        self.layers.iter().zip(CHANNELS).map(|(layers, channels)| product(&[*layers, 10, channels, channels])).sum()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.layers.iter().any(|layers| !(1..=64).contains(layers)) {
            return Err(ConfigError::new(
                "backbone layers",
                format!("must be from 1 to 64 convolutions each, are {:?}", self.layers),
            ));
        }
        super::check_output_stride(self.output_stride)
    }

    pub(super) fn strides(&self) -> Vec<usize> {
        [1, 2, 4, 8, 16, 32].map(|stride: usize| stride.min(self.output_stride)).into()
    }

    /// The network with random weights (Kaiming normal), without a classifier.
    pub fn init(&self, device: &Device) -> Vgg {
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

impl Vgg {
    pub(super) fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
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

    pub(super) fn freeze_stages(self, trainable: usize) -> Self {
        let pools = self.features.iter().enumerate().filter(|(_, layer)| matches!(layer, VggLayer::Pool(_)));
        let starts: Vec<usize> =
            [0].into_iter().chain(pools.map(|(index, _)| index + 1)).take(CHANNELS.len()).collect();
        Self { features: super::freeze_layers(self.features, &starts, trainable) }
    }
}
