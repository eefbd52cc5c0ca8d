use burn::tensor::Tensor;
use segkiln_core::Detection;

use super::{ImageBatch, box_coder::columns};

/// A detection whose score and box are tensors too, which gradients can be computed of.
#[derive(Debug, Clone)]
pub struct DetectionTensors {
    /// The detection, without a mask.
    pub detection: Detection,
    /// Its score, `[1]`.
    pub score: Tensor<1>,
    /// Its box in the image's own pixels, `[4]`: left, top, right, bottom.
    pub bbox: Tensor<1>,
}

/// As [`clip_to_image`](super::clip_to_image) and [`ImageBatch::restore`], for the first image of a batch.
///
/// # Shapes
/// `[1, 4]` → `[4]`
pub(super) fn restored(batch: &ImageBatch, bbox: Tensor<2>) -> Tensor<1> {
    let [height, width] = batch.sizes[0].map(|side| side as f64);
    let [x, y] = batch.scale(0).map(f64::from);
    let [x1, y1, x2, y2] = columns(bbox);
    let clipped = [
        x1.clamp(0.0, width).div_scalar(x),
        y1.clamp(0.0, height).div_scalar(y),
        x2.clamp(0.0, width).div_scalar(x),
        y2.clamp(0.0, height).div_scalar(y),
    ];
    Tensor::cat(clipped.into(), 1).reshape([4])
}
