//! Operators between convolutions that keep activations reduced.

use burn::{
    backend::Flex,
    tensor::{DType, FloatDType, Tensor, bf16},
};

use super::{
    activations::{Dims, full, is_reduced, reduced, written},
    convolution::primitive,
    unit::{LANES, Task, Unit, UnitKind},
};
use crate::cpu::{memory::Shared, threads::for_each};

/// Square windows of a pooling; what is outside of the map is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolWindow {
    /// Side of the window.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Pixels around the map that windows may cover, at most half of the window.
    pub padding: usize,
}

/// Max pooling of bf16 with channels last; none where `x` is not that.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, (h + 2 padding - kernel) / stride + 1, …]`
pub fn max_pool2d(x: &Tensor<4>, window: PoolWindow) -> Option<Tensor<4>> {
    let PoolWindow { kernel, stride, padding } = window;
    let x = reduced_primitive(x)?;
    let dims = Dims::of(&x);
    if kernel == 0 || stride == 0 || 2 * padding > kernel || dims.size.iter().any(|side| side + 2 * padding < kernel) {
        return None;
    }
    let size = dims.size.map(|side| (side + 2 * padding - kernel) / stride + 1);
    let values: &[bf16] = x.storage();
    let kind = UnitKind::fastest().unwrap_or(UnitKind::Portable);
    // SAFETY: every row is written, by one task.
    let output = unsafe {
        written(Dims { size, ..dims }, DType::BF16, |target| {
            let target = Shared(target.cast());
            for_each(dims.batch * size[0], |row| {
                let count = size[1] * dims.channels;
                // SAFETY: within the target; the row is this task's.
                let target = std::slice::from_raw_parts_mut(target.at(0).cast::<bf16>().add(row * count), count);
                kind.dispatch(MaxPoolRow { values, dims, window, image: row / size[0], row: row % size[0], target });
            });
        })
    };
    Some(Tensor::from_primitive::<Flex>(output))
}

/// The largest values of a row of windows.
struct MaxPoolRow<'a> {
    values: &'a [bf16],
    dims: Dims,
    window: PoolWindow,
    image: usize,
    row: usize,
    target: &'a mut [bf16],
}

impl Task for MaxPoolRow<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, _: U) {
        let Self { values, dims: Dims { channels, size: [height, width], .. }, window, image, row, target } = self;
        let PoolWindow { kernel, stride, padding } = window;
        let covered = |position: usize, side: usize| {
            (position * stride).saturating_sub(padding)..(position * stride + kernel - padding).min(side)
        };
        for (column, pixel) in target.chunks_exact_mut(channels).enumerate() {
            let mut first = true;
            for y in covered(row, height) {
                for x in covered(column, width) {
                    let source = &values[((image * height + y) * width + x) * channels..][..channels];
                    if first {
                        pixel.copy_from_slice(source);
                        first = false;
                        continue;
                    }
                    for (largest, value) in pixel.iter_mut().zip(source) {
                        *largest = if order(*value) > order(*largest) { *value } else { *largest };
                    }
                }
            }
        }
    }
}

/// A number that orders values: their bits, those of negative values turned round. NaN comes after infinity.
#[inline(always)]
fn order(value: bf16) -> i16 {
    let bits = value.to_bits();
    let magnitude = (bits & 0x7FFF) as i16;
    let signed = if bits >> 15 == 0 { magnitude } else { -magnitude };
    if magnitude > 0x7F80 { i16::MAX } else { signed }
}

/// The sum and ReLU of two tensors of bf16 with channels last, added in f32; none where one is not that.
///
/// # Panics
/// If the shapes differ.
pub fn add_relu(x: &Tensor<4>, y: &Tensor<4>) -> Option<Tensor<4>> {
    /// Values of a task.
    const BLOCK: usize = 1 << 15;
    let (x, y) = (reduced_primitive(x)?, reduced_primitive(y)?);
    let dims = Dims::of(&x);
    assert_eq!(dims, Dims::of(&y), "shapes of a sum");
    let (x, y): (&[bf16], &[bf16]) = (x.storage(), y.storage());
    let kind = UnitKind::fastest().unwrap_or(UnitKind::Portable);
    // SAFETY: every block is written, by one task.
    let output = unsafe {
        written(dims, DType::BF16, |target| {
            let target = Shared(target.cast());
            for_each(x.len().div_ceil(BLOCK), |block| {
                let range = block * BLOCK..x.len().min((block + 1) * BLOCK);
                // SAFETY: within the target; the block is this task's.
                let target = target.at(0).cast::<bf16>().add(range.start);
                kind.dispatch(AddRelu { x: &x[range.clone()], y: &y[range], target });
            });
        })
    };
    Some(Tensor::from_primitive::<Flex>(output))
}

struct AddRelu<'a> {
    x: &'a [bf16],
    y: &'a [bf16],
    target: *mut bf16,
}

