//! Winograd's F(4×4, 3×3) with channels last: a register holds channels of one pixel, so tiles are transformed without moving
//! values between lanes, and neighbouring channels are the pairs that dot products take.
//!
//! The points of bf16 are 0, ±3/4, ±3/2 and infinity: transformed values are rounded to bf16, and with the usual 0, ±1, ±2 the
//! error is twice as large (Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution for deep neural
//! networks", ACM TOMS 2020, <https://arxiv.org/abs/1803.10986>). Sums and the transform back are f32.
//!
//! With the points 0, ±1, ±2 and infinity a tile of 8 bits is transformed to integers of 16 bits without any rounding, and a kernel
//! of 8 bits too once the fractions of its transform are left to the transform back. Only where a sum of 32 bits could
//! overflow are kernels rounded to fewer bits.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use burn::tensor::bf16;

use super::{
    convolution::{Epilogue, Inputs, Target},
    product::{Bf16, Dot, PANEL, ROWS, Shorts, WORD, accumulate, panel_width},
    unit::{LANES, Task, Unit, UnitKind},
};
use crate::cpu::{
    cache,
    memory::{Shared, Temporary, with_scratch},
    threads::for_each,
};

/// Points of a tile along an axis.
const SIDE: usize = 6;
const POINTS: usize = SIDE * SIDE;
/// Outputs of a tile along an axis.
const OUTPUTS: usize = 4;
/// Values between the planes of points, so that a tile's points do not share a set of the first-level cache.
const SKEW: usize = 32;
/// Tiles of a block.
const TILES: usize = 32;

/// The numbers in which tiles are multiplied.
pub(super) trait Form: Dot {
    /// Of the maps that are read.
    type Pixel: Copy + Send + Sync;
    /// Magnitudes of the points.
    const A: f32;
    const B: f32;
    /// Channels that are transformed together.
    const CHUNK: usize;

    /// Transforms `B^T d B` a tile's pixels, where they are of the image, for the channels of a chunk.
    ///
    /// # Safety
    /// The pixels are of the image, and the target has the chunk's channels of each point, `stride` values after the one
    /// before. The instructions of the unit are there.
    unsafe fn transform<U: Unit>(
        unit: U,
        inputs: &Inputs<'_, Self::Pixel>,
        pixels: &[[Option<usize>; SIDE]; SIDE],
        channel: usize,
        target: *mut Self::Left,
        stride: usize,
    );

    /// Stores 16 sums.
    ///
    /// # Safety
    /// As [`Unit::store`].
    unsafe fn store<U: Unit>(unit: U, sum: Self::Sum<U>, pointer: *mut f32);

    /// Loads 16 sums of a point, whose units are the factors, as the transform back takes them.
    ///
    /// # Safety
    /// As [`Unit::load`].
    unsafe fn load<U: Unit>(unit: U, pointer: *const f32, factors: *const f32) -> U::Float;
}

impl Form for Bf16 {
    type Pixel = bf16;
    const A: f32 = 0.75;
    const B: f32 = 1.5;
    const CHUNK: usize = LANES;

