//! Operators between convolutions that keep activations reduced.

use std::mem::MaybeUninit;

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{DType, FloatDType, Tensor, bf16},
};

use super::{
    activations::{
        Dims, Format, Quantization, Sink, Source, full, is_reduced, octets, quantization, quantized, reduced, source,
        written,
    },
    convolution::primitive,
    unit::{LANES, Task, Unit, UnitKind},
};
use crate::cpu::{disjoint::Disjoint, memory::Memory, threads::for_each};

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

/// Max pooling of bf16 or 8 bits with channels last; none where `x` is not that.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, (h + 2 padding - kernel) / stride + 1, …]`
pub fn max_pool2d(x: &Tensor<4>, window: PoolWindow) -> Option<Tensor<4>> {
    let PoolWindow { kernel, stride, padding } = window;
    let (x, format) = kept(x)?;
    let dims = Dims::of(&x);
    if kernel == 0 || stride == 0 || 2 * padding > kernel || dims.size.iter().any(|side| side + 2 * padding < kernel) {
        return None;
    }
    let size = dims.size.map(|side| (side + 2 * padding - kernel) / stride + 1);
    let dims = [dims, Dims { size, ..dims }];
    Some(match format {
        Format::U8(_) => rows::<u8>(dims, format, octets(&x), |values, dims, image, row, target| {
            fastest().dispatch(MaxPoolRow { values, dims, window, image, row, target });
        }),
        _ => rows::<bf16>(dims, format, x.storage(), |values, dims, image, row, target| {
            fastest().dispatch(MaxPoolRow { values, dims, window, image, row, target });
        }),
    })
}

/// A map whose rows `write` writes, each a task: from the values and sizes of another, the image and the row.
fn rows<E: Copy + Send + Sync>(
    [source, target]: [Dims; 2],
    format: Format,
    values: &[E],
    write: impl Fn(&[E], Dims, usize, usize, &mut [MaybeUninit<E>]) + Sync,
) -> Tensor<4> {
    let rows = target.size[0];
    let write = |row: usize, target: &mut [MaybeUninit<E>]| write(values, source, row / rows, row % rows, target);
    // SAFETY: a row of windows has a value for each of the map, and repeated pixels are as many as the map's.
    Tensor::from_primitive::<Flex>(unsafe { by_rows(target, format, write) })
}

/// A map whose rows `write` writes, each a task, counted over all images.
///
/// # Safety
/// `write` writes every value of a row.
///
/// # Panics
/// If values of `E` are not those of the format.
unsafe fn by_rows<E: Copy + Send>(
    dims: Dims,
    format: Format,
    write: impl Fn(usize, &mut [MaybeUninit<E>]) + Sync,
) -> FlexTensor {
    let count = dims.size[1] * dims.channels;
    let write_all = |bytes: &mut [MaybeUninit<u8>]| {
        // SAFETY: the same bytes; `MaybeUninit` need not be initialized.
        let (before, memory, after) = unsafe { bytes.align_to_mut::<MaybeUninit<E>>() };
        assert!(before.is_empty() && after.is_empty() && memory.len() == dims.len(), "values of the format");
        let memory = Disjoint::new(memory);
        for_each(dims.batch * dims.size[0], |row| {
            // SAFETY: each task has its row.
            let target = unsafe { memory.part() }.at(row * count, count);
            // SAFETY: the part has the row, which nobody else has.
            write(row, unsafe { std::slice::from_raw_parts_mut(target.cast(), count) });
        });
    };
    // SAFETY: every row is written, all of it as the caller promises.
    unsafe { written(dims, format, write_all) }
}

fn fastest() -> UnitKind {
    UnitKind::fastest().unwrap_or(UnitKind::Portable)
}

/// The largest values of a row of windows.
struct MaxPoolRow<'a, E> {
    values: &'a [E],
    dims: Dims,
    window: PoolWindow,
    image: usize,
    row: usize,
    target: &'a mut [MaybeUninit<E>],
}

