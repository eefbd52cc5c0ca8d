//! The product in registers: rows of activations times a panel of weights.

use super::unit::{LANES, Unit};

/// Rows that are multiplied together.
pub(super) const ROWS: usize = 8;
/// Columns of a full panel: output channels.
pub(super) const PANEL: usize = 2 * LANES;
/// Bytes of a word, the unit of depth: two values of bf16.
pub(super) const WORD: usize = 4;

/// Output channels of the panel that begins with `first`.
pub(super) fn panel_width(channels: usize, first: usize) -> usize {
    if channels - first > LANES { PANEL } else { LANES }
}

/// Adds to the sums the products of `words` words of each row with as many rows of a panel.
///
/// # Safety
/// Each row has as many words, and the weights `words · N · 16` of them. The instructions of the unit are there.
#[inline(always)]
pub(super) unsafe fn accumulate<U: Unit, const N: usize>(
    unit: U,
    sums: &mut [[U::Float; N]; ROWS],
    rows: &[*const u8; ROWS],
    words: usize,
    weights: *const u8,
) {
    let rows = *rows;
    let mut totals = *sums;
    let mut weights = weights;
    for word in 0..words {
        // SAFETY: the caller's promise.
        unsafe {
            let mut panel = [unit.words(weights); N];
            for (index, columns) in panel.iter_mut().enumerate().skip(1) {
                *columns = unit.words(weights.add(index * LANES * WORD));
            }
            weights = weights.add(N * LANES * WORD);
            for row in 0..ROWS {
                let value = unit.broadcast(rows[row].add(word * WORD));
                for column in 0..N {
                    totals[row][column] = unit.dot_bf16(totals[row][column], value, panel[column]);
                }
            }
        }
    }
    *sums = totals;
}
