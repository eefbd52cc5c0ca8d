use burn::tensor::{Tensor, module};

use crate::precision::full;

/// The mean of each channel.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, 1, 1]`
pub fn global_avg_pool2d(x: Tensor<4>) -> Tensor<4> {
    full(x).mean_dim(3).mean_dim(2)
}

/// The means of `size` × `size` regions that cover the map; they overlap where the sides are no multiples.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, size, size]`
pub fn adaptive_avg_pool2d(x: Tensor<4>, size: usize) -> Tensor<4> {
    if size == 1 { global_avg_pool2d(x) } else { module::adaptive_avg_pool2d(full(x), [size; 2]) }
}
