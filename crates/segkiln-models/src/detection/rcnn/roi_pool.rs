//! Features of boxes from the map that fits their size.

use burn::tensor::Tensor;
use segkiln_ops::{RoiAlignOptions, roi_align};

use super::super::Corners;

/// The side of boxes that belong to [`CANONICAL_LEVEL`], as in the pyramid's paper.
const CANONICAL_SIDE: f32 = 224.0;
const CANONICAL_LEVEL: f32 = 4.0;

/// Boxes of each image, in pixels of the network's input.
pub(super) struct Pooled {
    /// `[boxes, channels, size, size]`
    pub features: Tensor<4>,
    /// Box of each row, counted over all images.
    pub order: Vec<usize>,
}

/// Features of `size` × `size` values of each box, in an order that spares a copy; none if there are no boxes.
///
/// `maps` are all but the pyramid's last, the largest first; `image` is the largest height of an image in the batch.
pub(super) fn pool(
    maps: &[Tensor<4>],
    boxes: &[Vec<Corners>],
    image: usize,
    size: usize,
    sampling: usize,
) -> Option<Pooled> {
    let device = maps[0].device();
    let scales: Vec<f32> = maps.iter().map(|map| scale(map.dims()[2], image)).collect();
    let levels = [scales[0], scales[scales.len() - 1]].map(|scale| -scale.log2());
    let mut by_level = vec![(Vec::new(), Vec::new()); maps.len()];
    let all = boxes.iter().enumerate().flat_map(|(image, boxes)| boxes.iter().map(move |bbox| (image, *bbox)));
    for (index, (image, bbox)) in all.enumerate() {
        let (rois, order) = &mut by_level[level(bbox, levels, maps.len())];
        rois.push(image as f32);
        rois.extend(bbox);
        order.push(index);
    }
    let mut order = Vec::new();
    let mut features = Vec::new();
    for ((map, scale), (rois, indices)) in maps.iter().zip(scales).zip(by_level) {
        if indices.is_empty() {
            continue;
        }
        let rois = Tensor::<1>::from_floats(rois.as_slice(), &device).reshape([indices.len(), 5]);
        let options =
            RoiAlignOptions { size: [size; 2], scale: scale.into(), sampling_ratio: Some(sampling), aligned: false };
        features.push(roi_align(map.clone(), rois, options));
        order.extend(indices);
    }
    if order.is_empty() {
        return None;
    }
    let features = if features.len() == 1 { features.remove(0) } else { Tensor::cat(features, 0) };
    Some(Pooled { features, order })
}

/// Rows of a map over rows of the image, as a power of two.
fn scale(rows: usize, image: usize) -> f32 {
    let exact = (rows as f64 / image as f64) as f32;
    // As torchvision: of even halves the even one.
    exact.log2().round_ties_even().exp2()
}

/// The map that a box is pooled from.
fn level([x1, y1, x2, y2]: Corners, [first, last]: [f32; 2], maps: usize) -> usize {
    if maps == 1 {
        return 0;
    }
    let side = ((x2 - x1) * (y2 - y1)).sqrt();
    let level = (CANONICAL_LEVEL + (side / CANONICAL_SIDE).log2() + 1e-6).floor();
    let level = level.clamp(first.trunc(), last.trunc()) - first.trunc();
    (level as usize).min(maps - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_the_paper_s() {
        let square = |side: f32| [0.0, 0.0, side, side];
        let levels: Vec<usize> =
            [1.0, 111.0, 112.0, 223.0, 224.0, 448.0, 1e4].map(|side| level(square(side), [2.0, 5.0], 4)).into();
        assert_eq!(levels, [0, 0, 1, 1, 2, 3, 3]);
        assert_eq!(level(square(f32::NAN), [2.0, 5.0], 4), 0);
    }

    #[test]
    fn scales_are_powers_of_two() {
        assert_eq!(scale(200, 800), 0.25);
        assert_eq!(scale(25, 800), 0.03125);
        // The tensor is padded to 96 rows, the image has 90.
        assert_eq!(scale(24, 90), 0.25);
    }
}
