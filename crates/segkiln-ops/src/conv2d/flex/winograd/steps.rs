//! The steps of a convolution: transforms of tiles and kernels, products, the transform back.

use std::{mem::MaybeUninit, ops::Range};

use pulp::{Simd, WithSimd};

use super::{
    Panels, SKEW,
    kernels::{Kernels, store_rows},
    tiles::{Line, Source, Window, store},
    transforms::{input_points, kernel_column, output_column, side},
};
use crate::{
    conv2d::flex::{Epilogue, Geometry},
    cpu::{
        disjoint::Part,
        matrix::{Finish, Left, Product, Strided, kernel_rows},
        simd::{Lanes, zip4},
    },
};

/// Transforms the input patches of the tiles from `first_tile` on, in some channels.
pub(super) struct TransformInput<'a> {
    pub geometry: &'a Geometry,
    pub source: Source<'a>,
    pub channels: Range<usize>,
    pub first_tile: usize,
    pub panels: Panels,
    pub target: Part<'a>,
}

impl WithSimd for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.geometry.stride == [2, 2] { self.run::<S, 2, 5, 1>(simd) } else { self.run::<S, 1, 6, 2>(simd) }
    }
}

impl TransformInput<'_> {
    #[inline(always)]
    fn run<S: Simd, const STRIDE: usize, const SIDE: usize, const HALO: usize>(self, simd: S) {
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
                let target = target.rows(panels.at(channel, vector), stride, SIDE * SIDE, S::F32_LANES);
                input_points::<S, STRIDE, SIDE, HALO>(simd, window, channel, &mut halves, |point, value| {
                    // SAFETY: the target has a register for each of as many points.
                    unsafe { value.store(target.add(point * stride)) };
                });
            }
        }
    }
}

/// Transforms the kernels of output channels `rows`: `[point][panel of step output channels][input channel][output channel]`; for
/// `arch_of_eight`.
pub(super) struct TransformKernels<'a> {
    /// Output channels of a panel: `kernel_rows` of the products' registers, 6 or 8.
    pub step: usize,
    pub geometry: &'a Geometry,
    pub kernels: Kernels<'a>,
    /// Output channels.
    pub rows: Range<usize>,
    /// Distance of two points.
    pub stride: usize,
    pub target: Part<'a>,
}

impl WithSimd for TransformKernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.step, self.geometry.stride) {
            (8, [2, 2]) => self.run::<S, 8, 2>(simd),
            (8, _) => self.run::<S, 8, 1>(simd),
            (_, [2, 2]) => self.run::<S, 6, 2>(simd),
            _ => self.run::<S, 6, 1>(simd),
        }
    }
}

impl TransformKernels<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const STRIDE: usize>(self, simd: S) {
        assert!(ROWS.is_multiple_of(S::F32_LANES) || ROWS < S::F32_LANES);
        let Self { geometry, kernels, rows, stride, target, .. } = self;
        let (lanes, side) = (S::F32_LANES, const { side(STRIDE) });
        let len = rows.len().next_multiple_of(ROWS) * geometry.channels.input;
        let target = target.rows(0, stride, side * side, len);
        let mut offset = 0;
        for first in rows.clone().step_by(ROWS) {
            let end = rows.end.min(first + ROWS);
            for channel in 0..geometry.channels.input {
                for part in (0..ROWS).step_by(lanes) {
                    let outs = (first + part).min(end)..(first + part + lanes).min(end);
                    let taps = kernels.taps(simd, outs, channel);
                    let mut half = [[Lanes::splat(simd, 0.0); 6]; 3];
                    for b in 0..3 {
                        half[b] = kernel_column::<S, STRIDE>([taps[b], taps[3 + b], taps[6 + b]]);
                    }
                    for a in 0..side {
                        let line = kernel_column::<S, STRIDE>([half[0][a], half[1][a], half[2][a]]);
                        for b in 0..side {
                            // SAFETY: the target has `len` values a point: a panel's rows for each channel.
                            unsafe {
                                store_rows::<S, ROWS>(line[b], target.add((a * side + b) * stride + offset + part));
                            }
                        }
                    }
                }
                offset += ROWS;
            }
        }
    }
}

