//! Dilations near the image's size: each interleaved grid is one tile, of up to 6×6 outputs, and neighboring grids fill a
//! register.
//!
//! The tiles are as large as the grids, so that none is half empty. Input channels are transformed and multiplied a few hundred at
//! a time: transformed kernels of all would be up to seven times the weight.

use std::{mem::MaybeUninit, ops::Range};

use pulp::{Simd, WithSimd};

use super::{
    Panels, ROWS, SKEW, TILES, chunk,
    kernels::{Kernels, store_rows},
    steps::Multiply,
};
use crate::{
    conv2d::flex::{
        Epilogue, Geometry,
        geometry::Channels,
        implicit::{Filling, Reader, Tap},
    },
    cpu::{
        disjoint::{Disjoint, Part},
        matrix::{Finish, RegisterSizes},
        memory::{Temporary, with_scratch},
        simd::{self, Lanes, MOST_LANES, arch_of_eight},
        threads::for_each,
    },
};

/// Most points along an axis.
const MOST: usize = 8;
/// Input channels that are transformed and multiplied before the next, so that a product's tiles stay in a second-level cache.
const DEPTH: usize = 256;
/// Channels of a task that transforms tiles.
const CHANNELS: usize = 16;

/// The transforms `B^T`, `G` and `A^T` along one axis, padded with zeros.
struct Axis {
    outputs: usize,
    points: usize,
    input: [[f32; MOST]; MOST],
    kernel: [[f32; 3]; MOST],
    output: [[f32; MOST]; MOST],
}

impl Axis {
    fn inputs(&self) -> usize {
        self.outputs + 2
    }
}

/// Pads a matrix with zeros.
const fn matrix<const ROWS: usize, const COLUMNS: usize, const WIDTH: usize>(
    values: [[f32; COLUMNS]; ROWS],
) -> [[f32; WIDTH]; MOST] {
    let mut all = [[0.0; WIDTH]; MOST];
    let mut row = 0;
    while row < ROWS {
        let mut column = 0;
        while column < COLUMNS {
            all[row][column] = values[row][column];
            column += 1;
        }
        row += 1;
    }
    all
}

/// F(2, 3) where the first and the last input are padding: three points.
static CLOSED: Axis = Axis {
    outputs: 2,
    points: 3,
    input: matrix([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]),
    kernel: matrix([[0.0, 1.0, 0.0], [0.0, -1.0, 1.0], [1.0, -1.0, 0.0]]),
    output: matrix([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]),
};

/// F(2, 3), with the points 0, 1, -1 and infinity.
static TWO: Axis = Axis {
    outputs: 2,
    points: 4,
    input: matrix([[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0, -1.0, 0.0, 1.0]]),
    kernel: matrix([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]]),
    output: matrix([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, 1.0]]),
};

/// F(3, 3), with the points 0, 1, -1, 2 and infinity.
static THREE: Axis = Axis {
    outputs: 3,
    points: 5,
    input: matrix([
        [2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 1.0, 0.0],
        [0.0, 2.0, -3.0, 1.0, 0.0],
        [0.0, -1.0, 0.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0],
    ]),
    kernel: matrix([
        [0.5, 0.0, 0.0],
        [-0.5, -0.5, -0.5],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 6.0, 1.0 / 3.0, 2.0 / 3.0],
        [0.0, 0.0, 1.0],
    ]),
    output: matrix([[1.0, 1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, 2.0, 0.0], [0.0, 1.0, 1.0, 4.0, 1.0]]),
};