impl Task for AddRelu<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { x, y, target } = self;
        // Channels are a multiple of 16 wherever `ReducedConv2d` wrote them; of other tensors the rest is added one by one.
        let whole = x.len() / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: both and the target have a register's values here.
            unsafe {
                let sum = unit.add(unit.load_bf16(x[at..].as_ptr()), unit.load_bf16(y[at..].as_ptr()));
                unit.store_bf16(unit.at_least(sum, unit.splat(0.0)), target.add(at));
            }
        }
        for at in whole..x.len() {
            let sum = x[at].to_f32() + y[at].to_f32();
            // SAFETY: within the target.
            unsafe { target.add(at).write(bf16::from_f32(if sum < 0.0 { 0.0 } else { sum })) };
        }
    }
}

/// Repeats each pixel of bf16 with channels last, so that the map has `size`; none where `x` is not that, or `size` is no multiple
/// of its height and width.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, size[0], size[1]]`
pub fn upsample_nearest(x: &Tensor<4>, size: [usize; 2]) -> Option<Tensor<4>> {
    let x = reduced_primitive(x)?;
    let dims = Dims::of(&x);
    let [rows, columns] = [0, 1].map(|axis| size[axis] / dims.size[axis]);
    if rows * columns == 0 || size != [rows * dims.size[0], columns * dims.size[1]] {
        return None;
    }
    let values: &[bf16] = x.storage();
    let (channels, source_row) = (dims.channels, dims.size[1] * dims.channels);
    // SAFETY: every row is written, by one task.
    let output = unsafe {
        written(Dims { size, ..dims }, DType::BF16, |target| {
            let target = Shared(target.cast());
            for_each(dims.batch * size[0], |row| {
                let count = columns * source_row;
                // SAFETY: within the target; the row is this task's.
                let target = std::slice::from_raw_parts_mut(target.at(0).cast::<bf16>().add(row * count), count);
                // Rows of all images follow each other, in the source as in the target.
                let source = &values[row / rows * source_row..][..source_row];
                for (pixels, source) in target.chunks_exact_mut(columns * channels).zip(source.chunks_exact(channels)) {
                    pixels.chunks_exact_mut(channels).for_each(|pixel| pixel.copy_from_slice(source));
                }
            });
        })
    };
    Some(Tensor::from_primitive::<Flex>(output))
}

/// The channels of several tensors one after the other, as bf16 with channels last; none where no tensor is that, or some
/// channels are no multiple of 16.
///
/// # Panics
/// If the tensors differ in more than the channels.
pub fn cat(tensors: &[Tensor<4>]) -> Option<Tensor<4>> {
    let whole = |tensor: &Tensor<4>| tensor.dims()[1].is_multiple_of(LANES);
    let kept = tensors.iter().find_map(reduced_primitive)?;
    if !tensors.iter().all(whole) {
        return None;
    }
    let kind = UnitKind::fastest().unwrap_or(UnitKind::Portable);
    let parts: Vec<_> = tensors.iter().map(|tensor| reduced(kind, primitive(tensor.clone()))).collect();
    let dims = Dims { channels: parts.iter().map(|part| Dims::of(part).channels).sum(), ..Dims::of(&kept) };
    let parts: Vec<(&[bf16], usize)> = parts
        .iter()
        .map(|part| {
            let Dims { channels, .. } = Dims::of(part);
            assert_eq!(Dims { channels, ..dims }, Dims::of(part), "batch and size of tensors that are joined");
            (part.storage(), channels)
        })
        .collect();
    let (rows, width) = (dims.batch * dims.size[0], dims.size[1]);
    // SAFETY: every row is written, by one task.
    let output = unsafe {
        written(dims, DType::BF16, |target| {
            let target = Shared(target.cast());
            for_each(rows, |row| {
                let count = width * dims.channels;
                // SAFETY: within the target; the row is this task's.
                let target = std::slice::from_raw_parts_mut(target.at(0).cast::<bf16>().add(row * count), count);
                let mut first = 0;
                for (values, channels) in &parts {
                    let source = &values[row * width * channels..][..width * channels];
                    for (pixel, source) in target.chunks_exact_mut(dims.channels).zip(source.chunks_exact(*channels)) {
                        pixel[first..first + channels].copy_from_slice(source);
                    }
                    first += channels;
                }
            });
        })
    };
    Some(Tensor::from_primitive::<Flex>(output))
}

/// The tensor of the CPU backend, where it is bf16 with channels last.
fn reduced_primitive(x: &Tensor<4>) -> Option<burn::backend::flex::FlexTensor> {
    if x.dtype() != DType::BF16 {
        return None;
    }
    x.clone().try_into_primitive::<Flex>().ok().filter(is_reduced)
}

/// A tensor of bf16 as f32 in contiguous memory; of others the same.
pub fn to_full_precision(x: Tensor<4>) -> Tensor<4> {
    if x.dtype() != DType::BF16 {
        return x;
    }
    if x.clone().try_into_primitive::<Flex>().is_err() {
        return x.cast(FloatDType::F32);
    }
    let kind = UnitKind::fastest().unwrap_or(UnitKind::Portable);
    Tensor::from_primitive::<Flex>(full(kind, primitive(x)))
}
