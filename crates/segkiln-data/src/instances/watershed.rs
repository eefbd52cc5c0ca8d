//! Objects that touch, split by a watershed whose seeds are the peaks of the distance transform.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{Connectivity, distance_squared};

/// Splits a connected component into objects: seeds are the peaks of its distance transform at least `min_distance` pixels apart, and
/// each pixel goes to the seed whose flood reaches it first (Meyer, 1991). Row-major; 0 outside of the mask, objects from 1 in the order
/// of their seeds. A mask that is all inside is one object.
///
/// The partition is that of scikit-image 0.26: `watershed(-distance, label(peaks), mask=mask)` with the peaks of
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
    let mut largest = values.to_vec();
    for row in largest.chunks_exact_mut(width) {
        let values = row.to_vec();
        slide(&values, radius, |x, value| row[x] = value);
    }
    for x in 0..width {
        let column: Vec<u64> = largest[x..].iter().step_by(width).copied().collect();
        slide(&column, radius, |y, value| largest[y * width + x] = value);
    }
    largest
}

/// Gives `put` the largest value within `radius` of each place, in linear time: what is smaller than a later value is forgotten.
fn slide(values: &[u64], radius: usize, mut put: impl FnMut(usize, u64)) {
    let mut falling: VecDeque<usize> = VecDeque::new();
    let mut next = 0;
    for at in 0..values.len() {
        while next < values.len() && next.saturating_sub(at) <= radius {
            while falling.back().is_some_and(|last| values[*last] <= values[next]) {
                falling.pop_back();
            }
            falling.push_back(next);
            next += 1;
        }
        while falling.front().is_some_and(|first| at.saturating_sub(*first) > radius) {
            falling.pop_front();
        }
        put(at, falling.front().map_or(0, |first| values[*first]));
    }
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
    while let Some((level, _, at)) = heap.pop() {
        for other in neighbors(at, width, distances.len(), connectivity) {
            if distances[other] > 0 && labels[other] == 0 {
                labels[other] = labels[at];
                // The flood of a higher pixel behind a lower one waits until the lower one is reached.
                heap.push((distances[other].min(level), Reverse(age), other));
                age += 1;
            }
        }
    }
}
