//! Implicit GEMM: for a block of pixels, what each reads is copied to a column of a matrix `[channels · taps, pixels]`, and
//! the weight times that matrix is the block's output. The matrix is as large as the block, never as the image, and is laid
//! out as the product reads it.
//!
//! The gradient of the input is the same with other pixels and taps: with stride 2, the input pixels of even rows are
//! reached through some rows of the kernel and those of odd rows through the others, so that each such phase of the input
//! is a convolution of the output's gradient by itself.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::{borrow::Cow, ops::Range};

use pulp::{Simd, WithSimd};

use super::{Epilogue, Geometry};
use crate::cpu::{
    matrix::{Finish, Left, Product, Sizes, kernel_rows},
    memory::{Shared, Temporary, with_scratch},
    simd::{self, Lanes, MOST_LANES, places, prefetch, transpose},
    threads::{for_each, for_each_chunk},
};

/// Most pixels of a block.
const BLOCK: usize = 256;
/// Values of a block's matrices, as far as the block has two registers of pixels: what stays in a second-level cache of
/// 1 MiB.
const MATRIX: usize = 1 << 17;
/// Tasks wanted; fixed, so that sums do not depend on the number of threads.
const TASKS: usize = 32;

/// What pixels read: pixel `(i, j)` and tap `t` meet at `(i, j) · stride + t` of the source, or at nothing.
#[derive(Debug, Clone, Copy)]
struct Reader {
    pixels: [usize; 2],
    stride: [usize; 2],
    /// Height and width of the source.
    source: [usize; 2],
}

impl Reader {
    fn count(&self) -> usize {
        self.pixels[0] * self.pixels[1]
    }

    fn plane(&self) -> usize {
        self.source[0] * self.source[1]
    }

    /// Where a register of pixels begins to read at a tap if they all read one row of the source.
    #[inline(always)]
    fn whole(&self, tap: Tap, [row, column]: [usize; 2], count: usize, lanes: usize) -> Option<isize> {
        let line = (row * self.stride[0]).wrapping_add_signed(tap[0]);
        let first = (column * self.stride[1]).wrapping_add_signed(tap[1]);
        let last = first.wrapping_add((lanes - 1) * self.stride[1]);
        let within = line < self.source[0] && first < self.source[1] && last < self.source[1];
        (count == lanes && column + lanes <= self.pixels[1] && within).then(|| (line * self.source[1] + first) as isize)
    }
}

type Tap = [isize; 2];

/// The places of a register of the matrix that come from one row of the source.
#[derive(Clone, Copy)]
struct Part<S: Simd> {
    /// The register's place in the matrix, for channel 0.
    place: usize,
    /// Of the register's first place in a plane; what the masks leave out may be anywhere.
    offset: isize,
    /// Two for the two registers that stride 2 reads.
    masks: [S::m32s; 2],
    /// Whether the register has another part before this one.
    continues: bool,
}

/// How a matrix is filled, for one channel; it is the same for the others.
struct Filling<S: Simd> {
    parts: Vec<Part<S>>,
    /// Whether other channels' values are asked for ahead of time: they are too far apart for the processor to guess.
    ahead: bool,
}

impl<S: Simd> Filling<S> {
    /// `registers` registers of what pixels from `pixels.start` on read at each tap, with zeros for those after the last and
    /// outside of the source. Register `i` of tap `t` is at `place(t, i)`.
    #[inline(always)]
    fn new(
        simd: S,
        reader: &Reader,
        taps: &[Tap],
        pixels: Range<usize>,
        registers: usize,
        place: impl Fn(usize, usize) -> usize,
    ) -> Self {
        let mut filling = Self { parts: Vec::with_capacity(2 * registers * taps.len()), ahead: taps.len() == 1 };
        // Stride 2 reads no value past a register's last.
        let whole = [places(simd, 0..S::F32_LANES), places(simd, 0..S::F32_LANES + 1 - reader.stride[1].min(2))];
        for register in 0..registers {
            let first = pixels.start + register * S::F32_LANES;
            let count = pixels.end.saturating_sub(first).min(S::F32_LANES);
            let start = [first / reader.pixels[1], first % reader.pixels[1]];
            for (index, tap) in taps.iter().enumerate() {
                let place = place(index, register);
                if let Some(offset) = reader.whole(*tap, start, count, S::F32_LANES) {
                    filling.parts.push(Part { place, offset, masks: whole, continues: false });
                    continue;
                }
                match reader.stride[1] {
                    1 => filling.register::<1>(simd, reader, *tap, start, count, place),
                    2 => filling.register::<2>(simd, reader, *tap, start, count, place),
                    _ => filling.register::<0>(simd, reader, *tap, start, count, place),
                }
            }
        }
        filling
    }

