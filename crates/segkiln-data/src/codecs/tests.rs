//! Round trips through every format, and files that are not what they should be.

use std::{fs, io::Cursor, path::PathBuf};

use ::image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, RgbImage, RgbaImage};
use ::tiff::encoder::{TiffEncoder, colortype};
use segkiln_core::Palette;
use tempfile::TempDir;

use super::*;

/// A folder that goes away with the test.
pub(super) struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn image(&self, name: &str, image: impl Into<DynamicImage>) -> PathBuf {
        let path = self.path(name);
        write_image(&path, &image.into()).unwrap();
        path
    }

    pub fn tiff<C: colortype::ColorType>(&self, name: &str, width: u32, height: u32, data: &[C::Inner]) -> PathBuf
    where
        [C::Inner]: ::tiff::encoder::TiffValue,
    {
        let mut bytes = Cursor::new(Vec::new());
        TiffEncoder::new(&mut bytes).unwrap().write_image::<C>(width, height, data).unwrap();
        self.file(name, bytes.into_inner())
    }
}

/// A PNG with any color type, depth and palette.
pub(super) fn png_bytes(
    size: (u32, u32),
    color: ::png::ColorType,
    depth: ::png::BitDepth,
    palette: Option<&[u8]>,
    data: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, size.0, size.1);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if let Some(palette) = palette {
        encoder.set_palette(palette);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    bytes
}

pub(super) fn image(path: &Path, mode: ColorMode) -> Result<Image> {
    read_image(path, mode, &Limits::default())
}

pub(super) fn labels(path: &Path, format: &MaskFormat) -> Result<LabelMap> {
    read_labels(path, format, &Limits::default())
}

/// The error's message, which must name the file.
pub(super) fn message<T: std::fmt::Debug>(result: Result<T>, path: &Path) -> String {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(&path.display().to_string()), "{message}");
    message
}

fn gradient() -> RgbImage {
    RgbImage::from_fn(16, 12, |x, y| Rgb([x as u8 * 16, y as u8 * 20, 128]))
}

/// A photograph: smooth shapes with noise.
fn photo(width: u32, height: u32) -> GrayImage {
    let mut state = 1u32;
    GrayImage::from_fn(width, height, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let shape = 90.0 + 60.0 * (x as f32 / 17.0).sin() * (y as f32 / 23.0).cos();
        Luma([(shape as u32 + (state >> 28)) as u8])
    })
}

#[test]
fn every_format_is_read() {
    let folder = Folder::new();
    let expected = Image::from_dynamic(&gradient().into(), ColorMode::Rgb);
    for name in ["a.png", "a.bmp", "a.tif", "a.tiff", "a.webp"] {
        assert_eq!(image(&folder.image(name, gradient()), ColorMode::Rgb).unwrap(), expected, "{name}");
    }
    let jpeg = image(&folder.image("a.jpg", gradient()), ColorMode::Rgb).unwrap();
    let mean = jpeg.as_slice().iter().zip(expected.as_slice()).map(|(a, b)| (a - b).abs()).sum::<f32>() / 576.0;
    assert!(mean < 0.05, "{mean}");
    assert_eq!(read_dynamic(folder.path("a.bmp"), &Limits::default()).unwrap().into_rgb8(), gradient());
}

#[test]
fn content_counts_more_than_the_extension() {
    let folder = Folder::new();
    let png = fs::read(folder.image("a.png", gradient())).unwrap();
    let misnamed = folder.file("really_a_png.jpg", &png);
    assert_eq!(read_dynamic(&misnamed, &Limits::default()).unwrap().into_rgb8(), gradient());
    assert_eq!(read_dynamic(folder.file("without", &png), &Limits::default()).unwrap().into_rgb8(), gradient());
}

