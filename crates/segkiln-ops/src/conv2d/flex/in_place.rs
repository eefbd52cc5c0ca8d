//! Products in place, for few output channels: a [`Band`] of rows of each input plane is copied, and the product reads each tap
//! where it lies there. The matrix of the implicit GEMM would be read by so few channels that making it takes longer than the
//! product: of the input's gradient of a 7×7 convolution of an image it took three quarters of the time.
//!
//! The gradient of the input is the same where the input has few channels; its [phases](super::phases) read one band.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::{borrow::Cow, mem::MaybeUninit};

use pulp::{Simd, WithSimd};

use super::{
    Epilogue, Geometry, TASKS,
    band::Band,
    geometry::Channels,
    phases::{PhaseTap, interleave},
};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    matrix::{Finish, Left, Offsets, Product, kernel_rows},
    memory::{as_uninit, with_scratch},
    simd::{self, MOST_LANES},
    threads::for_each,
};

/// Values of the bands that are in the cache together: 64 KiB.
const BANDS: usize = 1 << 14;
/// Input channels whose bands should be in the cache together.
const TOGETHER: usize = 8;
/// Values of the sums of a band's phases: 1 MiB.
const SUMS: usize = 1 << 18;

/// The target's pixels that have the same taps; a convolution has one phase.
struct Phase<'a> {
    /// Number of taps.
    taps: usize,
    /// Offsets of the channels and taps that a pixel reads from the pixel's first value, for the channels of a chunk.
    offsets: Vec<usize>,
    /// `[group][channel written][channel read][tap]`
    weight: Cow<'a, [f32]>,
}

/// A convolution or the gradient of its input.
struct Convolution<'a> {
    /// The convolution, or the one that reads what all phases read.
    reader: &'a Geometry,
    /// Channels of a group that are read and written.
    channels: Channels,
    band: Band,
    /// Channels whose bands are in the cache together.
    chunk: usize,
    /// Height and width of the target. The reader's output `(i, j)` of phase `(a, b)` is the target's pixel `(i, j) · step + (a, b)`.
    target: [usize; 2],
    step: [usize; 2],
    phases: Vec<Phase<'a>>,
    epilogue: Option<Epilogue<'a>>,
}

/// Returns a band of as many rows as the cache has room for.
fn cached_band(reader: &Geometry, channels_read: usize) -> Band {
    let row = Band::new(reader, 1).row();
    let reach = reader.dilation[0] * (reader.kernel[0] - 1);
    let rows = (BANDS / channels_read.min(TOGETHER) / row).saturating_sub(reach) / reader.stride[0];
    let share = (reader.batch * reader.groups * reader.output[0]).div_ceil(TASKS);
    Band::new(reader, rows.min(share).clamp(1, reader.output[0]))
}

/// Returns the distance of two rows of a phase's sums.
fn sums_stride(reader: &Geometry) -> usize {
    reader.output[1].next_multiple_of(2 * MOST_LANES)
}

/// Returns whether the bands of what all `phases` with their `taps` read fit the cache, and are worth it: registers are filled
/// from one row of the output, so most of them should be full; and a band should be smaller than the matrix that it stands for,
/// which it is not where a dilation is large.
pub(super) fn fits_bands(reader: &Geometry, channels: Channels, phases: usize, taps: usize) -> bool {
    let band = cached_band(reader, channels.input);
    let small = band.rows <= taps * band.outputs;
    let sums =
        if phases > 1 { (phases * band.outputs * channels.output).saturating_mul(sums_stride(reader)) } else { 0 };
    reader.fills_registers() && small && band.len() <= 4 * BANDS && sums <= SUMS
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let channels = geometry.group_channels();
    let mut convolution = Convolution::new(geometry, channels, geometry.output, [1, 1], epilogue);
    let offsets = (0..geometry.taps()).map(|tap| convolution.band.tap_offset(geometry, tap)).collect();
    convolution.add_phase(weight.into(), offsets);
    convolution.run(x, output);
}