/// Multiplies transformed kernels and tiles.
pub(super) struct Multiply<'a> {
    pub channels_in: usize,
    pub points: Range<usize>,
    /// Transformed kernels from the first row on, with whole panels of rows; only the gaps between points are not written.
    pub kernels: &'a [MaybeUninit<f32>],
    pub kernels_stride: usize,
    /// Output channels.
    pub rows: usize,
    /// Transformed tiles; only the gaps between points are not written.
    pub tiles: &'a [MaybeUninit<f32>],
    pub panels: Panels,
    /// `[point][row][tile]` from the first row on.
    pub products: Part<'a>,
    pub products_stride: usize,
    pub finish: Finish<'a>,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            channels_in,
            points,
            kernels,
            kernels_stride,
            rows,
            tiles,
            panels,
            products,
            products_stride,
            finish,
        } = self;
        let (lanes, step) = (S::F32_LANES, kernel_rows::<S>());
        let width = panels.vectors * lanes;
        assert!(panels.channels == channels_in && panels.lanes == lanes);
        assert!(products_stride >= rows * width && tiles.len() >= points.end * panels.plane() - SKEW);
        assert!(kernels.len() >= (points.end - 1) * kernels_stride + rows.next_multiple_of(step) * channels_in);
        for point in points {
            for row in (0..rows).step_by(step) {
                for panel in 0..panels.vectors.div_ceil(2) {
                    let vectors = panels.width(panel);
                    let (rows, columns) = (step.min(rows - row), vectors * lanes);
                    let output =
                        products.rows(point * products_stride + row * width + 2 * panel * lanes, width, rows, columns);
                    // SAFETY: the kernels and tiles have all channels of this point, by the assertions.
                    unsafe {
                        let kernels = kernels.as_ptr().cast::<f32>().add(point * kernels_stride + row * channels_in);
                        let product = Product {
                            depth: channels_in,
                            left: Left::Panel(kernels),
                            right: Strided(
                                tiles.as_ptr().cast::<f32>().add(point * panels.plane() + panels.panel(panel)),
                                columns,
                            ),
                            output,
                            output_stride: width,
                            rows,
                            columns,
                        };
                        product.compute(simd, finish);
                    }
                }
            }
        }
    }
}

/// Transforms products back and stores them.
pub(super) struct TransformOutput<'a> {
    pub geometry: &'a Geometry,
    /// Output channels.
    pub rows: Range<usize>,
    /// Registers of tiles.
    pub vectors: usize,
    pub first_tile: usize,
    /// `[point][row][tile]` from the first row on; only the gaps between points are not written.
    pub products: &'a [MaybeUninit<f32>],
    pub products_stride: usize,
    pub epilogue: Option<Epilogue<'a>>,
    pub output: Part<'a>,
}

impl WithSimd for TransformOutput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.geometry.stride == [2, 2] { self.run::<S, 2>(simd) } else { self.run::<S, 1>(simd) }
    }
}

impl TransformOutput<'_> {
    #[inline(always)]
    fn run<S: Simd, const STRIDE: usize>(self, simd: S) {
        let Self { geometry, rows, vectors, first_tile, products, products_stride, epilogue, output } = self;
        let (lanes, side, outputs) = (S::F32_LANES, const { side(STRIDE) }, 4 / STRIDE);
        let width = vectors * lanes;
        assert!(products.len() >= (side * side - 1) * products_stride + rows.len() * width);
        let mut line = Line::EMPTY;
        for vector in 0..vectors {
            let runs = geometry.runs(first_tile + vector * lanes, lanes);
            for row in 0..rows.len() {
                let channel = rows.start + row;
                let source: *const f32 = products[row * width + vector * lanes..].as_ptr().cast();
                let mut half = [[Lanes::splat(simd, 0.0); 6]; 4];
                for b in 0..side {
                    let mut column = [Lanes::splat(simd, 0.0); 6];
                    for a in 0..side {
                        // SAFETY: the products have all points of this row and register.
                        column[a] = unsafe { Lanes::load(simd, source.add((a * side + b) * products_stride)) };
                    }
                    let column = output_column::<S, STRIDE>(column);
                    for a in 0..outputs {
                        half[a][b] = column[a];
                    }
                }
                for a in 0..outputs {
                    let mut pixels = output_column::<S, STRIDE>(half[a]);
                    if let Some(epilogue) = epilogue {
                        let epilogue = epilogue.lanes(simd, channel);
                        for value in &mut pixels[..outputs] {
                            *value = epilogue.apply(*value);
                        }
                    }
                    if STRIDE == 2 {
                        [pixels[0], pixels[1]] = pixels[0].zip(pixels[1]);
                    } else {
                        pixels = zip4(pixels);
                    }
                    let pixels = &pixels[..outputs];
                    let run = &runs[0];
                    let (row, column) = (run.row / STRIDE + a * geometry.dilation[0], run.column / STRIDE);
                    let plane = (run.image * geometry.channels.output + channel) * geometry.output_plane();
                    let inside = row < geometry.output[0] && column + outputs * lanes <= geometry.output[1];
                    if run.tiles == lanes && geometry.dilation[1] == 1 && inside {
                        let target = output.at(plane + row * geometry.output[1] + column, outputs * lanes);
                        for (index, pixels) in pixels.iter().enumerate() {
                            // SAFETY: the target has room for as many registers.
                            unsafe { pixels.store(target.add(index * lanes)) };
                        }
                        continue;
                    }
                    for (index, pixels) in pixels.iter().enumerate() {
                        // SAFETY: a line holds as many registers.
                        unsafe { pixels.store(line.0.as_mut_ptr().add(index * lanes)) };
                    }
                    for run in &runs {
                        let (row, column) = (run.row / STRIDE + a * geometry.dilation[0], run.column / STRIDE);
                        if row < geometry.output[0] {
                            let plane = (run.image * geometry.channels.output + channel) * geometry.output_plane();
                            let values = &line.0[outputs * run.lane..outputs * (run.lane + run.tiles)];
                            store(geometry, column, values, output.skip(plane + row * geometry.output[1]));
                        }
                    }
                }
            }
        }
    }
}
