//! Numbers in which tiles are multiplied, and the transforms of tiles.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops and arguments: closures and iterators may stay calls"
)]

use burn::tensor::bf16;

use super::{
    super::{
        convolution::Inputs,
        product::{Bf16, Dot, Shorts},
        unit::{LANES, Unit},
    },
    OUTPUTS, SIDE,
};

/// The numbers in which tiles are multiplied.
pub(in super::super) trait Form: Dot {
    /// Element of the maps that are read.
    type Pixel: Copy + Send + Sync;
    /// Magnitudes of the points.
    const A: f32;
    const B: f32;
    /// Channels that are transformed together.
    const CHUNK: usize;

    /// Transforms `B^T d B` a tile's pixels, where they are of the image, for the channels of a chunk.
    ///
    /// # Safety
    /// The pixels are of the image, and the target has the chunk's channels of each point, `stride` values after the one
    /// before. The instructions of the unit are there.
    unsafe fn transform<U: Unit>(
        unit: U,
        inputs: &Inputs<'_, Self::Pixel>,
        pixels: &[[Option<usize>; SIDE]; SIDE],
        channel: usize,
        target: *mut Self::Left,
        stride: usize,
    );

    /// Stores 16 sums.
    ///
    /// # Safety
    /// As [`Unit::store`].
    unsafe fn store<U: Unit>(unit: U, sum: Self::Sum<U>, pointer: *mut f32);

    /// Loads 16 sums of a point, whose units are the factors, as the transform back takes them.
    ///
    /// # Safety
    /// As [`Unit::load`].
    unsafe fn load<U: Unit>(unit: U, pointer: *const f32, factors: *const f32) -> U::Float;
}

impl Form for Bf16 {
    type Pixel = bf16;
    const A: f32 = 0.75;
    const B: f32 = 1.5;
    const CHUNK: usize = LANES;