    #[inline(always)]
    unsafe fn transform<U: Unit>(
        unit: U,
        inputs: &Inputs<'_, bf16>,
        pixels: &[[Option<usize>; SIDE]; SIDE],
        channel: usize,
        target: *mut bf16,
        stride: usize,
    ) {
        let (source, channels, within) = inputs.source(channel);
        // SAFETY: the caller's promise.
        unsafe {
            let mut half = [[unit.splat(0.0); SIDE]; SIDE];
            for b in 0..SIDE {
                let mut values = [unit.splat(0.0); SIDE];
                for a in 0..SIDE {
                    if let Some(pixel) = pixels[a][b] {
                        values[a] = unit.load_bf16(source.add(pixel * channels + within));
                    }
                }
                let values = input_column(unit, values);
                for a in 0..SIDE {
                    half[a][b] = values[a];
                }
            }
            for a in 0..SIDE {
                let line = input_column(unit, half[a]);
                for b in 0..SIDE {
                    unit.store_bf16(line[b], target.add((a * SIDE + b) * stride));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store<U: Unit>(unit: U, sum: U::Float, pointer: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { unit.store(sum, pointer) }
    }

    #[inline(always)]
    unsafe fn load<U: Unit>(unit: U, pointer: *const f32, _: *const f32) -> U::Float {
        // SAFETY: the caller's promise.
        unsafe { unit.load(pointer) }
    }
}

impl Form for Shorts {
    type Pixel = u8;
    const A: f32 = 1.0;
    const B: f32 = 2.0;
    const CHUNK: usize = 2 * LANES;

    #[inline(always)]
    unsafe fn transform<U: Unit>(
        unit: U,
        inputs: &Inputs<'_, u8>,
        pixels: &[[Option<usize>; SIDE]; SIDE],
        channel: usize,
        target: *mut i16,
        stride: usize,
    ) {
        let first = inputs.source(channel);
        let last = (channel + LANES < inputs.channels()).then(|| inputs.source(channel + LANES));
        // Without more channels the first are read again, and not stored.
        let (source, channels, within) = last.unwrap_or(first);
        // SAFETY: the caller's promise.
        unsafe {
            let zeros = inputs.zeros(unit, channel);
            let mut half = [[unit.splat_short(0); SIDE]; SIDE];
            for b in 0..SIDE {
                let mut values = [unit.splat_short(0); SIDE];
                for a in 0..SIDE {
                    if let Some(pixel) = pixels[a][b] {
                        let pointers = [first.0.add(pixel * first.1 + first.2), source.add(pixel * channels + within)];
                        values[a] = unit.sub_shorts(unit.load_shorts(pointers[0], pointers[1]), zeros);
                    }
                }
                let values = input_column_of_integers(unit, values);
                for a in 0..SIDE {
                    half[a][b] = values[a];
                }
            }
            for a in 0..SIDE {
                let line = input_column_of_integers(unit, half[a]);
                for b in 0..SIDE {
                    let target = target.add((a * SIDE + b) * stride);
                    unit.store_shorts(line[b], target, last.map(|_| target.add(LANES)));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store<U: Unit>(unit: U, sum: U::Ints, pointer: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { unit.store_ints(sum, pointer.cast()) }
    }

    #[inline(always)]
    unsafe fn load<U: Unit>(unit: U, pointer: *const f32, factors: *const f32) -> U::Float {
        // SAFETY: the caller's promise.
        unsafe { unit.mul(unit.to_float(unit.load_ints(pointer.cast())), unit.load(factors)) }
    }
}

/// Transformed kernels: `[panel of output channels][point][pair of input channels][output channel][2]`.
#[derive(Debug)]
pub(super) struct Kernels<F: Form> {
    values: Vec<F::Right>,
    channels: [usize; 2],
    /// Of integers: what a unit of their products is, `[point][output channel]`.
    factors: Vec<f32>,
}

/// `G g` along one axis.
fn kernel_column([g0, g1, g2]: [f32; 3]) -> [f32; SIDE] {
    const A2: f32 = Bf16::A * Bf16::A;
    const B2: f32 = Bf16::B * Bf16::B;
    let at = |point: f32, other: f32| {
        let scale = 1.0 / (2.0 * point * point * (point * point - other * other));
        (scale * (g0 + point * point * g2), scale * point * g1)
    };
    let ((even_a, odd_a), (even_b, odd_b)) = (at(Bf16::A, Bf16::B), at(Bf16::B, Bf16::A));
    [g0 / (A2 * B2), even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2]
}

/// `G g` along one axis, without the [`FRACTIONS`].
fn kernel_column_of_integers([g0, g1, g2]: [f32; 3]) -> [f32; SIDE] {
    let (even_a, even_b) = (g0 + g2, g0 + 4.0 * g2);
    [g0, even_a + g1, even_a - g1, even_b + 2.0 * g1, even_b - 2.0 * g1, g2]
}

/// Of the rows of `G` for the points 0, ±1, ±2 and infinity.
const FRACTIONS: [f32; SIDE] = [1.0 / 4.0, -1.0 / 6.0, -1.0 / 6.0, 1.0 / 24.0, 1.0 / 24.0, 1.0];

/// Sums of the positive and of the negative factors in the rows of `B^T` for these points.
const REACH: [[i64; 2]; SIDE] = [[5, 5], [2, 8], [5, 5], [3, 3], [3, 3], [5, 5]];

/// The largest magnitude of a point of a tile of values from 0 to 255, or of their differences from one of these.
fn largest(point: usize) -> i64 {
    let [[p, n], [q, m]] = [REACH[point / SIDE], REACH[point % SIDE]];
    255 * (p * q + n * m).max(p * m + n * q)
}

/// Transforms `[3][3]` along both axes.
fn both_axes(kernel: &[f32], column: impl Fn([f32; 3]) -> [f32; SIDE]) -> [f32; POINTS] {
    let columns = [0, 1, 2].map(|b| column([kernel[b], kernel[3 + b], kernel[6 + b]]));
    let mut points = [0.0; POINTS];
    for a in 0..SIDE {
        points[a * SIDE..][..SIDE].copy_from_slice(&column(columns.map(|column| column[a])));
    }
    points
}

impl<F: Form> Kernels<F> {
    /// Kernels of which `transform` makes all points of an output channel, `[input channel][point]`, and their units.
    fn pack(
        channels: [usize; 2],
        transform: impl Fn(usize, &mut [[F::Right; POINTS]]) -> [f32; POINTS] + Sync,
    ) -> Self {
        let [channels_in, channels_out] = channels;
        let padded = channels_out.next_multiple_of(LANES);
        let mut values = vec![F::Right::default(); padded * POINTS * channels_in];
        let mut factors = vec![0f32; padded * POINTS];
        let [target, units] = [values.as_mut_ptr().cast(), factors.as_mut_ptr()].map(Shared);
        for_each(padded.div_ceil(PANEL), |panel| {
            let first = panel * PANEL;
            let width = panel_width(padded, first);
            let mut points = vec![[F::Right::default(); POINTS]; channels_in];
            for out in first..channels_out.min(first + width) {
                let factors = transform(out, &mut points);
                for (point, factor) in factors.into_iter().enumerate() {
                    // SAFETY: within the factors; each task has its output channels.
                    unsafe { units.at(point * padded + out).write(factor) };
                }
                for (channel, points) in points.iter().enumerate() {
                    for (point, value) in points.iter().enumerate() {
                        let panel = first * POINTS * channels_in;
                        let point = point * channels_in * width;
                        let place = panel + point + channel / 2 * 2 * width + 2 * (out - first) + channel % 2;
                        // SAFETY: within the values; each task has its panel.
                        unsafe { target.at(0).cast::<F::Right>().add(place).write(*value) };
                    }
                }
            }
        });
        Self { values, channels, factors }
    }

    /// Of a panel and point.
    fn at(&self, first: usize, width: usize, point: usize) -> *const u8 {
        let channels_in = self.channels[0];
        self.values[first * POINTS * channels_in + point * channels_in * width..].as_ptr().cast()
    }
}

impl Kernels<Bf16> {
    /// From `[output channel][input channel][3][3]`; input channels are a multiple of 16.
    pub fn new(weight: &[f32], channels: [usize; 2]) -> Self {
        Self::pack(channels, |out, points| {
            let kernels = weight[out * channels[0] * 9..][..channels[0] * 9].chunks_exact(9);
            for (points, kernel) in points.iter_mut().zip(kernels) {
                *points = both_axes(kernel, kernel_column).map(bf16::from_f32);
            }
            [1.0; POINTS]
        })
    }
}

impl Kernels<Shorts> {
    /// From `[output channel][input channel][3][3]`; input channels are a multiple of 16. An input channel's weights are
    /// multiplied with `units` of it, at most 1: what its activations' scale is in parts of the largest.
    pub fn of_integers(weight: &[i8], channels: [usize; 2], units: &[f32]) -> Self {
        let exact = units.iter().all(|unit| *unit == 1.0);
        Self::pack(channels, |out, points| {
            let kernels = weight[out * channels[0] * 9..][..channels[0] * 9].chunks_exact(9);
            let transformed: Vec<[f32; POINTS]> = kernels
                .zip(units)
                .map(|(kernel, unit)| {
                    let kernel: [f32; 9] = std::array::from_fn(|tap| f32::from(kernel[tap]));
                    both_axes(&kernel, kernel_column_of_integers).map(|value| value * unit)
                })
                .collect();
            std::array::from_fn(|point| {
                let magnitudes = || transformed.iter().map(|points| f64::from(points[point].abs()));
                let (most, sum) = (magnitudes().fold(0.0, f64::max), magnitudes().sum::<f64>());
                // Rounding adds at most a half to each.
                let fits = |bits: i32| {
                    let factor = f64::from(bits).exp2();
                    let total = sum * factor + transformed.len() as f64 / 2.0;
                    most * factor + 0.5 <= f64::from(i16::MAX) && total * largest(point) as f64 <= f64::from(i32::MAX)
                };
                // Integers need no bits after the point.
                let bits = (-24..=if exact { 0 } else { 12 }).rev().find(|bits| fits(*bits)).unwrap_or(-24);
                let factor = (bits as f32).exp2();
                for (points, transformed) in points.iter_mut().zip(&transformed) {
                    points[point] = (transformed[point] * factor).round_ties_even() as i16;
                }
                FRACTIONS[point / SIDE] * FRACTIONS[point % SIDE] / factor
            })
        })
    }
}

/// `B^T d` along one axis.
#[inline(always)]
unsafe fn input_column<U: Unit>(unit: U, [d0, d1, d2, d3, d4, d5]: [U::Float; SIDE]) -> [U::Float; SIDE] {
    const A: f32 = Bf16::A;
    const B: f32 = Bf16::B;
    const A2: f32 = A * A;
    const B2: f32 = B * B;
    // SAFETY: the caller's promise.
    unsafe {
        let factor = |value| unit.splat(value);
        let (product, sum) = (factor(A2 * B2), factor(-(A2 + B2)));
        let even_a = unit.mul_add(d2, factor(-B2), d4);
        let odd_a = unit.mul_add(d1, factor(-B2), d3);
        let even_b = unit.mul_add(d2, factor(-A2), d4);
        let odd_b = unit.mul_add(d1, factor(-A2), d3);
        [
            unit.mul_add(d0, product, unit.mul_add(d2, sum, d4)),
            unit.mul_add(odd_a, factor(A), even_a),
            unit.mul_add(odd_a, factor(-A), even_a),
            unit.mul_add(odd_b, factor(B), even_b),
            unit.mul_add(odd_b, factor(-B), even_b),
            unit.mul_add(d1, product, unit.mul_add(d3, sum, d5)),
        ]
    }
}

/// `B^T d` along one axis for the points 0, ±1, ±2 and infinity.
#[inline(always)]
unsafe fn input_column_of_integers<U: Unit>(unit: U, [d0, d1, d2, d3, d4, d5]: [U::Shorts; SIDE]) -> [U::Shorts; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        let even_a = unit.sub_shorts(d4, unit.shift_shorts::<2>(d2));
        let odd_a = unit.sub_shorts(d3, unit.shift_shorts::<2>(d1));
        let even_b = unit.sub_shorts(d4, d2);
        let difference = unit.sub_shorts(d3, d1);
        let odd_b = unit.shift_shorts::<1>(difference);
        let first = unit.shift_shorts::<2>(unit.sub_shorts(d0, d2));
        // 4 (d1 - d3) + (d5 - d3)
        let last = unit.sub_shorts(unit.sub_shorts(d5, d3), unit.shift_shorts::<2>(difference));
        [
            unit.add_shorts(first, even_b),
            unit.add_shorts(even_a, odd_a),
            unit.sub_shorts(even_a, odd_a),
            unit.add_shorts(even_b, odd_b),
            unit.sub_shorts(even_b, odd_b),
            last,
        ]
    }
}

/// `A^T m` along one axis.
#[inline(always)]
unsafe fn output_column<F: Form, U: Unit>(unit: U, [m0, m1, m2, m3, m4, m5]: [U::Float; SIDE]) -> [U::Float; OUTPUTS] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (F::A, F::B);
        let (sum_a, difference_a) = (unit.add(m1, m2), unit.sub(m1, m2));
        let (sum_b, difference_b) = (unit.add(m3, m4), unit.sub(m3, m4));
        let factor = |value| unit.splat(value);
        [
            unit.add(m0, unit.add(sum_a, sum_b)),
            unit.mul_add(difference_b, factor(b), unit.mul(difference_a, factor(a))),
            unit.mul_add(sum_b, factor(b * b), unit.mul(sum_a, factor(a * a))),
            unit.mul_add(difference_b, factor(b * b * b), unit.mul_add(difference_a, factor(a * a * a), m5)),
        ]
    }
}

/// A convolution of 3×3 kernels with stride 1.
pub(super) struct Convolution<'a, F: Form> {
    pub kind: UnitKind,
    pub inputs: Inputs<'a, F::Pixel>,
    pub kernels: &'a Kernels<F>,
    /// Zeros before the first row and column.
    pub padding: [usize; 2],
    /// Pixels from one tap to the next: the image is as many interleaved grids, with tiles of their own.
    pub dilation: [usize; 2],
    pub epilogue: Epilogue<'a>,
    pub target: Target,
}

/// Rows and columns of grids, and rows and columns of tiles of each.
fn grids_and_tiles(size: [usize; 2], dilation: [usize; 2]) -> ([usize; 2], [usize; 2]) {
    let grids = [0, 1].map(|axis| dilation[axis].min(size[axis]));
    (grids, [0, 1].map(|axis| size[axis].div_ceil(grids[axis]).div_ceil(OUTPUTS)))
}

/// Whether tiles take clearly fewer products than the nine taps of each output: a large dilation leaves them half empty.
pub(super) fn pays(size: [usize; 2], dilation: [usize; 2]) -> bool {
    let (grids, tiles) = grids_and_tiles(size, dilation);
    let products = POINTS * [grids, tiles].iter().flatten().product::<usize>();
    3 * products <= 2 * 9 * size[0] * size[1]
}

/// The same for integers of 16 bits, which are multiplied half as fast as the bytes of the definition.
pub(super) fn pays_for_bytes(size: [usize; 2], dilation: [usize; 2]) -> bool {
    let (grids, tiles) = grids_and_tiles(size, dilation);
    let products = 2 * POINTS * [grids, tiles].iter().flatten().product::<usize>();
    4 * products <= 3 * 9 * size[0] * size[1]
}

/// A tile's place.
#[derive(Clone, Copy)]
struct Tile {
    image: usize,
    /// The first output's row and column.
    first: [usize; 2],
}

impl<F: Form> Convolution<'_, F> {
    fn tile(&self, index: usize) -> Tile {
        let ([_, grid_columns], [rows, columns]) = grids_and_tiles(self.target.size, self.dilation);
        let grids = index / columns / rows;
        let grid = grids % self.grids();
        Tile {
            image: grids / self.grids(),
            first: [
                grid / grid_columns + OUTPUTS * self.dilation[0] * (index / columns % rows),
                grid % grid_columns + OUTPUTS * self.dilation[1] * (index % columns),
            ],
        }
    }

    /// The places of a block's tiles.
    fn places(&self, block: Block) -> Vec<Tile> {
        (block.first..block.first + block.tiles).map(|index| self.tile(index)).collect()
    }

    fn grids(&self) -> usize {
        grids_and_tiles(self.target.size, self.dilation).0.iter().product()
    }

    pub fn run(&self) {
        let [channels_in, channels_out] = self.kernels.channels;
        let (_, tiles) = grids_and_tiles(self.target.size, self.dilation);
        let all = self.inputs.batch * self.grids() * tiles[0] * tiles[1];
        let panels = channels_out.div_ceil(PANEL);
        // Values of 16 bits in half of the second-level cache.
        let room = cache::second_level();
        let most = (room / (POINTS * channels_in) / ROWS * ROWS).clamp(ROWS, TILES);
        if all >= 4 * most {
            // Many tiles: a task is a block of them.
            let blocks = all.div_ceil(most);
            let block = all.div_ceil(blocks).next_multiple_of(ROWS);
            for_each(all.div_ceil(block), |index| {
                let layout = Block { first: index * block, tiles: block.min(all - index * block), channels_in };
                let places = &self.places(layout);
                with_scratch([layout.input_len(), layout.product_len()], |[tiles, products]| {
                    let tiles = Shared(tiles.as_mut_ptr());
                    self.kind.dispatch(TransformInput {
                        convolution: self,
                        layout,
                        places,
                        chunks: 0..channels_in.div_ceil(F::CHUNK),
                        tiles,
                    });
                    for panel in 0..panels {
                        self.kind.dispatch(Multiply { convolution: self, layout, places, panel, tiles, products });
                    }
                });
            });
            return;
        }
        // Few tiles: all are transformed first, and a task is a panel of output channels.
        let block = most.min(all.next_multiple_of(ROWS));
        let blocks: Vec<Block> = (0..all.div_ceil(block))
            .map(|index| Block { first: index * block, tiles: block.min(all - index * block), channels_in })
            .collect();
        let places: Vec<Vec<Tile>> = blocks.iter().map(|block| self.places(*block)).collect();
        let len = blocks.iter().map(Block::input_len).max().unwrap_or(0);
        let mut tiles = Temporary::new(len * blocks.len());
        let tiles = Shared(tiles.as_mut_ptr());
        let chunks = channels_in.div_ceil(F::CHUNK);
        for_each(blocks.len() * chunks, |task| {
            let (block, chunk) = (task / chunks, task % chunks);
            // SAFETY: within the memory; each task has its channels of a block.
            let tiles = Shared(unsafe { tiles.at(block * len) });
            let (layout, places, chunks) = (blocks[block], &places[block][..], chunk..chunk + 1);
            self.kind.dispatch(TransformInput { convolution: self, layout, places, chunks, tiles });
        });
        for_each(blocks.len() * panels, |task| {
            let (panel, block) = (task / blocks.len(), task % blocks.len());
            with_scratch([blocks[block].product_len()], |[products]| {
                // SAFETY: within the memory.
                let tiles = Shared(unsafe { tiles.at(block * len) });
                let (layout, places) = (blocks[block], &places[block][..]);
                self.kind.dispatch(Multiply { convolution: self, layout, places, panel, tiles, products });
            });
        });
    }
}

/// Some tiles, counted over all images.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    tiles: usize,
    channels_in: usize,
}

impl Block {
    fn rows(&self) -> usize {
        self.tiles.next_multiple_of(ROWS)
    }

    /// Values of 16 bits from a point to the next.
    fn input_stride(&self) -> usize {
        self.rows() * self.channels_in + SKEW
    }

    /// Values of f32 that hold the transformed tiles.
    fn input_len(&self) -> usize {
        POINTS * self.input_stride() / 2
    }

    fn product_stride(&self) -> usize {
        self.rows() * PANEL + SKEW / 2
    }

    fn product_len(&self) -> usize {
        POINTS * self.product_stride()
    }
}

/// Transforms the tiles of a block for some chunks of input channels.
struct TransformInput<'a, F: Form> {
    convolution: &'a Convolution<'a, F>,
    layout: Block,
    places: &'a [Tile],
    chunks: std::ops::Range<usize>,
    tiles: Shared,
}

impl<F: Form> Task for TransformInput<'_, F> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { convolution, layout, places, chunks, tiles } = self;
        let Convolution { inputs, padding, dilation, .. } = convolution;
        let stride = layout.input_stride();
        let [height, width] = inputs.size;
        let channels = chunks.start * F::CHUNK..layout.channels_in.min(chunks.end * F::CHUNK);
        for tile in layout.tiles..layout.rows() {
            for point in 0..POINTS {
                // SAFETY: the block has as many rows of each point.
                unsafe {
                    let target = tiles.at(0).cast::<F::Left>().add(tile * layout.channels_in + channels.start);
                    target.add(point * stride).write_bytes(0, channels.len());
                }
            }
        }
        for tile in 0..layout.tiles {
            let Tile { image, first: [top, left] } = places[tile];
            // Pixels of the image, or none where there is padding.
            let mut pixels = [[None; SIDE]; SIDE];
            for a in 0..SIDE {
                let y = (top + a * dilation[0]).wrapping_sub(padding[0]);
                for b in 0..SIDE {
                    let x = (left + b * dilation[1]).wrapping_sub(padding[1]);
                    if y < height && x < width {
                        pixels[a][b] = Some((image * height + y) * width + x);
                    }
                }
            }
            for channel in channels.clone().step_by(F::CHUNK) {
                // SAFETY: the pixels are of the image, and the block has all channels of each point.
                unsafe {
                    let target = tiles.at(0).cast::<F::Left>().add(tile * layout.channels_in + channel);
                    F::transform(unit, inputs, &pixels, channel, target, stride);
                }
            }
        }
    }
}

