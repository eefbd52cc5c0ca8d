//! Phases of the gradient of a strided convolution's input.
//!
//! With stride 2, the input pixels of even rows are reached through some rows of the kernel and those of odd rows through the
//! others. So the pixels `(i, j) · stride + phase` of one phase are a convolution of the output's gradient by themselves, of
//! stride 1, with some of the taps. There are stride × stride phases, counted row by row; side by side their columns are the
//! gradient's:
//!
//! ```text
//!            columns 0   1   2   3            a row of phase 0:  a0  a1
//!   rows 0          a0  b0  a1  b1            a row of phase 1:  b0  b1
//!        1          c0  d0  c1  d1            interleaved:       a0  b0  a1  b1
//! ```

use pulp::Simd;

use super::geometry::{Channels, Geometry};
use crate::cpu::{disjoint::Disjoint, memory::written_vec, simd::Lanes, threads::for_each};

/// A tap of a phase: its index in the kernel, and its row and column in the kernel of the phases' reader.
pub(super) type PhaseTap = (usize, [usize; 2]);

impl Geometry {
    /// Returns a convolution of stride 1 over the output's gradient that reads all that the phases read, and for each phase the
    /// taps of that convolution's kernel that it has.
    pub(super) fn gradient_reader(&self) -> (Self, Vec<Vec<PhaseTap>>) {
        let [rows, columns] = self.stride;
        let phases: Vec<_> =
            (0..rows * columns).map(|phase| self.taps_of_phase([phase / columns, phase % columns])).collect();
        let ends = [0, 1].map(|axis| {
            let offsets = phases.iter().flatten().map(|(_, offset)| offset[axis]);
            offsets.fold([0, 0], |[low, high], offset| [offset.min(low), offset.max(high)])
        });
        let reader = Self {
            input: self.output,
            output: [0, 1].map(|axis| self.input[axis].div_ceil(self.stride[axis])),
            kernel: ends.map(|[low, high]| (high - low + 1).unsigned_abs()),
            stride: [1, 1],
            padding: ends.map(|[low, _]| low.unsigned_abs()),
            dilation: [1, 1],
            ..*self
        };
        let position = |(tap, offset): (usize, [isize; 2])| {
            (tap, [0, 1].map(|axis| (offset[axis] - ends[axis][0]).unsigned_abs()))
        };
        (reader, phases.into_iter().map(|taps| taps.into_iter().map(position).collect()).collect())
    }

    /// Returns the taps through which outputs are reached from the inputs `(i, j) · stride + phase`, and how far from `(i, j)` these
    /// outputs are.
    pub(super) fn taps_of_phase(&self, phase: [usize; 2]) -> Vec<(usize, [isize; 2])> {
        let [rows, columns] = [0, 1].map(|axis| -> Vec<(usize, isize)> {
            let offset =
                |tap: usize| (phase[axis] + self.padding[axis]) as isize - (tap * self.dilation[axis]) as isize;
            let stride = self.stride[axis] as isize;
            let taps = (0..self.kernel[axis]).filter(|tap| offset(*tap).rem_euclid(stride) == 0);
            taps.map(|tap| (tap, offset(tap).div_euclid(stride))).collect()
        });
        let both = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
        both.map(|(row, column)| (row.0 * self.kernel[1] + column.0, [row.1, column.1])).collect()
    }

    /// Returns the weight as `[group][input channel][output channel][tap]`, with the taps of `kernel` only.
    pub(super) fn transposed_weight(&self, weight: &[f32], kernel: &[usize]) -> Vec<f32> {
        /// Channels in a task, whose values share cache lines.
        const CHUNK: usize = 16;
        let (Channels { input, output }, taps) = (self.group_channels(), self.taps());
        let depth = output * kernel.len();
        let len = self.groups * input * depth;
        if depth == 0 {
            return Vec::new();
        }
        // A few output channels at a time, so that neither side's lines push each other out of the cache.
        let chunks = input.div_ceil(CHUNK);
        // SAFETY: the tasks write all channels of all groups.
        unsafe {
            written_vec(len, |target| {
                let target = Disjoint::new(target);
                for_each(self.groups * chunks, |task| {
                    let (group, first) = (task / chunks, task % chunks * CHUNK);
                    let channels = first..input.min(first + CHUNK);
                    let weight = &weight[group * output * input * taps..];
                    // Each task has its input channels.
                    let target = target.part().at((group * input + first) * depth, channels.len() * depth);
                    for outs in (0..output).step_by(CHUNK / 2) {
                        for channel in channels.clone() {
                            for out in outs..output.min(outs + CHUNK / 2) {
                                let weight = &weight[(out * input + channel) * taps..][..taps];
                                let start = (channel - first) * depth + out * kernel.len();
                                for (index, tap) in kernel.iter().enumerate() {
                                    target.add(start + index).write(weight[*tap]);
                                }
                            }
                        }
                    }
                });
            })
        }
    }
}

/// Puts the values of `columns` rows side by side: `target[index · columns + column] = row(column)[index]`. `len` is whole
/// registers.
///
/// # Safety
/// There are `len` values of each row, and `target` has room for all.
#[inline(always)]
pub(super) unsafe fn interleave<S: Simd>(
    simd: S,
    columns: usize,
    row: impl Fn(usize) -> *const f32,
    len: usize,
    target: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if columns == 2 {
            let (even, odd) = (row(0), row(1));
            for index in (0..len).step_by(S::F32_LANES) {
                let [low, high] = Lanes::load(simd, even.add(index)).zip(Lanes::load(simd, odd.add(index)));
                low.store(target.add(2 * index));
                high.store(target.add(2 * index + S::F32_LANES));
            }
        } else {
            for column in 0..columns {
                let row = row(column);
                for index in 0..len {
                    *target.add(index * columns + column) = *row.add(index);
                }
            }
        }
    }
}
