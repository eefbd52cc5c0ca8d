//! Masks of two classes: palettes of black and white, and soft edges.

use std::path::Path;

use segkiln_core::LabelMap;

use super::labels::Pixels;
use crate::{
    DataError, Result,
    raster::{Raster, Samples, luma},
};

/// The brightness of each pixel above the darkest color, where a palette is gray and its first color is not the darkest:
/// whose white comes first says nothing of what is the foreground.
///
/// # Errors
/// If black is not the first color and the others are not all gray.
pub(super) fn by_brightness(raster: &Raster<'_>, path: &Path) -> Result<Option<Vec<u32>>> {
    let (Some(colors), Samples::U8(indices)) = (&raster.palette, &raster.samples) else { return Ok(None) };
    let mut used = [false; 256];
    indices.iter().for_each(|index| used[usize::from(*index)] = true);
    // Unused entries beyond the second are padding.
    let counts = |(index, _): &(usize, &[u8; 3])| used[*index] || *index < 2;
    let known: Vec<(usize, [u8; 3])> =
        colors.iter().enumerate().filter(counts).map(|(index, color)| (index, *color)).collect();
    let different = (1..known.len()).all(|at| !known[..at].iter().any(|(_, color)| *color == known[at].1));
    let (Some((_, first)), true) = (known.first(), different) else { return Ok(None) };
    let colored = known.iter().find(|(_, [r, g, b])| r != g || g != b);
    if let Some((index, color)) = colored {
        let black = known.iter().any(|(_, color)| *color == [0; 3]);
        if *first == [0; 3] || !black {
            return Ok(None);
        }
        return Err(DataError::MaskValue {
            path: path.into(),
            reason: format!(
                "its palette has black and color {index} {color:?}, but {first:?} as color 0: which is the background is \
                 not clear; read it as `MaskFormat::Colors` or `MaskFormat::Index`"
            ),
        });
    }
    let darkest = known.iter().map(|(_, color)| color[0]).min().unwrap_or(0);
    if first[0] == darkest {
        return Ok(None);
    }
    let level = |index: &u8| colors.get(usize::from(*index)).map_or(0, |color| (color[0] - darkest).into());
    Ok(Some(indices.iter().map(level).collect()))
}

/// The brightness of each pixel in the file's range, of floats up to 1 in 65,535ths; a mask may have colors from a lossy
/// compression.
pub(super) fn levels(raster: &Raster<'_>, path: &Path) -> Result<Vec<u32>> {
    let pixels = Pixels { raster, path };
    let channels = raster.channels;
    match &raster.samples {
        Samples::U8(v) if channels >= 3 => {
            let level = |p: &[u8]| luma([p[0], p[1], p[2]].map(f32::from)).round() as u32;
            Ok(v.chunks_exact(channels).map(level).collect())
        }
        Samples::U8(v) => pixels.values(v, |v| Some(v.into())),
        Samples::U16(v) => pixels.values(v, |v| Some(v.into())),
        Samples::U32(v) => pixels.values(v, Some),
        Samples::F32(v) => {
            let scale = float_scale(v);
            pixels.values(v, |v| (v >= 0.0).then_some((v * scale) as u32))
        }
    }
}

/// Floats up to 1 are shares, up to 255 bytes.
fn float_scale(values: &[f32]) -> f32 {
    let most = values.iter().copied().fold(0.0, f32::max);
    if most <= 1.0 { 65_535.0 } else { 257.0 * (255.0 / most.max(255.0)) }
}

/// Half of the range of the file's values, rounded up.
pub(super) fn half(raster: &Raster<'_>) -> u32 {
    match (&raster.palette, &raster.samples) {
        (Some(_), _) => 128,
        (None, Samples::F32(_)) => 32_768,
        (None, _) => 1 << (raster.bits.min(32) - 1),
    }
}

/// Whether a mask is black and white with values in between at its edges: there are values near the end of the range, and
/// those in between form slopes and no regions. Ids of objects form regions.
pub(super) fn is_soft(map: &LabelMap, half: u32) -> bool {
    // Of smaller ranges no value is in between.
    if half < 128 {
        return false;
    }
    let (margin, top) = (half / 8, half.wrapping_mul(2).wrapping_sub(1));
    let noise = margin / 4;
    let labels = map.as_slice();
    let high = labels.iter().filter(|label| **label > top - margin).count();
    let is_middle = |label: u32| label > margin && label <= top - margin;
    let middle = labels.iter().filter(|label| is_middle(**label)).count();
    if middle == 0 || 8 * high < middle {
        return false;
    }
    let (width, height) = (map.width() as usize, map.height() as usize);
    let (mut slopes, mut between, mut flat) = (0usize, 0usize, 0usize);
    for (at, &label) in labels.iter().enumerate().filter(|(_, label)| **label > noise && **label < top - noise) {
        let (x, y) = (at % width, at / width);
        let (mut lower, mut higher, mut same) = (false, false, true);
        for row in y.saturating_sub(1)..=(y + 1).min(height - 1) {
            for other in &labels[row * width + x.saturating_sub(1)..=row * width + (x + 1).min(width - 1)] {
                lower |= *other < label;
                higher |= *other > label;
                same &= *other == label;
            }
        }
        between += 1;
        flat += usize::from(same);
        slopes += usize::from(is_middle(label) && lower && higher);
    }
    // Photographs have slopes too, but are seldom black and white for the most part.
    2 * between <= labels.len() && 10 * flat <= between && 5 * slopes >= 3 * middle
}
