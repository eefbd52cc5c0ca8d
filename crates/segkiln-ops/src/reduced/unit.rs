//! The few vector instructions that the kernels of this module are made of, behind one trait, [`Unit`], with two
//! implementations: [`Avx512`] and [`Portable`], plain loops that define what each instruction computes.

use burn::tensor::bf16;

/// Values of a register of f32.
pub(super) const LANES: usize = 16;

/// A vector unit with registers of [`LANES`] values of 32 bits.
///
/// # Safety
/// Methods with pointers read or write one register's values there: 16 of f32, bf16, i32 or u8, or 64 bytes of words. All
/// methods need the instructions of the unit; only [`dispatch`] makes one.
pub(super) trait Unit: Copy + Send + Sync {
    /// 16 values of f32.
    type Float: Copy;
    /// 16 words of 32 bits, each with two values of 16 bits or four of 8.
    type Words: Copy;
    /// 16 integers of 32 bits.
    type Ints: Copy;
    /// 32 integers of 16 bits.
    type Shorts: Copy;

    unsafe fn splat(self, value: f32) -> Self::Float;
    unsafe fn load(self, pointer: *const f32) -> Self::Float;
    unsafe fn store(self, value: Self::Float, pointer: *mut f32);
    unsafe fn load_bf16(self, pointer: *const bf16) -> Self::Float;
    /// Rounds to the nearest, ties to even.
    unsafe fn store_bf16(self, value: Self::Float, pointer: *mut bf16);
    /// Rounds as [`store_bf16`](Self::store_bf16); values of both in turn, 32 in all.
    unsafe fn store_pairs(self, first: Self::Float, second: Self::Float, pointer: *mut bf16);
    /// Four values at each pointer.
    unsafe fn store_fours(self, value: Self::Float, pointers: [*mut f32; 4]);
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
    /// `sum + a₀ · b₀ + a₁ · b₁` for the two signed integers of 16 bits of each word.
    unsafe fn dot_i16(self, sum: Self::Ints, a: Self::Words, b: Self::Words) -> Self::Ints;
    /// `sum + a₀ · b₀ + … + a₃ · b₃` for the four bytes of each word, of `a` without and of `b` with a sign.
    unsafe fn dot_u8_i8(self, sum: Self::Ints, a: Self::Words, b: Self::Words) -> Self::Ints;

    unsafe fn load_ints(self, pointer: *const i32) -> Self::Ints;
    unsafe fn store_ints(self, value: Self::Ints, pointer: *mut i32);
    unsafe fn to_float(self, value: Self::Ints) -> Self::Float;

    /// 16 bytes.
    unsafe fn load_u8(self, pointer: *const u8) -> Self::Float;
    /// Rounds to the nearest, ties to even, within 0 and 255; NaN is 0.
    unsafe fn store_u8(self, value: Self::Float, pointer: *mut u8);

