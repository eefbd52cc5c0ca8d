//! The product in registers: rows of activations times a panel of weights.

#![allow(
    clippy::needless_range_loop,
    reason = "a call, as iterators may become, puts all sums into memory; loops over indices are none"
)]

use burn::tensor::bf16;

use super::unit::{LANES, Unit};

/// Rows that are multiplied together.
pub(super) const ROWS: usize = 8;
/// Columns of a full panel: output channels.
pub(super) const PANEL: usize = 2 * LANES;
/// Bytes of a word, the unit of depth: two values of 16 bits or four of 8.
pub(super) const WORD: usize = 4;

/// The numbers that are multiplied, and their sum.
pub(super) trait Dot {
    /// Element of the activations.
    type Left: Copy + Send + Sync;
    /// Element of the weights, of the same size.
    type Right: Copy + Send + Sync + Default;
    type Sum<U: Unit>: Copy;

    /// A sum that begins with 0.
    ///
    /// # Safety
    /// The instructions of the unit are there.
    unsafe fn zero<U: Unit>(unit: U) -> Self::Sum<U>;

    /// Adds the products of each word's values.
    ///
    /// # Safety
    /// The instructions of the unit are there.
    unsafe fn add<U: Unit>(unit: U, sum: Self::Sum<U>, left: U::Words, right: U::Words) -> Self::Sum<U>;

    /// The sum as f32.
    ///
    /// # Safety
    /// The instructions of the unit are there.
    unsafe fn float<U: Unit>(unit: U, sum: Self::Sum<U>) -> U::Float;

    /// 16 sums that begin with integers: those from `index` on.
    ///
    /// # Safety
    /// The instructions of the unit are there.
    unsafe fn begin<U: Unit>(unit: U, integers: &[i32], index: usize) -> Self::Sum<U>;

    /// Whether products of padding, which has the value that stands for 0, are 0.
    fn adds_nothing(zero: Self::Left) -> bool;
}

/// bf16, summed in f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bf16;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one line each, with the promise of the trait")]
impl Dot for Bf16 {
    type Left = bf16;
    type Right = bf16;
    type Sum<U: Unit> = U::Float;

    #[inline(always)]
    unsafe fn zero<U: Unit>(unit: U) -> U::Float {
        unsafe { unit.splat(0.0) }
    }

    #[inline(always)]
    unsafe fn add<U: Unit>(unit: U, sum: U::Float, left: U::Words, right: U::Words) -> U::Float {
        unsafe { unit.dot_bf16(sum, left, right) }
    }

    #[inline(always)]
    unsafe fn float<U: Unit>(_: U, sum: U::Float) -> U::Float {
        sum
    }

    #[inline(always)]
    unsafe fn begin<U: Unit>(unit: U, _: &[i32], _: usize) -> U::Float {
        unsafe { unit.splat(0.0) }
    }

    fn adds_nothing(_: bf16) -> bool {
        true
    }
}

/// Defines numbers whose products are integers, summed in 32 bits.
macro_rules! integers {
    ($(#[$doc:meta])* $name:ident, $left:ty, $right:ty, $dot:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name;

        #[allow(clippy::undocumented_unsafe_blocks, reason = "one line each, with the promise of the trait")]
        impl Dot for $name {
            type Left = $left;
            type Right = $right;
            type Sum<U: Unit> = U::Ints;

            #[inline(always)]
            unsafe fn zero<U: Unit>(unit: U) -> U::Ints {
                unsafe { unit.load_ints([0; LANES].as_ptr()) }
            }

            #[inline(always)]
            unsafe fn add<U: Unit>(unit: U, sum: U::Ints, left: U::Words, right: U::Words) -> U::Ints {
                unsafe { unit.$dot(sum, left, right) }
            }

            #[inline(always)]
            unsafe fn float<U: Unit>(unit: U, sum: U::Ints) -> U::Float {
                unsafe { unit.to_float(sum) }
            }

            #[inline(always)]
            unsafe fn begin<U: Unit>(unit: U, integers: &[i32], index: usize) -> U::Ints {
                unsafe { unit.load_ints(integers[index..index + LANES].as_ptr()) }
            }

            fn adds_nothing(zero: $left) -> bool {
                zero == 0
            }
        }
    };
}

integers!(
    /// Unsigned activations of 8 bits times signed weights of 8 bits.
    Bytes,
    u8,
    i8,
    dot_u8_i8
);
integers!(
    /// Integers of 16 bits, into which Winograd's transforms turn those of 8.
    Shorts,
    i16,
    i16,
    dot_i16
);

/// Output channels of the panel that begins with `first`.
pub(super) fn panel_width(channels: usize, first: usize) -> usize {
    if channels - first > LANES { PANEL } else { LANES }
}

/// Steps of [`accumulate`] where words follow each other, in rows and in a panel of `registers`.
pub(super) const fn packed(registers: usize) -> [usize; 2] {
    [WORD, registers * LANES * WORD]
}

/// Adds to the sums the products of `words` words of each row with as many rows of a panel. `steps` are the bytes from a row's
/// word to its next, and from a panel's row to its next.
///
/// # Safety
/// Each row has as many words, and the panel as many rows of `N · 16`. The instructions of the unit are there.
#[inline(always)]
pub(super) unsafe fn accumulate<D: Dot, U: Unit, const N: usize>(
    unit: U,
    sums: &mut [[D::Sum<U>; N]; ROWS],
    rows: &[*const u8; ROWS],
    words: usize,
    weights: *const u8,
    steps: [usize; 2],
) {
    let rows = *rows;
    let mut totals = *sums;
    let mut weights = weights;
    for word in 0..words {
        // SAFETY: the caller's promise.
        unsafe {
            let mut panel = [unit.words(weights); N];
            for column in 1..N {
                panel[column] = unit.words(weights.add(column * LANES * WORD));
            }
            weights = weights.add(steps[1]);
            for row in 0..ROWS {
                let value = unit.broadcast(rows[row].add(word * steps[0]));
                for column in 0..N {
                    totals[row][column] = D::add(unit, totals[row][column], value, panel[column]);
                }
            }
        }
    }
    *sums = totals;
}
