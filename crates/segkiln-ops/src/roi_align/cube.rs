//! The forward kernel has a unit an output; the backward kernel has one an input, which gathers from the regions that read
//! it: no atomics, so the sum has one order.

use burn::{
    backend::{TensorMetadata, cubecl::dtype_to_storage_type, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::{DType, Shape},
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, ops::numeric::empty_device_dtype, tensor::CubeTensor};
use cubecl::{calculate_cube_count_elemwise, prelude::*};

use super::{RoiAlignOps, RoiAlignOptions};

impl RoiAlignOps for CubeBackend {
    fn roi_align(x: FloatTensor<Self>, rois: FloatTensor<Self>, options: RoiAlignOptions) -> FloatTensor<Self> {
        let [_, channels, _, _] = x.shape().dims();
        let [regions, _] = rois.shape().dims();
        launch(x, rois, [regions, channels, options.size[0], options.size[1]], options, false)
    }

    fn roi_align_backward(
        grad: FloatTensor<Self>,
        rois: FloatTensor<Self>,
        shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        launch(grad, rois, shape, options, true)
    }
}

fn launch(x: CubeTensor, rois: CubeTensor, shape: [usize; 4], options: RoiAlignOptions, backward: bool) -> CubeTensor {
    let input: [usize; 4] = x.shape().dims();
    if input.contains(&0) {
        return CubeBackend::float_zeros(Shape::new(shape), &x.device, x.dtype.into());
    }
    let rois = if rois.dtype == DType::F32 { rois } else { CubeBackend::float_cast(rois, DType::F32.into()) };
    let (x, rois) = (into_contiguous(x), into_contiguous(rois));
    let output = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new(shape), x.dtype);
    let elements = shape.iter().product();
    if elements == 0 {
        return output;
    }
    let cube_dim = CubeDim::new(&x.client, elements);
    let cube_count = calculate_cube_count_elemwise(&x.client, elements, cube_dim);
    let client = output.client.clone();
    let dtype = dtype_to_storage_type(x.dtype);
    let kernel = if backward { backward_kernel::launch } else { forward_kernel::launch };
    kernel(
        &client,
        cube_count,
        cube_dim,
        x.into_tensor_arg(),
        rois.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        options.scale as f32,
        options.sampling_ratio.unwrap_or(0),
        options.aligned,
        dtype,
    );
    output
}

/// A coordinate of a box on the map.
#[cube]
fn on_map(coordinate: f32, scale: f32, #[comptime] aligned: bool) -> f32 {
    if comptime!(aligned) { coordinate * scale - 0.5f32 } else { coordinate * scale }
}

/// The size of each of `bins` from `start` to `end`.
#[cube]
fn bin_size(start: f32, end: f32, bins: usize, #[comptime] aligned: bool) -> f32 {
    let mut length = end - start;
    if comptime!(!aligned) {
        if length < 1.0f32 {
            length = 1.0f32;
        }
    }
    length / f32::cast_from(bins)
}

/// Points of a bin along an axis; `sampling` 0 is as many as it has pixels.
#[cube]
fn points(bin: f32, #[comptime] sampling: usize) -> usize {
    if comptime!(sampling > 0) {
        sampling.runtime()
    } else {
        min(usize::cast_from(clamp(f32::ceil(bin), 0.0f32, 16777216.0f32)), 16777216)
    }
}

/// Returns the position of a point of the bin that begins at `first`.
#[cube]
fn position(first: f32, bin: f32, point: usize, points: usize) -> f32 {
    first + (f32::cast_from(point) + 0.5f32) * bin / f32::cast_from(points)
}

/// The first point that may be at `low` or above, too low rather than too high.
#[cube]
fn first_point(first: f32, bin: f32, points: usize, low: f32, #[comptime] sampling: usize) -> usize {
    if comptime!(sampling > 0) {
        0usize.runtime()
    } else {
        let all = f32::cast_from(points);
        let at = (low - first) * all / bin - margin(points);
        min(usize::cast_from(clamp(at, 0.0f32, all)), points)
    }
}

/// One past the last point that may be at `high` or below, too high rather than too low. However bad the numbers, there are
/// not many more than two a pixel from `low` on.
#[cube]
fn end_point(first: f32, bin: f32, points: usize, low: f32, high: f32, #[comptime] sampling: usize) -> usize {
    if comptime!(sampling > 0) {
        points
    } else {
        let all = f32::cast_from(points);
        let at = (high - first) * all / bin + margin(points);
        let most = first_point(first, bin, points, low, sampling) + usize::cast_from(2.0f32 * (high - low)) + 32;
        min(min(usize::cast_from(clamp(at, 0.0f32, all)), points), most)
    }
}

