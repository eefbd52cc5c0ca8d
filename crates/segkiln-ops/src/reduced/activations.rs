//! Activations between layers of reduced precision: bf16, channels last.
//!
//! A tensor keeps its shape, `[batch, channels, height, width]`; only its strides say that the channels of a pixel lie side by
//! side. So every operator of Burn's can still read it.

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{DType, Shape, bf16},
};

use super::unit::{LANES, Task, Unit, UnitKind, transpose};
use crate::cpu::{
    memory::{Shared, contiguous, pooled_bytes, values_of},
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

/// Whether a tensor is what the layers of this module pass on.
pub(super) fn is_reduced(tensor: &FlexTensor) -> bool {
    let dims = Dims::of(tensor);
    tensor.dtype() == DType::BF16
        && dims.len() > 0
        && *tensor.layout() == dims.channels_last()
        && tensor.storage::<bf16>().len() == dims.len()
}

/// A tensor of `dtype`, bf16 or f32, channels last, that `write` writes.
///
/// # Safety
/// `write` writes every value.
pub(super) unsafe fn written(dims: Dims, dtype: DType, write: impl FnOnce(*mut u8)) -> FlexTensor {
    let Dims { batch, channels, size: [height, width] } = dims;
    let len = values_of(&[batch, channels, height, width]);
    // SAFETY: the caller's promise.
    let bytes = unsafe { pooled_bytes(len * dtype.size(), write) };
    FlexTensor::new(bytes, dims.channels_last(), dtype)
}

/// A tensor as bf16, channels last.
pub(super) fn reduced(kind: UnitKind, tensor: FlexTensor) -> FlexTensor {
    if is_reduced(&tensor) {
        return tensor;
    }
    let tensor = match tensor.dtype() {
        DType::F32 => contiguous(tensor),
        _ => as_f32(tensor).to_contiguous(),
    };
    let dims = Dims::of(&tensor);
    let values: &[f32] = tensor.storage();
    let (pixels, blocks) = (dims.pixels(), dims.pixels().div_ceil(BLOCK));
    // SAFETY: every pixel of every image is written, by one task.
    unsafe {
        written(dims, DType::BF16, |target| {
            let target = Shared(target.cast());
            for_each(dims.batch * blocks, |task| {
                let (image, block) = (task / blocks, task % blocks);
                let pixel = block * BLOCK..pixels.min((block + 1) * BLOCK);
                let source = &values[image * dims.channels * pixels..][..dims.channels * pixels];
                // SAFETY: within the target.
                let target = target.at(0).cast::<bf16>().add(image * dims.channels * pixels);
                kind.dispatch(ToChannelsLast { source, pixels, channels: dims.channels, pixel, target });
            });
        })
    }
}

/// Pixels of a task.
const BLOCK: usize = 256;

struct ToChannelsLast<'a> {
    source: &'a [f32],
    pixels: usize,
    channels: usize,
    pixel: std::ops::Range<usize>,
    target: *mut bf16,
}

impl Task for ToChannelsLast<'_> {
    #[inline(always)]
    unsafe fn run<U: Unit>(self, unit: U) {
        let Self { source, pixels, channels, pixel, target } = self;
        for first in pixel.clone().step_by(LANES) {
            for channel in (0..channels).step_by(LANES) {
                let full = first + LANES <= pixel.end && channel + LANES <= channels;
                if !full {
                    for channel in channel..channels.min(channel + LANES) {
                        for pixel in first..pixel.end.min(first + LANES) {
                            let value = bf16::from_f32(source[channel * pixels + pixel]);
                            // SAFETY: within the image.
                            unsafe { target.add(pixel * channels + channel).write(value) };
                        }
                    }
                    continue;
                }
                // SAFETY: 16 pixels of 16 planes are there, and 16 channels of as many pixels.
                unsafe {
                    let mut rows = [unit.splat(0.0); LANES];
                    for (index, row) in rows.iter_mut().enumerate() {
                        *row = unit.load(source[(channel + index) * pixels + first..].as_ptr());
                    }
                    transpose(unit, &mut rows);
                    for (index, row) in rows.iter().enumerate() {
                        unit.store_bf16(*row, target.add((first + index) * channels + channel));
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
pub(super) fn full(kind: UnitKind, tensor: FlexTensor) -> FlexTensor {
    let dims = Dims::of(&tensor);
    let last = *tensor.layout() == dims.channels_last() && dims.len() > 0;
    if !last || !matches!(tensor.dtype(), DType::BF16 | DType::F32) || tensor.layout().is_contiguous() {
        return as_f32(tensor).to_contiguous();
    }
    let (pixels, blocks) = (dims.pixels(), dims.pixels().div_ceil(BLOCK));
    let source = match tensor.dtype() {
        DType::BF16 => Source::Bf16(tensor.storage()),
        _ => Source::F32(tensor.storage()),
    };
    let shape = [dims.batch, dims.channels, dims.size[0], dims.size[1]];
    // SAFETY: every pixel of every image is written, by one task.
    unsafe {
        crate::cpu::memory::written(shape, crate::cpu::memory::Memory::Pooled, |target| {
            let target = Shared(target.as_mut_ptr().cast());
            for_each(dims.batch * blocks, |task| {
                let (image, block) = (task / blocks, task % blocks);
                let pixel = block * BLOCK..pixels.min((block + 1) * BLOCK);
                let offset = image * dims.channels * pixels;
                // SAFETY: within the target.
                let target = target.at(offset);
                kind.dispatch(ToChannelsFirst { source, offset, pixels, channels: dims.channels, pixel, target });
            });
        })
    }
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Bf16(&'a [bf16]),
    F32(&'a [f32]),
}

struct ToChannelsFirst<'a> {
    source: Source<'a>,
    /// Of the image.
    offset: usize,
    pixels: usize,
    channels: usize,
    pixel: std::ops::Range<usize>,
    target: *mut f32,
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
                            let place = offset + pixel * channels + channel;
                            let value = match source {
                                Source::Bf16(values) => values[place].to_f32(),
                                Source::F32(values) => values[place],
                            };
                            // SAFETY: within the image.
                            unsafe { target.add(channel * pixels + pixel).write(value) };
                        }
                    }
                    continue;
                }
                // SAFETY: 16 channels of 16 pixels are there, and 16 pixels of as many planes.
                unsafe {
                    let mut rows = [unit.splat(0.0); LANES];
                    for (index, row) in rows.iter_mut().enumerate() {
                        let place = offset + (first + index) * channels + channel;
                        *row = match source {
                            Source::Bf16(values) => unit.load_bf16(values[place..].as_ptr()),
                            Source::F32(values) => unit.load(values[place..].as_ptr()),
                        };
                    }
                    transpose(unit, &mut rows);
                    for (index, row) in rows.iter().enumerate() {
                        unit.store(*row, target.add((channel + index) * pixels + first));
                    }
                }
            }
        }
    }
}
