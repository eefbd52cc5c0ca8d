//! Non-maximum suppression, as torchvision computes it: on the host, where detections are decoded.

use std::cmp::Ordering;

/// Most boxes that are separated by class by moving them, as in torchvision.
const MOVED: usize = 1000;

/// Removes each box that overlaps a box of higher score by more than `iou_threshold`, and returns the indices of the others by
/// descending score. Boxes of equal score keep their order.
///
/// Boxes are `[x1, y1, x2, y2]`. The overlap is the intersection over the union, in f32; two boxes without area do not
/// overlap.
///
/// # Panics
/// If there are not as many scores as boxes.
///
/// ```
/// use segkiln_ops::nms;
///
/// let boxes = [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [8.0, 8.0, 9.0, 9.0]];
/// assert_eq!(nms(&boxes, &[0.5, 0.9, 0.1], 0.5), [1, 2]);
/// ```
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f64) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "as many scores as boxes");
    kept(boxes, scores, (0..boxes.len()).collect(), iou_threshold)
}

/// Applies [`nms`] to the boxes of each class separately, and returns the remaining indices by descending score.
///
/// As in torchvision on CPUs, up to 1,000 boxes are separated by an offset for each class, which rounds their coordinates: overlaps
/// close to the threshold may fall on its other side. More boxes are compared class by class.
///
/// # Panics
/// If there are not as many scores and classes as boxes.
pub fn batched_nms(boxes: &[[f32; 4]], scores: &[f32], classes: &[u32], iou_threshold: f64) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "as many scores as boxes");
    assert_eq!(boxes.len(), classes.len(), "as many classes as boxes");
    if boxes.len() <= MOVED {
        let most = boxes.as_flattened().iter().copied().fold(f32::MIN, larger);
        let moved: Vec<[f32; 4]> = boxes
            .iter()
            .zip(classes)
            .map(|(sides, class)| sides.map(|side| side + *class as f32 * (most + 1.0)))
            .collect();
        return nms(&moved, scores, iou_threshold);
    }
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by_key(|index| classes[*index]);
    let by_class = order.chunk_by(|a, b| classes[*a] == classes[*b]);
    let mut all: Vec<usize> =
        by_class.flat_map(|indices| kept(boxes, scores, indices.to_vec(), iou_threshold)).collect();
    all.sort_unstable();
    all.sort_by(|a, b| descending(scores[*a], scores[*b]));
    all
}

/// Returns the boxes of `order` that remain, by descending score.
fn kept(boxes: &[[f32; 4]], scores: &[f32], mut order: Vec<usize>, iou_threshold: f64) -> Vec<usize> {
    order.sort_by(|a, b| descending(scores[*a], scores[*b]));
    // An f32 is above the threshold where it is above the largest f32 that is not.
    let mut threshold = iou_threshold as f32;
    if f64::from(threshold) > iou_threshold {
        threshold = threshold.next_down();
    }
    let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|side| order.iter().map(|index| boxes[*index][side]).collect::<Vec<f32>>());
    let sides = x1.iter().zip(&y1).zip(x2.iter().zip(&y2));
    let areas: Vec<f32> = sides.map(|((x1, y1), (x2, y2))| (x2 - x1) * (y2 - y1)).collect();
    let mut suppressed = vec![0u32; order.len()];
    let mut kept = Vec::new();
    for (index, original) in order.iter().enumerate() {
        if suppressed[index] != 0 {
            continue;
        }
        kept.push(*original);
        let [left, top, right, bottom, area] = [x1[index], y1[index], x2[index], y2[index], areas[index]];
        let after = index + 1..order.len();
        let others = x1[after.clone()].iter().zip(&y1[after.clone()]).zip(&x2[after.clone()]).zip(&y2[after.clone()]);
        let others = others.zip(&areas[after.clone()]).zip(&mut suppressed[after]);
        // Without branches, so that the compiler vectorizes it.
        for (((((x1, y1), x2), y2), other), suppressed) in others {
            let width = larger(smaller(right, *x2) - larger(left, *x1), 0.0);
            let height = larger(smaller(bottom, *y2) - larger(top, *y1), 0.0);
            let both = width * height;
            *suppressed |= u32::from(both / (area + other - both) > threshold);
        }
    }
    kept
}

/// Orders by descending score; NaN comes first, and zeros are equal.
fn descending(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// [`f32::max`] without special treatment of NaN, as in torchvision.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a < b { b } else { a }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}
