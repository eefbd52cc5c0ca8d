//! Tasks for several threads.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use super::{disjoint::Disjoint, helpers};

/// Runs `f` for each task, on this thread and on others; each thread takes the next task when it has finished one.
///
/// There are as many threads as rayon's pool has, this one among them. Rayon's own iterators hand all work to its threads while a
/// caller outside of the pool waits; for a layer of a tenth of a millisecond that costs as much as the work.
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Sync) {
    let others = rayon::current_num_threads().min(tasks).saturating_sub(1);
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
    if others == 0 { work() } else { helpers::call(others, &work) }
}

/// Returns what `f` returns for each task, in the tasks' order.
pub(crate) fn map<T: Send + Sync>(tasks: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..tasks).map(|_| OnceLock::new()).collect();
    for_each(tasks, |task| {
        results[task].get_or_init(|| f(task));
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// Runs `f` for each chunk of `size` values; the last may have fewer.
pub(crate) fn for_each_chunk<T: Copy + Send>(values: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let all = values.len();
    let shared = Disjoint::of(values);
    for_each(all.div_ceil(size.max(1)), |chunk| {
        let len = size.min(all - chunk * size);
        // SAFETY: the values are initialized, chunks do not overlap, and each is one task's.
        f(chunk, unsafe { std::slice::from_raw_parts_mut(shared.part().at(chunk * size, len), len) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once() {
        tasks_are_done_once();
        rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(tasks_are_done_once);
    }

    #[test]
    fn every_task_is_done_once_without_helpers() {
        crate::set_helper_threads(false);
        tasks_are_done_once();
        crate::set_helper_threads(true);
    }

    fn tasks_are_done_once() {
        for tasks in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            for_each(tasks, |task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            assert_eq!(map(tasks, |task| 2 * task), (0..tasks).map(|task| 2 * task).collect::<Vec<_>>());
        }
    }
}