    /// One register, `STRIDE` being 0 where there is no code for it.
    #[inline(always)]
    fn register<const STRIDE: usize>(
        &mut self,
        simd: S,
        reader: &Reader,
        tap: Tap,
        [mut row, mut column]: [usize; 2],
        count: usize,
        place: usize,
    ) {
        let (lanes, [height, width]) = (S::F32_LANES, reader.source);
        let stride = if STRIDE == 0 { reader.stride[1] } else { STRIDE };
        let (mut lane, mut continues) = (0, false);
        while lane < count {
            let pixels = (reader.pixels[1] - column).min(count - lane);
            let line = (row * reader.stride[0]).wrapping_add_signed(tap[0]);
            let start = (column * stride) as isize + tap[1];
            // Of these pixels the first that is within the row, and the one after the last.
            let low = (-start).max(0).unsigned_abs().div_ceil(stride).min(pixels);
            let high = (width as isize - start).max(0).unsigned_abs().div_ceil(stride).min(pixels);
            if line < height && low < high {
                let (low, high) = (lane + low, lane + high);
                let masks = if STRIDE == 2 {
                    let (low, high) = (2 * low, 2 * high - 1);
                    let after = low.saturating_sub(lanes)..high.saturating_sub(lanes);
                    [places(simd, low..high.min(lanes)), places(simd, after)]
                } else {
                    [places(simd, low..high); 2]
                };
                let offset = (line * width) as isize + start - (lane * stride) as isize;
                self.parts.push(Part { place, offset, masks, continues });
                continues = true;
            }
            lane += pixels;
            column += pixels;
            if column == reader.pixels[1] {
                (row, column) = (row + 1, 0);
            }
        }
        if !continues {
            self.parts.push(Part { place, offset: 0, masks: [places(simd, 0..0); 2], continues });
        }
    }

    /// Fills the matrix from each plane of `x`; from a plane to the next places are `step` apart.
    ///
    /// # Safety
    /// The matrix has all places.
    #[inline(always)]
    unsafe fn fill(&self, simd: S, reader: &Reader, x: &[f32], matrix: &mut [f32], step: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match reader.stride[1] {
                1 => self.fill_by::<1>(simd, reader, x, matrix, step),
                2 => self.fill_by::<2>(simd, reader, x, matrix, step),
                _ => self.fill_by::<0>(simd, reader, x, matrix, step),
            }
        }
    }

    #[inline(always)]
    unsafe fn fill_by<const STRIDE: usize>(
        &self,
        simd: S,
        reader: &Reader,
        x: &[f32],
        matrix: &mut [f32],
        step: usize,
    ) {
        let (plane, lanes) = (reader.plane(), S::F32_LANES);
        for (channel, x) in x.chunks_exact(plane).enumerate() {
            for part in &self.parts {
                let Part { place, offset, masks, continues } = *part;
                let from = x.as_ptr().wrapping_offset(offset);
                if self.ahead {
                    prefetch(from.wrapping_add(2 * plane));
                }
                // SAFETY: the masks keep to the plane, and the caller gives the matrix.
                unsafe {
                    let mut value = match STRIDE {
                        1 => Lanes::load_masked(simd, from, masks[0]),
                        2 => {
                            let next = Lanes::load_masked(simd, from.wrapping_add(lanes), masks[1]);
                            Lanes::load_masked(simd, from, masks[0]).unzip(next)[0]
                        }
                        _ => {
                            let mut values = [0.0f32; MOST_LANES];
                            for lane in 0..lanes {
                                let index = offset.wrapping_add_unsigned(lane * reader.stride[1]) as usize;
                                values[lane] = if index < plane { x[index] } else { 0.0 };
                            }
                            Lanes::load_masked(simd, values.as_ptr(), masks[0])
                        }
                    };
                    let target = matrix.as_mut_ptr().add(place + channel * step);
                    if continues {
                        value = value.or(Lanes::load(simd, target));
                    }
                    value.store(target);
                }
            }
        }
    }
}

