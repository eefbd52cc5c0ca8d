//! Winograd's F(4×4, 3×3) with channels last: a register holds channels of one pixel, so tiles are transformed without moving
//! values between lanes, and neighbouring channels are the pairs that dot products take.
//!
//! The points are 0, ±3/4, ±3/2 and infinity: transformed values are rounded to bf16, and with the usual 0, ±1, ±2 the error
//! is twice as large (Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution for deep neural
//! networks", ACM TOMS 2020, <https://arxiv.org/abs/1803.10986>). Sums and the transform back are f32.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use burn::tensor::bf16;

use super::{
    convolution::{Epilogue, Inputs, Target},
    product::{PANEL, ROWS, WORD, accumulate, panel_width},
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
/// Magnitudes of the points.
const A: f32 = 0.75;
const B: f32 = 1.5;
/// Their squares.
const A2: f32 = A * A;
const B2: f32 = B * B;
/// Values between the planes of points, so that a tile's points do not share a set of the first-level cache.
const SKEW: usize = 32;
/// Tiles of a block.
const TILES: usize = 32;

/// Transformed kernels: `[panel of output channels][point][pair of input channels][output channel][2]`.
#[derive(Debug)]
pub(super) struct Kernels {
    values: Vec<bf16>,
    channels: [usize; 2],
}

/// `G g` along one axis.
fn kernel_column([g0, g1, g2]: [f32; 3]) -> [f32; SIDE] {
    let at = |point: f32, other: f32| {
        let scale = 1.0 / (2.0 * point * point * (point * point - other * other));
        (scale * (g0 + point * point * g2), scale * point * g1)
    };
    let ((even_a, odd_a), (even_b, odd_b)) = (at(A, B), at(B, A));
    [g0 / (A2 * B2), even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2]
}

impl Kernels {
    /// From `[output channel][input channel][3][3]`; input channels are a multiple of 16.
    pub fn new(weight: &[f32], channels: [usize; 2]) -> Self {
        let [channels_in, channels_out] = channels;
        let padded = channels_out.next_multiple_of(LANES);
        let mut values = vec![bf16::ZERO; padded * POINTS * channels_in];
        let target = Shared(values.as_mut_ptr().cast());
        for_each(padded.div_ceil(PANEL), |panel| {
            let first = panel * PANEL;
            let width = panel_width(padded, first);
            for out in first..channels_out.min(first + width) {
                for channel in 0..channels_in {
                    let kernel = &weight[(out * channels_in + channel) * 9..][..9];
                    let columns = [0, 1, 2].map(|b| kernel_column([kernel[b], kernel[3 + b], kernel[6 + b]]));
                    for a in 0..SIDE {
                        let row = kernel_column(columns.map(|column| column[a]));
                        for b in 0..SIDE {
                            let panel = first * POINTS * channels_in;
                            let point = (a * SIDE + b) * channels_in * width;
                            let place = panel + point + channel / 2 * 2 * width + 2 * (out - first) + channel % 2;
                            // SAFETY: within the values; each task has its panel.
                            unsafe { target.at(0).cast::<bf16>().add(place).write(bf16::from_f32(row[b])) };
                        }
                    }
                }
            }
        });
        Self { values, channels }
    }

    /// Of a panel and point.
    fn at(&self, first: usize, width: usize, point: usize) -> *const u8 {
        let channels_in = self.channels[0];
        self.values[first * POINTS * channels_in + point * channels_in * width..].as_ptr().cast()
    }
}

/// `B^T d` along one axis.
#[inline(always)]
unsafe fn input_column<U: Unit>(unit: U, [d0, d1, d2, d3, d4, d5]: [U::Float; SIDE]) -> [U::Float; SIDE] {
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

/// `A^T m` along one axis.
#[inline(always)]
unsafe fn output_column<U: Unit>(unit: U, [m0, m1, m2, m3, m4, m5]: [U::Float; SIDE]) -> [U::Float; OUTPUTS] {
    // SAFETY: the caller's promise.
    unsafe {
        let (sum_a, difference_a) = (unit.add(m1, m2), unit.sub(m1, m2));
        let (sum_b, difference_b) = (unit.add(m3, m4), unit.sub(m3, m4));
        let factor = |value| unit.splat(value);
        [
            unit.add(m0, unit.add(sum_a, sum_b)),
            unit.mul_add(difference_b, factor(B), unit.mul(difference_a, factor(A))),
            unit.mul_add(sum_b, factor(B2), unit.mul(sum_a, factor(A2))),
            unit.mul_add(difference_b, factor(B2 * B), unit.mul_add(difference_a, factor(A2 * A), m5)),
        ]
    }
}

/// A convolution of 3×3 kernels with stride 1.
pub(super) struct Convolution<'a> {
    pub kind: UnitKind,
    pub inputs: Inputs<'a>,
    pub kernels: &'a Kernels,
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

/// A tile's place.
struct Tile {
    image: usize,
    /// The first output's row and column.
    first: [usize; 2],
}

impl Convolution<'_> {
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

    fn grids(&self) -> usize {
        grids_and_tiles(self.target.size, self.dilation).0.iter().product()
    }

    pub fn run(&self) {
        let [channels_in, channels_out] = self.kernels.channels;
        let (_, tiles) = grids_and_tiles(self.target.size, self.dilation);
        let all = self.inputs.batch * self.grids() * tiles[0] * tiles[1];
        let panels = channels_out.div_ceil(PANEL);
        // Values of bf16 in half of the second-level cache.
        let room = cache::second_level();
        let most = (room / (POINTS * channels_in) / ROWS * ROWS).clamp(ROWS, TILES);
        if all >= 4 * most {
            // Many tiles: a task is a block of them.
            let blocks = all.div_ceil(most);
            let block = all.div_ceil(blocks).next_multiple_of(ROWS);
            for_each(all.div_ceil(block), |index| {
                let layout = Block { first: index * block, tiles: block.min(all - index * block), channels_in };
                with_scratch([layout.input_len(), layout.product_len()], |[tiles, products]| {
                    let tiles = Shared(tiles.as_mut_ptr());
                    self.kind.dispatch(TransformInput {
                        convolution: self,
                        layout,
                        chunks: 0..channels_in / LANES,
                        tiles,
                    });
                    for panel in 0..panels {
                        self.kind.dispatch(Multiply { convolution: self, layout, panel, tiles, products });
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
        let len = blocks.iter().map(Block::input_len).max().unwrap_or(0);
        let mut tiles = Temporary::new(len * blocks.len());
        let tiles = Shared(tiles.as_mut_ptr());
        let chunks = channels_in / LANES;
        for_each(blocks.len() * chunks, |task| {
            let (block, chunk) = (task / chunks, task % chunks);
            // SAFETY: within the memory; each task has its channels of a block.
            let tiles = Shared(unsafe { tiles.at(block * len) });
            let chunks = chunk..chunk + 1;
            self.kind.dispatch(TransformInput { convolution: self, layout: blocks[block], chunks, tiles });
        });
        for_each(blocks.len() * panels, |task| {
            let (panel, block) = (task / blocks.len(), task % blocks.len());
            with_scratch([blocks[block].product_len()], |[products]| {
                // SAFETY: within the memory.
                let tiles = Shared(unsafe { tiles.at(block * len) });
                self.kind.dispatch(Multiply { convolution: self, layout: blocks[block], panel, tiles, products });
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

    /// Values of bf16 from a point to the next.
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

/// Transforms the tiles of a block for some chunks of 16 input channels.
struct TransformInput<'a> {
    convolution: &'a Convolution<'a>,
    layout: Block,
    chunks: std::ops::Range<usize>,
    tiles: Shared,
}

impl Task for TransformInput<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { convolution, layout, chunks, tiles } = self;
        let Convolution { inputs, padding, dilation, .. } = convolution;
        let stride = layout.input_stride();
        let [height, width] = inputs.size;
        for tile in layout.tiles..layout.rows() {
            for channel in chunks.clone().map(|chunk| chunk * LANES) {
                for point in 0..POINTS {
                    // SAFETY: the block has as many rows of each point.
                    unsafe {
                        let target = tiles.at(0).cast::<bf16>().add(tile * layout.channels_in + channel);
                        unit.store_bf16(unit.splat(0.0), target.add(point * stride));
                    }
                }
            }
        }
        for tile in 0..layout.tiles {
            let Tile { image, first: [top, left] } = convolution.tile(layout.first + tile);
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
            for chunk in chunks.clone() {
                let channel = chunk * LANES;
                let (source, channels, within) = inputs.source(channel);
                // SAFETY: the pixels are of the image, and each has 16 channels from this one on.
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
                    let target = tiles.at(0).cast::<bf16>().add(tile * layout.channels_in + channel);
                    for a in 0..SIDE {
                        let line = input_column(unit, half[a]);
                        for b in 0..SIDE {
                            unit.store_bf16(line[b], target.add((a * SIDE + b) * stride));
                        }
                    }
                }
            }
        }
    }
}

/// Multiplies a block's tiles with a panel of kernels, and transforms the products back.
struct Multiply<'a, 'b> {
    convolution: &'a Convolution<'a>,
    layout: Block,
    panel: usize,
    tiles: Shared,
    products: &'b mut [f32],
}

impl Task for Multiply<'_, '_> {
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

impl Multiply<'_, '_> {
    /// A panel of `N` registers.
    #[inline(always)]
    unsafe fn fixed<U: Unit, const N: usize>(self, unit: U) {
        let Self { convolution, layout, panel, tiles, products } = self;
        let (first, width) = (panel * PANEL, N * LANES);
        let (input_stride, product_stride) = (layout.input_stride(), layout.product_stride());
        assert!(products.len() >= layout.product_len());
        let products = products.as_mut_ptr();
        let bytes = layout.channels_in * size_of::<bf16>();
        for point in 0..POINTS {
            let weights = convolution.kernels.at(first, width, point);
            for row in (0..layout.rows()).step_by(ROWS) {
                // SAFETY: the tiles have all rows of this point, and the products too.
                unsafe {
                    let source = tiles.at(0).cast::<bf16>().add(point * input_stride + row * layout.channels_in);
                    let mut rows = [source.cast::<u8>().cast_const(); ROWS];
                    for index in 0..ROWS {
                        rows[index] = rows[index].add(index * bytes);
                    }
                    let mut sums = [[unit.splat(0.0); N]; ROWS];
                    accumulate(unit, &mut sums, &rows, bytes / WORD, weights);
                    for index in 0..ROWS {
                        for register in 0..N {
                            let place = point * product_stride + (row + index) * width + register * LANES;
                            unit.store(sums[index][register], products.add(place));
                        }
                    }
                }
            }
        }
        let Convolution { target, dilation, .. } = convolution;
        let [height, image_width] = target.size;
        for register in 0..N {
            let channel = first + register * LANES;
            let finish = convolution.epilogue.registers(unit, channel);
            for tile in 0..layout.tiles {
                let Tile { image, first: [top, left] } = convolution.tile(layout.first + tile);
                // SAFETY: the products have all points of this tile, and the pixels that are written are within the target.
                unsafe {
                    let source = products.add(tile * width + register * LANES).cast_const();
                    let mut half = [[unit.splat(0.0); SIDE]; OUTPUTS];
                    for b in 0..SIDE {
                        let mut values = [unit.splat(0.0); SIDE];
                        for a in 0..SIDE {
                            values[a] = unit.load(source.add((a * SIDE + b) * product_stride));
                        }
                        let values = output_column(unit, values);
                        for a in 0..OUTPUTS {
                            half[a][b] = values[a];
                        }
                    }
                    for a in 0..OUTPUTS {
                        let row = top + a * dilation[0];
                        if row >= height {
                            break;
                        }
                        let line = output_column(unit, half[a]);
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
