//! Files of kinds that people have trouble with in practice.

use std::fs;

use ::image::{DynamicImage, GrayImage, ImageEncoder, Luma, RgbImage, codecs::png::PngEncoder};
use ::png::{BitDepth, ColorType};
use segkiln_core::Palette;

use super::{
    tests::{Folder, image, labels, message, png_bytes},
    *,
};
use crate::regions::{Region, RegionSource, TiffSource};

/// Tag, type, and values as they are stored.
type Entry = (u16, u16, Vec<u8>);

/// A TIFF of pages, each with its entries and the bytes of one strip.
fn tiff_bytes(pages: &[(Vec<Entry>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"II\x2a\0\0\0\0\0".to_vec();
    let mut link = 4;
    for (entries, strip) in pages {
        let offset = bytes.len() as u32;
        bytes.extend(strip);
        let mut entries = entries.clone();
        entries.push((273, 4, offset.to_le_bytes().to_vec()));
        entries.push((279, 4, (strip.len() as u32).to_le_bytes().to_vec()));
        entries.sort_by_key(|(tag, ..)| *tag);
        let mut directory = (entries.len() as u16).to_le_bytes().to_vec();
        for (tag, kind, values) in &entries {
            let size = match kind {
                3 => 2,
                4 => 4,
                _ => 1,
            };
            directory.extend(tag.to_le_bytes());
            directory.extend(kind.to_le_bytes());
            directory.extend(((values.len() / size) as u32).to_le_bytes());
            if values.len() <= 4 {
                directory.extend(values);
                directory.resize(directory.len() + 4 - values.len(), 0);
            } else {
                directory.extend((bytes.len() as u32).to_le_bytes());
                bytes.extend(values);
            }
        }
        let at = bytes.len() as u32;
        bytes[link..link + 4].copy_from_slice(&at.to_le_bytes());
        bytes.extend(directory);
        link = bytes.len();
        bytes.extend([0; 4]);
    }
    bytes
}

/// The entries of an image of 8 bits or others, in one strip.
fn entries(size: [u16; 2], bits: &[u16], compression: u16, photometric: u16) -> Vec<Entry> {
    let shorts = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    vec![
        (256, 3, shorts(&size[..1])),
        (257, 3, shorts(&size[1..])),
        (258, 3, shorts(bits)),
        (259, 3, shorts(&[compression])),
        (262, 3, shorts(&[photometric])),
        (277, 3, shorts(&[bits.len() as u16])),
        (278, 3, shorts(&size[1..])),
    ]
}

fn with(mut entries: Vec<Entry>, tag: u16, kind: u16, values: Vec<u8>) -> Vec<Entry> {
    entries.push((tag, kind, values));
    entries
}

/// EXIF with nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut bytes = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    bytes.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// 1 2 3 / 4 5 6, in tens.
fn six() -> GrayImage {
    GrayImage::from_raw(3, 2, vec![10, 20, 30, 40, 50, 60]).unwrap()
}

/// How viewers show [`six`] by each orientation.
const SHOWN: [(u8, u32, [u8; 6]); 8] = [
    (1, 3, [10, 20, 30, 40, 50, 60]),
    (2, 3, [30, 20, 10, 60, 50, 40]),
    (3, 3, [60, 50, 40, 30, 20, 10]),
    (4, 3, [40, 50, 60, 10, 20, 30]),
    (5, 2, [10, 40, 20, 50, 30, 60]),
    (6, 2, [40, 10, 50, 20, 60, 30]),
    (7, 2, [60, 30, 50, 20, 40, 10]),
    (8, 2, [30, 60, 20, 50, 10, 40]),
];

#[test]
fn orientation_tags_are_applied_to_images_and_masks_alike() {
    let folder = Folder::new();
    let keep = DecodeOptions { orientation: Orientation::Keep, ..DecodeOptions::default() };
    for (tag, width, shown) in SHOWN {
        let mut png = Vec::new();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_exif_metadata(exif(tag)).unwrap();
        six().write_with_encoder(encoder).unwrap();
        let tiff = with(entries([3, 2], &[8], 1, 1), 274, 3, vec![tag, 0]);
        let tiff = tiff_bytes(&[(tiff, six().into_raw())]);
        for (name, bytes) in [("a.png", png), ("a.tif", tiff)] {
            let path = folder.file(name, bytes);
            let read = image(&path, ColorMode::Gray).unwrap();
            assert_eq!((read.width(), read.to_dynamic().into_bytes()), (width, shown.to_vec()), "{name} {tag}");
            let dynamic = read_dynamic(&path, &Limits::default()).unwrap();
            assert_eq!((dynamic.width(), dynamic.into_bytes()), (width, shown.to_vec()), "{name} {tag}");
            let mask = labels(&path, &MaskFormat::Index).unwrap();
            assert_eq!((mask.width(), mask.into_vec()), (width, shown.map(u32::from).to_vec()), "{name} {tag}");
            let stored = read_image(&path, ColorMode::Gray, keep).unwrap();
            assert_eq!(stored.to_dynamic().into_bytes(), six().into_raw(), "{name} {tag}");
            assert_eq!(read_labels(&path, &MaskFormat::Index, keep).unwrap().width(), 3);
            assert_eq!(read_with_facts(&path, ColorMode::Gray, keep).unwrap().1.orientation_tag, tag);
        }
    }
    // A JPEG of large fields, whose compression moves values a little.
    let fields = GrayImage::from_fn(48, 32, |x, y| Luma([(x / 16 + 3 * (y / 16) + 1) as u8 * 10]));
    let plain = fs::read(folder.image("a.jpg", fields)).unwrap();
    let (width, shown) = (SHOWN[5].1, SHOWN[5].2);
    let tag = [&[0xFF, 0xE1, 0, 34][..], b"Exif\0\0", &exif(6)].concat();
    let path = folder.file("b.jpg", [&plain[..2], &tag, &plain[2..]].concat());
    let read = image(&path, ColorMode::Gray).unwrap();
    assert_eq!((read.width(), read.height()), (32, 48));
    for (index, expected) in shown.into_iter().enumerate() {
        let (x, y) = (index as u32 % width * 16 + 8, index as u32 / width * 16 + 8);
        let value = read.as_slice()[(y * 32 + x) as usize] * 255.0;
        assert!((value - f32::from(expected)).abs() < 3.0, "{index}: {value}");
    }
    assert_eq!(read_image(&path, ColorMode::Gray, keep).unwrap().width(), 48);
}

#[test]
fn black_and_white_palettes_go_by_brightness() {
    let folder = Folder::new();
    let indexed =
        |depth, palette: &[u8], data: &[u8]| png_bytes((3, 1), ColorType::Indexed, depth, Some(palette), data);
    let white_first = [255, 255, 255, 0, 0, 0];
    let path = folder.file("1.png", indexed(BitDepth::One, &white_first, &[0b0100_0000]));
    assert_eq!(labels(&path, &MaskFormat::Binary).unwrap().as_slice(), [1, 0, 1]);
    assert_eq!(labels(&path, &MaskFormat::Threshold).unwrap().as_slice(), [1, 0, 1]);
    assert_eq!(labels(&path, &MaskFormat::Index).unwrap().as_slice(), [0, 1, 0]);
    // The same among 256 entries, and one whose object fills the image.
    let padded = [&white_first[..], &[7; 3 * 254]].concat();
    for (data, expected) in [([0, 1, 0], [1, 0, 1]), ([0; 3], [1; 3]), ([1; 3], [0; 3])] {
        let path = folder.file("8.png", indexed(BitDepth::Eight, &padded, &data));
        assert_eq!(labels(&path, &MaskFormat::Binary).unwrap().as_slice(), expected);
    }
    // Almost white and almost black.
    let path = folder.file("g.png", indexed(BitDepth::Eight, &[250, 250, 250, 9, 9, 9], &[0, 1, 0]));
    assert_eq!(labels(&path, &MaskFormat::Binary).unwrap().as_slice(), [1, 0, 1]);
    // Whose first color is black, or whose colors are all alike, is taken by its indices.
    for palette in [[0, 0, 0, 255, 255, 255], [0; 6], [9; 6], [0, 0, 0, 128, 0, 0]] {
        let path = folder.file("b.png", indexed(BitDepth::Eight, &palette, &[0, 1, 0]));
        assert_eq!(labels(&path, &MaskFormat::Binary).unwrap().as_slice(), [0, 1, 0], "{palette:?}");
    }
    let red_first = folder.file("r.png", indexed(BitDepth::Eight, &[255, 0, 0, 0, 0, 0], &[0, 1, 0]));
    assert!(message(labels(&red_first, &MaskFormat::Binary), &red_first).contains("not clear"));
    let tiff_map: Vec<u8> =
        [[u16::MAX, 0], [u16::MAX, 0], [u16::MAX, 0]].concat().iter().flat_map(|v| v.to_le_bytes()).collect();
    let tiff = with(entries([3, 1], &[1], 1, 3), 320, 3, tiff_map);
    let path = folder.file("p.tif", tiff_bytes(&[(tiff, vec![0b0100_0000])]));
    assert_eq!(labels(&path, &MaskFormat::Binary).unwrap().as_slice(), [1, 0, 1]);
}

/// The part of each pixel's square that lies in a disc, in the range up to `most`.
fn disc(most: u32) -> Vec<u32> {
    let covered = |x: u32, y: u32| {
        let inside = |i: u32| {
            let (x, y) = (f64::from(x) + f64::from(i % 8) / 8.0 - 20.0, f64::from(y) + f64::from(i / 8) / 8.0 - 20.0);
            u32::from(x * x + y * y < 144.0)
        };
        (0..64).map(inside).sum::<u32>()
    };
    (0..1600).map(|i| covered(i % 40, i / 40) * most / 64).collect()
}

#[test]
fn soft_edges_are_cut_at_half_of_the_range() {
    let folder = Folder::new();
    for most in [255, 65_535] {
        let soft = LabelMap::new(40, 40, disc(most)).unwrap();
        let path = folder.path("soft.png");
        write_labels(&path, &soft).unwrap();
        let hard = soft.map(|value| u32::from(2 * value > most));
        assert_eq!(labels(&path, &MaskFormat::Binary).unwrap(), hard);
        assert_eq!(labels(&path, &MaskFormat::Threshold).unwrap(), hard);
    }
    // An edge as wide as what it is the edge of.
    let wide = |i: u32| {
        let (x, y) = (f64::from(i % 40) - 19.5, f64::from(i / 40) - 19.5);
        ((15.0 - (x * x + y * y).sqrt()) / 6.0).clamp(0.0, 1.0)
    };
    let path = folder.path("wide.png");
    write_labels(&path, &LabelMap::new(40, 40, (0..1600).map(|i| (255.0 * wide(i)).round() as u32).collect()).unwrap())
        .unwrap();
    let expected: Vec<u32> = (0..1600).map(|i| u32::from((255.0 * wide(i)).round() >= 128.0)).collect();
    assert_eq!(labels(&path, &MaskFormat::Binary).unwrap().as_slice(), expected);
    // What JPEG makes of a hard edge, saved as PNG.
    let hard = GrayImage::from_fn(40, 40, |x, y| Luma([if (8..27).contains(&x) && y > 13 { 255 } else { 0 }]));
    let jpeg = folder.image("m.jpg", hard.clone());
    let again = folder.image("m.png", read_dynamic(&jpeg, &Limits::default()).unwrap());
    let expected: Vec<u32> = hard.into_raw().into_iter().map(|value| u32::from(value > 0)).collect();
    assert_eq!(labels(&again, &MaskFormat::Binary).unwrap().as_slice(), expected);
    assert_eq!(labels(&jpeg, &MaskFormat::Threshold).unwrap().as_slice(), expected);
    assert!(message(labels(&jpeg, &MaskFormat::Binary), &jpeg).contains("MaskFormat::Threshold"));
}

#[test]
fn ids_and_classes_are_no_soft_edges() {
    let folder = Folder::new();
    let path = folder.path("m.png");
    let blocks = |labels: &[u32]| {
        let map = (0..1600).map(|i: usize| labels[(i % 40 / 10 + i / 400) % labels.len()]).collect();
        LabelMap::new(40, 40, map).unwrap()
    };
    for ids in [
        &[0, 1, 2, 3][..],
        &[0, 85, 170, 255],
        &[0, 128, 255],
        &[0, 10, 255],
        &[0, 1, 255],
        &[0, 240, 255],
        &[0, 1, 2, 255],
    ] {
        write_labels(&path, &blocks(ids)).unwrap();
        let expected = blocks(ids).map(|label| u32::from(label > 0));
        assert!(labels(&path, &MaskFormat::Binary).unwrap() == expected, "{ids:?}");
    }
}

#[test]
fn many_small_objects_are_no_soft_edges() {
    let folder = Folder::new();
    let path = folder.path("m.png");
    for (side, gap) in [(1, 1), (2, 1), (3, 0), (3, 1), (4, 1)] {
        let step = side + gap;
        let id = |i: u32| {
            let (x, y) = (i % 80, i / 80);
            let number = (y / step) * (80 / step) + x / step;
            if x % step < side && y % step < side && x / step < 80 / step { 1 + number * 7 % 255 } else { 0 }
        };
        let map = LabelMap::new(80, 80, (0..6400).map(id).collect()).unwrap();
        write_labels(&path, &map).unwrap();
        let expected = map.map(|label| u32::from(label > 0));
        match labels(&path, &MaskFormat::Binary) {
            Ok(read) => assert!(read == expected, "{side} {gap}"),
            // Objects of a pixel look like a photograph.
            Err(error) => assert!(side < 3 && matches!(error, DataError::NotAMask { .. }), "{side} {gap}: {error}"),
        }
    }
}

#[test]
fn palette_tiffs_have_colors() {
    let folder = Folder::new();
    let colors = [[10u16, 255, 0], [20, 0, 0], [30, 0, 255]];
    for scale in [1, 257] {
        let mut map = [0u16; 3 * 16];
        for (channel, values) in colors.iter().enumerate() {
            values.iter().enumerate().for_each(|(index, value)| map[channel * 16 + index] = value * scale);
        }
        let map = map.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tiff = with(entries([3, 1], &[4], 1, 3), 320, 3, map);
        let path = folder.file("p.tif", tiff_bytes(&[(tiff, vec![0x01, 0x20])]));
        let read = image(&path, ColorMode::Rgb).unwrap().to_dynamic().into_bytes();
        assert_eq!(read, [10, 20, 30, 255, 0, 0, 0, 0, 255]);
        assert_eq!(read_dynamic(&path, &Limits::default()).unwrap().into_bytes(), read);
        assert_eq!(labels(&path, &MaskFormat::Index).unwrap().as_slice(), [0, 1, 2]);
        let palette = Palette::new(vec![[0, 0, 255], [255, 0, 0], [10, 20, 30]]);
        assert_eq!(labels(&path, &MaskFormat::Colors(palette)).unwrap().as_slice(), [2, 1, 0]);
    }
}

#[test]
fn jpeg_in_tiff_becomes_rgb() {
    let folder = Folder::new();
    let fields = RgbImage::from_fn(32, 32, |x, y| ::image::Rgb([(x / 16) as u8 * 200, (y / 16) as u8 * 150, 60]));
    let jpeg = fs::read(folder.image("a.jpg", fields.clone())).unwrap();
    let path = folder.file("a.tif", tiff_bytes(&[(entries([32, 32], &[8; 3], 7, 6), jpeg)]));
    let read = image(&path, ColorMode::Rgb).unwrap().to_dynamic().into_rgb8();
    for (x, y) in [(4, 4), (28, 4), (4, 28), (28, 28)] {
        let (a, b) = (read.get_pixel(x, y).0, fields.get_pixel(x, y).0);
        assert!(a.iter().zip(b).all(|(a, b)| a.abs_diff(b) < 6), "({x}, {y}): {a:?} {b:?}");
    }
}

#[test]
fn pages_are_chosen_by_option() {
    let folder = Folder::new();
    let page = |level: u8| (entries([2, 1], &[8], 1, 1), vec![level; 2]);
    let path = folder.file("pages.tif", tiff_bytes(&[page(10), page(20), page(30)]));
    let read = |page| {
        let image = read_image(&path, ColorMode::Gray, DecodeOptions { page, ..DecodeOptions::default() });
        image.map(|image| image.to_dynamic().into_bytes()[0])
    };
    let pages = [None, Some(0), Some(1), Some(2)].map(|page| read(page).unwrap());
    assert_eq!(pages, [10, 10, 20, 30]);
    assert!(message(read(Some(3)), &path).contains("no page 3"));
}

#[test]
fn depths_of_no_whole_byte_are_refused() {
    let folder = Folder::new();
    for bits in [3, 5, 6, 7] {
        let path = folder.file("odd.tif", tiff_bytes(&[(entries([4, 2], &[bits], 1, 1), vec![0xA5; 8])]));
        for error in [message(image(&path, ColorMode::Gray), &path), message(labels(&path, &MaskFormat::Index), &path)]
        {
            assert!(error.contains(&format!("{bits} bits")), "{error}");
        }
    }
}

#[test]
fn bytes_that_begin_with_their_lowest_bit_are_refused() {
    let folder = Folder::new();
    for order in [1, 2] {
        let tiff = with(entries([8, 1], &[1], 1, 1), 266, 3, vec![order, 0]);
        let path = folder.file("order.tif", tiff_bytes(&[(tiff, vec![0b1000_0000])]));
        match order {
            1 => assert_eq!(image(&path, ColorMode::Gray).unwrap().as_slice()[..2], [1.0, 0.0]),
            _ => assert!(message(image(&path, ColorMode::Gray), &path).contains("FillOrder 2")),
        }
    }
}

#[test]
fn missing_data_are_filled_or_refused() {
    let folder = Folder::new();
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let float = |values: &[f32], tag: Option<&str>| {
        let mut entries = with(entries([values.len() as u16, 1], &[32], 1, 1), 339, 3, vec![3, 0]);
        entries.extend(tag.map(|tag| (42_113, 2, format!("{tag}\0").into_bytes())));
        folder.file("f.tif", tiff_bytes(&[(entries, bytes(values))]))
    };
    for (mark, tag) in [
        (f32::MIN, "-3.4028234663852886e+38"),
        (f32::MIN, "-3.40282e+38"),
        (-9999.0, "-9999"),
        (f32::NAN, "nan"),
        (f32::NEG_INFINITY, "-1.7976931348623157e+308"),
        (0.0, " 0 "),
    ] {
        let path = float(&[1.0, mark, 3.0, mark], Some(tag));
        assert_eq!(image(&path, ColorMode::Gray).unwrap().as_slice(), [1.0, 2.0, 3.0, 2.0], "{tag}");
        let path = float(&[1.0, mark, 3.0, mark], None);
        let options = DecodeOptions { nodata: Some(mark.into()), ..DecodeOptions::default() };
        assert_eq!(read_image(&path, ColorMode::Gray, options).unwrap().as_slice(), [1.0, 2.0, 3.0, 2.0], "{mark}");
        if mark != 0.0 {
            let error = message(image(&path, ColorMode::Gray), &path);
            assert!(error.contains("(x 1, y 0)"), "{error}");
        }
    }
    // Tags of more digits than a float has.
    for (mark, tag) in [(-9999.9, "-9999.9"), (2_147_483_648.0, "2147483647")] {
        let path = float(&[1.0, mark, 3.0, mark], Some(tag));
        assert_eq!(image(&path, ColorMode::Gray).unwrap().as_slice(), [1.0, 2.0, 3.0, 2.0], "{tag}");
        let source = TiffSource::open(&path, DecodeOptions::default()).unwrap();
        let pixels = source.read(0, Region { left: 0, top: 0, width: 4, height: 1 }).unwrap();
        assert_eq!(pixels.missing, [false, true, false, true], "{tag}");
    }
    let path = float(&[-9999.0; 3], Some("-9999"));
    assert!(message(image(&path, ColorMode::Gray), &path).contains("all its pixels"));
    // A deep sea, and no marks.
    let deep = [-9999.0, -9800.5, -10_911.0];
    assert_eq!(image(&float(&deep, None), ColorMode::Gray).unwrap().as_slice(), deep);
    let error = message(image(&float(&[1.0, 1e20], None), ColorMode::Gray), &folder.path("f.tif"));
    assert!(error.contains("nodata") && error.contains("100000000000000000000"), "{error}");
    let gray = folder.image("g.tif", GrayImage::from_raw(3, 1, vec![0, 100, 200]).unwrap());
    let options = DecodeOptions { nodata: Some(0.0), ..DecodeOptions::default() };
    let read = read_image(&gray, ColorMode::Gray, options).unwrap().to_dynamic().into_bytes();
    assert_eq!(read, [150, 100, 200]);
}

#[test]
fn what_is_produced_is_bounded_and_not_what_is_stored() {
    let folder = Folder::new();
    // A bit a pixel in the file, four bytes in memory.
    let side = 20_000;
    let mut png = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut png, side, side);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    encoder.write_header().unwrap().write_image_data(&vec![0; (side * side / 8) as usize]).unwrap();
    let path = folder.file("bomb.png", &png);
    let limits = Limits { max_bytes: 1 << 30, ..Limits::default() };
    for error in [
        message(read_image(&path, ColorMode::Gray, &limits), &path),
        message(read_labels(&path, &MaskFormat::Index, &limits), &path),
    ] {
        assert!(error.contains("bytes decoded"), "{error}");
    }
    let tiff = tiff_bytes(&[(entries([40_000, 40_000], &[1], 1, 1), vec![0; 64])]);
    let path = folder.file("bomb.tif", tiff);
    for error in [
        message(read_image(&path, ColorMode::Rgb, &limits), &path),
        message(read_labels(&path, &MaskFormat::Binary, &limits), &path),
    ] {
        assert!(error.contains("bytes decoded"), "{error}");
    }
    let small = Limits { max_bytes: 16 * 12 * 12, ..Limits::default() };
    let picture = folder.image("a.bmp", DynamicImage::new_rgb8(16, 12));
    assert!(read_image(&picture, ColorMode::Rgb, &small).is_ok());
    assert!(message(read_image(&picture, ColorMode::Rgba, &small), &picture).contains("bytes decoded"));
}

#[test]
fn where_zero_is_white_classes_and_marks_are_the_file_s_numbers() {
    let folder = Folder::new();
    let region = Region { left: 0, top: 0, width: 4, height: 1 };
    let bytes = |values: [u16; 4]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let of = |values: [f32; 4], most: f32| values.map(|value| value / most);
    for (bits, strip, numbers, shown) in [
        (8, vec![0, 1, 2, 200], [0, 1, 2, 200], of([255.0, 254.0, 253.0, 55.0], 255.0)),
        (1, vec![0b0110_0000], [0, 1, 1, 0], [1.0, 0.0, 0.0, 1.0]),
        (4, vec![0x01, 0x2f], [0, 1, 2, 15], of([15.0, 14.0, 13.0, 0.0], 15.0)),
        (16, bytes([0, 1, 700, 65_535]), [0, 1, 700, 65_535], of([65_535.0, 65_534.0, 64_835.0, 0.0], 65_535.0)),
    ] {
        let path = folder.file("white.tif", tiff_bytes(&[(entries([4, 1], &[bits], 1, 0), strip)]));
        assert_eq!(labels(&path, &MaskFormat::Index).unwrap().as_slice(), numbers);
        let source = TiffSource::open(&path, DecodeOptions::default()).unwrap();
        assert_eq!(source.read_labels(0, region).unwrap(), numbers);
        for found in [image(&path, ColorMode::Gray).unwrap(), source.read(0, region).unwrap().image] {
            let pairs = found.as_slice().iter().zip(shown);
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-6), "{bits} bits: {:?}", pairs.collect::<Vec<_>>());
        }
        // The mean of the others is in place of what is missing.
        let last = f64::from(numbers[3]);
        if bits == 8 {
            let options = DecodeOptions { nodata: Some(last), ..DecodeOptions::default() };
            let source = TiffSource::open(&path, options).unwrap();
            assert_eq!(source.read(0, region).unwrap().missing, [false, false, false, true]);
            let found = read_image(&path, ColorMode::Gray, options).unwrap();
            assert!((found.as_slice()[3] - 254.0 / 255.0).abs() < 1e-6, "{:?}", found.as_slice());
        }
        // Two classes go by brightness, as those of palettes do.
        if bits == 1 {
            assert_eq!(labels(&path, &MaskFormat::Binary).unwrap().as_slice(), [1, 0, 0, 1]);
        }
    }
}
