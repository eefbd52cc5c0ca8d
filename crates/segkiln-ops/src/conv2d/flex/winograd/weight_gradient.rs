//! The gradient of the kernels: the adjoint of the way forward, so that tiles are added up before they are transformed back.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    SKEW,
    tiles::{Line, Source, Window},
    transforms::{POINTS, gradient_points, input_points, kernel_gradient_column},
};
use crate::{
    conv2d::flex::{Geometry, Planes, TASKS},
    cpu::{
        matrix::{Finish, Left, Product, Sizes, Strided, kernel_rows},
        memory::{Shared, Temporary, with_scratch},
        simd::{self, Lanes, MOST_LANES, transpose},
        threads::{for_each, for_each_chunk},
    },
};

/// Channels whose weights' gradients are one task.
const CHUNK: usize = 64;
/// Registers of tiles that are transformed before they are multiplied.
const GRADIENT_VECTORS: usize = 2;

/// Adds up the products of transformed tiles of the input and of the output's gradient:
/// `[point][channel out][channel in]`.
struct Correlate<'a> {
    geometry: &'a Geometry,
    x: Source<'a>,
    grad: Source<'a>,
    channels_out: Range<usize>,
    channels_in: Range<usize>,
    /// Registers of tiles.
    vectors: Range<usize>,
    /// Scratch.
    inputs: &'a mut [f32],
    grads: &'a mut [f32],
    sums: &'a mut [f32],
}

/// Sizes of a [`Correlate`] and its arrays.
struct Correlation {
    /// Channels in, in whole registers.
    width: usize,
    /// From a point to the next.
    inputs: usize,
    grads: usize,
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
        // Points of a register of channels by a register of tiles.
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
                        // SAFETY: a square has as many rows of a register.
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
                        // SAFETY: a square has as many registers, and the panel of inputs as many rows from this on.
                        unsafe {
                            for row in 0..channels {
                                rows[row] = Lanes::load(simd, square.as_ptr().add(row * lanes));
                            }
                            transpose(&mut rows);
                            // `[point][panel of two registers of channels][tile][channel]`
                            let pair = panel / 2;
                            let width = (panels - 2 * pair).min(2) * lanes;
                            let start = point * sizes.inputs + 2 * pair * lanes * GRADIENT_VECTORS * lanes;
                            for row in 0..lanes {
                                let place = start + (index * lanes + row) * width + panel % 2 * lanes;
                                rows[row].store(inputs.as_mut_ptr().add(place));
                            }
                        }
                    }
                }
                for row in 0..channels_out.len() {
                    // SAFETY: the array has all points of this channel and register.
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
                        // SAFETY: the sizes were compared above.
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

/// The gradient of the kernels, `[channels out, channels in, 3, 3]`, from the input and the output's gradient; the stride is 1.
pub(in crate::conv2d::flex) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let arch = simd::arch();
    let [lanes, step] = arch.dispatch(Sizes);
    let [channels_in, channels_out] = geometry.channels;
    let x = Source { planes: Planes::one(x, channels_in), size: geometry.input, padding: geometry.padding };
    let grad = Source { planes: Planes::one(grad, channels_out), size: geometry.output, padding: [0, 0] };
    let vectors = geometry.all_tiles().div_ceil(lanes);
    let chunks = [channels_out.div_ceil(CHUNK), channels_in.div_ceil(CHUNK)];
    let wanted = TASKS.div_ceil(chunks[0] * chunks[1]).min(vectors.div_ceil(8));
    let per_part = vectors.div_ceil(wanted).next_multiple_of(GRADIENT_VECTORS);
    let parts = vectors.div_ceil(per_part);
    let range = |chunk: usize, channels: usize| chunk * CHUNK..((chunk + 1) * CHUNK).min(channels);

    let mut gradient = vec![0.0f32; channels_out * channels_in * 9];
    let target = Shared(gradient.as_mut_ptr());
    let size = |out: usize, input: usize| {
        let sizes = Correlation::new(lanes, step, range(out, channels_out).len(), range(input, channels_in).len());
        POINTS * sizes.sums
    };
    let most = size(0, 0);
    let finish = |out: usize, input: usize, sums: &[f32]| {
        let (outs, inputs) = (range(out, channels_out), range(input, channels_in));
        let sizes = Correlation::new(lanes, step, outs.len(), inputs.len());
        arch.dispatch(KernelGradient { outs, inputs, channels_in, sizes, sums, target });
    };
    let correlate = |out: usize, input: usize, part: usize, sums: &mut [f32]| {
        let (channels_out, channels_in) = (range(out, channels_out), range(input, channels_in));
        let sizes = Correlation::new(lanes, step, channels_out.len(), channels_in.len());
        let vectors = part * per_part..((part + 1) * per_part).min(vectors);
        with_scratch([POINTS * sizes.inputs, POINTS * sizes.grads], |[inputs, grads]| {
            arch.dispatch(Correlate { geometry, x, grad, channels_out, channels_in, vectors, inputs, grads, sums });
        });
    };
    let pairs = chunks[0] * chunks[1];
    if parts == 1 {
        for_each(pairs, |pair| {
            let (out, input) = (pair / chunks[1], pair % chunks[1]);
            // SAFETY: all sums are written.
            let mut sums = unsafe { Temporary::new(size(out, input)) };
            correlate(out, input, 0, &mut sums);
            finish(out, input, &sums);
        });
    } else {
        // SAFETY: all sums are written that are read.
        let mut sums = unsafe { Temporary::new(pairs * parts * most) };
        for_each_chunk(&mut sums, most, |task, sums| {
            let (pair, part) = (task / parts, task % parts);
            correlate(pair / chunks[1], pair % chunks[1], part, sums);
        });
        for_each_chunk(&mut sums, parts * most, |pair, sums| {
            let (out, input) = (pair / chunks[1], pair % chunks[1]);
            let (total, others) = sums.split_at_mut(most);
            let len = size(out, input);
            for other in others.chunks_exact(most) {
                // Between the planes of points nothing was written.
                for (total, other) in total[..len].chunks_exact_mut(len / POINTS).zip(other.chunks_exact(len / POINTS))
                {
                    let written = total.len() - SKEW;
                    for (total, other) in total[..written].iter_mut().zip(other) {
                        *total += other;
                    }
                }
            }
            finish(out, input, total);
        });
    }
    gradient
}

/// Transforms sums of points back to kernels.
struct KernelGradient<'a> {
    outs: Range<usize>,
    inputs: Range<usize>,
    channels_in: usize,
    sizes: Correlation,
    sums: &'a [f32],
    target: Shared,
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
                        points[a] = sums[(a * 6 + b) * sizes.sums + row * sizes.width + column];
                    }
                    let points = kernel_gradient_column(points);
                    for a in 0..3 {
                        half[a][b] = points[a];
                    }
                }
                for a in 0..3 {
                    let taps = kernel_gradient_column(half[a]);
                    // SAFETY: within the gradient; every task has its own channels.
                    unsafe { target.at((out * channels_in + input) * 9 + 3 * a).cast::<[f32; 3]>().write(taps) };
                }
            }
        }
    }
}