/// F(4, 3), with the points 0, 1, -1, 2, -2 and infinity.
static FOUR: Axis = Axis {
    outputs: 4,
    points: 6,
    input: matrix([
        [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ]),
    kernel: matrix([
        [0.25, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ]),
    output: matrix([
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
    ]),
};

/// F(6, 3), with the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
static SIX: Axis = Axis {
    outputs: 6,
    points: 8,
    input: matrix([
        [1.0, 0.0, -5.25, 0.0, 5.25, 0.0, -1.0, 0.0],
        [0.0, 1.0, 1.0, -4.25, -4.25, 1.0, 1.0, 0.0],
        [0.0, -1.0, 1.0, 4.25, -4.25, -1.0, 1.0, 0.0],
        [0.0, 0.5, 0.25, -2.5, -1.25, 2.0, 1.0, 0.0],
        [0.0, -0.5, 0.25, 2.5, -1.25, -2.0, 1.0, 0.0],
        [0.0, 2.0, 4.0, -2.5, -5.0, 0.5, 1.0, 0.0],
        [0.0, -2.0, 4.0, 2.5, -5.0, -0.5, 1.0, 0.0],
        [0.0, -1.0, 0.0, 5.25, 0.0, -5.25, 0.0, 1.0],
    ]),
    kernel: matrix([
        [1.0, 0.0, 0.0],
        [-2.0 / 9.0, -2.0 / 9.0, -2.0 / 9.0],
        [-2.0 / 9.0, 2.0 / 9.0, -2.0 / 9.0],
        [1.0 / 90.0, 1.0 / 45.0, 2.0 / 45.0],
        [1.0 / 90.0, -1.0 / 45.0, 2.0 / 45.0],
        [32.0 / 45.0, 16.0 / 45.0, 8.0 / 45.0],
        [32.0 / 45.0, -16.0 / 45.0, 8.0 / 45.0],
        [0.0, 0.0, 1.0],
    ]),
    output: matrix([
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.25, 0.25, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 0.125, -0.125, 0.0],
        [0.0, 1.0, 1.0, 16.0, 16.0, 0.0625, 0.0625, 0.0],
        [0.0, 1.0, -1.0, 32.0, -32.0, 0.03125, -0.03125, 1.0],
    ]),
};

/// Returns the transforms of rows and of columns; `None` if a grid is larger than any tile.
fn axes(geometry: &Geometry) -> Option<[&'static Axis; 2]> {
    let axis = |axis: usize| {
        let (dilation, input, output) = (geometry.dilation[axis], geometry.input[axis], geometry.output[axis]);
        match output.div_ceil(dilation) {
            1 | 2 if geometry.padding[axis] == dilation && input == output => Some(&CLOSED),
            1 | 2 => Some(&TWO),
            3 => Some(&THREE),
            4 => Some(&FOUR),
            5 | 6 => Some(&SIX),
            _ => None,
        }
    };
    Some([axis(0)?, axis(1)?])
}

/// Returns the multiplications for each pair of an input and an output channel, with those of registers that are not full; `None`
/// if there are no such tiles, or an image's tiles or products do not fit in memory at once.
pub(super) fn products(geometry: &Geometry) -> Option<usize> {
    let [rows, columns] = axes(geometry)?;
    let grids = geometry.grids();
    let points = rows.points * columns.points * (grids[0] * grids[1]).next_multiple_of(MOST_LANES);
    let Channels { input: channels_in, output: channels_out } = geometry.channels;
    (points * DEPTH.min(channels_in).max(channels_out) <= TILES).then_some(points * geometry.batch)
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(
    geometry: &Geometry,
    x: &[f32],
    kernels: Kernels,
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let (arch, output) = (simd::arch(), Disjoint::new(output));
    let RegisterSizes { lanes, rows: step } = RegisterSizes::of(arch);
    let Channels { input: channels_in, output: channels_out } = geometry.channels;
    let Some(axes) = axes(geometry) else { unreachable!("the grids are tiles") };
    let per_image = geometry.grids().iter().product::<usize>().div_ceil(lanes);
    let points = axes[0].points * axes[1].points;
    let depth = DEPTH.min(channels_in);
    let kernels_stride = channels_out.next_multiple_of(step) * depth + SKEW;
    let most = (TILES / (points * depth.max(channels_out) * per_image * lanes)).clamp(1, geometry.batch);
    for first in (0..geometry.batch).step_by(most) {
        let images = most.min(geometry.batch - first);
        let vectors = images * per_image;
        let products_stride = channels_out * vectors * lanes + SKEW;
        let tiles_len = points * (depth * vectors * lanes + SKEW);
        let [mut transformed, mut tiles, mut products] =
            [points * kernels_stride, tiles_len, points * products_stride].map(Temporary::new);
        for begin in (0..channels_in).step_by(DEPTH) {
            let ins = begin..(begin + DEPTH).min(channels_in);
            let panels = Panels { channels: ins.len(), vectors, lanes };
            let target = Disjoint::new(transformed.as_mut_slice());
            for_each(channels_out.div_ceil(step), |panel| {
                let outs = panel * step..(panel * step + step).min(channels_out);
                // SAFETY: each task has its panel of the kernels.
                let target = unsafe { target.part() }.skip(panel * step * ins.len());
                let ins = ins.clone();
                arch_of_eight().dispatch(TransformKernels {
                    step,
                    axes,
                    kernels,
                    ins,
                    outs,
                    stride: kernels_stride,
                    target,
                });
            });
            let target = Disjoint::new(tiles.as_mut_slice());
            let chunks = ins.len().div_ceil(CHANNELS);
            for_each(images * chunks, |task| {
                let (image, chunk) = (task / chunks, task % chunks * CHANNELS);
                let channels = chunk..(chunk + CHANNELS).min(ins.len());
                let inputs = axes[0].inputs() * axes[1].inputs();
                with_scratch([inputs * per_image * lanes], |[matrix]| {
                    let plane = ((first + image) * channels_in + ins.start + channels.start) * geometry.input_plane();
                    let x = &x[plane..][..channels.len() * geometry.input_plane()];
                    let vector = image * per_image;
                    // SAFETY: each task has its channels of its image.
                    let target = unsafe { target.part() };
                    arch.dispatch(TransformTiles { geometry, axes, x, channels, vector, panels, matrix, target });
                });
            });
            let target = Disjoint::new(products.as_mut_slice());
            let chunk = chunk(channels_out, ROWS, step);
            let chunks = channels_out.div_ceil(chunk);
            for_each(points * chunks, |task| {
                let (point, row) = (task / chunks, task % chunks * chunk);
                arch.dispatch(Multiply {
                    channels_in: ins.len(),
                    points: point..point + 1,
                    kernels: &transformed.as_slice()[row * ins.len()..],
                    kernels_stride,
                    rows: chunk.min(channels_out - row),
                    tiles: tiles.as_slice(),
                    panels,
                    // SAFETY: each task has its rows of its point. What is added to was stored for the channels before.
                    products: unsafe { target.part() }.skip(row * vectors * lanes),
                    products_stride,
                    finish: if begin > 0 { Finish::Add } else { Finish::Store },
                });
            });
        }
        for_each(channels_out.div_ceil(step), |panel| {
            let channels = panel * step..(panel * step + step).min(channels_out);
            arch.dispatch(TransformProducts {
                geometry,
                axes,
                channels,
                first,
                images,
                per_image,
                products: products.as_slice(),
                products_stride,
                epilogue,
                // SAFETY: each task has its output channels of these images.
                output: unsafe { output.part() },
            });
        });
    }
}

/// Transforms the kernels of some channels: `[point][panel of step output channels][input channel][output channel]`; for
/// `arch_of_eight`.
struct TransformKernels<'a> {
    /// Output channels of a panel: `kernel_rows` of the products' registers, 6 or 8.
    step: usize,
    axes: [&'a Axis; 2],
    kernels: Kernels<'a>,
    ins: Range<usize>,
    /// Up to `step`.
    outs: Range<usize>,
    /// Distance of two points.
    stride: usize,
    target: Part<'a>,
}

impl WithSimd for TransformKernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.step == 8 { self.run::<S, 8>(simd) } else { self.run::<S, 6>(simd) }
    }
}

