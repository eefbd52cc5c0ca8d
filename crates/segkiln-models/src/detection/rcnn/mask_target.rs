use segkiln_core::{Instance, Rle};

use super::super::Corners;

/// Mask of an object, from which the mask targets of proposals are sampled.
pub(super) struct MaskTarget<'a> {
    rle: &'a Rle,
    /// Pixels of the box at (`left`, `top`), column by column.
    pixels: Vec<bool>,
    left: usize,
    top: usize,
    rows: usize,
    columns: usize,
    /// Size of the network's input, `[height, width]`.
    size: [usize; 2],
}

impl<'a> MaskTarget<'a> {
    /// None if the object has no mask.
    pub fn new(instance: &'a Instance, size: [usize; 2]) -> Option<Self> {
        let rle = instance.mask.as_ref()?;
        let [left, top, right, bottom] = rle.bbox().map_or([0; 4], |bbox| bbox.xyxy().map(|value| value as usize));
        let (rows, columns, height) = (bottom - top, right - left, rle.height() as usize);
        let mut pixels = vec![false; columns * rows];
        for [first, end] in rle.runs() {
            let (mut at, end) = (first as usize, end as usize);
            while at < end {
                // The part of the run in one column.
                let (column, row) = (at / height, at % height);
                let next = end.min((column + 1) * height);
                let last = (row + next - at).min(bottom);
                pixels[(column - left) * rows + row - top..(column - left) * rows + last - top].fill(true);
                at = next;
            }
        }
        Some(Self { rle, pixels, left, top, rows, columns, size })
    }

    /// Whether a pixel of the network's input is the object's.
    fn at(&self, row: usize, column: usize) -> bool {
        let nearest = |index: usize, size: usize, original: u32| {
            let scale = original as f32 / size as f32;
            ((index as f32 * scale) as usize).min(original as usize - 1)
        };
        let row = nearest(row, self.size[0], self.rle.height()).wrapping_sub(self.top);
        let column = nearest(column, self.size[1], self.rle.width()).wrapping_sub(self.left);
        row < self.rows && column < self.columns && self.pixels[column * self.rows + row]
    }

    /// The share of the object in each of `side` × `side` parts of a box, in rows: RoIAlign with as many samples as pixels.
    pub fn project(&self, [x1, y1, x2, y2]: Corners, side: usize) -> Vec<f32> {
        let [height, width] = self.size;
        let bins = |from: f32, to: f32, limit: usize| -> Vec<Vec<[(usize, f32); 2]>> {
            let length = (to - from).max(1.0);
            let bin = length / side as f32;
            let samples = (length / side as f32).ceil() as usize;
            let sample = |part: usize, sample: usize| {
                let at = from + part as f32 * bin + (sample as f32 + 0.5) * bin / samples as f32;
                if at < -1.0 || at > limit as f32 {
                    return [(0, 0.0); 2];
                }
                let at = at.max(0.0);
                let first = at as usize;
                if first >= limit - 1 {
                    return [(limit - 1, 1.0), (limit - 1, 0.0)];
                }
                let share = at - first as f32;
                [(first, 1.0 - share), (first + 1, share)]
            };
            (0..side).map(|part| (0..samples).map(|index| sample(part, index)).collect()).collect()
        };
        let (rows, columns) = (bins(y1, y2, height), bins(x1, x2, width));
        let mut shares = Vec::with_capacity(side * side);
        for rows in &rows {
            for columns in &columns {
                let mut sum = 0.0;
                for row in rows {
                    for column in columns {
                        for (y, share_y) in row {
                            for (x, share_x) in column {
                                let weight = share_y * share_x;
                                if weight > 0.0 && self.at(*y, *x) {
                                    sum += weight;
                                }
                            }
                        }
                    }
                }
                shares.push(sum / (rows.len() * columns.len()).max(1) as f32);
            }
        }
        shares
    }
}
