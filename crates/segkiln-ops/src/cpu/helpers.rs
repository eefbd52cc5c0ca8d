//! Threads that help another with its work, and look for more of it for a while before they sleep.
//!
//! A layer may take a tenth of a millisecond, and a sleeping thread takes half of that to wake. So a helper looks for the next
//! layer's work itself, and a caller that has done all the work does not wait for a helper that has not begun. Against rayon's
//! threads, which sleep between operators, that saves 5 to 10 % of a layer of a tenth of a millisecond and of an R-CNN, and 13 % of
//! LR-ASPP (two cores of Zen 4).
//!
//! ```text
//!            a caller offers a job and wakes the helper
//!   asleep ────────────────────────────────────────────► looking ◄───────────┐
//!      ▲                                                   │   │             │
//!      │         no job for SPIN_BEFORE_SLEEP              │   │ takes a job │ there is no task left,
//!      └───────────────────────────────────────────────────┘   ▼             │ or the caller took the job back
//!                                                            working ────────┘
//! ```
//!
//! [`protocol`](super::protocol) has how a job is handed over. A caller that needs the processors for threads of its own can do
//! without helpers: [`set_helper_threads`], or `SEGKILN_HELPER_THREADS=0` in the environment.
//!
//! A process that was forked has no helpers and starts its own; see [`per_process`](super::per_process). Rayon's pool has no
//! threads there either, and is not asked.

