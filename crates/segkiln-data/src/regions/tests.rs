//! Files of `tests/parity/regions.py`.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    sync::Arc,
};

use ::tiff::encoder::{Rational, TiffEncoder, colortype};
use flate2::read::ZlibDecoder;
use segkiln_core::LabelMap;

use super::*;
use crate::{DecodeOptions, Limits};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/regions").join(format!("{name}.tif"))
}

fn open(name: &str) -> TiffSource {
    TiffSource::open(fixture(name), DecodeOptions::default()).unwrap()
}

/// The script's picture.
fn value(y: u32, x: u32, band: usize) -> u32 {
    (7 * y + 3 * x + 50 * band as u32 + x * y / 11) % 251
}

/// Regions of 70 rows and 90 columns: all, tiles' corners, single pixels, and such as cross tiles and strips.
const REGIONS: [[u32; 4]; 6] =
    [[0, 0, 90, 70], [0, 0, 1, 1], [89, 69, 1, 1], [31, 15, 34, 40], [47, 0, 2, 70], [3, 31, 87, 2]];

fn regions() -> impl Iterator<Item = Region> {
    REGIONS.into_iter().map(|[left, top, width, height]| Region { left, top, width, height })
}

/// Compares regions of a level with what a pixel must be.
fn compare(source: &TiffSource, level: usize, region: Region, expected: impl Fn(u32, u32, usize) -> f32, within: f32) {
    let RegionPixels { image, .. } = source.read(level, region).unwrap();
    assert_eq!((image.width(), image.height()), (region.width, region.height));
    let bands = source.bands();
    for (at, found) in image.as_slice().iter().enumerate() {
        let (pixel, band) = (at / bands, at % bands);
        let (x, y) = (region.left + pixel as u32 % region.width, region.top + pixel as u32 / region.width);
        let expected = expected(y, x, band);
        assert!((found - expected).abs() <= within, "{source:?} ({x}, {y}) {band}: {found}, not {expected}");
    }
}

#[test]
fn files_are_read_by_region() {
    for (name, bands) in [("tiles_deflate", 3), ("strips_lzw", 1), ("packbits_bigtiff", 3), ("geo", 3)] {
        let source = open(name);
        assert_eq!((source.bands(), source.levels().len()), (bands, 1), "{name}");
        assert_eq!(source.levels()[0], Level { width: 90, height: 70, scale: 1.0 }, "{name}");
        for region in regions() {
            compare(&source, 0, region, |y, x, band| value(y, x, band) as f32 / 255.0, 1e-6);
        }
    }
    for name in ["planar_u16", "bands_u16"] {
        let source = open(name);
        assert_eq!(source.bands(), 5, "{name}");
        for region in regions() {
            compare(&source, 0, region, |y, x, band| value(y, x, band) as f32 * 257.0 / 65_535.0, 1e-6);
        }
    }
    for region in regions() {
        compare(&open("i16"), 0, region, |y, x, _| value(y, x, 0) as f32 - 100.0, 0.0);
        compare(&open("bits"), 0, region, |y, x, _| (value(y, x, 0) % 2) as f32, 0.0);
        compare(&open("jpeg"), 0, region, |y, x, band| (y + x + 40 * band as u32) as f32 / 255.0, 0.03);
    }
}

/// An entry of a file of `tests/parity/tiff_matrix.py`.
struct Entry {
    name: String,
    tiff: Vec<u8>,
    /// Bands, values and how far they may be; or a part of the message.
    expected: std::result::Result<(usize, Arc<Vec<f32>>, f32), String>,
}

fn matrix(path: &Path) -> Vec<Entry> {
    let mut file = BufReader::new(ZlibDecoder::new(fs::File::open(path).unwrap()));
    let (mut line, mut entries, mut known) = (String::new(), Vec::new(), Vec::<Arc<Vec<f32>>>::new());
    while file.read_line(&mut line).unwrap() > 0 {
        let head: serde_json::Value = serde_json::from_str(&line).unwrap();
        line.clear();
        let mut tiff = vec![0; head["file"].as_u64().unwrap() as usize];
        let mut values = vec![0; 4 * head["values"].as_u64().unwrap() as usize];
        file.read_exact(&mut tiff).unwrap();
        file.read_exact(&mut values).unwrap();
        let place = head["same"].as_u64().map_or(known.len(), |place| place as usize);
        if place == known.len() {
            known.push(Arc::new(values.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()));
        }
        let within = head["within"].as_f64().unwrap() as f32;
        let expected = match head["error"].as_str() {
            Some(part) => Err(part.to_owned()),
            None => Ok((head["bands"].as_u64().unwrap() as usize, known[place].clone(), within)),
        };
        entries.push(Entry { name: head["name"].as_str().unwrap().to_owned(), tiff, expected });
    }
    entries
}

