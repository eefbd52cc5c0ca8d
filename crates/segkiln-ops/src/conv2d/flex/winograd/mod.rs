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

use std::{mem::MaybeUninit, ops::Range};

use pulp::Arch;

use super::{
    Epilogue, Geometry, Planes, TASKS,
    geometry::Channels,
    plan::{Method, Order},
};
use crate::cpu::{
    cache,
    disjoint::{Disjoint, Part},
    matrix::{Finish, RegisterSizes},
    memory::{Temporary, as_maybe, with_scratch},
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

/// Values between the planes of points, so that a tile's points do not share a set of the first-level cache. They are never
/// written.
const SKEW: usize = 16;
/// Values of transformed kernels up to which each block of tiles reads them all: 16 MiB, which stay in a third-level cache. Those
/// of 2048 → 256 channels are 75 MB.
const KERNELS: usize = 1 << 22;
/// Values of transformed tiles that are in memory at once where tasks are points: 64 MiB.
const TILES: usize = 1 << 24;
/// Output channels of a task at one point, about.
const ROWS: usize = 128;

/// Layout of a matrix of transformed tiles: `[point][panel of two registers][channel][tile]`.
#[derive(Clone, Copy)]
struct Panels {
    channels: usize,
    /// Registers of tiles.
    vectors: usize,
    lanes: usize,
}

impl Panels {
    /// Returns the distance of two points.
    fn plane(&self) -> usize {
        self.channels * self.vectors * self.lanes + SKEW
    }

    /// Returns the number of registers of a panel: two, or one of the last panel.
    fn width(&self, panel: usize) -> usize {
        (self.vectors - 2 * panel).min(2)
    }

    /// Returns the offset of a panel in a point's plane.
    fn panel(&self, panel: usize) -> usize {
        2 * panel * self.lanes * self.channels
    }

    /// Returns the offset of a channel's register in a point's plane.
    fn at(&self, channel: usize, vector: usize) -> usize {
        let panel = vector / 2;
        self.panel(panel) + (channel * self.width(panel) + vector % 2) * self.lanes
    }
}

/// Returns the multiplications for each pair of an input and an output channel.
pub(super) fn products(geometry: &Geometry) -> usize {
    let tiles = tile_products(geometry);
    if geometry.stride != [1, 1] {
        return tiles;
    }
    grids::products(geometry).map_or(tiles, |grids| grids.min(tiles))
}

/// As [`products`], by tiles of 4×4 (2×2 with stride 2), as in the gradient of the weight.
pub(super) fn tile_products(geometry: &Geometry) -> usize {
    points(geometry) * geometry.all_tiles()
}

/// Returns the number of values of a transformed tile or kernel.
fn points(geometry: &Geometry) -> usize {
    transforms::side(geometry.stride[0]).pow(2)
}

/// Returns whether there are transforms for a convolution.
pub(super) fn has_transforms(geometry: &Geometry) -> bool {
    let steps = geometry.stride == [1, 1] || (geometry.stride == [2, 2] && geometry.dilation == [1, 1]);
    geometry.kernel == [3, 3] && steps && geometry.groups == 1
}

/// Returns whether fewer products are needed when each interleaved grid is one tile.
pub(super) fn is_by_grids(geometry: &Geometry) -> bool {
    products(geometry) < tile_products(geometry)
}

/// Returns the tasks for a convolution by tiles.
pub(super) fn order(geometry: &Geometry) -> Order {
    /// Tiles below which they count as few, whatever the number of output channels.
    const FEW_TILES: usize = 128;
    let RegisterSizes { lanes, rows } = RegisterSizes::native();
    let Channels { input, output } = geometry.channels;
    let tiles = geometry.all_tiles().next_multiple_of(lanes);
    let padded_output = output.next_multiple_of(rows);
    if tiles < padded_output.min(FEW_TILES) {
        Order::Channels
    } else if points(geometry) * input * padded_output > KERNELS {
        Order::Points
    } else {
        Order::Tiles
    }
}

/// Writes the convolution of `x` to `output`, by a method that is [`Method::Winograd`] or [`Method::WinogradGrids`].
pub(super) fn forward(
    method: Method,
    geometry: &Geometry,
    x: Planes,
    kernels: Kernels,
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    let Method::Winograd(order) = method else {
        return grids::forward(geometry, x.first, kernels, epilogue, output);
    };
    let convolution = Convolution::new(geometry, x, kernels, epilogue, Disjoint::new(output));
    match order {
        Order::Channels => convolution.by_channels(),
        Order::Points => {
            let Channels { input, output } = geometry.channels;
            convolution.by_points(TILES / (convolution.points * input.max(output) * convolution.lanes));
        }
        Order::Tiles => convolution.by_tiles(),
    }
}

/// Returns the values of the transformed input and output of a block of tiles: three quarters of the second-level cache.
fn block() -> usize {
    cache::second_level() / 4 * 3
}

/// Returns the number of rows of a task, about `most`: the same in each, in whole panels of `step`.
fn chunk(rows: usize, most: usize, step: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most)).next_multiple_of(step)
}