impl TransformKernels<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize>(self, simd: S) {
        assert!(ROWS.is_multiple_of(S::F32_LANES) || ROWS < S::F32_LANES);
        let Self { axes: [rows, columns], kernels, ins, outs, stride, target, .. } = self;
        let lanes = S::F32_LANES;
        let target = target.rows(0, stride, rows.points * columns.points, ins.len() * ROWS);
        for (index, channel) in ins.enumerate() {
            for part in (0..ROWS).step_by(lanes) {
                let outs = (outs.start + part).min(outs.end)..(outs.start + part + lanes).min(outs.end);
                let taps = kernels.taps(simd, outs, channel);
                for a in 0..rows.points {
                    let mut half = [Lanes::splat(simd, 0.0); 3];
                    for b in 0..3 {
                        for c in 0..3 {
                            half[b] = taps[3 * c + b].scaled_plus(rows.kernel[a][c], half[b]);
                        }
                    }
                    for b in 0..columns.points {
                        let mut value = Lanes::splat(simd, 0.0);
                        for c in 0..3 {
                            value = half[c].scaled_plus(columns.kernel[b][c], value);
                        }
                        let offset = (a * columns.points + b) * stride + index * ROWS + part;
                        // SAFETY: the target has a panel's rows of each channel and point.
                        unsafe { store_rows::<S, ROWS>(value, target.add(offset)) };
                    }
                }
            }
        }
    }
}

/// Transforms the tiles of an image in some channels.
struct TransformTiles<'a> {
    geometry: &'a Geometry,
    axes: [&'a Axis; 2],
    /// The channels' planes.
    x: &'a [f32],
    /// Channels of the panels.
    channels: Range<usize>,
    /// The image's first register.
    vector: usize,
    panels: Panels,
    /// Scratch, `[input][grid]`.
    matrix: &'a mut [f32],
    target: Part<'a>,
}

