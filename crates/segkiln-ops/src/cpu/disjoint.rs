//! Memory that several tasks write at the same time, each its own values.
//!
//! This is the only type through which threads share memory that they write. A task takes a [`Part`] of it by an unsafe call,
//! whose contract is that no other task touches the values that are written through that part. Everything else is checked: a
//! part gives pointers only to ranges and rectangles that lie within the memory, and panics otherwise. In tests with debug
//! assertions (`.ci/run` runs them so) the contract is checked too: for each value the part is recorded that asked for it, and a second one is a
//! panic.

use std::{marker::PhantomData, mem::MaybeUninit};

/// Memory for values of `T`, some or all of which may not have been written yet.
pub(crate) struct Disjoint<'a, T = f32> {
    start: *mut T,
    len: usize,
    #[cfg(all(test, debug_assertions))]
    owners: Box<[claims::Owner]>,
    memory: PhantomData<&'a mut [MaybeUninit<T>]>,
}

// SAFETY: a shared reference gives access to the memory only by `part`, whose caller promises that no two threads touch the
// same value; the values may be moved to another thread by the bound.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

/// The part of a [`Disjoint`] that one task writes. It stays on the task's thread.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a, T = f32> {
    start: *mut T,
    len: usize,
    #[cfg(all(test, debug_assertions))]
    claims: claims::Claims<'a>,
    memory: PhantomData<&'a mut [MaybeUninit<T>]>,
}

impl<'a, T: Copy> Disjoint<'a, T> {
    /// Shares memory that is not initialized.
    pub fn new(memory: &'a mut [MaybeUninit<T>]) -> Self {
        Self {
            start: memory.as_mut_ptr().cast(),
            len: memory.len(),
            #[cfg(all(test, debug_assertions))]
            owners: claims::owners(memory.len()),
            memory: PhantomData,
        }
    }

    /// Shares initialized memory. Who writes through a part's pointers writes values of `T`.
    pub fn of(values: &'a mut [T]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            len: values.len(),
            #[cfg(all(test, debug_assertions))]
            owners: claims::owners(values.len()),
            memory: PhantomData,
        }
    }

    /// Returns the part of one task.
    ///
    /// # Safety
    /// As long as this `Disjoint` lives, no value that is written or read through the returned part is written through another.
    #[inline(always)]
    pub unsafe fn part(&self) -> Part<'_, T> {
        Part {
            start: self.start,
            len: self.len,
            #[cfg(all(test, debug_assertions))]
            claims: claims::Claims::new(&self.owners),
            memory: PhantomData,
        }
    }
}

impl<'a, T: Copy> Part<'a, T> {
    /// Returns a part that is all of memory that is not initialized: the borrow shows that nobody else has it.
    #[inline(always)]
    pub fn new(memory: &'a mut [MaybeUninit<T>]) -> Self {
        Self {
            start: memory.as_mut_ptr().cast(),
            len: memory.len(),
            #[cfg(all(test, debug_assertions))]
            claims: claims::Claims::new(&[]),
            memory: PhantomData,
        }
    }

    /// Returns a part that is all of a slice: the borrow shows that nobody else has it.
    #[inline(always)]
    pub fn of(values: &'a mut [T]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            len: values.len(),
            #[cfg(all(test, debug_assertions))]
            claims: claims::Claims::new(&[]),
            memory: PhantomData,
        }
    }

    /// Returns a pointer to the `len` values from `start` on, valid for reads of what was written and for writes.
    ///
    /// # Panics
    /// If they are not all within the memory.
    #[inline(always)]
    pub fn at(self, start: usize, len: usize) -> *mut T {
        if start > self.len || len > self.len - start {
            outside([start, 0, 1, len], self.len);
        }
        #[cfg(all(test, debug_assertions))]
        self.claims.take(start, len);
        // SAFETY: within the memory, as compared above.
        unsafe { self.start.add(start) }
    }

    /// Returns a pointer to the first of `rows` rows of `columns` values, from `start` on and `stride` apart.
    ///
    /// # Panics
    /// If they are not all within the memory.
    #[inline(always)]
    pub fn rows(self, start: usize, stride: usize, rows: usize, columns: usize) -> *mut T {
        let last = rows.saturating_sub(1).checked_mul(stride).and_then(|offset| offset.checked_add(start));
        let inside = last.is_some_and(|last| last <= self.len && columns <= self.len - last);
        if !inside {
            outside([start, stride, rows, columns], self.len);
        }
        #[cfg(all(test, debug_assertions))]
        for row in 0..rows {
            self.claims.take(start + row * stride, columns);
        }
        // SAFETY: within the memory, as compared above: the first row does not begin after the last.
        unsafe { self.start.add(start) }
    }

    /// Returns the same part from `start` on.
    ///
    /// # Panics
    /// If `start` is not within the memory or its end.
    #[inline(always)]
    pub fn skip(self, start: usize) -> Self {
        if start > self.len {
            outside([start, 0, 1, 0], self.len);
        }
        Self {
            // SAFETY: within the memory or its end, as compared above.
            start: unsafe { self.start.add(start) },
            len: self.len - start,
            #[cfg(all(test, debug_assertions))]
            claims: self.claims.skip(start),
            ..self
        }
    }
}

