//! With a 2×2 kernel and stride 2 no two input pixels reach the same output. A row of the matrix products here is an output
//! channel and a place in the kernel: `row = 4·channel + 2·a + b` for kernel row `a` and column `b`.

use burn::{
    backend::{Flex, flex::FlexTensor, ops::ModuleOps, tensor::FloatTensor},
    tensor::DType,
};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{ConvTranspose2dOps, doubling};
use crate::{
    pool::vector,
    simd::{
        self, Lanes, MOST_LANES, Shared, Sizes, contiguous, kernel, kernel_rows, pooled_tensor, tensor, total,
        transpose, uninit, with_scratch,
    },
};

/// Pixels of a block.
const BLOCK: usize = 64;
/// Matrix rows whose weights' gradients are one task.
const CHUNK: usize = 64;
/// Tasks wanted for the gradient of the weight; fixed, so that sums do not depend on the number of threads.
const TASKS: usize = 32;

impl ConvTranspose2dOps for Flex {
    fn double(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&x, &weight, &bias]) {
            return <Flex as ModuleOps<Flex>>::conv_transpose2d(x, weight, Some(bias), doubling());
        }
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let sizes = Doubling::new(&x, weight.layout().shape().dims::<4>()[1]);
        let Doubling { batch, channels: [channels_in, channels_out], size: [height, width] } = sizes;
        let arch = simd::arch();
        let [_, step] = arch.dispatch(Sizes);
        let rows = 4 * channels_out;
        let panels = packed(weight.storage(), rows, channels_in, [1, rows], step);
        let (x, bias): (&[f32], &[f32]) = (x.storage(), bias.storage());
        let mut output = vector(batch * rows * sizes.pixels());
        let target = Shared(output.as_mut_ptr());
        sizes.blocks().into_par_iter().for_each(|(image, first)| {
            with_scratch([channels_in * BLOCK], |[block]| {
                arch.dispatch(Double { sizes, panels: &panels, bias, x, image, first, block, target });
            });
        });
        // SAFETY: the blocks are all of the input's pixels, and each writes its four.
        unsafe { output.set_len(batch * rows * sizes.pixels()) };
        pooled_tensor(output, [batch, channels_out, 2 * height, 2 * width])
    }

    fn double_x_backward(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32(&[&weight, &grad]) {
            return <Flex as ModuleOps<Flex>>::conv_transpose2d_x_backward(weight, grad, doubling());
        }
        let [weight, grad] = [weight, grad].map(contiguous);
        let [channels_in, channels_out, _, _] = weight.layout().shape().dims();
        let [batch, channels, height, width] = grad.layout().shape().dims();
        assert_eq!(channels, channels_out, "channels of the output's gradient");
        let sizes = Doubling { batch, channels: [channels_in, channels_out], size: [height / 2, width / 2] };
        let arch = simd::arch();
        let [_, step] = arch.dispatch(Sizes);
        let rows = 4 * channels_out;
        let panels = packed(weight.storage(), channels_in, rows, [rows, 1], step);
        let grad: &[f32] = grad.storage();
        let mut output: Vec<f32> = Vec::with_capacity(batch * channels_in * sizes.pixels());
        let target = Shared(output.as_mut_ptr());
        sizes.blocks().into_par_iter().for_each(|(image, first)| {
            with_scratch([rows * BLOCK], |[block]| {
                arch.dispatch(DoubleBackward { sizes, panels: &panels, grad, image, first, block, target });
            });
        });
        // SAFETY: the blocks are all pixels.
        unsafe { output.set_len(batch * channels_in * sizes.pixels()) };
        tensor(output, [batch, channels_in, height / 2, width / 2])
    }

    fn double_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&x, &grad]) {
            return <Flex as ModuleOps<Flex>>::conv_transpose2d_weight_backward(x, weight, grad, doubling());
        }
        let [x, grad] = [x, grad].map(contiguous);
        let channels_out = weight.layout().shape().dims::<4>()[1];
        let sizes = Doubling::new(&x, channels_out);
        let Doubling { batch, channels: [channels_in, _], size: [height, width] } = sizes;
        let grad_shape: [usize; 4] = grad.layout().shape().dims();
        assert_eq!(grad_shape, [batch, channels_out, 2 * height, 2 * width], "the output's gradient");
        let (x, grad): (&[f32], &[f32]) = (x.storage(), grad.storage());
        let arch = simd::arch();
        let [lanes, step] = arch.dispatch(Sizes);
        let rows = 4 * channels_out;
        let blocks = sizes.blocks();
        let chunks = rows.div_ceil(CHUNK);
        let per_part = blocks.len().div_ceil(TASKS.div_ceil(chunks)).max(8);
        let parts = blocks.len().div_ceil(per_part);
        let width = CHUNK.min(rows).next_multiple_of(lanes);
        let size = channels_in * width;
        let mut sums = uninit(chunks * parts * size);
        sums.par_chunks_exact_mut(size).enumerate().for_each(|(task, sums)| {
            let (chunk, part) = (task / parts, task % parts);
            let blocks = &blocks[part * per_part..((part + 1) * per_part).min(blocks.len())];
            let inputs = channels_in.next_multiple_of(step) * BLOCK;
            let first_row = chunk * CHUNK;
            with_scratch([inputs, width * BLOCK, width * BLOCK], |[inputs, grads, turned]| {
                arch.dispatch(Correlate { sizes, x, grad, first_row, width, blocks, inputs, grads, turned, sums });
            });
        });
        let mut gradient = vec![0.0f32; channels_in * rows];
        gradient.par_chunks_exact_mut(rows).enumerate().for_each(|(channel, gradient)| {
            for (chunk, gradient) in gradient.chunks_mut(CHUNK).enumerate() {
                for part in 0..parts {
                    let sums = &sums[(chunk * parts + part) * size + channel * width..];
                    for (value, sum) in gradient.iter_mut().zip(sums) {
                        *value += sum;
                    }
                }
            }
        });
        tensor(gradient, [channels_in, channels_out, 2, 2])
    }

    fn double_bias_backward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&grad]) {
            return <Flex as ModuleOps<Flex>>::conv_transpose2d_bias_backward(x, bias, grad);
        }
        let grad = contiguous(grad);
        let [batch, channels, height, width] = grad.layout().shape().dims();
        let (grad, size, arch): (&[f32], _, _) = (grad.storage(), height * width, simd::arch());
        let sums = (0..channels).into_par_iter().map(|channel| {
            let planes = (0..batch).map(|image| &grad[(image * channels + channel) * size..][..size]);
            planes.map(|plane| arch.dispatch(Total(plane))).sum::<f64>() as f32
        });
        tensor(sums.collect(), [channels])
    }
}

fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The sizes of the input.
#[derive(Clone, Copy)]
struct Doubling {
    batch: usize,
    /// Channels in and out.
    channels: [usize; 2],
    size: [usize; 2],
}

impl Doubling {
    fn new(x: &FlexTensor, channels_out: usize) -> Self {
        let [batch, channels_in, height, width] = x.layout().shape().dims();
        Self { batch, channels: [channels_in, channels_out], size: [height, width] }
    }

    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Image and first pixel of each block.
    fn blocks(&self) -> Vec<(usize, usize)> {
        let starts = (0..self.pixels()).step_by(BLOCK);
        (0..self.batch).flat_map(|image| starts.clone().map(move |first| (image, first))).collect()
    }

    /// Pieces of rows among `count` pixels from `first` on: first pixel, row, column, pixels.
    fn pieces(&self, first: usize, count: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let (width, end) = (self.size[1], (first + count).min(self.pixels()));
        let mut pixel = first;
        std::iter::from_fn(move || {
            let (row, column) = (pixel / width, pixel % width);
            let piece = (pixel - first, row, column, (width - column).min(end.saturating_sub(pixel)));
            pixel += piece.3;
            (piece.3 > 0).then_some(piece)
        })
    }

    /// A register of pixels from `first` on of both matrix rows of an output channel and a kernel row; 0 past the last.
    ///
    /// # Safety
    /// `grad` has the output's size.
    #[inline(always)]
    unsafe fn gradient<S: Simd>(
        &self,
        simd: S,
        grad: &[f32],
        image: usize,
        channel: usize,
        a: usize,
        first: usize,
    ) -> [Lanes<S>; 2] {
        let [_, width] = self.size;
        let plane = (image * self.channels[1] + channel) * 4 * self.pixels();
        let (row, column) = (first / width, first % width);
        let line = plane + (2 * row + a) * 2 * width;
        // SAFETY: two registers are within a row of the plane, or come from the array.
        unsafe {
            if column + S::F32_LANES <= width && first < self.pixels() {
                let line = grad.as_ptr().add(line + 2 * column);
                return Lanes::load(simd, line).unzip(Lanes::load(simd, line.add(S::F32_LANES)));
            }
            let mut values = [0.0f32; 2 * MOST_LANES];
            for (offset, row, column, count) in self.pieces(first, S::F32_LANES) {
                let line = &grad[plane + ((2 * row + a) * width + column) * 2..][..2 * count];
                values[2 * offset..2 * (offset + count)].copy_from_slice(line);
            }
            let values = values.as_ptr();
            Lanes::load(simd, values).unzip(Lanes::load(simd, values.add(S::F32_LANES)))
        }
    }
}