impl<E: Ordered> Task for MaxPoolRow<'_, E> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, _: U) {
        let Self { values, dims: Dims { channels, size: [height, width], .. }, window, image, row, target } = self;
        let PoolWindow { kernel, stride, padding } = window;
        let covered = |position: usize, side: usize| {
            (position * stride).saturating_sub(padding)..(position * stride + kernel - padding).min(side)
        };
        for (column, pixel) in target.chunks_exact_mut(channels).enumerate() {
            let (mut pixel, mut pixel_so_far): (_, &mut [E]) = (Some(pixel), &mut []);
            for y in covered(row, height) {
                for x in covered(column, width) {
                    let source = &values[((image * height + y) * width + x) * channels..][..channels];
                    if let Some(pixel) = pixel.take() {
                        pixel_so_far = pixel.write_copy_of_slice(source);
                        continue;
                    }
                    for (largest, value) in pixel_so_far.iter_mut().zip(source) {
                        *largest = if value.order() > largest.order() { *value } else { *largest };
                    }
                }
            }
        }
    }
}

/// Values of which the largest is looked for.
trait Ordered: Copy {
    type Order: PartialOrd;

    fn order(self) -> Self::Order;
}

impl Ordered for u8 {
    type Order = u8;

    #[inline(always)]
    fn order(self) -> u8 {
        self
    }
}

impl Ordered for bf16 {
    type Order = i16;

    /// Its bits, those of negative values turned round. NaN comes after infinity.
    #[inline(always)]
    fn order(self) -> i16 {
        let bits = self.to_bits();
        let magnitude = (bits & 0x7FFF) as i16;
        let signed = if bits >> 15 == 0 { magnitude } else { -magnitude };
        if magnitude > 0x7F80 { i16::MAX } else { signed }
    }
}

/// The sum and ReLU of two tensors of bf16 or 8 bits with channels last, added in f32: in 8 bits where `output` says what they
/// stand for, else in bf16. None where one is not that, or without `output` of 8 bits.
///
/// # Panics
/// If the shapes differ.
pub fn add_relu(x: &Tensor<4>, y: &Tensor<4>, output: Option<Quantization>) -> Option<Tensor<4>> {
    /// Values of a task.
    const BLOCK: usize = 1 << 15;
    let ((x, first), (y, second)) = (kept(x)?, kept(y)?);
    let format = match output {
        Some(output) => Format::U8(output),
        None if [first, second] == [Format::Bf16; 2] => Format::Bf16,
        None => return None,
    };
    let dims = Dims::of(&x);
    assert_eq!(dims, Dims::of(&y), "shapes of a sum");
    let (x, y) = (source(&x), source(&y));
    let write = |target: &mut [MaybeUninit<u8>]| {
        let target = Disjoint::new(target);
        for_each(dims.len().div_ceil(BLOCK), |block| {
            let range = block * BLOCK..dims.len().min((block + 1) * BLOCK);
            // SAFETY: each task has its block.
            let target = Sink { format, values: unsafe { target.part() } };
            fastest().dispatch(AddRelu { x, y, range, target });
        });
    };
    // SAFETY: every block is written, by one task.
    Some(Tensor::from_primitive::<Flex>(unsafe { written(dims, format, write) }))
}

struct AddRelu<'a> {
    x: Source<'a>,
    y: Source<'a>,
    range: std::ops::Range<usize>,
    target: Sink<'a>,
}

impl Task for AddRelu<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { x, y, range, target } = self;
        let whole = range.start + range.len() / LANES * LANES;
        for place in (range.start..whole).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let sum = unit.add(x.load(unit, place), y.load(unit, place));
                target.store(unit, unit.at_least(sum, unit.splat(0.0)), place);
            }
        }
        for place in whole..range.end {
            let sum = x.value(place) + y.value(place);
            target.set(if sum < 0.0 { 0.0 } else { sum }, place);
        }
    }
}

/// Repeats each pixel of bf16 or 8 bits with channels last, so that the map has `size`; none where `x` is not that, or `size` is
/// no multiple of its height and width.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, size[0], size[1]]`
pub fn upsample_nearest(x: &Tensor<4>, size: [usize; 2]) -> Option<Tensor<4>> {
    let (x, format) = kept(x)?;
    let dims = Dims::of(&x);
    let times = [0, 1].map(|axis| size[axis] / dims.size[axis]);
    if times.contains(&0) || [0, 1].map(|axis| times[axis] * dims.size[axis]) != size {
        return None;
    }
    fn repeat<E: Copy>([rows, columns]: [usize; 2]) -> impl Fn(&[E], Dims, usize, usize, &mut [MaybeUninit<E>]) + Sync {
        move |values, Dims { channels, size, .. }, image, row, target| {
            let source = &values[(image * size[0] + row / rows) * size[1] * channels..][..size[1] * channels];
            for (pixels, source) in target.chunks_exact_mut(columns * channels).zip(source.chunks_exact(channels)) {
                pixels.chunks_exact_mut(channels).for_each(|pixel| _ = pixel.write_copy_of_slice(source));
            }
        }
    }
    let dims = [dims, Dims { size, ..dims }];
    Some(match format {
        Format::U8(_) => rows::<u8>(dims, format, octets(&x), repeat(times)),
        _ => rows::<bf16>(dims, format, x.storage(), repeat(times)),
    })
}

