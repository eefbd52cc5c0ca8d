//! The memory of tensors, temporary memory of an operator, and scratch memory of a thread.

use std::{cell::RefCell, mem::MaybeUninit};

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{Bytes, DType, Shape},
};

use super::pool::{self, Pooled};

/// Source of a tensor's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The allocator. Training keeps its tensors until the backward pass, so a pool would only hold memory back: with one,
    /// a U-Net's training step took 10 % longer and a quarter more memory.
    Allocated,
    /// The [pool], which the memory returns to when the tensor is dropped. In evaluation a tensor is dropped when the next has
    /// been made; there the pool saves a quarter of a U-Net's time.
    Pooled,
}

/// Returns a contiguous tensor whose values `write` initializes.
///
/// # Safety
/// `write` initializes every value, or does not return.
pub(crate) unsafe fn written<const D: usize>(
    shape: [usize; D],
    memory: Memory,
    write: impl FnOnce(&mut [MaybeUninit<f32>]),
) -> FlexTensor {
    let len = values_of(&shape);
    let mut values = match memory {
        Memory::Allocated => Vec::with_capacity(len),
        Memory::Pooled => pool::vector(len),
    };
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the vector has room for so many values, and the caller promises that they are initialized.
    unsafe { values.set_len(len) };
    let bytes = match memory {
        Memory::Allocated => Bytes::from_elems(values),
        Memory::Pooled => match Pooled::new(values) {
            // SAFETY: `Pooled` lends the vector's memory, of which the first `len` values are initialized.
            Ok(pooled) => unsafe { Bytes::from_controller(Box::new(pooled), len * size_of::<f32>()) },
            Err(values) => Bytes::from_elems(values),
        },
    };
    FlexTensor::new(bytes, Layout::contiguous(Shape::new(shape)), DType::F32)
}

/// Returns `len` values that `write` initializes.
///
/// # Safety
/// `write` initializes every value, or does not return.
pub(crate) unsafe fn written_vec(len: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the vector has room for so many values, and the caller promises that they are initialized.
    unsafe { values.set_len(len) };
    values
}

/// Returns bytes that `write` initializes.
///
/// # Safety
/// `write` initializes every byte.
pub(crate) unsafe fn bytes(len: usize, memory: Memory, write: impl FnOnce(&mut [MaybeUninit<u8>])) -> Bytes {
    let count = len.div_ceil(size_of::<f32>());
    let mut values = match memory {
        Memory::Allocated => Vec::with_capacity(count),
        Memory::Pooled => pool::vector(count),
    };
    write(&mut view_mut(&mut values.spare_capacity_mut()[..count])[..len]);
    // SAFETY: the caller's promise.
    unsafe {
        if !len.is_multiple_of(size_of::<f32>()) {
            values.as_mut_ptr().cast::<u8>().add(len).write_bytes(0, count * size_of::<f32>() - len);
        }
        values.set_len(count);
        if memory == Memory::Allocated && len.is_multiple_of(size_of::<f32>()) {
            return Bytes::from_elems(values);
        }
        match Pooled::new(values) {
            Ok(pooled) => Bytes::from_controller(Box::new(pooled), len),
            Err(values) => {
                let bytes = std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), len);
                Bytes::from_bytes_vec(bytes.to_vec())
            }
        }
    }
}

/// Returns the number of values of a shape.
///
/// # Panics
/// If their bytes are more than a vector can hold: all code that writes tensors relies on it.
pub(crate) fn values_of(shape: &[usize]) -> usize {
    let len = shape.iter().try_fold(1usize, |len, side| len.checked_mul(*side));
    let fits = |len: &usize| len.checked_mul(size_of::<f32>()).is_some_and(|bytes| bytes <= isize::MAX as usize);
    len.filter(fits).unwrap_or_else(|| panic!("a tensor of {shape:?} is larger than any memory"))
}

/// Returns a contiguous tensor of these values.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(shape)), DType::F32)
}

/// Returns the values of a contiguous tensor of f32, exactly as many as its shape has.
///
/// # Panics
/// If the tensor is not contiguous, or its memory is smaller than its shape says; anyone can make such a `FlexTensor`.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    let layout = tensor.layout();
    assert!(layout.is_contiguous() && layout.start_offset() == 0, "the tensor is contiguous");
    &tensor.storage()[..values_of(layout.shape())]
}

