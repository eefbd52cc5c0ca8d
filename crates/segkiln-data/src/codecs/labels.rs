//! From samples to labels, and telling masks from photographs.

use std::{collections::HashMap, path::Path};

use ::image::ImageFormat;
use segkiln_core::{LabelMap, Palette, Rgb};
use serde::{Deserialize, Serialize};

use super::{ImageFile, binary};
use crate::{
    DataError, Result,
    raster::{Raster, Samples},
    warn::{self, warn},
};

/// Meaning of the values of a mask file.
///
/// The *value* of a pixel is its palette index in an indexed PNG (1 to 8 bits), its gray value as it is stored in a gray
/// file (1 to 32 bits, never scaled), and the common value of its channels in an RGB file whose channels
/// agree. An alpha channel is ignored if it is the same everywhere. Of a TIFF whose greatest number is black (WhiteIsZero), `Binary` and
/// `Threshold` go by brightness, the others by the numbers in the file.
///
/// Files that cannot be masks are refused: JPEG, lossy WebP, and gray photographs, which are known by their noise. A
/// photograph has many values, neighbors rarely agree, and many pixels agree with none of their four neighbors; label
/// maps consist of regions. Of this project's test data, all photographs and no label map are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskFormat {
    /// The value is the class.
    #[default]
    Index,
    /// Each color stands for a class: its index in this palette. An indexed PNG is taken by its colors.
    Colors(Palette),
    /// Value 0 is the background (class 0), any other the foreground (class 1). Black and white palettes go by brightness. A
    /// mask whose edges are soft, which shows in values that crowd at both ends of the range, is read as
    /// [`Threshold`](Self::Threshold), with a warning.
    Binary,
    /// Values of at least half of the range (128 of 8 bits, 0.5 of floats up to 1) are the foreground (class 1), others the
    /// background: for masks with soft edges. JPEG and lossy WebP are read too.
    Threshold,
    /// The value is the id of an object, 0 is the background. Data sets do not hold such ids against their classes.
    Instances,
}

/// Refuses formats that change values.
pub(super) fn check_lossless(file: &ImageFile<'_>, format: &MaskFormat) -> Result<()> {
    if *format == MaskFormat::Threshold {
        return Ok(());
    }
    let lossy = match file.format {
        ImageFormat::Jpeg => {
            "a JPEG cannot hold labels, because its compression changes values; save it as PNG, or read a mask of two \
             classes as `MaskFormat::Threshold`"
        }
        ImageFormat::WebP if file.bytes.get(12..16) == Some(b"VP8 ") => {
            "a lossy WebP cannot hold labels, because its compression changes values; save it as PNG, or read a mask of two \
             classes as `MaskFormat::Threshold`"
        }
        _ => return Ok(()),
    };
    Err(DataError::NotAMask { path: file.path.into(), reason: lossy.into() })
}

/// The labels of a decoded mask.
pub(super) fn from_raster(raster: &Raster<'_>, format: &MaskFormat, path: &Path) -> Result<LabelMap> {
    let labels = match format {
        MaskFormat::Colors(palette) => by_color(raster, palette, path)?,
        MaskFormat::Binary | MaskFormat::Threshold => match binary::by_brightness(raster, path)? {
            Some(levels) => levels,
            None if *format == MaskFormat::Threshold => binary::levels(raster, path)?,
            None => by_value(raster, path)?,
        },
        _ => by_value(raster, path)?,
    };
    let map = LabelMap::new(raster.width, raster.height, labels).expect("a raster has width * height pixels");
    let half = binary::half(raster);
    if *format == MaskFormat::Threshold {
        return Ok(map.map(|level| u32::from(level >= half)));
    }
    if *format == MaskFormat::Binary && binary::is_soft(&map, half) {
        let text = format_args!("its edges are soft: values of {half} and more are the foreground, others are not");
        warn(warn::SOFT_MASK, path, text);
        return Ok(map.map(|level| u32::from(level >= half)));
    }
    if !matches!(format, MaskFormat::Colors(_)) {
        check_regions(&map, path)?;
    }
    Ok(if *format == MaskFormat::Binary { map.map(|label| u32::from(label > 0)) } else { map })
}

fn by_value(raster: &Raster<'_>, path: &Path) -> Result<Vec<u32>> {
    let pixels = Pixels { raster, path };
    match &raster.samples {
        Samples::U8(v) => pixels.values(v, |v| Some(v.into())),
        Samples::U16(v) => pixels.values(v, |v| Some(v.into())),
        Samples::U32(v) => pixels.values(v, Some),
        // Up to 2^24 a float is a whole number without doubt.
        Samples::F32(v) => {
            pixels.values(v, |v| (v.fract() == 0.0 && (0.0..=16_777_216.0).contains(&v)).then_some(v as u32))
        }
    }
}

/// The pixels of a mask, and where to say that they come from.
pub(super) struct Pixels<'a> {
    pub raster: &'a Raster<'a>,
    pub path: &'a Path,
}