impl Geometry {
    /// Output pixels and the input.
    fn reader(&self) -> Reader {
        if self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0] && self.input == self.output {
            // One long row: no register is made of two.
            let row = [1, self.output_plane()];
            return Reader { pixels: row, stride: [1, 1], source: row };
        }
        Reader { pixels: self.output, stride: self.stride, source: self.input }
    }

    /// What taps add to the place that an output pixel reads.
    fn offsets(&self) -> Vec<Tap> {
        let offset = |axis: usize, tap: usize| (tap * self.dilation[axis]) as isize - self.padding[axis] as isize;
        (0..self.taps()).map(|tap| [offset(0, tap / self.kernel[1]), offset(1, tap % self.kernel[1])]).collect()
    }

    /// Channels in and out of a group.
    fn group_channels(&self) -> [usize; 2] {
        self.channels.map(|channels| channels / self.groups)
    }
}

/// Some of the target's pixels, which all have the same taps.
struct Phase<'a> {
    /// Index of the taps.
    taps: usize,
    /// `[group][channel written][channel read][tap]`
    weight: Cow<'a, [f32]>,
}

/// A convolution as products of weights and what pixels read.
struct Sweep<'a> {
    batch: usize,
    groups: usize,
    /// Channels that are read and that are written, of a group.
    channels: [usize; 2],
    reader: Reader,
    taps: Vec<Vec<Tap>>,
    /// Height and width of the target, in which pixel `(i, j)` is written to `(i, j) · step` and, row by row, the places
    /// after it, one for each phase.
    target: [usize; 2],
    step: [usize; 2],
    phases: Vec<Phase<'a>>,
    epilogue: Option<Epilogue<'a>>,
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Option<Epilogue>, output: Shared) {
    let sweep = Sweep {
        batch: geometry.batch,
        groups: geometry.groups,
        channels: geometry.group_channels(),
        reader: geometry.reader(),
        taps: vec![geometry.offsets()],
        target: geometry.output,
        step: [1, 1],
        phases: vec![Phase { taps: 0, weight: weight.into() }],
        epilogue,
    };
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
    let (mut taps, mut phases): (Vec<Vec<Tap>>, Vec<Phase>) = (Vec::new(), Vec::new());
    for row in 0..geometry.stride[0] {
        for column in 0..geometry.stride[1] {
            let (rows, columns) = (geometry.reaching(0, row), geometry.reaching(1, column));
            let both = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
            let (kernel, offsets): (Vec<usize>, Vec<Tap>) =
                both.map(|(row, column)| (row.0 * geometry.kernel[1] + column.0, [row.1, column.1])).unzip();
            let index = taps.iter().position(|taps| *taps == offsets).unwrap_or_else(|| {
                taps.push(offsets);
                taps.len() - 1
            });
            let weight = transposed(weight, geometry.groups, [channels_in, channels_out], geometry.taps(), &kernel);
            phases.push(Phase { taps: index, weight: weight.into() });
        }
    }
    let mut reader = Reader {
        pixels: [0, 1].map(|axis| geometry.input[axis].div_ceil(geometry.stride[axis])),
        stride: [1, 1],
        source: geometry.output,
    };
    if geometry.stride == [1, 1] {
        reader = geometry.adjoint().map_or(reader, |adjoint| adjoint.reader());
    }
    let sweep = Sweep {
        batch: geometry.batch,
        groups: geometry.groups,
        channels: [channels_out, channels_in],
        reader,
        taps,
        target: geometry.input,
        step: geometry.stride,
        phases,
        epilogue,
    };
    sweep.run(grad, output);
}

/// The weight as `[group][channel in][channel out][tap]`, with some of the taps.
fn transposed(
    weight: &[f32],
    groups: usize,
    [channels_in, channels_out]: [usize; 2],
    taps: usize,
    kernel: &[usize],
) -> Vec<f32> {
    /// Channels in a task, whose values share cache lines.
    const CHUNK: usize = 16;
    let depth = channels_out * kernel.len();
    let mut result = vec![0.0f32; groups * channels_in * depth];
    if depth == 0 {
        return result;
    }
    // A few channels out at a time, so that neither side's lines push each other out of the cache.
    let chunks = channels_in.div_ceil(CHUNK);
    let target = Shared(result.as_mut_ptr());
    for_each(groups * chunks, |task| {
        let (group, first) = (task / chunks, task % chunks * CHUNK);
        let weight = &weight[group * channels_out * channels_in * taps..];
        for outs in (0..channels_out).step_by(CHUNK / 2) {
            for channel in first..channels_in.min(first + CHUNK) {
                for out in outs..channels_out.min(outs + CHUNK / 2) {
                    let weight = &weight[(out * channels_in + channel) * taps..][..taps];
                    let place = (group * channels_in + channel) * depth + out * kernel.len();
                    for (index, tap) in kernel.iter().enumerate() {
                        // SAFETY: within the result; this channel is this task's.
                        unsafe { target.at(place + index).write(weight[*tap]) };
                    }
                }
            }
        }
    });
    result
}

