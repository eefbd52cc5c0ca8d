//! Parts that the operators of the CPU backend, Flex, are built from:
//!
//! - `simd`: registers, chosen when the program runs;
//! - `cache`: sizes of the processor's caches;
//! - `matrix`: the matrix product in registers;
//! - `pairwise`: functions of two tensors, value by value;
//! - `memory`: memory of tensors, of an operator, of a thread;
//! - `disjoint`: memory that several tasks write;
//! - `threads`: tasks for several threads;
//! - `helpers`: the threads that help a caller with its tasks, and `protocol`, how they hand over work;
//! - `pool`: memory of evaluated tensors, kept for the next ones;
//! - `per_process`: what a forked process has anew.
//!
//! # Unsafe code
//!
//! Memory that several threads write is shared by [`Disjoint`](disjoint::Disjoint) alone; its contract is the only promise about
//! threads that operators make. Pointers that kernels read come from slices whose lengths were compared with the operator's
//! shapes ([`memory::values`] and the assertions at the top of each kernel), pointers that they write from a
//! [`Part`](disjoint::Part), which compares. Memory that was never written has the type `MaybeUninit`.

pub(crate) mod cache;
pub(crate) mod disjoint;
mod helpers;
pub(crate) mod matrix;
pub(crate) mod memory;
pub(crate) mod pairwise;
mod per_process;
mod pool;
mod protocol;
pub(crate) mod simd;
mod sync;
pub(crate) mod threads;

pub use helpers::set_helper_threads;
pub use pool::release_memory;

#[cfg(test)]
mod tests;
