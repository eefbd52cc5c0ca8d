//! Areas of a picture, and levels that it does not store.

use std::fs;

use segkiln_core::LabelMap;

use super::*;

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