impl WithSimd for TransformTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, axes: [rows, columns], x, channels, vector, panels, matrix, target } = self;
        let lanes = S::F32_LANES;
        let reader = Reader { pixels: geometry.grids(), stride: [1, 1], source: geometry.input };
        let registers = reader.count().div_ceil(lanes);
        let offset =
            |axis: usize, input: usize| (input * geometry.dilation[axis]) as isize - geometry.padding[axis] as isize;
        let mut taps: Vec<Tap> = Vec::with_capacity(MOST * MOST);
        for a in 0..rows.inputs() {
            for b in 0..columns.inputs() {
                taps.push([offset(0, a), offset(1, b)]);
            }
        }
        assert!(matrix.len() >= taps.len() * registers * lanes);
        let offset = |tap: usize, register: usize| (tap * registers + register) * lanes;
        let filling = Filling::new(simd, &reader, &taps, 0..reader.count(), registers, offset);
        for (channel, x) in channels.zip(x.chunks_exact(geometry.input_plane())) {
            // SAFETY: the matrix has a row of registers for each tap, by the assertion.
            unsafe { filling.fill(simd, &reader, x, matrix, 0) };
            for register in 0..registers {
                let start = panels.at(channel, vector + register);
                let target = target.rows(start, panels.plane(), rows.points * columns.points, lanes);
                for a in 0..rows.points {
                    let mut line = [Lanes::splat(simd, 0.0); MOST];
                    for i in 0..rows.inputs() {
                        let factor = rows.input[a][i];
                        if factor == 0.0 {
                            continue;
                        }
                        for j in 0..columns.inputs() {
                            let offset = offset(i * columns.inputs() + j, register);
                            // SAFETY: as above.
                            let value = unsafe { Lanes::load(simd, matrix.as_ptr().add(offset)) };
                            line[j] = value.scaled_plus(factor, line[j]);
                        }
                    }
                    for b in 0..columns.points {
                        let mut sum = Lanes::splat(simd, 0.0);
                        for j in 0..columns.inputs() {
                            sum = line[j].scaled_plus(columns.input[b][j], sum);
                        }
                        // SAFETY: the target has a register for each point.
                        unsafe { sum.store(target.add((a * columns.points + b) * panels.plane())) };
                    }
                }
            }
        }
    }
}

/// Transforms products back and stores them.
struct TransformProducts<'a> {
    geometry: &'a Geometry,
    axes: [&'a Axis; 2],
    /// Output channels.
    channels: Range<usize>,
    /// The first image.
    first: usize,
    images: usize,
    /// Registers of an image.
    per_image: usize,
    /// `[point][channel][grid]`; only the gaps between points are not written.
    products: &'a [MaybeUninit<f32>],
    products_stride: usize,
    epilogue: Option<Epilogue<'a>>,
    output: Part<'a>,
}

impl WithSimd for TransformProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, axes, channels, first, images, per_image, products, products_stride, epilogue, output } =
            self;
        let (lanes, [rows, columns], [_, grid_columns]) = (S::F32_LANES, axes, geometry.grids());
        let (grids, [height, width]) = (geometry.grids().iter().product::<usize>(), geometry.output);
        let row_len = images * per_image * lanes;
        assert!(products.len() >= (rows.points * columns.points - 1) * products_stride + channels.end * row_len);
        let mut line = [0.0f32; MOST_LANES];
        for channel in channels {
            for vector in 0..images * per_image {
                let source: *const f32 = products[channel * row_len + vector * lanes..].as_ptr().cast();
                let mut half = [[Lanes::splat(simd, 0.0); MOST]; MOST];
                for a in 0..rows.points {
                    for b in 0..columns.points {
                        // SAFETY: the products have all points of this channel and register.
                        let value =
                            unsafe { Lanes::load(simd, source.add((a * columns.points + b) * products_stride)) };
                        for j in 0..columns.outputs {
                            half[a][j] = value.scaled_plus(columns.output[j][b], half[a][j]);
                        }
                    }
                }
                let (image, first_grid) = (first + vector / per_image, vector % per_image * lanes);
                let count = lanes.min(grids - first_grid);
                let plane = (image * geometry.channels.output + channel) * geometry.output_plane();
                for i in 0..rows.outputs {
                    for j in 0..columns.outputs {
                        let mut sum = Lanes::splat(simd, 0.0);
                        for a in 0..rows.points {
                            sum = half[a][j].scaled_plus(rows.output[i][a], sum);
                        }
                        if let Some(epilogue) = epilogue {
                            sum = epilogue.lanes(simd, channel).apply(sum);
                        }
                        // SAFETY: a line holds a register.
                        unsafe { sum.store(line.as_mut_ptr()) };
                        // The register's grids, row by row.
                        let mut done = 0;
                        while done < count {
                            let (row, column) =
                                ((first_grid + done) / grid_columns, (first_grid + done) % grid_columns);
                            let run = (grid_columns - column).min(count - done);
                            let (row, column) = (row + i * geometry.dilation[0], column + j * geometry.dilation[1]);
                            if row < height && column < width {
                                let values = &line[done..][..run.min(width - column)];
                                let target = output.at(plane + row * width + column, values.len());
                                // SAFETY: both have as many values, and the output is not the line.
                                unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len()) };
                            }
                            done += run;
                        }
                    }
                }
            }
        }
    }
}
