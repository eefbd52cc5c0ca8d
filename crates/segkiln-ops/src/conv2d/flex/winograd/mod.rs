//! Winograd's minimal filtering F(4×4, 3×3) for 3×3 convolutions of stride 1: Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks", CVPR 2016, <https://arxiv.org/abs/1509.09308>.
//!
//! A tile of 4×4 outputs depends on 6×6 inputs. Tiles and kernels are transformed to 36 values each (`B^T d B`, `G g G^T`),
//! multiplied and summed over channels, which is 36 matrix products, and transformed back (`A^T m A`): a quarter of the
//! multiplications of the definition. A register holds the same value of several tiles; tiles are numbered along rows, so
//! that with NCHW tensors registers are filled from contiguous memory.
//!
//! A dilated convolution is several plain ones on interleaved grids of the image.

#![allow(
    clippy::manual_map,
    clippy::needless_range_loop,
    clippy::too_many_arguments,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Epilogue, Geometry, Kernels};
use crate::cpu::{
    matrix::{Finish, Left, Product, Sizes, kernel_rows},
    memory::{Shared, uninit, with_scratch},
    simd::{self, Lanes, zip4},
};

mod tiles;
mod transforms;
mod weight_gradient;

use tiles::{Line, Source, Window, store};
use transforms::{input_points, kernel_column, output_column};
pub(super) use weight_gradient::weight_gradient;

/// Values of a transformed tile or kernel.
const POINTS: usize = 36;
/// Added between the planes of points, so that a tile's points do not share a set of the first-level cache.
const SKEW: usize = 16;
/// Values of the transformed input and output of a block of tiles: what stays in a second-level cache of 1 MiB.
const BLOCK: usize = 3 << 16;

/// Where a matrix of points for channels and tiles lies: `[point][panel of two registers][channel][tile]`.
#[derive(Clone, Copy)]
struct Panels {
    channels: usize,
    /// Registers a channel.
    vectors: usize,
    lanes: usize,
}

impl Panels {
    fn plane(&self) -> usize {
        self.channels * self.vectors * self.lanes + SKEW
    }

    fn len(&self) -> usize {
        POINTS * self.plane()
    }

    fn width(&self, panel: usize) -> usize {
        (self.vectors - 2 * panel).min(2)
    }

    fn panel(&self, panel: usize) -> usize {
        2 * panel * self.lanes * self.channels
    }

    fn at(&self, channel: usize, vector: usize) -> usize {
        let panel = vector / 2;
        self.panel(panel) + (channel * self.width(panel) + vector % 2) * self.lanes
    }
}

/// Transforms the patches of `vectors` registers of tiles from tile `first` in some channels.
struct TransformInput<'a> {
    geometry: &'a Geometry,
    source: Source<'a>,
    channels: Range<usize>,
    first_tile: usize,
    panels: Panels,
    target: Shared,
}

impl WithSimd for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, source, channels, first_tile, panels, target } = self;
        let stride = panels.plane();
        let mut halves = [Line::EMPTY; 6];
        let mut windows = Vec::with_capacity(panels.vectors);
        for vector in 0..panels.vectors {
            windows.push(Window::new(simd, geometry, source, first_tile + vector * S::F32_LANES));
        }
        for channel in channels {
            for (vector, window) in windows.iter_mut().enumerate() {
                window.prefetch(simd, channel + 1);
                // SAFETY: the target has all panels, and this channel and register are written here only.
                unsafe {
                    let target = target.at(panels.at(channel, vector));
                    input_points(simd, window, channel, &mut halves, |point, value| {
                        value.store(target.add(point * stride));
                    });
                }
            }
        }
    }
}

/// Transforms the kernels of `rows` output channels from `first`: `[point][kernel_rows channels out][channel in][row]`.
struct TransformKernels<'a> {
    kernels: Kernels<'a>,
    channels_in: usize,
    /// Output channels.
    rows: Range<usize>,
    /// From a point to the next.
    stride: usize,
    target: Shared,
}

impl WithSimd for TransformKernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        if const { kernel_rows::<S>() == 8 } { self.run::<8>() } else { self.run::<4>() }
    }
}

impl TransformKernels<'_> {
    #[inline(always)]
    fn run<const ROWS: usize>(self) {
        let Self { kernels, channels_in, rows, stride, target } = self;
        let mut offset = 0;
        let mut taps = [[0.0f32; ROWS]; 9];
        for first in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - first);
            if count < ROWS {
                taps = [[0.0; ROWS]; 9];
            }
            for channel in 0..channels_in {
                let base = first * kernels.strides[0] + channel * kernels.strides[1];
                for row in 0..count {
                    let kernel = &kernels.values[base + row * kernels.strides[0]..][..9];
                    for tap in 0..9 {
                        taps[if kernels.turned { 8 - tap } else { tap }][row] = kernel[tap];
                    }
                }
                let mut points = [[0.0f32; ROWS]; POINTS];
                for row in 0..ROWS {
                    let mut half = [[0.0f32; 6]; 3];
                    for b in 0..3 {
                        half[b] = kernel_column([taps[b][row], taps[3 + b][row], taps[6 + b][row]]);
                    }
                    for a in 0..6 {
                        let line = kernel_column([half[0][a], half[1][a], half[2][a]]);
                        for b in 0..6 {
                            points[a * 6 + b][row] = line[b];
                        }
                    }
                }
                for (point, values) in points.iter().enumerate() {
                    // SAFETY: the target has `stride` values a point, of which this panel's are written here only.
                    unsafe { target.at(point * stride + offset).cast::<[f32; ROWS]>().write_unaligned(*values) };
                }
                offset += ROWS;
            }
        }
    }
}

