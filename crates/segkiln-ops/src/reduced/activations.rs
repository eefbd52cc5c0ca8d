//! Activations between layers of reduced precision: bf16, channels last.
//!
//! A tensor keeps its shape, `[batch, channels, height, width]`; its strides put the channels of a pixel side by side, so every
//! operator of Burn can still read it.

#![allow(
    clippy::needless_range_loop,
    reason = "a call, as iterators may become, puts registers into memory; loops over indices are none"
)]

use std::mem::MaybeUninit;

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{DType, Shape, bf16, quantization::QuantScheme},
};

use super::unit::{LANES, Task, Unit, UnitKind, transpose};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    memory::{Memory, bytes, contiguous, values_of},
    threads::for_each,
};

/// The sizes of a tensor of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dims {
    pub batch: usize,
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
}

impl Dims {
    pub fn of(tensor: &FlexTensor) -> Self {
        let [batch, channels, height, width] = tensor.layout().shape().dims();
        Self { batch, channels, size: [height, width] }
    }

    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    pub fn len(&self) -> usize {
        self.batch * self.pixels() * self.channels
    }

    fn shape(&self) -> Shape {
        Shape::new([self.batch, self.channels, self.size[0], self.size[1]])
    }

    fn channels_last(&self) -> Layout {
        let [height, width] = self.size;
        let strides = [height * width * self.channels, 1, width * self.channels, self.channels];
        Layout::new(self.shape(), strides.map(|stride| stride as isize).to_vec(), 0)
    }
}

/// Affine quantization to 8 bits: the byte `value` is the number `scale · (value - zero)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    /// Step between neighboring values; positive and finite.
    pub scale: f32,
    /// Zero point: the byte that stands for 0.
    pub zero: u8,
}

impl Quantization {
    /// 256 values from `low` to `high`, which are widened so that 0 is one of them. Bounds that are not finite count as 0.
    pub fn of_range(low: f32, high: f32) -> Self {
        let bound = |value: f32| if value.is_finite() { f64::from(value) } else { 0.0 };
        let (low, high) = (bound(low).min(0.0), bound(high).max(0.0));
        let scale = ((high - low) / 255.0).max(f64::from(f32::MIN_POSITIVE)) as f32;
        Self { scale, zero: (-low / f64::from(scale)).round_ties_even() as u8 }
    }

    pub(super) fn real(self, value: u8) -> f32 {
        (f32::from(value) - f32::from(self.zero)) * self.scale
    }
}

/// Data type of 8-bit tensors: one of Burn's quantized types, so that none of its operators reads the values by mistake.
fn bytes_type() -> DType {
    DType::QFloat(QuantScheme::default())
}

/// Bytes after the values of an 8-bit tensor that hold its [`Quantization`].
const TAIL: usize = 8;
/// Last bytes of the tail, by which it is recognized.
const MARK: [u8; 3] = *b"u8q";

/// Whether a tensor is bf16 with its channels last, as layers pass it on.
pub(super) fn is_reduced(tensor: &FlexTensor) -> bool {
    let dims = Dims::of(tensor);
    tensor.dtype() == DType::BF16
        && dims.len() > 0
        && *tensor.layout() == dims.channels_last()
        && tensor.storage::<bf16>().len() == dims.len()
}

/// Returns the quantization of a tensor of 8 bits with its channels last, as layers pass it on; none for other tensors.
pub(super) fn quantization(tensor: &FlexTensor) -> Option<Quantization> {
    let dims = Dims::of(tensor);
    if tensor.dtype() != bytes_type() || dims.len() == 0 || *tensor.layout() != dims.channels_last() {
        return None;
    }
    match tensor.bytes().get(dims.len()..)? {
        [a, b, c, d, zero, mark @ ..] if *mark == MARK => {
            Some(Quantization { scale: f32::from_ne_bytes([*a, *b, *c, *d]), zero: *zero })
        }
        _ => None,
    }
}

/// Values of an 8-bit tensor, without its tail.
pub(super) fn octets(tensor: &FlexTensor) -> &[u8] {
    &tensor.bytes()[..Dims::of(tensor).len()]
}

