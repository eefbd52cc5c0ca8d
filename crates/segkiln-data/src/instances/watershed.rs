//! Objects that touch, split by a watershed whose seeds are the peaks of the distance transform.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Connectivity, distance_squared};

/// Splits a connected component into objects: seeds are the peaks of its distance transform at least `min_distance` pixels apart, and
/// each pixel goes to the seed whose flood reaches it first (Meyer, 1991). Row-major; 0 outside of the mask, objects from 1 in the order
/// of their seeds. A mask that is all inside is one object.
///
/// The partition is that of scikit-image: `watershed(-distance, label(peaks), mask=mask)` with the peaks of
/// `peak_local_max(distance, min_distance=min_distance, labels=mask, exclude_border=False)`, but that of seeds with equal distances the
/// first row's begins; scikit-image leaves that to its heap.
///
/// # Panics
/// If the mask does not have whole rows of `width` pixels.
pub fn split(mask: &[bool], width: usize, connectivity: Connectivity, min_distance: u32) -> Vec<u32> {
    let distances = distance_squared(mask, width);
    if distances.first() == Some(&u64::MAX) {
        return vec![1; mask.len()];
    }
    let mut labels = seeds(&distances, width, min_distance as usize);
    flood(&distances, &mut labels, width, connectivity);
    labels
}

/// Neighbors of a pixel in rows and columns: beside it, then at its corners, in scikit-image's order.
const NEIGHBORS: [[isize; 2]; 8] = [[-1, 0], [0, -1], [0, 1], [1, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]];

/// The neighbors of a pixel that are in a picture.
fn neighbors(pixel: usize, width: usize, count: usize, connectivity: Connectivity) -> impl Iterator<Item = usize> {
    let (y, x) = (pixel / width, pixel % width);
    let most = match connectivity {
        Connectivity::Four => 4,
        Connectivity::Eight => 8,
    };
    NEIGHBORS[..most].iter().filter_map(move |[down, right]| {
        let (y, x) = (y.checked_add_signed(*down)?, x.checked_add_signed(*right)?);
        (x < width && y < count / width).then_some(y * width + x)
    })
}

/// Numbers the peaks: pixels that are the largest within `min_distance`, of which those nearer to each other than that are dropped, the
/// smaller first; peaks at each other's sides and corners have one number.
fn seeds(distances: &[u64], width: usize, min_distance: usize) -> Vec<u32> {
    let highest = largest_around(distances, width, min_distance);
    let mut peaks: Vec<usize> =
        (0..distances.len()).filter(|at| distances[*at] > 0 && distances[*at] == highest[*at]).collect();
    peaks.sort_by_key(|at| Reverse(distances[*at]));
    let mut labels = vec![0; distances.len()];
    if min_distance > 1 {
        // Kept peaks by squares that have room for one.
        let across = width.div_ceil(min_distance);
        let down = distances.len().div_ceil(width).div_ceil(min_distance);
        let mut squares = vec![usize::MAX; across * down];
        peaks.retain(|at| {
            let (y, x) = (at / width, at % width);
            let (row, column) = (y / min_distance, x / min_distance);
            let near = |square: usize| {
                let other = squares[square];
                other != usize::MAX
                    && (other / width).abs_diff(y) < min_distance
                    && (other % width).abs_diff(x) < min_distance
            };
            let mut around = (row.saturating_sub(1)..down.min(row + 2)).flat_map(|row| {
                (column.saturating_sub(1)..across.min(column + 2)).map(move |column| row * across + column)
            });
            let is_free = !around.any(near);
            if is_free {
                squares[row * across + column] = *at;
            }
            is_free
        });
    }
    peaks.sort_unstable();
    peaks.iter().for_each(|at| labels[*at] = u32::MAX);
    let (mut count, mut todo) = (0, Vec::new());
    for peak in peaks {
        if labels[peak] != u32::MAX {
            continue;
        }
        count += 1;
        labels[peak] = count;
        todo.push(peak);
        while let Some(at) = todo.pop() {
            for other in neighbors(at, width, distances.len(), Connectivity::Eight) {
                if labels[other] == u32::MAX {
                    labels[other] = count;
                    todo.push(other);
                }
            }
        }
    }
    labels
}

/// The largest value within so many rows and columns of each pixel.
fn largest_around(values: &[u64], width: usize, radius: usize) -> Vec<u64> {
    let height = values.len() / width;
    let around = |at: usize, side: usize| at.saturating_sub(radius)..side.min(at + radius + 1);
    let mut rows = vec![0; values.len()];
    for (row, target) in values.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
        for (x, target) in target.iter_mut().enumerate() {
            *target = row[around(x, width)].iter().copied().max().unwrap_or(0);
        }
    }
    let mut largest = vec![0; values.len()];
    for (y, target) in largest.chunks_exact_mut(width).enumerate() {
        for other in around(y, height) {
            for (target, value) in target.iter_mut().zip(&rows[other * width..(other + 1) * width]) {
                *target = (*value).max(*target);
            }
        }
    }
    largest
}

/// Gives each pixel with a distance above 0 the label whose flood reaches it first, from the largest distances down.
fn flood(distances: &[u64], labels: &mut [u32], width: usize, connectivity: Connectivity) {
    // By distance, then by age.
    let mut heap: BinaryHeap<(u64, Reverse<usize>, usize)> = BinaryHeap::new();
    let mut age = 0;
    for (at, label) in labels.iter().enumerate() {
        if *label > 0 {
            heap.push((distances[at], Reverse(age), at));
            age += 1;
        }
    }
    while let Some((_, _, at)) = heap.pop() {
        for other in neighbors(at, width, distances.len(), connectivity) {
            if distances[other] > 0 && labels[other] == 0 {
                labels[other] = labels[at];
                heap.push((distances[other], Reverse(age), other));
                age += 1;
            }
        }
    }
}
