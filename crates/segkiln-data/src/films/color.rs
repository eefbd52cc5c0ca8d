//! YCbCr and RGB, by ITU-R BT.601 and BT.709, and chroma between its samples.

use serde::{Deserialize, Serialize};

use crate::{DataError, Result};

/// Luma coefficients of a film's colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matrix {
    /// ITU-R BT.601: standard definition, JPEG.
    Bt601,
    /// ITU-R BT.709: high definition.
    Bt709,
}

impl std::str::FromStr for Matrix {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "bt601" => Ok(Self::Bt601),
            "bt709" => Ok(Self::Bt709),
            _ => Err(DataError::option("matrix", format!("must be bt601 or bt709, got {name:?}"))),
        }
    }
}

impl Matrix {
    /// The matrix that films of a size usually have.
    pub(super) fn of_size(width: u32, height: u32) -> Self {
        if width >= 1280 || height >= 720 { Self::Bt709 } else { Self::Bt601 }
    }

    /// Shares of red and blue in the luma.
    fn shares(self) -> [f32; 2] {
        match self {
            Self::Bt601 => [0.299, 0.114],
            Self::Bt709 => [0.2126, 0.0722],
        }
    }
}

/// Integer coding of samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coding {
    pub matrix: Matrix,
    /// Black and white are the ends of the range (0 and 255), not 16 and 235.
    pub is_full: bool,
    /// Bits of a sample.
    pub bits: u32,
}

impl Coding {
    /// Returns the luma's offset and range, and the chroma's center and range.
    fn ranges(self) -> [f32; 4] {
        let unit = (1u32 << (self.bits - 8)) as f32;
        let most = ((1u32 << self.bits) - 1) as f32;
        match self.is_full {
            true => [0.0, most, 128.0 * unit, most],
            false => [16.0 * unit, 219.0 * unit, 128.0 * unit, 224.0 * unit],
        }
    }

    /// Luma samples as values of gray, 0 to 1.
    pub fn gray(self, luma: &[f32]) -> impl Iterator<Item = f32> {
        let [offset, range, ..] = self.ranges();
        luma.iter().map(move |y| ((y - offset) / range).clamp(0.0, 1.0))
    }

    /// A row of samples as RGB, 0 to 1.
    pub fn rgb(self, luma: &[f32], chroma: [&[f32]; 2], mut pixel: impl FnMut([f32; 3])) {
        let [offset, range, center, chroma_range] = self.ranges();
        let [red, blue] = self.matrix.shares();
        let green = 1.0 - red - blue;
        // R = Y + 2 (1 - red) Cr and B = Y + 2 (1 - blue) Cb by definition; G is what remains of Y.
        let [of_cr, of_cb] = [2.0 * (1.0 - red) / chroma_range, 2.0 * (1.0 - blue) / chroma_range];
        for ((y, cb), cr) in luma.iter().zip(chroma[0]).zip(chroma[1]) {
            let (y, cb, cr) = ((y - offset) / range, (cb - center) * of_cb, (cr - center) * of_cr);
            let rgb = [y + cr, y - (red * cr + blue * cb) / green, y + cb];
            pixel(rgb.map(|value| value.clamp(0.0, 1.0)));
        }
    }

    /// Y, Cb and Cr of an 8-bit RGB pixel.
    pub fn ycbcr(self, rgb: [u8; 3]) -> [u8; 3] {
        let [offset, range, center, chroma_range] = self.ranges();
        let [red, blue] = self.matrix.shares();
        let [r, g, b] = rgb.map(|value| f32::from(value) / 255.0);
        let y = red * r + (1.0 - red - blue) * g + blue * b;
        let [cb, cr] = [(b - y) / (2.0 * (1.0 - blue)), (r - y) / (2.0 * (1.0 - red))];
        [offset + range * y, center + chroma_range * cb, center + chroma_range * cr].map(|value| value.round() as u8)
    }
}

/// Chroma siting along one axis: luma samples a chroma sample, and the first chroma sample's place in luma samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub step: usize,
    pub offset: f32,
}

impl Grid {
    /// Chroma at each luma sample.
    pub const SAME: Self = Self { step: 1, offset: 0.0 };
    /// Chroma at every second luma sample.
    pub const COSITED: Self = Self { step: 2, offset: 0.0 };
    /// Chroma in the middle of two luma samples.
    pub const CENTERED: Self = Self { step: 2, offset: 0.5 };

    /// Number of chroma samples along `luma` samples.
    pub fn samples(self, luma: usize) -> usize {
        luma.div_ceil(self.step)
    }

    /// The two of `samples` chroma samples beside a luma sample, and the weight of the second; the outer ones reach on beyond the
    /// edge.
    pub fn neighbors(self, luma: usize, samples: usize) -> (usize, usize, f32) {
        let position = (luma as f32 - self.offset) / self.step as f32;
        let low = position.floor();
        let at = |index: f32| (index.max(0.0) as usize).min(samples - 1);
        (at(low), at(low + 1.0), position - low)
    }
}
