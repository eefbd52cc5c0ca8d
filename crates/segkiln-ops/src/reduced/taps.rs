//! The gradient of a weight by its definition: for each tap, products of the pixels that it reads with the output's gradient.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::ops::Range;

use burn::tensor::{bf16, ops::ConvOptions};

use super::{
    convolution::Inputs,
    correlation::{Pairs, Positions, Sums},
    unit::{LANES, Unit},
};
use crate::cpu::disjoint::Part;

/// The pixels of a convolution's output, and for each tap those of the input.
pub(super) struct Pixels<'a> {
    pub x: Inputs<'a, bf16>,
    pub grad: Inputs<'a, bf16>,
    pub kernel: [usize; 2],
    pub options: &'a ConvOptions<2>,
}

impl Pixels<'_> {
    /// The pixel that a tap reads for an output pixel, or none where there is padding.
    #[inline(always)]
    fn source(&self, position: usize, tap: usize) -> Option<usize> {
        let ([rows, columns], [height, width]) = (self.grad.size, self.x.size);
        let (image, row, column) = (position / columns / rows, position / columns % rows, position % columns);
        let ConvOptions { stride, padding, dilation, .. } = self.options;
        let y = (row * stride[0] + tap / self.kernel[1] * dilation[0]).wrapping_sub(padding[0].0);
        let x = (column * stride[1] + tap % self.kernel[1] * dilation[1]).wrapping_sub(padding[1].0);
        if y < height && x < width { Some((image * height + y) * width + x) } else { None }
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// Writes the channels of two pixels, or 0 where there is none, as pairs.
///
/// # Safety
/// The pixels are of the tensor, and the target has room. The instructions of the unit are there.
#[inline(always)]
unsafe fn pair_up<U: Unit>(
    unit: U,
    inputs: &Inputs<'_, bf16>,
    pixels: [Option<usize>; 2],
    channels: Range<usize>,
    target: *mut bf16,
) {
    for channel in channels.clone().step_by(LANES) {
        let (source, all, within) = inputs.source(channel);
        // SAFETY: the caller's promise.
        unsafe {
            let mut values = [unit.splat(0.0); 2];
            for half in 0..2 {
                if let Some(pixel) = pixels[half] {
                    values[half] = unit.load_bf16(source.add(pixel * all + within));
                }
            }
            unit.store_pairs(values[0], values[1], target.add(2 * (channel - channels.start)));
        }
    }
}

impl Positions for Pixels<'_> {
    const BLOCK: usize = 64;

    fn count(&self) -> usize {
        self.grad.batch * self.grad.size[0] * self.grad.size[1]
    }

    fn channels(&self) -> [usize; 2] {
        [self.x.channels(), self.grad.channels()]
    }

    fn planes(&self) -> [usize; 2] {
        [self.taps(), 1]
    }

    #[inline(always)]
    unsafe fn input<U: Unit>(&self, unit: U, positions: Range<usize>, channels: Range<usize>, target: Pairs) {
        for tap in 0..self.taps() {
            for pair in 0..positions.len().div_ceil(2) {
                let first = positions.start + 2 * pair;
                let second = if first + 1 < positions.end { self.source(first + 1, tap) } else { None };
                // SAFETY: the caller's promise.
                unsafe {
                    let target = target.at(tap, pair, 0);
                    pair_up(unit, &self.x, [self.source(first, tap), second], channels.clone(), target);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn gradient<U: Unit>(&self, unit: U, positions: Range<usize>, channels: Range<usize>, target: Pairs) {
        for pair in 0..positions.len().div_ceil(2) {
            let first = positions.start + 2 * pair;
            let second = if first + 1 < positions.end { Some(first + 1) } else { None };
            // SAFETY: the caller's promise.
            unsafe { pair_up(unit, &self.grad, [Some(first), second], channels.clone(), target.at(0, pair, 0)) };
        }
    }

    #[inline(always)]
    unsafe fn finish<U: Unit>(&self, _: U, sums: Sums<'_>, channels: [Range<usize>; 2], target: Part<'_>) {
        let (all, taps) = (self.x.channels(), self.taps());
        let [inputs, outputs] = channels;
        for output in outputs {
            for input in inputs.clone() {
                for tap in 0..taps {
                    let place = (output * all + input) * taps + tap;
                    // SAFETY: the part has the value, and the sum was written.
                    unsafe { target.at(place, 1).write(*sums.at(tap, input, output, 1)) };
                }
            }
        }
    }
}
