//! How a caller hands work to threads that help it, and takes back what they have not begun.
//!
//! ```text
//!   caller                                seat                       helper
//!   ──────                                ────                       ──────
//!   Team::new: offer ───── job pointer ──► full
//!   work()                                  │ accept (swap) ◄─────── looks for a job
//!   drop(team): withdraw (swap) ◄───────────┤                        work()
//!     found it: the helper has not begun    │                        calls − 1, and wakes the caller if that was the last
//!     found none: it has; wait for calls = 0
//! ```
//!
//! The job lies on the caller's stack. A helper dereferences the pointer only after it has taken it out of the seat, and the
//! caller does not return before each pointer was either taken back or its helper has counted itself out; so nobody reads a job
//! that is gone. `loom/` beside this crate's sources checks this in every order in which the threads can run; there `sync` is loom's.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use super::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicUsize, Ordering},
    thread::{self, Thread},
    wait_until,
};

/// Work that a caller asks others to do as well, and what it has to know of them; it lies on the caller's stack.
pub(super) struct Job<'a> {
    work: &'a (dyn Fn() + Sync),
    caller: Thread,
    /// Offers that were neither taken back nor ended.
    calls: AtomicUsize,
    /// The panic of a helper.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Job<'a> {
    pub fn new(work: &'a (dyn Fn() + Sync)) -> Self {
        Self { work, caller: thread::current(), calls: AtomicUsize::new(0), panic: Mutex::new(None) }
    }

    /// Returns the panic of a helper, after the team's end.
    pub fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        lock(&self.panic).take()
    }
}

/// Locks; a panic while it was locked changed nothing of what it holds.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A place for one job, from which a thread takes it.
pub(super) struct Seat {
    /// The job that is offered; null if there is none, or if it was taken.
    job: AtomicPtr<Job<'static>>,
}

impl Seat {
    pub fn new() -> Self {
        Self { job: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Returns whether a job is offered.
    pub fn is_full(&self) -> bool {
        !self.job.load(Ordering::Relaxed).is_null()
    }

    /// Takes the job that is offered, if any, and does its work.
    pub fn accept(&self) {
        let job = self.job.swap(ptr::null_mut(), Ordering::Acquire);
        if job.is_null() {
            return;
        }
        // SAFETY: who takes the pointer out of the seat is counted in `calls`, and the job lives until that is 0.
        let Job { work, caller, calls, panic } = unsafe { &*job };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
            *lock(panic) = Some(payload);
        }
        // The job may be gone as soon as this call is counted.
        let caller = caller.clone();
        if calls.fetch_sub(1, Ordering::Release) == 1 {
            caller.unpark();
        }
    }
}

/// Offers of a job. The end of a team takes back those that nobody has begun, and waits for the others.
pub(super) struct Team<'a> {
    job: &'a Job<'a>,
    seats: Vec<Arc<Seat>>,
}

impl<'a> Team<'a> {
    pub fn new(job: &'a Job<'a>) -> Self {
        Self { job, seats: Vec::new() }
    }

    /// Offers the job at a seat that is empty and that no other team has.
    ///
    /// # Safety
    /// The team is dropped before the job is, and not forgotten.
    pub unsafe fn offer(&mut self, seat: Arc<Seat>) {
        self.seats.push(Arc::clone(&seat));
        self.job.calls.fetch_add(1, Ordering::Relaxed);
        // The lifetime is forgotten; the team's end waits for all who have taken the pointer. A store would do, but loom does not
        // know that a helper's swap that came before it cannot come after it.
        let before = seat.job.swap(ptr::from_ref(self.job).cast_mut().cast(), Ordering::Release);
        debug_assert!(before.is_null(), "the seat was empty");
    }
}

impl Drop for Team<'_> {
    fn drop(&mut self) {
        for seat in &self.seats {
            if !seat.job.swap(ptr::null_mut(), Ordering::Relaxed).is_null() {
                self.job.calls.fetch_sub(1, Ordering::Relaxed);
            }
        }
        // Acquire: what helpers have written happened before the caller goes on.
        while !wait_until(|| self.job.calls.load(Ordering::Acquire) == 0) {
            thread::park();
        }
    }
}
