//! The few vector instructions that the kernels of this module are made of, behind one trait, [`Unit`], with two
//! implementations: [`Avx512`] and [`Portable`], plain loops that define what each instruction computes.

use burn::tensor::bf16;

/// Values of a register of f32.
pub(super) const LANES: usize = 16;

/// A vector unit with registers of [`LANES`] values of 32 bits.
///
/// # Safety
/// Methods with pointers read or write one register's values there: 16 of f32 or bf16, or 64 bytes of words. All
/// methods need the instructions of the unit; only [`dispatch`] makes one.
pub(super) trait Unit: Copy + Send + Sync {
    /// 16 values of f32.
    type Float: Copy;
    /// 16 words of 32 bits, each with two values of 16 bits or four of 8.
    type Words: Copy;

    unsafe fn splat(self, value: f32) -> Self::Float;
    unsafe fn load(self, pointer: *const f32) -> Self::Float;
    unsafe fn store(self, value: Self::Float, pointer: *mut f32);
    unsafe fn load_bf16(self, pointer: *const bf16) -> Self::Float;
    /// Rounds to the nearest, ties to even.
    unsafe fn store_bf16(self, value: Self::Float, pointer: *mut bf16);
    unsafe fn add(self, a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn sub(self, a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a · b + c`.
    unsafe fn mul_add(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// The larger; NaN in `value` stays.
    unsafe fn at_least(self, value: Self::Float, low: Self::Float) -> Self::Float;
    /// The smaller; NaN in `value` stays.
    unsafe fn at_most(self, value: Self::Float, high: Self::Float) -> Self::Float;

    /// Values of both in turn: the first eight of each, and the last eight.
    unsafe fn zip(self, a: Self::Float, b: Self::Float) -> [Self::Float; 2];

    unsafe fn words(self, pointer: *const u8) -> Self::Words;
    /// The word at a pointer, in every place.
    unsafe fn broadcast(self, pointer: *const u8) -> Self::Words;
    /// `sum + a₀ · b₀ + a₁ · b₁` for the two bf16 of each word.
    unsafe fn dot_bf16(self, sum: Self::Float, a: Self::Words, b: Self::Words) -> Self::Float;
}

/// Exchanges rows and columns of 16×16 values.
///
/// # Safety
/// The instructions of the unit are there.
#[inline(always)]
pub(super) unsafe fn transpose<U: Unit>(unit: U, rows: &mut [U::Float; LANES]) {
    for _ in 0..LANES.ilog2() {
        let before = *rows;
        for i in 0..LANES / 2 {
            // SAFETY: the caller's promise.
            [rows[2 * i], rows[2 * i + 1]] = unsafe { unit.zip(before[i], before[i + LANES / 2]) };
        }
    }
}

/// A computation that any unit can do.
pub(super) trait Task {
    /// # Safety
    /// The instructions of the unit are there.
    unsafe fn run<U: Unit>(self, unit: U);
}

/// Runs a task on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnitKind {
    /// AVX-512 with BF16 and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Plain loops.
    Portable,
}

impl UnitKind {
    /// The fastest unit of this processor, or none where f32 is faster. With `SEGKILN_SIMD=scalar` it is the definition, so that
    /// tests of networks run on any processor.
    pub fn fastest() -> Option<Self> {
        if matches!(crate::cpu::simd::arch(), pulp::Arch::Scalar) {
            return Some(Self::Portable);
        }
        #[cfg(target_arch = "x86_64")]
        if crate::cpu::simd::has_avx512_dot_products() {
            return Some(Self::Avx512);
        }
        None
    }

    #[inline(always)]
    pub fn dispatch(self, task: impl Task) {
        match self {
            // SAFETY: `fastest` makes this variant only where the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(task) },
            // SAFETY: plain loops need no instructions.
            Self::Portable => unsafe { task.run(Portable) },
        }
    }
}

/// # Safety
/// The processor has the instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,fma,avx2")]
unsafe fn avx512(task: impl Task) {
    // SAFETY: the caller's promise.
    unsafe { task.run(x86::Avx512) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use burn::tensor::bf16;

    use super::Unit;

    /// AVX-512 with its dot products of bf16 (BF16) and of 8 and 16 bits (VNNI).
    #[derive(Debug, Clone, Copy)]
    pub(in super::super) struct Avx512;

    // SAFETY (every block): the caller promises the instructions and the memory.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "one line each, with the promise of the trait")]
    impl Unit for Avx512 {
        type Float = __m512;
        type Words = __m512i;

        #[inline(always)]
        unsafe fn splat(self, value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(self, pointer: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(pointer) }
        }

        #[inline(always)]
        unsafe fn store(self, value: __m512, pointer: *mut f32) {
            unsafe { _mm512_storeu_ps(pointer, value) }
        }

        #[inline(always)]
        unsafe fn load_bf16(self, pointer: *const bf16) -> __m512 {
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(pointer.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
        }

        #[inline(always)]
        unsafe fn store_bf16(self, value: __m512, pointer: *mut bf16) {
            unsafe { pointer.cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(value)) }
        }

        #[inline(always)]
        unsafe fn add(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn sub(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn mul(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn at_least(self, value: __m512, low: __m512) -> __m512 {
            // The second operand is the result where one is NaN.
            unsafe { _mm512_max_ps(low, value) }
        }

        #[inline(always)]
        unsafe fn at_most(self, value: __m512, high: __m512) -> __m512 {
            unsafe { _mm512_min_ps(high, value) }
        }

        #[inline(always)]
        unsafe fn zip(self, a: __m512, b: __m512) -> [__m512; 2] {
            unsafe {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
                [_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)]
            }
        }

        #[inline(always)]
        unsafe fn words(self, pointer: *const u8) -> __m512i {
            unsafe { _mm512_loadu_si512(pointer.cast()) }
        }

        #[inline(always)]
        unsafe fn broadcast(self, pointer: *const u8) -> __m512i {
            unsafe { _mm512_set1_epi32(pointer.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn dot_bf16(self, sum: __m512, a: __m512i, b: __m512i) -> __m512 {
            unsafe {
                _mm512_dpbf16_ps(
                    sum,
                    std::mem::transmute::<__m512i, __m512bh>(a),
                    std::mem::transmute::<__m512i, __m512bh>(b),
                )
            }
        }
    }
}

/// The definition of the instructions, in plain loops.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

type Values = [f32; LANES];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Values {
    std::array::from_fn(f)
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "the caller promises the memory")]
impl Unit for Portable {
    type Float = Values;
    type Words = [[u8; 4]; LANES];

    #[inline(always)]
    unsafe fn splat(self, value: f32) -> Values {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, pointer: *const f32) -> Values {
        unsafe { pointer.cast::<Values>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, value: Values, pointer: *mut f32) {
        unsafe { pointer.cast::<Values>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, pointer: *const bf16) -> Values {
        let values = unsafe { pointer.cast::<[bf16; LANES]>().read_unaligned() };
        each(|lane| values[lane].to_f32())
    }

    #[inline(always)]
    unsafe fn store_bf16(self, value: Values, pointer: *mut bf16) {
        unsafe { pointer.cast::<[bf16; LANES]>().write_unaligned(value.map(bf16::from_f32)) }
    }

    #[inline(always)]
    unsafe fn add(self, a: Values, b: Values) -> Values {
        each(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    unsafe fn sub(self, a: Values, b: Values) -> Values {
        each(|lane| a[lane] - b[lane])
    }

    #[inline(always)]
    unsafe fn mul(self, a: Values, b: Values) -> Values {
        each(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn mul_add(self, a: Values, b: Values, c: Values) -> Values {
        each(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    unsafe fn at_least(self, value: Values, low: Values) -> Values {
        each(|lane| if value[lane] < low[lane] { low[lane] } else { value[lane] })
    }

    #[inline(always)]
    unsafe fn at_most(self, value: Values, high: Values) -> Values {
        each(|lane| if value[lane] > high[lane] { high[lane] } else { value[lane] })
    }

    #[inline(always)]
    unsafe fn zip(self, a: Values, b: Values) -> [Values; 2] {
        [0, LANES / 2].map(|first| each(|lane| if lane % 2 == 0 { a[first + lane / 2] } else { b[first + lane / 2] }))
    }

    #[inline(always)]
    unsafe fn words(self, pointer: *const u8) -> Self::Words {
        unsafe { pointer.cast::<Self::Words>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn broadcast(self, pointer: *const u8) -> Self::Words {
        [unsafe { pointer.cast::<[u8; 4]>().read_unaligned() }; LANES]
    }

    #[inline(always)]
    unsafe fn dot_bf16(self, sum: Values, a: Self::Words, b: Self::Words) -> Values {
        let half = |word: [u8; 4], index: usize| bf16::from_ne_bytes([word[2 * index], word[2 * index + 1]]).to_f32();
        each(|lane| {
            let products = [0, 1].map(|index| half(a[lane], index) * half(b[lane], index));
            sum[lane] + products[1] + products[0]
        })
    }
}
