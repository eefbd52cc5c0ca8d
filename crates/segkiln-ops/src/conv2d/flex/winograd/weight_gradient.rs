//! The gradient of the kernels, by the adjoint of the forward pass: products of transformed tiles are summed over all tiles, and the
//! sums are transformed back once.

use std::{mem::MaybeUninit, ops::Range};

use pulp::{Simd, WithSimd};

use super::{
    SKEW,
    tiles::{Line, Source, Window},
    transforms::{POINTS, gradient_points, input_points, kernel_gradient_column},
};
use crate::{
    conv2d::flex::{Geometry, Planes, TASKS, geometry::Channels},
    cpu::{
        disjoint::{Disjoint, Part},
        matrix::{Finish, Left, Product, RegisterSizes, Strided, kernel_rows},
        memory::{Temporary, with_scratch, written_vec},
        simd::{self, Lanes, MOST_LANES, transpose},
        threads::{for_each, for_each_chunk},
    },
};

/// Input channels, and output channels, of a task.
const CHUNK: usize = 64;
/// Registers of tiles that are transformed before their products are computed.
const GRADIENT_VECTORS: usize = 2;

/// Sums the products of transformed tiles of the input and of the output's gradient: `[point][output channel][input channel]`.
struct Correlate<'a> {
    geometry: &'a Geometry,
    x: Source<'a>,
    grad: Source<'a>,
    channels_out: Range<usize>,
    channels_in: Range<usize>,
    /// Registers of tiles.
    vectors: Range<usize>,
    /// Scratch: transformed input tiles, `[point][panel of two registers of channels][tile][channel]`.
    inputs: &'a mut [f32],
    /// Scratch: transformed gradients, `[point][channel][tile]`.
    grads: &'a mut [f32],
    /// All written at the end but for the gaps between points.
    sums: &'a mut [MaybeUninit<f32>],
}

/// Sizes of the arrays of a [`Correlate`].
struct Correlation {
    /// Input channels, in whole registers.
    width: usize,
    /// Distance of two points of the transformed inputs.
    inputs: usize,
    /// Distance of two points of the transformed gradients.
    grads: usize,
    /// Distance of two points of the sums.
    sums: usize,
}

