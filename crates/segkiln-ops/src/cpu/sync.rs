//! The standard library's synchronization, which [`protocol`](super::protocol) uses by this name: in its model they are loom's.

pub(super) use std::{
    sync::{Arc, Mutex, MutexGuard, atomic},
    thread,
};

pub(super) use super::helpers::wait_until;
