use segkiln_core::{CoreError, Rle};

use super::super::Corners;

/// The mask of an image of `size` = `[height, width]`, of which a box has `probabilities`, `side` × `side` in rows: where
/// they exceed `threshold`, enlarged to the box (bilinear). As torchvision's `paste_masks_in_image`.
///
/// # Errors
/// [`CoreError::MaskSize`] if the image has no pixel, or more than 2³² - 1.
///
/// # Panics
/// If there are not `side`² probabilities.
pub fn paste_mask(
    probabilities: &[f32],
    side: usize,
    bbox: Corners,
    size: [usize; 2],
    threshold: f32,
) -> Result<Rle, CoreError> {
    assert_eq!(probabilities.len(), side * side, "probabilities in a square");
    let [height, width] = size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    if !matches!(width.checked_mul(height), Some(1..)) {
        return Err(CoreError::MaskSize { width, height });
    }
    // A border of zeros, so that the mask can end within the box.
    let bordered = side + 2;
    let mut values = vec![0.0; bordered * bordered];
    for (row, values) in probabilities.chunks_exact(side).zip(values.chunks_exact_mut(bordered).skip(1)) {
        values[1..=side].copy_from_slice(row);
    }
    let [x1, y1, x2, y2] = enlarged(bbox, bordered as f32 / side as f32);
    let (left, columns) = taps([x1, x2], bordered, width);
    let (top, rows) = taps([y1, y2], bordered, height);
    let below = height - top - rows.len() as u32;
    let end = left + columns.len() as u32;
    // Not collected: a box can be as large as the image.
    let rows = &rows;
    let inside = columns.iter().flat_map(|tap| {
        let column: Vec<f32> = values.chunks_exact(bordered).map(|values| tap.mix(values)).collect();
        let pixels = rows.iter().map(move |row| (1, row.mix(&column) > threshold));
        [(top, false)].into_iter().chain(pixels).chain([(below, false)])
    });
    let runs = [(left * height, false)].into_iter().chain(inside).chain([((width - end) * height, false)]);
    Rle::from_runs(width, height, runs)
}

/// A box as whole numbers, larger by a factor.
fn enlarged([x1, y1, x2, y2]: Corners, factor: f32) -> [i64; 4] {
    let (half_width, half_height) = ((x2 - x1) * 0.5 * factor, (y2 - y1) * 0.5 * factor);
    let (x, y) = ((x2 + x1) * 0.5, (y2 + y1) * 0.5);
    [x - half_width, y - half_height, x + half_width, y + half_height].map(|value| value as i64)
}

/// Linear interpolation at a pixel along one axis; `share` is the weight of the second value.
struct Tap {
    first: usize,
    second: usize,
    share: f32,
}

impl Tap {
    fn mix(&self, values: &[f32]) -> f32 {
        values[self.first] * (1.0 - self.share) + values[self.second] * self.share
    }
}

/// The first pixel of `0..limit` that lies between `from` and `to`, both included, and what each of them reads.
fn taps([from, to]: [i64; 2], values: usize, limit: u32) -> (u32, Vec<Tap>) {
    let count = to.saturating_sub(from).saturating_add(1).max(1);
    let scale = values as f32 / count as f32;
    let first = from.clamp(0, limit.into());
    let end = from.saturating_add(count).clamp(first, limit.into());
    let tap = |pixel: i64| {
        let at = (((pixel - from) as f32 + 0.5) * scale - 0.5).max(0.0);
        let first = (at as usize).min(values - 1);
        Tap { first, second: (first + 1).min(values - 1), share: at - first as f32 }
    };
    (first as u32, (first..end).map(tap).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mask_is_about_its_box() {
        let mask = paste_mask(&[1.0; 4], 2, [2.0, 3.0, 6.0, 9.0], [12, 10], 0.5).unwrap();
        assert_eq!(mask.bbox().unwrap().xyxy(), [2.0, 3.0, 7.0, 10.0]);
        assert_eq!((mask.width(), mask.height()), (10, 12));
    }

    #[test]
    fn wild_boxes_do_no_harm() {
        for bbox in [
            [f32::NAN; 4],
            [-1e30, -1e30, 1e30, 1e30],
            [-50.0, -50.0, -40.0, -40.0],
            [50.0, 0.0, 60.0, 4.0],
            [5.0, 5.0, 1.0, 1.0],
        ] {
            let mask = paste_mask(&[0.9; 9], 3, bbox, [8, 7], 0.5).unwrap();
            assert_eq!((mask.width(), mask.height()), (7, 8));
        }
        assert!(paste_mask(&[0.9], 1, [0.0, 0.0, 1.0, 1.0], [0, 5], 0.5).is_err());
        assert!(paste_mask(&[0.9], 1, [0.0, 0.0, 1.0, 1.0], [1 << 20, 1 << 20], 0.5).is_err());
    }
}