impl Sweep<'_> {
    fn run(&self, x: &[f32], output: Shared) {
        let arch = simd::arch();
        let [lanes, step] = arch.dispatch(Sizes);
        let rows = self.channels[0] * self.taps.iter().map(Vec::len).sum::<usize>();
        let width = 2 * lanes;
        let size = (MATRIX / rows.max(1) / width * width).clamp(width, BLOCK);
        let pixels = self.reader.count();
        let blocks = pixels.div_ceil(size);
        // Where there are few pixels, channels are shared out too.
        let panels = self.channels[1].div_ceil(step);
        let parts = TASKS.div_ceil(self.batch * self.groups * blocks).min(panels.div_ceil(8)).max(1);
        let per_part = panels.div_ceil(parts) * step;
        let parts = self.channels[1].div_ceil(per_part);
        // Groups are filled alike.
        let per_task = (self.batch * self.groups * blocks / (2 * TASKS)).clamp(1, self.groups);
        let sets = self.groups.div_ceil(per_task);
        for_each(self.batch * sets * blocks * parts, |task| {
            let (part, set, block) = (task % parts, task / parts % sets, task / parts / sets);
            let first = block % blocks * size;
            let groups = set * per_task..((set + 1) * per_task).min(self.groups);
            let channels = part * per_part..((part + 1) * per_part).min(self.channels[1]);
            with_scratch([rows * size], |[matrix]| {
                arch.dispatch(Block {
                    sweep: self,
                    x,
                    image: block / blocks,
                    groups,
                    pixels: first..(first + size).min(pixels),
                    channels,
                    matrix,
                    output,
                });
            });
        });
    }
}

/// The outputs of a block of pixels.
struct Block<'a> {
    sweep: &'a Sweep<'a>,
    x: &'a [f32],
    image: usize,
    groups: Range<usize>,
    pixels: Range<usize>,
    /// That are written, of each group.
    channels: Range<usize>,
    /// Scratch, `[taps][pair of registers][channel, tap][pixel]`.
    matrix: &'a mut [f32],
    output: Shared,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (sweep, lanes) = (self.sweep, S::F32_LANES);
        let (read, pairs, plane) = (sweep.channels[0], self.pixels.len().div_ceil(2 * lanes), sweep.reader.plane());
        let mut fillings = Vec::with_capacity(sweep.taps.len());
        for taps in &sweep.taps {
            let place = |tap: usize, register: usize| {
                (register / 2 * read * taps.len() + tap) * 2 * lanes + register % 2 * lanes
            };
            fillings.push(Filling::new(simd, &sweep.reader, taps, self.pixels.clone(), 2 * pairs, place));
        }
        for group in self.groups.clone() {
            let x = &self.x[(self.image * sweep.groups + group) * read * plane..][..read * plane];
            let mut matrix = &mut self.matrix[..];
            for (taps, filling) in sweep.taps.iter().zip(&fillings) {
                let (this, rest) = std::mem::take(&mut matrix).split_at_mut(pairs * read * taps.len() * 2 * lanes);
                matrix = rest;
                // SAFETY: the matrix has a row for each channel and tap.
                unsafe { filling.fill(simd, &sweep.reader, x, this, taps.len() * 2 * lanes) };
            }
            if sweep.step == [1, 1] {
                self.multiply(simd, group);
            } else {
                for row in 0..sweep.step[0] {
                    self.multiply_phases(simd, group, row);
                }
            }
        }
    }
}

