//! The matrix product in registers.

use pulp::{Simd, WithSimd};

use super::simd::Lanes;

/// Rows of the left matrix that are multiplied together: with two registers of columns as many sums as fit the registers.
pub(crate) const fn kernel_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 6 }
}

/// The number of a register's values and [`kernel_rows`] of this processor.
pub(crate) struct Sizes;

impl WithSimd for Sizes {
    type Output = [usize; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> [usize; 2] {
        [S::F32_LANES, kernel_rows::<S>()]
    }
}

/// The left matrix of a [`Product`].
#[derive(Clone, Copy)]
pub(crate) enum Left {
    /// `[depth][kernel_rows]`, whatever the number of rows.
    Panel(*const f32),
    /// `[row][depth]`, with so many values from a row to the next.
    Rows(*const f32, usize),
}

/// The right matrix of a [`Product`].
pub(crate) trait Right: Copy {
    /// Where a row begins.
    ///
    /// # Safety
    /// There is such a row.
    unsafe fn row(self, index: usize) -> *const f32;
}

/// Rows with so many values from one to the next.
#[derive(Clone, Copy)]
pub(crate) struct Strided(pub *const f32, pub usize);

impl Right for Strided {
    #[inline(always)]
    unsafe fn row(self, index: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index * self.1) }
    }
}

/// Rows at these places from a pointer on.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a>(pub *const f32, pub &'a [usize]);

impl Right for Places<'_> {
    #[inline(always)]
    unsafe fn row(self, index: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(*self.1.get_unchecked(index)) }
    }
}

/// `output[i][j] = Σ_p left[i][p] · right[p][j]`, as far as it goes at once.
#[derive(Clone, Copy)]
pub(crate) struct Product<R> {
    pub depth: usize,
    pub left: Left,
    pub right: R,
    pub output: *mut f32,
    pub output_stride: usize,
    /// Up to [`kernel_rows`].
    pub rows: usize,
    /// Up to two registers' values.
    pub columns: usize,
}

/// What becomes of a product.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    Store,
    /// It is added to the output.
    Add,
    /// Row `i` is multiplied by `scale[i]`, `shift[i]` is added, and it is bounded by `range`.
    Affine {
        scale: &'a [f32],
        shift: &'a [f32],
        range: [f32; 2],
    },
}

impl<R: Right> Product<R> {
    /// # Safety
    /// All pointers are valid for the sizes and strides; of the right matrix whole registers are read.
    #[inline(always)]
    pub unsafe fn compute<S: Simd>(self, simd: S, finish: Finish) {
        let rows = if self.rows <= 4 { 4 } else { const { kernel_rows::<S>() } };
        // SAFETY: the caller's promise.
        unsafe {
            match (rows, self.columns > S::F32_LANES) {
                (8, true) => self.fixed::<S, 8, 2>(simd, finish),
                (8, false) => self.fixed::<S, 8, 1>(simd, finish),
                (6, true) => self.fixed::<S, 6, 2>(simd, finish),
                (6, false) => self.fixed::<S, 6, 1>(simd, finish),
                (_, true) => self.fixed::<S, 4, 2>(simd, finish),
                (_, false) => self.fixed::<S, 4, 1>(simd, finish),
            }
        }
    }

    #[inline(always)]
    unsafe fn fixed<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S, finish: Finish) {
        let Self { depth, left, right, output, output_stride, rows, columns } = self;
        // Rows that are not wanted are the last one again; a panel has them all.
        let (left, step, stride, last) = match left {
            Left::Panel(left) => (left, kernel_rows::<S>(), 1, ROWS - 1),
            Left::Rows(left, stride) => (left, 1, stride, rows - 1),
        };
        let mut offsets = [0; ROWS];
        for (i, offset) in offsets.iter_mut().enumerate() {
            *offset = i.min(last) * stride;
        }
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            for p in 0..depth {
                let (right, mut values) = (right.row(p), [simd.splat_f32s(0.0); VECTORS]);
                for (j, value) in values.iter_mut().enumerate() {
                    *value = Lanes::load(simd, right.add(j * S::F32_LANES)).1;
                }
                let left = left.add(p * step);
                for (sums, offset) in sums.iter_mut().zip(offsets) {
                    let factor = simd.splat_f32s(*left.add(offset));
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = simd.mul_add_e_f32s(factor, value, *sum);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                if i >= rows {
                    break;
                }
                for (j, sum) in sums.iter().enumerate() {
                    let target = output.add(i * output_stride + j * S::F32_LANES);
                    let columns = columns - j * S::F32_LANES;
                    let sum = Lanes(simd, *sum);
                    let sum = match finish {
                        Finish::Store => sum,
                        Finish::Add if columns >= S::F32_LANES => Lanes::load(simd, target) + sum,
                        Finish::Add => Lanes::load_first(simd, target, columns) + sum,
                        Finish::Affine { scale, shift, range: [low, high] } => {
                            let [scale, shift] = [scale, shift].map(|values| Lanes::splat(simd, values[i]));
                            let [low, high] = [low, high].map(|bound| Lanes::splat(simd, bound));
                            sum.mul_add(scale, shift).max(low).min(high)
                        }
                    };
                    if columns >= S::F32_LANES {
                        sum.store(target);
                    } else {
                        sum.store_first(target, columns);
                    }
                }
            }
        }
    }
}
