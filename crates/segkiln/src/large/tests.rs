use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use burn::tensor::Device;
use segkiln_core::{Classes, LabelMap, Size};
use segkiln_data::{
    ColorMode, DecodeOptions, Image, Normalize,
    regions::{Area, GeoTags, MapRows, MemorySource, ResampledSource, SelectedSource, TagValue, TiffSource},
};
use segkiln_models::{ModelCard, ModelConfig, SegmentationNetworkConfig, unet::UNetConfig};

use super::*;
use crate::SegmentOptions;

fn segmenter(depth: usize, classes: usize) -> Segmenter {
    let device = Device::default();
    device.seed(5);
    let model = ModelConfig::UNet(UNetConfig::new(3, classes).with_base(8).with_depth(depth));
    let names = (0..classes).map(|class| format!("class {class}"));
    let card = ModelCard {
        classes: Classes::new(names).unwrap(),
        color: Some(ColorMode::Rgb),
        normalize: Normalize::imagenet(),
        model: model.clone(),
    };
    Segmenter::new(model.init(&device), card, &device).unwrap()
}

/// A picture whose pixels do not repeat, and how often it was read.
struct Noise(MemorySource, AtomicUsize);

impl Noise {
    fn new(width: u32, height: u32) -> Self {
        let value = |index: u32| {
            let bits = index.wrapping_add(1).wrapping_mul(0x9E37_79B9);
            f32::from(((bits ^ bits >> 15).wrapping_mul(0x85EB_CA6B) >> 24) as u8) / 255.0
        };
        let image = Image::new(width, height, 3, (0..3 * width * height).map(value).collect()).unwrap();
        Self(MemorySource::new(image, "noise"), AtomicUsize::new(0))
    }
}

impl RegionSource for Noise {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn levels(&self) -> &[Level] {
        self.0.levels()
    }

    fn bands(&self) -> usize {
        3
    }

    fn read(&self, level: usize, region: Region) -> Result<RegionPixels, DataError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read(level, region)
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn path(&self) -> PathBuf {
        self.0.path().join("map.tif")
    }

    fn map(&self) -> Vec<u8> {
        let source = TiffSource::open(self.path(), DecodeOptions::default()).unwrap();
        let Level { width, height, .. } = source.levels()[0];
        let pixels = source.read(0, Region { left: 0, top: 0, width, height }).unwrap();
        pixels.image.as_slice().iter().map(|value| (value * 255.0).round() as u8).collect()
    }
}

fn whole(segmenter: &Segmenter, source: &impl RegionSource) -> Vec<u8> {
    let Level { width, height, .. } = source.levels()[0];
    let image = source.read(0, Region { left: 0, top: 0, width, height }).unwrap().image;
    let options = SegmentOptions { tile: Some(width.max(height)), ..SegmentOptions::default() };
    let result = segmenter.segment_values(&image, &options).unwrap();
    result.map().as_slice().iter().map(|label| *label as u8).collect()
}

#[test]
fn tiles_with_margins_are_the_whole_picture() {
    let classes = |map: &[u8]| (0..4).filter(|class| map.contains(class)).count();
    // Other tests draw from the device's random numbers at the same time, so the weights may be such that say little.
    let tells_apart = |segmenter: &Segmenter| classes(&whole(segmenter, &Noise::new(129, 128))) > 1;
    let segmenter = (0..50).map(|_| segmenter(2, 4)).find(tells_apart).expect("networks of several classes");
    for (width, height) in [(700, 530), (129, 1000), (384, 385)] {
        let place = Place(tempfile::tempdir().unwrap());
        let source = Noise::new(width, height);
        let options = LargeOptions { tile: 384, ..LargeOptions::default() };
        let sink = segmenter.map_sink(&source, place.path(), &options, None).unwrap();
        let mut last = None;
        let seams = segmenter.segment_large(&source, &options, sink, |progress| last = Some(progress)).unwrap();
        assert_eq!(seams, Seams::Margin(128));
        let Progress { done, tiles, .. } = last.unwrap();
        assert_eq!((done, tiles), (tiles, (width.div_ceil(128) * height.div_ceil(128)) as usize));
        let expected = whole(&segmenter, &source);
        let wrong = place.map().iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!(wrong, 0, "{width}x{height}");
        assert!(classes(&expected) > 1, "the map is of one class");
    }
}

#[test]
fn tiles_without_room_for_margins_are_blended() {
    let segmenter = segmenter(2, 2);
    let place = Place(tempfile::tempdir().unwrap());
    let source = Noise::new(200, 300);
    let options = LargeOptions { tile: 96, ..LargeOptions::default() };
    assert_eq!(segmenter.seams(&source, &options).unwrap(), Seams::Blended);
    let sink = segmenter.map_sink(&source, place.path(), &options, None).unwrap();
    segmenter.segment_large(&source, &options, sink, |_| ()).unwrap();
    let image = source.read(0, Region { left: 0, top: 0, width: 200, height: 300 }).unwrap().image;
    let same = SegmentOptions { tile: Some(96), ..SegmentOptions::default() };
    let expected = segmenter.segment_values(&image, &same).unwrap();
    assert!(place.map().iter().zip(expected.map().as_slice()).all(|(a, b)| u32::from(*a) == *b));
}

