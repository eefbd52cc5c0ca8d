//! Exact Euclidean distance transform: Felzenszwalb and Huttenlocher 2012, *Distance Transforms of Sampled Functions*.

/// Returns the distance of each voxel of a mask to the nearest voxel that is set; infinite if none is.
///
/// `size` and `spacing`, the size of a voxel, are depth, height and width; a picture has a depth of 1. Time and memory are linear
/// in the number of voxels.
pub(crate) fn distance_transform(mask: &[bool], [depth, height, width]: [usize; 3], spacing: [f64; 3]) -> Vec<f64> {
    let plane = height * width;
    let mut squared = Vec::with_capacity(mask.len());
    mask.chunks_exact(plane.max(1)).for_each(|mask| squared.extend(column_distances(mask, width, spacing[1])));
    let mut envelope = Envelope::default();
    for row in squared.chunks_exact_mut(width.max(1)) {
        envelope.transform(row, spacing[2]);
    }
    if depth > 1 {
        let mut line = Vec::with_capacity(depth);
        for at in 0..plane {
            line.clear();
            line.extend(squared.iter().skip(at).step_by(plane));
            envelope.transform(&mut line, spacing[0]);
            squared.iter_mut().skip(at).step_by(plane).zip(&line).for_each(|(to, from)| *to = *from);
        }
    }
    squared.iter_mut().for_each(|distance| *distance = distance.sqrt());
    squared
}

/// Returns the squared distance to the nearest set pixel of the same column; infinite if the column has none.
fn column_distances(mask: &[bool], width: usize, spacing: f64) -> Vec<f64> {
    let mut distances = vec![f64::INFINITY; mask.len()];
    for (distance, _) in distances.iter_mut().zip(mask).filter(|(_, set)| **set) {
        *distance = 0.0;
    }
    // Counts rows and scales at the end, so that whole distances stay exact.
    for i in width..mask.len() {
        distances[i] = distances[i].min(distances[i - width] + 1.0);
    }
    for i in (0..mask.len().saturating_sub(width)).rev() {
        distances[i] = distances[i].min(distances[i + width] + 1.0);
    }
    distances.iter_mut().for_each(|rows| *rows = (*rows * spacing).powi(2));
    distances
}

/// Lower envelope of a row's parabolas, from left to right; kept from row to row for its memory.
#[derive(Default)]
struct Envelope {
    /// Position and height of each parabola's vertex.
    parabolas: Vec<(f64, f64)>,
    /// Position from which each parabola is the lowest.
    starts: Vec<f64>,
}

impl Envelope {
    /// Replaces squared distances along columns by squared distances in the plane.
    fn transform(&mut self, row: &mut [f64], spacing: f64) {
        self.parabolas.clear();
        self.starts.clear();
        for (column, &height) in row.iter().enumerate().filter(|(_, height)| height.is_finite()) {
            self.push(column as f64 * spacing, height);
        }
        if self.parabolas.is_empty() {
            return;
        }
        let mut lowest = 0;
        for (column, distance) in row.iter_mut().enumerate() {
            let x = column as f64 * spacing;
            while lowest + 1 < self.starts.len() && self.starts[lowest + 1] <= x {
                lowest += 1;
            }
            let (center, height) = self.parabolas[lowest];
            *distance = (x - center).powi(2) + height;
        }
    }

    fn push(&mut self, center: f64, height: f64) {
        let mut start = f64::NEG_INFINITY;
        while let Some(&(other, other_height)) = self.parabolas.last() {
            start = ((height + center * center) - (other_height + other * other)) / (2.0 * (center - other));
            if start > self.starts[self.starts.len() - 1] {
                break;
            }
            self.parabolas.pop();
            self.starts.pop();
            start = f64::NEG_INFINITY;
        }
        self.parabolas.push((center, height));
        self.starts.push(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brute_force(mask: &[bool], [_, height, width]: [usize; 3], spacing: [f64; 3]) -> Vec<f64> {
        let place = |i: usize| {
            let [z, y, x] = [i / (height * width), i / width % height, i % width];
            [z as f64 * spacing[0], y as f64 * spacing[1], x as f64 * spacing[2]]
        };
        let squared = |i: usize, j: usize| place(i).iter().zip(place(j)).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        let nearest =
            |i: usize| (0..mask.len()).filter(|&j| mask[j]).map(|j| squared(i, j)).fold(f64::INFINITY, f64::min);
        (0..mask.len()).map(|i| nearest(i).sqrt()).collect()
    }

    #[test]
    fn equals_brute_force() {
        let mut state = 1u32;
        let mut random = move || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            state >> 16
        };
        for (size, one_in) in [
            ([1, 1, 1], 1),
            ([1, 1, 7], 3),
            ([1, 9, 1], 4),
            ([1, 11, 13], 2),
            ([1, 11, 13], 20),
            ([1, 17, 30], 200),
            ([9, 1, 1], 4),
            ([5, 7, 6], 3),
            ([8, 6, 7], 100),
        ] {
            for spacing in [[1.0; 3], [1.5, 2.5, 0.75]] {
                let mask: Vec<bool> = (0..size.iter().product()).map(|_| random() % one_in == 0).collect();
                let expected = brute_force(&mask, size, spacing);
                for (actual, expected) in distance_transform(&mask, size, spacing).iter().zip(expected) {
                    assert!(*actual == expected || (actual - expected).abs() < 1e-12, "{actual} for {expected}");
                }
            }
        }
    }

    #[test]
    fn no_site_is_infinitely_far() {
        assert_eq!(distance_transform(&[false; 6], [1, 2, 3], [1.0; 3]), [f64::INFINITY; 6]);
        assert!(distance_transform(&[], [1, 0, 0], [1.0; 3]).is_empty());
    }
}