impl Block<'_> {
    /// Depth and matrix of a phase.
    #[inline(always)]
    fn matrix<S: Simd>(&self, phase: &Phase) -> (usize, &[f32]) {
        let width = 2 * S::F32_LANES;
        let pairs = self.pixels.len().div_ceil(width);
        let rows = |taps: &[Vec<Tap>]| taps.iter().map(|taps| self.sweep.channels[0] * taps.len()).sum::<usize>();
        let before = rows(&self.sweep.taps[..phase.taps]);
        let depth = rows(&self.sweep.taps[phase.taps..=phase.taps]);
        (depth, &self.matrix[before * pairs * width..][..depth * pairs * width])
    }

    /// The epilogue of channels from `channel` on of the group.
    #[inline(always)]
    fn finish(&self, group: usize, channel: usize) -> Finish<'_> {
        let first = group * self.sweep.channels[1] + channel;
        match self.sweep.epilogue {
            Some(Epilogue { scale, shift, range }) => {
                Finish::Affine { scale: &scale[first..], shift: &shift[first..], range }
            }
            None => Finish::Store,
        }
    }

    /// A target that has the reader's pixels, in the same order.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S, group: usize) {
        let (sweep, width) = (self.sweep, 2 * S::F32_LANES);
        let (phase, plane) = (&sweep.phases[0], sweep.target[0] * sweep.target[1]);
        let (depth, matrix) = self.matrix::<S>(phase);
        let weight = &phase.weight[group * sweep.channels[1] * depth..];
        let first_plane = (self.image * sweep.groups + group) * sweep.channels[1];
        for first in self.channels.clone().step_by(kernel_rows::<S>()) {
            let rows = kernel_rows::<S>().min(self.channels.end - first);
            for (pair, pixel) in self.pixels.clone().step_by(width).enumerate() {
                // SAFETY: the weight has `depth` values a row, the matrix as many rows, and these pixels of the planes
                // are written here only.
                unsafe {
                    let product = Product {
                        depth,
                        left: Left::Rows(weight[first * depth..].as_ptr(), depth),
                        right: matrix[pair * depth * width..].as_ptr(),
                        right_stride: width,
                        output: self.output.at((first_plane + first) * plane + pixel),
                        output_stride: plane,
                        rows,
                        columns: width.min(self.pixels.end - pixel),
                    };
                    product.compute(simd, self.finish(group, first));
                }
            }
        }
    }

    /// The phases of one row: products of neighbouring columns are put side by side before they are written.
    #[inline(always)]
    fn multiply_phases<S: Simd>(&self, simd: S, group: usize, phase_row: usize) {
        let (sweep, width) = (self.sweep, 2 * S::F32_LANES);
        let ([height, target_width], [_, columns]) = (sweep.target, sweep.step);
        let phases = &sweep.phases[phase_row * columns..][..columns];
        let first_plane = (self.image * sweep.groups + group) * sweep.channels[1];
        let mut products = vec![0.0f32; columns * 8 * width];
        let mut line = vec![0.0f32; columns * width];
        for first in self.channels.clone().step_by(kernel_rows::<S>()) {
            let rows = kernel_rows::<S>().min(self.channels.end - first);
            for (pair, pixel) in self.pixels.clone().step_by(width).enumerate() {
                let count = width.min(self.pixels.end - pixel);
                for (phase, products) in phases.iter().zip(products.chunks_exact_mut(8 * width)) {
                    let (depth, matrix) = self.matrix::<S>(phase);
                    let weight = &phase.weight[group * sweep.channels[1] * depth..];
                    let product = Product {
                        depth,
                        left: Left::Rows(weight[first * depth..].as_ptr(), depth),
                        right: matrix[pair * depth * width..].as_ptr(),
                        right_stride: width,
                        output: products.as_mut_ptr(),
                        output_stride: width,
                        rows,
                        columns: width,
                    };
                    // SAFETY: the weight has `depth` values a row, the matrix as many rows, and products eight of a pair.
                    unsafe { product.compute(simd, self.finish(group, first)) };
                }
                for row in 0..rows {
                    if columns == 2 {
                        for half in 0..2 {
                            let place = half * S::F32_LANES;
                            // SAFETY: the products have two phases of eight rows of a pair, and a line two pairs.
                            unsafe {
                                let even = Lanes::load(simd, products[row * width + place..].as_ptr());
                                let odd = Lanes::load(simd, products[(8 + row) * width + place..].as_ptr());
                                for (index, values) in even.zip(odd).into_iter().enumerate() {
                                    values.store(line[2 * place + index * S::F32_LANES..].as_mut_ptr());
                                }
                            }
                        }
                    } else {
                        for column in 0..columns {
                            for index in 0..width {
                                line[index * columns + column] = products[(column * 8 + row) * width + index];
                            }
                        }
                    }
                    let plane = (first_plane + first + row) * height * target_width;
                    let mut done = 0;
                    while done < count {
                        let (i, j) = ((pixel + done) / sweep.reader.pixels[1], (pixel + done) % sweep.reader.pixels[1]);
                        let pixels = (sweep.reader.pixels[1] - j).min(count - done);
                        let (row, column) = (i * sweep.step[0] + phase_row, j * columns);
                        if row < height {
                            let values = &line[done * columns..][..(pixels * columns).min(target_width - column)];
                            // SAFETY: these places of the row are written here only.
                            unsafe {
                                let target = self.output.at(plane + row * target_width + column);
                                std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len());
                            }
                        }
                        done += pixels;
                    }
                }
            }
        }
    }
}

