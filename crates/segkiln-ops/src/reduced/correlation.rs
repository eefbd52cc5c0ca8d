//! The gradient of a weight as products summed over positions: pixels of the output, or Winograd's tiles of them.
//!
//! A plane has for each position the input's channels and those of the output's gradient; its sums are all products of one with
//! the other. Two neighboring positions of a channel are the pair that a dot product takes. The sums of some positions are
//! f32 and stay in the second-level cache while positions pass by.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::ops::Range;

use burn::tensor::bf16;

use super::{
    product::{Bf16, PANEL, ROWS, WORD, accumulate},
    unit::{LANES, Task, Unit, UnitKind},
};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    memory::{Temporary, with_scratch},
    threads::for_each,
};

/// Input channels, and output channels, of a task.
const CHUNK: usize = 64;
/// Tasks, about. Fixed, so that sums do not depend on the number of threads.
const TASKS: usize = 16;
/// Values between planes, so that a pair's planes do not share a set of the first-level cache.
const SKEW: usize = 32;

/// Where pairs of a block are written: `[plane][pair of positions][channel][position of the pair]`.
#[derive(Clone, Copy)]
pub(super) struct Pairs {
    values: *mut bf16,
    channels: usize,
    /// Values from a plane to the next.
    stride: usize,
}

impl Pairs {
    fn new(scratch: &mut [f32], planes: usize, pairs: usize, channels: usize) -> Self {
        assert!(scratch.len() >= Self::len(planes, pairs, channels));
        Self { values: scratch.as_mut_ptr().cast(), channels, stride: 2 * (pairs * channels + SKEW) }
    }

    /// Values of f32 that hold so many pairs.
    fn len(planes: usize, pairs: usize, channels: usize) -> usize {
        planes * (pairs * channels + SKEW)
    }

    /// The first value of 16 channels, counted from the first of the block.
    ///
    /// # Safety
    /// The block has this plane, pair and channel.
    #[inline(always)]
    pub unsafe fn at(&self, plane: usize, pair: usize, channel: usize) -> *mut bf16 {
        // SAFETY: the caller's promise.
        unsafe { self.values.add(plane * self.stride + 2 * (pair * self.channels + channel)) }
    }
}

/// Positions that products are summed over.
pub(super) trait Positions: Sync {
    /// Positions of a block.
    const BLOCK: usize;

    /// Positions of all images.
    fn count(&self) -> usize;

    /// Channels of the input and of the gradient; multiples of 16.
    fn channels(&self) -> [usize; 2];

    /// Planes of the input and of the gradient: as many, or one of the gradient that all of the input are multiplied with.
    fn planes(&self) -> [usize; 2];

    /// Writes the pairs of some positions of the input, for some channels; an odd position's partner is 0.
    ///
    /// # Safety
    /// The target has room for them. The instructions of the unit are there.
    unsafe fn input<U: Unit>(&self, unit: U, positions: Range<usize>, channels: Range<usize>, target: Pairs);

    /// As [`input`](Self::input), of the gradient.
    ///
    /// # Safety
    /// As there.
    unsafe fn gradient<U: Unit>(&self, unit: U, positions: Range<usize>, channels: Range<usize>, target: Pairs);

    /// Makes the gradient of the weight of some channels from the sums.
    ///
    /// The target is `[output channel][input channel][tap]`, of all channels.
    ///
    /// # Safety
    /// The sums of these channels were written. The instructions of the unit are there.
    unsafe fn finish<U: Unit>(&self, unit: U, sums: Sums<'_>, channels: [Range<usize>; 2], target: Part<'_>);
}

/// Sums of products: `[plane][input channel][output channel]`.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    values: Part<'a>,
    /// First input and output channel of the sums.
    first: [usize; 2],
    /// Output channels that there are.
    width: usize,
    /// Values from a plane to the next.
    stride: usize,
}

impl Sums<'_> {
    /// The sums of a plane and an input channel, so many from an output channel on.
    ///
    /// # Panics
    /// If there are no such sums.
    #[inline(always)]
    pub fn at(&self, plane: usize, input: usize, output: usize, count: usize) -> *const f32 {
        let place = (input - self.first[0]) * self.width + output - self.first[1];
        self.values.at(plane * self.stride + place, count)
    }
}

