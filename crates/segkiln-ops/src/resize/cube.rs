use burn::{
    backend::{TensorMetadata, cubecl::dtype_to_storage_type, tensor::FloatTensor},
    tensor::Shape,
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, ops::numeric::empty_device_dtype, tensor::CubeTensor};
use cubecl::{calculate_cube_count_elemwise, prelude::*};

use super::{ResizeMode, ResizeOps};

impl ResizeOps for CubeBackend {
    fn resize(x: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self> {
        launch(x, size, mode, false)
    }

    fn resize_backward(grad: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self> {
        launch(grad, size, mode, true)
    }
}

fn launch(x: CubeTensor, size: [usize; 2], mode: ResizeMode, backward: bool) -> CubeTensor {
    let x = into_contiguous(x);
    let [n, c, height, width] = x.shape().dims();
    let output = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::new([n, c, size[0], size[1]]), x.dtype);
    let elements = n * c * size[0] * size[1];
    if elements == 0 {
        return output;
    }
    let cube_dim = CubeDim::new(&x.client, elements);
    let cube_count = calculate_cube_count_elemwise(&x.client, elements, cube_dim);
    let client = output.client.clone();
    let dtype = dtype_to_storage_type(x.dtype);
    let kernel = if backward { backward_kernel::launch } else { forward_kernel::launch };
    let sides = |from: usize, to: usize| if backward { scale(to, from, mode) } else { scale(from, to, mode) };
    kernel(
        &client,
        cube_count,
        cube_dim,
        x.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        sides(height, size[0]),
        sides(width, size[1]),
        matches!(mode, ResizeMode::Nearest),
        matches!(mode, ResizeMode::Bilinear { align_corners: false }),
        dtype,
    );
    output
}

/// Input indices to the output index.
fn scale(input: usize, output: usize, mode: ResizeMode) -> f32 {
    match mode {
        ResizeMode::Bilinear { align_corners: true } if output > 1 => (input - 1) as f32 / (output - 1) as f32,
        ResizeMode::Bilinear { align_corners: true } => 0.0,
        _ => input as f32 / output as f32,
    }
}

/// Position along an axis that output `index` reads.
#[cube]
fn position(index: usize, scale: f32, #[comptime] half_pixel: bool) -> f32 {
    if comptime!(half_pixel) {
        max((f32::cast_from(index) + 0.5f32) * scale - 0.5f32, 0.0f32)
    } else {
        f32::cast_from(index) * scale
    }
}

/// Weight with which output `index` reads input `source` along an axis of `length` inputs.
#[cube]
fn weight(
    index: usize,
    source: usize,
    length: usize,
    scale: f32,
    #[comptime] nearest: bool,
    #[comptime] half_pixel: bool,
) -> f32 {
    let at = position(index, scale, half_pixel);
    let first = min(usize::cast_from(at), length - 1);
    let mut weight = 0.0f32;
    if comptime!(nearest) {
        if source == first {
            weight = 1.0f32;
        }
    } else {
        let share = clamp(at - f32::cast_from(first), 0.0f32, 1.0f32);
        if source == first {
            weight += 1.0f32 - share;
        }
        if source == min(first + 1, length - 1) {
            weight += share;
        }
    }
    weight
}

#[cube(launch)]
fn forward_kernel<E: Float>(
    x: &Tensor<E>,
    output: &mut Tensor<E>,
    scale_y: f32,
    scale_x: f32,
    #[comptime] nearest: bool,
    #[comptime] half_pixel: bool,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= output.len() {
        terminate!();
    }
    let (height, width) = (x.shape(2), x.shape(3));
    let column = ABSOLUTE_POS % output.shape(3);
    let rest = ABSOLUTE_POS / output.shape(3);
    let row = rest % output.shape(2);
    let plane = rest / output.shape(2) * height * width;

    let y = position(row, scale_y, half_pixel);
    let x_at = position(column, scale_x, half_pixel);
    let top = min(usize::cast_from(y), height - 1);
    let left = min(usize::cast_from(x_at), width - 1);
    if comptime!(nearest) {
        output[ABSOLUTE_POS] = x[plane + top * width + left];
    } else {
        let bottom = min(top + 1, height - 1);
        let right = min(left + 1, width - 1);
        let share_y = clamp(y - f32::cast_from(top), 0.0f32, 1.0f32);
        let share_x = clamp(x_at - f32::cast_from(left), 0.0f32, 1.0f32);
        let top_left = f32::cast_from(x[plane + top * width + left]);
        let top_right = f32::cast_from(x[plane + top * width + right]);
        let bottom_left = f32::cast_from(x[plane + bottom * width + left]);
        let bottom_right = f32::cast_from(x[plane + bottom * width + right]);
        let upper = top_left + share_x * (top_right - top_left);
        let lower = bottom_left + share_x * (bottom_right - bottom_left);
        output[ABSOLUTE_POS] = E::cast_from(upper + share_y * (lower - upper));
    }
}

/// First index of the outputs that may read input `source`, one too low rather than one too high.
#[cube]
fn first_reader(source: usize, readers: usize, scale: f32) -> usize {
    let mut first = 0;
    if scale > 0.0f32 && source > 1 {
        let low = (f32::cast_from(source) - 1.0f32) / scale - 2.0f32;
        if low > 0.0f32 {
            first = min(usize::cast_from(low), readers - 1);
        }
    }
    first
}

/// One past the last index of the outputs that may read input `source`, too high rather than too low.
#[cube]
fn end_reader(source: usize, readers: usize, scale: f32) -> usize {
    let mut end = readers;
    if scale > 0.0f32 {
        let high = (f32::cast_from(source) + 1.5f32) / scale + 3.0f32;
        if high < f32::cast_from(readers) {
            end = usize::cast_from(high);
        }
    }
    end
}

/// Each input gathers from the outputs that read it: no atomics, so the sum has one order.
#[cube(launch)]
fn backward_kernel<E: Float>(
    grad: &Tensor<E>,
    output: &mut Tensor<E>,
    scale_y: f32,
    scale_x: f32,
    #[comptime] nearest: bool,
    #[comptime] half_pixel: bool,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= output.len() {
        terminate!();
    }
    let (rows, columns) = (grad.shape(2), grad.shape(3));
    let (height, width) = (output.shape(2), output.shape(3));
    let source_x = ABSOLUTE_POS % width;
    let rest = ABSOLUTE_POS / width;
    let source_y = rest % height;
    let plane = rest / height * rows * columns;

    let mut sum = 0.0f32;
    let first_column = first_reader(source_x, columns, scale_x);
    let end_column = end_reader(source_x, columns, scale_x);
    for row in first_reader(source_y, rows, scale_y)..end_reader(source_y, rows, scale_y) {
        let weight_y = weight(row, source_y, height, scale_y, nearest, half_pixel);
        if weight_y > 0.0f32 {
            for column in first_column..end_column {
                let weight_x = weight(column, source_x, width, scale_x, nearest, half_pixel);
                sum += weight_y * weight_x * f32::cast_from(grad[plane + row * columns + column]);
            }
        }
    }
    output[ABSOLUTE_POS] = E::cast_from(sum);
}