/// Pixels of a block whose weights' gradient is computed.
const GRADIENT_BLOCK: usize = 64;
/// Matrix rows, or three channels if they are more, and output channels whose weights' gradients are one task.
const CHUNK: [usize; 2] = [64, 256];

/// Channels whose matrix rows are one task: those that fill registers best.
fn chunk_channels(taps: usize, lanes: usize) -> usize {
    let most = (CHUNK[0] / taps).max(3);
    let waste = |channels: &usize| (channels * taps).next_multiple_of(lanes) * 1000 / (channels * taps);
    (1..=most).rev().min_by_key(waste).unwrap_or(1)
}

/// The gradient of the weight, `[channels_out, channels_in / groups, kernel_height, kernel_width]`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let arch = simd::arch();
    let [lanes, _] = arch.dispatch(Sizes);
    let [channels_in, channels_out] = geometry.group_channels();
    let (reader, taps) = (geometry.reader(), geometry.offsets());
    let chunk = [chunk_channels(taps.len(), lanes).min(channels_in), CHUNK[1].min(channels_out)];
    let chunks = [channels_in.div_ceil(chunk[0]), channels_out.div_ceil(chunk[1])];
    let per_image = reader.count().div_ceil(GRADIENT_BLOCK);
    let blocks = geometry.batch * per_image;
    let others = chunks[0] * chunks[1] * geometry.groups;
    let per_part = blocks.div_ceil(TASKS.div_ceil(others)).max(4);
    let parts = blocks.div_ceil(per_part);
    // `[channel out][matrix row]`, of the first part and of the others.
    let len = geometry.channels[1] * channels_in * taps.len();
    let mut gradient: Vec<f32> = Vec::with_capacity(len);
    // SAFETY: every task writes its channels of its part before they are read.
    let mut rest = unsafe { Temporary::new((parts - 1) * len) };
    let targets = [Shared(gradient.as_mut_ptr()), Shared(rest.as_mut_ptr())];
    for_each(others * parts, |task| {
        let (part, group) = (task % parts, task / parts / (chunks[0] * chunks[1]));
        let (chunk_in, chunk_out) = (task / parts % chunks[0], task / parts / chunks[0] % chunks[1]);
        let range = |index: usize, size: usize, all: usize| index * size..((index + 1) * size).min(all);
        let width = (chunk[0] * taps.len()).next_multiple_of(lanes) * GRADIENT_BLOCK;
        with_scratch([chunk[1] * GRADIENT_BLOCK, width, width], |[grads, matrix, turned]| {
            arch.dispatch(Correlate {
                geometry,
                reader,
                taps: &taps,
                group,
                x,
                grad,
                ins: range(chunk_in, chunk[0], channels_in),
                outs: range(chunk_out, chunk[1], channels_out),
                per_image,
                blocks: range(part, per_part, blocks),
                grads,
                matrix,
                turned,
                // SAFETY: the part's sums are within the buffer.
                target: if part == 0 { targets[0] } else { Shared(unsafe { targets[1].at((part - 1) * len) }) },
            });
        });
    });
    // SAFETY: the tasks of the first part have written all channels.
    unsafe { gradient.set_len(len) };
    for_each_chunk(&mut gradient, 4096, |chunk, gradient| {
        for part in rest.chunks_exact(len) {
            for (value, other) in gradient.iter_mut().zip(&part[chunk * 4096..]) {
                *value += other;
            }
        }
    });
    gradient
}