#[cold]
#[inline(never)]
fn outside([start, stride, rows, columns]: [usize; 4], len: usize) -> ! {
    panic!("{rows} rows of {columns} values from {start} on, {stride} apart, are not within {len} values");
}

/// Records the part of a [`Disjoint`] that asked for each value.
#[cfg(all(test, debug_assertions))]
mod claims {
    use std::sync::atomic::{AtomicU32, Ordering};

    /// The number of a part, or 0.
    pub type Owner = AtomicU32;

    pub fn owners(len: usize) -> Box<[Owner]> {
        (0..len).map(|_| Owner::new(0)).collect()
    }

    #[derive(Clone, Copy)]
    pub struct Claims<'a> {
        owners: &'a [Owner],
        part: u32,
    }

    impl<'a> Claims<'a> {
        pub fn new(owners: &'a [Owner]) -> Self {
            static PARTS: AtomicU32 = AtomicU32::new(1);
            Self { owners, part: PARTS.fetch_add(1, Ordering::Relaxed).max(1) }
        }

        /// Records that the part has these values. A part that is all of a slice has no owners.
        pub fn take(self, start: usize, len: usize) {
            if self.owners.is_empty() {
                return;
            }
            for (index, owner) in self.owners[start..start + len].iter().enumerate() {
                let other = owner.swap(self.part, Ordering::Relaxed);
                assert!(other == 0 || other == self.part, "two parts have value {}", start + index);
            }
        }

        pub fn skip(self, start: usize) -> Self {
            let owners = if self.owners.is_empty() { self.owners } else { &self.owners[start..] };
            Self { owners, ..self }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::threads::for_each;

    #[test]
    fn tasks_write_their_rows() {
        let mut values = [MaybeUninit::new(0.0f32); 12];
        let shared = Disjoint::new(&mut values);
        for_each(3, |task| {
            // SAFETY: each task has its column of three rows.
            let rows = unsafe { shared.part() }.skip(1 + task).rows(0, 4, 3, 1);
            for row in 0..3 {
                // SAFETY: the rows are within the memory.
                unsafe { rows.add(4 * row).write(task as f32) };
            }
        });
        // SAFETY: all values were initialized above.
        let values = values.map(|value| unsafe { value.assume_init() });
        assert_eq!(values, [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 2.0]);
    }

    fn part_of(len: usize, f: impl FnOnce(Part)) {
        let mut values = vec![0.0; len];
        f(Part::of(&mut values));
    }

    #[test]
    fn ranges_within_the_memory_are_given() {
        part_of(10, |part| {
            part.at(0, 10);
            part.at(10, 0);
            part.rows(1, 4, 3, 1);
            part.rows(0, usize::MAX, 1, 10);
            part.rows(0, usize::MAX, 0, 10);
            part.skip(10).at(0, 0);
            part.skip(4).rows(0, 2, 3, 2);
        });
    }

    #[test]
    fn ranges_outside_are_refused() {
        let cases: [fn(Part); 8] = [
            |part| _ = part.at(0, 11),
            |part| _ = part.at(11, 0),
            |part| _ = part.at(1, usize::MAX),
            |part| _ = part.rows(0, 4, 3, 3),
            |part| _ = part.rows(0, usize::MAX, 3, 1),
            |part| _ = part.rows(usize::MAX, 1, 2, 1),
            |part| _ = part.skip(11),
            |part| _ = part.skip(4).at(6, 1),
        ];
        for case in cases {
            std::panic::catch_unwind(|| part_of(10, case)).expect_err("outside of the memory");
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "two parts have value 3")]
    fn values_of_two_parts_are_noticed() {
        let mut values = [MaybeUninit::new(0.0f32); 6];
        let shared = Disjoint::new(&mut values);
        // SAFETY: nothing is written.
        let [first, second] = [(); 2].map(|()| unsafe { shared.part() });
        first.at(0, 4);
        second.at(3, 1);
    }
}
