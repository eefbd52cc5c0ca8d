//! Memory of large tensors in evaluation and of operators' temporary values, kept for the next ones: a page that the system
//! hands out anew costs more than everything that an operator does with its values.

use std::{
    collections::VecDeque,
    mem::{MaybeUninit, take},
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError},
};

use burn::tensor::AllocationProperty;
use burn_std::{AccessError, AccessPolicy, AllocationController};

use super::per_process::PerProcess;

/// Values below which memory is left to the allocator, which keeps it itself: 128 KiB, glibc's limit for asking the system.
const FEWEST: usize = 1 << 15;
/// Values that are kept at most: 256 MiB.
const MOST: usize = 1 << 26;

static POOL: PerProcess<Mutex<Pool>> = PerProcess::new(|| Mutex::new(Pool { buffers: VecDeque::new(), values: 0 }));

fn lock() -> MutexGuard<'static, Pool> {
    POOL.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// The buffers that wait, oldest first.
struct Pool {
    buffers: VecDeque<Vec<f32>>,
    /// Values that they have room for in all.
    values: usize,
}

/// Returns an empty vector with room for `len` values.
pub(crate) fn vector(len: usize) -> Vec<f32> {
    if len < FEWEST {
        return Vec::with_capacity(len);
    }
    let mut pool = lock();
    // Not much larger, so that small tensors do not hold on to large memory.
    let fits = |buffer: &Vec<f32>| (len..=len + len / 8).contains(&buffer.capacity());
    // The last one in is the most likely to be in a cache.
    let found = pool.buffers.iter().rposition(fits).and_then(|index| pool.buffers.remove(index));
    if let Some(buffer) = found {
        pool.values -= buffer.capacity();
        return buffer;
    }
    drop(pool);
    Vec::with_capacity(len)
}

/// Keeps a vector's memory for the next that asks for as much.
pub(crate) fn give_back(mut buffer: Vec<f32>) {
    if buffer.capacity() < FEWEST || buffer.capacity() > MOST {
        return;
    }
    buffer.clear();
    let mut pool = lock();
    pool.values += buffer.capacity();
    pool.buffers.push_back(buffer);
    while pool.values > MOST {
        match pool.buffers.pop_front() {
            Some(oldest) => pool.values -= oldest.capacity(),
            None => break,
        }
    }
}

/// Gives back to the system the memory, up to 256 MiB, that operators on the CPU keep for later tensors. Each thread keeps its
/// scratch memory, up to 16 MiB.
pub fn release_memory() {
    let mut pool = lock();
    pool.buffers.clear();
    pool.values = 0;
}

/// Memory of a tensor that goes to the pool when the tensor is dropped.
#[derive(Debug)]
pub(crate) struct Pooled(Vec<f32>);

impl Pooled {
    /// Gives the values back as an error if they are few, which the allocator is better at.
    pub fn new(values: Vec<f32>) -> Result<Self, Vec<f32>> {
        if values.capacity() < FEWEST { Err(values) } else { Ok(Self(values)) }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        give_back(take(&mut self.0));
    }
}

impl AllocationController for Pooled {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Native
    }

    fn capacity(&self) -> usize {
        self.0.capacity() * size_of::<f32>()
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        // SAFETY: the vector owns this memory, and bytes need no alignment.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.capacity()) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        // SAFETY: as above.
        Ok(unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.capacity()) })
    }

    fn try_detach(&mut self) -> Option<NonNull<u8>> {
        // The memory is the allocator's, with the layout that `capacity` and `alloc_align` say.
        let mut values = std::mem::ManuallyDrop::new(take(&mut self.0));
        NonNull::new(values.as_mut_ptr().cast())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Bytes;

    use super::*;

    fn bytes(values: Vec<f32>) -> Bytes {
        let len = values.len() * 4;
        // SAFETY: all values are initialized.
        unsafe { Bytes::from_controller(Box::new(Pooled::new(values).unwrap()), len) }
    }

    #[test]
    fn memory_comes_back() {
        // A size that no other test asks for.
        let len = 3_456_789;
        let mut values = vector(len);
        values.resize(len, 1.5);
        let place = values.as_ptr();
        let mut first = bytes(values);
        let copy = first.clone();
        first[..4].copy_from_slice(&2.5f32.to_ne_bytes());
        assert_eq!(copy[..4], 1.5f32.to_ne_bytes());
        drop(first);
        let again = vector(len);
        assert_eq!(again.as_ptr(), place);
        assert!(again.is_empty() && again.capacity() >= len);
    }

    #[test]
    fn vectors_can_be_taken_out() {
        let mut values = vector(FEWEST + 7);
        values.resize(FEWEST + 7, 3.0);
        let values = bytes(values).try_into_vec::<f32>().unwrap();
        assert_eq!(values, vec![3.0; FEWEST + 7]);
    }
}