/// Multiplies transformed kernels and tiles, transforms back and stores.
struct Multiply<'a> {
    geometry: &'a Geometry,
    /// Of output channels `rows`.
    kernels: &'a [f32],
    kernels_stride: usize,
    rows: Range<usize>,
    tiles: &'a [f32],
    panels: Panels,
    first_tile: usize,
    /// Scratch.
    products: &'a mut [f32],
    epilogue: Option<Epilogue<'a>>,
    output: Shared,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, kernels, kernels_stride, rows, tiles, panels, first_tile, products, epilogue, output } =
            self;
        let (lanes, step) = (S::F32_LANES, kernel_rows::<S>());
        let width = panels.vectors * lanes;
        let channels_in = geometry.channels[0];
        let products_stride = rows.len() * width + SKEW;
        assert!(products.len() >= POINTS * products_stride);
        assert!(kernels.len() >= (POINTS - 1) * kernels_stride + rows.len().next_multiple_of(step) * channels_in);
        assert!(tiles.len() >= panels.len());
        for point in 0..POINTS {
            for (index, row) in (0..rows.len()).step_by(step).enumerate() {
                for panel in 0..panels.vectors.div_ceil(2) {
                    let vectors = panels.width(panel);
                    // SAFETY: the sizes were compared above.
                    unsafe {
                        let kernels = kernels.as_ptr().add(point * kernels_stride + index * step * channels_in);
                        let product = Product {
                            depth: channels_in,
                            left: Left::Panel(kernels),
                            right: tiles.as_ptr().add(point * panels.plane() + panels.panel(panel)),
                            right_stride: vectors * lanes,
                            output: products
                                .as_mut_ptr()
                                .add(point * products_stride + row * width + 2 * panel * lanes),
                            output_stride: width,
                            rows: step.min(rows.len() - row),
                            columns: vectors * lanes,
                        };
                        product.compute(simd, Finish::Store);
                    }
                }
            }
        }

        let mut line = Line::EMPTY;
        for vector in 0..panels.vectors {
            let runs = geometry.runs(first_tile + vector * lanes, lanes);
            for row in 0..rows.len() {
                let channel = rows.start + row;
                let source = products[row * width + vector * lanes..].as_ptr();
                let mut half = [[Lanes::splat(simd, 0.0); 6]; 4];
                for b in 0..6 {
                    // SAFETY: the products have all points of this row and register.
                    let column = unsafe {
                        output_column([
                            Lanes::load(simd, source.add(b * products_stride)),
                            Lanes::load(simd, source.add((6 + b) * products_stride)),
                            Lanes::load(simd, source.add((12 + b) * products_stride)),
                            Lanes::load(simd, source.add((18 + b) * products_stride)),
                            Lanes::load(simd, source.add((24 + b) * products_stride)),
                            Lanes::load(simd, source.add((30 + b) * products_stride)),
                        ])
                    };
                    for a in 0..4 {
                        half[a][b] = column[a];
                    }
                }
                for a in 0..4 {
                    let mut pixels = output_column(half[a]);
                    if let Some(Epilogue { scale, shift, range: [low, high] }) = epilogue {
                        let (scale, shift) = (Lanes::splat(simd, scale[channel]), Lanes::splat(simd, shift[channel]));
                        let (low, high) = (Lanes::splat(simd, low), Lanes::splat(simd, high));
                        for value in &mut pixels {
                            *value = value.mul_add(scale, shift).max(low).min(high);
                        }
                    }
                    let pixels = zip4(pixels);
                    let run = &runs[0];
                    let row = run.row + a * geometry.dilation[0];
                    let plane = (run.image * geometry.channels[1] + channel) * geometry.output_plane();
                    let inside = row < geometry.output[0] && run.column + 4 * lanes <= geometry.output[1];
                    if run.tiles == lanes && geometry.dilation[1] == 1 && inside {
                        for (index, pixels) in pixels.iter().enumerate() {
                            // SAFETY: row and columns are within the plane, and tiles of other tasks are elsewhere in it.
                            unsafe {
                                pixels.store(output.at(plane + row * geometry.output[1] + run.column + index * lanes));
                            }
                        }
                        continue;
                    }
                    for (index, pixels) in pixels.iter().enumerate() {
                        // SAFETY: a line holds four registers.
                        unsafe { pixels.store(line.0.as_mut_ptr().add(index * lanes)) };
                    }
                    for run in &runs {
                        let row = run.row + a * geometry.dilation[0];
                        if row < geometry.output[0] {
                            let plane = (run.image * geometry.channels[1] + channel) * geometry.output_plane();
                            let values = &line.0[4 * run.lane..4 * (run.lane + run.tiles)];
                            // SAFETY: the row is within the output, and tiles of other tasks are elsewhere in it.
                            unsafe { store(geometry, run, values, output.at(plane + row * geometry.output[1])) };
                        }
                    }
                }
            }
        }
    }
}