impl Pixels<'_> {
    fn place(&self, pixel: usize) -> (u32, u32) {
        let width = self.raster.width as usize;
        ((pixel % width) as u32, (pixel / width) as u32)
    }

    pub fn values<T: Copy + PartialEq + std::fmt::Debug>(
        &self,
        samples: &[T],
        value: impl Fn(T) -> Option<u32>,
    ) -> Result<Vec<u32>> {
        let channels = self.raster.channels;
        let colors = if channels >= 3 { 3 } else { 1 };
        self.check_alpha(samples)?;
        let label = |(at, pixel): (usize, &[T])| {
            if pixel[1..colors].iter().any(|other| *other != pixel[0]) {
                let (x, y) = self.place(at);
                return Err(DataError::NotAMask {
                    path: self.path.into(),
                    reason: format!(
                        "pixel (x {x}, y {y}) has the color {:?} where a label is expected; if colors stand for \
                         classes, read it as `MaskFormat::Colors`",
                        &pixel[..colors]
                    ),
                });
            }
            value(pixel[0]).ok_or_else(|| {
                let (x, y) = self.place(at);
                let reason = format!(
                    "pixel (x {x}, y {y}) is {:?}, which is no label: labels are whole numbers from 0",
                    pixel[0]
                );
                DataError::MaskValue { path: self.path.into(), reason }
            })
        };
        samples.chunks_exact(channels).enumerate().map(label).collect()
    }

    /// Transparency that varies may be where the mask is drawn, which no one format can know.
    fn check_alpha<T: Copy + PartialEq>(&self, samples: &[T]) -> Result<()> {
        let channels = self.raster.channels;
        if !channels.is_multiple_of(2) {
            return Ok(());
        }
        let mut alphas = samples.iter().skip(channels - 1).step_by(channels);
        let first = alphas.next();
        match alphas.position(|alpha| Some(alpha) != first) {
            None => Ok(()),
            Some(at) => {
                let (x, y) = self.place(at + 1);
                let reason = format!(
                    "its transparency varies (first at pixel (x {x}, y {y})), so that what is drawn may differ from \
                     what is stored; save the mask without an alpha channel"
                );
                Err(DataError::MaskValue { path: self.path.into(), reason })
            }
        }
    }
}

fn by_color(raster: &Raster<'_>, palette: &Palette, path: &Path) -> Result<Vec<u32>> {
    let pixels = Pixels { raster, path };
    let Samples::U8(samples) = &raster.samples else {
        let reason = "colors are looked up in 8 bits a channel, the file has more; save it in 8 bits".into();
        return Err(DataError::MaskValue { path: path.into(), reason });
    };
    pixels.check_alpha(samples)?;
    let mut index_of: HashMap<Rgb, u32> = HashMap::new();
    for (index, color) in palette.colors().iter().enumerate() {
        index_of.entry(*color).or_insert(index as u32);
    }
    let look_up = |at: usize, color: Rgb| {
        index_of.get(&color).copied().ok_or_else(|| {
            let (x, y) = pixels.place(at);
            DataError::UnknownColor { path: path.into(), x, y, color, colors: palette.colors().len() }
        })
    };
    let mut last: Option<(Rgb, u32)> = None;
    let label = |(at, pixel): (usize, &[u8])| {
        let color = match (&raster.palette, pixel.len()) {
            (Some(colors), _) => colors.get(usize::from(pixel[0])).copied().unwrap_or_default(),
            (None, 1 | 2) => [pixel[0]; 3],
            (None, _) => [pixel[0], pixel[1], pixel[2]],
        };
        // Neighbors mostly agree, which spares the look-up.
        match last {
            Some((known, label)) if known == color => Ok(label),
            _ => {
                let label = look_up(at, color)?;
                last = Some((color, label));
                Ok(label)
            }
        }
    };
    samples.chunks_exact(raster.channels).enumerate().map(label).collect()
}

/// Refuses a photograph.
///
/// Measured on DSB2018 (267 instance maps and images, the sample) and BCCD (292 photos): the share of horizontal neighbors that
/// differ is at most 0.042 in the maps and at least 0.22 in the photographs; that of pixels which differ from all four
/// neighbors at most 0.0001, and at least 0.08.
fn check_regions(map: &LabelMap, path: &Path) -> Result<()> {
    const FEW_VALUES: usize = 32;
    const DIFFERING: f64 = 0.12;
    const ALONE: f64 = 0.02;
    let (width, height) = (map.width() as usize, map.height() as usize);
    if width < 3 || height < 3 {
        return Ok(());
    }
    let labels = map.as_slice();
    let differing: usize =
        labels.chunks_exact(width).map(|row| row.windows(2).filter(|pair| pair[0] != pair[1]).count()).sum();
    let differing = differing as f64 / (height * (width - 1)) as f64;
    if differing < DIFFERING {
        return Ok(());
    }
    let mut alone = 0;
    for y in 1..height - 1 {
        let row = &labels[y * width..][..width];
        let above = &labels[(y - 1) * width..][..width];
        let below = &labels[(y + 1) * width..][..width];
        alone += (1..width - 1)
            .filter(|&x| [row[x - 1], row[x + 1], above[x], below[x]].iter().all(|other| *other != row[x]))
            .count();
    }
    let alone = alone as f64 / ((width - 2) * (height - 2)) as f64;
    let values = if alone < ALONE { 0 } else { map.labels().len() };
    if values <= FEW_VALUES {
        return Ok(());
    }
    Err(DataError::NotAMask {
        path: path.into(),
        reason: format!(
            "it has {values} values, {:.0} % of neighboring pixels differ and {:.0} % of pixels agree with no \
             neighbor, as in a photograph",
            100.0 * differing,
            100.0 * alone
        ),
    })
}