/// `[panel of step rows][depth][row]`, with zeros for the rows that the last panel lacks.
fn packed(values: &[f32], rows: usize, depth: usize, [row, column]: [usize; 2], step: usize) -> Vec<f32> {
    let mut packed = vec![0.0f32; rows.next_multiple_of(step) * depth];
    packed.par_chunks_exact_mut(step * depth).enumerate().for_each(|(panel, packed)| {
        for (p, packed) in packed.chunks_exact_mut(step).enumerate() {
            for (i, value) in packed.iter_mut().enumerate().take(rows - panel * step) {
                *value = values[(panel * step + i) * row + p * column];
            }
        }
    });
    packed
}

/// The output of a block of pixels.
struct Double<'a> {
    sizes: Doubling,
    panels: &'a [f32],
    bias: &'a [f32],
    x: &'a [f32],
    image: usize,
    first: usize,
    /// Scratch.
    block: &'a mut [f32],
    target: Shared,
}

impl WithSimd for Double<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, panels, bias, x, image, first, block, target } = self;
        let (step, width) = (kernel_rows::<S>(), 2 * S::F32_LANES);
        let ([channels_in, channels_out], pixels) = (sizes.channels, sizes.pixels());
        let count = BLOCK.min(pixels - first);
        // `[pair of registers][channel][pixel]`
        for (pair, block) in block.chunks_exact_mut(channels_in * width).enumerate().take(count.div_ceil(width)) {
            let start = first + pair * width;
            let count = width.min(pixels - start);
            for (channel, block) in block.chunks_exact_mut(width).enumerate() {
                let x = &x[(image * channels_in + channel) * pixels + start..][..count];
                block[..count].copy_from_slice(x);
                block[count..].fill(0.0);
            }
        }
        let mut products = [0.0f32; 8 * 2 * MOST_LANES];
        let mut line = [0.0f32; 4 * MOST_LANES];
        let output_width = 2 * sizes.size[1];
        for (panel, weights) in panels.chunks_exact(step * channels_in).enumerate() {
            for pair in 0..count.div_ceil(width) {
                let start = first + pair * width;
                // SAFETY: a panel has `step` rows, a block `channels_in`, and the products have room for the rows.
                unsafe {
                    let block = block[pair * channels_in * width..].as_ptr();
                    let products = products.as_mut_ptr();
                    kernel(
                        simd,
                        channels_in,
                        weights.as_ptr(),
                        [1, step],
                        block,
                        width,
                        products,
                        width,
                        step,
                        2,
                        false,
                    );
                }
                for quarter in 0..step / 4 {
                    let channel = panel * step / 4 + quarter;
                    if channel >= channels_out {
                        break;
                    }
                    let bias = Lanes::splat(simd, bias[channel]);
                    let plane = (image * channels_out + channel) * 4 * pixels;
                    for a in 0..2 {
                        // SAFETY: the products have two rows from here; the line has room for them, and the output for
                        // the rows' pieces, which no other task writes.
                        unsafe {
                            let row = products.as_ptr().add((4 * quarter + 2 * a) * width);
                            for half in 0..2 {
                                let even = Lanes::load(simd, row.add(half * S::F32_LANES)) + bias;
                                let odd = Lanes::load(simd, row.add(width + half * S::F32_LANES)) + bias;
                                let [low, high] = even.zip(odd);
                                low.store(line.as_mut_ptr().add(half * width));
                                high.store(line.as_mut_ptr().add(half * width + S::F32_LANES));
                            }
                            for (offset, row, column, count) in sizes.pieces(start, width.min(first + count - start)) {
                                let target = target.at(plane + (2 * row + a) * output_width + 2 * column);
                                std::ptr::copy_nonoverlapping(line.as_ptr().add(2 * offset), target, 2 * count);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The input's gradient of a block of pixels.
struct DoubleBackward<'a> {
    sizes: Doubling,
    panels: &'a [f32],
    grad: &'a [f32],
    image: usize,
    first: usize,
    /// Scratch.
    block: &'a mut [f32],
    target: Shared,
}

impl WithSimd for DoubleBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, panels, grad, image, first, block, target } = self;
        let (step, width) = (kernel_rows::<S>(), 2 * S::F32_LANES);
        let ([channels_in, channels_out], pixels) = (sizes.channels, sizes.pixels());
        let (count, depth) = (BLOCK.min(pixels - first), 4 * channels_out);
        // `[pair of registers][row][pixel]`
        for (pair, block) in block.chunks_exact_mut(depth * width).enumerate().take(count.div_ceil(width)) {
            for channel in 0..channels_out {
                for a in 0..2 {
                    for half in 0..2 {
                        let first = first + pair * width + half * S::F32_LANES;
                        // SAFETY: the gradient has the output's size, and the block both rows of two registers.
                        unsafe {
                            let [even, odd] = sizes.gradient(simd, grad, image, channel, a, first);
                            let rows = block.as_mut_ptr().add((4 * channel + 2 * a) * width + half * S::F32_LANES);
                            even.store(rows);
                            odd.store(rows.add(width));
                        }
                    }
                }
            }
        }
        let mut products = [0.0f32; 8 * 2 * MOST_LANES];
        for (panel, weights) in panels.chunks_exact(step * depth).enumerate() {
            for pair in 0..count.div_ceil(width) {
                let start = pair * width;
                // SAFETY: a panel has `step` rows, a block `depth`, and the products have room for the rows.
                unsafe {
                    let block = block[pair * depth * width..].as_ptr();
                    let products = products.as_mut_ptr();
                    kernel(simd, depth, weights.as_ptr(), [1, step], block, width, products, width, step, 2, false);
                }
                for row in 0..step.min(channels_in - panel * step) {
                    let place = (image * channels_in + panel * step + row) * pixels + first + start;
                    let products = products[row * width..].as_ptr();
                    // SAFETY: these pixels of the plane are written here only.
                    unsafe { std::ptr::copy_nonoverlapping(products, target.at(place), width.min(count - start)) };
                }
            }
        }
    }
}

/// Adds up the products of inputs and gradients of blocks of pixels: `[channel in][matrix row]`.
struct Correlate<'a> {
    sizes: Doubling,
    x: &'a [f32],
    grad: &'a [f32],
    first_row: usize,
    /// Matrix rows, in whole registers.
    width: usize,
    blocks: &'a [(usize, usize)],
    /// Scratch.
    inputs: &'a mut [f32],
    grads: &'a mut [f32],
    turned: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, x, grad, first_row, width, blocks, inputs, grads, turned, sums } = self;
        let (step, lanes) = (kernel_rows::<S>(), S::F32_LANES);
        let ([channels_in, channels_out], pixels) = (sizes.channels, sizes.pixels());
        let registers = width / lanes;
        assert!(inputs.len() >= channels_in.next_multiple_of(step) * BLOCK && sums.len() >= channels_in * width);
        assert!(grads.len() >= width * BLOCK && turned.len() >= width * BLOCK);
        grads.fill(0.0);
        for (index, &(image, first)) in blocks.iter().enumerate() {
            let count = BLOCK.min(pixels - first);
            for (channel, inputs) in inputs.chunks_exact_mut(BLOCK).enumerate().take(channels_in) {
                inputs[..count].copy_from_slice(&x[(image * channels_in + channel) * pixels + first..][..count]);
                inputs[count..].fill(0.0);
            }
            for row in (0..width).step_by(2) {
                let (channel, a) = ((first_row + row) / 4, row / 2 % 2);
                if channel >= channels_out {
                    break;
                }
                for offset in (0..BLOCK).step_by(lanes) {
                    // SAFETY: the gradient has the output's size, and the array both rows of a block.
                    unsafe {
                        let [even, odd] = sizes.gradient(simd, grad, image, channel, a, first + offset);
                        let rows = grads.as_mut_ptr().add(row * BLOCK + offset);
                        even.store(rows);
                        if row + 1 < width {
                            odd.store(rows.add(BLOCK));
                        }
                    }
                }
            }
            // `[pair of registers of rows][pixel][row]`
            for register in 0..registers {
                let pair = register / 2;
                let panel = (registers - 2 * pair).min(2) * lanes;
                for offset in (0..BLOCK).step_by(lanes) {
                    let mut square = [Lanes::splat(simd, 0.0); MOST_LANES];
                    // SAFETY: both arrays have `width` rows of a block.
                    unsafe {
                        for (row, square) in square.iter_mut().enumerate().take(lanes) {
                            *square = Lanes::load(simd, grads.as_ptr().add((register * lanes + row) * BLOCK + offset));
                        }
                        transpose(&mut square);
                        let start = 2 * pair * lanes * BLOCK + register % 2 * lanes;
                        for (row, square) in square.iter().enumerate().take(lanes) {
                            square.store(turned.as_mut_ptr().add(start + (offset + row) * panel));
                        }
                    }
                }
            }
            for channel in (0..channels_in).step_by(step) {
                for pair in 0..registers.div_ceil(2) {
                    let vectors = (registers - 2 * pair).min(2);
                    // SAFETY: the sizes were compared above.
                    unsafe {
                        kernel(
                            simd,
                            BLOCK,
                            inputs.as_ptr().add(channel * BLOCK),
                            [BLOCK, 1],
                            turned.as_ptr().add(2 * pair * lanes * BLOCK),
                            vectors * lanes,
                            sums.as_mut_ptr().add(channel * width + 2 * pair * lanes),
                            width,
                            step.min(channels_in - channel),
                            vectors,
                            index > 0,
                        );
                    }
                }
            }
        }
    }
}

/// The sum of a plane.
struct Total<'a>(&'a [f32]);

impl WithSimd for Total<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let mut sum = 0.0;
        for chunk in self.0.chunks(4096) {
            sum += f64::from(total(simd, chunk));
        }
        sum
    }
}