/// The channels of several tensors one after the other, with channels last: of 8 bits where all are that, else as bf16. None where
/// no tensor is either, or some channels are no multiple of 16.
///
/// # Panics
/// If the tensors differ in more than the channels.
pub fn cat(tensors: &[Tensor<4>]) -> Option<Tensor<4>> {
    let whole = |tensor: &Tensor<4>| tensor.dims()[1].is_multiple_of(LANES);
    if !tensors.iter().all(whole) || !tensors.iter().any(|tensor| kept(tensor).is_some()) {
        return None;
    }
    let parts: Vec<_> = tensors.iter().map(|tensor| primitive(tensor.clone())).collect();
    let output = if parts.iter().all(|part| quantization(part).is_some()) {
        cat_quantized(fastest(), &parts)
    } else {
        let parts: Vec<_> = parts.into_iter().map(|part| reduced(fastest(), part, Memory::Pooled)).collect();
        let values: Vec<(Dims, &[bf16])> = parts.iter().map(|part| (Dims::of(part), part.storage())).collect();
        join(&values, Format::Bf16)
    };
    Some(Tensor::from_primitive::<Flex>(output))
}

/// Tensors of 8 bits one after the other; the result stands for the numbers that any of them can.
pub(super) fn cat_quantized(kind: UnitKind, parts: &[FlexTensor]) -> FlexTensor {
    let given: Vec<Quantization> = parts.iter().filter_map(quantization).collect();
    let same = given.iter().all(|one| *one == given[0]);
    let bounds = given.iter().map(|one| [one.real(0), one.real(u8::MAX)]);
    let [low, high] = bounds.fold([0f32; 2], |[low, high], [a, b]| [low.min(a), high.max(b)]);
    let common = if same { given[0] } else { Quantization::of_range(low, high) };
    let parts: Vec<_> = parts.iter().map(|part| quantized(kind, part.clone(), common)).collect();
    let values: Vec<(Dims, &[u8])> = parts.iter().map(|part| (Dims::of(part), octets(part))).collect();
    join(&values, Format::U8(common))
}

/// Values of one format with their channels last, one after the other.
///
/// # Panics
/// If they differ in more than the channels.
fn join<E: Copy + Send + Sync>(parts: &[(Dims, &[E])], format: Format) -> FlexTensor {
    let dims = Dims { channels: parts.iter().map(|(dims, _)| dims.channels).sum(), ..parts[0].0 };
    for (part, _) in parts {
        let channels = dims.channels;
        assert_eq!(Dims { channels, ..*part }, dims, "batch and size of tensors that are joined");
    }
    let width = dims.size[1];
    let write = |row: usize, target: &mut [MaybeUninit<E>]| {
        let mut first = 0;
        for (Dims { channels, .. }, values) in parts {
            let source = &values[row * width * channels..][..width * channels];
            for (pixel, source) in target.chunks_exact_mut(dims.channels).zip(source.chunks_exact(*channels)) {
                pixel[first..first + channels].write_copy_of_slice(source);
            }
            first += channels;
        }
    };
    // SAFETY: the parts' channels are all channels of each pixel of a row.
    unsafe { by_rows(dims, format, write) }
}

/// The tensor of the CPU backend and its format, where it is as layers pass it on.
fn kept(x: &Tensor<4>) -> Option<(FlexTensor, Format)> {
    if !matches!(x.dtype(), DType::BF16 | DType::QFloat(_)) {
        return None;
    }
    let x = x.clone().try_into_primitive::<Flex>().ok()?;
    let format = match quantization(&x) {
        Some(quantization) => Format::U8(quantization),
        None if is_reduced(&x) => Format::Bf16,
        None => return None,
    };
    Some((x, format))
}

/// A tensor of bf16 or 8 bits as f32 in contiguous memory; of others the same.
pub fn to_full_precision(x: Tensor<4>) -> Tensor<4> {
    if kept(&x).is_some() {
        return Tensor::from_primitive::<Flex>(full(fastest(), primitive(x), Memory::Pooled));
    }
    if x.dtype() == DType::BF16 { x.cast(FloatDType::F32) } else { x }
}
