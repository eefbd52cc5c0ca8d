//! Threads that help another with its work, and wait a while for more of it before they sleep.
//!
//! A layer may take a tenth of a millisecond, and a sleeping thread half of that to wake. Here a helper looks for the next
//! layer's work itself, and whoever has done the work alone does not wait for a helper that has not begun.
//!
//! ```text
//!            a caller stores a job and wakes the helper
//!   asleep ────────────────────────────────────────────► looking ◄───────────┐
//!      ▲                                                   │   │             │
//!      │               no job for PATIENCE                 │   │ takes a job │ has done all there was to do,
//!      └───────────────────────────────────────────────────┘   ▼             │ or the caller took the job back
//!                                                            working ────────┘
//! ```
//!
//! A caller that needs the processors for threads of its own can do without: [`set_helper_threads`], or
//! `SEGKILN_HELPER_THREADS=0` in the environment.

use std::{
    any::Any,
    hint,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a helper looks for more work: longer than what lies between two operators of a network.
const PATIENCE: Duration = Duration::from_micros(500);
/// How long one that waits for helpers looks whether they are done, before it sleeps.
const LAST_TASK: Duration = Duration::from_micros(100);

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

/// Calls `work` on this thread and on up to `others` others, and returns when all calls have. There may be fewer others, and
/// none: each call does what there is to do.
///
/// The others are helpers, and where these are too few, because other threads have them or a program cannot have more,
/// rayon's threads; for one of rayon's own, which are as many as processors, they are all rayon's.
///
/// # Panics
/// With a panic of `work`'s.
pub(super) fn call(others: usize, work: &(dyn Fn() + Sync)) {
    let job = Job { work, caller: thread::current(), calls: AtomicUsize::new(0), panic: Mutex::new(None) };
    let without = rayon::current_thread_index().is_some() || !ENABLED.load(Ordering::Relaxed);
    let team = Team::new(if without { 0 } else { others }, &job);
    match others - team.helpers.len() {
        0 => work(),
        missing => rayon::in_place_scope(|scope| {
            for _ in 0..missing {
                scope.spawn(|_| work());
            }
            work();
        }),
    }
    drop(team);
    if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

/// What helpers are asked to do; it lies on the stack of the thread that asks.
struct Job<'a> {
    work: &'a (dyn Fn() + Sync),
    caller: Thread,
    /// Helpers that were asked, and have neither been relieved nor finished.
    calls: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Helpers that have been asked to do a job. Its end relieves those that have not begun and waits for those that have.
struct Team<'a> {
    job: &'a Job<'a>,
    helpers: Vec<Arc<Helper>>,
}

impl<'a> Team<'a> {
    fn new(helpers: usize, job: &'a Job<'a>) -> Self {
        let helpers = Crew::lock().take(helpers);
        job.calls.store(helpers.len(), Ordering::Relaxed);
        for helper in &helpers {
            // The lifetime is forgotten; the team's end waits for all who have seen the pointer.
            helper.job.store(ptr::from_ref(job).cast_mut().cast(), Ordering::Release);
            helper.wake();
        }
        Self { job, helpers }
    }
}

impl Drop for Team<'_> {
    fn drop(&mut self) {
        for helper in &self.helpers {
            if !helper.job.swap(ptr::null_mut(), Ordering::Relaxed).is_null() {
                self.job.calls.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let done = || self.job.calls.load(Ordering::Acquire) == 0;
        while !look(LAST_TASK, done) {
            thread::park();
        }
        Crew::lock().idle.append(&mut self.helpers);
    }
}

/// All helpers.
struct Crew {
    idle: Vec<Arc<Helper>>,
    /// How many were started, or could not be.
    started: usize,
}

impl Crew {
    fn lock() -> MutexGuard<'static, Self> {
        static CREW: Mutex<Crew> = Mutex::new(Crew { idle: Vec::new(), started: 0 });
        CREW.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to so many idle helpers, of so many in all: threads that work at the same time share them.
    fn take(&mut self, helpers: usize) -> Vec<Arc<Helper>> {
        while self.idle.len() < helpers && self.started < helpers {
            self.started += 1;
            self.idle.extend(Helper::start());
        }
        self.idle.split_off(self.idle.len().saturating_sub(helpers))
    }
}

/// A thread that helps.
struct Helper {
    /// What it is asked to do; null: nothing, or it has begun.
    job: AtomicPtr<Job<'static>>,
    asleep: AtomicBool,
    thread: Thread,
    place: Place,
}

impl Helper {
    /// `None` where a program cannot have (more) threads.
    fn start() -> Option<Arc<Self>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let run = move || {
            let helper = Arc::new(Self {
                job: AtomicPtr::new(ptr::null_mut()),
                asleep: AtomicBool::new(false),
                thread: thread::current(),
                place: Place::of_this_thread(),
            });
            if sender.send(Arc::clone(&helper)).is_ok() {
                helper.run();
            }
        };
        thread::Builder::new().name("segkiln".into()).spawn(run).ok()?;
        let helper: Arc<Self> = receiver.recv().ok()?;
        helper.place.apart(|| ());
        Some(helper)
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.place.apart(|| self.thread.unpark());
        } else {
            self.thread.unpark();
        }
    }

    fn run(&self) -> ! {
        loop {
            while !look(PATIENCE, || !self.job.load(Ordering::Relaxed).is_null()) {
                self.asleep.store(true, Ordering::Relaxed);
                thread::park();
                self.asleep.store(false, Ordering::Relaxed);
            }
            let job = self.job.swap(ptr::null_mut(), Ordering::Acquire);
            if job.is_null() {
                continue;
            }
            // SAFETY: the job lives until `calls` is 0, and this helper is among its calls until it says otherwise below.
            let Job { work, caller, calls, panic } = unsafe { &*job };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
                *panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
            }
            let caller = caller.clone();
            if calls.fetch_sub(1, Ordering::Release) == 1 {
                caller.unpark();
            }
        }
    }
}

