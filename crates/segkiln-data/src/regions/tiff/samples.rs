//! Samples of a tile or strip: from bytes to numbers.

use std::ops::Range;

use ::tiff::tags::ByteOrder;
use segkiln_core::Rgb;

use crate::codecs::nodata;

/// Kind of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Unsigned,
    Signed,
    Float,
}

/// What is stored in place of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prediction {
    None,
    /// Differences from the pixel on the left.
    Horizontal,
    /// Differences of the bytes of floats, the highest bytes of a row first (Adobe's technical note 3 on TIFF).
    Float,
}

/// How samples are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoding {
    /// Bits of a sample.
    pub bits: u8,
    pub number: Number,
    pub order: ByteOrder,
    pub prediction: Prediction,
    /// Whether bytes begin with their lowest bit.
    pub reversed: bool,
    /// Whether the greatest number is black.
    pub inverted: bool,
}

impl Encoding {
    /// Bytes of a row of so many samples.
    pub fn row_bytes(&self, samples: u64) -> Option<u64> {
        Some(samples.checked_mul(self.bits.into())?.div_ceil(8))
    }

    /// Bytes of a decoded sample.
    pub fn sample_bytes(&self) -> u64 {
        match (self.number, self.bits) {
            (Number::Unsigned, ..=8) => 1,
            (Number::Unsigned, ..=16) => 2,
            _ => 4,
        }
    }

    /// Refuses what no program writes or this one does not read.
    pub fn check(&self) -> Result<(), String> {
        let bits = self.bits;
        let cure = "save it in 8 or 16 bits, or as floats of 32";
        match self.number {
            Number::Float if !matches!(bits, 16 | 24 | 32 | 64) => {
                return Err(format!("floats of {bits} bits are not supported; {cure}"));
            }
            _ if !matches!(bits, 1..=32 | 64) => {
                return Err(format!("{bits} bits a sample are not supported; {cure}"));
            }
            Number::Signed if self.inverted => {
                return Err(format!("signed numbers of which the greatest is black are not supported; {cure}"));
            }
            _ => {}
        }
        match self.prediction {
            Prediction::Horizontal if !matches!(bits, 8 | 16 | 32 | 64) => {
                Err(format!("a predictor is not defined for {bits} bits; save it without"))
            }
            Prediction::Float if self.number != Number::Float => {
                Err("its predictor is for floats, and its samples are none; save it without".into())
            }
            _ => Ok(()),
        }
    }
}

/// Samples row by row, in the nearest type that holds the file's.
#[derive(Debug)]
pub(super) enum Samples {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    F32(Vec<f32>),
}

/// Evaluates an expression of the values, whatever their type.
macro_rules! each {
    ($samples:expr, $values:ident => $result:expr) => {
        match $samples {
            Samples::U8($values) => $result,
            Samples::U16($values) => $result,
            Samples::U32($values) => $result,
            Samples::F32($values) => $result,
        }
    };
}

impl Samples {
    /// Samples of decompressed rows, each of `row` samples, of `channels` a pixel.
    pub fn of(bytes: Vec<u8>, row: usize, channels: usize, encoding: &Encoding) -> Self {
        let mut words = match encoding.prediction {
            Prediction::Float => Words::of_planes(bytes, row, channels, encoding.bits),
            _ => Words::of(bytes, row, encoding.bits, encoding.order),
        };
        if encoding.prediction == Prediction::Horizontal {
            words.add_up(row, channels);
        }
        words.into_samples(encoding.number, encoding.bits)
    }

    /// Zeros of the type that unsigned integers or floats of an encoding have.
    pub fn zeros(encoding: &Encoding, len: usize) -> Self {
        match (encoding.number, encoding.sample_bytes()) {
            (Number::Unsigned, 1) => Self::U8(vec![0; len]),
            (Number::Unsigned, 2) => Self::U16(vec![0; len]),
            (Number::Unsigned, _) => Self::U32(vec![0; len]),
            _ => Self::F32(vec![0.0; len]),
        }
    }

    /// Copies samples of the same type to every `step`th place from `place` on.
    pub fn copy_to(&self, range: Range<usize>, target: &mut Self, place: usize, step: usize) {
        macro_rules! copy {
            ($values:expr, $target:expr) => {
                $target[place..].iter_mut().step_by(step).zip(&$values[range]).for_each(|(to, from)| *to = *from)
            };
        }
        match (self, target) {
            (Self::U8(values), Self::U8(target)) => copy!(values, target),
            (Self::U16(values), Self::U16(target)) => copy!(values, target),
            (Self::U32(values), Self::U32(target)) => copy!(values, target),
            (Self::F32(values), Self::F32(target)) => copy!(values, target),
            // Of blocks that have no data, which are zeros.
            _ => {}
        }
    }