/// Points by which roundings may put a point elsewhere.
#[cube]
fn margin(points: usize) -> f32 {
    2.0f32 + f32::cast_from(points) * 5e-7f32
}

/// The pixel at or before a position, of `pixels`.
#[cube]
fn low_pixel(position: f32, pixels: usize) -> usize {
    min(usize::cast_from(max(position, 0.0f32)), pixels - 1)
}

/// The share of the pixel after [`low_pixel`].
#[cube]
fn share(position: f32, pixels: usize) -> f32 {
    clamp(position - f32::cast_from(low_pixel(position, pixels)), 0.0f32, 1.0f32)
}

/// Whether the index in a box is that of an image in the batch.
#[cube]
fn is_in_batch(image: f32, batch: usize) -> bool {
    image > -1.0f32 && image < f32::cast_from(batch)
}

#[cube(launch)]
fn forward_kernel<E: Float>(
    x: &Tensor<E>,
    rois: &Tensor<f32>,
    output: &mut Tensor<E>,
    scale: f32,
    #[comptime] sampling: usize,
    #[comptime] aligned: bool,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= output.len() {
        terminate!();
    }
    let (height, width) = (x.shape(2), x.shape(3));
    let (bins_y, bins_x) = (output.shape(2), output.shape(3));
    let column = ABSOLUTE_POS % bins_x;
    let rest = ABSOLUTE_POS / bins_x;
    let row = rest % bins_y;
    let rest = rest / bins_y;
    let channel = rest % output.shape(1);
    let roi = rest / output.shape(1) * 5;

    let mut sum = 0.0f32;
    let mut count = 1.0f32;
    let image = rois[roi];
    if is_in_batch(image, x.shape(0)) {
        let image = min(usize::cast_from(max(image, 0.0f32)), x.shape(0) - 1);
        let plane = (image * x.shape(1) + channel) * height * width;
        let start_x = on_map(rois[roi + 1], scale, aligned);
        let start_y = on_map(rois[roi + 2], scale, aligned);
        let bin_x = bin_size(start_x, on_map(rois[roi + 3], scale, aligned), bins_x, aligned);
        let bin_y = bin_size(start_y, on_map(rois[roi + 4], scale, aligned), bins_y, aligned);
        let first_x = start_x + f32::cast_from(column) * bin_x;
        let first_y = start_y + f32::cast_from(row) * bin_y;
        let (points_x, points_y) = (points(bin_x, sampling), points(bin_y, sampling));
        let (last_x, last_y) = (f32::cast_from(width), f32::cast_from(height));
        let from_x = first_point(first_x, bin_x, points_x, -1.0f32, sampling);
        let end_x = end_point(first_x, bin_x, points_x, -1.0f32, last_x, sampling);
        let from_y = first_point(first_y, bin_y, points_y, -1.0f32, sampling);
        let end_y = end_point(first_y, bin_y, points_y, -1.0f32, last_y, sampling);
        for point_y in from_y..end_y {
            let y = position(first_y, bin_y, point_y, points_y);
            if y >= -1.0f32 && y <= last_y {
                let top = low_pixel(y, height);
                let upper = plane + top * width;
                let lower = plane + min(top + 1, height - 1) * width;
                let share_y = share(y, height);
                for point_x in from_x..end_x {
                    let at = position(first_x, bin_x, point_x, points_x);
                    if at >= -1.0f32 && at <= last_x {
                        let left = low_pixel(at, width);
                        let right = min(left + 1, width - 1);
                        let share_x = share(at, width);
                        let above = (1.0f32 - share_x) * f32::cast_from(x[upper + left])
                            + share_x * f32::cast_from(x[upper + right]);
                        let below = (1.0f32 - share_x) * f32::cast_from(x[lower + left])
                            + share_x * f32::cast_from(x[lower + right]);
                        sum += (1.0f32 - share_y) * above + share_y * below;
                    }
                }
            }
        }
        count = max(f32::cast_from(points_x) * f32::cast_from(points_y), 1.0f32);
    }
    output[ABSOLUTE_POS] = E::cast_from(sum / count);
}

/// Positions from here on read a pixel.
#[cube]
fn read_from(pixel: usize) -> f32 {
    f32::cast_from(pixel) - 1.0f32
}