/// Multiplies a block's tiles with a panel of kernels, and transforms the products back.
struct Multiply<'a, 'b, F: Form> {
    convolution: &'a Convolution<'a, F>,
    layout: Block,
    places: &'a [Tile],
    panel: usize,
    tiles: Shared,
    products: &'b mut [f32],
}

impl<F: Form> Task for Multiply<'_, '_, F> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let padded = self.convolution.kernels.channels[1].next_multiple_of(LANES);
        // SAFETY: the caller's promise.
        unsafe {
            if panel_width(padded, self.panel * PANEL) == PANEL {
                self.fixed::<U, 2>(unit)
            } else {
                self.fixed::<U, 1>(unit)
            }
        }
    }
}

impl<F: Form> Multiply<'_, '_, F> {
    /// A panel of `N` registers.
    #[inline(always)]
    unsafe fn fixed<U: Unit, const N: usize>(self, unit: U) {
        let Self { convolution, layout, places, panel, tiles, products } = self;
        let (first, width) = (panel * PANEL, N * LANES);
        let (input_stride, product_stride) = (layout.input_stride(), layout.product_stride());
        assert!(products.len() >= layout.product_len());
        let products = products.as_mut_ptr();
        let bytes = layout.channels_in * size_of::<F::Left>();
        for point in 0..POINTS {
            let weights = convolution.kernels.at(first, width, point);
            for row in (0..layout.rows()).step_by(ROWS) {
                // SAFETY: the tiles have all rows of this point, and the products too.
                unsafe {
                    let source = tiles.at(0).cast::<F::Left>().add(point * input_stride + row * layout.channels_in);
                    let mut rows = [source.cast::<u8>().cast_const(); ROWS];
                    for index in 0..ROWS {
                        rows[index] = rows[index].add(index * bytes);
                    }
                    let mut sums = [[F::zero(unit); N]; ROWS];
                    accumulate::<F, U, N>(unit, &mut sums, &rows, bytes / WORD, weights);
                    for index in 0..ROWS {
                        for register in 0..N {
                            let place = point * product_stride + (row + index) * width + register * LANES;
                            F::store(unit, sums[index][register], products.add(place));
                        }
                    }
                }
            }
        }
        let Convolution { target, dilation, kernels: Kernels { factors, channels, .. }, .. } = convolution;
        let [height, image_width] = target.size;
        let padded = channels[1].next_multiple_of(LANES);
        assert!(factors.len() >= POINTS * padded);
        for register in 0..N {
            let channel = first + register * LANES;
            let finish = convolution.epilogue.registers(unit, channel);
            let factors = factors[channel..].as_ptr();
            for tile in 0..layout.tiles {
                let Tile { image, first: [top, left] } = places[tile];
                // SAFETY: the products have all points of this tile, and the pixels that are written are within the target.
                unsafe {
                    let source = products.add(tile * width + register * LANES).cast_const();
                    let mut half = [[unit.splat(0.0); SIDE]; OUTPUTS];
                    for b in 0..SIDE {
                        let mut values = [unit.splat(0.0); SIDE];
                        for a in 0..SIDE {
                            let point = a * SIDE + b;
                            let factors = factors.add(point * padded);
                            values[a] = F::load(unit, source.add(point * product_stride), factors);
                        }
                        let values = output_column::<F, U>(unit, values);
                        for a in 0..OUTPUTS {
                            half[a][b] = values[a];
                        }
                    }
                    for a in 0..OUTPUTS {
                        let row = top + a * dilation[0];
                        if row >= height {
                            break;
                        }
                        let line = output_column::<F, U>(unit, half[a]);
                        for b in 0..OUTPUTS {
                            let column = left + b * dilation[1];
                            if column < image_width {
                                let pixel = (image * height + row) * image_width + column;
                                target.store(unit, finish.apply(unit, line[b]), pixel, channel);
                            }
                        }
                    }
                }
            }
        }
    }
}
