//! Convolutions by their definition, channels last: a pixel's channels at a tap are a row of a product's left matrix where they
//! lie in memory, so that nothing is copied.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use burn::tensor::ops::ConvOptions;

use super::{
    convolution::{Epilogue, Inputs, Target},
    product::{Dot, PANEL, ROWS, WORD, accumulate, packed, panel_width},
    unit::{LANES, Task, Unit, UnitKind},
};
use crate::cpu::threads::for_each;

/// Pixels of a task, which are multiplied with all panels of the weight.
const PIXELS: usize = 64;

/// A weight, packed: `[phase][panel of output channels][tap][word of input channels][output channel][value of a word]`.
#[derive(Debug)]
pub(super) struct Direct<W> {
    channels: [usize; 2],
    /// From one output's first tap to the next: rows and columns. One phase is all taps of a convolution; a transposed
    /// convolution has a phase of one tap for each output that a pixel is spread to.
    kernel: [usize; 2],
    phases: [usize; 2],
    values: Vec<W>,
}

impl<W: Copy + Default> Direct<W> {
    /// From `[output channel][input channel][row][column]`.
    pub fn convolution(weight: &[W], channels: [usize; 2], kernel: [usize; 2]) -> Self {
        let [channels_in, taps] = [channels[0], kernel[0] * kernel[1]];
        let at = |out: usize, channel: usize, tap: usize| weight[(out * channels_in + channel) * taps + tap];
        Self { channels, kernel, phases: [1, 1], values: pack(channels, taps, at) }
    }

    /// From `[input channel][output channel][row][column]`.
    pub fn transposed(weight: &[W], channels: [usize; 2], kernel: [usize; 2]) -> Self {
        let [channels_out, taps] = [channels[1], kernel[0] * kernel[1]];
        let phases = (0..taps)
            .map(|tap| pack(channels, 1, |out, channel, _| weight[(channel * channels_out + out) * taps + tap]));
        Self { channels, kernel: [1, 1], phases: kernel, values: phases.flatten().collect() }
    }

    pub fn padded(&self) -> usize {
        self.channels[1].next_multiple_of(LANES)
    }

    pub fn phases(&self) -> usize {
        self.phases[0] * self.phases[1]
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

impl Direct<i8> {
    /// Sums of each output channel's weights: `[phase][output channel]`.
    pub fn sums(&self) -> Vec<i32> {
        let (padded, depth) = (self.padded(), self.taps() * self.channels[0]);
        let mut sums = vec![0; self.phases() * padded];
        for (phase, values) in self.values.chunks_exact(padded * depth).enumerate() {
            for first in (0..padded).step_by(PANEL) {
                let width = panel_width(padded, first);
                for words in values[first * depth..][..width * depth].chunks_exact(width * WORD) {
                    for (out, word) in words.chunks_exact(WORD).enumerate() {
                        sums[phase * padded + first + out] += word.iter().map(|value| i32::from(*value)).sum::<i32>();
                    }
                }
            }
        }
        sums
    }
}

/// One phase: `[panel][tap][word of input channels][output channel][value of a word]`.
fn pack<W: Copy + Default>(channels: [usize; 2], taps: usize, at: impl Fn(usize, usize, usize) -> W) -> Vec<W> {
    let [channels_in, channels_out] = channels;
    let (padded, per_word) = (channels_out.next_multiple_of(LANES), WORD / size_of::<W>());
    let mut values = vec![W::default(); padded * taps * channels_in];
    for first in (0..padded).step_by(PANEL) {
        let width = panel_width(padded, first);
        for out in first..channels_out.min(first + width) {
            for channel in 0..channels_in {
                for tap in 0..taps {
                    let word = (tap * channels_in + channel) / per_word;
                    let within = (word * width + out - first) * per_word + channel % per_word;
                    values[first * taps * channels_in + within] = at(out, channel, tap);
                }
            }
        }
    }
    values
}

/// A convolution, or a transposed one.
pub(super) struct Convolution<'a, D: Dot> {
    pub kind: UnitKind,
    pub inputs: Inputs<'a, D::Left>,
    pub direct: &'a Direct<D::Right>,
    /// Initial values of integer sums, `[phase][output channel]`; empty for floats.
    pub begin: &'a [i32],
    pub options: &'a ConvOptions<2>,
    pub epilogue: Epilogue<'a>,
    pub target: Target<'a>,
}

impl<D: Dot> Convolution<'_, D> {
    /// Height and width of the pixels that all phases have.
    fn pixels(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.target.size[axis] / self.direct.phases[axis])
    }

    pub fn run(&self) {
        let [rows, columns] = self.pixels();
        let all = self.inputs.batch * rows * columns;
        let panels = self.direct.padded().div_ceil(PANEL);
        let blocks = all.div_ceil(PIXELS);
        // Where there are few pixels, panels are shared out too.
        let parts = if blocks < 16 { panels } else { 1 };
        let per_part = panels.div_ceil(parts);
        let zeros = vec![self.inputs.zero; self.direct.channels[0]];
        for_each(blocks * parts, |task| {
            let (part, block) = (task / blocks, task % blocks);
            let pixels = block * PIXELS..all.min((block + 1) * PIXELS);
            let panels = part * per_part..panels.min((part + 1) * per_part);
            self.kind.dispatch(Pixels { convolution: self, pixels, panels, zeros: &zeros });
        });
    }
}