/// Adds up the products of the output's gradient and of what blocks of pixels read: `[channel out][matrix row]`.
struct Correlate<'a> {
    geometry: &'a Geometry,
    reader: Reader,
    taps: &'a [Tap],
    group: usize,
    x: &'a [f32],
    grad: &'a [f32],
    /// Channels of the group.
    ins: Range<usize>,
    outs: Range<usize>,
    per_image: usize,
    blocks: Range<usize>,
    /// Scratch.
    grads: &'a mut [f32],
    matrix: &'a mut [f32],
    turned: &'a mut [f32],
    target: Shared,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            geometry,
            reader,
            taps,
            group,
            x,
            grad,
            ins,
            outs,
            per_image,
            blocks,
            grads,
            matrix,
            turned,
            target,
        } = self;
        let lanes = S::F32_LANES;
        let [channels_in, channels_out] = geometry.group_channels();
        let (plane, pixels) = (reader.plane(), reader.count());
        let (rows, all_rows) = (ins.len() * taps.len(), channels_in * taps.len());
        let registers = rows.div_ceil(lanes);
        assert!(grads.len() >= outs.len() * GRADIENT_BLOCK);
        assert!(matrix.len() >= registers * lanes * GRADIENT_BLOCK && turned.len() >= matrix.len());
        matrix.fill(0.0);
        let begin = blocks.start;
        for block in blocks {
            let (image, first) = (block / per_image, block % per_image * GRADIENT_BLOCK);
            let count = GRADIENT_BLOCK.min(pixels - first);
            let planes = image * geometry.groups + group;
            for (out, grads) in outs.clone().zip(grads.chunks_exact_mut(GRADIENT_BLOCK)) {
                let start = (planes * channels_out + out) * pixels + first;
                grads[..count].copy_from_slice(&grad[start..][..count]);
                grads[count..].fill(0.0);
            }
            let place = |tap: usize, register: usize| tap * GRADIENT_BLOCK + register * lanes;
            let read = first..first + count;
            let filling = Filling::new(simd, &reader, taps, read, GRADIENT_BLOCK / lanes, place);
            let x = &x[(planes * channels_in + ins.start) * plane..][..ins.len() * plane];
            // SAFETY: the matrix has a block for each row.
            unsafe { filling.fill(simd, &reader, x, matrix, taps.len() * GRADIENT_BLOCK) };
            // `[pair of registers of rows][pixel][row]`
            for register in 0..registers {
                let (pair, panel) = (register / 2, (registers - register / 2 * 2).min(2) * lanes);
                for offset in (0..GRADIENT_BLOCK).step_by(lanes) {
                    let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
                    // SAFETY: both arrays have a block for each row of whole registers.
                    unsafe {
                        for row in 0..lanes {
                            let place = (register * lanes + row) * GRADIENT_BLOCK + offset;
                            square[row] = Lanes::load(simd, matrix.as_ptr().add(place));
                        }
                        transpose(&mut square);
                        let start = 2 * pair * lanes * GRADIENT_BLOCK + register % 2 * lanes;
                        for row in 0..lanes {
                            square[row].store(turned.as_mut_ptr().add(start + (offset + row) * panel));
                        }
                    }
                }
            }
            for out in (0..outs.len()).step_by(kernel_rows::<S>()) {
                for pair in 0..registers.div_ceil(2) {
                    let row = 2 * pair * lanes;
                    let channel = group * channels_out + outs.start + out;
                    // SAFETY: the sizes were compared above; these sums are this task's.
                    unsafe {
                        let product = Product {
                            depth: GRADIENT_BLOCK,
                            left: Left::Rows(grads[out * GRADIENT_BLOCK..].as_ptr(), GRADIENT_BLOCK),
                            right: turned[2 * pair * lanes * GRADIENT_BLOCK..].as_ptr(),
                            right_stride: (registers - 2 * pair).min(2) * lanes,
                            output: target.at(channel * all_rows + ins.start * taps.len() + row),
                            output_stride: all_rows,
                            rows: kernel_rows::<S>().min(outs.len() - out),
                            columns: (2 * lanes).min(rows - row),
                        };
                        product.compute(simd, if block > begin { Finish::Add } else { Finish::Store });
                    }
                }
            }
        }
    }
}