/// Returns whether all tensors hold f32 values.
pub(crate) fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// Returns `tensor` in contiguous memory. The gradient of a sum is one value that all places share (strides of 0), which Burn
/// copies one by one; here it is filled.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let (len, dims) = (layout.num_elements(), layout.shape().num_dims());
    if tensor.dtype() != DType::F32 || len <= 1 || dims != 4 || layout.strides().iter().any(|stride| *stride != 0) {
        return tensor.to_contiguous();
    }
    let values = vec![tensor.storage::<f32>()[layout.start_offset()]; len];
    self::tensor(values, layout.shape().dims::<4>())
}

/// Views initialized memory as memory that may be written.
///
/// # Safety
/// Only initialized values are written through the returned slice.
pub(crate) unsafe fn as_uninit(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: both types have the same layout; the caller promises to keep the values initialized.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) }
}

/// Views initialized memory as memory that may not be initialized, for kernels that read either.
pub(crate) fn as_maybe(values: &[f32]) -> &[MaybeUninit<f32>] {
    // SAFETY: both types have the same layout, and nothing can be written through a shared reference.
    unsafe { &*(std::ptr::from_ref(values) as *const [MaybeUninit<f32>]) }
}

/// Views memory as memory for values of another type, which fill it.
///
/// # Panics
/// If `T` has other than 1, 2 or 4 bytes, or is aligned otherwise.
pub(crate) fn view_mut<T: Copy>(memory: &mut [MaybeUninit<f32>]) -> &mut [MaybeUninit<T>] {
    let count = count_of::<T>(memory.len());
    // SAFETY: the same bytes, aligned for f32 and therefore for `T`; neither type need be initialized.
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), count) }
}

/// As [`view_mut`], for reading.
///
/// # Panics
/// As there.
pub(crate) fn view<T: Copy>(memory: &[MaybeUninit<f32>]) -> &[MaybeUninit<T>] {
    let count = count_of::<T>(memory.len());
    // SAFETY: as in `view_mut`.
    unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), count) }
}

/// Values of `T` in so many of f32.
fn count_of<T>(len: usize) -> usize {
    assert!(matches!(size_of::<T>(), 1 | 2 | 4) && align_of::<T>() <= align_of::<f32>());
    len * (size_of::<f32>() / size_of::<T>())
}

thread_local! {
    /// Memory that a thread computes in, kept for its next task.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Values of scratch memory that a thread keeps after a task: 16 MiB.
const KEPT: usize = 1 << 22;

/// Values in a cache line.
const LINE: usize = 16;

/// Lends parts of the thread's scratch memory to `f`, each of the given size and beginning at a cache line. They hold whatever
/// an earlier task left there.
///
/// # Panics
/// If `f` asks for scratch memory again, by itself or by running another task while it waits.
pub(crate) fn with_scratch<const N: usize>(sizes: [usize; N], f: impl FnOnce([&mut [f32]; N])) {
    SCRATCH.with_borrow_mut(|scratch| {
        let total = sizes.iter().try_fold(LINE, |total, size| total.checked_add(size.checked_next_multiple_of(LINE)?));
        let total = total.expect("scratch memory that fits the address space");
        if scratch.len() < total {
            scratch.resize(total, 0.0);
        }
        let begin = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let mut rest = &mut scratch[begin..];
        f(sizes.map(|size| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(size.next_multiple_of(LINE));
            rest = after;
            &mut part[..size]
        }));
        if scratch.len() > KEPT {
            *scratch = Vec::new();
        }
    });
}

/// Memory that an operator's tasks share while it computes, from the [pool] and back to it. It is not initialized: tasks write
/// it through a [`Disjoint`](super::disjoint::Disjoint), and kernels read only what was written.
pub(crate) struct Temporary {
    /// Empty, with room for `len` values.
    memory: Vec<f32>,
    len: usize,
}

impl Temporary {
    pub fn new(len: usize) -> Self {
        Self { memory: pool::vector(len), len }
    }

    pub fn as_slice(&self) -> &[MaybeUninit<f32>] {
        // SAFETY: the vector has room for so many values, and `MaybeUninit` need not be initialized.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [MaybeUninit<f32>] {
        &mut self.memory.spare_capacity_mut()[..self.len]
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        pool::give_back(std::mem::take(&mut self.memory));
    }
}
