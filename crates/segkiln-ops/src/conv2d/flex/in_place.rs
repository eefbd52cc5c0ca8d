//! Few output channels: a [`Band`] of rows of the input's planes is copied, and the product reads what pixels see where it lies
//! there. A matrix as the implicit GEMM makes would be read for so few channels that making it costs more than the product.
//!
//! The gradient of the input is the same where the input has few channels; its phases, see `implicit`, read one band.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::borrow::Cow;

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry, TASKS, band::Band, implicit::transposed};
use crate::cpu::{
    matrix::{Finish, Left, Places, Product, Sizes, kernel_rows},
    memory::{Shared, with_scratch},
    simd::{self, Lanes, MOST_LANES},
    threads::for_each,
};

/// Values of the bands that are in the cache together, and channels that should have room there.
const BANDS: usize = 1 << 14;
const TOGETHER: usize = 8;
/// Values of the sums of a band's phases.
const SUMS: usize = 1 << 18;

/// Some of the target's pixels, which all have the same taps.
struct Phase<'a> {
    /// How many there are.
    taps: usize,
    /// Where the channels and taps lie that a pixel reads, from its first.
    places: Vec<usize>,
    /// `[group][channel written][channel read][tap]`
    weight: Cow<'a, [f32]>,
}

/// A convolution, or a transposed one.
struct Sweep<'a> {
    /// The convolution, or what the pixels of all phases read as if it were one.
    reader: &'a Geometry,
    /// Channels that are read and that are written, of a group.
    channels: [usize; 2],
    band: Band,
    /// Channels whose bands are in the cache together.
    chunk: usize,
    /// Height and width of the target, in which the reader's output `(i, j)` is written to `(i, j) · step` and, row by row, the
    /// places after it, one for each phase.
    target: [usize; 2],
    step: [usize; 2],
    phases: Vec<Phase<'a>>,
    epilogue: Option<Epilogue<'a>>,
}

/// Most channels that a group writes, in one phase and in several. Wherever a register of 16 values begins, it touches two lines
/// of the cache, and a matrix pays sooner.
fn most_channels() -> [usize; 2] {
    let [lanes, _] = simd::arch().dispatch(Sizes);
    if lanes == MOST_LANES { [16, 8] } else { [64, 32] }
}

/// A band of as many rows as there is room for.
fn cached(reader: &Geometry, channels_read: usize) -> Band {
    let row = Band::new(reader, 1).row();
    let reach = reader.dilation[0] * (reader.kernel[0] - 1);
    let rows = (BANDS / channels_read.min(TOGETHER) / row).saturating_sub(reach) / reader.stride[0];
    let share = (reader.batch * reader.groups * reader.output[0]).div_ceil(TASKS);
    Band::new(reader, rows.min(share).clamp(1, reader.output[0]))
}

/// Values from a row of a phase's sums to the next.
fn line(reader: &Geometry) -> usize {
    reader.output[1].next_multiple_of(2 * MOST_LANES)
}

/// Whether what a reader reads for all `phases` and their `taps` can be computed here, and should: registers are filled from one
/// row of the output, and most of them should be full; and a band is smaller than the matrix that it stands for, which it is not
/// where a dilation is large.
fn reads_well(reader: &Geometry, [read, written]: [usize; 2], phases: usize, taps: usize) -> bool {
    let band = cached(reader, read);
    let small = band.rows <= taps * band.outputs;
    let sums = if phases > 1 { (phases * band.outputs * written).saturating_mul(line(reader)) } else { 0 };
    reader.fills_registers() && small && band.len() <= 4 * BANDS && sums <= SUMS
}

/// Whether [`forward`] can and should be used.
pub(super) fn fits(geometry: &Geometry) -> bool {
    let [channels_in, channels_out] = geometry.group_channels();
    channels_out <= most_channels()[0]
        && geometry.taps() > 1
        && reads_well(geometry, [channels_in, channels_out], 1, geometry.taps())
}

/// Whether [`input_gradient`] can and should be used.
pub(super) fn gradient_fits(geometry: &Geometry) -> bool {
    let [channels_in, channels_out] = geometry.group_channels();
    let phases = geometry.stride[0].saturating_mul(geometry.stride[1]);
    channels_in <= most_channels()[usize::from(phases > 1)]
        && geometry.taps() > 1
        && phases <= geometry.taps()
        && reads_well(&geometry.gradient_reader().0, [channels_out, channels_in], phases, geometry.taps())
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Option<Epilogue>, output: Shared) {
    let channels = geometry.group_channels();
    let mut sweep = Sweep::new(geometry, channels, geometry.output, [1, 1], epilogue);
    sweep.phase(weight.into(), (0..geometry.taps()).map(|tap| sweep.band.tap(geometry, tap)).collect());
    sweep.run(x, output);
}

