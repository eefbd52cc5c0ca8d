//! Resampling along one axis after another, with grids whose outer edges coincide.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Interpolation of values between voxels, along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The value of the voxel in which the point lies.
    Nearest,
    /// Linear between two.
    Linear,
    /// Cubic B-spline through all values (Unser 1999), SciPy's `order=3`. It overshoots at edges.
    Cubic,
}

impl Interpolation {
    /// nnU-Net's choice for volumes of this spacing (depth, height, width): cubic, and the nearest along an axis whose voxels
    /// are more than 3 times as long as the shortest.
    pub fn for_spacing(spacing: [f64; 3]) -> [Self; 3] {
        const THICK: f64 = 3.0;
        let shortest = spacing.iter().copied().fold(f64::INFINITY, f64::min);
        let longest = spacing.iter().copied().fold(0.0, f64::max);
        // Two axes of the greatest spacing leave open which is the slices'.
        let one = spacing.iter().filter(|length| **length == longest).count() == 1;
        spacing.map(|length| match one && length == longest && longest > THICK * shortest {
            true => Self::Nearest,
            false => Self::Cubic,
        })
    }
}

/// Interpolation of labels between voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelInterpolation {
    /// The label of the voxel in which the point lies.
    Nearest,
    /// The label of the greatest weight, each label being interpolated linearly by itself; of equal weights the smallest
    /// label.
    Linear,
}

/// Voxels and weights that a new voxel is made of.
struct Tap<const N: usize> {
    indices: [usize; N],
    weights: [f64; N],
}

/// Place of a new voxel's center among the old ones.
fn place(new: usize, old_length: usize, new_length: usize) -> f64 {
    (new as f64 + 0.5) * (old_length as f64 / new_length as f64) - 0.5
}

fn nearest(new: usize, old_length: usize, new_length: usize) -> usize {
    let at = (place(new, old_length, new_length) + 0.5).floor();
    (at.max(0.0) as usize).min(old_length - 1)
}

fn linear(new: usize, old_length: usize, new_length: usize) -> Tap<2> {
    let at = place(new, old_length, new_length).clamp(0.0, (old_length - 1) as f64);
    let first = (at.floor() as usize).min(old_length.saturating_sub(2));
    let share = at - first as f64;
    Tap { indices: [first, (first + 1).min(old_length - 1)], weights: [1.0 - share, share] }
}

/// Pole of the cubic B-spline's filter, √3 − 2.
const POLE: f64 = -0.267_949_192_431_122_7;
/// Values that are repeated beyond both ends, as in SciPy: after so many the filter has forgotten nearly all.
const PAD: usize = 12;

fn cubic(new: usize, old_length: usize, new_length: usize) -> Tap<4> {
    let at = place(new, old_length, new_length) + PAD as f64;
    let first = at.floor();
    let t = at - first;
    let u = 1.0 - t;
    let weights =
        [u * u * u, 4.0 + 3.0 * t * t * (t - 2.0), 4.0 + 3.0 * u * u * (u - 2.0), t * t * t].map(|weight| weight / 6.0);
    let first = first as usize;
    Tap { indices: [first - 1, first, first + 1, first + 2], weights }
}

/// Replaces values by the coefficients of the B-spline through them. Both ends must have gone on as constants.
fn spline_coefficients(line: &mut [f64]) {
    let (Some(first), Some(last)) = (line.first().copied(), line.len().checked_sub(1)) else { return };
    line[0] = first / (1.0 - POLE);
    for i in 1..line.len() {
        line[i] += POLE * line[i - 1];
    }
    line[last] *= -POLE / (1.0 - POLE);
    for i in (0..last).rev() {
        line[i] = POLE * (line[i + 1] - line[i]);
    }
    line.iter_mut().for_each(|value| *value *= 6.0);
}

enum Plan {
    Nearest(Vec<usize>),
    Linear(Vec<Tap<2>>),
    Cubic(Vec<Tap<4>>),
}

impl Plan {
    fn new(by: Interpolation, old: usize, new: usize) -> Self {
        match by {
            Interpolation::Nearest => Self::Nearest((0..new).map(|i| nearest(i, old, new)).collect()),
            Interpolation::Linear => Self::Linear((0..new).map(|i| linear(i, old, new)).collect()),
            Interpolation::Cubic => Self::Cubic((0..new).map(|i| cubic(i, old, new)).collect()),
        }
    }

    fn apply(&self, line: &mut Vec<f64>, mut write: impl FnMut(usize, f32)) {
        fn sum<const N: usize>(line: &[f64], tap: &Tap<N>) -> f32 {
            tap.indices.iter().zip(&tap.weights).map(|(index, weight)| line[*index] * weight).sum::<f64>() as f32
        }
        match self {
            Self::Nearest(indices) => indices.iter().enumerate().for_each(|(i, from)| write(i, line[*from] as f32)),
            Self::Linear(taps) => taps.iter().enumerate().for_each(|(i, tap)| write(i, sum(line, tap))),
            Self::Cubic(taps) => {
                let (first, last) = (line[0], line[line.len() - 1]);
                line.splice(0..0, [first; PAD]);
                line.extend([last; PAD]);
                spline_coefficients(line);
                taps.iter().enumerate().for_each(|(i, tap)| write(i, sum(line, tap)));
            }
        }
    }
}

