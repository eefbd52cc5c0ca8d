//! Registers of f32 values, of the widest kind that the processor has.

#[cfg(target_arch = "x86_64")]
use std::any::Any;
use std::{
    ops::{Add, Mul, Range, Sub},
    sync::LazyLock,
};

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
use pulp::{Arch, MemMask, Simd};

/// Returns the bits of `value` as another type of the same size.
///
/// Not `transmute`, because the sizes are the same only for the register kinds whose code is reached.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn cast<T: pulp::bytemuck::NoUninit, U: pulp::bytemuck::AnyBitPattern>(value: T) -> U {
    assert_eq!(size_of::<T>(), size_of::<U>());
    // SAFETY: the sizes are equal, and any bits are a value.
    unsafe { std::mem::transmute_copy(&value) }
}

/// Returns the instructions that operators use: the widest that the processor has or, for tests and to tell a processor's fault
/// from ours, those that the environment variable `SEGKILN_SIMD` names: `avx2` or `scalar`.
pub(crate) fn arch() -> Arch {
    static ARCH: LazyLock<Arch> = LazyLock::new(|| {
        warn_if_unoptimized();
        match std::env::var("SEGKILN_SIMD").as_deref() {
            Ok("scalar") => Arch::Scalar,
            #[cfg(target_arch = "x86_64")]
            Ok("avx2") => V3::try_new().map_or(Arch::Scalar, Arch::V3),
            _ => Arch::new(),
        }
    });
    *ARCH
}

/// Warns on stderr, once, if the operators were built without optimization, as by cargo's default dev profile: they are then some
/// two hundred times slower, and nothing else would say why.
fn warn_if_unoptimized() {
    // README.md has the same lines; `.ci/program` compares them.
    const LINES: &str = include_str!("profile.toml");
    if cfg!(unoptimized) {
        eprintln!(
            "warning: segkiln's operators were compiled without optimization and are very slow; build with --release, or add to \
             Cargo.toml:\n\n{LINES}"
        );
    }
}

/// Returns whether the processor has dot products of bf16 and of 8 bits in registers of 512 bits, and `SEGKILN_SIMD` does not
/// exclude them.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512_dot_products() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        matches!(arch(), Arch::V4(_))
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512vnni")
    });
    *HAS
}

/// As [`arch`], but with registers of eight values at most: for transforms of panels of six or eight channels.
pub(crate) fn arch_of_eight() -> Arch {
    match arch() {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(v4) => Arch::V3(*v4),
        arch => arch,
    }
}

/// Values of the widest register.
pub(crate) const MOST_LANES: usize = 16;

/// Returns the mask of some lanes of a register.
#[inline(always)]
pub(crate) fn lane_mask<S: Simd>(simd: S, lanes: Range<usize>) -> S::m32s {
    // pulp's panics where a range begins at a register's end.
    let Range { start, end } = if lanes.is_empty() { 0..0 } else { lanes };
    simd.mask_between_m32s(start as u32, end as u32).mask()
}

/// A register of f32 values.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<S: Simd>(pub S, pub S::f32s);

impl<S: Simd> Lanes<S> {
    /// Loads a register.
    ///
    /// # Safety
    /// A register's number of values can be read from `pointer`.
    #[inline(always)]
    pub unsafe fn load(simd: S, pointer: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(simd, unsafe { pointer.cast::<S::f32s>().read_unaligned() })
    }

    /// Stores the register.
    ///
    /// # Safety
    /// A register's number of values can be written to `pointer`.
    #[inline(always)]
    pub unsafe fn store(self, pointer: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { pointer.cast::<S::f32s>().write_unaligned(self.1) }
    }

    /// Loads a register from a slice.
    ///
    /// # Panics
    /// If the slice has no register's values from `offset` on.
    #[inline(always)]
    pub fn load_from(simd: S, values: &[f32], offset: usize) -> Self {
        let values = &values[offset..][..S::F32_LANES];
        // SAFETY: the slice has a register's values.
        unsafe { Self::load(simd, values.as_ptr()) }
    }

