//! Winograd's minimal filtering F(4×4, 3×3) for 3×3 convolutions: Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", CVPR 2016, <https://arxiv.org/abs/1509.09308>.
//!
//! A tile of 4×4 outputs depends on 6×6 inputs. Tiles and kernels are transformed to 36 values each (`B^T d B`, `G g G^T`),
//! multiplied and summed over channels, which is 36 matrix products, and transformed back (`A^T m A`): a quarter of the
//! multiplications of the definition. A register holds the same value of several tiles; tiles are numbered along rows, so
//! that with NCHW tensors registers are filled from contiguous memory.
//!
//! With stride 2 an output is a sum of two taps on the even pixels and one on the odd, along each axis: F(2, 2) for those and
//! products as they are for these, so that 2×2 outputs depend on 5×5 inputs and take 25 products, not 36.
//!
//! A dilated convolution is several plain ones on interleaved grids of the image.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use std::ops::Range;

use pulp::Arch;

use super::{Epilogue, Geometry, Planes, TASKS};
use crate::cpu::{
    cache,
    matrix::{Finish, Sizes},
    memory::{Shared, Temporary, with_scratch},
    simd::{self, arch_of_eight},
    threads::for_each,
};

mod grids;
mod kernels;
mod steps;
mod tiles;
mod transforms;
mod weight_gradient;

pub(super) use kernels::Kernels;
use steps::{Multiply, TransformInput, TransformKernels, TransformOutput};
use tiles::Source;
pub(super) use weight_gradient::weight_gradient;

/// Added between the planes of points, so that a tile's points do not share a set of the first-level cache.
const SKEW: usize = 16;
/// Values of transformed kernels up to which every block of tiles reads them all: what stays in a third-level cache.
const KERNELS: usize = 1 << 22;
/// Values of transformed tiles that are in memory at once where blocks are too small for the kernels: 64 MiB.
const TILES: usize = 1 << 24;
/// Channels out of which about so many are a task, at a point.
const ROWS: usize = 128;

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

/// Products for each pair of channels.
pub(super) fn products(geometry: &Geometry) -> usize {
    let tiles = tile_products(geometry);
    if geometry.stride != [1, 1] {
        return tiles;
    }
    grids::products(geometry).map_or(tiles, |grids| grids.min(tiles))
}

/// Products for each pair of channels where grids are not tiles by themselves, as in the gradient of the weight.
pub(super) fn tile_products(geometry: &Geometry) -> usize {
    points(geometry) * geometry.all_tiles()
}

/// Values of a transformed tile or kernel.
fn points(geometry: &Geometry) -> usize {
    transforms::side(geometry.stride[0]).pow(2)
}

/// Whether there are transforms for a convolution.
pub(super) fn fits(geometry: &Geometry) -> bool {
    let steps = geometry.stride == [1, 1] || (geometry.stride == [2, 2] && geometry.dilation == [1, 1]);
    geometry.kernel == [3, 3] && steps && geometry.groups == 1
}

/// Whether each interleaved grid is one tile; then the input is one tensor.
pub(super) fn by_grids(geometry: &Geometry) -> bool {
    products(geometry) < tile_products(geometry)
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: Planes, kernels: Kernels, epilogue: Option<Epilogue>, output: Shared) {
    if by_grids(geometry) {
        return grids::forward(geometry, x.first, kernels, epilogue, output);
    }
    let arch = simd::arch();
    let [lanes, step] = arch.dispatch(Sizes);
    let [channels_in, channels_out] = geometry.channels;
    let source = Source { planes: x, size: geometry.input, padding: geometry.padding };
    let (points, vectors) = (points(geometry), geometry.all_tiles().div_ceil(lanes));
    let convolution = Convolution { arch, lanes, step, points, geometry, source, kernels, epilogue, output, vectors };
    let padded_out = channels_out.next_multiple_of(step);
    if vectors * lanes < padded_out.min(128) {
        convolution.by_channels();
    } else if points * channels_in * padded_out > KERNELS {
        convolution.by_points(TILES / (points * channels_in.max(channels_out) * lanes));
    } else {
        convolution.by_tiles();
    }
}