struct Convolution<'a> {
    arch: Arch,
    /// Values of a register.
    lanes: usize,
    /// Output channels that are multiplied together.
    step: usize,
    /// Values of a transformed tile or kernel.
    points: usize,
    geometry: &'a Geometry,
    source: Source<'a>,
    kernels: Kernels<'a>,
    epilogue: Option<Epilogue<'a>>,
    output: Disjoint<'a>,
    /// Registers of tiles.
    vectors: usize,
}

impl<'a> Convolution<'a> {
    fn new(
        geometry: &'a Geometry,
        x: Planes<'a>,
        kernels: Kernels<'a>,
        epilogue: Option<Epilogue<'a>>,
        output: Disjoint<'a>,
    ) -> Self {
        let arch = simd::arch();
        let RegisterSizes { lanes, rows: step } = RegisterSizes::of(arch);
        let source = Source { planes: x, size: geometry.input, padding: geometry.padding };
        let vectors = geometry.all_tiles().div_ceil(lanes);
        Self { arch, lanes, step, points: points(geometry), geometry, source, kernels, epilogue, output, vectors }
    }

    /// [`Order::Tiles`]
    fn by_tiles(&self) {
        let &Self { arch, lanes, step, points, geometry, source, vectors, .. } = self;
        let Channels { input: channels_in, output: channels_out } = geometry.channels;
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
                let (target, channels) = (Part::of(tiles), 0..channels_in);
                arch.dispatch(TransformInput { geometry, source, channels, first_tile, panels, target });
                // SAFETY: each task has its tiles of all output channels.
                let output = unsafe { self.output.part() };
                for (index, kernels) in transformed.as_slice().chunks_exact(points * stride).enumerate() {
                    let rows = index * chunk..(index * chunk + chunk).min(channels_out);
                    self.multiply((kernels, stride), rows, as_maybe(tiles), panels, first_tile, products, output);
                }
            });
        });
    }

    /// [`Order::Channels`]
    fn by_channels(&self) {
        let &Self { lanes, step, points, geometry, kernels, vectors, .. } = self;
        let Channels { input: channels_in, output: channels_out } = geometry.channels;
        let panels = Panels { channels: channels_in, vectors, lanes };
        let tiles = self.transform_input(panels, 0);
        let chunk = step * (block() / (points * channels_in * step)).clamp(1, 4);
        for_each(channels_out.div_ceil(chunk), |index| {
            let rows = index * chunk..(index * chunk + chunk).min(channels_out);
            let stride = rows.len().next_multiple_of(step) * channels_in + SKEW;
            let products = points * (rows.len() * vectors * lanes + SKEW);
            with_scratch([points * stride, products], |[transformed, products]| {
                arch_of_eight().dispatch(TransformKernels {
                    step,
                    geometry,
                    kernels,
                    rows: rows.clone(),
                    stride,
                    target: Part::of(transformed),
                });
                // SAFETY: each task has its output channels.
                let output = unsafe { self.output.part() };
                self.multiply((as_maybe(transformed), stride), rows, tiles.as_slice(), panels, 0, products, output);
            });
        });
    }

    /// [`Order::Points`]: the kernels of a point are read once for `most` registers of tiles, or two.
    fn by_points(&self, most: usize) {
        let &Self { arch, lanes, step, points, geometry, epilogue, ref output, .. } = self;
        let Channels { input: channels_in, output: channels_out } = geometry.channels;
        let padded_out = channels_out.next_multiple_of(step);
        let stride = padded_out * channels_in + SKEW;
        let transformed = self.transform_kernels(padded_out, stride);
        let per_batch = self.vectors.div_ceil(self.vectors.div_ceil(most.max(2))).next_multiple_of(2);
        for first in (0..self.vectors).step_by(per_batch) {
            let vectors = per_batch.min(self.vectors - first);
            let panels = Panels { channels: channels_in, vectors, lanes };
            let first_tile = first * lanes;
            let tiles = self.transform_input(panels, first_tile);
            let products_stride = padded_out * vectors * lanes + SKEW;
            let mut products = Temporary::new(points * products_stride);
            let target = Disjoint::new(products.as_mut_slice());
            let chunk = chunk(channels_out, ROWS, step);
            let chunks = channels_out.div_ceil(chunk);
            for_each(points * chunks, |task| {
                let (point, row) = (task / chunks, task % chunks * chunk);
                arch.dispatch(Multiply {
                    channels_in,
                    points: point..point + 1,
                    kernels: &transformed.as_slice()[row * channels_in..],
                    kernels_stride: stride,
                    rows: chunk.min(channels_out - row),
                    tiles: tiles.as_slice(),
                    panels,
                    // SAFETY: each task has its rows of its point.
                    products: unsafe { target.part() }.skip(row * vectors * lanes),
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
                    products: &products.as_slice()[rows.start * vectors * lanes..],
                    products_stride,
                    epilogue,
                    // SAFETY: each task has its output channels of these tiles.
                    output: unsafe { output.part() },
                });
            });
        }
    }

    /// Computes the outputs of the channels `rows` and some tiles, from the channels' transformed kernels and the distance of two of
    /// their points.
    #[allow(clippy::too_many_arguments)]
    fn multiply(
        &self,
        (kernels, kernels_stride): (&[MaybeUninit<f32>], usize),
        rows: Range<usize>,
        tiles: &[MaybeUninit<f32>],
        panels: Panels,
        first_tile: usize,
        products: &mut [f32],
        output: Part,
    ) {
        let &Self { arch, points, geometry, epilogue, .. } = self;
        let products_stride = rows.len() * panels.vectors * panels.lanes + SKEW;
        arch.dispatch(Multiply {
            channels_in: panels.channels,
            points: 0..points,
            kernels,
            kernels_stride,
            rows: rows.len(),
            tiles,
            panels,
            products: Part::of(products),
            products_stride,
            finish: Finish::Store,
        });
        arch.dispatch(TransformOutput {
            geometry,
            rows,
            vectors: panels.vectors,
            first_tile,
            products: as_maybe(products),
            products_stride,
            epilogue,
            output,
        });
    }

    /// Transforms all kernels: `[chunk of output channels][point][panel of kernel_rows output channels][input channel][output
    /// channel]`, with `stride` values a point.
    fn transform_kernels(&self, chunk: usize, stride: usize) -> Temporary {
        let &Self { step, points, geometry, kernels, .. } = self;
        let Channels { input: channels_in, output: channels_out } = geometry.channels;
        let mut transformed = Temporary::new(channels_out.div_ceil(chunk) * points * stride);
        let target = Disjoint::new(transformed.as_mut_slice());
        for_each(channels_out.div_ceil(step), |panel| {
            let rows = panel * step..(panel * step + step).min(channels_out);
            let (index, row) = (rows.start / chunk, rows.start % chunk);
            // SAFETY: each task has its panel.
            let target = unsafe { target.part() }.skip(index * points * stride + row * channels_in);
            arch_of_eight().dispatch(TransformKernels { step, geometry, kernels, rows, stride, target });
        });
        transformed
    }

    /// Transforms the tiles from `first_tile` on of all channels.
    fn transform_input(&self, panels: Panels, first_tile: usize) -> Temporary {
        /// Channels of a task.
        const CHANNELS: usize = 16;
        let &Self { arch, points, geometry, source, .. } = self;
        let mut transformed = Temporary::new(points * panels.plane());
        let target = Disjoint::new(transformed.as_mut_slice());
        for_each(panels.channels.div_ceil(CHANNELS), |index| {
            let channels = index * CHANNELS..(index * CHANNELS + CHANNELS).min(panels.channels);
            // SAFETY: each task has its channels.
            let target = unsafe { target.part() };
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
        let (x_shape, output) = ([2, 20, 33, 47], [33, 47]);
        let geometry = Geometry::new(x_shape, [150, 20, 3, 3], output, [1, 1], [1, 1], [1, 1], 1);
        let wave = |len: usize| (0..len).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
        let (x, weight) = (wave(2 * 20 * 33 * 47), wave(150 * 20 * 9));
        let [tiles, channels, points] = [0, 1, 2].map(|order| {
            let mut y = vec![f32::NAN; 2 * 150 * 33 * 47];
            let kernels = Kernels::new(&geometry, &weight);
            let convolution = Convolution::new(&geometry, Planes::one(&x, 20), kernels, None, Disjoint::of(&mut y));
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
        let (channels_in, channels_out) = (5, 21);
        let geometry =
            Geometry::new([1, channels_in, 9, 9], [channels_out, channels_in, 3, 3], [9, 9], [1, 1], [1, 1], [1, 1], 1);
        let weight: Vec<f32> = (0..channels_out * channels_in * 9).map(|i| (i as f32 * 0.7).sin()).collect();
        let turned_geometry = geometry.adjoint().expect("the stride is 1");
        let lanes = RegisterSizes::of(arch_of_eight()).lanes;
        // Six channels are not two registers of four, and no processor with such registers has panels of six.
        for step in if lanes == 4 { vec![8] } else { vec![6, 8] } {
            for turned in [false, true] {
                let (geometry, kernels) = if turned {
                    (&turned_geometry, Kernels::new(&geometry, &weight).turned())
                } else {
                    (&geometry, Kernels::new(&geometry, &weight))
                };
                let Channels { input: ins, output: outs } = geometry.channels;
                let stride = outs.next_multiple_of(step) * ins;
                let mut transformed = vec![f32::NAN; 36 * stride];
                let target = Part::of(&mut transformed);
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
                            let index = (a * 6 + b) * stride + out / step * step * ins + channel * step + out % step;
                            let difference = (f64::from(transformed[index]) - expected).abs();
                            assert!(difference < 1e-6, "{step} {turned}: {out} {channel} {a} {b}");
                        }
                    }
                }
            }
        }
    }
}
