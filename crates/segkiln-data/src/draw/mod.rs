//! Pictures of label maps and of found objects: overlays, legends, plain colors.

mod font;

use image::{DynamicImage, GenericImageView, Rgb, RgbImage};
use segkiln_core::{Classes, Detection, LabelMap, Palette, Rgb as Color, Rle, Size};

use crate::{DataError, Result};

/// Dots between things, and around them.
const GAP: u32 = 8;
/// Enlargement of the font.
const SCALE: u32 = 2;
const WHITE: Rgb<u8> = Rgb([255; 3]);
const INK: Rgb<u8> = Rgb([32; 3]);

/// The image with each class drawn over it in its color: `opacity` of the color in [0, 1] inside, all of it along the
/// border of each region. Class 0 and the ignored label leave the image as it is. Labels past the classes (instance ids)
/// are drawn in the palette's colors over again.
///
/// # Errors
/// If image and map differ in size, or `opacity` lies outside `[0, 1]`.
///
/// ```
/// use image::{DynamicImage, RgbImage};
/// use segkiln_core::{Classes, LabelMap};
/// use segkiln_data::draw;
///
/// let image = DynamicImage::from(RgbImage::new(3, 3));
/// let map = LabelMap::new(3, 3, vec![0, 0, 0, 0, 1, 0, 0, 0, 0])?;
/// let drawn = draw::overlay(&image, &map, &Classes::binary(), 0.5)?;
/// assert_eq!(drawn.get_pixel(1, 1).0, [128, 0, 0]); // a region of one pixel is all border
/// assert_eq!(drawn.get_pixel(0, 0).0, [0, 0, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn overlay(image: &DynamicImage, map: &LabelMap, classes: &Classes, opacity: f32) -> Result<RgbImage> {
    let (image_size, mask_size) = (image.dimensions().into(), map.size());
    if image_size != mask_size {
        let (image, mask, cure) = ("image".into(), "mask".into(), "they must be equal".into());
        return Err(DataError::SizeMismatch { image, image_size, mask, mask_size, cure });
    }
    if !(0.0..=1.0).contains(&opacity) {
        return Err(DataError::Option { option: "opacity", reason: format!("must lie in [0, 1], got {opacity}") });
    }
    let mut drawn = image.to_rgb8();
    for (x, y, pixel) in drawn.enumerate_pixels_mut() {
        let at = |x: u32, y: u32| map.get(x, y);
        let Some(label) = at(x, y).filter(|label| *label != 0 && Some(*label) != classes.ignore_index()) else {
            continue;
        };
        let neighbors = [at(x.wrapping_sub(1), y), at(x + 1, y), at(x, y.wrapping_sub(1)), at(x, y + 1)];
        let border = neighbors.into_iter().flatten().any(|other| other != label);
        let opacity = if border { 1.0 } else { opacity };
        pixel.0 = blend(pixel.0, classes.palette().color(label as usize), opacity);
    }
    Ok(drawn)
}

/// The image with found objects drawn over it, the best on top: the box, its class's name and the score in percent, and the
/// mask if there is one. Each object has a color of its own.
///
/// # Errors
/// If a mask is not of the image's size.
pub fn detections(image: &DynamicImage, detections: &[Detection], classes: &Classes) -> Result<RgbImage> {
    let captioned = detections.iter().enumerate().map(|(index, detection)| {
        (index as u64, detection, format!("{} {:.0}%", name(classes, detection), 100.0 * detection.score))
    });
    objects(image, &captioned.collect::<Vec<_>>())
}

/// The image with objects of tracks drawn over it as by [`detections`], each in its track's color and with its number.
///
/// # Errors
/// As [`detections`].
pub fn tracks(image: &DynamicImage, tracks: &[(u64, Detection)], classes: &Classes) -> Result<RgbImage> {
    let captioned = tracks.iter().map(|(id, detection)| (*id, detection, format!("{} {id}", name(classes, detection))));
    objects(image, &captioned.collect::<Vec<_>>())
}

fn name<'a>(classes: &'a Classes, detection: &Detection) -> &'a str {
    classes.names().get(detection.label() as usize).map_or("?", String::as_str)
}

/// Objects with the number of their color and their caption, the first on top.
fn objects(image: &DynamicImage, objects: &[(u64, &Detection, String)]) -> Result<RgbImage> {
    /// Opacity of a mask's color.
    const OPACITY: f32 = 0.45;
    /// Thickness of a box's sides in pixels.
    const SIDE: u32 = 2;
    let mut drawn = image.to_rgb8();
    let (width, height) = drawn.dimensions();
    let palette = Palette::voc(64);
    for (index, (number, detection, text)) in objects.iter().enumerate().rev() {
        let color = palette.color(1 + (number % 63) as usize);
        if let Some(mask) = &detection.mask {
            check_mask(mask, index, Size { width, height })?;
            for pixel in mask.runs().flat_map(|[first, end]| first..end) {
                let value = drawn.get_pixel_mut(pixel / height, pixel % height);
                value.0 = blend(value.0, color, OPACITY);
            }
        }
        let [x1, y1, x2, y2] = detection.bbox.xyxy();
        let dot = |at: f64, limit: u32| at.round().clamp(0.0, limit.into()) as u32;
        let (left, right) = (dot(x1, width), dot(x2, width));
        let (top, bottom) = (dot(y1, height), dot(y2, height));
        for (x, y) in (top..bottom).flat_map(|y| (left..right).map(move |x| (x, y))) {
            let within = x >= left + SIDE && x + SIDE < right && y >= top + SIDE && y + SIDE < bottom;
            if !within {
                drawn.put_pixel(x, y, Rgb(color));
            }
        }
        caption(&mut drawn, left, top, text, color);
    }
    Ok(drawn)
}

