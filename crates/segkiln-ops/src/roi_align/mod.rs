//! RoIAlign: each region of interest of a feature map becomes a grid of bins, as torchvision's `roi_align` computes it
//! (He et al., *Mask R-CNN*, 2017).
//!
//! # Sampling convention
//!
//! A box `(x1, y1, x2, y2)` is multiplied by [`scale`](RoiAlignOptions::scale); with
//! [`aligned`](RoiAlignOptions::aligned) half a pixel is subtracted, so that pixels are areas and a box's borders are
//! borders of pixels; without, pixels are points and no side is shorter than 1. Along an axis of `n` pixels, with a box from
//! `a` that has `m` bins of size `b`, and `g` points a bin, the points of bin `i` are at `a + i · b + (j + ½) · b / g`. A bin
//! is the mean of its g × g points. A point's value is the mean of the four pixels around it, weighted by nearness; beyond
//! the first and last pixel they are repeated, and a point below −1 or above `n` is 0. All this is f32 arithmetic in
//! torchvision's order, so that points fall on the same side of a border.
//!
//! With [`sampling_ratio`](RoiAlignOptions::sampling_ratio) `None` there are `ceil(b)` points a bin. However large the box,
//! only points inside the map are computed with, about two a pixel at most; beyond 2²⁴ a bin, which are boxes larger than
//! any image, they are fewer and further apart.
//!
//! A box of which a coordinate is not a number, or a size not finite, has no points inside: its bins are 0.

use burn::{
    backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor},
    tensor::Tensor,
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod taps;

/// Options of [`roi_align`]; see the [module's convention](self).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiAlignOptions {
    /// Bins in a column and in a row of the output, each at least 1.
    pub size: [usize; 2],
    /// Pixels of the feature map to a pixel of the boxes: 1/4 for a map of a quarter of the image's height and width.
    pub scale: f64,
    /// Points a bin along each axis, at least 1; `None`: one to each pixel of the bin, rounded up.
    pub sampling_ratio: Option<usize>,
    /// Whether pixels are areas (true, as in Detectron2) or points (false, as in torchvision's detectors).
    pub aligned: bool,
}

/// Pools each region of `rois` from `x` to a grid of bins.
///
/// `x` has a gradient, `rois` has none.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - `rois`: `[regions, 5]`: the index of an image in the batch, and `x1`, `y1`, `x2`, `y2` in pixels of the image
/// - output: `[regions, channels, size[0], size[1]]`
///
/// # Panics
/// If `rois` has other than five columns, `size` a zero, `sampling_ratio` is zero, `x` has rows or columns without pixels,
/// or an index is outside the batch. GPU backends do not check indices, because that would wait for the device; there
/// such a region's bins are 0.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::{RoiAlignOptions, roi_align};
///
/// let device = Device::default();
/// let x = Tensor::<4>::from_floats([[[[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]]], &device);
/// let rois = Tensor::<2>::from_floats([[0.0, 0.0, 0.0, 4.0, 2.0]], &device);
/// let options = RoiAlignOptions { size: [1, 2], scale: 1.0, sampling_ratio: None, aligned: true };
/// let y = roi_align(x, rois, options);
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [2.5, 4.5]);
/// ```
pub fn roi_align(x: Tensor<4>, rois: Tensor<2>, options: RoiAlignOptions) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let [_, columns] = rois.dims();
    let RoiAlignOptions { size, sampling_ratio, .. } = options;
    assert_eq!(columns, 5, "a region is an image's index and four coordinates");
    assert!(
        height > 0 && width > 0 && size[0] > 0 && size[1] > 0,
        "regions of {height}x{width} to {}x{}: no side may be zero",
        size[0],
        size[1]
    );
    assert!(sampling_ratio != Some(0), "a bin has at least one point");
    Tensor::from_dispatch(<Dispatch as RoiAlignOps>::roi_align(x.into_dispatch(), rois.into_dispatch(), options))
}

/// Backend operators behind [`roi_align`].
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait RoiAlignOps: Backend {
    /// `[n, c, h, w]` and `[k, 5]` → `[k, c, size[0], size[1]]`.
    #[fusion(dtype = x, shape = bins(x, rois, options))]
    fn roi_align(x: FloatTensor<Self>, rois: FloatTensor<Self>, options: RoiAlignOptions) -> FloatTensor<Self>;

    /// Adjoint of [`roi_align`](Self::roi_align): the gradient of the output, `[k, c, size[0], size[1]]`, spread back over an input of `shape`.
    #[fusion(dtype = grad, shape = input(shape))]
    fn roi_align_backward(
        grad: FloatTensor<Self>,
        rois: FloatTensor<Self>,
        shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "cubecl")]
fn bins(x: &burn::tensor::Shape, rois: &burn::tensor::Shape, options: &RoiAlignOptions) -> burn::tensor::Shape {
    burn::tensor::Shape::new([rois[0], x[1], options.size[0], options.size[1]])
}

#[cfg(feature = "cubecl")]
fn input(shape: &[usize; 4]) -> burn::tensor::Shape {
    burn::tensor::Shape::new(*shape)
}

#[cfg(test)]
mod tests;