/// Writes the gradient of the input to `output`, after the epilogue: a transposed convolution.
pub(super) fn input_gradient(
    geometry: &Geometry,
    weight: &[f32],
    grad: &[f32],
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let channels = geometry.group_channels().swapped();
    let (reader, phases) = geometry.gradient_reader();
    let mut convolution = Convolution::new(&reader, channels, geometry.input, geometry.stride, epilogue);
    let row = convolution.band.row();
    for taps in phases {
        let kernel: Vec<usize> = taps.iter().map(|(tap, _)| *tap).collect();
        let offset = |(_, [tap_row, tap_column]): &PhaseTap| tap_row * row + tap_column;
        let offsets = taps.iter().map(offset).collect();
        convolution.add_phase(geometry.transposed_weight(weight, &kernel).into(), offsets);
    }
    convolution.run(grad, output);
}

impl<'a> Convolution<'a> {
    fn new(
        reader: &'a Geometry,
        channels: Channels,
        target: [usize; 2],
        step: [usize; 2],
        epilogue: Option<Epilogue<'a>>,
    ) -> Self {
        let band = cached_band(reader, channels.input);
        let chunk = (BANDS / band.len()).clamp(1, channels.input);
        Self { reader, channels, band, chunk, target, step, phases: Vec::new(), epilogue }
    }

    /// Adds a phase, whose taps have these offsets in a band.
    fn add_phase(&mut self, weight: Cow<'a, [f32]>, taps: Vec<usize>) {
        let len = self.band.len();
        let offsets = (0..self.chunk).flat_map(|channel| taps.iter().map(move |tap| channel * len + tap)).collect();
        self.phases.push(Phase { taps: taps.len(), offsets, weight });
    }

    fn run(&self, x: &[f32], output: &mut [MaybeUninit<f32>]) {
        let output = Disjoint::new(output);
        let (arch, reader, band) = (simd::arch(), self.reader, self.band);
        let bands = reader.output[0].div_ceil(band.outputs);
        let sums = match self.phases.len() {
            1 => 0,
            phases => phases * band.outputs * self.channels.output * sums_stride(reader),
        };
        for_each(reader.batch * reader.groups * bands, |task| {
            let (index, first) = (task / bands, task % bands * band.outputs);
            with_scratch([self.chunk * band.len(), sums], |[values, sums]| {
                // SAFETY: each task has its rows of its group's channels.
                let output = unsafe { output.part() };
                arch.dispatch(Rows { convolution: self, x, index, first, values, sums, output });
            });
        });
    }
}

/// The outputs of a band of rows of one group.
struct Rows<'a> {
    convolution: &'a Convolution<'a>,
    x: &'a [f32],
    /// The group, counted over the images.
    index: usize,
    /// The first row.
    first: usize,
    /// Scratch: bands of channels.
    values: &'a mut [f32],
    /// Scratch: sums of several phases, `[phase][row][channel][column]`.
    sums: &'a mut [f32],
    output: Part<'a>,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (convolution, index) = (self.convolution, self.index);
        let Convolution { reader, band, channels: Channels { input: read, output: written }, chunk, .. } = *convolution;
        let (plane, target) = (reader.input_plane(), convolution.target[0] * convolution.target[1]);
        let group = index % reader.groups;
        let masks = band.masks(simd, reader, band.columns(reader));
        for begin in (0..read).step_by(chunk) {
            let count = chunk.min(read - begin);
            for (channel, values) in self.values.chunks_exact_mut(band.len()).enumerate().take(count) {
                let x = &self.x[(index * read + begin + channel) * plane..][..plane];
                // SAFETY: only initialized values are written.
                band.fill(simd, reader, &masks, x, self.first, unsafe { as_uninit(values) });
            }
            for channel in (0..written).step_by(kernel_rows::<S>()) {
                let whole = convolution.phases.len() == 1 && chunk >= read;
                let finish = match begin {
                    0 if whole => Epilogue::finish(convolution.epilogue, group * written + channel),
                    0 => Finish::Store,
                    _ => Finish::Add,
                };
                self.multiply(simd, begin, count, channel, finish);
            }
        }
        if convolution.phases.len() > 1 {
            self.interleave(simd);
        } else if let (Some(epilogue), true) = (convolution.epilogue, chunk < read) {
            let width = convolution.target[1];
            for channel in 0..written {
                let rows = self.first * width..(self.first + band.outputs).min(convolution.target[0]) * width;
                let start = self.output.at((index * written + channel) * target + rows.start, rows.len());
                // SAFETY: these values of the output are this task's, and were written by its products.
                let values = unsafe { std::slice::from_raw_parts_mut(start, rows.len()) };
                epilogue.apply(group * written + channel, values);
            }
        }
    }
}

