//! Operators between convolutions that keep activations as they are.

use burn::{
    backend::Flex,
    tensor::{DType, Tensor, bf16},
};

use super::{
    activations::{Dims, full, is_reduced, written},
    convolution::primitive,
    unit::UnitKind,
};
use crate::cpu::{memory::Shared, threads::for_each};

/// 2×2 max pooling with stride 2 of bf16 with channels last, where `x` is that; an odd last row or column is dropped.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, h / 2, w / 2]`
pub fn max_pool_2x2(x: &Tensor<4>) -> Option<Tensor<4>> {
    if x.dtype() != DType::BF16 {
        return None;
    }
    let x = x.clone().try_into_primitive::<Flex>().ok().filter(is_reduced)?;
    let Dims { batch, channels, size: [height, width] } = Dims::of(&x);
    let size = [height / 2, width / 2];
    let dims = Dims { batch, channels, size };
    if dims.len() == 0 {
        return None;
    }
    let values: &[bf16] = x.storage();
    let row = size[1] * channels;
    // SAFETY: every row is written, by one task.
    let output = unsafe {
        written(dims, DType::BF16, |target| {
            let target = Shared(target.cast());
            for_each(batch * size[0], |index| {
                let (image, y) = (index / size[0], index % size[0]);
                let source = |line: usize| &values[(image * height + 2 * y + line) * width * channels..][..2 * row];
                let (upper, lower) = (source(0), source(1));
                // SAFETY: within the target; the row is this task's.
                let target = std::slice::from_raw_parts_mut(target.at(0).cast::<bf16>().add(index * row), row);
                for (x, pixel) in target.chunks_exact_mut(channels).enumerate() {
                    let [left, right] = [2 * x, 2 * x + 1].map(|x| x * channels..(x + 1) * channels);
                    let lines = [&upper[left.clone()], &upper[right.clone()], &lower[left], &lower[right]];
                    largest(pixel, lines);
                }
            });
        })
    };
    Some(Tensor::from_primitive::<Flex>(output))
}

/// The largest of four values each; NaN stays.
fn largest(target: &mut [bf16], [a, b, c, d]: [&[bf16]; 4]) {
    // As whole numbers of the same order: the bits of negative values are turned round. NaN is beyond infinity on either side.
    let key = |value: bf16| {
        let bits = value.to_bits() as i16;
        bits ^ (((bits >> 15) as u16) >> 1) as i16
    };
    let pick = |x: bf16, y: bf16| {
        let larger = if key(y) > key(x) { y } else { x };
        let lost = if y.is_nan() { y } else { x };
        if x.is_nan() | y.is_nan() { lost } else { larger }
    };
    for (index, target) in target.iter_mut().enumerate() {
        *target = pick(pick(a[index], b[index]), pick(c[index], d[index]));
    }
}

/// A tensor of any float type and layout as f32 in contiguous memory.
pub fn to_full_precision(x: Tensor<4>) -> Tensor<4> {
    let kind = UnitKind::fastest().unwrap_or(UnitKind::Portable);
    if x.dtype() == DType::F32 || x.clone().try_into_primitive::<Flex>().is_err() {
        return x.cast(burn::tensor::FloatDType::F32);
    }
    Tensor::from_primitive::<Flex>(full(kind, primitive(x)))
}