/// Storage format of activations, channels last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Format {
    F32,
    Bf16,
    U8(Quantization),
}

impl Format {
    /// Bytes of a value.
    #[inline(always)]
    pub fn size(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<bf16>(),
            Self::U8(_) => size_of::<u8>(),
        }
    }
}

/// A tensor, channels last, that `write` writes, for an evaluation.
///
/// # Safety
/// `write` writes every value.
pub(super) unsafe fn written(dims: Dims, format: Format, write: impl FnOnce(&mut [MaybeUninit<u8>])) -> FlexTensor {
    // SAFETY: the caller's promise.
    unsafe { written_in(Memory::Pooled, dims, format, write) }
}

/// A tensor, channels last, that `write` writes.
///
/// # Safety
/// `write` writes every value.
unsafe fn written_in(
    memory: Memory,
    dims: Dims,
    format: Format,
    write: impl FnOnce(&mut [MaybeUninit<u8>]),
) -> FlexTensor {
    let Dims { batch, channels, size: [height, width] } = dims;
    let len = values_of(&[batch, channels, height, width]) * format.size();
    let (dtype, tail) = match format {
        Format::F32 => (DType::F32, None),
        Format::Bf16 => (DType::BF16, None),
        Format::U8(quantization) => (bytes_type(), Some(quantization)),
    };
    let with_tail = |target: &mut [MaybeUninit<u8>]| {
        let (values, end) = target.split_at_mut(len);
        write(values);
        if let Some(Quantization { scale, zero }) = tail {
            let [a, b, c, d] = scale.to_ne_bytes();
            let [x, y, z] = MARK;
            end.write_copy_of_slice(&[a, b, c, d, zero, x, y, z]);
        }
    };
    // SAFETY: the caller's promise, and the tail is written here.
    let values = unsafe { bytes(len + tail.map_or(0, |_| TAIL), memory, with_tail) };
    FlexTensor::new(values, dims.channels_last(), dtype)
}

/// A tensor as bf16, channels last.
pub(super) fn reduced(kind: UnitKind, tensor: FlexTensor, memory: Memory) -> FlexTensor {
    if is_reduced(&tensor) { tensor } else { converted(kind, tensor, Format::Bf16, memory) }
}

/// A tensor as 8 bits, channels last.
pub(super) fn quantized(kind: UnitKind, tensor: FlexTensor, target: Quantization) -> FlexTensor {
    if quantization(&tensor) == Some(target) {
        tensor
    } else {
        converted(kind, tensor, Format::U8(target), Memory::Pooled)
    }
}

/// A tensor of any layout in another format, channels last.
fn converted(kind: UnitKind, tensor: FlexTensor, format: Format, memory: Memory) -> FlexTensor {
    let dims = Dims::of(&tensor);
    let last = is_reduced(&tensor) || quantization(&tensor).is_some();
    let tensor = match tensor.dtype() {
        _ if last => tensor,
        DType::F32 => contiguous(tensor),
        _ => as_f32(tensor).to_contiguous(),
    };
    let source = source(&tensor);
    let (pixels, blocks) = (dims.pixels(), dims.pixels().div_ceil(BLOCK));
    let write = |target: &mut [MaybeUninit<u8>]| {
        let target = Disjoint::new(target);
        for_each(dims.batch * blocks, |task| {
            let (image, block) = (task / blocks, task % blocks);
            let pixel = block * BLOCK..pixels.min((block + 1) * BLOCK);
            let offset = image * dims.channels * pixels;
            // SAFETY: each task has its pixels.
            let target = Sink { format, values: unsafe { target.part() } };
            if last {
                let range = offset + pixel.start * dims.channels..offset + pixel.end * dims.channels;
                kind.dispatch(InPlace { source, range, target });
            } else {
                kind.dispatch(ToChannelsLast { source, offset, pixels, channels: dims.channels, pixel, target });
            }
        });
    };
    // SAFETY: every pixel of every image is written, by one task.
    unsafe { written_in(memory, dims, format, write) }
}