#[test]
fn a_map_goes_on_where_it_was_interrupted() {
    let segmenter = segmenter(1, 3);
    let source = Noise::new(300, 900);
    let options = LargeOptions { tile: 384, ..LargeOptions::default() };
    let [place, other] = [(); 2].map(|()| Place(tempfile::tempdir().unwrap()));
    let sink = |place: &Place| segmenter.map_sink(&source, place.path(), &options, Some("noise".into())).unwrap();
    segmenter.segment_large(&source, &options, sink(&other), |_| ()).unwrap();
    let all = source.1.swap(0, Ordering::Relaxed);
    // A process that ends after 600 rows.
    let mut begun = sink(&place);
    let rows: Vec<u32> = other.map()[..300 * 600].iter().map(|label| u32::from(*label)).collect();
    begun.push_rows(MapRows { top: 0, labels: &rows, probabilities: &[] }).unwrap();
    drop(begun);
    segmenter.segment_large(&source, &options, sink(&place), |_| ()).unwrap();
    assert_eq!(place.map(), other.map());
    let again = source.1.load(Ordering::Relaxed);
    assert_eq!(again, all / 2, "of 8 rows of tiles the 4 that hold 512 rows are there");
}

#[test]
fn results_are_written_at_another_level_than_the_one_that_is_read() {
    /// The picture on the earth, with pixels of 2 m.
    struct Scene(Noise);

    impl RegionSource for Scene {
        fn path(&self) -> &Path {
            self.0.path()
        }

        fn levels(&self) -> &[Level] {
            self.0.levels()
        }

        fn bands(&self) -> usize {
            3
        }

        fn geo(&self) -> GeoTags {
            GeoTags::of(vec![
                (33_550, TagValue::Doubles(vec![2.0, 2.0, 0.0])),
                (33_922, TagValue::Doubles(vec![0.0, 0.0, 0.0, 500.0, 900.0, 0.0])),
            ])
        }

        fn read(&self, level: usize, region: Region) -> Result<RegionPixels, DataError> {
            self.0.read(level, region)
        }
    }

    let segmenter = segmenter(1, 3);
    let (full, half) = (Size { width: 701, height: 530 }, Size { width: 280, height: 212 });
    for tile in [384, 96] {
        let source = ResampledSource::new(Scene(Noise::new(full.width, full.height)), half).unwrap();
        let options = LargeOptions { tile, level: 1, ..LargeOptions::default() };
        let [plain, large, both] = [(); 3].map(|()| Place(tempfile::tempdir().unwrap()));
        let sink = segmenter.map_sink(&source, plain.path(), &options, None).unwrap();
        segmenter.segment_large(&source, &options, sink, |_| ()).unwrap();
        let options = LargeOptions { result_level: Some(0), ..options };
        let sink = segmenter.map_sink(&source, large.path(), &options, None).unwrap();
        segmenter.segment_large(&source, &options, sink, |_| ()).unwrap();
        let (plain_map, large_map) = (plain.map(), large.map());
        assert_eq!(large_map.len(), (full.width * full.height) as usize);
        let nearest = |at: u32, from: u32, to: u32| ((f64::from(at) + 0.5) * f64::from(from) / f64::from(to)) as usize;
        for (at, label) in (0..).zip(&large_map) {
            let x = nearest(at % full.width, half.width, full.width);
            let y = nearest(at / full.width, half.height, full.height);
            assert_eq!(*label, plain_map[y * half.width as usize + x], "pixel {at}");
        }
        let transform = |place: &Place| {
            TiffSource::open(place.path(), DecodeOptions::default()).unwrap().geo().transform().unwrap()
        };
        let across = 2.0 * 701.0 / 280.0;
        assert_eq!(transform(&plain), [across, 0.0, 500.0, 0.0, -5.0, 900.0]);
        assert_eq!(transform(&large), [2.0, 0.0, 500.0, 0.0, -2.0, 900.0]);

        // The map and the probabilities in one go: these are of the level that is read.
        let map = segmenter.map_sink(&source, both.path(), &options, None).unwrap();
        let path = both.0.path().join("probabilities.tif");
        let at_level = LargeOptions { result_level: None, ..options.clone() };
        let probabilities = segmenter.probability_sink(&source, &path, &at_level, None).unwrap();
        segmenter.segment_large(&source, &options, (map, Some(probabilities)), |_| ()).unwrap();
        assert_eq!(both.map(), large_map);
        let probabilities = TiffSource::open(&path, DecodeOptions::default()).unwrap();
        assert_eq!((probabilities.bands(), probabilities.levels()[0].size()), (3, half));
        let all = Region { left: 0, top: 0, width: half.width, height: half.height };
        let values = probabilities.read(0, all).unwrap().image;
        for (pixel, label) in values.as_slice().chunks_exact(3).zip(&plain_map) {
            assert!((pixel.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{pixel:?}");
            assert!(pixel.iter().all(|value| *value <= pixel[usize::from(*label)]), "{pixel:?} {label}");
        }
    }
}

#[test]
fn what_cannot_be_written_ends_the_work() {
    struct Full;

    impl RowSink for Full {
        fn rows_written(&self) -> u32 {
            0
        }

        fn wants_probabilities(&self) -> bool {
            false
        }

        fn push_rows(&mut self, _: MapRows<'_>) -> Result<(), DataError> {
            Err(DataError::Encode { path: "full.tif".into(), reason: "the disk is full".into() })
        }

        fn finish(self) -> Result<(), DataError> {
            Ok(())
        }
    }

    let source = Noise::new(300, 2000);
    let options = LargeOptions { tile: 384, ..LargeOptions::default() };
    let error = segmenter(1, 2).segment_large(&source, &options, Full, |_| ()).unwrap_err().to_string();
    assert!(error.contains("full.tif") && error.contains("the disk is full"), "{error}");
    // Not after all tiles, of which there are 48.
    assert!(source.1.load(Ordering::Relaxed) < 20);
}

#[test]
fn pixels_without_data_are_class_0_and_change_nothing_beside_them() {
    struct Holes(Noise);

    impl RegionSource for Holes {
        fn path(&self) -> &Path {
            self.0.path()
        }

        fn levels(&self) -> &[Level] {
            self.0.levels()
        }

        fn bands(&self) -> usize {
            3
        }

        fn read(&self, level: usize, region: Region) -> Result<RegionPixels, DataError> {
            let mut pixels = self.0.read(level, region)?;
            let columns = region.left..region.left + region.width;
            let row: Vec<bool> = columns.map(|x| x >= 256).collect();
            pixels.missing = row.repeat(region.height as usize);
            let values = pixels.image.as_mut_slice().chunks_exact_mut(3).zip(&pixels.missing);
            values.filter(|(_, missing)| **missing).for_each(|(pixel, _)| pixel.fill(f32::NAN));
            Ok(pixels)
        }
    }

    let segmenter = segmenter(1, 3);
    let source = Holes(Noise::new(900, 200));
    let place = Place(tempfile::tempdir().unwrap());
    let options = LargeOptions { tile: 384, ..LargeOptions::default() };
    let sink = segmenter.map_sink(&source, place.path(), &options, None).unwrap();
    segmenter.segment_large(&source, &options, sink, |_| ()).unwrap();
    let (map, plain) = (place.map(), whole(&segmenter, &source.0));
    let mut seen = 0;
    for (pixel, label) in map.iter().enumerate() {
        match pixel % 900 {
            256.. => assert_eq!(*label, 0),
            // What the network does not see the hole from.
            ..240 => {
                assert_eq!(*label, plain[pixel]);
                seen += usize::from(*label > 0);
            }
            _ => {}
        }
    }
    assert!(seen > 0);
}

#[test]
fn tiles_outside_of_an_area_are_not_read() {
    let segmenter = segmenter(1, 3);
    let places = [(); 2].map(|()| Place(tempfile::tempdir().unwrap()));
    for tile in [384, 96] {
        let options = LargeOptions { tile, ..LargeOptions::default() };
        let map = |source: &dyn Fn() -> Box<dyn RegionSource>, place: &Place| {
            let source = source();
            let sink = segmenter.map_sink(&source, place.path(), &options, None).unwrap();
            let seams = segmenter.segment_large(&source, &options, sink, |_| ()).unwrap();
            assert_eq!(seams == Seams::Blended, tile == 96);
            place.map()
        };
        let all = map(&|| Box::new(Noise::new(500, 300)), &places[0]);
        // Columns 250 and 251 of 500: tiles of columns 128 to 255 are read, of 96 those that have them.
        let mask = LabelMap::new(250, 1, (0..250).map(|x| u32::from(x == 125)).collect()).unwrap();
        let area = Area::of_mask(mask).unwrap();
        let selected = map(&|| Box::new(SelectedSource::new(Noise::new(500, 300), vec![area.clone()])), &places[1]);
        let mut seen = 0;
        for (pixel, label) in selected.iter().enumerate() {
            let x = pixel % 500;
            match tile {
                384 if (128..256).contains(&x) => {
                    assert_eq!(*label, all[pixel]);
                    seen += usize::from(*label > 0);
                }
                384 => assert_eq!(*label, 0),
                // What no tile covers that has these columns.
                _ if !(154..348).contains(&x) => assert_eq!(*label, 0),
                _ => seen += usize::from(*label > 0),
            }
        }
        assert!(seen > 0);
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let segmenter = segmenter(1, 2);
    let source = Noise::new(20, 20);
    for (options, name) in [
        (LargeOptions { tile: 8, ..Default::default() }, "tile"),
        (LargeOptions { level: 1, ..Default::default() }, "level"),
        (LargeOptions { result_level: Some(1), ..Default::default() }, "result_level"),
        (LargeOptions { overlap: 1.0, ..Default::default() }, "overlap"),
        (LargeOptions { skip_below: f32::NAN, ..Default::default() }, "skip_below"),
    ] {
        let error = segmenter.seams(&source, &options).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
