//! Filtering with a Gaussian of a few dimensions: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the
//! Permutohedral Lattice", Eurographics 2010.

use rayon::prelude::*;

/// Values that are computed with at once.
pub(super) const LANES: usize = 4;
pub(super) type Lanes = [f32; LANES];

/// The largest number of dimensions.
const MOST: usize = 5;

/// The vertices of the lattice that are corners of some points' simplices.
///
/// A simplex has a corner more than the space has dimensions. A point's value is spread over the corners of its simplex
/// by its barycentric coordinates, the vertices are blurred along each axis of the lattice, and the point gathers what
/// its corners have then. The kernel has a standard deviation of 1.
#[derive(Debug)]
pub(super) struct Lattice {
    axes: usize,
    vertices: usize,
    /// Vertex and barycentric coordinate, `[point][corner]`.
    corners: Vec<(u32, f32)>,
    /// Start of each vertex's entries in `points`, and the end of the last.
    starts: Vec<u32>,
    /// Points that each vertex is a corner of, ascending: sums are taken in this order, whatever the number of threads.
    points: Vec<(u32, f32)>,
    /// Neighbors on both sides, `[axis][vertex]`; `vertices` where there is none.
    neighbors: Vec<[u32; 2]>,
}

/// Place of a point.
struct Simplex {
    /// The corner of color 0.
    origin: [i32; MOST + 1],
    /// The order of the point's coordinates relative to it, which tells the simplices around it apart.
    rank: [usize; MOST + 1],
}

impl Lattice {
    /// The lattice of the points `feature(0..count)`, at most a hundred thousand from the origin; none if it has more than
    /// `most` vertices.
    pub(super) fn new<const D: usize>(
        count: usize,
        feature: impl Fn(usize) -> [f32; D] + Sync,
        most: usize,
    ) -> Option<Self> {
        /// Points whose simplices are found at once.
        const BLOCK: usize = 1 << 16;
        let axes = D + 1;
        let scale = scale::<D>();
        let mut table = Table::<D>::new();
        let mut corners = Vec::with_capacity(count * axes);
        let mut found = Vec::new();
        for start in (0..count).step_by(BLOCK) {
            (start..count.min(start + BLOCK))
                .into_par_iter()
                .with_min_len(1024)
                .map(|point| simplex(&feature(point), &scale))
                .collect_into_vec(&mut found);
            for (simplex, weights) in &found {
                corners.extend(weights[..axes].iter().enumerate().map(|(color, weight)| {
                    let key = std::array::from_fn(|axis| {
                        let wrapped = simplex.rank[axis] > D - color;
                        simplex.origin[axis] + color as i32 - if wrapped { axes as i32 } else { 0 }
                    });
                    (table.insert(key), *weight)
                }));
            }
            if table.keys.len() > most {
                return None;
            }
        }
        let vertices = table.keys.len();
        // In this order neighbors are near each other in memory.
        let mut order: Vec<u32> = (0..vertices as u32).collect();
        order.par_sort_unstable_by_key(|vertex| table.keys[*vertex as usize]);
        let mut places = vec![0; vertices];
        order.iter().enumerate().for_each(|(place, vertex)| places[*vertex as usize] = place as u32);
        corners.par_iter_mut().with_min_len(1024).for_each(|(vertex, _)| *vertex = places[*vertex as usize]);
        let keys: Vec<[i32; D]> = order.iter().map(|vertex| table.keys[*vertex as usize]).collect();
        let mut neighbors = vec![[vertices as u32; 2]; axes * vertices];
        neighbors.par_chunks_mut(vertices).enumerate().for_each(|(axis, neighbors)| {
            // What is sought ascends with the vertices.
            let mut next = 0;
            for (vertex, key) in keys.iter().enumerate() {
                let sought = std::array::from_fn(|at| if at == axis { key[at] + D as i32 } else { key[at] - 1 });
                while keys.get(next).is_some_and(|key| *key < sought) {
                    next += 1;
                }
                if keys.get(next) == Some(&sought) {
                    neighbors[vertex][0] = next as u32;
                    neighbors[next][1] = vertex as u32;
                }
            }
        });
        let (starts, points) = by_vertex(&corners, axes, vertices);
        Some(Self { axes, vertices, corners, starts, points, neighbors })
    }

