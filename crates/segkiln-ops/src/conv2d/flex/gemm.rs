//! Implicit GEMM: for a block of output pixels, the input values that each reads are copied to a column each of a matrix
//! `[channels_in · kernel_height · kernel_width, pixels]`, and the weight times that matrix is the output block.

use gemm::Parallelism;
use rayon::prelude::*;

use super::{Epilogue, Geometry};
use crate::simd::Shared;

/// Values of a block's matrix: 1 MiB of f32, about a core's second-level cache.
const BLOCK: usize = 1 << 18;
/// Pixels below which a matrix product is not worth its overhead.
const FEWEST_PIXELS: usize = 128;
/// Input channels whose weight gradients are one task. Fixed, so that sums do not depend on the thread count.
const CHANNELS: usize = 16;

impl Geometry {
    /// Output rows a block.
    fn rows(&self, channels: usize) -> usize {
        let pixels = (BLOCK / (channels * self.taps())).max(FEWEST_PIXELS);
        (pixels / self.output[1]).clamp(1, self.output[0])
    }

    /// Image and first row of each block.
    fn blocks(&self, rows: usize) -> Vec<(usize, usize)> {
        let starts = (0..self.output[0]).step_by(rows);
        (0..self.batch).flat_map(|image| starts.clone().map(move |row| (image, row))).collect()
    }

    /// Writes the block matrix of `rows` output rows from `first` over the channels of `planes`: `[channel, kernel_row,
    /// kernel_column, row, column]`.
    fn columns(&self, planes: &[f32], first: usize, rows: usize, matrix: &mut Vec<f32>) {
        matrix.clear();
        let [height, width] = self.input;
        for plane in planes.chunks_exact(self.input_plane()) {
            for tap in 0..self.taps() {
                let (tap_row, tap_column) = (tap / self.kernel[1], tap % self.kernel[1]);
                for row in first..first + rows {
                    let source = row * self.stride[0] + tap_row * self.dilation[0];
                    match source.checked_sub(self.padding[0]).filter(|source| *source < height) {
                        Some(source) => self.row(&plane[source * width..][..width], tap_column, matrix),
                        None => matrix.resize(matrix.len() + self.output[1], 0.0),
                    }
                }
            }
        }
    }

    /// Appends what the output columns read of an input row at a kernel column.
    fn row(&self, input: &[f32], tap_column: usize, matrix: &mut Vec<f32>) {
        let (stride, padding, columns) = (self.stride[1], self.padding[1], self.output[1]);
        let offset = tap_column * self.dilation[1];
        // Output columns before `start` and from `end` on read padding.
        let start = padding.saturating_sub(offset).div_ceil(stride).min(columns);
        let end = (input.len() + padding).saturating_sub(offset).div_ceil(stride).clamp(start, columns);
        matrix.resize(matrix.len() + start, 0.0);
        if end > start {
            let first = start * stride + offset - padding;
            match stride {
                1 => matrix.extend_from_slice(&input[first..first + end - start]),
                _ => matrix.extend(input[first..].iter().step_by(stride).take(end - start)),
            }
        }
        matrix.resize(matrix.len() + columns - end, 0.0);
    }
}

