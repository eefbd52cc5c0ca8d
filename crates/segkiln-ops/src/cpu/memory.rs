//! Tensors, scratch memory and what threads share.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{Bytes, DType, Shape},
};

use super::pool::{self, Pooled};

/// A pointer that threads share; each writes places of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *mut f32);

// SAFETY: every task writes a range of the buffer that no other task reads or writes.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `offset` is within the buffer.
    pub unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// Where a tensor's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The allocator: a training keeps its tensors until the backward pass, and then a pool is only in the way.
    Allocated,
    /// The [pool], to which it goes back with the tensor's end: an evaluation drops a tensor when the next is made.
    Pooled,
}

/// A contiguous tensor that `write` writes.
///
/// # Safety
/// `write` writes every value.
pub(crate) unsafe fn written<const D: usize>(
    shape: [usize; D],
    memory: Memory,
    write: impl FnOnce(Shared),
) -> FlexTensor {
    let len = values_of(&shape);
    let mut values = match memory {
        Memory::Allocated => Vec::with_capacity(len),
        Memory::Pooled => pool::vector(len),
    };
    write(Shared(values.as_mut_ptr()));
    // SAFETY: the caller's promise.
    unsafe { values.set_len(len) };
    let bytes = match memory {
        Memory::Allocated => Bytes::from_elems(values),
        Memory::Pooled => match Pooled::new(values) {
            // SAFETY: these are the values' bytes.
            Ok(pooled) => unsafe { Bytes::from_controller(Box::new(pooled), len * size_of::<f32>()) },
            Err(values) => Bytes::from_elems(values),
        },
    };
    FlexTensor::new(bytes, Layout::contiguous(Shape::new(shape)), DType::F32)
}

/// Bytes from the [pool] that `write` writes.
///
/// # Safety
/// `write` writes every byte.
pub(crate) unsafe fn pooled_bytes(len: usize, write: impl FnOnce(*mut u8)) -> Bytes {
    let count = len.div_ceil(size_of::<f32>());
    let mut values = pool::vector(count);
    write(values.as_mut_ptr().cast());
    // SAFETY: the caller's promise.
    unsafe {
        if !len.is_multiple_of(size_of::<f32>()) {
            values.as_mut_ptr().cast::<u8>().add(len).write_bytes(0, count * size_of::<f32>() - len);
        }
        values.set_len(count);
        match Pooled::new(values) {
            Ok(pooled) => Bytes::from_controller(Box::new(pooled), len),
            Err(values) => {
                let bytes = std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), len);
                Bytes::from_bytes_vec(bytes.to_vec())
            }
        }
    }
}

/// Number of values of a shape, whose bytes a vector can hold: all writes rely on it.
pub(crate) fn values_of(shape: &[usize]) -> usize {
    let len = shape.iter().try_fold(1usize, |len, side| len.checked_mul(*side));
    let fits = |len: &usize| len.checked_mul(size_of::<f32>()).is_some_and(|bytes| bytes <= isize::MAX as usize);
    len.filter(fits).unwrap_or_else(|| panic!("a tensor of {shape:?} is larger than any memory"))
}

/// A contiguous tensor.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(shape)), DType::F32)
}

pub(crate) fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// `tensor` in contiguous memory. The gradient of a sum is one number for all places, which Burn copies one by one.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let (len, dims) = (layout.num_elements(), layout.shape().num_dims());
    if tensor.dtype() != DType::F32 || len <= 1 || dims != 4 || layout.strides().iter().any(|stride| *stride != 0) {
        return tensor.to_contiguous();
    }
    let values = vec![tensor.storage::<f32>()[layout.start_offset()]; len];
    self::tensor(values, layout.shape().dims::<4>())
}

thread_local! {
    /// What a thread computes in; it stays for the next operator.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Values of scratch memory that a thread keeps: 16 MiB.
const KEPT: usize = 1 << 22;

/// Values of a cache line.
const LINE: usize = 16;

/// Lends a thread's scratch memory, with whatever was left in it, each part from a cache line's begin on. `f` must not wait
/// for other tasks of rayon's.
pub(crate) fn with_scratch<const N: usize>(sizes: [usize; N], f: impl FnOnce([&mut [f32]; N])) {
    SCRATCH.with_borrow_mut(|scratch| {
        let total = LINE + sizes.iter().map(|size| size.next_multiple_of(LINE)).sum::<usize>();
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

/// Values that tasks share while an operator computes; their memory comes from the [pool] and goes back to it.
pub(crate) struct Temporary(Vec<f32>);

impl Temporary {
    /// With whatever was left in the memory.
    ///
    /// # Safety
    /// Every value is written before it is read.
    pub unsafe fn new(len: usize) -> Self {
        let mut values = pool::vector(len);
        // SAFETY: the caller's promise.
        unsafe { values.set_len(len) };
        Self(values)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        pool::give_back(std::mem::take(&mut self.0));
    }
}

impl Deref for Temporary {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Temporary {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
