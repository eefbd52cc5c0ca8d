use burn::{nn::Linear, tensor::Tensor};

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