/// Products for each pair of channels.
pub(super) fn products(geometry: &Geometry) -> usize {
    POINTS * geometry.all_tiles()
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], kernels: Kernels, epilogue: Option<Epilogue>, output: Shared) {
    let arch = simd::arch();
    let [lanes, step] = arch.dispatch(Sizes);
    let [channels_in, channels_out] = geometry.channels;
    let tiles = geometry.all_tiles();
    let source = Source { values: x, channels: channels_in, size: geometry.input, padding: geometry.padding };
    let vectors = tiles.div_ceil(lanes);
    let padded_out = channels_out.next_multiple_of(step);
    // Registers a block.
    let most = (BLOCK / (POINTS * (channels_in + channels_out.min(64)) * lanes)).clamp(2, 8);
    let blocks = vectors.div_ceil(most);
    if vectors * lanes < padded_out {
        // Few tiles: all are transformed first, and the tasks are output channels.
        let panels = Panels { channels: channels_in, vectors, lanes };
        let mut transformed = uninit(panels.len());
        let target = Shared(transformed.as_mut_ptr());
        let chunk = 16;
        (0..channels_in.div_ceil(chunk)).into_par_iter().for_each(|index| {
            let channels = index * chunk..(index * chunk + chunk).min(channels_in);
            arch.dispatch(TransformInput { geometry, source, channels, first_tile: 0, panels, target });
        });
        let tiles = &transformed;
        let chunk = step * (BLOCK / (POINTS * channels_in * step)).clamp(1, 4);
        (0..channels_out.div_ceil(chunk)).into_par_iter().for_each(|index| {
            let rows = index * chunk..(index * chunk + chunk).min(channels_out);
            let stride = rows.len().next_multiple_of(step) * channels_in + SKEW;
            let products = POINTS * (rows.len() * vectors * lanes + SKEW);
            with_scratch([POINTS * stride, products], |[transformed, products]| {
                let target = Shared(transformed.as_mut_ptr());
                arch.dispatch(TransformKernels { kernels, channels_in, rows: rows.clone(), stride, target });
                arch.dispatch(Multiply {
                    geometry,
                    kernels: transformed,
                    kernels_stride: stride,
                    rows,
                    tiles,
                    panels,
                    first_tile: 0,
                    products,
                    epilogue,
                    output,
                });
            });
        });
    } else {
        // All kernels are transformed first, and the tasks are blocks of tiles. `[chunk][point][...]`
        let chunk = 64.min(padded_out);
        let stride = chunk * channels_in + SKEW;
        let mut transformed = uninit(channels_out.div_ceil(chunk) * POINTS * stride);
        let target = Shared(transformed.as_mut_ptr());
        (0..padded_out / step).into_par_iter().for_each(|panel| {
            let rows = panel * step..(panel * step + step).min(channels_out);
            let (index, row) = (rows.start / chunk, rows.start % chunk);
            // SAFETY: within the buffer; each task has its panel.
            let target = Shared(unsafe { target.at(index * POINTS * stride + row * channels_in) });
            arch.dispatch(TransformKernels { kernels, channels_in, rows, stride, target });
        });
        let per_block = vectors.div_ceil(blocks);
        (0..vectors.div_ceil(per_block)).into_par_iter().for_each(|block| {
            let first = block * per_block;
            let vectors = per_block.min(vectors - first);
            let panels = Panels { channels: channels_in, vectors, lanes };
            let first_tile = first * lanes;
            let products = POINTS * (chunk * vectors * lanes + SKEW);
            with_scratch([panels.len(), products], |[tiles, products]| {
                let target = Shared(tiles.as_mut_ptr());
                let channels = 0..channels_in;
                arch.dispatch(TransformInput { geometry, source, channels, first_tile, panels, target });
                for (index, kernels) in transformed.chunks_exact(POINTS * stride).enumerate() {
                    arch.dispatch(Multiply {
                        geometry,
                        kernels,
                        kernels_stride: stride,
                        rows: index * chunk..(index * chunk + chunk).min(channels_out),
                        tiles,
                        panels,
                        first_tile,
                        products,
                        epilogue,
                        output,
                    });
                }
            });
        });
    }
}
