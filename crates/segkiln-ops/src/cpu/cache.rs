//! The processor's caches.

use gemm_common::cache::CACHE_INFO;

/// Values that a core's second-level cache holds, within what blocks can be made for.
pub(crate) fn second_level() -> usize {
    (CACHE_INFO[1].cache_bytes / size_of::<f32>()).clamp(1 << 16, 1 << 19)
}
