use burn::{
    module::Param,
    nn::{Linear, PaddingConfig2d, conv::Conv2d},
    tensor::Tensor,
};

use super::{
    Activation,
    conv::{convolve_activated, convolve_scaled},
};
use crate::summary::count;

/// Every fully connected layer of every network: Burn's.
///
/// # Shapes
/// `[n, d_in]` → `[n, d_out]`
pub fn linear(layer: &Linear, x: Tensor<2>) -> Tensor<2> {
    let places = x.dims()[0];
    let y = layer.forward(x);
    count(&layer.weight, places, &y);
    y
}

/// Every fully connected layer of each pixel's channels, and the activation after it: as a 1×1 convolution, for which the channels
/// need not be the last axis.
///
/// # Shapes
/// `[n, d_in, h, w]` → `[n, d_out, h, w]`
pub fn linear2d(layer: &Linear, activation: Activation, x: Tensor<4>) -> Tensor<4> {
    convolve_activated(&as_convolution(layer), activation, x)
}

/// [`linear2d`] whose output channels are multiplied by `scale`.
///
/// # Shapes
/// `[n, d_in, h, w]` and `[d_out]` → `[n, d_out, h, w]`
pub fn scaled_linear2d(layer: &Linear, scale: Tensor<1>, x: Tensor<4>) -> Tensor<4> {
    convolve_scaled(&as_convolution(layer), scale, x)
}

/// The convolution that is the layer: its weight is a view of the layer's, and known by the same id.
fn as_convolution(layer: &Linear) -> Conv2d {
    let weight = layer.weight.val().unsqueeze::<4>().permute([3, 2, 0, 1]);
    Conv2d {
        weight: Param::initialized(layer.weight.id, weight),
        bias: layer.bias.clone(),
        stride: [1, 1],
        kernel_size: [1, 1],
        dilation: [1, 1],
        groups: 1,
        padding: PaddingConfig2d::Valid,
    }
}