/// Writes the gradient of the input to `output`, after the epilogue: a transposed convolution.
pub(super) fn input_gradient(
    geometry: &Geometry,
    weight: &[f32],
    grad: &[f32],
    epilogue: Option<Epilogue>,
    output: Shared,
) {
    let [channels_in, channels_out] = geometry.group_channels();
    let (reader, phases) = geometry.gradient_reader();
    let mut sweep = Sweep::new(&reader, [channels_out, channels_in], geometry.input, geometry.stride, epilogue);
    for taps in phases {
        let kernel: Vec<usize> = taps.iter().map(|(tap, _)| *tap).collect();
        let weight = transposed(weight, geometry.groups, [channels_in, channels_out], geometry.taps(), &kernel);
        let places = taps.iter().map(|(_, [row, column])| row * sweep.band.row() + column).collect();
        sweep.phase(weight.into(), places);
    }
    sweep.run(grad, output);
}

impl<'a> Sweep<'a> {
    fn new(
        reader: &'a Geometry,
        channels: [usize; 2],
        target: [usize; 2],
        step: [usize; 2],
        epilogue: Option<Epilogue<'a>>,
    ) -> Self {
        let band = cached(reader, channels[0]);
        let chunk = (BANDS / band.len()).clamp(1, channels[0]);
        Self { reader, channels, band, chunk, target, step, phases: Vec::new(), epilogue }
    }

    /// Adds a phase, whose taps lie at these places of a band.
    fn phase(&mut self, weight: Cow<'a, [f32]>, taps: Vec<usize>) {
        let len = self.band.len();
        let places = (0..self.chunk).flat_map(|channel| taps.iter().map(move |tap| channel * len + tap)).collect();
        self.phases.push(Phase { taps: taps.len(), places, weight });
    }

    fn run(&self, x: &[f32], output: Shared) {
        let (arch, reader, band) = (simd::arch(), self.reader, self.band);
        let bands = reader.output[0].div_ceil(band.outputs);
        let sums = match self.phases.len() {
            1 => 0,
            phases => phases * band.outputs * self.channels[1] * line(reader),
        };
        for_each(reader.batch * reader.groups * bands, |task| {
            let (index, first) = (task / bands, task % bands * band.outputs);
            with_scratch([self.chunk * band.len(), sums], |[values, sums]| {
                arch.dispatch(Rows { sweep: self, x, index, first, values, sums, output });
            });
        });
    }
}

/// What a band's rows of a group lead to.
struct Rows<'a> {
    sweep: &'a Sweep<'a>,
    x: &'a [f32],
    /// The group, counted over the images.
    index: usize,
    /// The first row.
    first: usize,
    /// Scratch: bands of channels, and the sums of several phases, `[phase][row][channel][column]`.
    values: &'a mut [f32],
    sums: &'a mut [f32],
    output: Shared,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (sweep, index) = (self.sweep, self.index);
        let Sweep { reader, band, channels: [read, written], chunk, .. } = *sweep;
        let (plane, target) = (reader.input_plane(), sweep.target[0] * sweep.target[1]);
        let group = index % reader.groups;
        let masks = band.masks(simd, reader, band.columns(reader));
        for begin in (0..read).step_by(chunk) {
            let count = chunk.min(read - begin);
            for (channel, values) in self.values.chunks_exact_mut(band.len()).enumerate().take(count) {
                let x = &self.x[(index * read + begin + channel) * plane..][..plane];
                band.fill(simd, reader, &masks, x, self.first, values);
            }
            for channel in (0..written).step_by(kernel_rows::<S>()) {
                let whole = sweep.phases.len() == 1 && chunk >= read;
                let finish = match begin {
                    0 if whole => Epilogue::finish(sweep.epilogue, group * written + channel),
                    0 => Finish::Store,
                    _ => Finish::Add,
                };
                self.multiply(simd, begin, count, channel, finish);
            }
        }
        if sweep.phases.len() > 1 {
            self.interleave(simd);
        } else if let (Some(epilogue), true) = (sweep.epilogue, chunk < read) {
            let width = sweep.target[1];
            for channel in 0..written {
                let rows = self.first * width..(self.first + band.outputs).min(sweep.target[0]) * width;
                // SAFETY: these rows of the plane are this task's.
                let values = unsafe {
                    let start = self.output.at((index * written + channel) * target + rows.start);
                    std::slice::from_raw_parts_mut(start, rows.len())
                };
                epilogue.apply(group * written + channel, values);
            }
        }
    }
}