fn blend(value: [u8; 3], color: Color, opacity: f32) -> [u8; 3] {
    let mix = |channel: usize| f32::from(value[channel]) * (1.0 - opacity) + f32::from(color[channel]) * opacity;
    [mix(0), mix(1), mix(2)].map(|value| value.round() as u8)
}

/// Text on a ground of the color, above a point or below it if there is no room; what is beyond the image is left out.
fn caption(image: &mut RgbImage, left: u32, top: u32, text: &str, ground: Color) {
    let (width, height) = image.dimensions();
    let top = top.saturating_sub(font::HEIGHT + 2);
    let light = ground.iter().map(|value| u32::from(*value)).sum::<u32>() > 3 * 128;
    let ink = if light { INK } else { WHITE };
    let advance = font::WIDTH + 1;
    for y in top..(top + font::HEIGHT + 2).min(height) {
        for x in left..left.saturating_add(text.chars().count() as u32 * advance + 1).min(width) {
            let (column, row) = ((x - left).wrapping_sub(1), (y - top).wrapping_sub(1));
            let character = text.chars().nth((column / advance) as usize);
            let dot = character.is_some_and(|character| {
                row < font::HEIGHT && column % advance < font::WIDTH && font::dot(character, column % advance, row)
            });
            image.put_pixel(x, y, if dot { ink } else { Rgb(ground) });
        }
    }
}

/// Map of objects by their labels, the first on top: each object's mask, or its box if it has none; 0 elsewhere.
///
/// # Errors
/// If a mask is not of the size.
pub fn object_map(width: u32, height: u32, objects: &[(u32, &Detection)]) -> Result<LabelMap> {
    let mut map = LabelMap::filled(width, height, 0);
    let labels = map.as_mut_slice();
    for (index, (label, Detection { bbox, mask, .. })) in objects.iter().enumerate().rev() {
        let mut set = |x: u32, y: u32| labels[y as usize * width as usize + x as usize] = *label;
        if let Some(mask) = mask {
            check_mask(mask, index, Size { width, height })?;
            mask.runs().flat_map(|[first, end]| first..end).for_each(|at| set(at / height, at % height));
        } else if let Some(bbox) = bbox.clip(width, height) {
            let [left, top, right, bottom] = bbox.xyxy().map(|value| value.round() as u32);
            (top..bottom).for_each(|y| (left..right).for_each(|x| set(x, y)));
        }
    }
    Ok(map)
}

fn check_mask(mask: &Rle, index: usize, image_size: Size) -> Result<()> {
    let mask_size = mask.size();
    if mask_size == image_size {
        return Ok(());
    }
    Err(DataError::SizeMismatch {
        image: "image".into(),
        cure: "they must be equal".into(),
        image_size,
        mask: format!("of detection {index}").into(),
        mask_size,
    })
}

/// Each label in its color; labels past the palette start again at color 1.
pub fn colorize(map: &LabelMap, palette: &Palette) -> RgbImage {
    let mut drawn = RgbImage::new(map.width(), map.height());
    for (pixel, label) in drawn.pixels_mut().zip(map.as_slice()) {
        *pixel = Rgb(palette.color(*label as usize));
    }
    drawn
}

/// A list of the classes: a swatch of the color and the name of each, dark on white. Characters outside printable ASCII
/// are shown as `?`.
pub fn legend(classes: &Classes) -> RgbImage {
    let line = font::HEIGHT * SCALE + GAP;
    let advance = (font::WIDTH + 1) * SCALE;
    let swatch = font::HEIGHT * SCALE;
    let longest = classes.names().iter().map(|name| name.chars().count()).max().unwrap_or(0) as u32;
    let width = GAP + swatch + GAP + longest * advance + GAP;
    let mut drawn = RgbImage::from_pixel(width, GAP + line * classes.count() as u32, WHITE);
    for (index, name) in classes.names().iter().enumerate() {
        let top = GAP + line * index as u32;
        fill(&mut drawn, GAP, top, swatch, Rgb(classes.palette().color(index)));
        for (position, character) in name.chars().enumerate() {
            let left = GAP + swatch + GAP + position as u32 * advance;
            write(&mut drawn, left, top, character);
        }
    }
    drawn
}