    /// 16 bytes from each pointer.
    unsafe fn load_shorts(self, first: *const u8, last: *const u8) -> Self::Shorts;
    /// The first 16, and the last 16 at the other pointer if there is one.
    unsafe fn store_shorts(self, value: Self::Shorts, first: *mut i16, last: Option<*mut i16>);
    unsafe fn splat_short(self, value: i16) -> Self::Shorts;
    unsafe fn add_shorts(self, a: Self::Shorts, b: Self::Shorts) -> Self::Shorts;
    unsafe fn sub_shorts(self, a: Self::Shorts, b: Self::Shorts) -> Self::Shorts;
    /// `value · 2^BITS`.
    unsafe fn shift_shorts<const BITS: u32>(self, value: Self::Shorts) -> Self::Shorts;
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
        type Ints = __m512i;
        type Shorts = __m512i;

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
        unsafe fn store_pairs(self, first: __m512, second: __m512, pointer: *mut bf16) {
            unsafe {
                let [first, second] = [first, second].map(|value| {
                    _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(value)))
                });
                let words = _mm512_or_si512(first, _mm512_slli_epi32::<16>(second));
                _mm512_storeu_si512(pointer.cast(), words);
            }
        }

        #[inline(always)]
        unsafe fn store_fours(self, value: __m512, [a, b, c, d]: [*mut f32; 4]) {
            unsafe {
                _mm_storeu_ps(a, _mm512_castps512_ps128(value));
                _mm_storeu_ps(b, _mm512_extractf32x4_ps::<1>(value));
                _mm_storeu_ps(c, _mm512_extractf32x4_ps::<2>(value));
                _mm_storeu_ps(d, _mm512_extractf32x4_ps::<3>(value));
            }
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

        #[inline(always)]
        unsafe fn dot_i16(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_dpwssd_epi32(sum, a, b) }
        }

        #[inline(always)]
        unsafe fn dot_u8_i8(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, a, b) }
        }

        #[inline(always)]
        unsafe fn load_ints(self, pointer: *const i32) -> __m512i {
            unsafe { _mm512_loadu_si512(pointer.cast()) }
        }

        #[inline(always)]
        unsafe fn store_ints(self, value: __m512i, pointer: *mut i32) {
            unsafe { _mm512_storeu_si512(pointer.cast(), value) }
        }

        #[inline(always)]
        unsafe fn to_float(self, value: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(value) }
        }

        #[inline(always)]
        unsafe fn load_u8(self, pointer: *const u8) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(pointer.cast()))) }
        }

        #[inline(always)]
        unsafe fn store_u8(self, value: __m512, pointer: *mut u8) {
            unsafe {
                // The second operand is the result where one is NaN. What is too large for an integer becomes 2³¹.
                let integers = _mm512_cvtps_epi32(_mm512_max_ps(value, _mm512_setzero_ps()));
                _mm_storeu_si128(pointer.cast(), _mm512_cvtusepi32_epi8(integers));
            }
        }

        #[inline(always)]
        unsafe fn load_shorts(self, first: *const u8, last: *const u8) -> __m512i {
            unsafe {
                let bytes = _mm256_castsi128_si256(_mm_loadu_si128(first.cast()));
                _mm512_cvtepu8_epi16(_mm256_inserti128_si256::<1>(bytes, _mm_loadu_si128(last.cast())))
            }
        }

        #[inline(always)]
        unsafe fn store_shorts(self, value: __m512i, first: *mut i16, last: Option<*mut i16>) {
            unsafe {
                _mm256_storeu_si256(first.cast(), _mm512_castsi512_si256(value));
                if let Some(last) = last {
                    _mm256_storeu_si256(last.cast(), _mm512_extracti64x4_epi64::<1>(value));
                }
            }
        }

        #[inline(always)]
        unsafe fn splat_short(self, value: i16) -> __m512i {
            unsafe { _mm512_set1_epi16(value) }
        }

        #[inline(always)]
        unsafe fn add_shorts(self, a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_add_epi16(a, b) }
        }

        #[inline(always)]
        unsafe fn sub_shorts(self, a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_sub_epi16(a, b) }
        }

        #[inline(always)]
        unsafe fn shift_shorts<const BITS: u32>(self, value: __m512i) -> __m512i {
            unsafe { _mm512_slli_epi16::<BITS>(value) }
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
    type Ints = [i32; LANES];
    type Shorts = [i16; 2 * LANES];

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
    unsafe fn store_pairs(self, first: Values, second: Values, pointer: *mut bf16) {
        let pairs: [[bf16; 2]; LANES] = std::array::from_fn(|lane| [first[lane], second[lane]].map(bf16::from_f32));
        unsafe { pointer.cast::<[[bf16; 2]; LANES]>().write_unaligned(pairs) }
    }

    #[inline(always)]
    unsafe fn store_fours(self, value: Values, pointers: [*mut f32; 4]) {
        for (part, pointer) in pointers.into_iter().enumerate() {
            unsafe { std::ptr::copy_nonoverlapping(value[4 * part..].as_ptr(), pointer, 4) };
        }
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

    #[inline(always)]
    unsafe fn dot_i16(self, sum: Self::Ints, a: Self::Words, b: Self::Words) -> Self::Ints {
        let half = |word: [u8; 4], index: usize| i32::from(i16::from_ne_bytes([word[2 * index], word[2 * index + 1]]));
        std::array::from_fn(|lane| {
            (0..2).fold(sum[lane], |sum, index| sum.wrapping_add(half(a[lane], index) * half(b[lane], index)))
        })
    }

    #[inline(always)]
    unsafe fn dot_u8_i8(self, sum: Self::Ints, a: Self::Words, b: Self::Words) -> Self::Ints {
        std::array::from_fn(|lane| {
            let product = |index: usize| i32::from(a[lane][index]) * i32::from(b[lane][index].cast_signed());
            (0..4).fold(sum[lane], |sum, index| sum.wrapping_add(product(index)))
        })
    }

    #[inline(always)]
    unsafe fn load_ints(self, pointer: *const i32) -> Self::Ints {
        unsafe { pointer.cast::<Self::Ints>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_ints(self, value: Self::Ints, pointer: *mut i32) {
        unsafe { pointer.cast::<Self::Ints>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn to_float(self, value: Self::Ints) -> Values {
        each(|lane| value[lane] as f32)
    }

    #[inline(always)]
    unsafe fn load_u8(self, pointer: *const u8) -> Values {
        let values = unsafe { pointer.cast::<[u8; LANES]>().read_unaligned() };
        each(|lane| f32::from(values[lane]))
    }

    #[inline(always)]
    unsafe fn store_u8(self, value: Values, pointer: *mut u8) {
        // `as` keeps what it converts within the integer's range, and makes NaN 0.
        let bytes = value.map(|value| value.round_ties_even() as u8);
        unsafe { pointer.cast::<[u8; LANES]>().write_unaligned(bytes) }
    }

    #[inline(always)]
    unsafe fn load_shorts(self, first: *const u8, last: *const u8) -> Self::Shorts {
        let [first, last] = [first, last].map(|pointer| unsafe { pointer.cast::<[u8; LANES]>().read_unaligned() });
        std::array::from_fn(|lane| i16::from(if lane < LANES { first[lane] } else { last[lane - LANES] }))
    }

    #[inline(always)]
    unsafe fn store_shorts(self, value: Self::Shorts, first: *mut i16, last: Option<*mut i16>) {
        for (half, pointer) in [Some(first), last].into_iter().enumerate() {
            if let Some(pointer) = pointer {
                unsafe { std::ptr::copy_nonoverlapping(value[half * LANES..].as_ptr(), pointer, LANES) };
            }
        }
    }

    #[inline(always)]
    unsafe fn splat_short(self, value: i16) -> Self::Shorts {
        [value; 2 * LANES]
    }

    #[inline(always)]
    unsafe fn add_shorts(self, a: Self::Shorts, b: Self::Shorts) -> Self::Shorts {
        std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
    }

    #[inline(always)]
    unsafe fn sub_shorts(self, a: Self::Shorts, b: Self::Shorts) -> Self::Shorts {
        std::array::from_fn(|lane| a[lane].wrapping_sub(b[lane]))
    }

    #[inline(always)]
    unsafe fn shift_shorts<const BITS: u32>(self, value: Self::Shorts) -> Self::Shorts {
        value.map(|value| value << BITS)
    }
}
