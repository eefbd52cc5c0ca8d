//! Winograd's F(4×4, 3×3) with channels last: a register holds channels of one pixel, so tiles are transformed without moving
//! values between lanes, and neighboring channels are the pairs that dot products take.
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

mod form;
mod kernels;
mod weight_gradient;

use std::mem::MaybeUninit;

pub(super) use form::Form;
use form::output_column;
pub(super) use kernels::{Kernels, Taps};
pub(super) use weight_gradient::Tiles;

use super::{
    convolution::{Epilogue, Inputs, Target},
    product::{PANEL, ROWS, WORD, accumulate, packed, panel_width},
    unit::{LANES, Task, Unit, UnitKind},
};
use crate::cpu::{
    cache,
    disjoint::{Disjoint, Part},
    memory::{Temporary, as_maybe, as_uninit, view, view_mut, with_scratch},
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
    pub target: Target<'a>,
}

/// Split of the outputs of images into tiles. With a dilation they are as many interleaved grids, with tiles of their own.
#[derive(Debug, Clone, Copy)]
struct Tiling {
    dilation: [usize; 2],
    /// Rows and columns of grids.
    grids: [usize; 2],
    /// Rows and columns of tiles of a grid.
    tiles: [usize; 2],
}

impl Tiling {
    fn new(size: [usize; 2], dilation: [usize; 2]) -> Self {
        let grids = [0, 1].map(|axis| dilation[axis].min(size[axis]));
        let tiles = [0, 1].map(|axis| size[axis].div_ceil(grids[axis]).div_ceil(OUTPUTS));
        Self { dilation, grids, tiles }
    }

    /// Tiles of an image.
    fn count(&self) -> usize {
        [self.grids, self.tiles].iter().flatten().product()
    }

    /// A tile, counted over all images.
    fn tile(&self, index: usize) -> Tile {
        let Self { dilation, grids, tiles: [rows, columns] } = self;
        let image_grids = grids[0] * grids[1];
        let all_grids = index / columns / rows;
        let grid = all_grids % image_grids;
        Tile {
            image: all_grids / image_grids,
            first: [
                grid / grids[1] + OUTPUTS * dilation[0] * (index / columns % rows),
                grid % grids[1] + OUTPUTS * dilation[1] * (index % columns),
            ],
        }
    }
}

/// Whether tiles take clearly fewer products than the nine taps of each output: a large dilation leaves them half empty.
pub(super) fn pays(size: [usize; 2], dilation: [usize; 2]) -> bool {
    3 * POINTS * Tiling::new(size, dilation).count() <= 2 * 9 * size[0] * size[1]
}

/// Whether tiles pay in 8 bits, where their products of 16 bits are half as fast as those of bytes.
pub(super) fn pays_for_bytes(size: [usize; 2], dilation: [usize; 2]) -> bool {
    4 * 2 * POINTS * Tiling::new(size, dilation).count() <= 3 * 9 * size[0] * size[1]
}

/// A tile's place.
#[derive(Clone, Copy)]
struct Tile {
    image: usize,
    /// The first output's row and column.
    first: [usize; 2],
}

impl Tile {
    /// The `N`×`N` pixels from the tile's first on, less the padding before them: of an image of this size, or none where there
    /// is padding.
    #[inline(always)]
    fn pixels<const N: usize>(
        self,
        padding: [usize; 2],
        dilation: [usize; 2],
        [height, width]: [usize; 2],
    ) -> [[Option<usize>; N]; N] {
        let Self { image, first: [top, left] } = self;
        let mut pixels = [[None; N]; N];
        for a in 0..N {
            let y = (top + a * dilation[0]).wrapping_sub(padding[0]);
            for b in 0..N {
                let x = (left + b * dilation[1]).wrapping_sub(padding[1]);
                if y < height && x < width {
                    pixels[a][b] = Some((image * height + y) * width + x);
                }
            }
        }
        pixels
    }
}