#[test]
fn depths_are_scaled_to_one() {
    let folder = Folder::new();
    let sixteen = ImageBuffer::<Luma<u16>, _>::from_raw(2, 1, vec![65_535, 13_107]).unwrap();
    for name in ["a.png", "a.tif"] {
        let path = folder.image(name, DynamicImage::from(sixteen.clone()));
        assert_eq!(image(&path, ColorMode::Gray).unwrap().as_slice(), [1.0, 0.2]);
    }
    let one = png_bytes((4, 1), ::png::ColorType::Grayscale, ::png::BitDepth::One, None, &[0b1010_0000]);
    assert_eq!(image(&folder.file("one.png", one), ColorMode::Gray).unwrap().as_slice(), [1.0, 0.0, 1.0, 0.0]);
    let wide = folder.tiff::<colortype::Gray32>("wide.tif", 2, 1, &[u32::MAX, u32::MAX / 5]);
    assert_eq!(image(&wide, ColorMode::Gray).unwrap().as_slice(), [1.0, 0.2]);
    assert_eq!(read_dynamic(&wide, &Limits::default()).unwrap().into_luma16().into_raw(), [65_535, 13_107]);
}

#[test]
fn float_tiffs_keep_their_values() {
    let folder = Folder::new();
    let path = folder.tiff::<colortype::Gray32Float>("f.tif", 2, 1, &[-3.5, 1000.0]);
    assert_eq!(image(&path, ColorMode::Gray).unwrap().as_slice(), [-3.5, 1000.0]);
    assert_eq!(image(&path, ColorMode::Rgb).unwrap().as_slice()[3..], [1000.0; 3]);
    let nan = folder.tiff::<colortype::Gray32Float>("nan.tif", 2, 2, &[0.0, 1.0, 2.0, f32::NAN]);
    let message = message(image(&nan, ColorMode::Gray), &nan);
    assert!(message.contains("(x 1, y 1) is NaN"), "{message}");
    assert!(read_dynamic(&nan, &Limits::default()).is_err());
}

#[test]
fn palettes_are_colors_to_images_and_indices_to_masks() {
    let folder = Folder::new();
    let colors = [10, 20, 30, 255, 0, 0, 0, 0, 255];
    let indexed = |depth, data: &[u8]| png_bytes((3, 1), ::png::ColorType::Indexed, depth, Some(&colors), data);
    for (name, bytes) in [
        ("8.png", indexed(::png::BitDepth::Eight, &[0, 1, 2])),
        ("4.png", indexed(::png::BitDepth::Four, &[0x01, 0x20])),
        ("2.png", indexed(::png::BitDepth::Two, &[0b00_01_10_00])),
    ] {
        let path = folder.file(name, bytes);
        assert_eq!(labels(&path, &MaskFormat::Index).unwrap().as_slice(), [0, 1, 2], "{name}");
        assert_eq!(read_dynamic(&path, &Limits::default()).unwrap().into_rgb8().into_raw(), colors, "{name}");
        let palette = Palette::new(vec![[0, 0, 255], [255, 0, 0], [10, 20, 30]]);
        assert_eq!(labels(&path, &MaskFormat::Colors(palette)).unwrap().as_slice(), [2, 1, 0], "{name}");
    }
}

#[test]
fn gray_values_of_any_depth_are_labels() {
    let folder = Folder::new();
    let gray = |depth, data: &[u8]| png_bytes((3, 1), ::png::ColorType::Grayscale, depth, None, data);
    for (name, bytes, expected) in [
        ("1.png", gray(::png::BitDepth::One, &[0b1010_0000]), [1, 0, 1]),
        ("2.png", gray(::png::BitDepth::Two, &[0b11_00_10_00]), [3, 0, 2]),
        ("8.png", gray(::png::BitDepth::Eight, &[7, 0, 255]), [7, 0, 255]),
        ("16.png", gray(::png::BitDepth::Sixteen, &[1, 2, 0, 0, 255, 255]), [258, 0, 65_535]),
    ] {
        assert_eq!(labels(&folder.file(name, bytes), &MaskFormat::Index).unwrap().as_slice(), expected, "{name}");
    }
    let tiff8 = folder.tiff::<colortype::Gray8>("8.tif", 2, 1, &[0, 200]);
    assert_eq!(labels(&tiff8, &MaskFormat::Index).unwrap().as_slice(), [0, 200]);
    let tiff32 = folder.tiff::<colortype::Gray32>("32.tif", 2, 1, &[0, 70_000]);
    assert_eq!(labels(&tiff32, &MaskFormat::Instances).unwrap().as_slice(), [0, 70_000]);
    let signed = folder.tiff::<colortype::GrayI32>("i32.tif", 2, 1, &[0, 70_000]);
    assert_eq!(labels(&signed, &MaskFormat::Instances).unwrap().as_slice(), [0, 70_000]);
    let float = folder.tiff::<colortype::Gray32Float>("f.tif", 2, 1, &[0.0, 3.0]);
    assert_eq!(labels(&float, &MaskFormat::Index).unwrap().as_slice(), [0, 3]);
    let bmp = folder.image("a.bmp", GrayImage::from_raw(2, 1, vec![3, 250]).unwrap());
    assert_eq!(labels(&bmp, &MaskFormat::Index).unwrap().as_slice(), [3, 250]);
}