/// All combinations where the variable names a file of them.
#[test]
fn the_matrix_of_formats_is_read_or_named() {
    let path =
        std::env::var_os("SEGKILN_TIFF_MATRIX").map_or_else(|| fixture("matrix").with_extension("bin"), PathBuf::from);
    let folder = tempfile::tempdir().unwrap();
    let (mut read, mut named, mut wrong) = (0, 0, Vec::new());
    for Entry { name, tiff, expected } in matrix(&path) {
        let path = folder.path().join("a.tif");
        fs::write(&path, tiff).unwrap();
        let values = expected.as_ref().ok().map(|(bands, values, within)| (*bands, values.as_slice(), *within));
        match (compare_all(&path, values), expected) {
            (Ok(()), Ok(_)) => read += 1,
            (Err(error), Err(part)) if error.contains(&part) && error.contains("a.tif") => named += 1,
            (found, _) => wrong.push(format!("{name}: {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), wrong.len() + read + named);
    assert!(read > 60 && named > 10, "{read} read, {named} named");
    println!("{read} read, {named} named");
}

#[test]
fn damaged_blocks_are_errors_of_their_place_or_other_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let mut errors = 0;
    for Entry { name, tiff, .. } in matrix(&fixture("matrix").with_extension("bin")) {
        if !["zstd", "webp", "jpeg", "lzw", "deflate", "packbits", "palette", "bits"]
            .iter()
            .any(|part| name.contains(part))
        {
            continue;
        }
        for at in (8..tiff.len()).step_by(61) {
            let mut damaged = tiff.clone();
            damaged[at] ^= 0x5a;
            fs::write(&path, damaged).unwrap();
            let limits = Limits { max_bytes: 1 << 22, ..Limits::default() };
            let Ok(source) = TiffSource::open(&path, DecodeOptions::from(&limits)) else { continue };
            let Level { width, height, .. } = source.levels()[0];
            if let Err(error) = source.read(0, Region { left: 0, top: 0, width: width.min(29), height: height.min(37) })
            {
                assert!(!error.to_string().contains("panicked"), "{name}, byte {at}: {error}");
                errors += 1;
            }
        }
    }
    assert!(errors > 100, "{errors}");
}

/// Compares regions of 37 rows and 29 columns with all values: bands, pixels, and how far they may be.
fn compare_all(path: &Path, expected: Option<(usize, &[f32], f32)>) -> std::result::Result<(), String> {
    let text = |error: DataError| error.to_string();
    let source = TiffSource::open(path, DecodeOptions::default()).map_err(text)?;
    for [left, top, width, height] in [[0, 0, 29, 37], [3, 7, 17, 13], [15, 15, 2, 22], [28, 36, 1, 1], [1, 8, 28, 1]] {
        let RegionPixels { image, missing } = source.read(0, Region { left, top, width, height }).map_err(text)?;
        let Some((bands, values, within)) = expected else { continue };
        if source.bands() != bands || !missing.is_empty() {
            return Err(format!("{} bands, not {bands}", source.bands()));
        }
        let row = width as usize * bands;
        for (y, found) in image.as_slice().chunks_exact(row).enumerate() {
            let first = ((top as usize + y) * 29 + left as usize) * bands;
            let off = |(found, expected): (&f32, &f32)| (found - expected).abs() > within * expected.abs().max(1.0);
            if let Some(at) = found.iter().zip(&values[first..first + row]).position(off) {
                let (found, expected) = (found[at], values[first + at]);
                return Err(format!(
                    "row {y}, value {at} of {width}x{height} at {left}, {top}: {found}, not {expected}"
                ));
            }
        }
    }
    Ok(())
}

/// A little-endian TIFF of one uncompressed strip of gray bytes, which are the end of the file.
fn strip_at_the_end(width: u32, height: u32, planes: u16, rows: u32) -> Vec<u8> {
    let entries: [(u16, u32); 10] = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 134),
        (277, planes.into()),
        (278, rows),
        (279, width * height),
        (284, if planes > 1 { 2 } else { 1 }),
    ];
    let mut bytes = b"II*\0\x08\0\0\0\x0a\0".to_vec();
    for (tag, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(4u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    assert_eq!(bytes.len(), 134);
    bytes
}

#[test]
fn a_file_that_was_cut_short_by_a_few_bytes_is_truncated() {
    let folder = tempfile::tempdir().unwrap();
    // The larger strip is read some rows at a time, without the decoder.
    for (width, height) in [(40u32, 30u32), (1024, 1100)] {
        let mut bytes = strip_at_the_end(width, height, 1, height);
        bytes.resize(bytes.len() + (width * height) as usize, 200);
        let last = Region { left: 0, top: height - 1, width, height: 1 };
        let path = folder.path().join("strip.tif");
        fs::write(&path, &bytes).unwrap();
        let row = TiffSource::open(&path, DecodeOptions::default()).unwrap().read(0, last).unwrap();
        assert!(row.image.as_slice().iter().all(|value| *value == 200.0 / 255.0));
        for cut in [1, 2, 60] {
            fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
            let source = TiffSource::open(&path, DecodeOptions::default()).unwrap();
            let error = source.read(0, last).unwrap_err().to_string();
            assert!(error.contains("truncated"), "{width}x{height} without {cut}: {error}");
        }
    }
}

#[test]
fn a_panic_of_the_decoder_is_an_error_of_the_file() {
    // The decoder's number of strips overflows: 2^32 - 1 rows in 3 planes, one row a strip.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("planes.tif");
    fs::write(&path, strip_at_the_end(1, u32::MAX, 3, 1)).unwrap();
    let error = TiffSource::open(&path, DecodeOptions::default()).unwrap_err().to_string();
    assert!(error.contains("planes.tif"), "{error}");
}

#[test]
fn regions_without_data_are_told() {
    let source = open("f32_nodata");
    for region in regions() {
        let RegionPixels { image, missing } = source.read(0, region).unwrap();
        let is_hole = |x: u32, y: u32| (20..60).contains(&y) && (30..80).contains(&x);
        for (at, found) in image.as_slice().iter().enumerate() {
            let (x, y) = (region.left + at as u32 % region.width, region.top + at as u32 / region.width);
            assert_eq!(missing.get(at).copied().unwrap_or(false), is_hole(x, y), "({x}, {y})");
            if !is_hole(x, y) {
                assert_eq!(*found, value(y, x, 0) as f32 - 100.0);
            }
        }
    }
    // GDAL leaves blocks out that have no data.
    let RegionPixels { image, missing } =
        open("sparse").read(0, Region { left: 20, top: 20, width: 30, height: 30 }).unwrap();
    for (at, pixel) in image.as_slice().chunks_exact(3).enumerate() {
        let (x, y) = (20 + at as u32 % 30, 20 + at as u32 / 30);
        let there = x < 32 && y < 32;
        assert_eq!(missing[at], !there, "({x}, {y})");
        let expected = if there { value(y, x, 1) as f32 / 255.0 } else { 0.0 };
        assert!((pixel[1] - expected).abs() < 1e-6);
    }
}

#[test]
fn levels_are_sub_ifds_and_pages() {
    for name in ["pyramid_sub", "pyramid_pages"] {
        let source = open(name);
        let sizes: Vec<_> = source.levels().iter().map(|level| [level.width, level.height]).collect();
        assert_eq!(sizes, [[90, 70], [45, 35], [23, 18]], "{name}");
        assert!((source.levels()[2].scale - 4.0).abs() < 0.1, "{name}");
        for (level, step) in [(1, 2), (2, 4)] {
            let region = Region { left: 3, top: 2, width: 19, height: 15 };
            compare(&source, level, region, |y, x, band| value(step * y, step * x, band) as f32 / 255.0, 1e-6);
        }
    }
}

#[test]
fn scenes_keep_their_place() {
    let geo = open("geo").geo();
    assert_eq!(geo.transform(), Some([10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0]));
    assert_eq!(geo.scaled([2.0, 2.0]).transform(), Some([20.0, 0.0, 500_000.0, 0.0, -20.0, 5_000_000.0]));
    let tied = GeoTags {
        tags: vec![
            (33_550, TagValue::Doubles(vec![0.5, 0.25, 0.0])),
            (33_922, TagValue::Doubles(vec![2.0, 4.0, 0.0, 100.0, 200.0, 0.0])),
        ],
    };
    assert_eq!(tied.transform(), Some([0.5, 0.0, 99.0, 0.0, -0.25, 201.0]));
    assert_eq!(tied.scaled([2.0, 4.0]).transform(), Some([1.0, 0.0, 99.0, 0.0, -1.0, 201.0]));
    // Places that are the middles of pixels.
    let points = GeoTags {
        tags: vec![
            (33_550, TagValue::Doubles(vec![10.0, 10.0, 0.0])),
            (33_922, TagValue::Doubles(vec![0.0, 0.0, 0.0, 105.0, 195.0, 0.0])),
            (34_735, TagValue::Shorts(vec![1, 1, 0, 2, 1025, 0, 1, 2, 3072, 0, 1, 32_632])),
        ],
    };
    assert_eq!(points.transform(), Some([10.0, 0.0, 100.0, 0.0, -10.0, 200.0]));
    assert_eq!(points.scaled([2.0, 4.0]).transform(), Some([20.0, 0.0, 100.0, 0.0, -40.0, 200.0]));
    assert_eq!((points.epsg(), open("geo").geo().epsg(), tied.epsg()), (Some(32_632), Some(32_632), None));
    let mut matrix = points.clone();
    let affine = [10.0, 2.0, 0.0, 106.0, 1.0, -10.0, 0.0, 195.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
    matrix.tags.push((34_264, TagValue::Doubles(affine.into())));
    assert_eq!(matrix.transform(), Some([10.0, 2.0, 100.0, 1.0, -10.0, 200.0]));
    assert_eq!(matrix.scaled([2.0, 4.0]).transform(), Some([20.0, 8.0, 100.0, 2.0, -40.0, 200.0]));
    // Of a slide, by its resolution.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slide.tif");
    let mut file = TiffEncoder::new(fs::File::create(&path).unwrap()).unwrap();
    let mut image = file.new_image::<colortype::Gray8>(4, 3).unwrap();
    image.resolution(::tiff::tags::ResolutionUnit::Centimeter, Rational { n: 40_000, d: 1 });
    image.write_data(&[7; 12]).unwrap();
    let geo = TiffSource::open(&path, DecodeOptions::default()).unwrap().geo();
    assert_eq!(geo.microns_per_pixel(), Some([0.25, 0.25]));
    assert_eq!(geo.scaled([4.0, 4.0]).microns_per_pixel(), Some([1.0, 1.0]));
}

#[test]
fn slides_say_how_large_their_pixels_are() {
    let described = |text: &str| {
        let mut geo = GeoTags { tags: vec![(296, TagValue::Shorts(vec![1]))] };
        geo.describe(text);
        geo.microns_per_pixel()
    };
    let ome = r#"<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
        <Pixels ID="Pixels:0" SizeX="4" SizeY="3" PhysicalSizeX="0.25" PhysicalSizeY="500" PhysicalSizeYUnit="nm"/></Image></OME>"#;
    assert_eq!(described(ome), Some([0.25, 0.5]));
    assert_eq!(
        described("Aperio Image Library v1\r\n46000x32914 |AppMag = 40|MPP = 0.2500|Left = 25"),
        Some([0.25; 2])
    );
    for text in [
        "",
        "MPP = 0.25",
        "Aperio MPP = ",
        "<OME PhysicalSizeX",
        "<OME><Pixels PhysicalSizeX='0' PhysicalSizeY='1'/></OME>",
    ] {
        assert_eq!(described(text), None, "{text}");
    }
    let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb">]><a><Pixels PhysicalSizeX="&b;"/></a>"#;
    assert_eq!(described(bomb), None);
    // Out of a file, by tifffile.
    let source = open("ome");
    assert_eq!(source.geo().microns_per_pixel(), Some([0.5, 0.25]));
}

#[test]
fn one_strip_of_all_rows_is_read_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("strip.tif");
    let (width, height) = (1500, 2001);
    let values: Vec<u16> = (0..width * height).map(|at| (at % 65_521) as u16).collect();
    let mut file = TiffEncoder::new(fs::File::create(&path).unwrap()).unwrap();
    let mut image = file.new_image::<colortype::Gray16>(width, height).unwrap();
    image.rows_per_strip(height).unwrap();
    image.write_data(&values).unwrap();
    // Less than the strip is allowed.
    let limits = Limits { max_bytes: 4 << 20, ..Limits::default() };
    let source = TiffSource::open(&path, DecodeOptions::from(&limits)).unwrap();
    let region = Region { left: 700, top: 1990, width: 800, height: 11 };
    compare(&source, 0, region, |y, x, _| ((y * width + x) % 65_521) as f32 / 65_535.0, 1e-6);
}

#[test]
fn what_cannot_be_read_is_named() {
    let source = open("tiles_deflate");
    for (level, region) in [(1, [0, 0, 1, 1]), (0, [0, 0, 91, 1]), (0, [u32::MAX, 0, 1, 1]), (0, [0, 0, 0, 1])] {
        let [left, top, width, height] = region;
        let error = source.read(level, Region { left, top, width, height }).unwrap_err().to_string();
        assert!(error.contains("tiles_deflate.tif, level"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.tif");
    let bytes = fs::read(fixture("tiles_deflate")).unwrap();
    // Truncated anywhere, and with any byte turned: an error or a picture, and no panic.
    for cut in (0..bytes.len()).step_by(97) {
        fs::write(&path, &bytes[..cut]).unwrap();
        if let Ok(source) = TiffSource::open(&path, DecodeOptions::default()) {
            match source.read(0, Region { left: 0, top: 0, width: 90, height: 70 }) {
                // The last bytes are a checksum.
                Ok(_) => assert!(cut + 100 > bytes.len(), "{cut} of {} bytes", bytes.len()),
                Err(error) => assert!(error.to_string().contains("bad.tif, level 0: the "), "{error}"),
            }
        }
    }
    for at in 0..bytes.len().min(400) {
        let mut turned = bytes.clone();
        turned[at] ^= 0xff;
        fs::write(&path, turned).unwrap();
        let limits = Limits { max_bytes: 1 << 20, ..Limits::default() };
        if let Ok(source) = TiffSource::open(&path, DecodeOptions::from(&limits)) {
            let Level { width, height, .. } = source.levels()[0];
            let _ = source.read(0, Region { left: 0, top: 0, width: width.min(90), height: height.min(70) });
        }
    }
    for (text, reason) in [(&b"no tiff"[..], "does not begin"), (b"II*\0\x08\0\0\0", "bad.tif")] {
        fs::write(&path, text).unwrap();
        let error = TiffSource::open(&path, DecodeOptions::default()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(TiffSource::open(folder.path(), DecodeOptions::default()).is_err());
}

#[test]
fn regions_over_the_limit_are_refused() {
    // 4 bytes a pixel.
    for (max_bytes, fits) in [(25_200, true), (25_199, false)] {
        let limits = Limits { max_bytes, ..Limits::default() };
        let source = TiffSource::open(fixture("strips_lzw"), DecodeOptions::from(&limits)).unwrap();
        let all = Region { left: 0, top: 0, width: 90, height: 70 };
        assert_eq!(source.read(0, all).is_ok(), fits);
        assert_eq!(source.read_labels(0, all).is_ok(), fits);
    }
}

#[test]
fn bands_become_colors() {
    let region = Region { left: 5, top: 6, width: 2, height: 1 };
    let pixels = open("tiles_deflate").read(0, region).unwrap();
    let gray = pixels.clone().to_color(ColorMode::Gray, Path::new("a")).unwrap();
    let rgb = pixels.image.as_slice();
    assert_eq!(gray.image.channels(), 1);
    assert!((gray.image.as_slice()[0] - (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2])).abs() < 1e-6);
    let error = open("planar_u16").read(0, region).unwrap().to_color(ColorMode::Rgb, Path::new("a.tif")).unwrap_err();
    assert!(error.to_string().contains("a.tif has 5 bands"), "{error}");
}

fn options(width: u32, height: u32) -> TiffSinkOptions {
    let geo = open("geo").geo();
    TiffSinkOptions { width, height, bands: 1, samples: SampleType::U8, geo, identity: Some("a network".into()) }
}

/// Labels of a row.
fn labels(y: u32, width: u32) -> Vec<u32> {
    (0..width).map(|x| (x / 40 + y / 30) % 7).collect()
}

#[test]
fn maps_are_written_in_tiles_with_overviews() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.tif");
    let (width, height) = (700, 530);
    let mut sink = TiffSink::create(&path, options(width, height)).unwrap();
    for first in (0..height).step_by(37) {
        let rows = first..height.min(first + 37);
        sink.push_labels(&rows.flat_map(|y| labels(y, width)).collect::<Vec<u32>>()).unwrap();
    }
    assert!(!path.exists());
    sink.finish().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    let source = TiffSource::open(&path, DecodeOptions::default()).unwrap();
    let sizes: Vec<_> = source.levels().iter().map(|level| [level.width, level.height]).collect();
    assert_eq!(sizes, [[700, 530], [350, 265], [175, 133]]);
    assert_eq!(source.geo(), options(1, 1).geo);
    let all = |level: usize| Region { left: 0, top: 0, width: sizes[level][0], height: sizes[level][1] };
    compare(&source, 0, all(0), |y, x, _| labels(y, width)[x as usize] as f32 / 255.0, 1e-6);
    // Blocks begin at even pixels, so that all four of a reduced pixel are alike.
    for level in [1, 2] {
        let step = 1 << level;
        let expected = |y: u32, x: u32, _| labels(step * y, width)[(step * x) as usize] as f32 / 255.0;
        if level == 1 {
            compare(&source, level, all(level), expected, 1e-6);
        }
    }
}

#[test]
fn the_most_frequent_label_and_the_mean_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let size = 258;
    let map = TiffSinkOptions { samples: SampleType::U16, ..options(size, size) };
    let mut sink = TiffSink::create(&path, map).unwrap();
    // In each block of four: 300 twice, and once each of two others; of the last column 4 and 5 once each.
    for y in 0..size {
        let row = (0..size).map(|x| match (y % 2, x % 2) {
            (0, 1) | (1, 0) => 300,
            (0, 0) => 1,
            _ => 2,
        });
        sink.push_labels(&row.collect::<Vec<u32>>()).unwrap();
    }
    sink.finish().unwrap();
    let source = TiffSource::open(&path, DecodeOptions::default()).unwrap();
    compare(&source, 1, Region { left: 0, top: 0, width: 129, height: 129 }, |_, _, _| 300.0 / 65_535.0, 1e-7);

    let map = TiffSinkOptions { samples: SampleType::F32, bands: 2, ..options(size, size) };
    let mut sink = TiffSink::create(&path, map).unwrap();
    for y in 0..size {
        let row = (0..size).flat_map(|x| [(x + y) as f32, -(x as f32)]);
        sink.push_probabilities(&row.collect::<Vec<f32>>()).unwrap();
    }
    sink.finish().unwrap();
    let source = TiffSource::open(&path, DecodeOptions::default()).unwrap();
    let expected = |y: u32, x: u32, band: usize| match band {
        0 => (2 * x + 2 * y + 1) as f32,
        _ => -(2.0 * x as f32) - 0.5,
    };
    compare(&source, 1, Region { left: 0, top: 0, width: 129, height: 129 }, expected, 1e-4);
}

#[test]
fn a_file_that_was_interrupted_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.tif");
    let (width, height) = (600, 800);
    let whole = |path: &Path| {
        let mut sink = TiffSink::create(path, options(width, height)).unwrap();
        (sink.rows_written()..height).for_each(|y| sink.push_labels(&labels(y, width)).unwrap());
        sink.finish().unwrap();
        fs::read(path).unwrap()
    };
    let expected = whole(&folder.path().join("other.tif"));
    let (part, journal) = (folder.path().join("map.tif.part"), folder.path().join("map.tif.part.journal"));
    for rows in [0, 255, 256, 700] {
        let mut sink = TiffSink::create(&path, options(width, height)).unwrap();
        (sink.rows_written()..rows.max(sink.rows_written())).for_each(|y| sink.push_labels(&labels(y, width)).unwrap());
        drop(sink);
        // A journal that ends within a line, and tiles that it does not know.
        let mut half = fs::read(&journal).unwrap();
        half.extend(b"17 18");
        fs::write(&journal, half).unwrap();
        let mut more = fs::read(&part).unwrap();
        more.extend([9; 1000]);
        fs::write(&part, more).unwrap();
        let sink = TiffSink::create(&path, options(width, height)).unwrap();
        assert_eq!(sink.rows_written(), rows / 256 * 256);
    }
    assert_eq!(whole(&path), expected);
    // Of another network, from the beginning; without an identity too.
    for identity in [Some("another network".to_owned()), None] {
        let mut sink = TiffSink::create(&path, options(width, height)).unwrap();
        (0..300).for_each(|y| sink.push_labels(&labels(y, width)).unwrap());
        drop(sink);
        let sink = TiffSink::create(&path, TiffSinkOptions { identity, ..options(width, height) }).unwrap();
        assert_eq!(sink.rows_written(), 0);
    }
    // The result that was there before is there until another is complete.
    assert_eq!(fs::read(&path).unwrap(), expected);
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.tif");
    let mut sink = TiffSink::create(&path, options(10, 2)).unwrap();
    for (values, reason) in [(vec![0; 9], "2 rows of 10"), (vec![0; 30], "2 rows of 10"), (vec![256; 10], "label 256")]
    {
        let error = sink.push_labels(&values).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("map.tif"), "{error}");
    }
    sink.push_probabilities(&[0.0; 10]).unwrap_err();
    sink.push_labels(&[3; 10]).unwrap();
    let error = sink.finish().unwrap_err().to_string();
    assert!(error.contains("1 of 2 rows"), "{error}");
    assert!(!path.exists());
    let first = TiffSink::create(&path, options(10, 2)).unwrap();
    let error = TiffSink::create(&path, options(10, 2)).unwrap_err().to_string();
    assert!(error.contains("another process is writing it"), "{error}");
    drop(first);
    TiffSink::create(&path, options(0, 2)).unwrap_err();
    TiffSink::create(folder.path().join("no/folder/map.tif"), options(1, 2)).unwrap_err();
    // A file of somebody else's that has the part's name.
    fs::write(folder.path().join("map.tif.part"), b"other").unwrap();
    fs::remove_file(folder.path().join("map.tif.part.journal")).unwrap();
    let error = TiffSink::create(&path, options(10, 2)).unwrap_err().to_string();
    assert!(error.contains("map.tif.part is there"), "{error}");
    assert_eq!(fs::read(folder.path().join("map.tif.part")).unwrap(), b"other");
}

/// A gray scene of 64 rows and 96 columns with pixels of 10 m, the first corner at (500, 900).
struct Scene(MemorySource);

impl Scene {
    fn new() -> Self {
        let values = (0..96 * 64u32).map(|at| (at * at % 251) as f32 / 251.0).collect();
        Self(MemorySource::new(Image::new(96, 64, 1, values).unwrap(), "scene"))
    }
}

impl RegionSource for Scene {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn levels(&self) -> &[Level] {
        self.0.levels()
    }

    fn bands(&self) -> usize {
        1
    }

    fn geo(&self) -> GeoTags {
        GeoTags {
            tags: vec![
                (33_550, TagValue::Doubles(vec![10.0, 10.0, 0.0])),
                (33_922, TagValue::Doubles(vec![0.0, 0.0, 0.0, 500.0, 900.0, 0.0])),
                (282, TagValue::Rationals(vec![[20_000, 1]])),
                (283, TagValue::Rationals(vec![[20_000, 1]])),
                (296, TagValue::Shorts(vec![3])),
            ],
        }
    }

    fn read(&self, level: usize, region: Region) -> Result<RegionPixels> {
        let mut pixels = self.0.read(level, region)?;
        // A column without data.
        let columns = region.left..region.left + region.width;
        if columns.contains(&90) {
            pixels.missing = columns.map(|x| x == 90).collect::<Vec<_>>().repeat(region.height as usize);
            let values = pixels.image.as_mut_slice().iter_mut().zip(&pixels.missing);
            values.filter(|(_, missing)| **missing).for_each(|(value, _)| *value = f32::NAN);
        }
        Ok(pixels)
    }
}

#[test]
fn areas_are_touched_from_within() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("area.geojson");
    // In pixels: a ring of columns 20 to 60 and rows 10 to 50 around a hole of 30 to 50 and 20 to 40, and a speck at (80.5, 5.5).
    let text = r#"{"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [
            [[700, 800], [1100, 800, 7], [1100, 400], [700, 400], [700, 800]],
            [[800, 700], [1000, 700], [1000, 500], [800, 500], [800, 700]]]}},
        {"type": "Feature", "properties": {}, "geometry": {"type": "GeometryCollection", "geometries": [
            {"type": "Point", "coordinates": [505, 895]},
            {"type": "MultiPolygon", "coordinates": [[[[1304, 846], [1306, 846], [1306, 844], [1304, 844]]]]}]}},
        {"type": "Feature", "properties": {}, "geometry": null}]}"#;
    fs::write(&path, text).unwrap();
    let polygons = Area::read_geojson(&path, &Scene::new()).unwrap();
    let labels = (0..24 * 16u32).map(|at| (at % 24, at / 24)).map(|(x, y)| {
        let within = |x: u32, y: u32, x0, x1, y0, y1| (x0..x1).contains(&(4 * x)) && (y0..y1).contains(&(4 * y));
        u32::from(within(x, y, 20, 60, 12, 48) && !within(x, y, 32, 48, 20, 40) || (x, y) == (20, 1))
    });
    // A quarter of the resolution.
    let mask = Area::of_mask(LabelMap::new(24, 16, labels.collect()).unwrap()).unwrap();
    for (area, name) in [(polygons, "polygons"), (mask, "mask")] {
        assert!(!area.touches([200.0, 0.0, 210.0, 64.0], Size { width: 96, height: 64 }), "{name} beyond the picture");
        // A level that is made of a selected picture is selected too.
        let selected = SelectedSource::new(Scene::new(), vec![area.clone()]);
        let resampled = ResampledSource::new(selected, Size { width: 48, height: 32 }).unwrap();
        let source = SelectedSource::new(
            ResampledSource::new(Scene::new(), Size { width: 48, height: 32 }).unwrap(),
            vec![area],
        );
        for ([left, top, width, height], wanted) in [
            ([0, 0, 96, 64], true),
            ([0, 0, 20, 64], false),
            ([0, 0, 21, 64], true),
            ([61, 12, 35, 52], false),
            // Within the ring, within the hole, and around the speck.
            ([24, 24, 4, 4], true),
            ([34, 22, 12, 16], false),
            ([80, 4, 4, 4], true),
            ([72, 8, 8, 8], false),
        ] {
            assert_eq!(source.is_wanted(0, Region { left, top, width, height }), wanted, "{name} {left} {top}");
            let region = Region { left: left / 2, top: top / 2, width: width / 2, height: height / 2 };
            if left % 2 == 0 && width % 2 == 0 {
                assert_eq!(source.is_wanted(1, region), wanted, "{name} {left} {top} of the second level");
                assert_eq!(resampled.is_wanted(1, region), wanted, "{name} {left} {top} of the second level");
            }
        }
    }
    for (text, reason) in [
        (r#"{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]]}"#, "none of its 1 polygons meets"),
        (r#"{"type": "FeatureCollection", "features": []}"#, "none of its 0 polygons"),
        (r#"{"type": "Polygon", "coordinates": [[["a", 0]]]}"#, "polygon 1 of it"),
        (r#"{"type": "Polygon", "coordinates": [[[600]]]}"#, "less than two coordinates"),
        (r#"{"type": "Polygon"}"#, "polygon 1 of it"),
        (r#"{"features": []}"#, "line 1, column 16"),
        ("{", "line 1"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Area::read_geojson(&path, &Scene::new()).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("area.geojson"), "{error}");
    }
    assert!(Area::of_mask(LabelMap::filled(0, 3, 0)).is_err());
}

#[test]
fn resampled_regions_are_those_of_the_whole_level() {
    for size in [Size { width: 37, height: 29 }, Size { width: 7, height: 64 }, Size { width: 150, height: 81 }] {
        let plain = ResampledSource::new(Scene::new().0, size).unwrap();
        let Size { width, height } = size;
        assert_eq!((plain.level(), plain.levels().len(), plain.levels()[1].size()), (1, 2, size));
        let all = plain.read(0, Region { left: 0, top: 0, width: 96, height: 64 }).unwrap().image;
        let expected = crate::resize_image(&all, width, height).unwrap();
        for [left, top, w, h] in [[0, 0, width, height], [3, 5, 2, 11], [width - 1, height - 1, 1, 1]] {
            let found = plain.read(1, Region { left, top, width: w, height: h }).unwrap();
            assert_eq!(found.image, expected.crop(left, top, w, h), "{size}");
            assert!(found.missing.is_empty());
        }
        assert!(plain.read(1, Region { left: 0, top: 0, width: width + 1, height: 1 }).is_err());
    }
    // 0.5 micrometers a pixel; column 90 has no data, which is a third of a pixel.
    let source = ResampledSource::at_microns_per_pixel(Scene::new(), 1.5).unwrap();
    assert_eq!(source.levels()[1], Level { width: 32, height: 21, scale: (3.0f64 * 64.0 / 21.0).sqrt() });
    let found = source.read(1, Region { left: 28, top: 4, width: 4, height: 3 }).unwrap();
    assert!(found.missing.is_empty() && found.image.as_slice().iter().all(|value| value.is_finite()));
    // Regions with that column and without have the same other pixels.
    let all = source.read(1, Region { left: 0, top: 0, width: 32, height: 21 }).unwrap().image;
    let part = source.read(1, Region { left: 4, top: 3, width: 12, height: 9 }).unwrap().image;
    assert_eq!(part, all.crop(4, 3, 12, 9));
    // Enlarged it is some pixels.
    let source = ResampledSource::at_microns_per_pixel(Scene::new(), 0.125).unwrap();
    let found = source.read(1, Region { left: 356, top: 40, width: 12, height: 5 }).unwrap();
    let row: Vec<bool> = (356..368).map(|x| (360..364).contains(&x)).collect();
    assert_eq!(found.missing, row.repeat(5));
    assert!(found.image.as_slice().iter().all(|value| (0.0..=1.0).contains(value)));
    for microns in [0.0, f64::NAN, 1e9, 1e-9] {
        assert!(ResampledSource::at_microns_per_pixel(Scene::new(), microns).is_err());
    }
    let error = ResampledSource::at_microns_per_pixel(Scene::new().0, 1.0).unwrap_err().to_string();
    assert!(error.contains("scene does not say how large"), "{error}");
    assert!(ResampledSource::new(Scene::new(), Size { width: 0, height: 4 }).is_err());
}