    /// Stores the register to a slice.
    ///
    /// # Panics
    /// If the slice has no room for a register from `offset` on.
    #[inline(always)]
    pub fn store_to(self, values: &mut [f32], offset: usize) {
        let values = &mut values[offset..][..S::F32_LANES];
        // SAFETY: the slice has room for a register.
        unsafe { self.store(values.as_mut_ptr()) }
    }

    /// Loads the lanes where `mask` is set, and zeros elsewhere.
    ///
    /// # Safety
    /// The lanes where `mask` is set must be readable; `pointer` is the address of the first lane.
    #[inline(always)]
    pub unsafe fn load_masked(simd: S, pointer: *const f32, mask: S::m32s) -> Self {
        // SAFETY: the caller's promise.
        Self(simd, unsafe { simd.mask_load_ptr_f32s(MemMask::new(mask), pointer) })
    }

    /// Loads the first `count` values, and zeros after them.
    ///
    /// # Safety
    /// The first `count` values from `pointer` on must be readable.
    #[inline(always)]
    pub unsafe fn load_first(simd: S, pointer: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::load_masked(simd, pointer, lane_mask(simd, 0..count)) }
    }

    /// Stores the first `count` values.
    ///
    /// # Safety
    /// They can be written to `pointer`.
    #[inline(always)]
    pub unsafe fn store_first(self, pointer: *mut f32, count: usize) {
        let mask = MemMask::new(lane_mask(self.0, 0..count));
        // SAFETY: the caller's promise.
        unsafe { self.0.mask_store_ptr_f32s(mask, pointer, self.1) };
    }

    /// Loads the values of the register with this index that are among the first `count`, and zeros after them.
    ///
    /// # Safety
    /// The first `count` values from `pointer` on must be readable.
    #[inline(always)]
    pub unsafe fn load_part(simd: S, pointer: *const f32, register: usize, count: usize) -> Self {
        let start = register * S::F32_LANES;
        // SAFETY: the caller's promise; no value is read where none is left.
        unsafe { Self::load_first(simd, pointer.wrapping_add(start), count.saturating_sub(start).min(S::F32_LANES)) }
    }

    /// Stores the values of the register with this index that are among the first `count`.
    ///
    /// # Safety
    /// The first `count` values from `pointer` on can be written.
    #[inline(always)]
    pub unsafe fn store_part(self, pointer: *mut f32, register: usize, count: usize) {
        let start = register * S::F32_LANES;
        // SAFETY: the caller's promise; no value is written where none is left.
        unsafe { self.store_first(pointer.wrapping_add(start), count.saturating_sub(start).min(S::F32_LANES)) }
    }

    #[inline(always)]
    pub fn splat(simd: S, value: f32) -> Self {
        Self(simd, simd.splat_f32s(value))
    }

    /// `self · factor + other`, rounded once where the processor has fused multiply-add.
    #[inline(always)]
    pub fn scaled_plus(self, factor: f32, other: Self) -> Self {
        Self(self.0, self.0.mul_add_e_f32s(self.1, self.0.splat_f32s(factor), other.1))
    }

    #[inline(always)]
    pub fn mul_add(self, factor: Self, other: Self) -> Self {
        Self(self.0, self.0.mul_add_e_f32s(self.1, factor.1, other.1))
    }

    #[inline(always)]
    pub fn times(self, factor: Self) -> Self {
        Self(self.0, self.0.mul_f32s(self.1, factor.1))
    }

    #[inline(always)]
    pub fn over(self, divisor: Self) -> Self {
        Self(self.0, self.0.div_f32s(self.1, divisor.1))
    }

    /// `e^x` to some units in the last place; 0 below -87.3, and e^88.3 above 88.3.
    #[inline(always)]
    pub fn exp(self) -> Self {
        /// 1.5 · 2²³, whose last bit is 1: a number that is added to it is rounded to a whole one, in the last bits of the sum.
        const WHOLE: f32 = 12_582_912.0;
        /// `1 / k!` from 7 down to 0.
        const SERIES: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
        let simd = self.0;
        let splat = |value| Self::splat(simd, value);
        let none = simd.less_than_f32s(self.1, splat(-87.3).1);
        let x = self.max(splat(-87.3)).min(splat(88.3));
        // x = n ln 2 + rest, with ln 2 in two parts.
        let n = x.scaled_plus(std::f32::consts::LOG2_E, splat(WHOLE)) - splat(WHOLE);
        let rest = n.scaled_plus(2.121_944_4e-4, n.scaled_plus(-0.693_359_4, x));
        let mut sum = splat(0.0);
        for coefficient in SERIES {
            sum = sum.mul_add(rest, splat(coefficient));
        }
        // 2^n, made of its exponent.
        let exponent = simd.transmute_u32s_f32s((n + splat(WHOLE + 127.0)).1);
        let power = simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23));
        let value = sum.times(Self(simd, simd.transmute_f32s_u32s(power)));
        Self(simd, simd.select_f32s(none, splat(0.0).1, value.1))
    }

    /// The bitwise or.
    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        Self(self.0, self.0.or_f32s(self.1, other.1))
    }

    /// The larger value; NaN stays NaN.
    #[inline(always)]
    pub fn max(self, low: Self) -> Self {
        Self(self.0, self.0.select_f32s(self.0.less_than_f32s(self.1, low.1), low.1, self.1))
    }

    /// The smaller value; NaN stays NaN.
    #[inline(always)]
    pub fn min(self, high: Self) -> Self {
        Self(self.0, self.0.select_f32s(self.0.greater_than_f32s(self.1, high.1), high.1, self.1))
    }
}