#[test]
fn values_that_are_no_labels_are_errors() {
    let folder = Folder::new();
    let negative = folder.tiff::<colortype::GrayI32>("n.tif", 2, 1, &[0, -1]);
    assert!(message(labels(&negative, &MaskFormat::Index), &negative).contains("-1 is no label"));
    let fraction = folder.tiff::<colortype::Gray32Float>("f.tif", 2, 1, &[0.0, 0.5]);
    assert!(message(labels(&fraction, &MaskFormat::Index), &fraction).contains("(x 1, y 0) is 0.5"));
    let signed = folder.tiff::<colortype::GrayI32>("s.tif", 1, 1, &[1]);
    assert!(message(image(&signed, ColorMode::Gray), &signed).contains("signed"));
}

#[test]
fn binary_is_anything_but_zero() {
    let folder = Folder::new();
    let path = folder.path("m.png");
    write_labels(&path, &LabelMap::new(4, 1, vec![0, 1, 255, 300]).unwrap()).unwrap();
    assert_eq!(labels(&path, &MaskFormat::Binary).unwrap().as_slice(), [0, 1, 1, 1]);
}

#[test]
fn colors_are_looked_up_exactly() {
    let folder = Folder::new();
    let palette = Palette::new(vec![[0, 0, 0], [128, 0, 0], [0, 128, 0]]);
    let drawn = RgbImage::from_raw(3, 1, vec![0, 128, 0, 0, 0, 0, 128, 0, 0]).unwrap();
    let path = folder.image("m.png", drawn.clone());
    assert_eq!(labels(&path, &MaskFormat::Colors(palette.clone())).unwrap().as_slice(), [2, 0, 1]);
    let mut wrong = drawn;
    wrong.put_pixel(1, 0, Rgb([1, 2, 3]));
    let path = folder.image("wrong.png", wrong);
    let message = message(labels(&path, &MaskFormat::Colors(palette)), &path);
    assert!(message.contains("(x 1, y 0)") && message.contains("[1, 2, 3]"), "{message}");
}

