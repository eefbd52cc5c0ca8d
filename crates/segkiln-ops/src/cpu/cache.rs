//! The processor's caches.

use gemm_common::cache::CACHE_INFO;

/// Returns the f32 values of a core's second-level cache, bounded to 512 KiB to 2 MiB, which blocks were measured with.
pub(crate) fn second_level() -> usize {
    (CACHE_INFO[1].cache_bytes / size_of::<f32>()).clamp(1 << 17, 1 << 19)
}
