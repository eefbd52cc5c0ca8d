//! Threads that make batches ahead of time, and the place where they leave them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use super::Plan;
use crate::{Collate, Collated, Result};

/// Batches of one epoch, made by threads; to drop it stops and joins them.
pub(super) struct Prefetched<T: Collate> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<T: Collate> {
    plan: Plan<T>,
    prefetch: usize,
    state: Mutex<State<T>>,
    /// Told when a batch is taken, or all is over.
    room: Condvar,
    /// Told when a batch is done.
    done: Condvar,
    stopped: AtomicBool,
}

struct State<T: Collate> {
    /// The next batch that no thread has begun.
    next: usize,
    /// Batches that were handed over.
    taken: usize,
    done: BTreeMap<usize, Result<Collated<T::Batch>>>,
}

impl<T: Collate> Prefetched<T> {
    pub fn start(plan: Plan<T>, workers: usize, prefetch: usize) -> Self {
        let workers = workers.min(prefetch).min(plan.batches());
        let shared = Arc::new(Shared {
            plan,
            prefetch,
            state: Mutex::new(State { next: 0, taken: 0, done: BTreeMap::new() }),
            room: Condvar::new(),
            done: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        // Where the system gives fewer threads than asked for, fewer do the work.
        let threads = (0..workers)
            .map_while(|worker| {
                let shared = shared.clone();
                Builder::new().name(format!("segkiln-loader-{worker}")).spawn(move || shared.work()).ok()
            })
            .collect();
        Self { shared, threads }
    }

    pub fn plan(&self) -> &Plan<T> {
        &self.shared.plan
    }

    /// Waits for a batch. Batches are taken in order, each once.
    pub fn take(&mut self, batch: usize) -> Result<Collated<T::Batch>> {
        if self.threads.is_empty()
            && let Some(made) = self.shared.plan.batch(batch, || false)
        {
            return made;
        }
        let mut state = self.shared.lock();
        loop {
            if let Some(made) = state.done.remove(&batch) {
                state.taken = batch + 1;
                self.shared.room.notify_all();
                return made;
            }
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T: Collate> Drop for Prefetched<T> {
    fn drop(&mut self) {
        {
            // Under the lock, or a thread that is about to wait would miss it.
            let _state = self.shared.lock();
            self.shared.stopped.store(true, Ordering::Relaxed);
        }
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // Its panics were caught and handed over as errors.
            let _ = thread.join();
        }
    }
}

impl<T: Collate> Shared<T> {
    /// No code of others runs under the lock, so that a poisoned state is still a sound one.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn work(&self) {
        while let Some(batch) = self.begin() {
            let Some(made) = self.plan.batch(batch, || self.stopped()) else { return };
            self.lock().done.insert(batch, made);
            self.done.notify_one();
        }
    }

    /// Waits until there is room for another batch; `None` when there is nothing left to do.
    fn begin(&self) -> Option<usize> {
        let full = |state: &mut State<T>| {
            !self.stopped() && state.next < self.plan.batches() && state.next >= state.taken + self.prefetch
        };
        let mut state = self.room.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if self.stopped() || state.next == self.plan.batches() {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }
}