impl Correlation {
    fn new(lanes: usize, step: usize, channels_out: usize, channels_in: usize) -> Self {
        let width = channels_in.next_multiple_of(lanes);
        let tiles = GRADIENT_VECTORS * lanes;
        Self {
            width,
            inputs: width * tiles + SKEW,
            grads: channels_out.next_multiple_of(step) * tiles + SKEW,
            sums: channels_out * width + SKEW,
        }
    }
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, x, grad, channels_out, channels_in, vectors, inputs, grads, sums } = self;
        let (lanes, step) = (S::F32_LANES, kernel_rows::<S>());
        let sizes = Correlation::new(lanes, step, channels_out.len(), channels_in.len());
        assert!(inputs.len() >= POINTS * sizes.inputs && grads.len() >= POINTS * sizes.grads);
        assert!(sums.len() >= POINTS * sizes.sums);
        let mut halves = [Line::EMPTY; 6];
        // The points of a register of channels and a register of tiles.
        let mut square = [[0.0f32; MOST_LANES * MOST_LANES]; POINTS];
        let panels = sizes.width / lanes;
        let begin = vectors.start;
        for first in vectors.clone().step_by(GRADIENT_VECTORS) {
            let count = GRADIENT_VECTORS.min(vectors.end - first);
            for index in 0..count {
                let mut inputs_window = Window::new(simd, geometry, x, (first + index) * lanes);
                let mut grads_window = Window::new(simd, geometry, grad, (first + index) * lanes);
                for panel in 0..panels {
                    let channels = channels_in.len().min((panel + 1) * lanes) - panel * lanes;
                    for row in 0..channels {
                        let channel = channels_in.start + panel * lanes + row;
                        // SAFETY: each of the squares has `lanes` rows of a register.
                        unsafe {
                            let square = square.as_mut_ptr().cast::<f32>().add(row * lanes);
                            input_points::<S, 1, 6, 2>(
                                simd,
                                &mut inputs_window,
                                channel,
                                &mut halves,
                                |point, value| {
                                    value.store(square.add(point * MOST_LANES * MOST_LANES));
                                },
                            );
                        }
                    }
                    for (point, square) in square.iter().enumerate() {
                        let mut rows = [Lanes::splat(simd, 0.0); MOST_LANES];
                        // SAFETY: a square has as many registers, and the panel of inputs as many rows from this one on.
                        unsafe {
                            for row in 0..channels {
                                rows[row] = Lanes::load(simd, square.as_ptr().add(row * lanes));
                            }
                            transpose(&mut rows);
                            let pair = panel / 2;
                            let width = (panels - 2 * pair).min(2) * lanes;
                            let start = point * sizes.inputs + 2 * pair * lanes * GRADIENT_VECTORS * lanes;
                            for row in 0..lanes {
                                let offset = start + (index * lanes + row) * width + panel % 2 * lanes;
                                rows[row].store(inputs.as_mut_ptr().add(offset));
                            }
                        }
                    }
                }
                for row in 0..channels_out.len() {
                    // SAFETY: the array has all points of this channel and register, by the assertions.
                    unsafe {
                        let target = grads.as_mut_ptr().add((row * GRADIENT_VECTORS + index) * lanes);
                        let channel = channels_out.start + row;
                        gradient_points(simd, &mut grads_window, channel, &mut halves, |point, value| {
                            value.store(target.add(point * sizes.grads));
                        });
                    }
                }
            }
            let tiles = GRADIENT_VECTORS * lanes;
            for point in 0..POINTS {
                for row in (0..channels_out.len()).step_by(step) {
                    for pair in 0..panels.div_ceil(2) {
                        let vectors = (panels - 2 * pair).min(2);
                        // SAFETY: the arrays' sizes were compared above, and sums that are added to were stored before.
                        unsafe {
                            let grads = grads.as_ptr().add(point * sizes.grads + row * tiles);
                            let product = Product {
                                depth: count * lanes,
                                left: Left::Rows(grads, tiles),
                                right: Strided(
                                    inputs.as_ptr().add(point * sizes.inputs + 2 * pair * lanes * tiles),
                                    vectors * lanes,
                                ),
                                output: sums
                                    .as_mut_ptr()
                                    .cast::<f32>()
                                    .add(point * sizes.sums + row * sizes.width + 2 * pair * lanes),
                                output_stride: sizes.width,
                                rows: step.min(channels_out.len() - row),
                                columns: vectors * lanes,
                            };
                            product.compute(simd, if first > begin { Finish::Add } else { Finish::Store });
                        }
                    }
                }
            }
        }
    }
}