/// Positions up to here read a pixel of so many.
#[cube]
fn read_to(pixel: usize) -> f32 {
    f32::cast_from(pixel) + 1.0f32
}

/// The first bin that may read positions from `low` on, too low rather than too high.
#[cube]
fn first_bin(start: f32, bin: f32, bins: usize, low: f32) -> usize {
    let mut first = 0;
    if bin > 0.0f32 {
        first = min(usize::cast_from(clamp((low - start) / bin - 1.5f32, 0.0f32, f32::cast_from(bins))), bins);
    }
    first
}

/// One past the last bin that may read positions up to `high`, too high rather than too low.
#[cube]
fn end_bin(start: f32, bin: f32, bins: usize, high: f32) -> usize {
    let mut end = bins;
    if bin > 0.0f32 {
        end = min(usize::cast_from(clamp((high - start) / bin + 2.5f32, 0.0f32, f32::cast_from(bins))), bins);
    }
    end
}

/// Weight with which the bin that begins at `first` reads a pixel of an axis of `pixels`.
#[cube]
fn weight(first: f32, bin: f32, pixel: usize, pixels: usize, #[comptime] sampling: usize) -> f32 {
    let points = points(bin, sampling);
    let (low, high) = (read_from(pixel), read_to(pixel));
    let last = f32::cast_from(pixels);
    let from = first_point(first, bin, points, low, sampling);
    let end = end_point(first, bin, points, low, high, sampling);
    let mut sum = 0.0f32;
    for point in from..end {
        let at = position(first, bin, point, points);
        if at >= -1.0f32 && at <= last {
            let before = low_pixel(at, pixels);
            let share = share(at, pixels);
            if pixel == before {
                sum += 1.0f32 - share;
            }
            if pixel == min(before + 1, pixels - 1) {
                sum += share;
            }
        }
    }
    sum / max(f32::cast_from(points), 1.0f32)
}

#[cube(launch)]
fn backward_kernel<E: Float>(
    grad: &Tensor<E>,
    rois: &Tensor<f32>,
    output: &mut Tensor<E>,
    scale: f32,
    #[comptime] sampling: usize,
    #[comptime] aligned: bool,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= output.len() {
        terminate!();
    }
    let (bins_y, bins_x) = (grad.shape(2), grad.shape(3));
    let (channels, height, width) = (output.shape(1), output.shape(2), output.shape(3));
    let column = ABSOLUTE_POS % width;
    let rest = ABSOLUTE_POS / width;
    let row = rest % height;
    let rest = rest / height;
    let channel = rest % channels;
    let image = rest / channels;

    let mut sum = 0.0f32;
    for roi in 0..grad.shape(0) {
        let of = rois[roi * 5];
        if is_in_batch(of, output.shape(0)) && usize::cast_from(max(of, 0.0f32)) == image {
            let start_y = on_map(rois[roi * 5 + 2], scale, aligned);
            let bin_y = bin_size(start_y, on_map(rois[roi * 5 + 4], scale, aligned), bins_y, aligned);
            let from_y = first_bin(start_y, bin_y, bins_y, read_from(row));
            let end_y = end_bin(start_y, bin_y, bins_y, read_to(row));
            if from_y < end_y {
                let start_x = on_map(rois[roi * 5 + 1], scale, aligned);
                let bin_x = bin_size(start_x, on_map(rois[roi * 5 + 3], scale, aligned), bins_x, aligned);
                let from_x = first_bin(start_x, bin_x, bins_x, read_from(column));
                let end_x = end_bin(start_x, bin_x, bins_x, read_to(column));
                if from_x < end_x {
                    let plane = (roi * channels + channel) * bins_y * bins_x;
                    for bin_row in from_y..end_y {
                        let first_y = start_y + f32::cast_from(bin_row) * bin_y;
                        let weight_y = weight(first_y, bin_y, row, height, sampling);
                        if weight_y > 0.0f32 {
                            for bin_column in from_x..end_x {
                                let first_x = start_x + f32::cast_from(bin_column) * bin_x;
                                let weight_x = weight(first_x, bin_x, column, width, sampling);
                                sum +=
                                    weight_y * weight_x * f32::cast_from(grad[plane + bin_row * bins_x + bin_column]);
                            }
                        }
                    }
                }
            }
        }
    }
    output[ABSOLUTE_POS] = E::cast_from(sum);
}
