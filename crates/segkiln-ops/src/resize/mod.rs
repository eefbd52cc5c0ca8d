//! Resampling of feature maps to another height and width: nearest and bilinear, with PyTorch's two conventions.
//!
//! Differs from Burn's `interpolate` in that it has a gradient on every backend (Burn's bilinear gradient panics on
//! CubeCL), gives the same bits on every run, and defaults to PyTorch's sampling convention.
//!
//! # Sampling convention
//!
//! With `i` an output index and `n → m` the input and output lengths along an axis:
//!
//! | mode | source position of output `i` |
//! |---|---|
//! | `Nearest` | index `floor(i · n / m)` |
//! | `Bilinear { align_corners: false }` | `max((i + ½) · n / m − ½, 0)`: pixels are areas, their borders coincide |
//! | `Bilinear { align_corners: true }` | `i · (n − 1) / (m − 1)`: pixels are points, the corner points coincide |
//!
//! Bilinear weighs the two nearest indices by their distance; past the last index it repeats the last. This is
//! `torch.nn.functional.interpolate` with a `size` and without `antialias`.

use burn::{
    backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// Interpolation between pixels; see the [module's table](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The pixel at or before the source position.
    Nearest,
    /// The mean of the four pixels around the source position, weighted by nearness.
    Bilinear {
        /// Whether corner pixels' centers (true) or image borders (false, PyTorch's default) coincide.
        align_corners: bool,
    },
}

impl Default for ResizeMode {
    /// Bilinear with `align_corners: false`.
    fn default() -> Self {
        Self::Bilinear { align_corners: false }
    }
}

/// Resizes the last two axes of `x` to `size` = `[height, width]`.
///
/// # Shapes
/// - `x`: `[batch, channels, height_in, width_in]`
/// - output: `[batch, channels, size[0], size[1]]`
///
/// # Panics
/// If `size` has a zero, or `x` has rows or columns without pixels: there is nothing to sample.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::{ResizeMode, resize};
///
/// let x = Tensor::<4>::from_floats([[[[0.0, 1.0], [2.0, 3.0]]]], &Device::default());
/// let y = resize(x, [1, 4], ResizeMode::Bilinear { align_corners: true });
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]);
/// ```
pub fn resize(x: Tensor<4>, size: [usize; 2], mode: ResizeMode) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    assert!(
        height > 0 && width > 0 && size[0] > 0 && size[1] > 0,
        "resize from {height}x{width} to {}x{}: no side may be zero",
        size[0],
        size[1]
    );
    if [height, width] == size {
        return x;
    }
    Tensor::from_dispatch(<Dispatch as ResizeOps>::resize(x.into_dispatch(), size, mode))
}

/// Backend operators behind [`resize`].
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait ResizeOps: Backend {
    /// `[n, c, h, w]` → `[n, c, size[0], size[1]]`.
    #[fusion(dtype = x, shape = with_size(x, size))]
    fn resize(x: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self>;

    /// Adjoint of [`resize`](Self::resize): the gradient of the output, `[n, c, h', w']`, spread back over an input of `size`.
    #[fusion(dtype = grad, shape = with_size(grad, size))]
    fn resize_backward(grad: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self>;
}

#[cfg(feature = "cubecl")]
fn with_size(shape: &burn::tensor::Shape, size: &[usize; 2]) -> burn::tensor::Shape {
    let [n, c, _, _] = shape.dims();
    burn::tensor::Shape::new([n, c, size[0], size[1]])
}

/// The two input indices along an axis that an output index reads, and the second one's weight.
#[cfg(any(feature = "flex", feature = "ndarray"))]
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tap {
    first: usize,
    second: usize,
    /// Weight of `second`, in `[0, 1)`; `first` has the rest.
    share: f32,
}

/// Returns a tap for each of `output` indices over `input` indices. The arithmetic is f32, as PyTorch's, so that positions round
/// to the same indices.
#[cfg(any(feature = "flex", feature = "ndarray"))]
fn taps(input: usize, output: usize, mode: ResizeMode) -> Vec<Tap> {
    let scale = match mode {
        ResizeMode::Bilinear { align_corners: true } if output > 1 => (input - 1) as f32 / (output - 1) as f32,
        ResizeMode::Bilinear { align_corners: true } => 0.0,
        _ => input as f32 / output as f32,
    };
    (0..output)
        .map(|index| {
            let position = match mode {
                ResizeMode::Bilinear { align_corners: false } => ((index as f32 + 0.5) * scale - 0.5).max(0.0),
                _ => index as f32 * scale,
            };
            let first = (position as usize).min(input - 1);
            match mode {
                ResizeMode::Nearest => Tap { first, second: first, share: 0.0 },
                ResizeMode::Bilinear { .. } => {
                    Tap { first, second: (first + 1).min(input - 1), share: (position - first as f32).clamp(0.0, 1.0) }
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
