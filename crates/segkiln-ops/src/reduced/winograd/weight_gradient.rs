//! The gradient of 3×3 kernels by the adjoint of the forward pass: products of transformed tiles are summed over all tiles, and the
//! sums are transformed back once.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::ops::Range;

use burn::tensor::bf16;

use super::{
    super::{
        convolution::Inputs,
        correlation::{Pairs, Positions, Sums},
        unit::{LANES, Unit, transpose},
    },
    OUTPUTS, POINTS, SIDE, Tile, Tiling,
    form::{gradient_column, input_column, input_columns},
    kernels::kernel_gradient_column,
};
use crate::cpu::disjoint::Part;

/// The tiles of a convolution with stride 1.
pub(in super::super) struct Tiles<'a> {
    x: Inputs<'a, bf16>,
    grad: Inputs<'a, bf16>,
    padding: [usize; 2],
    tiling: Tiling,
}

impl<'a> Tiles<'a> {
    /// Tiles of the input and of the output's gradient.
    pub fn new(x: Inputs<'a, bf16>, grad: Inputs<'a, bf16>, padding: [usize; 2], dilation: [usize; 2]) -> Self {
        Self { x, grad, padding, tiling: Tiling::new(grad.size, dilation) }
    }

    /// The tiles of a pair; the last may have none beside it.
    #[inline(always)]
    fn pair(&self, positions: &Range<usize>, pair: usize) -> [Option<Tile>; 2] {
        let first = positions.start + 2 * pair;
        let second = if first + 1 < positions.end { Some(self.tiling.tile(first + 1)) } else { None };
        [Some(self.tiling.tile(first)), second]
    }
}

impl Positions for Tiles<'_> {
    const BLOCK: usize = 32;

    fn count(&self) -> usize {
        self.grad.batch * self.tiling.count()
    }

    fn channels(&self) -> [usize; 2] {
        [self.x.channels(), self.grad.channels()]
    }

    fn planes(&self) -> [usize; 2] {
        [POINTS; 2]
    }

    #[inline(always)]
    unsafe fn input<U: Unit>(&self, unit: U, positions: Range<usize>, channels: Range<usize>, target: Pairs) {
        for pair in 0..positions.len().div_ceil(2) {
            let tiles = self.pair(&positions, pair);
            let mut pixels = [[[None; SIDE]; SIDE]; 2];
            for half in 0..2 {
                if let Some(tile) = tiles[half] {
                    pixels[half] = tile.pixels(self.padding, self.tiling.dilation, self.x.size);
                }
            }
            for channel in channels.clone().step_by(LANES) {
                // SAFETY: the pixels are of the image; the caller promises room for the pairs.
                unsafe {
                    let first = input_columns(unit, &self.x, &pixels[0], channel);
                    let second = input_columns(unit, &self.x, &pixels[1], channel);
                    for a in 0..SIDE {
                        let (first, second) = (input_column(unit, first[a]), input_column(unit, second[a]));
                        for b in 0..SIDE {
                            let target = target.at(a * SIDE + b, pair, channel - channels.start);
                            unit.store_pairs(first[b], second[b], target);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn gradient<U: Unit>(&self, unit: U, positions: Range<usize>, channels: Range<usize>, target: Pairs) {
        for pair in 0..positions.len().div_ceil(2) {
            let tiles = self.pair(&positions, pair);
            let mut pixels = [[[None; OUTPUTS]; OUTPUTS]; 2];
            for half in 0..2 {
                if let Some(tile) = tiles[half] {
                    pixels[half] = tile.pixels([0, 0], self.tiling.dilation, self.grad.size);
                }
            }
            for channel in channels.clone().step_by(LANES) {
                // SAFETY: the pixels are of the image; the caller promises room for the pairs.
                unsafe {
                    let first = gradient_columns(unit, &self.grad, &pixels[0], channel);
                    let second = gradient_columns(unit, &self.grad, &pixels[1], channel);
                    for a in 0..SIDE {
                        let (first, second) = (gradient_column(unit, first[a]), gradient_column(unit, second[a]));
                        for b in 0..SIDE {
                            let target = target.at(a * SIDE + b, pair, channel - channels.start);
                            unit.store_pairs(first[b], second[b], target);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<U: Unit>(&self, unit: U, sums: Sums<'_>, channels: [Range<usize>; 2], target: Part<'_>) {
        let all = self.x.channels();
        let [inputs, outputs] = channels;
        for output in outputs.step_by(LANES) {
            for input in inputs.clone().step_by(LANES) {
                // SAFETY: the sums and the target give a register's values; the caller promises the instructions.
                unsafe {
                    // The taps of an input channel after those of the one before; a register is 16 output channels.
                    let mut taps = [unit.splat(0.0); 9 * LANES];
                    for index in 0..LANES {
                        let mut half = [[unit.splat(0.0); SIDE]; 3];
                        for b in 0..SIDE {
                            let mut points = [unit.splat(0.0); SIDE];
                            for a in 0..SIDE {
                                points[a] = unit.load(sums.at(a * SIDE + b, input + index, output, LANES));
                            }
                            let column = kernel_gradient_column(unit, points);
                            for a in 0..3 {
                                half[a][b] = column[a];
                            }
                        }
                        for a in 0..3 {
                            let line = kernel_gradient_column(unit, half[a]);
                            for b in 0..3 {
                                taps[9 * index + 3 * a + b] = line[b];
                            }
                        }
                    }
                    for part in 0..9 {
                        let mut rows = [unit.splat(0.0); LANES];
                        for index in 0..LANES {
                            rows[index] = taps[part * LANES + index];
                        }
                        transpose(unit, &mut rows);
                        for index in 0..LANES {
                            let place = ((output + index) * all + input) * 9 + part * LANES;
                            unit.store(rows[index], target.at(place, LANES));
                        }
                    }
                }
            }
        }
    }
}

/// `A y` of 16 channels of a tile's outputs, where they are of the image.
///
/// # Safety
/// The pixels are of the image. The instructions of the unit are there.
#[inline(always)]
unsafe fn gradient_columns<U: Unit>(
    unit: U,
    grad: &Inputs<'_, bf16>,
    pixels: &[[Option<usize>; OUTPUTS]; OUTPUTS],
    channel: usize,
) -> [[U::Float; OUTPUTS]; SIDE] {
    let (source, channels, within) = grad.source(channel);
    // SAFETY: the caller's promise.
    unsafe {
        let mut half = [[unit.splat(0.0); OUTPUTS]; SIDE];
        for b in 0..OUTPUTS {
            let mut values = [unit.splat(0.0); OUTPUTS];
            for a in 0..OUTPUTS {
                if let Some(pixel) = pixels[a][b] {
                    values[a] = unit.load_bf16(source.add(pixel * channels + within));
                }
            }
            let values = gradient_column(unit, values);
            for a in 0..SIDE {
                half[a][b] = values[a];
            }
        }
        half
    }
}
