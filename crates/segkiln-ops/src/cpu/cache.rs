//! The processor's caches.

use gemm_common::cache::CACHE_INFO;

/// Values of a thread's part of the second-level cache, within what blocks are made for.
pub(crate) fn second_level() -> usize {
    (CACHE_INFO[1].cache_bytes / size_of::<f32>()).clamp(1 << 17, 1 << 19)
}