/// `output += lhs · rhs`, or `=` where `add` is false, all with the given strides of rows and columns.
///
/// # Safety
/// The pointers are valid for the sizes and strides, `output` is written by nobody else.
#[allow(clippy::too_many_arguments)]
unsafe fn multiply(
    [m, n, k]: [usize; 3],
    output: *mut f32,
    output_row: usize,
    add: bool,
    lhs: *const f32,
    lhs_row: usize,
    rhs: *const f32,
    [rhs_row, rhs_column]: [usize; 2],
    parallelism: Parallelism,
) {
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            output,
            1,
            output_row as isize,
            add,
            lhs,
            1,
            lhs_row as isize,
            rhs,
            rhs_column as isize,
            rhs_row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Writes the convolution of `x` to `output`.
pub(super) fn forward(geometry: &Geometry, x: &[f32], weight: &[f32], epilogue: Epilogue, target: Shared) {
    let [channels_in, channels_out] = geometry.channels;
    let (plane, depth) = (geometry.output_plane(), channels_in * geometry.taps());
    let image_size = channels_in * geometry.input_plane();

    let rows = geometry.rows(channels_in);
    let blocks = geometry.blocks(rows);
    let task = |matrix: &mut Vec<f32>, &(image, first): &(usize, usize), parallelism: Parallelism| {
        let rows = rows.min(geometry.output[0] - first);
        let pixels = rows * geometry.output[1];
        let planes = &x[image * image_size..][..image_size];
        let (rhs, rhs_row) = if geometry.is_pointwise() {
            (planes[first * geometry.output[1]..].as_ptr(), plane)
        } else {
            geometry.columns(planes, first, rows, matrix);
            (matrix.as_ptr(), pixels)
        };
        // SAFETY: the block is `channels_out` rows of `pixels` values, `plane` apart, of an image's output; blocks do not
        // overlap. The weight is `[channels_out, depth]` and the matrix `[depth, pixels]`.
        unsafe {
            let output = target.at(image * channels_out * plane + first * geometry.output[1]);
            let sizes = [channels_out, pixels, depth];
            multiply(sizes, output, plane, false, weight.as_ptr(), depth, rhs, [rhs_row, 1], parallelism);
            if !epilogue.is_none() {
                for channel in 0..channels_out {
                    let values = std::slice::from_raw_parts_mut(output.add(channel * plane), pixels);
                    epilogue.apply(channel, values);
                }
            }
        }
    };
    if blocks.len() >= rayon::current_num_threads() {
        blocks.par_iter().for_each_init(Vec::new, |matrix, block| task(matrix, block, Parallelism::None));
    } else {
        let mut matrix = Vec::new();
        blocks.iter().for_each(|block| task(&mut matrix, block, Parallelism::Rayon(0)));
    }
}

/// The gradient of the weight, `[channels_out, channels_in, kernel_height, kernel_width]`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let [channels_in, channels_out] = geometry.channels;
    let (plane, input_plane, depth) = (geometry.output_plane(), geometry.input_plane(), channels_in * geometry.taps());
    let mut output = vec![0.0f32; channels_out * depth];
    let target = Shared(output.as_mut_ptr());

    // Each task owns the weights of some input channels and adds up all images and blocks in one order.
    let groups: Vec<usize> = (0..channels_in).step_by(CHANNELS).collect();
    let task = |matrix: &mut Vec<f32>, &first_channel: &usize, parallelism: Parallelism| {
        let channels = CHANNELS.min(channels_in - first_channel);
        let columns = channels * geometry.taps();
        let rows = geometry.rows(channels);
        for (image, first) in geometry.blocks(rows) {
            let rows = rows.min(geometry.output[0] - first);
            let pixels = rows * geometry.output[1];
            let planes = &x[(image * channels_in + first_channel) * input_plane..][..channels * input_plane];
            let (rhs, rhs_column) = if geometry.is_pointwise() {
                (planes[first * geometry.output[1]..].as_ptr(), plane)
            } else {
                geometry.columns(planes, first, rows, matrix);
                (matrix.as_ptr(), pixels)
            };
            let lhs = grad[image * channels_out * plane + first * geometry.output[1]..].as_ptr();
            // SAFETY: the task's columns of the `[channels_out, depth]` gradient are no other's; the output's gradient is
            // `channels_out` rows of `pixels` values, `plane` apart, and the matrix `[columns, pixels]`.
            unsafe {
                let output = target.at(first_channel * geometry.taps());
                let sizes = [channels_out, columns, pixels];
                multiply(sizes, output, depth, true, lhs, plane, rhs, [1, rhs_column], parallelism);
            }
        }
    };
    if groups.len() >= rayon::current_num_threads() {
        groups.par_iter().for_each_init(Vec::new, |matrix, group| task(matrix, group, Parallelism::None));
    } else {
        let mut matrix = Vec::new();
        groups.iter().for_each(|group| task(&mut matrix, group, Parallelism::Rayon(0)));
    }
    output
}
