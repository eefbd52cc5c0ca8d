//! Winograd's transforms, of registers of tiles and of kernels.

use pulp::Simd;

use super::tiles::{APART, Line, Window};
use crate::cpu::simd::{Lanes, unzip4};

/// Returns the points of a tile along an axis, which are as many as the pixels that it depends on: F(4, 3), and with stride 2 two
/// outputs of two taps on the even pixels, F(2, 2), and of one on the odd.
pub(super) const fn side(stride: usize) -> usize {
    7 - stride
}

/// Values of a transformed tile or kernel for stride 1, the most there are: 36.
pub(super) const POINTS: usize = side(1) * side(1);

/// `B^T d`, for a column of [`side`].
#[inline(always)]
fn input_column<S: Simd, const STRIDE: usize>([d0, d1, d2, d3, d4, d5]: [Lanes<S>; 6]) -> [Lanes<S>; 6] {
    if STRIDE == 2 {
        return [d0 - d2, d2, d2 - d4, d1, d3, d5];
    }
    let (even, odd) = (d2.scaled_plus(-4.0, d4), d1.scaled_plus(-4.0, d3));
    let (even_2, odd_2) = (d4 - d2, (d3 - d1) * 2.0);
    [
        d0.scaled_plus(4.0, d2.scaled_plus(-5.0, d4)),
        even + odd,
        even - odd,
        even_2 + odd_2,
        even_2 - odd_2,
        d1.scaled_plus(4.0, d3.scaled_plus(-5.0, d5)),
    ]
}

/// `A^T m`, for a column of [`side`]: four values, or with stride 2 the first two.
#[inline(always)]
pub(super) fn output_column<S: Simd, const STRIDE: usize>([m0, m1, m2, m3, m4, m5]: [Lanes<S>; 6]) -> [Lanes<S>; 4] {
    if STRIDE == 2 {
        return [m0 + m1 + m3, m1 - m2 + m4, m5, m5];
    }
    let (sum, difference) = (m1 + m2, m1 - m2);
    let (sum_2, difference_2) = (m3 + m4, m3 - m4);
    [
        m0 + sum + sum_2,
        difference_2.scaled_plus(2.0, difference),
        sum_2.scaled_plus(4.0, sum),
        difference_2.scaled_plus(8.0, difference) + m5,
    ]
}

/// `A y`, for a column of four: the adjoint of [`output_column`] for stride 1.
#[inline(always)]
pub(super) fn gradient_column<S: Simd>([y0, y1, y2, y3]: [Lanes<S>; 4]) -> [Lanes<S>; 6] {
    let (even, odd) = (y0 + y2, y1 + y3);
    let even_2 = y2.scaled_plus(4.0, y0);
    let odd_2 = y3.scaled_plus(4.0, y1) * 2.0;
    [y0, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, y3]
}

/// `G g`, for a column of three: [`side`] values.
#[inline(always)]
pub(super) fn kernel_column<S: Simd, const STRIDE: usize>([g0, g1, g2]: [Lanes<S>; 3]) -> [Lanes<S>; 6] {
    if STRIDE == 2 {
        return [g0, g0 + g2, g2, g1, g1, g1];
    }
    let (even, odd) = ((g0 + g2) * (-1.0 / 6.0), g1 * (-1.0 / 6.0));
    let (even_2, odd_2) = (g2.scaled_plus(1.0 / 6.0, g0 * (1.0 / 24.0)), g1 * (1.0 / 12.0));
    [g0 * 0.25, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, g2]
}

/// `G^T u`, for a column of six: the adjoint of [`kernel_column`] for stride 1.
#[inline(always)]
pub(super) fn kernel_gradient_column([u0, u1, u2, u3, u4, u5]: [f32; 6]) -> [f32; 3] {
    let (sum, difference) = ((u1 + u2) * (-1.0 / 6.0), (u1 - u2) * (-1.0 / 6.0));
    let (sum_2, difference_2) = (u3 + u4, u3 - u4);
    [u0 * 0.25 + sum + sum_2 * (1.0 / 24.0), difference + difference_2 * (1.0 / 12.0), sum + sum_2 * (1.0 / 6.0) + u5]
}

/// Computes the points of a register's tiles in one channel.
#[inline(always)]
pub(super) fn input_points<S: Simd, const STRIDE: usize, const SIDE: usize, const HALO: usize>(
    simd: S,
    window: &mut Window<SIDE, HALO>,
    channel: usize,
    halves: &mut [Line; 6],
    mut store: impl FnMut(usize, Lanes<S>),
) {
    const { assert!(SIDE == side(STRIDE) && HALO == SIDE - 4) };
    let lanes = S::F32_LANES;
    let (lines, halo) = window.lines(channel);
    let (main, after) = if halo == APART { (4, 4) } else { ((4 * lanes + HALO).div_ceil(lanes), 0) };
    for index in 0..main + after {
        let offset = if index < main { index * lanes } else { APART + (index - main) * lanes };
        let mut column = [Lanes::splat(simd, 0.0); 6];
        // SAFETY: `lines` gives pointers to as many values.
        unsafe {
            for a in 0..SIDE {
                column[a] = Lanes::load(simd, lines[a].add(offset));
            }
            let column = input_column::<S, STRIDE>(column);
            for a in 0..SIDE {
                column[a].store(halves[a].0.as_mut_ptr().add(offset));
            }
        }
    }
    for a in 0..SIDE {
        // SAFETY: four registers of columns and, from `halo` on, four of those after.
        let row = unsafe {
            let line = halves[a].0.as_ptr();
            let [d0, d1, d2, d3] = unzip4(four(simd, line));
            let [d4, d5, ..] = unzip4(four(simd, line.add(halo)));
            input_column::<S, STRIDE>([d0, d1, d2, d3, d4, d5])
        };
        for b in 0..SIDE {
            store(a * SIDE + b, row[b]);
        }
    }
}

/// Loads four registers.
///
/// # Safety
/// Their values can be read from `line`.
#[inline(always)]
unsafe fn four<S: Simd>(simd: S, line: *const f32) -> [Lanes<S>; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            Lanes::load(simd, line),
            Lanes::load(simd, line.add(S::F32_LANES)),
            Lanes::load(simd, line.add(2 * S::F32_LANES)),
            Lanes::load(simd, line.add(3 * S::F32_LANES)),
        ]
    }
}

/// Computes the points of the output's gradient of a register's tiles in one channel.
#[inline(always)]
pub(super) fn gradient_points<S: Simd>(
    simd: S,
    window: &mut Window<4, 0>,
    channel: usize,
    halves: &mut [Line; 6],
    mut store: impl FnMut(usize, Lanes<S>),
) {
    let lanes = S::F32_LANES;
    let (lines, _) = window.lines(channel);
    for offset in [0, lanes, 2 * lanes, 3 * lanes] {
        // SAFETY: `lines` gives pointers to as many values.
        unsafe {
            let [y0, y1, y2, y3] = lines;
            let column = gradient_column([
                Lanes::load(simd, y0.add(offset)),
                Lanes::load(simd, y1.add(offset)),
                Lanes::load(simd, y2.add(offset)),
                Lanes::load(simd, y3.add(offset)),
            ]);
            for a in 0..6 {
                column[a].store(halves[a].0.as_mut_ptr().add(offset));
            }
        }
    }
    for a in 0..6 {
        // SAFETY: four registers of columns.
        let row = gradient_column(unzip4(unsafe { four(simd, halves[a].0.as_ptr()) }));
        for b in 0..6 {
            store(a * 6 + b, row[b]);
        }
    }
}