/// Images in a row, aligned at the top, on white with a gap between them.
pub fn side_by_side(images: &[RgbImage]) -> RgbImage {
    let gaps = GAP * images.len().saturating_sub(1) as u32;
    let width = images.iter().map(RgbImage::width).sum::<u32>() + gaps;
    let height = images.iter().map(RgbImage::height).max().unwrap_or(0);
    let mut row = RgbImage::from_pixel(width, height, WHITE);
    let mut left = 0;
    for image in images {
        image::imageops::replace(&mut row, image, i64::from(left), 0);
        left += image.width() + GAP;
    }
    row
}

fn write(image: &mut RgbImage, left: u32, top: u32, character: char) {
    for y in 0..font::HEIGHT {
        for x in (0..font::WIDTH).filter(|x| font::dot(character, *x, y)) {
            fill(image, left + x * SCALE, top + y * SCALE, SCALE, INK);
        }
    }
}

/// A square of `side` dots.
fn fill(image: &mut RgbImage, left: u32, top: u32, side: u32, color: Rgb<u8>) {
    for y in top..top + side {
        for x in left..left + side {
            image.put_pixel(x, y, color);
        }
    }
}

#[cfg(test)]
mod tests {
    use segkiln_core::BBox;

    use super::*;

    fn gray(width: u32, height: u32) -> DynamicImage {
        RgbImage::from_pixel(width, height, Rgb([100; 3])).into()
    }

    #[test]
    fn overlay_blends_inside_and_draws_borders() {
        let mut map = LabelMap::filled(5, 5, 0);
        for y in 1..5 {
            for x in 1..5 {
                map.as_mut_slice()[y * 5 + x] = 1;
            }
        }
        let drawn = overlay(&gray(5, 5), &map, &Classes::binary(), 0.25).unwrap();
        assert_eq!(drawn.get_pixel(0, 0).0, [100; 3]);
        assert_eq!(drawn.get_pixel(1, 1).0, [128, 0, 0]);
        // (4, 4) touches the image's edge, which is no border
        assert_eq!(drawn.get_pixel(4, 4).0, [107, 75, 75]);
    }

    #[test]
    fn overlay_leaves_the_ignored_label() {
        let map = LabelMap::filled(2, 2, 255);
        assert_eq!(overlay(&gray(2, 2), &map, &Classes::voc(), 1.0).unwrap(), gray(2, 2).to_rgb8());
    }

    #[test]
    fn overlay_refuses_other_sizes_and_opacities() {
        let map = LabelMap::filled(2, 3, 0);
        let error = overlay(&gray(2, 2), &map, &Classes::binary(), 0.5).unwrap_err().to_string();
        assert!(error.contains("2x2") && error.contains("2x3"), "{error}");
        assert!(overlay(&gray(2, 3), &map, &Classes::binary(), f32::NAN).is_err());
    }

    #[test]
    fn objects_become_a_map() {
        let object = |[x1, y1, x2, y2]: [f64; 4]| Detection::new(BBox::new(x1, y1, x2, y2).unwrap(), 1, 1.0).unwrap();
        let mask = Rle::from_fn(3, 2, |x, y| x == 1 && y == 1).unwrap();
        let (small, large) = (object([0.0, 0.0, 2.0, 2.0]).with_mask(mask), object([-5.0, 0.6, 2.4, 9.0]));
        let map = object_map(3, 2, &[(7, &small), (9, &large)]).unwrap();
        assert_eq!(map.as_slice(), [0, 0, 0, 9, 7, 0]);
        assert!(object_map(2, 2, &[(7, &small)]).unwrap_err().to_string().contains("detection 0"));
        let drawn = tracks(&gray(3, 2), &[(5, small)], &Classes::binary()).unwrap();
        assert_ne!(drawn.get_pixel(1, 1).0, [100; 3]);
    }

    #[test]
    fn legend_shows_colors_and_letters() {
        let drawn = legend(&Classes::new(["background", "H\u{e9}"]).unwrap());
        assert_eq!(drawn.dimensions(), (8 + 14 + 8 + 10 * 12 + 8, 8 + 2 * 22));
        assert_eq!(drawn.get_pixel(10, 8 + 22 + 2).0, [128, 0, 0]);
        // the left stem of the H, and the space between its stems
        assert_eq!(drawn.get_pixel(30, 30).0, INK.0);
        assert_eq!(drawn.get_pixel(33, 30).0, WHITE.0);
    }

    #[test]
    fn rows_are_as_high_as_the_highest() {
        let row = side_by_side(&[RgbImage::new(3, 2), RgbImage::new(1, 4)]);
        assert_eq!(row.dimensions(), (12, 4));
        assert_eq!(row.get_pixel(2, 1).0, [0; 3]);
        assert_eq!(row.get_pixel(2, 2).0, [255; 3]);
        assert_eq!(side_by_side(&[]).dimensions(), (0, 0));
    }

    #[test]
    fn colorize_uses_the_palette() {
        let map = LabelMap::new(3, 1, vec![0, 1, 2]).unwrap();
        assert_eq!(colorize(&map, &Palette::voc(3)).into_raw(), [0, 0, 0, 128, 0, 0, 0, 128, 0]);
    }
}