/// Channels of a pair of chunks.
fn chunks(channels: [usize; 2], index: usize) -> [Range<usize>; 2] {
    let of_input = channels[0].div_ceil(CHUNK);
    let range = |chunk: usize, channels: usize| chunk * CHUNK..((chunk + 1) * CHUNK).min(channels);
    [range(index % of_input, channels[0]), range(index / of_input, channels[1])]
}

/// Values from a plane of sums to the next.
fn stride([inputs, outputs]: &[Range<usize>; 2]) -> usize {
    inputs.len() * outputs.len() + SKEW
}

/// The gradient of the weight, `[output channel][input channel][tap]`, of so many taps.
pub(super) fn weight_gradient<P: Positions>(kind: UnitKind, positions: &P, taps: usize) -> Vec<f32> {
    let channels = positions.channels();
    let mut gradient = vec![0.0; channels[0] * channels[1] * taps];
    let target = Disjoint::of(&mut gradient);
    let planes = positions.planes()[0];
    let pairs = channels[0].div_ceil(CHUNK) * channels[1].div_ceil(CHUNK);
    let blocks = positions.count().div_ceil(P::BLOCK);
    let parts = TASKS.div_ceil(pairs).min(blocks.div_ceil(2)).max(1);
    let per_part = blocks.div_ceil(parts) * P::BLOCK;
    let parts = positions.count().div_ceil(per_part).max(1);
    let most = planes * stride(&chunks(channels, 0));
    let correlate = |pair: usize, part: usize, sums: Part<'_>| {
        let part = part * per_part..((part + 1) * per_part).min(positions.count());
        let channels = chunks(channels, pair);
        let sizes = [0, 1].map(|side| Pairs::len(positions.planes()[side], P::BLOCK / 2, channels[side].len()));
        with_scratch(sizes, |[input, gradient]| {
            kind.dispatch(Correlate { positions, part, channels, input, gradient, sums });
        });
    };
    let finish = |pair: usize, inputs: Range<usize>, sums: Part<'_>| {
        let channels = chunks(channels, pair);
        let stride = stride(&channels);
        let sums = Sums {
            values: sums,
            first: channels.each_ref().map(|range| range.start),
            width: channels[1].len(),
            stride,
        };
        let [_, outputs] = channels;
        // SAFETY: each call is of other channels.
        let target = unsafe { target.part() };
        kind.dispatch(Finish { positions, sums, channels: [inputs, outputs], target });
    };
    if parts == 1 {
        for_each(pairs, |pair| {
            let mut memory = Temporary::new(most);
            let sums = Part::new(memory.as_mut_slice());
            correlate(pair, 0, sums);
            finish(pair, chunks(channels, pair)[0].clone(), sums);
        });
        return gradient;
    }
    let mut memory = Temporary::new(pairs * parts * most);
    let sums = Disjoint::new(memory.as_mut_slice());
    for_each(pairs * parts, |task| {
        // SAFETY: each task has the sums of a pair and a part.
        correlate(task / parts, task % parts, unsafe { sums.part() }.skip(task * most));
    });
    let sums = Disjoint::new(memory.as_mut_slice());
    // Sixteen input channels of all planes, of the parts one after the other.
    let slices = CHUNK / LANES;
    for_each(pairs * slices, |task| {
        let pair = task / slices;
        let chunk = chunks(channels, pair);
        let first = task % slices * LANES;
        if first >= chunk[0].len() {
            return;
        }
        let (width, stride) = (chunk[1].len(), stride(&chunk));
        // SAFETY: each task has the sums of its input channels, of all parts.
        let sums = unsafe { sums.part() }.skip(pair * parts * most);
        for part in 1..parts {
            for plane in 0..planes {
                let place = plane * stride + first * width;
                let count = LANES * width;
                let (total, other) = (sums.at(place, count), sums.at(part * most + place, count));
                // SAFETY: the part has both, which lie apart, and they were written above.
                let (total, other) =
                    unsafe { (std::slice::from_raw_parts_mut(total, count), std::slice::from_raw_parts(other, count)) };
                for (total, other) in total.iter_mut().zip(other) {
                    *total += other;
                }
            }
        }
        let first = chunk[0].start + first;
        finish(pair, first..first + LANES, sums);
    });
    gradient
}