impl<S: Simd> Lanes<S> {
    /// The even and the odd values of two registers in a row.
    #[inline(always)]
    pub fn unzip(self, next: Self) -> [Self; 2] {
        let simd = self.0;
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(v4) = (&simd as &dyn Any).downcast_ref::<V4>() {
                let even = cast([0i32, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]);
                let odd = cast([1i32, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31]);
                let (a, b) = (cast(self.1), cast(next.1));
                return [
                    Self(simd, cast(v4.avx512f._mm512_permutex2var_ps(a, even, b))),
                    Self(simd, cast(v4.avx512f._mm512_permutex2var_ps(a, odd, b))),
                ];
            }
            if let Some(v3) = (&simd as &dyn Any).downcast_ref::<V3>() {
                let (a, b) = (cast(self.1), cast(next.1));
                let even = cast(v3.avx._mm256_shuffle_ps::<0b10_00_10_00>(a, b));
                let odd = cast(v3.avx._mm256_shuffle_ps::<0b11_01_11_01>(a, b));
                return [
                    Self(simd, cast(v3.avx2._mm256_permute4x64_pd::<0b11_01_10_00>(even))),
                    Self(simd, cast(v3.avx2._mm256_permute4x64_pd::<0b11_01_10_00>(odd))),
                ];
            }
        }
        let (mut whole, mut even, mut odd) = ([0.0; 32], [0.0; 16], [0.0; 16]);
        // SAFETY: the arrays hold two registers and one.
        unsafe {
            self.store(whole.as_mut_ptr());
            next.store(whole.as_mut_ptr().add(S::F32_LANES));
            for lane in 0..S::F32_LANES {
                even[lane] = whole[2 * lane];
                odd[lane] = whole[2 * lane + 1];
            }
            [Self::load(simd, even.as_ptr()), Self::load(simd, odd.as_ptr())]
        }
    }

    /// The values of both registers in turn: the inverse of [`unzip`](Self::unzip).
    #[inline(always)]
    pub fn zip(self, other: Self) -> [Self; 2] {
        let simd = self.0;
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(v4) = (&simd as &dyn Any).downcast_ref::<V4>() {
                let low = cast([0i32, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23]);
                let high = cast([8i32, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31]);
                let (a, b) = (cast(self.1), cast(other.1));
                return [
                    Self(simd, cast(v4.avx512f._mm512_permutex2var_ps(a, low, b))),
                    Self(simd, cast(v4.avx512f._mm512_permutex2var_ps(a, high, b))),
                ];
            }
            if let Some(v3) = (&simd as &dyn Any).downcast_ref::<V3>() {
                let (a, b) = (cast(self.1), cast(other.1));
                let (low, high) = (v3.avx._mm256_unpacklo_ps(a, b), v3.avx._mm256_unpackhi_ps(a, b));
                return [
                    Self(simd, cast(v3.avx._mm256_permute2f128_ps::<0x20>(low, high))),
                    Self(simd, cast(v3.avx._mm256_permute2f128_ps::<0x31>(low, high))),
                ];
            }
        }
        let (mut whole, mut even, mut odd) = ([0.0; 32], [0.0; 16], [0.0; 16]);
        // SAFETY: the arrays hold two registers and one.
        unsafe {
            self.store(even.as_mut_ptr());
            other.store(odd.as_mut_ptr());
            for lane in 0..S::F32_LANES {
                whole[2 * lane] = even[lane];
                whole[2 * lane + 1] = odd[lane];
            }
            [Self::load(simd, whole.as_ptr()), Self::load(simd, whole.as_ptr().add(S::F32_LANES))]
        }
    }
}