/// Whether `found` was true within that time. Other threads that could run go first.
fn look(time: Duration, found: impl Fn() -> bool) -> bool {
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

/// Where a thread runs. A system may begin or wake a thread on the processor of the one that does so, and take tens of
/// milliseconds to move either of them: as long as a small network's first images.
struct Place {
    #[cfg(all(target_os = "linux", not(miri)))]
    thread: rustix::thread::Pid,
}

#[cfg(all(target_os = "linux", not(miri)))]
impl Place {
    fn of_this_thread() -> Self {
        Self { thread: rustix::thread::gettid() }
    }

    /// Calls `wake`, during which the thread may not be on this processor, if it may be on others. Then it may go wherever it
    /// might before, but not to processors that a program gets later.
    fn apart(&self, wake: impl FnOnce()) {
        use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};
        let all = sched_getaffinity(Some(self.thread));
        if let Ok(mut others) = all {
            others.unset(sched_getcpu());
            // An error is that there are no others.
            let _ = sched_setaffinity(Some(self.thread), &others);
        }
        wake();
        if let Ok(all) = all {
            let _ = sched_setaffinity(Some(self.thread), &all);
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
impl Place {
    fn of_this_thread() -> Self {
        Self {}
    }

    fn apart(&self, wake: impl FnOnce()) {
        wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Several threads at once, with helpers that sleep in between.
    #[test]
    fn threads_share_helpers() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..200 {
                        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
                        call(3, &|| {
                            while next.fetch_add(1, Ordering::Relaxed) < 50 {
                                done.fetch_add(1, Ordering::Relaxed);
                            }
                        });
                        assert_eq!(done.into_inner(), 50);
                        if round % 50 == 0 {
                            thread::sleep(2 * PATIENCE);
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
                look(Duration::from_secs(1), || calls.load(Ordering::Relaxed) == 2);
                assert!((thread::current().id() == here) != caller, "as asked");
            };
            let result = catch_unwind(AssertUnwindSafe(|| call(1, &work)));
            assert_eq!(result.is_err(), caller || calls.load(Ordering::Relaxed) == 2);
        }
        let helped = (0..100).any(|_| {
            let calls = AtomicUsize::new(0);
            call(1, &|| {
                calls.fetch_add(1, Ordering::Relaxed);
                look(Duration::from_millis(100), || calls.load(Ordering::Relaxed) == 2);
            });
            calls.into_inner() == 2
        });
        assert!(helped);
    }
}