    #[inline(always)]
    unsafe fn transform<U: Unit>(
        unit: U,
        inputs: &Inputs<'_, bf16>,
        pixels: &[[Option<usize>; SIDE]; SIDE],
        channel: usize,
        target: *mut bf16,
        stride: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let half = input_columns(unit, inputs, pixels, channel);
            for a in 0..SIDE {
                let line = input_column(unit, half[a]);
                for b in 0..SIDE {
                    unit.store_bf16(line[b], target.add((a * SIDE + b) * stride));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store<U: Unit>(unit: U, sum: U::Float, pointer: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { unit.store(sum, pointer) }
    }

    #[inline(always)]
    unsafe fn load<U: Unit>(unit: U, pointer: *const f32, _: *const f32) -> U::Float {
        // SAFETY: the caller's promise.
        unsafe { unit.load(pointer) }
    }
}

impl Form for Shorts {
    type Pixel = u8;
    const A: f32 = 1.0;
    const B: f32 = 2.0;
    const CHUNK: usize = 2 * LANES;

    #[inline(always)]
    unsafe fn transform<U: Unit>(
        unit: U,
        inputs: &Inputs<'_, u8>,
        pixels: &[[Option<usize>; SIDE]; SIDE],
        channel: usize,
        target: *mut i16,
        stride: usize,
    ) {
        let first = inputs.source(channel);
        let last = (channel + LANES < inputs.channels()).then(|| inputs.source(channel + LANES));
        // Without more channels the first are read again, and not stored.
        let (source, channels, within) = last.unwrap_or(first);
        // SAFETY: the caller's promise.
        unsafe {
            let zeros = inputs.zeros(unit, channel);
            let mut half = [[unit.splat_short(0); SIDE]; SIDE];
            for b in 0..SIDE {
                let mut values = [unit.splat_short(0); SIDE];
                for a in 0..SIDE {
                    if let Some(pixel) = pixels[a][b] {
                        let pointers = [first.0.add(pixel * first.1 + first.2), source.add(pixel * channels + within)];
                        values[a] = unit.sub_shorts(unit.load_shorts(pointers[0], pointers[1]), zeros);
                    }
                }
                let values = input_column_of_integers(unit, values);
                for a in 0..SIDE {
                    half[a][b] = values[a];
                }
            }
            for a in 0..SIDE {
                let line = input_column_of_integers(unit, half[a]);
                for b in 0..SIDE {
                    let target = target.add((a * SIDE + b) * stride);
                    unit.store_shorts(line[b], target, last.map(|_| target.add(LANES)));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store<U: Unit>(unit: U, sum: U::Ints, pointer: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { unit.store_ints(sum, pointer.cast()) }
    }

    #[inline(always)]
    unsafe fn load<U: Unit>(unit: U, pointer: *const f32, factors: *const f32) -> U::Float {
        // SAFETY: the caller's promise.
        unsafe { unit.mul(unit.to_float(unit.load_ints(pointer.cast())), unit.load(factors)) }
    }
}

/// `B^T d` of 16 channels of a tile's pixels, where they are of the image.
///
/// # Safety
/// The pixels are of the image. The instructions of the unit are there.
#[inline(always)]
pub(super) unsafe fn input_columns<U: Unit>(
    unit: U,
    inputs: &Inputs<'_, bf16>,
    pixels: &[[Option<usize>; SIDE]; SIDE],
    channel: usize,
) -> [[U::Float; SIDE]; SIDE] {
    let (source, channels, within) = inputs.source(channel);
    // SAFETY: the caller's promise.
    unsafe {
        let mut half = [[unit.splat(0.0); SIDE]; SIDE];
        for b in 0..SIDE {
            let mut values = [unit.splat(0.0); SIDE];
            for a in 0..SIDE {
                if let Some(pixel) = pixels[a][b] {
                    values[a] = unit.load_bf16(source.add(pixel * channels + within));
                }
            }
            let values = input_column(unit, values);
            for a in 0..SIDE {
                half[a][b] = values[a];
            }
        }
        half
    }
}

/// `B^T d` along one axis.
#[inline(always)]
pub(super) unsafe fn input_column<U: Unit>(unit: U, [d0, d1, d2, d3, d4, d5]: [U::Float; SIDE]) -> [U::Float; SIDE] {
    const A: f32 = Bf16::A;
    const B: f32 = Bf16::B;
    const A2: f32 = A * A;
    const B2: f32 = B * B;
    // SAFETY: the caller's promise.
    unsafe {
        let factor = |value| unit.splat(value);
        let (product, sum) = (factor(A2 * B2), factor(-(A2 + B2)));
        let even_a = unit.mul_add(d2, factor(-B2), d4);
        let odd_a = unit.mul_add(d1, factor(-B2), d3);
        let even_b = unit.mul_add(d2, factor(-A2), d4);
        let odd_b = unit.mul_add(d1, factor(-A2), d3);
        [
            unit.mul_add(d0, product, unit.mul_add(d2, sum, d4)),
            unit.mul_add(odd_a, factor(A), even_a),
            unit.mul_add(odd_a, factor(-A), even_a),
            unit.mul_add(odd_b, factor(B), even_b),
            unit.mul_add(odd_b, factor(-B), even_b),
            unit.mul_add(d1, product, unit.mul_add(d3, sum, d5)),
        ]
    }
}

/// `B^T d` along one axis for the points 0, ±1, ±2 and infinity.
#[inline(always)]
unsafe fn input_column_of_integers<U: Unit>(unit: U, [d0, d1, d2, d3, d4, d5]: [U::Shorts; SIDE]) -> [U::Shorts; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        let even_a = unit.sub_shorts(d4, unit.shift_shorts::<2>(d2));
        let odd_a = unit.sub_shorts(d3, unit.shift_shorts::<2>(d1));
        let even_b = unit.sub_shorts(d4, d2);
        let difference = unit.sub_shorts(d3, d1);
        let odd_b = unit.shift_shorts::<1>(difference);
        let first = unit.shift_shorts::<2>(unit.sub_shorts(d0, d2));
        // 4 (d1 - d3) + (d5 - d3)
        let last = unit.sub_shorts(unit.sub_shorts(d5, d3), unit.shift_shorts::<2>(difference));
        [
            unit.add_shorts(first, even_b),
            unit.add_shorts(even_a, odd_a),
            unit.sub_shorts(even_a, odd_a),
            unit.add_shorts(even_b, odd_b),
            unit.sub_shorts(even_b, odd_b),
            last,
        ]
    }
}

/// `A y` along one axis, the adjoint of [`output_column`].
#[inline(always)]
pub(super) unsafe fn gradient_column<U: Unit>(unit: U, [y0, y1, y2, y3]: [U::Float; OUTPUTS]) -> [U::Float; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        const A: f32 = Bf16::A;
        const B: f32 = Bf16::B;
        let even_a = unit.mul_add(y2, unit.splat(A * A), y0);
        let even_b = unit.mul_add(y2, unit.splat(B * B), y0);
        let odd_a = unit.mul_add(y3, unit.splat(A * A * A), unit.mul(y1, unit.splat(A)));
        let odd_b = unit.mul_add(y3, unit.splat(B * B * B), unit.mul(y1, unit.splat(B)));
        [y0, unit.add(even_a, odd_a), unit.sub(even_a, odd_a), unit.add(even_b, odd_b), unit.sub(even_b, odd_b), y3]
    }
}

/// `A^T m` along one axis.
#[inline(always)]
pub(super) unsafe fn output_column<F: Form, U: Unit>(
    unit: U,
    [m0, m1, m2, m3, m4, m5]: [U::Float; SIDE],
) -> [U::Float; OUTPUTS] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (F::A, F::B);
        let (sum_a, difference_a) = (unit.add(m1, m2), unit.sub(m1, m2));
        let (sum_b, difference_b) = (unit.add(m3, m4), unit.sub(m3, m4));
        let factor = |value| unit.splat(value);
        [
            unit.add(m0, unit.add(sum_a, sum_b)),
            unit.mul_add(difference_b, factor(b), unit.mul(difference_a, factor(a))),
            unit.mul_add(sum_b, factor(b * b), unit.mul(sum_a, factor(a * a))),
            unit.mul_add(difference_b, factor(b * b * b), unit.mul_add(difference_a, factor(a * a * a), m5)),
        ]
    }
}