impl Rows<'_> {
    /// The products of a panel of channels with the bands of `count` channels from `begin` on.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, simd: S, begin: usize, count: usize, channel: usize, finish: Finish) {
        let convolution = self.convolution;
        let Convolution { reader, band, channels: Channels { input: read, output: written }, .. } = *convolution;
        let ([height, width], stride, pair) = (reader.output, sums_stride(reader), 2 * S::F32_LANES);
        let group = self.index % reader.groups;
        let rows = kernel_rows::<S>().min(written - channel);
        for (index, phase) in convolution.phases.iter().enumerate() {
            let depth = read * phase.taps;
            let weight = &phase.weight[group * written * depth..][..written * depth];
            let left = Left::Rows(weight[channel * depth + begin * phase.taps..].as_ptr(), depth);
            let offsets = &phase.offsets[..count * phase.taps];
            for row in 0..band.outputs.min(height - self.first) {
                let start = row * reader.stride[0] * band.row();
                let (output, output_stride) = if convolution.phases.len() == 1 {
                    let plane = height * width;
                    let start = (self.index * written + channel) * plane + (self.first + row) * width;
                    (self.output.rows(start, plane, rows, width), plane)
                } else {
                    let start = ((index * band.outputs + row) * written + channel) * stride;
                    (self.sums[start..start + rows * stride].as_mut_ptr(), stride)
                };
                for column in (0..width).step_by(pair) {
                    let product = Product {
                        depth: offsets.len(),
                        left,
                        right: Offsets(self.values[start + column..].as_ptr(), offsets),
                        output: output.wrapping_add(column),
                        output_stride,
                        rows,
                        columns: pair.min(width - column),
                    };
                    // SAFETY: the weight has `depth` values a row, the bands a pair of registers from each offset on, and the output
                    // these pixels of as many rows.
                    unsafe { product.compute(simd, finish) };
                }
            }
        }
    }

    /// Writes the sums of the phases, those of neighboring columns side by side.
    #[inline(always)]
    fn interleave<S: Simd>(&mut self, simd: S) {
        let convolution = self.convolution;
        let Convolution { reader, band, channels, target: [height, width], step, .. } = *convolution;
        let (written, stride, group) = (channels.output, sums_stride(reader), self.index % reader.groups);
        let mut pixels = vec![0.0f32; step[1] * stride];
        for row in 0..band.outputs.min(reader.output[0] - self.first) {
            for phase_row in 0..step[0].min(height - (self.first + row) * step[0]) {
                for channel in 0..written {
                    let sums = |column: usize| {
                        let phase = phase_row * step[1] + column;
                        self.sums[((phase * band.outputs + row) * written + channel) * stride..][..stride].as_ptr()
                    };
                    // SAFETY: a row of sums is whole registers, and the pixels are as many as those of a row of phases.
                    unsafe { interleave(simd, step[1], sums, stride, pixels.as_mut_ptr()) };
                    let pixels = &mut pixels[..width];
                    if let Some(epilogue) = convolution.epilogue {
                        epilogue.apply(group * written + channel, pixels);
                    }
                    let row = (self.first + row) * step[0] + phase_row;
                    let target = self.output.at(((self.index * written + channel) * height + row) * width, width);
                    // SAFETY: both have a row's values, and the output is not the pixels.
                    unsafe { std::ptr::copy_nonoverlapping(pixels.as_ptr(), target, width) };
                }
            }
        }
    }
}
