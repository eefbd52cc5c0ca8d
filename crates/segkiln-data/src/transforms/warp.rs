//! Moving pixel centres off centres: what affine maps and elastic deformation have in common.

use super::geometry::{Border, mirror, rebuilt};
use crate::Sample;

/// The sample seen through a map of points. `row(y, points)` says for each pixel of row `y` which point of the sample is
/// seen at its centre. The image is sampled bilinearly, the mask takes the label in whose square the point lies.
pub(super) fn warp(sample: Sample, border: Border, mut row: impl FnMut(usize, &mut [[f32; 2]])) -> Sample {
    let (width, height) = (sample.image.width(), sample.image.height());
    let channels = sample.image.channels();
    let columns = width as usize;
    let values = Grid::new(sample.image.as_slice(), width, height, channels, border.value());
    let labels = Grid::new(sample.mask.as_slice(), width, height, 1, border.label());
    let mut points = vec![[0.0; 2]; columns];
    let mut new_values = vec![0.0; sample.image.as_slice().len()];
    let mut new_labels = vec![0; sample.mask.as_slice().len()];
    let rows = new_values.chunks_exact_mut(columns * channels).zip(new_labels.chunks_exact_mut(columns));
    for (y, (value_row, label_row)) in rows.enumerate() {
        row(y, &mut points);
        labels.nearest_row(&points, label_row);
        // With the number of channels known, the inner loop is unrolled.
        match channels {
            1 => values.bilinear_row::<1>(&points, value_row),
            3 => values.bilinear_row::<3>(&points, value_row),
            4 => values.bilinear_row::<4>(&points, value_row),
            _ => {
                let pixels = value_row.chunks_exact_mut(channels).zip(&points);
                pixels.for_each(|(pixel, point)| values.bilinear_anywhere(*point, pixel));
            }
        }
    }
    rebuilt(sample.name, width, height, channels, new_values, new_labels)
}

struct Grid<'a, T> {
    data: &'a [T],
    width: usize,
    height: usize,
    channels: usize,
    /// What lies beyond the edges; mirrored if `None`.
    outside: Option<T>,
}

impl<'a, T: Copy> Grid<'a, T> {
    fn new(data: &'a [T], width: u32, height: u32, channels: usize, outside: Option<T>) -> Self {
        Self { data, width: width as usize, height: height as usize, channels, outside }
    }

    /// Where the pixel starts, `None` beyond the edge of a grid that is not mirrored.
    fn index(&self, x: i64, y: i64) -> Option<usize> {
        let (width, height) = (self.width as i64, self.height as i64);
        let inside = (0..width).contains(&x) && (0..height).contains(&y);
        match self.outside {
            Some(_) if !inside => None,
            _ => Some((mirror(y, height) * width + mirror(x, width)) as usize * self.channels),
        }
    }

    fn value(&self, index: Option<usize>, channel: usize) -> T {
        match (index, self.outside) {
            (None, Some(outside)) => outside,
            (index, _) => self.data[index.unwrap_or(0) + channel],
        }
    }

    fn nearest_row(&self, points: &[[f32; 2]], out: &mut [T]) {
        let (width, height) = (self.width as f32, self.height as f32);
        for (value, [x, y]) in out.iter_mut().zip(points) {
            // Inside, to cut off the fraction is to round down, and takes one instruction where `floor` is a call.
            *value = if *x >= 0.0 && *y >= 0.0 && *x < width && *y < height {
                self.data[*y as u32 as usize * self.width + *x as u32 as usize]
            } else {
                self.value(self.index(cell(x.floor()), cell(y.floor())), 0)
            };
        }
    }
}

impl Grid<'_, f32> {
    fn bilinear_row<const C: usize>(&self, points: &[[f32; 2]], out: &mut [f32]) {
        let stride = self.width * C;
        let (last_column, last_row) = (self.width as f32 - 1.0, self.height as f32 - 1.0);
        for (pixel, point) in out.as_chunks_mut::<C>().0.iter_mut().zip(points) {
            let [x, y] = point.map(|v| v - 0.5);
            if x >= 0.0 && y >= 0.0 && x < last_column && y < last_row {
                let (left, top) = (x as u32, y as u32);
                let (right_share, lower_share) = (x - left as f32, y - top as f32);
                let at = top as usize * stride + left as usize * C;
                let upper = &self.data[at..at + 2 * C];
                let lower = &self.data[at + stride..at + stride + 2 * C];
                for c in 0..C {
                    let above = upper[c] + (upper[C + c] - upper[c]) * right_share;
                    let below = lower[c] + (lower[C + c] - lower[c]) * right_share;
                    pixel[c] = above + (below - above) * lower_share;
                }
            } else {
                self.bilinear_anywhere(*point, pixel);
            }
        }
    }

    /// The pixel at a point that may lie beyond the edge, with any number of channels.
    fn bilinear_anywhere(&self, point: [f32; 2], pixel: &mut [f32]) {
        let [x, y] = point.map(|v| v - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (right_share, lower_share) = (x - left, y - top);
        let (left, top) = (cell(left), cell(top));
        let corners = [(left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)];
        let corners = corners.map(|(column, row)| self.index(column, row));
        for (c, value) in pixel.iter_mut().enumerate() {
            let [a, b, d, e] = corners.map(|corner| self.value(corner, c));
            let (above, below) = (a + (b - a) * right_share, d + (e - d) * right_share);
            *value = above + (below - above) * lower_share;
        }
    }
}

/// A row or column, kept from overflow when the point lies absurdly far out.
fn cell(at: f32) -> i64 {
    at.clamp(-1e9, 1e9) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    fn shifted(dx: f32, dy: f32) -> impl FnMut(usize, &mut [[f32; 2]]) {
        move |y, points| {
            for (x, point) in points.iter_mut().enumerate() {
                *point = [x as f32 + 0.5 + dx, y as f32 + 0.5 + dy];
            }
        }
    }

    #[test]
    fn identity_changes_no_bit() {
        for channels in 1..=5 {
            assert_eq!(warp(ramp(5, 4, channels), Border::Mirror, shifted(0.0, 0.0)), ramp(5, 4, channels));
        }
    }

    #[test]
    fn whole_pixels_move_whole() {
        let moved = warp(ramp(3, 2, 3), Border::Mirror, shifted(1.0, 0.0));
        assert!(agrees(&moved));
        assert_eq!(moved.mask.as_slice(), [1, 2, 2, 4, 5, 5]);
        let moved = warp(ramp(3, 2, 3), Border::Constant { value: 9.0, label: 9 }, shifted(-1.0, 1.0));
        assert!(agrees(&moved));
        assert_eq!(moved.mask.as_slice(), [9, 3, 4, 9, 9, 9]);
    }

    #[test]
    fn parts_of_pixels_are_mixed() {
        // 0 1 2
        // 3 4 5
        for channels in [1, 2, 3, 4] {
            let moved = warp(ramp(3, 2, channels), Border::Mirror, shifted(0.25, 0.5));
            let first: Vec<f32> = moved.image.as_slice().iter().copied().step_by(channels).collect();
            assert_eq!(first, [1.75, 2.75, 3.5, 3.25, 4.25, 5.0]);
            // the point (0.75, 1.0) lies on the upper edge of row 1
            assert_eq!(moved.mask.as_slice()[0], 3);
        }
    }

    #[test]
    fn far_and_undefined_points_do_not_panic() {
        for far in [f32::MAX, f32::MIN, f32::INFINITY, f32::NAN] {
            warp(ramp(3, 2, 3), Border::Mirror, shifted(far, far));
        }
    }
}