impl Rows<'_> {
    /// The products of a panel of channels with the bands of `count` channels from `begin` on.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, simd: S, begin: usize, count: usize, channel: usize, finish: Finish) {
        let sweep = self.sweep;
        let Sweep { reader, band, channels: [read, written], .. } = *sweep;
        let ([height, width], line, pair) = (reader.output, line(reader), 2 * S::F32_LANES);
        let group = self.index % reader.groups;
        let rows = kernel_rows::<S>().min(written - channel);
        for (index, phase) in sweep.phases.iter().enumerate() {
            let depth = read * phase.taps;
            let weight = &phase.weight[group * written * depth..][..written * depth];
            let left = Left::Rows(weight[channel * depth + begin * phase.taps..].as_ptr(), depth);
            let places = &phase.places[..count * phase.taps];
            for row in 0..band.outputs.min(height - self.first) {
                let start = row * reader.stride[0] * band.row();
                let (output, output_stride) = if sweep.phases.len() == 1 {
                    let plane = height * width;
                    let place = (self.index * written + channel) * plane + (self.first + row) * width;
                    // SAFETY: within the output; this row is this task's.
                    (unsafe { self.output.at(place) }, plane)
                } else {
                    let place = ((index * band.outputs + row) * written + channel) * line;
                    (self.sums[place..place + rows * line].as_mut_ptr(), line)
                };
                for column in (0..width).step_by(pair) {
                    let product = Product {
                        depth: places.len(),
                        left,
                        right: Places(self.values[start + column..].as_ptr(), places),
                        output: output.wrapping_add(column),
                        output_stride,
                        rows,
                        columns: pair.min(width - column),
                    };
                    // SAFETY: the weight has `depth` values a row, the bands whole registers from each place on, and the output
                    // these pixels of as many rows.
                    unsafe { product.compute(simd, finish) };
                }
            }
        }
    }

    /// Writes the sums of the phases, those of neighbouring columns side by side.
    #[inline(always)]
    fn interleave<S: Simd>(&mut self, simd: S) {
        let sweep = self.sweep;
        let Sweep { reader, band, channels: [_, written], target: [height, width], step, .. } = *sweep;
        let (line, lanes, group) = (line(reader), S::F32_LANES, self.index % reader.groups);
        let mut pixels = vec![0.0f32; step[1] * line];
        for row in 0..band.outputs.min(reader.output[0] - self.first) {
            for phase_row in 0..step[0].min(height - (self.first + row) * step[0]) {
                for channel in 0..written {
                    let sums = |column: usize| {
                        let phase = phase_row * step[1] + column;
                        &self.sums[((phase * band.outputs + row) * written + channel) * line..][..line]
                    };
                    if step[1] == 2 {
                        let (even, odd) = (sums(0), sums(1));
                        for place in (0..line).step_by(lanes) {
                            // SAFETY: the lines are whole registers, and twice as many are the pixels.
                            unsafe {
                                let even = Lanes::load(simd, even.as_ptr().add(place));
                                let pair = even.zip(Lanes::load(simd, odd.as_ptr().add(place)));
                                pair[0].store(pixels.as_mut_ptr().add(2 * place));
                                pair[1].store(pixels.as_mut_ptr().add(2 * place + lanes));
                            }
                        }
                    } else {
                        for column in 0..step[1] {
                            for (pixel, sum) in pixels[column..].iter_mut().step_by(step[1]).zip(sums(column)) {
                                *pixel = *sum;
                            }
                        }
                    }
                    let pixels = &mut pixels[..width];
                    if let Some(epilogue) = sweep.epilogue {
                        epilogue.apply(group * written + channel, pixels);
                    }
                    let row = (self.first + row) * step[0] + phase_row;
                    let place = ((self.index * written + channel) * height + row) * width;
                    // SAFETY: within the output; this row is this task's.
                    unsafe { std::ptr::copy_nonoverlapping(pixels.as_ptr(), self.output.at(place), width) };
                }
            }
        }
    }
}
