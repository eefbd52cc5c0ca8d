//! Tiles that are read while the ones before them are computed.

use std::{
    panic::resume_unwind,
    sync::mpsc::sync_channel,
    thread::{self, ScopedJoinHandle},
};

/// Runs `work` with a function that gives what `read` makes of the items, one after the other. They are read on a thread of its own, up to
/// two ahead. A panic of `read`, which may be a user's, becomes one of the caller.
pub fn read_ahead<I, T: Send, R>(
    items: impl Iterator<Item = I> + Send,
    read: impl Fn(I) -> T + Send,
    work: impl FnOnce(&mut dyn FnMut() -> T) -> R,
) -> R {
    thread::scope(|scope| {
        let (send, received) = sync_channel(2);
        let reader = scope.spawn(move || {
            for item in items {
                // The other end is gone where something failed.
                if send.send(read(item)).is_err() {
                    return;
                }
            }
        });
        let mut reader = Some(reader);
        let result = work(&mut || match received.recv() {
            Ok(item) => item,
            Err(_) => match reader.take().map(ScopedJoinHandle::join) {
                Some(Err(panic)) => resume_unwind(panic),
                _ => panic!("more items are asked for than there are"),
            },
        });
        drop(received);
        // What happened ahead of an error is not what the caller is to hear of.
        let _ = reader.map(ScopedJoinHandle::join);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::read_ahead;

    #[test]
    fn items_come_in_their_order() {
        let sum = read_ahead(0..100, |item| 2 * item, |next| (0..100).all(|item| next() == 2 * item));
        assert!(sum);
    }

    #[test]
    fn a_panic_of_the_reader_is_the_caller_s() {
        let read = |item: u32| if item < 7 { item } else { panic!("tile {item}") };
        let found = catch_unwind(AssertUnwindSafe(|| read_ahead(0..100, read, |next| (0..100).map(|_| next()).max())));
        assert_eq!(found.unwrap_err().downcast_ref::<String>().unwrap(), "tile 7");
    }

    #[test]
    fn who_leaves_early_is_not_held_up() {
        assert_eq!(read_ahead(0.., |item| item, |next| next() + next()), 1);
        // The reader may have panicked ahead by then.
        assert_eq!(read_ahead(0.., |item| if item == 1 { panic!("ahead") } else { item }, |next| next()), 0);
        let found = catch_unwind(|| read_ahead(0.., |item| item, |_| panic!("work")));
        assert_eq!(found.unwrap_err().downcast_ref::<&str>(), Some(&"work"));
    }
}
