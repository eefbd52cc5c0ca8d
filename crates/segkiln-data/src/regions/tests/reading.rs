//! TIFFs of `tests/parity/regions.py` and `tests/parity/tiff_matrix.py`, read by region.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    sync::Arc,
};

use ::tiff::encoder::{Rational, TiffEncoder, colortype};
use flate2::read::ZlibDecoder;

use super::*;
use crate::Limits;

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

/// What only the reader of regions decodes is read into memory by it.
#[test]
fn images_in_zstd_and_webp_are_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let (mut read, mut refused) = (0, 0);
    for Entry { name, tiff, expected } in matrix(&fixture("matrix").with_extension("bin")) {
        let (true, Ok((bands, values, within))) = (name.contains("zstd") || name.contains("webp"), expected) else {
            continue;
        };
        fs::write(&path, tiff).unwrap();
        let mode = match bands {
            1 => ColorMode::Gray,
            4 => ColorMode::Rgba,
            _ => ColorMode::Rgb,
        };
        match crate::read_image(&path, mode, DecodeOptions::default()) {
            Ok(image) => {
                read += 1;
                let same =
                    |(found, expected): (&f32, &f32)| (found - expected).abs() <= within * expected.abs().max(1.0);
                assert_eq!(image.as_slice().len(), values.len(), "{name}");
                assert!(image.as_slice().iter().zip(values.iter()).all(same), "{name}");
            }
            Err(error) => {
                refused += 1;
                let error = error.to_string();
                let named = ["signed and 64-bit", "bits a sample", "colors of type", "FillOrder 2"];
                assert!(error.contains("a.tif") && named.iter().any(|part| error.contains(part)), "{name}: {error}");
            }
        }
    }
    assert!(read > 5, "{read} read, {refused} refused");
    println!("{read} read, {refused} refused");
    // The depth of the file stays, and limits hold.
    let path = fixture("zstd_u16");
    let ::image::DynamicImage::ImageLuma16(found) = crate::read_dynamic(&path, DecodeOptions::default()).unwrap()
    else {
        panic!("it is not gray of 16 bits");
    };
    let numbers = (0..70).flat_map(|y| (0..90).map(move |x| 257 * value(y, x, 0) as u16));
    assert!(found.into_raw().into_iter().eq(numbers));
    let limits = Limits { max_bytes: 4 * 90 * 70 - 1, ..Limits::default() };
    let error = crate::read_image(&path, ColorMode::Gray, &limits).unwrap_err().to_string();
    assert!(error.contains("zstd_u16.tif") && error.contains("limit"), "{error}");
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

/// Pages of gray pixels of these sizes, with the numbers that their tag NewSubfileType has.
fn paged(path: &Path, pages: &[([u32; 2], u32)]) -> TiffSource {
    let mut file = TiffEncoder::new(fs::File::create(path).unwrap()).unwrap();
    for ([width, height], kind) in pages {
        let mut image = file.new_image::<colortype::Gray8>(*width, *height).unwrap();
        image.encoder().write_tag(::tiff::tags::Tag::NewSubfileType, *kind).unwrap();
        image.write_data(&vec![7; (width * height) as usize]).unwrap();
    }
    TiffSource::open(path, DecodeOptions::default()).unwrap()
}

#[test]
fn pages_of_a_stack_are_no_levels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pages.tif");
    let full = ([100, 61], 0);
    for (pages, levels) in [
        // Pages that do not say what they are: halves, in whatever way they are rounded, and each smaller than the last.
        (vec![full, ([50, 31], 0), ([25, 15], 0)], vec![50, 25]),
        (vec![full, ([25, 16], 0)], vec![25]),
        (vec![full, ([25, 15], 0), ([50, 30], 0)], vec![25]),
        // The shape alone is not enough: a thumbnail, a third.
        (vec![full, ([41, 25], 0), ([50, 31], 0)], vec![50]),
        (vec![full, ([33, 20], 0)], vec![]),
        // Those that say so may be of any size.
        (vec![full, ([33, 20], 1), ([60, 37], 1), ([33, 40], 1)], vec![60, 33]),
        // A stack, of one size or with reduced copies behind each.
        (vec![full, full, ([50, 31], 0)], vec![]),
        (vec![full, ([50, 31], 1), full, ([25, 15], 1)], vec![50]),
        // A larger picture is another one.
        (vec![full, ([50, 31], 0), ([120, 90], 0), ([25, 15], 0)], vec![50]),
    ] {
        let source = paged(&path, &pages);
        let found: Vec<u32> = source.levels()[1..].iter().map(|level| level.width).collect();
        assert_eq!(found, levels, "{pages:?}");
    }
}

#[test]
fn a_screens_resolution_is_none() {
    let resolution = |unit: u16, pixels: [u32; 2]| GeoTags {
        tags: vec![
            (282, TagValue::Rationals(vec![pixels])),
            (283, TagValue::Rationals(vec![pixels])),
            (296, TagValue::Shorts(vec![unit])),
        ],
    };
    for (unit, pixels) in [(2, [72, 1]), (2, [960_000, 10_000]), (3, [28_346, 1000]), (1, [400, 1])] {
        assert_eq!(resolution(unit, pixels).microns_per_pixel(), None, "{pixels:?} in unit {unit}");
    }
    for (unit, pixels, microns) in
        [(2, [300, 1], 25_400.0 / 300.0), (3, [40_000, 1], 0.25), (3, [72, 1], 10_000.0 / 72.0)]
    {
        let found = resolution(unit, pixels).microns_per_pixel().unwrap();
        assert!(found.iter().all(|found| (found - microns).abs() < 1e-9), "{found:?}");
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

#[test]
fn floats_that_can_only_mark_missing_data_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scene.tif");
    let mut values = [0.5f32; 32];
    values[9] = -3.4e38;
    TiffEncoder::new(fs::File::create(&path).unwrap())
        .unwrap()
        .write_image::<colortype::Gray32Float>(8, 4, &values)
        .unwrap();
    let all = Region { left: 0, top: 0, width: 8, height: 4 };
    let error = TiffSource::open(&path, DecodeOptions::default()).unwrap().read(0, all).unwrap_err().to_string();
    assert!(error.contains("scene.tif: pixel (x 1, y 1)") && error.contains("nodata"), "{error}");
    let options = DecodeOptions { nodata: Some(-3.4e38), ..DecodeOptions::default() };
    let read = TiffSource::open(&path, options).unwrap().read(0, all).unwrap();
    assert_eq!(read.missing.iter().position(|missing| *missing), Some(9));
}