impl<F: Form> Convolution<'_, F> {
    fn tiling(&self) -> Tiling {
        Tiling::new(self.target.size, self.dilation)
    }

    /// The places of a block's tiles.
    fn places(&self, block: Block) -> Vec<Tile> {
        let tiling = self.tiling();
        (block.first..block.first + block.tiles).map(|index| tiling.tile(index)).collect()
    }

    pub fn run(&self) {
        let [channels_in, channels_out] = self.kernels.channels;
        let all = self.inputs.batch * self.tiling().count();
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
                    self.kind.dispatch(TransformInput {
                        convolution: self,
                        layout,
                        places,
                        chunks: 0..channels_in.div_ceil(F::CHUNK),
                        // SAFETY: values are written, of which any bits are a value of f32.
                        tiles: Part::new(view_mut(unsafe { as_uninit(tiles) })),
                    });
                    let tiles = view(as_maybe(tiles));
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
        let mut memory = Temporary::new(len * blocks.len());
        let tiles = Disjoint::new(view_mut(memory.as_mut_slice()));
        // Values of 16 bits of a block.
        let len = 2 * len;
        let chunks = channels_in.div_ceil(F::CHUNK);
        for_each(blocks.len() * chunks, |task| {
            let (block, chunk) = (task / chunks, task % chunks);
            // SAFETY: each task has its channels of a block.
            let tiles = unsafe { tiles.part() }.skip(block * len);
            let (layout, places, chunks) = (blocks[block], &places[block][..], chunk..chunk + 1);
            self.kind.dispatch(TransformInput { convolution: self, layout, places, chunks, tiles });
        });
        let tiles = view(memory.as_slice());
        for_each(blocks.len() * panels, |task| {
            let (panel, block) = (task / blocks.len(), task % blocks.len());
            with_scratch([blocks[block].product_len()], |[products]| {
                let (layout, places, tiles) = (blocks[block], &places[block][..], &tiles[block * len..][..len]);
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
    tiles: Part<'a, F::Left>,
}

impl<F: Form> Task for TransformInput<'_, F> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { convolution, layout, places, chunks, tiles } = self;
        let Convolution { inputs, padding, dilation, .. } = convolution;
        let stride = layout.input_stride();
        let channels = chunks.start * F::CHUNK..layout.channels_in.min(chunks.end * F::CHUNK);
        for tile in layout.tiles..layout.rows() {
            for point in 0..POINTS {
                let place = point * stride + tile * layout.channels_in + channels.start;
                // SAFETY: the part has these channels.
                unsafe { tiles.at(place, channels.len()).write_bytes(0, channels.len()) };
            }
        }
        for tile in 0..layout.tiles {
            let pixels = places[tile].pixels::<SIDE>(*padding, *dilation, inputs.size);
            for channel in channels.clone().step_by(F::CHUNK) {
                let count = F::CHUNK.min(channels.end - channel);
                let target = tiles.rows(tile * layout.channels_in + channel, stride, POINTS, count);
                // SAFETY: the pixels are of the image, and the part has these channels of each point.
                unsafe { F::transform(unit, inputs, &pixels, channel, target, stride) };
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
    /// The transformed tiles, all of which are written.
    tiles: &'a [MaybeUninit<F::Left>],
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
                let source = &tiles[point * input_stride + row * layout.channels_in..][..ROWS * layout.channels_in];
                // SAFETY: the slice has all rows, and the products have them too.
                unsafe {
                    let mut rows = [source.as_ptr().cast::<u8>(); ROWS];
                    for index in 0..ROWS {
                        rows[index] = rows[index].add(index * bytes);
                    }
                    let mut sums = [[F::zero(unit); N]; ROWS];
                    accumulate::<F, U, N>(unit, &mut sums, &rows, bytes / WORD, weights, packed(N));
                    for index in 0..ROWS {
                        for register in 0..N {
                            let place = point * product_stride + (row + index) * width + register * LANES;
                            F::store(unit, sums[index][register], products.add(place));
                        }
                    }
                }
            }
        }
        // SAFETY: the pixels of these tiles and of this panel are the task's.
        let task_outputs = unsafe { convolution.target.outputs() };
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
                    let mut outputs = [[unit.splat(0.0); OUTPUTS]; OUTPUTS];
                    for a in 0..OUTPUTS {
                        let line = output_column::<F, U>(unit, half[a]);
                        for b in 0..OUTPUTS {
                            outputs[a][b] = finish.apply(unit, line[b]);
                        }
                    }
                    if target.planes {
                        task_outputs.store_planes(unit, outputs, image, [top, left], *dilation, channel);
                        continue;
                    }
                    for a in 0..OUTPUTS {
                        let row = top + a * dilation[0];
                        for b in 0..OUTPUTS {
                            let column = left + b * dilation[1];
                            if row < height && column < image_width {
                                let pixel = (image * height + row) * image_width + column;
                                task_outputs.store(unit, outputs[a][b], pixel, channel);
                            }
                        }
                    }
                }
            }
        }
    }
}