    pub fn bytes(&self) -> usize {
        each!(self, values => size_of_val(&**values))
    }

    pub fn len(&self) -> usize {
        each!(self, values => values.len())
    }

    /// A value as the file has it.
    pub fn raw(&self, index: usize) -> f64 {
        each!(self, values => values[index].into())
    }

    /// Returns true if a value marks missing data.
    pub fn is_mark(&self, index: usize, mark: f64) -> bool {
        let mark = if let Self::F32(_) = self { nodata::of_floats(mark) } else { mark };
        nodata::is_mark(self.raw(index), mark)
    }

    /// Copies unsigned integers as they are. Returns false, and copies nothing, if the samples are others.
    pub fn copy_labels(&self, first: usize, target: &mut [u32]) -> bool {
        let last = first + target.len();
        match self {
            Self::U8(values) => target.iter_mut().zip(&values[first..last]).for_each(|(to, from)| *to = (*from).into()),
            Self::U16(values) => {
                target.iter_mut().zip(&values[first..last]).for_each(|(to, from)| *to = (*from).into());
            }
            Self::U32(values) => target.copy_from_slice(&values[first..last]),
            Self::F32(_) => return false,
        }
        true
    }

    /// Copies the colors of indices, scaled to `[0, 1]`.
    pub fn copy_colors(&self, first: usize, count: usize, target: &mut [f32], colors: &[Rgb]) {
        for (at, target) in (first..first + count).zip(target.as_chunks_mut::<3>().0) {
            // There is a color for each number of the bits.
            *target = colors[self.raw(at) as usize].map(|value| f32::from(value) / 255.0);
        }
    }

    /// Copies brightness to every `step`th place of a row: unsigned integers scaled to `[0, 1]`, others as they are; of an encoding whose
    /// greatest number is black, what is left to 1.
    pub fn copy(&self, first: usize, count: usize, target: &mut [f32], step: usize, encoding: &Encoding) {
        let last = first + count;
        let target = target.iter_mut().step_by(step);
        let most = ((1u64 << encoding.bits.min(32)) - 1) as f64;
        let small = |value: f32| if encoding.inverted { most as f32 - value } else { value } / most as f32;
        match self {
            Self::U8(values) => target.zip(&values[first..last]).for_each(|(to, from)| *to = small((*from).into())),
            Self::U16(values) => target.zip(&values[first..last]).for_each(|(to, from)| *to = small((*from).into())),
            Self::U32(values) => {
                let scaled = |value: f64| if encoding.inverted { most - value } else { value } / most;
                target.zip(&values[first..last]).for_each(|(to, from)| *to = scaled((*from).into()) as f32);
            }
            Self::F32(values) => target
                .zip(&values[first..last])
                .for_each(|(to, from)| *to = if encoding.inverted { 1.0 - *from } else { *from }),
        }
    }
}

/// Bit patterns of samples.
enum Words {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
}

/// Values of bytes in an order.
fn words<const N: usize, T>(bytes: &[u8], order: ByteOrder, little: fn([u8; N]) -> T, big: fn([u8; N]) -> T) -> Vec<T> {
    let convert = if order == ByteOrder::LittleEndian { little } else { big };
    bytes.as_chunks().0.iter().map(|bytes| convert(*bytes)).collect()
}

impl Words {
    fn of(bytes: Vec<u8>, row: usize, bits: u8, order: ByteOrder) -> Self {
        match bits {
            8 => Self::U8(bytes),
            16 => Self::U16(words(&bytes, order, u16::from_le_bytes, u16::from_be_bytes)),
            24 => Self::U32(words(
                &bytes,
                order,
                |[a, b, c]| u32::from_le_bytes([a, b, c, 0]),
                |[a, b, c]| u32::from_be_bytes([0, a, b, c]),
            )),
            32 => Self::U32(words(&bytes, order, u32::from_le_bytes, u32::from_be_bytes)),
            64 => Self::U64(words(&bytes, order, u64::from_le_bytes, u64::from_be_bytes)),
            // Rows begin with a byte, and numbers with their highest bit whatever the order of bytes.
            1..8 => Self::U8(unpack(&bytes, row, bits).map(|value| value as u8).collect()),
            9..16 => Self::U16(unpack(&bytes, row, bits).map(|value| value as u16).collect()),
            _ => Self::U32(unpack(&bytes, row, bits).collect()),
        }
    }

