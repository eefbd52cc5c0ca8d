//! Work for several threads.
//!
//! They are rayon's, but what one operator shares out is often done within a fraction of a millisecond, in which a sleeping
//! thread would hardly be awake: a thread that has helped waits a little for the next operator before it sleeps.

use std::{
    any::Any,
    cell::Cell,
    hint::spin_loop,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rayon::Yield;

use super::memory::Shared;

/// How long a thread waits for the next operator. Between those of a network there is less, unless one of them has a single
/// thread.
const PATIENCE: Duration = Duration::from_micros(500);

/// Runs `f` for each task, on this thread and on rayon's; each thread takes the next task when it is done with one.
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Sync) {
    let helpers = rayon::current_num_threads().min(tasks).saturating_sub(1);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            f(task);
        }
    };
    if helpers == 0 {
        return work();
    }
    let call = Call { work: &work, helpers: AtomicUsize::new(0), panic: Mutex::new(None) };
    let posted = Posted::new(&call, helpers);
    summon(helpers);
    work();
    drop(posted);
    if let Some(panic) = lock(&call.panic).take() {
        resume_unwind(panic);
    }
}

/// What `f` makes of each task.
pub(crate) fn map<T: Send + Sync>(tasks: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..tasks).map(|_| OnceLock::new()).collect();
    for_each(tasks, |task| {
        results[task].get_or_init(|| f(task));
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// Runs `f` for each chunk of `size` values; the last may have fewer.
pub(crate) fn for_each_chunk(values: &mut [f32], size: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (all, target) = (values.len(), Shared(values.as_mut_ptr()));
    for_each(all.div_ceil(size), |chunk| {
        let len = size.min(all - chunk * size);
        // SAFETY: the chunks are within the values, and each is one task's.
        f(chunk, unsafe { std::slice::from_raw_parts_mut(target.at(chunk * size), len) });
    });
}

/// Work that waits for helpers.
struct Call<'a> {
    /// Takes tasks until there are none.
    work: &'a (dyn Fn() + Sync),
    /// Threads at work beside the caller.
    helpers: AtomicUsize,
    /// Of a helper.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A call in the list, and how many threads may still join it.
struct Entry {
    call: *const Call<'static>,
    seats: usize,
}

// SAFETY: a call is only shared, and who posted it takes it out of the list and waits for its helpers before it ends.
unsafe impl Send for Entry {}

static CALLS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
/// Seats of all calls, to be looked at without the lock.
static SEATS: AtomicUsize = AtomicUsize::new(0);
/// Threads that help or wait for calls, or are asked to.
static HELPERS: AtomicUsize = AtomicUsize::new(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that is in the list until this is dropped, also by a panic.
struct Posted<'a>(&'a Call<'a>);

impl<'a> Posted<'a> {
    fn new(call: &'a Call<'a>, seats: usize) -> Self {
        lock(&CALLS).push(Entry { call: std::ptr::from_ref(call).cast(), seats });
        SEATS.fetch_add(seats, Ordering::Release);
        Self(call)
    }
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        let mut calls = lock(&CALLS);
        if let Some(index) = calls.iter().position(|entry| std::ptr::addr_eq(entry.call, self.0)) {
            let entry = calls.swap_remove(index);
            SEATS.fetch_sub(entry.seats, Ordering::Release);
        }
        drop(calls);
        // Nobody joins any more; each helper has at most one task left.
        let mut waited = 0u32;
        while self.0.helpers.load(Ordering::Acquire) > 0 {
            pause(&mut waited);
        }
    }
}

/// Joins a call, if there is one, until its tasks are done.
fn help() -> bool {
    if SEATS.load(Ordering::Acquire) == 0 {
        return false;
    }
    let mut calls = lock(&CALLS);
    let Some(entry) = calls.iter_mut().find(|entry| entry.seats > 0) else { return false };
    entry.seats -= 1;
    SEATS.fetch_sub(1, Ordering::Release);
    // SAFETY: a call that is in the list has not ended, and does not before its helpers are none.
    let call = unsafe { &*entry.call };
    call.helpers.fetch_add(1, Ordering::Relaxed);
    drop(calls);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call.work)) {
        *lock(&call.panic) = Some(panic);
    }
    call.helpers.fetch_sub(1, Ordering::Release);
    true
}

/// Asks threads of rayon's to help until there are as many.
fn summon(wanted: usize) {
    let fewer = |helpers| (helpers < wanted).then_some(helpers + 1);
    while HELPERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
        rayon::spawn(wait_for_calls);
    }
}

/// Helps with calls until there were none for a while. What else rayon has to do comes first.
fn wait_for_calls() {
    thread_local! {
        /// A thread of rayon's that yields may begin this once more.
        static WAITS: Cell<bool> = const { Cell::new(false) };
    }
    if !WAITS.replace(true) {
        let (mut since, mut waited) = (Instant::now(), 0);
        while since.elapsed() < PATIENCE {
            if help() || rayon::yield_now() == Some(Yield::Executed) {
                (since, waited) = (Instant::now(), 0);
            } else {
                pause(&mut waited);
            }
        }
        WAITS.set(false);
    }
    HELPERS.fetch_sub(1, Ordering::Relaxed);
}

/// Lets time pass; after a while other threads may have the processor.
fn pause(waited: &mut u32) {
    *waited += 1;
    if waited.is_multiple_of(64) { thread::yield_now() } else { spin_loop() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once() {
        for tasks in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            for_each(tasks, |task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            assert_eq!(map(tasks, |task| 2 * task), (0..tasks).map(|task| 2 * task).collect::<Vec<_>>());
        }
    }

    /// Calls of several threads, and within rayon's, beside each other.
    #[test]
    fn calls_share_helpers() {
        let sum = |tasks: usize| {
            let sum = AtomicUsize::new(0);
            for_each(tasks, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), tasks * (tasks - 1) / 2);
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (1..200).for_each(sum));
            }
            rayon::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|_| (1..100).for_each(sum));
                }
            });
        });
    }

    #[test]
    fn a_task_s_panic_reaches_the_caller() {
        for bad in [0, 3, 63] {
            let outcome = catch_unwind(|| {
                for_each(64, |task| {
                    assert!(task != bad, "task {bad}");
                    thread::sleep(Duration::from_micros(50));
                });
            });
            assert_eq!(outcome.unwrap_err().downcast_ref::<String>(), Some(&format!("task {bad}")));
        }
        every_task_is_done_once();
    }
}