use std::{
    hint,
    panic::resume_unwind,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use super::{
    per_process::PerProcess,
    protocol::{Job, Seat, Team},
};

/// Time that a helper looks for more work before it sleeps: longer than the gaps between the operators of a network.
const SPIN_BEFORE_SLEEP: Duration = Duration::from_micros(500);
/// Time that a caller looks whether its helpers are done before it sleeps; a task mostly takes less.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(100);
/// Jobs that wait in rayon's queue, most of them taken back: more are not offered while its threads are busy elsewhere.
const MOST_QUEUED: usize = 1024;

/// Whether there are helpers; without, rayon's threads do the work.
static ENABLED: LazyLock<AtomicBool> =
    LazyLock::new(|| AtomicBool::new(std::env::var("SEGKILN_HELPER_THREADS").as_deref() != Ok("0")));

/// Chooses whether operators on the CPU share their work with helper threads, which look for the next operator's work for
/// half a millisecond before they sleep, or with rayon's threads, which sleep at once.
///
/// Helper threads are the default: a network of small layers takes up to a tenth less time with them. Without them, other
/// threads of a busy program have the processors between operators. Results are the same bits either way. The environment
/// variable `SEGKILN_HELPER_THREADS=0` is the same for a whole program.
pub fn set_helper_threads(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// Calls `work` on this thread and on up to `others` other threads, and returns when all calls have. There may be fewer others,
/// or none, so each call must do whatever work is left.
///
/// The others are helpers. Where there are too few, because other callers have them or the program cannot have more threads,
/// rayon's threads are asked; a caller that is one of rayon's threads, which are as many as processors, asks only those.
///
/// # Panics
/// With the panic of `work`, on whichever thread it was.
pub(super) fn call(others: usize, work: &(dyn Fn() + Sync)) {
    let job = Job::new(work);
    let without = rayon::current_thread_index().is_some() || !ENABLED.load(Ordering::Relaxed);
    let helpers = if without { Borrowed(Vec::new()) } else { Borrowed::new(others) };
    let mut team = Team::new(&job);
    for helper in &helpers.0 {
        // SAFETY: the team is dropped below, or before the job if `work` panics.
        unsafe { team.offer(Arc::clone(&helper.seat)) };
        helper.wake();
    }
    let missing = if rayon_is_ours() { others - helpers.0.len() } else { 0 };
    for _ in 0..missing {
        static QUEUED: AtomicUsize = AtomicUsize::new(0);
        if QUEUED.fetch_add(1, Ordering::Relaxed) >= MOST_QUEUED {
            QUEUED.fetch_sub(1, Ordering::Relaxed);
            break;
        }
        let seat = Arc::new(Seat::new());
        // SAFETY: as above.
        unsafe { team.offer(Arc::clone(&seat)) };
        rayon::spawn(move || {
            seat.accept();
            QUEUED.fetch_sub(1, Ordering::Relaxed);
        });
    }
    work();
    drop(team);
    drop(helpers);
    if let Some(panic) = job.take_panic() {
        resume_unwind(panic);
    }
}

/// Returns whether rayon's threads run in this process: they were not left behind by a fork.
fn rayon_is_ours() -> bool {
    static PROCESS: OnceLock<u32> = OnceLock::new();
    let this = std::process::id();
    *PROCESS.get_or_init(|| this) == this
}

/// The helpers of a process.
struct Crew {
    idle: Vec<Arc<Helper>>,
    /// Number of helpers that were started, or could not be.
    started: usize,
}

impl Crew {
    fn lock() -> MutexGuard<'static, Self> {
        static CREW: PerProcess<Mutex<Crew>> = PerProcess::new(|| Mutex::new(Crew { idle: Vec::new(), started: 0 }));
        CREW.get().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Helpers of one caller, idle again when this is dropped. The caller's team has ended before.
struct Borrowed(Vec<Arc<Helper>>);

impl Borrowed {
    /// Takes up to `count` idle helpers. As many are started in all as one caller asked for: callers at the same time share them.
    fn new(count: usize) -> Self {
        let mut crew = Crew::lock();
        while crew.idle.len() < count && crew.started < count {
            crew.started += 1;
            crew.idle.extend(Helper::start());
        }
        let first = crew.idle.len().saturating_sub(count);
        Self(crew.idle.split_off(first))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            Crew::lock().idle.append(&mut self.0);
        }
    }
}

/// A thread that helps.
struct Helper {
    seat: Arc<Seat>,
    asleep: AtomicBool,
    thread: Thread,
    affinity: Affinity,
}

impl Helper {
    /// Starts a thread; `None` where the program cannot have more.
    fn start() -> Option<Arc<Self>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let run = move || {
            let helper = Arc::new(Self {
                seat: Arc::new(Seat::new()),
                asleep: AtomicBool::new(false),
                thread: thread::current(),
                affinity: Affinity::of_this_thread(),
            });
            if sender.send(Arc::clone(&helper)).is_ok() {
                helper.run();
            }
        };
        thread::Builder::new().name("segkiln".into()).spawn(run).ok()?;
        let helper: Arc<Self> = receiver.recv().ok()?;
        helper.affinity.away_from_this_cpu(|| ());
        Some(helper)
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.affinity.away_from_this_cpu(|| self.thread.unpark());
        } else {
            self.thread.unpark();
        }
    }

    fn run(&self) -> ! {
        loop {
            while !spin(SPIN_BEFORE_SLEEP, || self.seat.is_full()) {
                self.asleep.store(true, Ordering::Relaxed);
                thread::park();
                self.asleep.store(false, Ordering::Relaxed);
            }
            self.seat.accept();
        }
    }
}

/// Returns whether `found` became true while a caller may wait without sleeping.
pub(super) fn wait_until(found: impl Fn() -> bool) -> bool {
    spin(SPIN_BEFORE_PARK, found)
}

/// Returns whether `found` became true within `time`. It yields to other threads that could run.
fn spin(time: Duration, found: impl Fn() -> bool) -> bool {
    let mut end = None;
    loop {
        for _ in 0..64 {
            if found() {
                return true;
            }
            hint::spin_loop();
        }
        let now = Instant::now();
        if now >= *end.get_or_insert(now + time) {
            return found();
        }
        thread::yield_now();
    }
}

/// The processors that a thread may run on. A system may begin or wake a thread on the processor of the one that does so, and
/// take tens of milliseconds to move either of them (30 ms were seen): as long as a small network's first images.
struct Affinity {
    #[cfg(all(target_os = "linux", not(miri)))]
    thread: rustix::thread::Pid,
}

#[cfg(all(target_os = "linux", not(miri)))]
impl Affinity {
    fn of_this_thread() -> Self {
        Self { thread: rustix::thread::gettid() }
    }

