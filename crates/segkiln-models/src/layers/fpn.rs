use burn::{
    module::Module,
    nn::Initializer,
    tensor::{Device, Tensor},
};
use segkiln_ops::{ResizeMode, resize};

use super::{Activation, ConvBlock, ConvBlockConfig, NormConfig};

/// Feature pyramid: Lin et al., CVPR 2017, <https://arxiv.org/abs/1612.03144>. Each map is added to the ones below it in
/// the network, enlarged to its size (nearest), and smoothed.
#[derive(Module, Debug)]
pub struct FeaturePyramid {
    /// 1×1 to the common channels, of the largest map first.
    pub inner_blocks: Vec<ConvBlock>,
    /// 3×3 smoothing.
    pub layer_blocks: Vec<ConvBlock>,
}

impl FeaturePyramid {
    /// Of maps with these channels, with random weights (Kaiming uniform).
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
        }
    }

    /// # Shapes
    /// `[n, in_channels, h, w]` of each map → `[n, out_channels, h, w]`, the largest first
    pub fn forward(&self, maps: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        let mut results = Vec::with_capacity(maps.len());
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
        results
    }
}
