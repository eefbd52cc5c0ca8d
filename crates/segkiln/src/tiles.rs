//! Starts of tiles, weights of their pixels, and weighted sums of tiles that overlap.

use crate::segmentation::ResultRows;

/// Starts of the windows of `tile` pixels that cover `side` pixels, evenly spaced, neighbors sharing at least `overlap` of
/// a window. One window at 0 where the side is no longer than a tile.
pub fn starts(side: usize, tile: usize, overlap: f32) -> Vec<usize> {
    if side <= tile {
        return vec![0];
    }
    let stride = ((tile as f32 * (1.0 - overlap)) as usize).max(1);
    let last = side - tile;
    let steps = last.div_ceil(stride);
    (0..=steps).map(|step| (step * last + steps / 2) / steps).collect()
}

/// A bell over `length` pixels with its standard deviation an eighth of the length, 1 in the middle; never below 1e-3, so
/// that corners count where nothing else covers them.
pub fn bell(length: usize) -> Vec<f32> {
    let (center, sigma) = ((length as f32 - 1.0) / 2.0, length as f32 / 8.0);
    (0..length).map(|i| (-0.5 * ((i as f32 - center) / sigma).powi(2)).exp().max(1e-3)).collect()
}

/// Weighted sums of the tiles that overlap the rows at hand.
pub struct Band {
    classes: usize,
    width: usize,
    height: usize,
    /// `[class][row][column]`
    sums: Vec<f32>,
    /// `[row][column]`
    weights: Vec<f32>,
}

impl Band {
    pub fn new(classes: usize, width: usize, height: usize) -> Self {
        Self { classes, width, height, sums: vec![0.0; classes * width * height], weights: vec![0.0; width * height] }
    }

    /// Adds a tile whose left column is `left`; `values` is `[class][row][column]` of the tile.
    pub fn add(&mut self, values: &[f32], left: usize, bell_x: &[f32], bell_y: &[f32]) {
        for (index, values) in values.chunks_exact(bell_x.len()).enumerate() {
            let (class, row) = (index / self.height, index % self.height);
            let start = (class * self.height + row) * self.width + left;
            let sums = &mut self.sums[start..start + bell_x.len()];
            for ((sum, value), weight) in sums.iter_mut().zip(values).zip(bell_x) {
                *sum += value * weight * bell_y[row];
            }
        }
        for (row, weight_y) in bell_y.iter().enumerate() {
            let start = row * self.width + left;
            for (total, weight_x) in self.weights[start..start + bell_x.len()].iter_mut().zip(bell_x) {
                *total += weight_x * weight_y;
            }
        }
    }

    /// Hands the first `rows` rows over and moves the rest up.
    pub fn finish(&mut self, rows: usize, result: &mut ResultRows) {
        let (done, plane) = (rows * self.width, self.height * self.width);
        let class_rows = |sums: &[f32], class: usize, pixel: usize| sums[class * plane + pixel];
        for pixel in 0..done {
            let weight = self.weights[pixel];
            result.push((0..self.classes).map(|class| class_rows(&self.sums, class, pixel) / weight));
        }
        for plane in self.sums.chunks_exact_mut(plane).chain([self.weights.as_mut_slice()]) {
            plane.copy_within(done.., 0);
            let kept = plane.len() - done;
            plane[kept..].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_side_and_overlap() {
        for (side, tile, overlap) in
            [(10, 10, 0.5), (3, 10, 0.5), (11, 10, 0.5), (100, 16, 0.25), (1000, 512, 0.9), (7, 1, 0.0)]
        {
            let starts = starts(side, tile, overlap);
            let tile = tile.min(side);
            assert_eq!(starts[0], 0);
            assert_eq!(starts.last().unwrap() + tile, side);
            for pair in starts.windows(2) {
                assert!(pair[1] > pair[0], "{starts:?}");
                let shared = tile as f32 - (pair[1] - pair[0]) as f32;
                assert!(shared + 1.0 >= tile as f32 * overlap, "{side} {tile} {overlap}: {starts:?}");
            }
        }
    }

    #[test]
    fn the_bell_is_symmetric_and_positive() {
        let bell = bell(64);
        assert!(bell.iter().all(|weight| *weight >= 1e-3));
        assert!((0..32).all(|i| bell[i] == bell[63 - i]));
        assert!(bell[32] > 0.99 && bell[0] < 0.01);
    }
}