#[test]
fn a_color_image_is_no_index_mask_but_an_rgb_gray_is() {
    let folder = Folder::new();
    let gray = folder.image("gray.png", RgbImage::from_raw(2, 1, vec![4, 4, 4, 9, 9, 9]).unwrap());
    assert_eq!(labels(&gray, &MaskFormat::Index).unwrap().as_slice(), [4, 9]);
    let color = folder.image("color.png", RgbImage::from_raw(2, 1, vec![4, 4, 4, 9, 8, 9]).unwrap());
    let message = message(labels(&color, &MaskFormat::Index), &color);
    for part in ["(x 1, y 0)", "[9, 8, 9]", "MaskFormat::Colors", "are images and masks swapped?"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn uniform_alpha_is_ignored_and_other_alpha_refused() {
    let folder = Folder::new();
    let uniform = folder.image("u.png", RgbaImage::from_raw(2, 1, vec![1, 1, 1, 255, 2, 2, 2, 255]).unwrap());
    assert_eq!(labels(&uniform, &MaskFormat::Index).unwrap().as_slice(), [1, 2]);
    let varied = folder.image("v.png", RgbaImage::from_raw(2, 1, vec![1, 1, 1, 255, 2, 2, 2, 0]).unwrap());
    let message = message(labels(&varied, &MaskFormat::Index), &varied);
    assert!(message.contains("transparency varies (first at pixel (x 1, y 0))"), "{message}");
}

#[test]
fn photographs_are_no_masks() {
    let folder = Folder::new();
    let jpeg = folder.image("photo.jpg", photo(64, 64));
    let png = folder.image("photo.png", photo(64, 64));
    for format in [MaskFormat::Index, MaskFormat::Binary, MaskFormat::Instances] {
        for path in [&jpeg, &png] {
            let message = message(labels(path, &format), path);
            assert!(message.contains("are images and masks swapped?"), "{message}");
        }
    }
}

#[test]
fn maps_of_regions_are_masks_however_many_labels_they_have() {
    let folder = Folder::new();
    let path = folder.path("m.png");
    // 4096 objects of 4 x 4 pixels side by side, and a chessboard of two classes
    let tiny = LabelMap::new(256, 256, (0..65_536).map(|i| (i / 256 / 4) * 64 + i % 256 / 4).collect()).unwrap();
    write_labels(&path, &tiny).unwrap();
    assert_eq!(labels(&path, &MaskFormat::Instances).unwrap(), tiny);
    let chess = LabelMap::new(64, 64, (0..4096).map(|i| (i / 64 + i % 64) % 2).collect()).unwrap();
    write_labels(&path, &chess).unwrap();
    assert_eq!(labels(&path, &MaskFormat::Index).unwrap(), chess);
}

#[test]
fn labels_are_written_in_the_depth_they_need() {
    let folder = Folder::new();
    let path = folder.path("m.png");
    for (largest, depth) in [(255, 8), (256, 16), (65_535, 16)] {
        let map = LabelMap::new(3, 1, vec![0, 1, largest]).unwrap();
        write_labels(&path, &map).unwrap();
        let color = read_dynamic(&path, &Limits::default()).unwrap().color();
        assert_eq!(color.bits_per_pixel(), depth);
        assert_eq!(labels(&path, &MaskFormat::Index).unwrap(), map);
    }
    let too_large = write_labels(&path, &LabelMap::filled(1, 1, 65_536));
    assert!(message(too_large, &path).contains("65536 does not fit"));
    assert!(write_labels(&path, &LabelMap::filled(0, 0, 0)).is_err());
}

#[test]
fn writing_leaves_no_partial_file() {
    let folder = Folder::new();
    folder.image("a.png", gradient());
    let names: Vec<_> = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a.png"]);
    let unknown = folder.path("a.xyz");
    assert!(message(write_image(&unknown, &gradient().into()), &unknown).contains("extension"));
    let nowhere = folder.path("missing/a.png");
    message(write_image(&nowhere, &gradient().into()), &nowhere);
}

#[test]
fn a_header_that_lies_allocates_nothing() {
    let folder = Folder::new();
    // PNG: the IHDR chunk says 100,000 x 100,000 and carries the right checksum.
    let mut png = Vec::new();
    ::png::Encoder::new(&mut png, 100_000, 100_000).write_header().unwrap();
    // TIFF: width and height of a small file are overwritten.
    let tiff = fs::read(folder.tiff::<colortype::Gray8>("small.tif", 3, 5, &[0; 15])).unwrap();
    // BMP: width and height are at bytes 18 and 22.
    let mut bmp = fs::read(folder.image("small.bmp", gradient())).unwrap();
    bmp[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    for (name, bytes) in [("huge.png", png), ("huge.tif", with_tiff_size(tiff, 100_000)), ("huge.bmp", bmp)] {
        let path = folder.file(name, bytes);
        for error in [message(image(&path, ColorMode::Rgb), &path), message(labels(&path, &MaskFormat::Index), &path)] {
            assert!(error.contains("over the limit of"), "{error}");
        }
    }
}

/// A little-endian TIFF with both entries for its size, tags 256 and 257, set anew.
fn with_tiff_size(mut bytes: Vec<u8>, side: u32) -> Vec<u8> {
    let ifd = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let entries = u16::from_le_bytes(bytes[ifd..ifd + 2].try_into().unwrap()) as usize;
    for entry in bytes[ifd + 2..][..12 * entries].chunks_exact_mut(12) {
        if matches!(u16::from_le_bytes([entry[0], entry[1]]), 256 | 257) {
            entry[2..4].copy_from_slice(&4u16.to_le_bytes());
            entry[8..12].copy_from_slice(&side.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn a_tiff_tag_of_more_values_than_the_file_is_refused_before_memory_is_taken() {
    let folder = Folder::new();
    let sound = fs::read(folder.tiff::<colortype::Gray8>("sound.tif", 3, 5, &[9; 15])).unwrap();
    let ifd = u32::from_le_bytes(sound[4..8].try_into().unwrap()) as usize;
    let entries = u16::from_le_bytes(sound[ifd..ifd + 2].try_into().unwrap()) as usize;
    // Offsets and bytes of strips, bits of a sample, and the resolution, which is read where a picture's place is asked for.
    for tag in [273u16, 279, 258, 282] {
        let mut bytes = sound.clone();
        let entry = bytes[ifd + 2..][..12 * entries].chunks_exact_mut(12).find(|entry| entry[..2] == tag.to_le_bytes());
        entry.unwrap()[4..8].copy_from_slice(&1_000_000u32.to_le_bytes());
        let path = folder.file("long.tif", &bytes);
        assert!(message(image(&path, ColorMode::Gray), &path).contains("truncated"), "{tag}");
        let source = crate::regions::TiffSource::open(&path, DecodeOptions::default());
        assert!(message(source, &path).contains("truncated"), "{tag}");
    }
}

#[test]
fn signed_integers_of_less_than_a_byte_are_refused() {
    let folder = Folder::new();
    let mut bytes = fs::read(folder.tiff::<colortype::GrayI8>("signed.tif", 3, 5, &[1; 15])).unwrap();
    let ifd = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let entries = u16::from_le_bytes(bytes[ifd..ifd + 2].try_into().unwrap()) as usize;
    let mut entry = bytes[ifd + 2..][..12 * entries].chunks_exact_mut(12);
    // Bits of a sample.
    entry.find(|entry| entry[..2] == 258u16.to_le_bytes()).unwrap()[8..10].copy_from_slice(&1u16.to_le_bytes());
    let path = folder.file("bits.tif", &bytes);
    for error in [message(image(&path, ColorMode::Gray), &path), message(labels(&path, &MaskFormat::Index), &path)] {
        assert!(error.contains("signed integers of 1 bits"), "{error}");
    }
}

#[test]
fn thousands_of_overlapping_tiff_pages_are_not_followed() {
    let folder = Folder::new();
    let path = folder.tiff::<colortype::Gray8>("one.tif", 3, 5, &[9; 15]);
    let mut bytes = fs::read(path).unwrap();
    let ifd = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let directory = bytes[ifd..].to_vec();
    let entries = u16::from_le_bytes(directory[..2].try_into().unwrap()) as usize;
    assert_eq!(directory.len(), 2 + 12 * entries + 4, "the directory is the end of the file");
    // Pages that share one table of 20,000 offsets: to follow them all reads it thousands of times.
    let (strips, pages) = (20_000u32, 2_000u32);
    let table = bytes.len() as u32;
    for _ in 0..strips {
        bytes.extend(8u32.to_le_bytes());
    }
    let mut page = directory.clone();
    for entry in page[2..][..12 * entries].chunks_exact_mut(12) {
        let (count, value) = match u16::from_le_bytes([entry[0], entry[1]]) {
            257 => (1, strips),
            278 => (1, 1),
            273 | 279 => (strips, table),
            _ => continue,
        };
        entry[2..4].copy_from_slice(&4u16.to_le_bytes());
        entry[4..8].copy_from_slice(&count.to_le_bytes());
        entry[8..12].copy_from_slice(&value.to_le_bytes());
    }
    let last = bytes.len() as u32;
    let link = ifd + directory.len() - 4;
    bytes[link..link + 4].copy_from_slice(&last.to_le_bytes());
    for index in 1..=pages {
        let next = if index == pages { 0 } else { last + index * page.len() as u32 };
        let end = page.len() - 4;
        page[end..].copy_from_slice(&next.to_le_bytes());
        bytes.extend(&page);
    }
    let path = folder.file("many.tif", &bytes);
    let page =
        |page| read_image(&path, ColorMode::Gray, DecodeOptions { page: Some(page), ..DecodeOptions::default() });
    assert_eq!(page(0).unwrap().into_vec(), [9.0 / 255.0; 15]);
    assert_eq!(page(2).unwrap().height(), strips);
    assert!(message(page(1_900), &path).contains("no page 1900"));
}

#[test]
fn limits_can_be_set() {
    let folder = Folder::new();
    let path = folder.image("a.png", gradient());
    let narrow = Limits { max_width: 15, ..Limits::default() };
    let error = message(read_image(&path, ColorMode::Rgb, &narrow), &path);
    assert!(error.contains("16x12 pixels, over the limit of 15x65535"), "{error}");
    let small = Limits { max_bytes: 500, ..Limits::default() };
    assert!(read_image(&path, ColorMode::Rgb, &small).is_err());
    let file_alone = Limits { max_bytes: 20, ..Limits::default() };
    assert!(message(read_image(&path, ColorMode::Rgb, &file_alone), &path).contains("bytes on disk"));
}

#[test]
fn truncated_files_are_errors() {
    let folder = Folder::new();
    for name in ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"] {
        let whole = fs::read(folder.image(name, photo(64, 48))).unwrap();
        for kept in [whole.len() - 3, whole.len() / 2, whole.len() / 4, 40, 10] {
            // The last bytes of a PNG say that it ends, and of a TIFF belong to its directory.
            if kept == whole.len() - 3 && name == "a.png" {
                continue;
            }
            let path = folder.file(&format!("cut_{name}"), &whole[..kept]);
            let error = message(image(&path, ColorMode::Rgb), &path);
            assert!(error.contains("cannot be decoded") || error.contains("not an image"), "{name} {kept}: {error}");
            message(labels(&path, &MaskFormat::Index), &path);
        }
    }
}

#[test]
fn a_jpeg_with_a_thumbnail_ends_where_it_ends() {
    let folder = Folder::new();
    let jpeg = fs::read(folder.image("a.jpg", photo(32, 32))).unwrap();
    // The whole image again as the thumbnail of an APP1 segment, with its own end-of-image marker.
    let mut with_thumbnail = jpeg[..2].to_vec();
    with_thumbnail.extend([0xFF, 0xE1]);
    with_thumbnail.extend((jpeg.len() as u16 + 2).to_be_bytes());
    with_thumbnail.extend(&jpeg);
    with_thumbnail.extend(&jpeg[2..]);
    assert_eq!(jpeg::end_of_image(&with_thumbnail), Some(with_thumbnail.len() - 2));
    assert_eq!(jpeg::end_of_image(&with_thumbnail[..with_thumbnail.len() - 20]), None);
    let path = folder.file("cut.jpg", &with_thumbnail[..with_thumbnail.len() - 20]);
    assert!(message(image(&path, ColorMode::Gray), &path).contains("truncated"));
}

#[test]
fn a_jpeg_whose_data_end_early_is_an_error_and_a_flat_one_is_not() {
    let folder = Folder::new();
    let jpeg = fs::read(folder.image("a.jpg", photo(96, 64))).unwrap();
    let mut closed = jpeg[..jpeg.len() * 2 / 3].to_vec();
    closed.extend([0xFF, 0xD9]);
    let path = folder.file("closed.jpg", closed);
    assert!(message(image(&path, ColorMode::Gray), &path).contains("data end before"));

    // The frame header has its height five bytes after its marker.
    let mut tall = jpeg;
    let frame = tall.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    tall[frame + 5..frame + 7].copy_from_slice(&128u16.to_be_bytes());
    let path = folder.file("tall.jpg", tall);
    assert!(message(image(&path, ColorMode::Gray), &path).contains("data end before"));

    for level in [0, 128, 255] {
        let mut bordered = photo(96, 64);
        bordered.enumerate_pixels_mut().filter(|(_, y, _)| *y >= 40).for_each(|(.., pixel)| pixel.0 = [level]);
        assert!(image(&folder.image("bordered.jpg", bordered), ColorMode::Gray).is_ok());
        assert!(image(&folder.image("flat.jpg", GrayImage::from_pixel(9, 9, Luma([level]))), ColorMode::Gray).is_ok());
    }
}

#[test]
fn what_is_no_image_is_an_error() {
    let folder = Folder::new();
    let empty = folder.file("empty.png", []);
    assert!(message(image(&empty, ColorMode::Rgb), &empty).contains("is empty"));
    let text = folder.file("notes.txt", "no image at all, but longer than a signature");
    assert!(message(image(&text, ColorMode::Rgb), &text).contains("not an image"));
    let liar = folder.file("text.png", "no image at all, but longer than a signature");
    assert!(message(image(&liar, ColorMode::Rgb), &liar).contains("cannot be decoded as PNG"));
    assert!(message(labels(&liar, &MaskFormat::Index), &liar).contains("cannot be decoded as PNG"));
    let gif = folder.file("a.gif", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;");
    assert!(message(image(&gif, ColorMode::Rgb), &gif).contains("PNG, JPEG, TIFF, BMP and WebP"));
    let directory = folder.0.path();
    assert!(message(image(directory, ColorMode::Rgb), directory).contains("not a regular file"));
    let missing = folder.path("missing.png");
    assert!(message(image(&missing, ColorMode::Rgb), &missing).contains("cannot read"));
}

#[test]
fn random_damage_never_panics() {
    let folder = Folder::new();
    let mut state = 7u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    for name in ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"] {
        let whole = fs::read(folder.image(name, photo(24, 24))).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..4 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            let path = folder.file(&format!("damaged_{name}"), bytes);
            let limits = Limits { max_bytes: 1 << 24, ..Limits::default() };
            // Either is fine; a panic or a huge allocation is not.
            let _ = read_image(&path, ColorMode::Rgb, &limits);
            let _ = read_labels(&path, &MaskFormat::Index, &limits);
        }
    }
}

/// Files of `tests/parity/data_tiff.py`, whose values are 0 to 14 in 5 columns if not said otherwise.
#[test]
fn tiffs_of_other_programs_are_read() {
    let fixture = |name: &str| format!("{}/tests/fixtures/{name}.tif", env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str, mode| image(Path::new(&fixture(name)), mode).unwrap();
    let ids = |name: &str| labels(Path::new(&fixture(name)), &MaskFormat::Instances).unwrap().into_vec();
    let counted: Vec<u32> = (0..15).collect();

    let planar: Vec<u8> = read("planar", ColorMode::Rgb).to_dynamic().into_bytes();
    assert_eq!(planar, (0..15).flat_map(|i| [i, i + 100, i + 200]).collect::<Vec<u8>>());
    assert_eq!(ids("lzw_u16"), counted.iter().map(|i| i * 1000).collect::<Vec<_>>());
    assert_eq!(ids("deflate_i64"), counted);
    for name in ["big_endian_f64", "f16"] {
        assert_eq!(read(name, ColorMode::Gray).into_vec(), (0..15).map(|i| i as f32 / 2.0).collect::<Vec<_>>());
    }
    let tiled: Vec<u8> = read("tiled", ColorMode::Gray).to_dynamic().into_bytes();
    assert_eq!(tiled, (0..1024u32).map(|i| (i / 32 + i % 32) as u8).collect::<Vec<_>>());
    assert_eq!(ids("bilevel"), counted.iter().map(|i| i % 2).collect::<Vec<_>>());
    assert_eq!(read("bilevel", ColorMode::Gray).as_slice()[..4], [0.0, 1.0, 0.0, 1.0]);
    assert_eq!(ids("palette"), counted);
}