    /// Floats of rows whose bytes were sorted by their place and made differences.
    fn of_planes(mut bytes: Vec<u8>, row: usize, channels: usize, bits: u8) -> Self {
        let size = usize::from(bits / 8);
        let mut sorted = vec![0; bytes.len()];
        for (bytes, sorted) in bytes.chunks_exact_mut(row * size).zip(sorted.chunks_exact_mut(row * size)) {
            for at in channels..bytes.len() {
                bytes[at] = bytes[at].wrapping_add(bytes[at - channels]);
            }
            for (at, float) in sorted.chunks_exact_mut(size).enumerate() {
                float.iter_mut().enumerate().for_each(|(place, byte)| *byte = bytes[place * row + at]);
            }
        }
        Self::of(sorted, row, bits, ByteOrder::BigEndian)
    }

    /// Makes differences from the pixel on the left values.
    fn add_up(&mut self, row: usize, channels: usize) {
        macro_rules! add_up {
            ($values:expr) => {
                for row in $values.chunks_exact_mut(row) {
                    for at in channels..row.len() {
                        row[at] = row[at].wrapping_add(row[at - channels]);
                    }
                }
            };
        }
        match self {
            Self::U8(values) => add_up!(values),
            Self::U16(values) => add_up!(values),
            Self::U32(values) => add_up!(values),
            Self::U64(values) => add_up!(values),
        }
    }

    fn into_samples(self, number: Number, bits: u8) -> Samples {
        let unused = 32u32.saturating_sub(bits.into());
        let signed = |value: u32| ((value << unused).cast_signed() >> unused) as f32;
        Samples::F32(match (number, self) {
            (Number::Unsigned, Self::U8(values)) => return Samples::U8(values),
            (Number::Unsigned, Self::U16(values)) => return Samples::U16(values),
            (Number::Unsigned, Self::U32(values)) => return Samples::U32(values),
            (Number::Unsigned, Self::U64(values)) => values.into_iter().map(|value| value as f32).collect(),
            (Number::Signed, Self::U64(values)) => values.into_iter().map(|value| value.cast_signed() as f32).collect(),
            (Number::Signed | Number::Float, Self::U8(values)) => {
                values.into_iter().map(|value| signed(value.into())).collect()
            }
            (Number::Signed, Self::U16(values)) => values.into_iter().map(|value| signed(value.into())).collect(),
            (Number::Signed, Self::U32(values)) => values.into_iter().map(signed).collect(),
            (Number::Float, Self::U16(values)) => {
                values.into_iter().map(|value| small_float(value.into(), 5, 10)).collect()
            }
            (Number::Float, Self::U32(values)) if bits == 24 => {
                values.into_iter().map(|value| small_float(value, 7, 16)).collect()
            }
            (Number::Float, Self::U32(values)) => values.into_iter().map(f32::from_bits).collect(),
            (Number::Float, Self::U64(values)) => {
                values.into_iter().map(|value| f64::from_bits(value) as f32).collect()
            }
        })
    }
}

/// Numbers of up to 32 bits, the highest bit first, in rows of whole bytes.
fn unpack(bytes: &[u8], row: usize, bits: u8) -> impl Iterator<Item = u32> {
    let bits = usize::from(bits);
    bytes.chunks_exact((row * bits).div_ceil(8).max(1)).flat_map(move |bytes| {
        (0..row).map(move |index| {
            let (first, last) = (index * bits, (index + 1) * bits);
            let all = bytes[first / 8..last.div_ceil(8)].iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
            (all >> (last.next_multiple_of(8) - last)) as u32 & (u32::MAX >> (32 - bits))
        })
    })
}

/// A float of fewer bits than 32: sign, exponent, mantissa.
fn small_float(bits: u32, exponent_bits: u32, mantissa_bits: u32) -> f32 {
    let most = (1 << exponent_bits) - 1;
    let (exponent, mantissa) = (bits >> mantissa_bits & most, bits & ((1 << mantissa_bits) - 1));
    let bias = most >> 1;
    let value = match exponent {
        // Subnormal numbers of it are normal ones of 32 bits.
        0 => mantissa as f32 * f32::from_bits((127 + 1 - bias - mantissa_bits) << 23),
        _ if exponent == most => f32::from_bits(0xff << 23 | mantissa << (23 - mantissa_bits)),
        _ => f32::from_bits((exponent + 127 - bias) << 23 | mantissa << (23 - mantissa_bits)),
    };
    if bits >> (exponent_bits + mantissa_bits) & 1 == 1 { -value } else { value }
}
