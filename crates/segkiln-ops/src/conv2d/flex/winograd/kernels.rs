//! Reads kernels as registers of one tap of several output channels.

use std::ops::Range;

use pulp::Simd;

use crate::{
    conv2d::flex::Geometry,
    cpu::simd::{Lanes, MOST_LANES, transpose},
};

/// Taps of a kernel.
const TAPS: usize = 9;

/// A weight of 3×3 kernels.
#[derive(Clone, Copy)]
pub(in crate::conv2d::flex) struct Kernels<'a> {
    values: &'a [f32],
    /// Distance of two output channels.
    output_stride: usize,
    /// Distance of two input channels.
    input_stride: usize,
    /// Whether kernels are turned by half a turn, as the gradient of the input needs them.
    turned: bool,
}

impl<'a> Kernels<'a> {
    pub fn new(geometry: &Geometry, weight: &'a [f32]) -> Self {
        Self { values: weight, output_stride: geometry.channels.input * TAPS, input_stride: TAPS, turned: false }
    }

    /// Returns the kernels that the gradient of the input is convolved with: turned by half a turn, with input and output channels
    /// exchanged.
    pub fn turned(self) -> Self {
        let Self { values, output_stride, input_stride, .. } = self;
        Self { values, output_stride: input_stride, input_stride: output_stride, turned: true }
    }

    /// Returns, for each tap, a register of its values from one input channel to output channels `outs`, and zeros. Registers have up to
    /// eight values, as those of [`arch_of_eight`](crate::cpu::simd::arch_of_eight).
    #[inline(always)]
    pub(super) fn taps<S: Simd>(&self, simd: S, outs: Range<usize>, channel: usize) -> [Lanes<S>; TAPS] {
        assert!(S::F32_LANES < TAPS);
        let mut taps = [Lanes::splat(simd, 0.0); TAPS];
        if outs.is_empty() {
            return taps;
        }
        let (lanes, stride) = (S::F32_LANES, self.output_stride);
        let kernels =
            &self.values[outs.start * stride + channel * self.input_stride..][..(outs.len() - 1) * stride + TAPS];
        // Kernels are rows of a square, whose columns are taps; the last square ends with the last tap.
        for begin in (0..TAPS).step_by(lanes) {
            let begin = begin.min(TAPS - lanes);
            let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
            for row in 0..lanes {
                if row < outs.len() {
                    // SAFETY: the kernels have all taps of as many channels.
                    square[row] = unsafe { Lanes::load(simd, kernels.as_ptr().add(row * stride + begin)) };
                }
            }
            transpose(&mut square);
            taps[begin..begin + lanes].copy_from_slice(&square[..lanes]);
        }
        if self.turned {
            taps.reverse();
        }
        taps
    }
}

/// Stores the first `ROWS` values of a register, or all if they are fewer.
///
/// # Safety
/// They can be written to `target`.
#[inline(always)]
pub(super) unsafe fn store_rows<S: Simd, const ROWS: usize>(values: Lanes<S>, target: *mut f32) {
    // SAFETY: the caller's promise; the line holds a register and `ROWS` values.
    unsafe {
        if S::F32_LANES <= ROWS {
            values.store(target);
        } else {
            let mut line = [0.0f32; MOST_LANES];
            values.store(line.as_mut_ptr());
            target.cast::<[f32; ROWS]>().write_unaligned(line.as_ptr().cast::<[f32; ROWS]>().read());
        }
    }
}
