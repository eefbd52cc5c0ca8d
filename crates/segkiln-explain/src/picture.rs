//! Maps and images as pictures.

use burn::tensor::{Device, Tensor, TensorData};
use image::{Rgb, RgbImage};
use segkiln_data::Image;

use crate::{ExplainError, Map, Result, subject::values};

/// `[1, channels, height, width]` of an image.
pub(crate) fn tensor(image: Image, device: &Device) -> Tensor<4> {
    let shape = [1, image.height() as usize, image.width() as usize, image.channels()];
    Tensor::<4>::from_data(TensorData::new(image.into_vec(), shape), device).permute([0, 3, 1, 2])
}

/// The image of a tensor of `[1, channels, height, width]`.
pub(crate) fn image(x: Tensor<4>) -> Result<Image> {
    let [_, channels, height, width] = x.dims();
    let data = values(x.permute([0, 2, 3, 1]))?;
    Ok(Image::new(width as u32, height as u32, channels, data)?)
}

/// Colors of a map, over the image in gray: from blue (against the target) over none to red (for it), or from dark to light where a
/// map has no sign. The strongest 1 % of the values are one color.
pub fn overlay(image: &RgbImage, map: &Map) -> Result<RgbImage> {
    let (found, expected) = (map.size(), image.dimensions().into());
    if found != expected {
        return Err(ExplainError::Size { what: "the map", found, expected });
    }
    let strongest = map.strongest();
    let mut picture = RgbImage::new(image.width(), image.height());
    for ((pixel, under), value) in picture.pixels_mut().zip(image.pixels()).zip(map.as_slice()) {
        let strength = if strongest > 0.0 { (value / strongest).clamp(-1.0, 1.0) } else { 0.0 };
        let [r, g, b] = under.0.map(f32::from);
        let gray = 0.299 * r + 0.587 * g + 0.114 * b;
        let opacity = if map.is_signed() { strength.abs().sqrt() } else { 0.6 };
        let color = color(strength, map.is_signed());
        let mixed = color.map(|color| (color * opacity + gray * (1.0 - opacity)).round() as u8);
        *pixel = Rgb(mixed);
    }
    Ok(picture)
}

/// Maps side by side, each in its own range of colors, with `columns` a row and each value `scale` pixels wide; empty if there is none.
/// They may differ in size.
pub fn grid(maps: &[&Map], columns: u32, scale: u32) -> RgbImage {
    /// Pixels between maps.
    const GAP: u32 = 2;
    let (columns, scale) = (columns.max(1), scale.max(1));
    let cell = |side: fn(&Map) -> u32| maps.iter().map(|map| side(map)).max().unwrap_or(0).saturating_mul(scale);
    let [wide, high] = [cell(Map::width), cell(Map::height)];
    let count = maps.len() as u32;
    let (across, down) = (count.min(columns), count.div_ceil(columns));
    let side = |cells: u32, cell: u32| (cells * (cell + GAP)).saturating_sub(GAP);
    let mut picture = RgbImage::from_pixel(side(across, wide), side(down, high), Rgb([255; 3]));
    for (index, map) in (0..).zip(maps) {
        let [left, top] = [index % columns * (wide + GAP), index / columns * (high + GAP)];
        let strongest = map.strongest();
        for (pixel, value) in (0..).zip(map.as_slice()) {
            let strength = if strongest > 0.0 { (value / strongest).clamp(-1.0, 1.0) } else { 0.0 };
            let color = Rgb(color(strength, map.is_signed()).map(|value| value.round() as u8));
            let [x, y] = [left + pixel % map.width() * scale, top + pixel / map.width() * scale];
            for (down, across) in (0..scale).flat_map(|down| (0..scale).map(move |across| (down, across))) {
                picture.put_pixel(x + across, y + down, color);
            }
        }
    }
    picture
}

/// A legend: the colors from the lowest to the highest value.
pub fn color_bar(is_signed: bool) -> RgbImage {
    const SIZE: (u32, u32) = (256, 12);
    RgbImage::from_fn(SIZE.0, SIZE.1, |x, _| {
        let share = x as f32 / (SIZE.0 - 1) as f32;
        Rgb(color(if is_signed { 2.0 * share - 1.0 } else { share }, is_signed).map(|value| value.round() as u8))
    })
}

/// Viridis from 0 to 1; of signed values blue, white, red from -1 to 1 (ColorBrewer's RdBu).
fn color(value: f32, is_signed: bool) -> [f32; 3] {
    const VIRIDIS: [[u8; 3]; 9] = [
        [68, 1, 84],
        [71, 44, 122],
        [59, 81, 139],
        [44, 113, 142],
        [33, 144, 141],
        [39, 173, 129],
        [92, 200, 99],
        [170, 220, 50],
        [253, 231, 37],
    ];
    const DIVERGING: [[u8; 3]; 9] = [
        [5, 48, 97],
        [33, 102, 172],
        [67, 147, 195],
        [146, 197, 222],
        [247, 247, 247],
        [244, 165, 130],
        [214, 96, 77],
        [178, 24, 43],
        [103, 0, 31],
    ];
    let (colors, share) = if is_signed { (DIVERGING, (value + 1.0) / 2.0) } else { (VIRIDIS, value) };
    let at = share.clamp(0.0, 1.0) * (colors.len() - 1) as f32;
    let low = (at as usize).min(colors.len() - 2);
    let part = at - low as f32;
    std::array::from_fn(|channel| {
        let [from, to] = [low, low + 1].map(|index| f32::from(colors[index][channel]));
        from + (to - from) * part
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_stand_side_by_side() {
        let map = |size: [usize; 2]| Map::new(size, vec![1.0; size[0] * size[1]], false).unwrap();
        let (a, b, c) = (map([2, 3]), map([1, 1]), map([2, 2]));
        let picture = grid(&[&a, &b, &c], 2, 4);
        assert_eq!(picture.dimensions(), (2 * 12 + 2, 2 * 8 + 2));
        let light = Rgb([253, 231, 37]);
        assert_eq!([(0, 0), (11, 7), (14, 3), (0, 10)].map(|(x, y)| *picture.get_pixel(x, y)), [light; 4]);
        assert_eq!([(12, 0), (18, 0), (9, 10)].map(|(x, y)| *picture.get_pixel(x, y)), [Rgb([255; 3]); 3]);
        assert_eq!(grid(&[], 2, 4).dimensions(), (0, 0));
    }
}