impl<S: Simd> Add for Lanes<S> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0, self.0.add_f32s(self.1, other.1))
    }
}

impl<S: Simd> Sub for Lanes<S> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0, self.0.sub_f32s(self.1, other.1))
    }
}

impl<S: Simd> Mul<f32> for Lanes<S> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        Self(self.0, self.0.mul_f32s(self.1, self.0.splat_f32s(factor)))
    }
}

/// Prefetches a value that is read soon; an address that is no memory does no harm.
#[inline(always)]
pub(crate) fn prefetch(pointer: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which every processor of this architecture has and which reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(pointer.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}

/// Returns, for each `b` of 0 to 3, the values `4·lane + b` of four registers in a row.
#[inline(always)]
pub(crate) fn unzip4<S: Simd>([a, b, c, d]: [Lanes<S>; 4]) -> [Lanes<S>; 4] {
    let ([e0, o0], [e1, o1]) = (a.unzip(b), c.unzip(d));
    let ([p0, p2], [p1, p3]) = (e0.unzip(e1), o0.unzip(o1));
    [p0, p1, p2, p3]
}

/// The inverse of [`unzip4`].
#[inline(always)]
pub(crate) fn zip4<S: Simd>([p0, p1, p2, p3]: [Lanes<S>; 4]) -> [Lanes<S>; 4] {
    let ([e0, e1], [o0, o1]) = (p0.zip(p2), p1.zip(p3));
    let ([a, b], [c, d]) = (e0.zip(o0), e1.zip(o1));
    [a, b, c, d]
}

/// Transposes a square: the first [`Simd::F32_LANES`] registers of `rows`.
#[inline(always)]
pub(crate) fn transpose<S: Simd>(rows: &mut [Lanes<S>; 16]) {
    let half = S::F32_LANES / 2;
    for _ in 0..S::F32_LANES.ilog2() {
        let before = *rows;
        for i in 0..half {
            [rows[2 * i], rows[2 * i + 1]] = before[i].zip(before[i + half]);
        }
    }
}

/// Returns the larger value; NaN stays NaN, which [`f32::max`] would drop.
#[inline(always)]
pub(crate) fn at_least(value: f32, low: f32) -> f32 {
    if value < low { low } else { value }
}

/// Returns the sum of values in f32; a few thousand, so that it is exact enough.
#[inline(always)]
pub(crate) fn total<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let (registers, rest) = S::as_simd_f32s(values);
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (fours, ones) = registers.as_chunks::<4>();
    for four in fours {
        for (sum, value) in sums.iter_mut().zip(four) {
            *sum = simd.add_f32s(*sum, *value);
        }
    }
    for value in ones {
        sums[0] = simd.add_f32s(sums[0], *value);
    }
    let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}