/// Pixels of a task.
const BLOCK: usize = 256;

#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    U8(&'a [u8], Quantization),
}

/// The values of a tensor of a format of ours, or of f32.
pub(super) fn source(tensor: &FlexTensor) -> Source<'_> {
    match (tensor.dtype(), quantization(tensor)) {
        (_, Some(quantization)) => Source::U8(octets(tensor), quantization),
        (DType::BF16, None) => Source::Bf16(tensor.storage()),
        _ => Source::F32(tensor.storage()),
    }
}

impl Source<'_> {
    pub fn value(self, place: usize) -> f32 {
        match self {
            Self::F32(values) => values[place],
            Self::Bf16(values) => values[place].to_f32(),
            Self::U8(values, quantization) => quantization.real(values[place]),
        }
    }

    /// # Safety
    /// The instructions of the unit are there.
    #[inline(always)]
    pub unsafe fn load<U: Unit>(self, unit: U, place: usize) -> U::Float {
        let range = place..place + LANES;
        // SAFETY: the slices have a register's values.
        unsafe {
            match self {
                Self::F32(values) => unit.load(values[range].as_ptr()),
                Self::Bf16(values) => unit.load_bf16(values[range].as_ptr()),
                Self::U8(values, Quantization { scale, zero }) => {
                    let value = unit.load_u8(values[range].as_ptr());
                    unit.mul(unit.sub(value, unit.splat(f32::from(zero))), unit.splat(scale))
                }
            }
        }
    }
}

/// Where a task writes values.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a> {
    pub format: Format,
    pub values: Part<'a, u8>,
}

impl Sink<'_> {
    /// Writes a value.
    ///
    /// # Panics
    /// If the place is not within the target.
    pub fn set(self, value: f32, place: usize) {
        let size = self.format.size();
        let target = self.values.at(place * size, size);
        // SAFETY: the part has the value's bytes.
        unsafe {
            match self.format {
                Format::F32 => target.cast::<f32>().write_unaligned(value),
                Format::Bf16 => target.cast::<bf16>().write_unaligned(bf16::from_f32(value)),
                Format::U8(Quantization { scale, zero }) => {
                    let value = value * scale.recip() + f32::from(zero);
                    target.write(value.round_ties_even() as u8);
                }
            }
        }
    }

    /// Writes 16 values.
    ///
    /// # Panics
    /// If they are not within the target.
    ///
    /// # Safety
    /// The instructions of the unit are there.
    #[inline(always)]
    pub unsafe fn store<U: Unit>(self, unit: U, value: U::Float, place: usize) {
        let size = self.format.size();
        let target = self.values.at(place * size, LANES * size);
        // SAFETY: the part has the values' bytes; the caller promises the instructions.
        unsafe {
            match self.format {
                Format::F32 => unit.store(value, target.cast()),
                Format::Bf16 => unit.store_bf16(value, target.cast()),
                Format::U8(Quantization { scale, zero }) => {
                    let value = unit.add(unit.mul(value, unit.splat(scale.recip())), unit.splat(f32::from(zero)));
                    unit.store_u8(value, target);
                }
            }
        }
    }
}

/// Converts values to another format in the same layout.
struct InPlace<'a> {
    source: Source<'a>,
    range: std::ops::Range<usize>,
    target: Sink<'a>,
}

impl Task for InPlace<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { source, range, target } = self;
        let whole = range.start + range.len() / LANES * LANES;
        for place in (range.start..whole).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe { target.store(unit, source.load(unit, place), place) };
        }
        for place in whole..range.end {
            target.set(source.value(place), place);
        }
    }
}

struct ToChannelsLast<'a> {
    source: Source<'a>,
    /// Index of the image's first value.
    offset: usize,
    pixels: usize,
    channels: usize,
    pixel: std::ops::Range<usize>,
    target: Sink<'a>,
}

