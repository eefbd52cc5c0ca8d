//! Checks the protocol by which a caller hands work to helper threads, in every order in which the threads can run (with more than
//! two of them or jobs, in those with few switches) and with every value that a load may see.

#![cfg(test)]

#[path = "../../src/cpu/protocol.rs"]
mod protocol;

/// Loom's synchronization in place of the standard library's.
mod sync {
    pub(super) use loom::{
        sync::{Arc, Mutex, MutexGuard, atomic},
        thread,
    };

    /// Does not spin: the loop around it parks.
    pub(super) fn wait_until(found: impl Fn() -> bool) -> bool {
        found()
    }
}

mod tests {
    use loom::{
        cell::UnsafeCell,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        thread::{self, JoinHandle},
    };

    use super::protocol::{Job, Seat, Team};

    /// A thread that accepts jobs until it is told to stop.
    struct Helper {
        seat: Arc<Seat>,
        stop: Arc<AtomicBool>,
        thread: JoinHandle<()>,
    }

    impl Helper {
        fn start() -> Self {
            let (seat, stop) = (Arc::new(Seat::new()), Arc::new(AtomicBool::new(false)));
            let thread = thread::spawn({
                let (seat, stop) = (Arc::clone(&seat), Arc::clone(&stop));
                move || {
                    loop {
                        while !seat.is_full() {
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            thread::park();
                        }
                        seat.accept();
                    }
                }
            });
            Self { seat, stop, thread }
        }

        fn end(self) {
            self.stop.store(true, Ordering::Relaxed);
            self.thread.thread().unpark();
            self.thread.join().unwrap();
        }
    }

    /// A value that the caller writes before a job and all tasks read, and values that the tasks write, one each; without
    /// synchronization of their own.
    struct Values<const N: usize> {
        input: UnsafeCell<usize>,
        outputs: [UnsafeCell<usize>; N],
    }

    // SAFETY: each value is written by the one thread that has drawn its task; loom checks that.
    unsafe impl<const N: usize> Sync for Values<N> {}

    impl<const N: usize> Values<N> {
        fn add(&self, task: usize) {
            // SAFETY: loom checks that nobody writes it.
            let input = self.input.with(|input| unsafe { *input });
            // SAFETY: loom checks that nobody else has access.
            self.outputs[task].with_mut(|value| unsafe { *value += task + input });
        }
    }

    /// Shares `N` tasks with the helpers, as `threads::for_each` does, and reads what they have written.
    fn share<const N: usize>(helpers: &[Helper]) {
        let (next, values) = (
            AtomicUsize::new(0),
            Values::<N> { input: UnsafeCell::new(0), outputs: std::array::from_fn(|_| UnsafeCell::new(0)) },
        );
        // SAFETY: nobody else has seen the values.
        values.input.with_mut(|input| unsafe { *input = 1 });
        let work = || {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= N {
                    return;
                }
                values.add(task);
            }
        };
        let job = Job::new(&work);
        let mut team = Team::new(&job);
        for helper in helpers {
            // SAFETY: the team is dropped before the job.
            unsafe { team.offer(Arc::clone(&helper.seat)) };
            helper.thread.thread().unpark();
        }
        work();
        drop(team);
        assert!(job.take_panic().is_none());
        for (task, value) in values.outputs.iter().enumerate() {
            // SAFETY: the job has ended; loom checks it.
            assert_eq!(value.with(|value| unsafe { *value }), task + 1);
        }
    }

    #[test]
    fn one_helper_does_one_job() {
        loom::model(|| {
            let helper = Helper::start();
            share::<2>(std::slice::from_ref(&helper));
            helper.end();
        });
    }

    /// Checks orders with up to three switches between threads that could go on: all orders of more than one job or helper take
    /// too long.
    fn bounded(f: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(f);
    }

    #[test]
    fn one_helper_does_two_jobs() {
        bounded(|| {
            let helper = Helper::start();
            for _ in 0..2 {
                share::<1>(std::slice::from_ref(&helper));
            }
            helper.end();
        });
    }

    #[test]
    fn two_helpers_do_one_job() {
        bounded(|| {
            let helpers = [Helper::start(), Helper::start()];
            share::<2>(&helpers);
            for helper in helpers {
                helper.end();
            }
        });
    }
}
