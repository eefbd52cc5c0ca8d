//! What the operators of the CPU backend, Flex, are made of:
//!
//! - `simd`: registers, chosen when the program runs;
//! - `cache`: how large the processor's caches are;
//! - `matrix`: the matrix product in registers;
//! - `pairwise`: functions of two tensors' values;
//! - `memory`: tensors, scratch memory and what threads share;
//! - `threads`: tasks for several threads;
//! - `helpers`: these threads;
//! - `pool`: memory of evaluated tensors, kept for the next ones.

pub(crate) mod cache;
mod helpers;
pub(crate) mod matrix;
pub(crate) mod memory;
pub(crate) mod pairwise;
mod pool;
pub(crate) mod simd;
pub(crate) mod threads;

pub use helpers::set_helper_threads;
pub use pool::release_memory;