/// Values of `[channels, depth, height, width]` on a grid of another size.
pub(super) fn resample(
    values: &[f32],
    channels: usize,
    old: [usize; 3],
    new: [usize; 3],
    by: [Interpolation; 3],
) -> Vec<f32> {
    let mut values = std::borrow::Cow::Borrowed(values);
    let mut size = old;
    // First the axes that lose voxels, which spares work for the others.
    let mut order = [0, 1, 2];
    order.sort_by(|a, b| (new[*a] * old[*b]).cmp(&(new[*b] * old[*a])));
    for axis in order {
        if new[axis] != size[axis] {
            let outer = channels * size[..axis].iter().product::<usize>();
            let inner = size[axis + 1..].iter().product();
            values = along(&values, outer, [size[axis], new[axis]], inner, by[axis]).into();
            size[axis] = new[axis];
        }
    }
    values.into_owned()
}

/// `[outer, old, inner]` to `[outer, new, inner]`.
fn along(values: &[f32], outer: usize, [old, new]: [usize; 2], inner: usize, by: Interpolation) -> Vec<f32> {
    /// Lines that are done together, so that what lies side by side is written side by side.
    const LINES: usize = 64;
    let plan = Plan::new(by, old, new);
    let blocks = inner.div_ceil(LINES);
    let block = |index: usize| {
        let (at, first) = (index / blocks, index % blocks * LINES);
        let lines = LINES.min(inner - first);
        let mut out = vec![0.0; new * lines];
        let mut line = Vec::with_capacity(old + 2 * PAD);
        for offset in 0..lines {
            line.clear();
            line.extend((0..old).map(|i| f64::from(values[(at * old + i) * inner + first + offset])));
            plan.apply(&mut line, |i, value| out[i * lines + offset] = value);
        }
        out
    };
    let done: Vec<Vec<f32>> = (0..outer * blocks).into_par_iter().map(block).collect();
    let mut out = vec![0.0; outer * new * inner];
    for (index, block) in done.into_iter().enumerate() {
        let (at, first) = (index / blocks, index % blocks * LINES);
        let lines = block.len() / new;
        for (i, row) in block.chunks_exact(lines).enumerate() {
            out[(at * new + i) * inner + first..][..lines].copy_from_slice(row);
        }
    }
    out
}

/// Labels of `[depth, height, width]` on a grid of another size.
pub(super) fn resample_labels(labels: &[u32], old: [usize; 3], new: [usize; 3], by: LabelInterpolation) -> Vec<u32> {
    if old == new {
        return labels.to_vec();
    }
    let taps: [Vec<Tap<2>>; 3] = [0, 1, 2].map(|axis| {
        let tap = |i| match by {
            LabelInterpolation::Linear => linear(i, old[axis], new[axis]),
            LabelInterpolation::Nearest => Tap { indices: [nearest(i, old[axis], new[axis]); 2], weights: [1.0, 0.0] },
        };
        (0..new[axis]).map(tap).collect()
    });
    let (plane, row) = (old[1] * old[2], old[2]);
    let slice = |z: &Tap<2>| {
        let mut out = Vec::with_capacity(new[1] * new[2]);
        for y in &taps[1] {
            for x in &taps[2] {
                if by == LabelInterpolation::Nearest {
                    out.push(labels[z.indices[0] * plane + y.indices[0] * row + x.indices[0]]);
                    continue;
                }
                out.push(heaviest(|votes| {
                    for (z, wz) in z.indices.iter().zip(z.weights) {
                        for (y, wy) in y.indices.iter().zip(y.weights) {
                            for (x, wx) in x.indices.iter().zip(x.weights) {
                                votes.add(labels[z * plane + y * row + x], wz * wy * wx);
                            }
                        }
                    }
                }));
            }
        }
        out
    };
    let slices: Vec<Vec<u32>> = taps[0].par_iter().map(slice).collect();
    slices.concat()
}

/// Weights of the labels around a point, of which there are at most eight.
#[derive(Default)]
struct Votes {
    labels: [(u32, f64); 8],
    count: usize,
}

impl Votes {
    fn add(&mut self, label: u32, weight: f64) {
        match self.labels[..self.count].iter_mut().find(|(known, _)| *known == label) {
            Some((_, sum)) => *sum += weight,
            None => {
                self.labels[self.count] = (label, weight);
                self.count += 1;
            }
        }
    }
}

fn heaviest(fill: impl FnOnce(&mut Votes)) -> u32 {
    let mut votes = Votes::default();
    fill(&mut votes);
    let by_weight = |a: &(u32, f64), b: &(u32, f64)| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0));
    votes.labels[..votes.count].iter().copied().max_by(by_weight).map_or(0, |(label, _)| label)
}
