use burn::{
    module::Module,
    nn::{Dropout, DropoutConfig},
    tensor::{Device, Tensor},
};

use crate::{
    layers::{ConvBlock, ConvBlockConfig, NormConfig, SeparableConv, global_avg_pool2d, resize_to},
    precision::cat,
};

/// Atrous spatial pyramid pooling: the map through a 1×1 convolution, through 3×3 convolutions of several dilations, and
/// its mean; all of it to common channels.
#[derive(Module, Debug)]
pub struct Aspp {
    /// 1×1, then one of each rate, last the mean's.
    pub convs: Vec<AsppBranch>,
    /// 1×1 to the common channels.
    pub project: ConvBlock,
    /// Dropout of every second value, in training.
    pub dropout: Dropout,
}

/// A way through the pyramid.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum AsppBranch {
    /// A convolution.
    Conv(ConvBlock),
    /// A separable one.
    Separable(SeparableConv),
    /// 1×1, of the mean of the map.
    Pooling(AsppPooling),
}

/// 1×1, of the mean of the map.
#[derive(Module, Debug)]
pub struct AsppPooling {
    /// 1×1.
    pub block: ConvBlock,
}

impl Aspp {
    /// Creates the module with random weights (PyTorch's default).
    pub fn new(channels: [usize; 2], rates: &[usize], separable: bool, device: &Device) -> Self {
        let [from, to] = channels;
        let norm = NormConfig::default();
        let one = |from| ConvBlockConfig::new(from, to).with_kernel(1).with_padding(0).init(device);
        let rate = |rate: &usize| match separable {
            true => AsppBranch::Separable(SeparableConv::new(channels, *rate, &norm, device)),
            false => {
                AsppBranch::Conv(ConvBlockConfig::new(from, to).with_padding(*rate).with_dilation(*rate).init(device))
            }
        };
        let convs: Vec<_> = [AsppBranch::Conv(one(from))]
            .into_iter()
            .chain(rates.iter().map(rate))
            .chain([AsppBranch::Pooling(AsppPooling { block: one(from) })])
            .collect();
        Self { project: one(convs.len() * to), convs, dropout: DropoutConfig::new(0.5).init() }
    }

    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, out_channels, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branches = self.convs.iter().map(|branch| branch.forward(x.clone())).collect();
        self.dropout.forward(self.project.forward(cat(branches)))
    }
}

impl AsppBranch {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Conv(block) => block.forward(x),
            Self::Separable(block) => block.forward(x),
            Self::Pooling(pooling) => {
                let [_, _, height, width] = x.dims();
                resize_to(pooling.block.forward(global_avg_pool2d(x)), [height, width], false)
            }
        }
    }
}
