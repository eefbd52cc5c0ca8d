use std::mem::MaybeUninit;

use burn::{
    backend::{Flex, flex::FlexTensor, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::DType,
};

use super::{ResizeMode, ResizeOps, Tap, taps};
use crate::cpu::{
    memory::{Memory, values, written},
    threads::for_each_chunk,
};

impl ResizeOps for Flex {
    fn resize(x: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self> {
        let [_, _, height, width] = x.layout().shape().dims();
        let (rows, columns) = (taps(height, size[0], mode), taps(width, size[1], mode));
        by_plane(x, size, |input, output| {
            for (tap, output) in rows.iter().zip(output.chunks_exact_mut(size[1])) {
                let first = &input[tap.first * width..][..width];
                let second = &input[tap.second * width..][..width];
                for (column, value) in columns.iter().zip(output) {
                    let upper = first[column.first] + column.share * (first[column.second] - first[column.first]);
                    let lower = second[column.first] + column.share * (second[column.second] - second[column.first]);
                    *value = upper + tap.share * (lower - upper);
                }
            }
        })
    }

    fn resize_backward(grad: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self> {
        let [_, _, height, width] = grad.layout().shape().dims();
        let (rows, columns) = (taps(size[0], height, mode), taps(size[1], width, mode));
        by_plane(grad, size, |grad, output| {
            for (tap, grad) in rows.iter().zip(grad.chunks_exact(width)) {
                spread(grad, &columns, 1.0 - tap.share, &mut output[tap.first * size[1]..][..size[1]]);
                if tap.share > 0.0 {
                    spread(grad, &columns, tap.share, &mut output[tap.second * size[1]..][..size[1]]);
                }
            }
        })
    }
}

/// Adds a row of gradients, times `weight`, to the input row that it was read from.
fn spread(grad: &[f32], columns: &[Tap], weight: f32, row: &mut [f32]) {
    for (value, column) in grad.iter().zip(columns) {
        let value = value * weight;
        row[column.first] += (1.0 - column.share) * value;
        row[column.second] += column.share * value;
    }
}

/// Maps each `[height, width]` plane to one of `size`, which starts as zeros. Planes are spread over threads and each is
/// the work of one, so that the bits do not depend on the thread count.
fn by_plane(x: FlexTensor, size: [usize; 2], plane: impl Fn(&[f32], &mut [f32]) + Sync) -> FlexTensor {
    let dtype = x.dtype();
    let x = if dtype == DType::F32 { x } else { Flex::float_cast(x, DType::F32.into()) }.to_contiguous();
    let [n, c, height, width] = x.layout().shape().dims();
    let (input, area) = (values(&x), height * width);
    // SAFETY: the chunks are all planes, and each is filled with zeros.
    let output = unsafe {
        written([n, c, size[0], size[1]], Memory::Allocated, |target| {
            for_each_chunk(target, size[0] * size[1], |index, target| {
                target.fill(MaybeUninit::new(0.0));
                plane(&input[index * area..][..area], target.assume_init_mut());
            });
        })
    };
    if dtype == DType::F32 { output } else { Flex::float_cast(output, dtype.into()) }
}