    /// Calls `wake`; meanwhile the thread may not run on this processor, if it may run on others. Afterwards it may run on the
    /// processors that it might before, but not on those that the program is given in between.
    fn away_from_this_cpu(&self, wake: impl FnOnce()) {
        use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};
        let allowed = sched_getaffinity(Some(self.thread));
        if let Ok(mut others) = allowed {
            others.unset(sched_getcpu());
            // It is an error if there are no others.
            let _ = sched_setaffinity(Some(self.thread), &others);
        }
        wake();
        if let Ok(allowed) = allowed {
            let _ = sched_setaffinity(Some(self.thread), &allowed);
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
impl Affinity {
    fn of_this_thread() -> Self {
        Self {}
    }

    fn away_from_this_cpu(&self, wake: impl FnOnce()) {
        wake();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Several threads at once, with helpers that sleep in between.
    #[test]
    fn threads_share_helpers() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..if cfg!(miri) { 8 } else { 200 } {
                        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
                        call(3, &|| {
                            while next.fetch_add(1, Ordering::Relaxed) < 50 {
                                done.fetch_add(1, Ordering::Relaxed);
                            }
                        });
                        assert_eq!(done.into_inner(), 50);
                        if round % 50 == 0 {
                            thread::sleep(2 * SPIN_BEFORE_SLEEP);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn panics_arrive_and_helpers_survive() {
        for caller in [true, false] {
            let here = thread::current().id();
            // Each waits for the other to have begun, so that there is one on each side; a helper may be busy elsewhere.
            let calls = AtomicUsize::new(0);
            let work = || {
                calls.fetch_add(1, Ordering::Relaxed);
                spin(Duration::from_secs(1), || calls.load(Ordering::Relaxed) == 2);
                assert!((thread::current().id() == here) != caller, "as asked");
            };
            let result = catch_unwind(AssertUnwindSafe(|| call(1, &work)));
            assert_eq!(result.is_err(), caller || calls.load(Ordering::Relaxed) == 2);
        }
        let helped = (0..100).any(|_| {
            let calls = AtomicUsize::new(0);
            call(1, &|| {
                calls.fetch_add(1, Ordering::Relaxed);
                spin(Duration::from_millis(100), || calls.load(Ordering::Relaxed) == 2);
            });
            calls.into_inner() == 2
        });
        assert!(helped);
    }

    /// A caller without helpers does not wait for a pool whose threads are busy.
    #[test]
    #[cfg_attr(miri, ignore)]
    fn busy_pools_are_not_waited_for() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let (busy, done) = (AtomicBool::new(false), AtomicBool::new(false));
        pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                busy.store(true, Ordering::Release);
                while !done.load(Ordering::Acquire) {
                    thread::yield_now();
                }
            });
            while !busy.load(Ordering::Acquire) {
                thread::yield_now();
            }
            // On the other of the pool's threads, so that only the busy one could help.
            let calls = pool.install(|| {
                let calls = AtomicUsize::new(0);
                call(1, &|| _ = calls.fetch_add(1, Ordering::Relaxed));
                calls.into_inner()
            });
            assert_eq!(calls, 1);
            done.store(true, Ordering::Release);
        });
    }

    /// A child has one of its parent's threads; locks that the others held stay locked there.
    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn a_forked_process_computes() {
        let compute = || {
            let mut memory = crate::cpu::memory::Temporary::new(1 << 16);
            crate::cpu::threads::for_each_chunk(memory.as_mut_slice(), 1 << 10, |chunk, values| {
                values.fill(std::mem::MaybeUninit::new(chunk as f32));
            });
            // SAFETY: all chunks were written.
            unsafe { memory.as_slice().assume_init_ref() }.iter().sum::<f32>()
        };
        let (expected, done) = (compute(), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        compute();
                    }
                });
            }
            let children = (0..20).map(|_| {
                // SAFETY: the child calls only what is meant to work there, and leaves without ending what it shares.
                unsafe {
                    let child = libc::fork();
                    if child == 0 {
                        libc::alarm(20);
                        libc::_exit(i32::from(compute() != expected));
                    }
                    let mut status = -1;
                    libc::waitpid(child, &mut status, 0);
                    status
                }
            });
            let failed = children.filter(|status| *status != 0).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(failed, 0, "children of 20");
        });
    }
}
