//! Values that each process has for itself.
//!
//! A fork copies the memory of a process and one of its threads. A lock that another thread held stays locked in the child for
//! good, and threads that are known there do not run. A child that finds its parent's value here makes one of its own.

use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that a process makes when it asks for it first. It lives as long as the process.
pub(super) struct PerProcess<T> {
    current: AtomicPtr<(u32, T)>,
    init: fn() -> T,
}

impl<T: Sync> PerProcess<T> {
    pub const fn new(init: fn() -> T) -> Self {
        Self { current: AtomicPtr::new(std::ptr::null_mut()), init }
    }

    pub fn get(&'static self) -> &'static T {
        let process = std::process::id();
        let mut found = self.current.load(Ordering::Acquire);
        loop {
            // SAFETY: a pointer that is not null is of a value that was leaked below.
            match unsafe { found.as_ref() } {
                Some((owner, value)) if *owner == process => return value,
                _ => {}
            }
            let new = Box::into_raw(Box::new((process, (self.init)())));
            match self.current.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: the value was just leaked, and nothing frees it.
                Ok(_) => return unsafe { &(*new).1 },
                Err(other) => {
                    // SAFETY: nobody else has seen this pointer.
                    drop(unsafe { Box::from_raw(new) });
                    found = other;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_process_has_one_value() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new(|| Mutex::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| *VALUE.get().lock().unwrap() += 1);
            }
        });
        assert_eq!(*VALUE.get().lock().unwrap(), 4);
    }
}