    /// Divides the kernel of each two points by the square roots of both points' sums over all.
    pub(super) fn normalize(&mut self) {
        let ones = vec![[1.0; LANES]; self.corners.len() / self.axes];
        let mut blurred = [Vec::new(), Vec::new()];
        self.blur(&ones, &mut blurred);
        let [sums, _] = &blurred;
        self.corners.par_chunks_mut(self.axes).with_min_len(1024).for_each(|corners| {
            let sum: f32 = corners.iter().map(|(vertex, weight)| weight * sums[*vertex as usize][0]).sum();
            let scale = 1.0 / sum.max(f32::MIN_POSITIVE).sqrt();
            corners.iter_mut().for_each(|(_, weight)| *weight *= scale);
        });
        (self.starts, self.points) = by_vertex(&self.corners, self.axes, self.vertices);
    }

    /// Spreads the values of the points over the vertices and blurs these; the result is in the first buffer.
    pub(super) fn blur(&self, values: &[Lanes], buffers: &mut [Vec<Lanes>; 2]) {
        // One more, of zeros, stands for neighbors that are none.
        buffers.iter_mut().for_each(|buffer| {
            buffer.resize(self.vertices + 1, [0.0; LANES]);
            buffer[self.vertices] = [0.0; LANES];
        });
        let [from, to] = buffers;
        from[..self.vertices].par_iter_mut().zip(self.starts.par_windows(2)).with_min_len(1024).for_each(
            |(sum, ends)| {
                let points = &self.points[ends[0] as usize..ends[1] as usize];
                *sum = weighted_sum(points, values);
            },
        );
        for neighbors in self.neighbors.chunks_exact(self.vertices) {
            let old = from.as_slice();
            to.par_iter_mut().zip(old).zip(neighbors).with_min_len(1024).for_each(|((new, value), neighbors)| {
                let [one, other] = neighbors.map(|vertex| old[vertex as usize]);
                *new = std::array::from_fn(|lane| value[lane] + 0.5 * (one[lane] + other[lane]));
            });
            std::mem::swap(from, to);
        }
    }

    /// Adds what the points' corners have after [`blur`](Self::blur), times `factor`.
    pub(super) fn add_to(&self, sums: &mut [Lanes], factor: f32, blurred: &[Lanes]) {
        sums.par_iter_mut().zip(self.corners.par_chunks(self.axes)).with_min_len(1024).for_each(|(sum, corners)| {
            let value = weighted_sum(corners, blurred);
            *sum = std::array::from_fn(|lane| sum[lane] + factor * value[lane]);
        });
    }
}

#[inline]
fn weighted_sum(weights: &[(u32, f32)], values: &[Lanes]) -> Lanes {
    weights.iter().fold([0.0; LANES], |sum, (index, weight)| {
        let value = values[*index as usize];
        std::array::from_fn(|lane| sum[lane] + weight * value[lane])
    })
}

/// Scale of each dimension with which the blur has a standard deviation of 1.
fn scale<const D: usize>() -> [f32; D] {
    let deviation = ((2.0f64 / 3.0).sqrt() * (D + 1) as f64) as f32;
    std::array::from_fn(|axis| (f64::from(deviation) / (((axis + 1) * (axis + 2)) as f64).sqrt()) as f32)
}

