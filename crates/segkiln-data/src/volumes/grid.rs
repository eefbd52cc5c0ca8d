//! Moves of voxels that values and labels share.

use super::geometry::{Geometry, Turn};

/// Voxels of a grid of `size` (depth, height, width) in the order of the turned grid.
pub(super) fn turned<T: Copy>(values: &[T], size: [usize; 3], turn: Turn) -> Vec<T> {
    let [depth, height, width] = size;
    let (lengths, strides) = ([width, height, depth], [1, width, width * height]);
    let along = |axis: usize| {
        let from = turn.from[axis];
        let (length, stride) = (lengths[from], strides[from]);
        (0..length).map(move |i| if turn.flipped[axis] { (length - 1 - i) * stride } else { i * stride })
    };
    let columns: Vec<usize> = along(0).collect();
    let mut out = Vec::with_capacity(values.len());
    for z in along(2) {
        for y in along(1) {
            out.extend(columns.iter().map(|x| values[z + y + x]));
        }
    }
    out
}

/// The number of voxels along each axis that has a spacing closest to the one asked for, at least 1.
pub(super) fn size_for(geometry: &Geometry, spacing: [f64; 3]) -> [usize; 3] {
    let (size, own) = (geometry.size(), geometry.spacing());
    // Numbers too large for a size saturate, and are refused as a size. NumPy rounds halves to even, as here.
    [0, 1, 2].map(|axis| ((size[axis] as f64 * own[axis] / spacing[axis]).round_ties_even() as usize).max(1))
}
