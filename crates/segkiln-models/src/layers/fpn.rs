use burn::{
    module::Module,
    nn::{
        Initializer, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, activation::relu, s},
};
use segkiln_ops::{ResizeMode, resize};

use super::{Activation, ConvBlock, ConvBlockConfig, NormConfig, conv2d, zero_bias};

/// Feature pyramid: Lin et al., CVPR 2017, <https://arxiv.org/abs/1612.03144>. Each map is added to the ones below it in
/// the network, enlarged to its size (nearest), and smoothed.
#[derive(Module, Debug)]
pub struct FeaturePyramid {
    /// 1×1 to the common channels, of the largest map first.
    pub inner_blocks: Vec<ConvBlock>,
    /// 3×3 smoothing.
    pub layer_blocks: Vec<ConvBlock>,
    /// Convolutions of P6 and P7, where [`LastLevel`] asks for them.
    pub extra_blocks: Option<LastLevelP6P7>,
    #[module(skip)]
    last: Option<LastLevel>,
}

/// Levels that a pyramid adds above those of the backbone's maps; torchvision's `ExtraFPNBlock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LastLevel {
    /// One level: every other value of the last one. R-CNN's.
    MaxPool,
    /// P6 and P7: 3×3 convolutions of stride 2, the first on the pyramid's last level (P5).
    P6P7OnP5,
    /// P6 and P7, the first convolution on the backbone's last map (C5).
    P6P7OnC5,
}

impl LastLevel {
    /// Number of levels that it adds.
    pub fn levels(self) -> usize {
        match self {
            Self::MaxPool => 1,
            Self::P6P7OnP5 | Self::P6P7OnC5 => 2,
        }
    }
}

/// Convolutions of stride 2 that make the levels P6 and P7: Lin et al., ICCV 2017, <https://arxiv.org/abs/1708.02002>.
#[derive(Module, Debug)]
pub struct LastLevelP6P7 {
    /// 3×3 from P5 or C5.
    pub p6: Conv2d,
    /// 3×3 from P6, behind a ReLU.
    pub p7: Conv2d,
}

impl LastLevelP6P7 {
    fn new(in_channels: usize, out_channels: usize, device: &Device) -> Self {
        let conv = |from| {
            let conv = Conv2dConfig::new([from, out_channels], [3, 3])
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_initializer(Initializer::KaimingUniform { gain: 1.0, fan_out_only: false });
            zero_bias(conv.init(device), device)
        };
        Self { p6: conv(in_channels), p7: conv(out_channels) }
    }

    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, out_channels, ⌈h / 2⌉, ⌈w / 2⌉]` and `[n, out_channels, ⌈h / 4⌉, ⌈w / 4⌉]`
    pub fn forward(&self, x: Tensor<4>) -> [Tensor<4>; 2] {
        let p6 = conv2d(&self.p6, x);
        let p7 = conv2d(&self.p7, relu(p6.clone()));
        [p6, p7]
    }
}

impl FeaturePyramid {
    /// Pyramid of maps with these channels, with random weights (Kaiming uniform).
    pub fn new(in_channels: &[usize], out_channels: usize, norm: &NormConfig, device: &Device) -> Self {
        let block = |from, kernel: usize| {
            ConvBlockConfig::new(from, out_channels)
                .with_kernel(kernel)
                .with_padding(kernel / 2)
                .with_initializer(Initializer::KaimingUniform { gain: 1.0, fan_out_only: false })
                .with_norm(norm.clone())
                .with_activation(Activation::Identity)
                .init(device)
        };
        Self {
            inner_blocks: in_channels.iter().map(|channels| block(*channels, 1)).collect(),
            layer_blocks: in_channels.iter().map(|_| block(out_channels, 3)).collect(),
            extra_blocks: None,
            last: None,
        }
    }

    /// Adds levels above the last one, with random weights.
    pub fn with_last_level(mut self, last: LastLevel, device: &Device) -> Self {
        // The shape is known before the weights have values: `[out, in, 1, 1]`.
        let last_channels = self.inner_blocks.last().map_or([0, 0], |block| {
            let shape = block.conv.weight.lazy_shape();
            [shape[0], shape[1]]
        });
        let [out_channels, in_channels] = last_channels;
        self.extra_blocks = match last {
            LastLevel::MaxPool => None,
            LastLevel::P6P7OnP5 => Some(LastLevelP6P7::new(out_channels, out_channels, device)),
            LastLevel::P6P7OnC5 => Some(LastLevelP6P7::new(in_channels, out_channels, device)),
        };
        self.last = Some(last);
        self
    }

    /// # Shapes
    /// `[n, in_channels, h, w]` of each map → `[n, out_channels, h, w]`, the largest first; then the levels of
    /// [`with_last_level`](Self::with_last_level)
    pub fn forward(&self, maps: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        let mut results = Vec::with_capacity(maps.len() + 2);
        let c5 = maps.last().cloned();
        let mut above: Option<Tensor<4>> = None;
        for ((map, inner), layer) in maps.into_iter().zip(&self.inner_blocks).zip(&self.layer_blocks).rev() {
            let lateral = inner.forward(map);
            let sum = match above {
                Some(above) => {
                    let [_, _, height, width] = lateral.dims();
                    lateral + resize(above, [height, width], ResizeMode::Nearest)
                }
                None => lateral,
            };
            results.push(layer.forward(sum.clone()));
            above = Some(sum);
        }
        results.reverse();
        let (Some(p5), Some(c5)) = (results.last().cloned(), c5) else { return results };
        let from = if self.last == Some(LastLevel::P6P7OnC5) { c5 } else { p5 };
        match (&self.extra_blocks, self.last) {
            (Some(convolutions), _) => results.extend(convolutions.forward(from)),
            (None, Some(LastLevel::MaxPool)) => results.push(from.slice(s![.., .., ..;2, ..;2])),
            (None, Some(LastLevel::P6P7OnP5 | LastLevel::P6P7OnC5) | None) => {}
        }
        results
    }
}