/// The simplex that a point is in, and its barycentric coordinates.
fn simplex<const D: usize>(feature: &[f32; D], scale: &[f32; D]) -> (Simplex, [f32; MOST + 1]) {
    let axes = D + 1;
    // Onto the plane whose coordinates sum to zero.
    let mut elevated = [0.0f32; MOST + 1];
    let mut sum = 0.0;
    for axis in (1..axes).rev() {
        let value = feature[axis - 1] * scale[axis - 1];
        elevated[axis] = sum - axis as f32 * value;
        sum += value;
    }
    elevated[0] = sum;

    // The nearest point of color 0, which may lie beside the plane.
    let mut origin = [0.0f32; MOST + 1];
    let mut off = 0.0;
    for axis in 0..axes {
        let nearest = (elevated[axis] * (1.0 / axes as f32)).round_ties_even();
        origin[axis] = nearest * axes as f32;
        off += nearest;
    }
    let mut rank = [0i32; MOST + 1];
    for axis in 0..D {
        for next in axis + 1..axes {
            let less = elevated[axis] - origin[axis] < elevated[next] - origin[next];
            rank[if less { axis } else { next }] += 1;
        }
    }
    let mut weights = [0.0f32; MOST + 2];
    let mut found = Simplex { origin: [0; MOST + 1], rank: [0; MOST + 1] };
    for axis in 0..axes {
        let ranked = rank[axis] + off as i32;
        let back = if ranked < 0 {
            axes as i32
        } else if ranked > D as i32 {
            -(axes as i32)
        } else {
            0
        };
        let at = (ranked + back).clamp(0, D as i32) as usize;
        origin[axis] += back as f32;
        found.rank[axis] = at;
        found.origin[axis] = origin[axis] as i32;
        let share = (elevated[axis] - origin[axis]) * (1.0 / axes as f32);
        weights[D - at] += share;
        weights[axes - at] -= share;
    }
    weights[0] += 1.0 + weights[axes];
    let mut barycentric = [0.0; MOST + 1];
    barycentric[..axes].copy_from_slice(&weights[..axes]);
    (found, barycentric)
}

/// The points of each vertex, ascending: where they start, and they.
fn by_vertex(corners: &[(u32, f32)], axes: usize, vertices: usize) -> (Vec<u32>, Vec<(u32, f32)>) {
    let mut starts = vec![0u32; vertices + 1];
    corners.iter().for_each(|(vertex, _)| starts[*vertex as usize + 1] += 1);
    for vertex in 0..vertices {
        starts[vertex + 1] += starts[vertex];
    }
    let mut next = starts.clone();
    let mut points = vec![(0, 0.0); corners.len()];
    for (index, (vertex, weight)) in corners.iter().enumerate() {
        let at = &mut next[*vertex as usize];
        points[*at as usize] = ((index / axes) as u32, *weight);
        *at += 1;
    }
    (starts, points)
}

/// The vertices by their coordinates; the last one follows from the others.
struct Table<const D: usize> {
    keys: Vec<[i32; D]>,
    /// A power of two, at least twice as many as keys: some bits of the key's hash, and its vertex, `EMPTY` where there is
    /// none. Most keys that differ are told apart without a look at them.
    slots: Vec<(u32, u32)>,
}

const EMPTY: u32 = u32::MAX;

impl<const D: usize> Table<D> {
    fn new() -> Self {
        Self { keys: Vec::new(), slots: vec![(0, EMPTY); 1 << 12] }
    }

    fn hash(key: &[i32; D]) -> u64 {
        let hash = key.iter().fold(0u64, |hash, value| {
            (hash ^ u64::from(*value as u32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        });
        hash ^ hash >> 32
    }

    /// The slot that has the key, or that it would have.
    fn slot(&self, hash: u64, key: &[i32; D]) -> usize {
        let (mask, tag) = (self.slots.len() - 1, (hash >> 32) as u32);
        let mut slot = hash as usize & mask;
        loop {
            let (other, vertex) = self.slots[slot];
            if vertex == EMPTY || other == tag && self.keys[vertex as usize] == *key {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn insert(&mut self, key: [i32; D]) -> u32 {
        let hash = Self::hash(&key);
        let slot = self.slot(hash, &key);
        if self.slots[slot].1 != EMPTY {
            return self.slots[slot].1;
        }
        let vertex = self.keys.len() as u32;
        self.slots[slot] = ((hash >> 32) as u32, vertex);
        self.keys.push(key);
        if 2 * self.keys.len() > self.slots.len() {
            self.slots = vec![(0, EMPTY); 2 * self.slots.len()];
            for (vertex, key) in self.keys.iter().enumerate() {
                let hash = Self::hash(key);
                let slot = self.slot(hash, key);
                self.slots[slot] = ((hash >> 32) as u32, vertex as u32);
            }
        }
        vertex
    }
}
