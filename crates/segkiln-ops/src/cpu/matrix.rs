//! The matrix product in registers.

use pulp::{Arch, Simd, WithSimd};

use super::simd::{self, Lanes};

/// Returns the rows of the left matrix that are multiplied together. With two registers of columns these are as many sums as the
/// registers hold beside the operands: 16 of 32, or 12 of 16; 4 rows of 16 registers were 5 to 10 % slower.
pub(crate) const fn kernel_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 6 }
}

/// The sizes of this processor's registers that operators are cut up by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegisterSizes {
    /// f32 values in a register.
    pub lanes: usize,
    /// [`kernel_rows`].
    pub rows: usize,
}

impl RegisterSizes {
    /// Returns those of [`simd::arch`].
    pub fn native() -> Self {
        Self::of(simd::arch())
    }

    pub fn of(arch: Arch) -> Self {
        struct Ask;

        impl WithSimd for Ask {
            type Output = RegisterSizes;

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> RegisterSizes {
                RegisterSizes { lanes: S::F32_LANES, rows: kernel_rows::<S>() }
            }
        }

        arch.dispatch(Ask)
    }
}

/// The left matrix of a [`Product`].
#[derive(Clone, Copy)]
pub(crate) enum Left {
    /// `[depth][kernel_rows]`, whatever the product's number of rows.
    Panel(*const f32),
    /// `[row][depth]`, and the distance of two rows.
    Rows(*const f32, usize),
    /// `[depth][row]`, and the distance of two values of a row.
    Columns(*const f32, usize),
}

/// The right matrix of a [`Product`].
pub(crate) trait Right: Copy {
    /// Returns the begin of a row.
    ///
    /// # Safety
    /// The matrix has that row.
    unsafe fn row(self, index: usize) -> *const f32;
}

/// Rows at a fixed distance: the first row, and the distance.
#[derive(Clone, Copy)]
pub(crate) struct Strided(pub *const f32, pub usize);

impl Right for Strided {
    #[inline(always)]
    unsafe fn row(self, index: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index * self.1) }
    }
}

/// Rows that begin at these offsets from a pointer.
#[derive(Clone, Copy)]
pub(crate) struct Offsets<'a>(pub *const f32, pub &'a [usize]);

impl Right for Offsets<'_> {
    #[inline(always)]
    unsafe fn row(self, index: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(*self.1.get_unchecked(index)) }
    }
}

/// The part of a matrix product that is computed in registers at once: `output[i][j] = Σ_p left[i][p] · right[p][j]`.
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

/// The last step of a product.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    /// The product is stored.
    Store,
    /// The product is added to the output.
    Add,
    /// `clamp(product · scale[i] + shift[i], range)` of row `i` is stored.
    Affine { scale: &'a [f32], shift: &'a [f32], range: [f32; 2] },
}

impl<R: Right> Product<R> {
    /// Computes the product.
    ///
    /// # Safety
    /// The pointers are valid for these sizes and distances: reads of `rows` rows of the left matrix (a panel is read whole),
    /// reads of `depth` rows of whole registers of the right one, writes of `rows` rows of `columns` outputs, and with
    /// [`Finish::Add`] reads of these.
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
        // Rows beyond the product's are the last one again; a panel has them all.
        let (left, step, stride, last) = match left {
            Left::Panel(left) => (left, kernel_rows::<S>(), 1, ROWS - 1),
            Left::Rows(left, stride) => (left, 1, stride, rows - 1),
            Left::Columns(left, step) => (left, step, 1, rows - 1),
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