/// Sums the products of some positions.
struct Correlate<'a, P> {
    positions: &'a P,
    part: Range<usize>,
    channels: [Range<usize>; 2],
    /// Scratch.
    input: &'a mut [f32],
    /// Scratch.
    gradient: &'a mut [f32],
    sums: Part<'a>,
}

impl<P: Positions> Task for Correlate<'_, P> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { positions, part, channels, input, gradient, sums } = self;
        let [planes, gradient_planes] = positions.planes();
        let [inputs, outputs] = [channels[0].len(), channels[1].len()];
        let stride = stride(&channels);
        let input = Pairs::new(input, planes, P::BLOCK / 2, inputs);
        let gradient = Pairs::new(gradient, gradient_planes, P::BLOCK / 2, outputs);
        let mut first = part.start;
        // Without positions the sums are 0 all the same.
        loop {
            let block = first..part.end.min(first + P::BLOCK);
            let pairs = block.len().div_ceil(2);
            // SAFETY: there is room for a block's pairs of all planes, and the part has the sums.
            unsafe {
                positions.input(unit, block.clone(), channels[0].clone(), input);
                positions.gradient(unit, block.clone(), channels[1].clone(), gradient);
                for plane in 0..planes {
                    let gradient_plane = if gradient_planes == 1 { 0 } else { plane };
                    for channel in (0..outputs).step_by(PANEL) {
                        let width = PANEL.min(outputs - channel);
                        let right = gradient.at(gradient_plane, 0, channel).cast::<u8>().cast_const();
                        for row in (0..inputs).step_by(ROWS) {
                            let left = input.at(plane, 0, row).cast::<u8>().cast_const();
                            let product = Product {
                                left,
                                right,
                                steps: [inputs * WORD, outputs * WORD],
                                pairs,
                                add: first > part.start,
                                sums: sums.rows(plane * stride + row * outputs + channel, outputs, ROWS, width),
                                width: outputs,
                            };
                            if width == PANEL {
                                product.compute::<U, 2>(unit);
                            } else {
                                product.compute::<U, 1>(unit);
                            }
                        }
                    }
                }
            }
            first = block.end;
            if first >= part.end {
                return;
            }
        }
    }
}

/// Eight input channels by a panel of output channels.
struct Product {
    left: *const u8,
    right: *const u8,
    /// Bytes from a pair to the next.
    steps: [usize; 2],
    pairs: usize,
    /// Whether to add to the sums.
    add: bool,
    sums: *mut f32,
    /// Sums from an input channel to the next.
    width: usize,
}

impl Product {
    /// # Safety
    /// There are as many pairs and sums. The instructions of the unit are there.
    #[inline(always)]
    unsafe fn compute<U: Unit, const N: usize>(self, unit: U) {
        let Self { left, right, steps, pairs, add, sums, width } = self;
        // SAFETY: the caller's promise.
        unsafe {
            let mut rows = [left; ROWS];
            let mut totals = [[unit.splat(0.0); N]; ROWS];
            for row in 0..ROWS {
                rows[row] = left.add(row * WORD);
                if add {
                    for register in 0..N {
                        totals[row][register] = unit.load(sums.add(row * width + register * LANES));
                    }
                }
            }
            accumulate::<Bf16, U, N>(unit, &mut totals, &rows, pairs, right, steps);
            for row in 0..ROWS {
                for register in 0..N {
                    unit.store(totals[row][register], sums.add(row * width + register * LANES));
                }
            }
        }
    }
}

struct Finish<'a, P> {
    positions: &'a P,
    sums: Sums<'a>,
    channels: [Range<usize>; 2],
    target: Part<'a>,
}

impl<P: Positions> Task for Finish<'_, P> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { positions, sums, channels, target } = self;
        // SAFETY: the sums of these channels were written; the caller promises the instructions.
        unsafe { positions.finish(unit, sums, channels, target) }
    }
}
