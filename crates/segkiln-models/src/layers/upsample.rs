use burn::{
    config::Config,
    module::{Module, Param},
    nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig},
    tensor::{Device, Tensor, ops::ConvTransposeOptions},
};
use segkiln_ops::{ResizeMode, resize};

use super::conv2d;
use crate::{precision, summary::count, trace};

/// Layer with which a decoder doubles height and width.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum UpsampleConfig {
    /// 2×2 transposed convolution with stride 2: the paper's "up-convolution".
    Transposed,
    /// Bilinear resize (`align_corners = false`) and a 1×1 convolution; no checkerboard patterns.
    Bilinear,
}

impl UpsampleConfig {
    /// The layer from `in_channels` to `out_channels`.
    pub fn init(&self, in_channels: usize, out_channels: usize, device: &Device) -> Upsample {
        match self {
            Self::Transposed => Upsample::Transposed(
                ConvTranspose2dConfig::new([in_channels, out_channels], [2, 2]).with_stride([2, 2]).init(device),
            ),
            Self::Bilinear => Upsample::Bilinear(Conv2dConfig::new([in_channels, out_channels], [1, 1]).init(device)),
        }
    }
}

/// Doubles height and width.
#[derive(Module, Debug)]
pub enum Upsample {
    /// Transposed convolution.
    Transposed(ConvTranspose2d),
    /// Resize and 1×1 convolution.
    Bilinear(Conv2d),
}

impl Upsample {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, out_channels, 2h, 2w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Transposed(conv) => conv_transpose2d(conv, x),
            // A 1×1 convolution and a resize with weights that sum to one commute; before the resize it is a quarter of
            // the work.
            Self::Bilinear(conv) => {
                let [_, _, height, width] = x.dims();
                resize(conv2d(conv, x), [2 * height, 2 * width], ResizeMode::Bilinear { align_corners: false })
            }
        }
    }
}

/// Every transposed convolution of every network: Burn's layer, computed by [`segkiln_ops::conv_transpose2d()`].
pub fn conv_transpose2d(conv: &ConvTranspose2d, x: Tensor<4>) -> Tensor<4> {
    trace::tap(&conv.weight, convolve_transposed(conv, x))
}

fn convolve_transposed(conv: &ConvTranspose2d, x: Tensor<4>) -> Tensor<4> {
    let options = ConvTransposeOptions::new(conv.stride, conv.padding, conv.padding_out, conv.dilation, conv.groups);
    let [n, _, height, width] = x.dims();
    if let Some(y) = precision::convolve_transposed(conv, &x) {
        count(&conv.weight, n * height * width, &y);
        return y;
    }
    let (x, weight) = precision::factors(precision::full(x).into(), conv.weight.val(), 1, conv.groups);
    let x = x.tensors().next().cloned().expect("one tensor went in");
    let y = segkiln_ops::conv_transpose2d(x, weight, conv.bias.as_ref().map(Param::val), options);
    count(&conv.weight, n * height * width, &y);
    y
}

/// Bilinear, to the height and width of another map or of the image.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, size[0], size[1]]`
pub fn resize_to(x: Tensor<4>, size: [usize; 2], align_corners: bool) -> Tensor<4> {
    resize(precision::full(x), size, ResizeMode::Bilinear { align_corners })
}

/// Nearest-neighbor, to the height and width of another map.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, size[0], size[1]]`
pub fn upsample_nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    match precision::upsample_nearest(&x, size) {
        Some(y) => y,
        None => resize(precision::full(x), size, ResizeMode::Nearest),
    }
}