impl Task for ToChannelsLast<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { source, offset, pixels, channels, pixel, target } = self;
        for first in pixel.clone().step_by(LANES) {
            for channel in (0..channels).step_by(LANES) {
                let full = first + LANES <= pixel.end && channel + LANES <= channels;
                if !full {
                    for channel in channel..channels.min(channel + LANES) {
                        for pixel in first..pixel.end.min(first + LANES) {
                            let value = source.value(offset + channel * pixels + pixel);
                            target.set(value, offset + pixel * channels + channel);
                        }
                    }
                    continue;
                }
                // SAFETY: the caller's promise.
                unsafe {
                    let mut rows = [unit.splat(0.0); LANES];
                    for index in 0..LANES {
                        rows[index] = source.load(unit, offset + (channel + index) * pixels + first);
                    }
                    transpose(unit, &mut rows);
                    for index in 0..LANES {
                        target.store(unit, rows[index], offset + (first + index) * channels + channel);
                    }
                }
            }
        }
    }
}

/// A tensor of any float type as f32.
fn as_f32(tensor: FlexTensor) -> FlexTensor {
    use burn::{
        backend::{Flex, ops::FloatTensorOps},
        tensor::FloatDType,
    };
    Flex::float_cast(tensor, FloatDType::F32)
}

/// A tensor as f32 in contiguous memory.
pub(super) fn full(kind: UnitKind, tensor: FlexTensor, memory: Memory) -> FlexTensor {
    let dims = Dims::of(&tensor);
    let quantization = quantization(&tensor);
    let last = *tensor.layout() == dims.channels_last() && dims.len() > 0;
    let known = quantization.is_some() || matches!(tensor.dtype(), DType::BF16 | DType::F32);
    if quantization.is_none() && (!last || !known || tensor.layout().is_contiguous()) {
        return as_f32(tensor).to_contiguous();
    }
    let (pixels, blocks) = (dims.pixels(), dims.pixels().div_ceil(BLOCK));
    let source = source(&tensor);
    let shape = [dims.batch, dims.channels, dims.size[0], dims.size[1]];
    let write = |target: &mut [MaybeUninit<f32>]| {
        let target = Disjoint::new(target);
        for_each(dims.batch * blocks, |task| {
            let (image, block) = (task / blocks, task % blocks);
            let pixel = block * BLOCK..pixels.min((block + 1) * BLOCK);
            let offset = image * dims.channels * pixels;
            // SAFETY: each task has its pixels of all planes of its image.
            let target = unsafe { target.part() }.skip(offset);
            kind.dispatch(ToChannelsFirst { source, offset, pixels, channels: dims.channels, pixel, target });
        });
    };
    // SAFETY: every pixel of every image is written, by one task.
    unsafe { crate::cpu::memory::written(shape, memory, write) }
}

struct ToChannelsFirst<'a> {
    source: Source<'a>,
    /// Index of the image's first value.
    offset: usize,
    pixels: usize,
    channels: usize,
    pixel: std::ops::Range<usize>,
    target: Part<'a>,
}

impl Task for ToChannelsFirst<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { source, offset, pixels, channels, pixel, target } = self;
        for first in pixel.clone().step_by(LANES) {
            for channel in (0..channels).step_by(LANES) {
                let full = first + LANES <= pixel.end && channel + LANES <= channels;
                if !full {
                    for channel in channel..channels.min(channel + LANES) {
                        for pixel in first..pixel.end.min(first + LANES) {
                            let value = source.value(offset + pixel * channels + channel);
                            // SAFETY: the part has the value.
                            unsafe { target.at(channel * pixels + pixel, 1).write(value) };
                        }
                    }
                    continue;
                }
                // SAFETY: the part has a register's values; the caller promises the instructions.
                unsafe {
                    let mut rows = [unit.splat(0.0); LANES];
                    for index in 0..LANES {
                        rows[index] = source.load(unit, offset + (first + index) * channels + channel);
                    }
                    transpose(unit, &mut rows);
                    for index in 0..LANES {
                        unit.store(rows[index], target.at((channel + index) * pixels + first, LANES));
                    }
                }
            }
        }
    }
}
