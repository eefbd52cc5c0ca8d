//! Maps that are written in tiles.

use std::fs;

use super::*;

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