/// Returns the gradient of the kernels, `[output channels, input channels, 3, 3]`, from the input and the output's gradient; the
/// stride is 1.
pub(in crate::conv2d::flex) fn weight_gradient(geometry: &Geometry, x: Planes, grad: &[f32]) -> Vec<f32> {
    let arch = simd::arch();
    let RegisterSizes { lanes, rows: step } = RegisterSizes::of(arch);
    let Channels { input: channels_in, output: channels_out } = geometry.channels;
    let x = Source { planes: x, size: geometry.input, padding: geometry.padding };
    let grad = Source { planes: Planes::one(grad, channels_out), size: geometry.output, padding: [0, 0] };
    let vectors = geometry.all_tiles().div_ceil(lanes);
    let chunks = [channels_out.div_ceil(CHUNK), channels_in.div_ceil(CHUNK)];
    let wanted = TASKS.div_ceil(chunks[0] * chunks[1]).min(vectors.div_ceil(8));
    let per_part = vectors.div_ceil(wanted).next_multiple_of(GRADIENT_VECTORS);
    let parts = vectors.div_ceil(per_part);
    let range = |chunk: usize, channels: usize| chunk * CHUNK..((chunk + 1) * CHUNK).min(channels);

    let size = |out: usize, input: usize| {
        let sizes = Correlation::new(lanes, step, range(out, channels_out).len(), range(input, channels_in).len());
        POINTS * sizes.sums
    };
    let most = size(0, 0);
    let finish = |out: usize, input: usize, sums: &[MaybeUninit<f32>], target: Part| {
        let (outs, inputs) = (range(out, channels_out), range(input, channels_in));
        let sizes = Correlation::new(lanes, step, outs.len(), inputs.len());
        arch.dispatch(KernelGradient { outs, inputs, channels_in, sizes, sums, target });
    };
    let correlate = |out: usize, input: usize, part: usize, sums: &mut [MaybeUninit<f32>]| {
        let (channels_out, channels_in) = (range(out, channels_out), range(input, channels_in));
        let sizes = Correlation::new(lanes, step, channels_out.len(), channels_in.len());
        let vectors = part * per_part..((part + 1) * per_part).min(vectors);
        with_scratch([POINTS * sizes.inputs, POINTS * sizes.grads], |[inputs, grads]| {
            arch.dispatch(Correlate { geometry, x, grad, channels_out, channels_in, vectors, inputs, grads, sums });
        });
    };
    let pairs = chunks[0] * chunks[1];
    let write = |target: Disjoint| {
        if parts == 1 {
            for_each(pairs, |pair| {
                let (out, input) = (pair / chunks[1], pair % chunks[1]);
                let mut sums = Temporary::new(size(out, input));
                correlate(out, input, 0, sums.as_mut_slice());
                // SAFETY: each task has its pair of chunks of channels.
                finish(out, input, sums.as_slice(), unsafe { target.part() });
            });
            return;
        }
        let mut sums = Temporary::new(pairs * parts * most);
        for_each_chunk(sums.as_mut_slice(), most, |task, sums| {
            let (pair, part) = (task / parts, task % parts);
            correlate(pair / chunks[1], pair % chunks[1], part, sums);
        });
        for_each_chunk(sums.as_mut_slice(), parts * most, |pair, sums| {
            let (out, input) = (pair / chunks[1], pair % chunks[1]);
            let (total, others) = sums.split_at_mut(most);
            let len = size(out, input);
            for other in others.chunks_exact(most) {
                for (total, other) in total[..len].chunks_exact_mut(len / POINTS).zip(other.chunks_exact(len / POINTS))
                {
                    // The gaps between points were not written.
                    let written = total.len() - SKEW;
                    // SAFETY: the sums of the pair's channels were written, of each part.
                    let (total, other) =
                        unsafe { (total[..written].assume_init_mut(), other[..written].assume_init_ref()) };
                    for (total, other) in total.iter_mut().zip(other) {
                        *total += other;
                    }
                }
            }
            // SAFETY: as above.
            finish(out, input, total, unsafe { target.part() });
        });
    };
    // SAFETY: the pairs of chunks are all channels.
    unsafe { written_vec(channels_out * channels_in * 9, |gradient| write(Disjoint::new(gradient))) }
}

/// Transforms sums of points back to kernels.
struct KernelGradient<'a> {
    outs: Range<usize>,
    inputs: Range<usize>,
    channels_in: usize,
    sizes: Correlation,
    sums: &'a [MaybeUninit<f32>],
    target: Part<'a>,
}

impl WithSimd for KernelGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { outs, inputs, channels_in, sizes, sums, target } = self;
        assert!(sums.len() >= (POINTS - 1) * sizes.sums + outs.len() * sizes.width);
        for (row, out) in outs.enumerate() {
            for (column, input) in inputs.clone().enumerate() {
                let mut half = [[0.0f32; 6]; 3];
                for b in 0..6 {
                    let mut points = [0.0; 6];
                    for a in 0..6 {
                        let sum = sums[(a * 6 + b) * sizes.sums + row * sizes.width + column];
                        // SAFETY: the sums of these channels were written.
                        points[a] = unsafe { sum.assume_init() };
                    }
                    let points = kernel_gradient_column(points);
                    for a in 0..3 {
                        half[a][b] = points[a];
                    }
                }
                let target = target.at((out * channels_in + input) * 9, 9).cast::<[f32; 3]>();
                for a in 0..3 {
                    // SAFETY: the target has nine taps.
                    unsafe { target.add(a).write(kernel_gradient_column(half[a])) };
                }
            }
        }
    }
}
