//! Inference in reduced precision on the CPU: factors of products are bf16, sums f32.
//!
//! A [`ReducedConv2d`] packs a layer's weight once, for the dot products of bf16 that the processor has (AVX512-BF16). Between
//! such layers activations can stay bf16 with their channels last in memory, `[batch, height, width, channels]`: half of the
//! traffic, and neighbouring channels are the pairs that a dot product takes.
//!
//! - `unit`: the few instructions, with a definition in plain loops beside them;
//! - `activations`: tensors of bf16 with channels last, and the way there and back;
//! - `product`: the product in registers;
//! - `winograd`, `direct`: 3×3 kernels by transformed tiles, all others by the definition;
//! - `pool`: what is between convolutions: pooling, sums.

mod activations;
mod convolution;
mod direct;
mod pool;
mod product;
mod unit;
mod winograd;

pub use convolution::{Affine, ReducedConv2d, is_reduced_activation};
pub use pool::{PoolWindow, add_relu, cat, max_pool2d, to_full_precision, upsample_nearest};

#[cfg(test)]
mod tests;