/// Values of the transformed input and output of a block of tiles: what stays in the second-level cache.
fn block() -> usize {
    cache::second_level() / 4 * 3
}

/// Rows of which about `most` are a task: as many in each, in whole panels of `step`.
fn chunk(rows: usize, most: usize, step: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most)).next_multiple_of(step)
}

struct Convolution<'a> {
    arch: Arch,
    /// Values of a register, and rows that are multiplied together.
    lanes: usize,
    step: usize,
    /// Values of a transformed tile or kernel.
    points: usize,
    geometry: &'a Geometry,
    source: Source<'a>,
    kernels: Kernels<'a>,
    epilogue: Option<Epilogue<'a>>,
    output: Shared,
    /// Registers of tiles.
    vectors: usize,
}

impl Convolution<'_> {
    /// Many tiles: all kernels are transformed first, and the tasks are blocks of tiles.
    fn by_tiles(&self) {
        let &Self { arch, lanes, step, points, geometry, source, vectors, .. } = self;
        let [channels_in, channels_out] = geometry.channels;
        // `[chunk][point][...]`
        let chunk = chunk(channels_out, 64, step);
        let stride = chunk * channels_in + SKEW;
        let transformed = self.transform_kernels(chunk, stride);
        let most = (block() / (points * (channels_in + chunk) * lanes)).clamp(2, 8).min(vectors.div_ceil(TASKS).max(2));
        let per_block = vectors.div_ceil(vectors.div_ceil(most));
        for_each(vectors.div_ceil(per_block), |block| {
            let first = block * per_block;
            let vectors = per_block.min(vectors - first);
            let panels = Panels { channels: channels_in, vectors, lanes };
            let first_tile = first * lanes;
            let products = points * (chunk * vectors * lanes + SKEW);
            with_scratch([points * panels.plane(), products], |[tiles, products]| {
                let (target, channels) = (Shared(tiles.as_mut_ptr()), 0..channels_in);
                arch.dispatch(TransformInput { geometry, source, channels, first_tile, panels, target });
                for (index, kernels) in transformed.chunks_exact(points * stride).enumerate() {
                    let rows = index * chunk..(index * chunk + chunk).min(channels_out);
                    self.multiply((kernels, stride), rows, tiles, panels, first_tile, products);
                }
            });
        });
    }

    /// Few tiles: all are transformed first, and the tasks are output channels.
    fn by_channels(&self) {
        let &Self { lanes, step, points, geometry, kernels, vectors, .. } = self;
        let [channels_in, channels_out] = geometry.channels;
        let panels = Panels { channels: channels_in, vectors, lanes };
        let tiles = &self.transform_input(panels, 0);
        let chunk = step * (block() / (points * channels_in * step)).clamp(1, 4);
        for_each(channels_out.div_ceil(chunk), |index| {
            let rows = index * chunk..(index * chunk + chunk).min(channels_out);
            let stride = rows.len().next_multiple_of(step) * channels_in + SKEW;
            let products = points * (rows.len() * vectors * lanes + SKEW);
            with_scratch([points * stride, products], |[transformed, products]| {
                let target = Shared(transformed.as_mut_ptr());
                arch_of_eight().dispatch(TransformKernels {
                    step,
                    geometry,
                    kernels,
                    rows: rows.clone(),
                    stride,
                    target,
                });
                self.multiply((transformed, stride), rows, tiles, panels, 0, products);
            });
        });
    }

    /// Many tiles and kernels that are too large for any cache: the tasks are points, whose kernels are read once for `most`
    /// registers of tiles, or two.
    fn by_points(&self, most: usize) {
        let &Self { arch, lanes, step, points, geometry, epilogue, output, .. } = self;
        let [channels_in, channels_out] = geometry.channels;
        let padded_out = channels_out.next_multiple_of(step);
        let stride = padded_out * channels_in + SKEW;
        let transformed = self.transform_kernels(padded_out, stride);
        let per_batch = self.vectors.div_ceil(self.vectors.div_ceil(most.max(2))).next_multiple_of(2);
        for first in (0..self.vectors).step_by(per_batch) {
            let vectors = per_batch.min(self.vectors - first);
            let panels = Panels { channels: channels_in, vectors, lanes };
            let first_tile = first * lanes;
            let tiles = &self.transform_input(panels, first_tile);
            let products_stride = padded_out * vectors * lanes + SKEW;
            // SAFETY: the products are written before they are transformed back.
            let mut products = unsafe { Temporary::new(points * products_stride) };
            let target = Shared(products.as_mut_ptr());
            let chunk = chunk(channels_out, ROWS, step);
            let chunks = channels_out.div_ceil(chunk);
            for_each(points * chunks, |task| {
                let (point, row) = (task / chunks, task % chunks * chunk);
                arch.dispatch(Multiply {
                    channels_in,
                    points: point..point + 1,
                    kernels: &transformed[row * channels_in..],
                    kernels_stride: stride,
                    rows: chunk.min(channels_out - row),
                    tiles,
                    panels,
                    // SAFETY: the row is within the products.
                    products: Shared(unsafe { target.at(row * vectors * lanes) }),
                    products_stride,
                    finish: Finish::Store,
                });
            });
            for_each(channels_out.div_ceil(step), |index| {
                let rows = index * step..(index * step + step).min(channels_out);
                arch.dispatch(TransformOutput {
                    geometry,
                    rows: rows.clone(),
                    vectors,
                    first_tile,
                    products: &products[rows.start * vectors * lanes..],
                    products_stride,
                    epilogue,
                    output,
                });
            });
        }
    }

    /// The outputs of some channels and tiles, from the channels' transformed kernels and how far apart their points are.
    fn multiply(
        &self,
        (kernels, kernels_stride): (&[f32], usize),
        rows: Range<usize>,
        tiles: &[f32],
        panels: Panels,
        first_tile: usize,
        products: &mut [f32],
    ) {
        let &Self { arch, points, geometry, epilogue, output, .. } = self;
        let products_stride = rows.len() * panels.vectors * panels.lanes + SKEW;
        arch.dispatch(Multiply {
            channels_in: panels.channels,
            points: 0..points,
            kernels,
            kernels_stride,
            rows: rows.len(),
            tiles,
            panels,
            products: Shared(products[..points * products_stride].as_mut_ptr()),
            products_stride,
            finish: Finish::Store,
        });
        arch.dispatch(TransformOutput {
            geometry,
            rows,
            vectors: panels.vectors,
            first_tile,
            products,
            products_stride,
            epilogue,
            output,
        });
    }

    /// All kernels: `[chunk of output channels][point][kernel_rows output channels][input channel][output channel]`, with
    /// `stride` values a point.
    fn transform_kernels(&self, chunk: usize, stride: usize) -> Temporary {
        let &Self { step, points, geometry, kernels, .. } = self;
        let [channels_in, channels_out] = geometry.channels;
        // SAFETY: all kernels are written.
        let mut transformed = unsafe { Temporary::new(channels_out.div_ceil(chunk) * points * stride) };
        let target = Shared(transformed.as_mut_ptr());
        for_each(channels_out.div_ceil(step), |panel| {
            let rows = panel * step..(panel * step + step).min(channels_out);
            let (index, row) = (rows.start / chunk, rows.start % chunk);
            // SAFETY: within the buffer; each task has its panel.
            let target = Shared(unsafe { target.at(index * points * stride + row * channels_in) });
            arch_of_eight().dispatch(TransformKernels { step, geometry, kernels, rows, stride, target });
        });
        transformed
    }

    /// Tiles from `first_tile` on of all channels.
    fn transform_input(&self, panels: Panels, first_tile: usize) -> Temporary {
        const CHANNELS: usize = 16;
        let &Self { arch, points, geometry, source, .. } = self;
        // SAFETY: all tiles are written.
        let mut transformed = unsafe { Temporary::new(points * panels.plane()) };
        let target = Shared(transformed.as_mut_ptr());
        for_each(panels.channels.div_ceil(CHANNELS), |index| {
            let channels = index * CHANNELS..(index * CHANNELS + CHANNELS).min(panels.channels);
            arch.dispatch(TransformInput { geometry, source, channels, first_tile, panels, target });
        });
        transformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three orders of tasks, with several batches, chunks of channels and registers that are not full.
    #[test]
    fn orders_of_tasks_agree() {
        let arch = simd::arch();
        let [lanes, step] = arch.dispatch(Sizes);
        let (x_shape, output) = ([2, 20, 33, 47], [33, 47]);
        let geometry = Geometry::new(x_shape, [150, 20, 3, 3], output, [1, 1], [1, 1], [1, 1], 1);
        let wave = |len: usize| (0..len).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
        let (x, weight) = (wave(2 * 20 * 33 * 47), wave(150 * 20 * 9));
        let [tiles, channels, points] = [0, 1, 2].map(|order| {
            let mut y = vec![f32::NAN; 2 * 150 * 33 * 47];
            let convolution = Convolution {
                arch,
                lanes,
                step,
                points: points(&geometry),
                geometry: &geometry,
                source: Source { planes: Planes::one(&x, 20), size: [33, 47], padding: [1, 1] },
                kernels: Kernels::new(&geometry, &weight),
                epilogue: None,
                output: Shared(y.as_mut_ptr()),
                vectors: geometry.all_tiles().div_ceil(lanes),
            };
            match order {
                0 => convolution.by_tiles(),
                1 => convolution.by_channels(),
                _ => convolution.by_points(5),
            }
            y
        });
        assert!(tiles.iter().all(|value| value.is_finite()));
        assert_eq!(tiles, channels);
        assert_eq!(tiles, points);
    }

    /// Panels of 8 channels, as those of AVX-512 and NEON, and of 6, on the registers that this processor has.
    #[test]
    fn kernels_are_transformed() {
        const G: [[f64; 3]; 6] = [
            [0.25, 0.0, 0.0],
            [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
            [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
            [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
            [0.0, 0.0, 1.0],
        ];
        let [channels_in, channels_out] = [5, 21];
        let geometry =
            Geometry::new([1, channels_in, 9, 9], [channels_out, channels_in, 3, 3], [9, 9], [1, 1], [1, 1], [1, 1], 1);
        let weight: Vec<f32> = (0..channels_out * channels_in * 9).map(|i| (i as f32 * 0.7).sin()).collect();
        let turned_geometry = geometry.adjoint().expect("the stride is 1");
        let [lanes, _] = arch_of_eight().dispatch(Sizes);
        // Six channels are not two registers of four, and no processor with such registers has panels of six.
        for step in if lanes == 4 { vec![8] } else { vec![6, 8] } {
            for turned in [false, true] {
                let (geometry, kernels) = if turned {
                    (&turned_geometry, Kernels::new(&geometry, &weight).turned())
                } else {
                    (&geometry, Kernels::new(&geometry, &weight))
                };
                let [ins, outs] = geometry.channels;
                let stride = outs.next_multiple_of(step) * ins;
                let mut transformed = vec![f32::NAN; 36 * stride];
                let target = Shared(transformed.as_mut_ptr());
                arch_of_eight().dispatch(TransformKernels { step, geometry, kernels, rows: 0..outs, stride, target });
                for out in 0..outs.next_multiple_of(step) {
                    for channel in 0..ins {
                        for (a, b) in (0..36).map(|point| (point / 6, point % 6)) {
                            let mut expected = 0.0;
                            for tap in 0..if out < outs { 9 } else { 0 } {
                                let weight = if turned {
                                    weight[(channel * outs + out) * 9 + 8 - tap]
                                } else {
                                    weight[(out * ins + channel) * 9 + tap]
                                };
                                expected += G[a][tap / 3] * G[b][tap % 3] * f64::from(weight);
                            }
                            let place = (a * 6 + b) * stride + out / step * step * ins + channel * step + out % step;
                            let difference = (f64::from(transformed[place]) - expected).abs();
                            assert!(difference < 1e-6, "{step} {turned}: {out} {channel} {a} {b}");
                        }
                    }
                }
            }
        }
    }
}