/// Some pixels, counted over all images, and panels.
struct Pixels<'a, D: Dot> {
    convolution: &'a Convolution<'a, D>,
    pixels: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    zeros: &'a [D::Left],
}

impl<D: Dot> Task for Pixels<'_, D> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { convolution, pixels, panels, zeros } = self;
        let Convolution { inputs, direct, options, .. } = convolution;
        let ([rows, columns], [height, width]) = (convolution.pixels(), inputs.size);
        let parts: Vec<_> = inputs.parts().collect();
        let groups = pixels.len().div_ceil(ROWS);
        // Where each pixel of a group reads, for each tap and tensor.
        let mut places = vec![[zeros.as_ptr().cast::<u8>(); ROWS]; groups * direct.taps() * parts.len()];
        for (index, pixel) in pixels.clone().enumerate() {
            let (image, row, column) = (pixel / columns / rows, pixel / columns % rows, pixel % columns);
            for tap in 0..direct.taps() {
                let at = |axis: usize, position: usize, tap: usize| {
                    (position * options.stride[axis] + tap * options.dilation[axis])
                        .wrapping_sub(options.padding[axis].0)
                };
                let (y, x) = (at(0, row, tap / direct.kernel[1]), at(1, column, tap % direct.kernel[1]));
                if y < height && x < width {
                    for (part, (values, channels)) in parts.iter().enumerate() {
                        let place = ((image * height + y) * width + x) * channels;
                        let entry = ((index / ROWS) * direct.taps() + tap) * parts.len() + part;
                        places[entry][index % ROWS] = values[place..place + channels].as_ptr().cast();
                    }
                }
            }
        }
        let padded = direct.padded();
        let phase_len = padded * direct.taps() * direct.channels[0];
        for phase in 0..direct.phases() {
            for panel in panels.clone() {
                let first = panel * PANEL;
                let weights = &direct.values[phase * phase_len + first * direct.taps() * direct.channels[0]..];
                let channels: [usize; 2] = std::array::from_fn(|part| parts.get(part).map_or(0, |part| part.1));
                for group in 0..groups {
                    let places = &places[group * direct.taps() * parts.len()..][..direct.taps() * parts.len()];
                    let first_pixel = pixels.start + group * ROWS;
                    let count = ROWS.min(pixels.end - first_pixel);
                    let zeros = zeros.as_ptr().cast();
                    let product =
                        Group { convolution, places, channels, zeros, weights, phase, first, first_pixel, count };
                    // SAFETY: the places are of pixels or zeros, and the weights have all taps of the panel.
                    unsafe {
                        if panel_width(padded, first) == PANEL {
                            product.compute::<U, 2>(unit);
                        } else {
                            product.compute::<U, 1>(unit);
                        }
                    }
                }
            }
        }
    }
}

/// Some neighboring pixels and a panel.
struct Group<'a, D: Dot> {
    convolution: &'a Convolution<'a, D>,
    /// `[tap][tensor][pixel]`
    places: &'a [[*const u8; ROWS]],
    /// Channels of each tensor.
    channels: [usize; 2],
    /// Row of zeros that is read outside of the image.
    zeros: *const u8,
    weights: &'a [D::Right],
    phase: usize,
    /// The first output channel.
    first: usize,
    first_pixel: usize,
    count: usize,
}

impl<D: Dot> Group<'_, D> {
    /// # Safety
    /// Each place has its tensor's channels, and the weights have all taps. The instructions of the unit are there.
    #[inline(always)]
    unsafe fn compute<U: Unit, const N: usize>(self, unit: U) {
        let Self { convolution, places, channels, zeros, weights, phase, first, first_pixel, count } = self;
        let direct = convolution.direct;
        assert!(weights.len() >= direct.taps() * direct.channels[0] * N * LANES);
        let parts = places.len() / direct.taps();
        // SAFETY: the group's pixels of a phase and a panel are those of no other.
        let outputs = unsafe { convolution.target.outputs() };
        let mut weights = weights.as_ptr().cast::<u8>();
        // SAFETY: the caller's promise.
        unsafe {
            let mut begin = [D::zero(unit); N];
            for register in 0..N {
                begin[register] = D::begin(unit, convolution.begin, phase * direct.padded() + first + register * LANES);
            }
            let mut sums = [begin; ROWS];
            let skip = D::adds_nothing(convolution.inputs.zero);
            for index in 0..places.len() {
                let rows = &places[index];
                let words = channels[index % parts] * size_of::<D::Left>() / WORD;
                // With a large dilation all pixels often read padding.
                let mut reads = !skip;
                for row in 0..ROWS {
                    reads |= rows[row] != zeros;
                }
                if reads {
                    accumulate::<D, U, N>(unit, &mut sums, rows, words, weights, packed(N));
                }
                weights = weights.add(words * N * LANES * WORD);
            }
            let ([rows, columns], target) = (convolution.pixels(), &convolution.target);
            let [phase_rows, phase_columns] = direct.phases;
            for register in 0..N {
                let channel = first + register * LANES;
                let finish = convolution.epilogue.registers(unit, channel);
                for index in 0..count {
                    let pixel = first_pixel + index;
                    let (image, row, column) = (pixel / columns / rows, pixel / columns % rows, pixel % columns);
                    let row = (image * rows + row) * phase_rows + phase / phase_columns;
                    let pixel = row * target.size[1] + column * phase_columns + phase % phase_columns;
                    let sum = D::float(unit, sums[index][register]);
                    outputs.store(unit, finish.apply(unit, sum), pixel, channel);
                }
            }
        }
    }
}
