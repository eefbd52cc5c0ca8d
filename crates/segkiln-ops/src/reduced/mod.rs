//! Reduced precision on the CPU: factors of products are bf16 and sums f32, or, in inference, factors have 8 bits and sums 32.
//!
//! A [`ReducedConv2d`] packs a layer's weight once, for the dot products of bf16 that the processor has (AVX512-BF16), a
//! [`QuantizedConv2d`] for those of integers (AVX512-VNNI). Between such layers activations can stay as they are multiplied, with
//! their channels last in memory, `[batch, height, width, channels]`: a half or a quarter of the traffic, and neighboring
//! channels are the pairs or fours that a dot product takes. An 8-bit map stores its scale and zero point behind its values.
//!
//! - `unit`: the vector instructions that the kernels use, and their definition in plain loops;
//! - `activations`: tensors of bf16 or 8 bits with channels last, and the way there and back;
//! - `product`: the product in registers;
//! - `winograd`, `direct`: 3×3 kernels by transformed tiles, all others by the definition;
//! - `pool`: pooling and sums between convolutions;
//! - `correlation`, `taps`: gradients of weights, over Winograd's tiles or by the definition;
//! - `training`: a convolution and its gradients, which [`conv2d_bf16`](crate::conv2d_bf16) computes.

mod activations;
mod convolution;
mod correlation;
mod direct;
mod pool;
mod product;
mod quantized;
mod taps;
pub(crate) mod training;
mod unit;
mod winograd;

pub use activations::Quantization;
pub use convolution::{Affine, ReducedConv2d, is_reduced_activation, quantization};
pub use pool::{PoolWindow, add_relu, cat, max_pool2d, to_full_precision, upsample_nearest};

pub use quantized::{QuantizedConv2d, quantize};

/// Whether this processor has dot products of bf16 and of 8 bits. Without, [`ReducedConv2d`] and [`QuantizedConv2d`] have no
/// kernels, and f32 is as fast.
pub fn is_supported() -> bool {
    unit::UnitKind::fastest().is_some()
}

#[cfg(test)]
mod tests;
