//! Moving pixel centers off centers: what affine maps and elastic deformation have in common.

use std::sync::OnceLock;

use segkiln_core::{BBox, LabelMap};

use super::geometry::{Border, mirror};
use crate::Image;

/// A map of points: which point of the old image is seen at the center of each pixel. Images are sampled bilinearly, of a
/// label map the label is taken in whose square the point lies.
#[derive(Debug, Clone)]
pub struct Warp {
    width: u32,
    height: u32,
    /// Row by row.
    points: Vec<[f32; 2]>,
    /// Least and largest coordinates of each row's points, once they are needed.
    hulls: OnceLock<Vec<[[f32; 2]; 2]>>,
    pub(super) border: Border,
}

impl Warp {
    /// `row(y, points)` says which points are seen in row `y`.
    pub(super) fn new(width: u32, height: u32, border: Border, mut row: impl FnMut(usize, &mut [[f32; 2]])) -> Self {
        let mut points = vec![[0.0; 2]; width as usize * height as usize];
        points.chunks_exact_mut(width as usize).enumerate().for_each(|(y, points)| row(y, points));
        Self { width, height, points, hulls: OnceLock::new(), border }
    }

    /// The values seen in an image of the warp's size.
    pub(super) fn bilinear(&self, image: &Image) -> Vec<f32> {
        let channels = image.channels();
        let values = Grid::new(image.as_slice(), self.width, self.height, channels, self.border.value());
        let mut seen = vec![0.0; image.as_slice().len()];
        // With the number of channels known, the inner loop is unrolled.
        match channels {
            1 => values.bilinear::<1>(&self.points, &mut seen),
            3 => values.bilinear::<3>(&self.points, &mut seen),
            4 => values.bilinear::<4>(&self.points, &mut seen),
            _ => {
                let pixels = seen.chunks_exact_mut(channels).zip(&self.points);
                pixels.for_each(|(pixel, point)| values.bilinear_anywhere(*point, pixel));
            }
        }
        seen
    }

    /// The labels seen in a map of the warp's size, with `outside` beyond the edge, or mirrored there.
    pub(super) fn nearest(&self, map: &LabelMap, outside: Option<u32>) -> Vec<u32> {
        let mut seen = vec![0; map.as_slice().len()];
        Grid::new(map.as_slice(), self.width, self.height, 1, outside).nearest(&self.points, &mut seen);
        seen
    }

    /// The hull of the pixels that show a point of the box.
    pub(super) fn bbox(&self, bbox: &BBox) -> Option<BBox> {
        let [x1, y1, x2, y2] = bbox.xyxy().map(|value| value as f32);
        let shows = |[x, y]: &[f32; 2]| *x >= x1 && *x < x2 && *y >= y1 && *y < y2;
        let [mut left, mut top, mut right, mut bottom] = [u32::MAX, u32::MAX, 0, 0];
        let rows = self.points.chunks_exact(self.width as usize).zip(self.hulls());
        for (y, (row, [least, most])) in (0..).zip(rows) {
            if least[0] >= x2 || least[1] >= y2 || most[0] < x1 || most[1] < y1 {
                continue;
            }
            let Some(first) = row.iter().position(shows) else { continue };
            let last = row.iter().rposition(shows).unwrap_or(first);
            (left, right) = (left.min(first as u32), right.max(last as u32 + 1));
            (top, bottom) = (top.min(y), y + 1);
        }
        BBox::new(left.into(), top.into(), right.into(), bottom.into()).ok()
    }

    fn hulls(&self) -> &[[[f32; 2]; 2]] {
        self.hulls.get_or_init(|| {
            let hull = |row: &[[f32; 2]]| {
                row.iter().fold([[f32::INFINITY; 2], [f32::NEG_INFINITY; 2]], |[least, most], [x, y]| {
                    [[least[0].min(*x), least[1].min(*y)], [most[0].max(*x), most[1].max(*y)]]
                })
            };
            self.points.chunks_exact(self.width as usize).map(hull).collect()
        })
    }
}

struct Grid<'a, T> {
    data: &'a [T],
    width: usize,
    height: usize,
    channels: usize,
    /// Value beyond the edges; mirrored if `None`.
    outside: Option<T>,
}

impl<'a, T: Copy> Grid<'a, T> {
    fn new(data: &'a [T], width: u32, height: u32, channels: usize, outside: Option<T>) -> Self {
        Self { data, width: width as usize, height: height as usize, channels, outside }
    }

    /// Start of the pixel's values; none beyond the edge of a grid that is not mirrored.
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

    fn nearest(&self, points: &[[f32; 2]], out: &mut [T]) {
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
    fn bilinear<const C: usize>(&self, points: &[[f32; 2]], out: &mut [f32]) {
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
    use crate::{
        Sample,
        transforms::{
            Motion,
            testing::{agrees, ramp},
        },
    };

    fn shifted(sample: Sample, dx: f32, dy: f32, border: Border) -> Sample {
        let warp = Warp::new(sample.image.width(), sample.image.height(), border, |y, points| {
            for (x, point) in points.iter_mut().enumerate() {
                *point = [x as f32 + 0.5 + dx, y as f32 + 0.5 + dy];
            }
        });
        sample.moved(&Motion::Warp(warp)).unwrap()
    }

    #[test]
    fn identity_changes_no_bit() {
        for channels in 1..=5 {
            assert_eq!(shifted(ramp(5, 4, channels), 0.0, 0.0, Border::Mirror), ramp(5, 4, channels));
        }
    }

    #[test]
    fn whole_pixels_move_whole() {
        let moved = shifted(ramp(3, 2, 3), 1.0, 0.0, Border::Mirror);
        assert!(agrees(&moved));
        assert_eq!(moved.target.as_slice(), [1, 2, 2, 4, 5, 5]);
        let moved = shifted(ramp(3, 2, 3), -1.0, 1.0, Border::Constant { value: 9.0, label: 9 });
        assert!(agrees(&moved));
        assert_eq!(moved.target.as_slice(), [9, 3, 4, 9, 9, 9]);
    }

    #[test]
    fn parts_of_pixels_are_mixed() {
        // 0 1 2
        // 3 4 5
        for channels in [1, 2, 3, 4] {
            let moved = shifted(ramp(3, 2, channels), 0.25, 0.5, Border::Mirror);
            let first: Vec<f32> = moved.image.as_slice().iter().copied().step_by(channels).collect();
            assert_eq!(first, [1.75, 2.75, 3.5, 3.25, 4.25, 5.0]);
            // the point (0.75, 1.0) lies on the upper edge of row 1
            assert_eq!(moved.target.as_slice()[0], 3);
        }
    }

    #[test]
    fn far_and_undefined_points_do_not_panic() {
        for far in [f32::MAX, f32::MIN, f32::INFINITY, f32::NAN] {
            shifted(ramp(3, 2, 3), far, far, Border::Mirror);
        }
    }
}
