//! Against scikit-image, SciPy and rasterio: `tests/parity/instances.py`.

use std::{
    fs,
    path::PathBuf,
    sync::{LazyLock, Mutex},
};

use segkiln_core::{Rle, Size};
use serde_json::Value;

use super::*;
use crate::{
    Image,
    coco::CocoFile,
    regions::{GeoTags, Level, MemorySource, RegionPixels, SampleType, TiffSink, TiffSinkOptions},
};

static FIXTURE: LazyLock<Value> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/instances.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
});

/// A list of values and how often each comes.
fn expected(kind: &str, name: &str) -> Vec<u32> {
    let runs = if name.is_empty() { &FIXTURE[kind] } else { &FIXTURE[kind][name] };
    let runs: Vec<u32> = serde_json::from_value(runs.clone()).unwrap();
    runs.as_chunks::<2>().0.iter().flat_map(|[value, count]| vec![*value; *count as usize]).collect()
}

fn map(width: u32, height: u32, class: impl Fn(u32, u32) -> u32) -> LabelMap {
    let classes = (0..height).flat_map(|y| (0..width).map(move |x| [x, y])).map(|[x, y]| class(x, y)).collect();
    LabelMap::new(width, height, classes).unwrap()
}

fn noise() -> LabelMap {
    map(53, 37, |x, y| (5 * y + 3 * x + x * y / 3 + y * y / 7) % 3)
}

fn discs(width: u32, height: u32, count: u32) -> LabelMap {
    map(width, height, |x, y| {
        let within =
            |k: u32| (x.abs_diff(37 * k % width)).pow(2) + (y.abs_diff(23 * k % height)).pow(2) <= (4 + k % 5).pow(2);
        u32::from((0..count).any(within))
    })
}

fn picture(width: u32, height: u32) -> MemorySource {
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| [x, y]));
    let values =
        pixels.flat_map(|[x, y]| (0..3).map(move |b| ((7 * y + 3 * x + 50 * b + x * y / 11) % 251) as f32 / 255.0));
    MemorySource::new(Image::new(width, height, 3, values.collect()).unwrap(), "picture")
}

fn options(connectivity: Connectivity, min_distance: Option<u32>) -> InstanceOptions {
    let watershed = min_distance.map(|min_distance| WatershedOptions { min_distance, ..Default::default() });
    InstanceOptions { connectivity, watershed, limits: Limits::default() }
}

fn find(map: &(impl LabelRows + ?Sized), options: &InstanceOptions) -> (Vec<u32>, Vec<Object>, Found) {
    let Size { width, height } = map.size();
    let source = picture(width, height);
    let picture = IntensityImage { source: &source, level: 0 };
    let (mut numbers, mut objects) = (Vec::new(), Vec::new());
    let row = |row: &[u32]| {
        numbers.extend_from_slice(row);
        Ok(())
    };
    let mut object = |object| {
        objects.push(object);
        Ok(())
    };
    let found = find_objects(map, Some(picture), options, row, Some(&mut object)).unwrap();
    objects.sort_by_key(|object| object.number);
    (numbers, objects, found)
}

/// A partition numbered anew by first pixels.
fn renumbered(labels: &[u32]) -> Vec<u32> {
    let mut numbers = vec![0; 1 + *labels.iter().max().unwrap() as usize];
    let mut count = 0;
    let number = |label: &u32| match *label as usize {
        0 => 0,
        label => {
            if numbers[label] == 0 {
                count += 1;
                numbers[label] = count;
            }
            numbers[label]
        }
    };
    labels.iter().map(number).collect()
}

const CONNECTIVITIES: [(Connectivity, u32); 2] = [(Connectivity::Four, 1), (Connectivity::Eight, 2)];

#[test]
fn components_are_those_of_scikit_image() {
    for (connectivity, number) in CONNECTIVITIES {
        for (name, map) in [("noise", noise()), ("discs", discs(83, 61, 30))] {
            let (numbers, objects, found) = find(&map, &options(connectivity, None));
            assert_eq!(numbers, expected("labels", &format!("{name}_{number}")), "{name} {connectivity:?}");
            assert_eq!(found, Found { objects: numbers.iter().copied().max().unwrap(), left_whole: 0 });
            assert_eq!(objects.len(), found.objects as usize);
        }
    }
}

#[test]
fn distances_are_those_of_scipy() {
    let mask: Vec<bool> = discs(83, 61, 30).as_slice().iter().map(|class| *class > 0).collect();
    let found: Vec<u32> = distance_squared(&mask, 83).into_iter().map(|distance| distance as u32).collect();
    assert_eq!(found, expected("distances", ""));
    assert_eq!(distance_squared(&[true; 6], 3), [u64::MAX; 6]);
    assert_eq!(distance_squared(&[false], 1), [0]);
}

#[test]
fn components_are_split_as_by_scikit_image() {
    for (connectivity, number) in CONNECTIVITIES {
        for min_distance in [1, 3, 6] {
            let (numbers, _, found) = find(&discs(83, 61, 30), &options(connectivity, Some(min_distance)));
            let expected = expected("splits", &format!("discs_{number}_{min_distance}"));
            let others = numbers.iter().zip(renumbered(&expected)).filter(|(a, b)| **a != *b).count();
            assert_eq!(others, 0, "{connectivity:?}, {min_distance}: {others} pixels differ");
            assert_eq!((found.objects, found.left_whole), (*expected.iter().max().unwrap(), 0));
        }
    }
}

#[test]
fn a_component_without_background_or_too_large_stays_whole() {
    let (numbers, _, found) = find(&LabelMap::filled(9, 7, 3), &options(Connectivity::Four, Some(2)));
    assert_eq!((numbers, found.objects), (vec![1; 63], 1));
    let map = discs(83, 61, 30);
    let mut small = options(Connectivity::Eight, Some(3));
    let (split, _, all) = find(&map, &small);
    small.watershed = Some(WatershedOptions { min_distance: 3, max_window: 900 });
    let (numbers, objects, found) = find(&map, &small);
    assert!(found.left_whole > 0 && found.objects < all.objects, "{found:?}");
    // A component is either whole or as it is without the limit.
    let (components, ..) = find(&map, &options(Connectivity::Eight, None));
    for object in objects {
        let run = object.runs()[0];
        let at = (run.row * 83 + run.start) as usize;
        let same = |labels: &[u32]| (0..labels.len()).all(|p| (labels[p] == labels[at]) == (numbers[p] == numbers[at]));
        assert!(same(&split) || same(&components), "{}", object.number);
    }
}

#[test]
fn rows_that_wait_for_a_component_are_bounded() {
    // A line through all rows, which holds back 144 squares.
    let map = map(40, 90, |x, y| u32::from(x == 0 || x % 5 > 1 && y % 5 > 1));
    let mut options = options(Connectivity::Eight, Some(3));
    let (.., found) = find(&map, &options);
    assert!(found.left_whole == 0 && found.objects > 145, "{found:?}");
    options.limits.max_bytes = 8000;
    assert_eq!(find(&map, &options).2, Found { objects: 145, left_whole: 1 });
}

#[test]
fn outlines_of_parts_that_meet_at_corners_are_apart() {
    // Two parts that meet at two corners, with a hole between them.
    let rows = [[0, 1, 1], [1, 0, 1], [1, 1, 0]];
    let map = map(3, 3, |x, y| rows[y as usize][x as usize]);
    let (_, objects, _) = find(&map, &options(Connectivity::Eight, None));
    let areas: Vec<f64> = objects.iter().flat_map(Object::polygons).map(|polygon| polygon.area()).collect();
    assert_eq!(areas, [3.0, 3.0]);
}

#[test]
fn measures_are_those_of_regionprops() {
    for (name, map, number) in [("noise_1", noise(), 1), ("noise_2", noise(), 2), ("discs_2", discs(83, 61, 30), 2)] {
        let connectivity = CONNECTIVITIES[number - 1].0;
        let (_, objects, _) = find(&map, &options(connectivity, None));
        let expected = FIXTURE["objects"][name].as_array().unwrap();
        assert_eq!(objects.len(), expected.len());
        let close = |value: f64, expected: &Value| (value - expected.as_f64().unwrap()).abs() < 1e-6;
        for (object, expected) in objects.iter().zip(expected) {
            assert_eq!(object.area(), expected["area"].as_u64().unwrap(), "{name} {object:?}");
            assert!((0..2).all(|axis| close(object.centroid()[axis], &expected["centroid"][axis])), "{object:?}");
            assert!(close(object.perimeter(), &expected["perimeter"]), "{} {expected} {object:?}", object.perimeter());
            assert!((0..3).all(|band| close(object.means[band], &expected["means"][band])), "{object:?}");
            let Region { left, top, width, height } = object.bbox();
            assert_eq!(Value::from(vec![top, left, top + height, left + width]), expected["bbox"]);
        }
    }
}

#[test]
fn outlines_are_those_of_rasterio() {
    for (name, map) in [("noise_1", noise()), ("discs_1", discs(83, 61, 30))] {
        let (_, objects, _) = find(&map, &options(Connectivity::Four, None));
        let expected: Vec<[f64; 2]> = serde_json::from_value(FIXTURE["outlines"][name].clone()).unwrap();
        for (object, [area, holes]) in objects.iter().zip(expected) {
            let polygons = object.polygons();
            assert_eq!(polygons.len(), 1, "{object:?}");
            assert_eq!(polygons[0].area(), area, "{object:?}");
            assert_eq!(polygons[0].holes.len(), holes as usize, "{object:?}");
        }
    }
}

/// Returns true for a point inside: a ray from it crosses the rings an odd number of times.
fn contains(polygons: &[Polygon], x: f64, y: f64) -> bool {
    let rings = polygons.iter().flat_map(Polygon::rings);
    let crossed = rings.flat_map(|ring| ring.iter().zip(ring.iter().cycle().skip(1))).filter(|(a, b)| {
        let ([ax, ay], [bx, by]) = (a.map(f64::from), b.map(f64::from));
        (ay > y) != (by > y) && x < ax + (y - ay) / (by - ay) * (bx - ax)
    });
    crossed.count() % 2 == 1
}

#[test]
fn outlines_hold_the_pixels_and_no_ring_touches_itself() {
    for map in [noise(), discs(83, 61, 30)] {
        for (connectivity, _) in CONNECTIVITIES {
            let (numbers, objects, _) = find(&map, &options(connectivity, None));
            for object in &objects {
                let polygons = object.polygons();
                for ring in polygons.iter().flat_map(Polygon::rings) {
                    let mut corners = ring.clone();
                    corners.sort_unstable();
                    corners.dedup();
                    assert_eq!(corners.len(), ring.len(), "{ring:?}");
                }
                let areas: f64 = polygons.iter().map(Polygon::area).sum();
                assert_eq!(areas, object.area() as f64);
                let Region { left, top, width, height } = object.bbox();
                for (x, y) in (top..top + height).flat_map(|y| (left..left + width).map(move |x| (x, y))) {
                    let inside = numbers[(y * map.width() + x) as usize] == object.number;
                    assert_eq!(contains(&polygons, f64::from(x) + 0.5, f64::from(y) + 0.5), inside, "{object:?}");
                }
                // Each polygon is a part that is connected along edges.
                let own = numbers.iter().map(|number| u32::from(*number == object.number)).collect();
                let own = LabelMap::new(map.width(), map.height(), own).unwrap();
                let (_, parts, _) = find(&own, &options(Connectivity::Four, None));
                let areas: Vec<f64> = polygons.iter().map(Polygon::area).collect();
                assert_eq!(areas, parts.iter().map(|part| part.area() as f64).collect::<Vec<_>>());
            }
        }
    }
}

/// Distance of a corner to the nearest edge of a ring.
fn distance(corner: [u32; 2], ring: &[[u32; 2]]) -> f64 {
    let edges = ring.iter().zip(ring.iter().cycle().skip(1));
    let distance = |(a, b): (&[u32; 2], &[u32; 2])| {
        let [[x, y], [ax, ay], [bx, by]] = [corner, *a, *b].map(|at| at.map(f64::from));
        let along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax).powi(2) + (by - ay).powi(2));
        let along = along.clamp(0.0, 1.0);
        (ax + along * (bx - ax) - x).hypot(ay + along * (by - ay) - y)
    };
    edges.map(distance).fold(f64::INFINITY, f64::min)
}

#[test]
fn simplified_outlines_keep_within_the_tolerance() {
    let (_, objects, _) = find(&discs(83, 61, 30), &options(Connectivity::Eight, None));
    let (mut before, mut after) = (0, 0);
    for polygon in objects.iter().flat_map(Object::polygons) {
        let simple = polygon.simplified(1.0);
        before += polygon.rings().map(Vec::len).sum::<usize>();
        after += simple.rings().map(Vec::len).sum::<usize>();
        for (ring, simple) in polygon.rings().zip(simple.rings()) {
            let farthest = ring.iter().map(|corner| distance(*corner, simple)).fold(0.0, f64::max);
            assert!(farthest <= 1.0 + 1e-9, "{farthest}");
        }
        assert_eq!(polygon.simplified(0.0).area(), polygon.area());
    }
    assert!(2 * after < before, "{before} {after}");
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.tif");
    (folder, path)
}

#[test]
fn a_map_in_a_file_gives_the_same_objects() {
    // Wider than a tile, and more than a band of rows high.
    let map = discs(291, 563, 900);
    let (folder, path) = place();
    let (width, height) = (map.width(), map.height());
    let sink = |path: &Path, samples| {
        let geo = GeoTags::default();
        TiffSink::create(path, TiffSinkOptions { width, height, bands: 1, samples, geo, identity: None }).unwrap()
    };
    let mut file = sink(&path, SampleType::U8);
    file.push_labels(map.as_slice()).unwrap();
    file.finish().unwrap();
    let source = TiffSource::open(&path, Default::default()).unwrap();
    for min_distance in [None, Some(3)] {
        let options = options(Connectivity::Eight, min_distance);
        let (numbers, objects, found) = find(&map, &options);
        assert_eq!(find(&source, &options), (numbers.clone(), objects, found));
        // Numbers of 32 bits are written and read as they are.
        let path = folder.path().join("numbers.tif");
        let mut file = sink(&path, SampleType::U32);
        let large: Vec<u32> = numbers.iter().map(|number| number << 22).collect();
        file.push_labels(&large).unwrap();
        file.finish().unwrap();
        let read = TiffSource::open(&path, Default::default()).unwrap().rows(0, height).unwrap();
        assert!(read == large);
    }
    // The watershed of parts that were split on their own is that of the picture as a whole.
    let mask: Vec<bool> = map.as_slice().iter().map(|class| *class > 0).collect();
    let whole = renumbered(&split(&mask, width as usize, Connectivity::Eight, 1));
    let (numbers, ..) = find(&map, &options(Connectivity::Eight, Some(1)));
    assert!(numbers == whole);
}

/// Of 300 × 300 pixels, or the scene in the folder that the variable names.
#[test]
fn objects_of_a_scene_are_those_of_scikit_image() {
    let fixtures = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/instances");
    let folder = std::env::var_os("SEGKILN_INSTANCES").map_or_else(fixtures, PathBuf::from);
    let open = |name: &str| TiffSource::open(folder.join(name).with_extension("tif"), Default::default()).unwrap();
    let map = open("map");
    for (name, min_distance) in [("components", None), ("watershed", Some(7))] {
        let expected = open(name);
        let expected = expected.rows(0, expected.size().height).unwrap();
        let (mut numbers, mut count) = (Vec::new(), 0);
        let row = |row: &[u32]| {
            numbers.extend_from_slice(row);
            Ok(())
        };
        let mut object = |_| {
            count += 1;
            Ok(())
        };
        find_objects(&map, None, &options(Connectivity::Eight, min_distance), row, Some(&mut object)).unwrap();
        let (found, expected) = (renumbered(&numbers), renumbered(&expected));
        let objects = *expected.iter().max().unwrap();
        let wrong = found.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
        println!("{name}: {count} objects, scikit-image {objects}; {wrong} of {} pixels differ", found.len());
        assert_eq!((wrong, count), (0, objects), "{name}");
        assert!(objects > 20);
    }
}

#[test]
fn what_is_held_is_bounded() {
    let mut options = options(Connectivity::Four, None);
    options.limits.max_bytes = 4 * 400;
    let error = Components::of(&noise(), Connectivity::Four, &options.limits).unwrap_err().to_string();
    assert!(error.contains("components") && error.contains("1600 bytes"), "{error}");
    options.limits.max_bytes = 4000;
    let map = map(900, 40, |x, y| u32::from(y == 0 || x % 2 == 0));
    let mut object = |_| Ok(());
    let error = find_objects(&map, None, &options, |_| Ok(()), Some(&mut object)).unwrap_err().to_string();
    assert!(error.contains("column 0 of row 0"), "{error}");
    // Without objects nothing is held.
    assert_eq!(find_objects(&map, None, &options, |_| Ok(()), None).unwrap().objects, 1);
    let (small, picture) = (noise(), picture(3, 3));
    let picture = IntensityImage { source: &picture, level: 0 };
    let error = find_objects(&small, Some(picture), &options, |_| Ok(()), None).unwrap_err().to_string();
    assert!(error.contains("53x37"), "{error}");
}

#[test]
fn objects_are_written() {
    let map = noise();
    let (_, objects, _) = find(&map, &options(Connectivity::Eight, None));
    let (folder, _) = place();
    let path = |name: &str| folder.path().join(name);
    let names: Vec<String> = ["background", "one, \"1\"", "two"].map(String::from).into();
    let scene = Placement { transform: [10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0], epsg: Some(32_632) };
    let pixels = Placement::of(&GeoTags::default(), [4.0, 4.0]);
    for (name, placement, pixel) in [("scene", scene, 100.0), ("pixels", pixels, 16.0)] {
        let options = GeoJsonOptions { placement, names: names.clone(), simplify: 0.0 };
        let mut file = GeoJsonWriter::create(path(name), options).unwrap();
        objects.iter().for_each(|object| file.write(object).unwrap());
        assert!(!path(name).exists(), "not before it is complete");
        file.finish().unwrap();
        let read: Value = serde_json::from_slice(&fs::read(path(name)).unwrap()).unwrap();
        let features = read["features"].as_array().unwrap();
        assert_eq!(features.len(), objects.len());
        for (feature, object) in features.iter().zip(&objects) {
            assert_eq!(feature["id"], object.number);
            assert_eq!(feature["properties"]["area"], object.area());
            assert_eq!(feature["properties"]["name"], names[object.class as usize]);
            let coordinates = feature["geometry"]["coordinates"].clone();
            let polygons: Vec<Vec<Vec<[f64; 2]>>> = match feature["geometry"]["type"].as_str() {
                Some("Polygon") => vec![serde_json::from_value(coordinates).unwrap()],
                _ => serde_json::from_value(coordinates).unwrap(),
            };
            let area = |ring: &Vec<[f64; 2]>| {
                assert_eq!(ring.first(), ring.last());
                // From its first corner, lest large numbers cancel.
                let [x, y] = ring[0];
                let cross = |a: &[f64; 2], b: &[f64; 2]| (a[0] - x) * (b[1] - y) - (b[0] - x) * (a[1] - y);
                ring.iter().zip(&ring[1..]).map(|(a, b)| cross(a, b)).sum::<f64>() / 2.0
            };
            // Outlines are counterclockwise and holes clockwise.
            assert!(
                polygons
                    .iter()
                    .all(|polygon| area(&polygon[0]) > 0.0 && polygon[1..].iter().all(|ring| area(ring) < 0.0))
            );
            let sum: f64 = polygons.iter().flatten().map(area).sum();
            assert!((sum - pixel * object.area() as f64).abs() < 1e-6, "{sum}");
        }
        let crs = read["crs"]["properties"]["name"].as_str();
        assert_eq!(crs, (name == "scene").then_some("urn:ogc:def:crs:EPSG::32632"));
    }
    // Those that a detector found have scores.
    let mut objects = objects;
    objects[0].score = Some(0.25);
    let mut file = CsvWriter::create(path("csv"), &names, 3).unwrap();
    objects.iter().for_each(|object| file.write(object).unwrap());
    file.finish().unwrap();
    let text = fs::read_to_string(path("csv")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + objects.len());
    let first = &objects[0];
    let start = format!("1,{},", first.class);
    assert!(lines[1].starts_with(&start), "{}", lines[1]);
    assert!(text.contains(",\"one, \"\"1\"\"\","), "{text}");
    assert!(lines[1].ends_with(&format!(",0.25,{},{},{}", first.means[0], first.means[1], first.means[2])));
    assert!(lines[2].ends_with(&format!(",,{},{},{}", objects[1].means[0], objects[1].means[1], objects[1].means[2])));
    let mut file = CocoWriter::create(path("coco"), "noise.png", (53, 37).into(), &names).unwrap();
    objects.iter().for_each(|object| file.write(object).unwrap());
    file.finish().unwrap();
    let text = fs::read_to_string(path("coco")).unwrap();
    assert_eq!((text.matches("\"score\"").count(), text.matches("\"score\":0.25").count()), (1, 1));
    let read = CocoFile::read(path("coco")).unwrap();
    assert_eq!(read.annotations().len(), objects.len());
    for (annotation, object) in read.annotations().iter().zip(&objects) {
        let mut pixels = vec![false; 53 * 37];
        for run in object.runs() {
            let first = run.row as usize * 53;
            pixels[first + run.start as usize..first + run.end as usize].fill(true);
        }
        let mask = Rle::from_fn(53, 37, |x, y| pixels[(y * 53 + x) as usize]).unwrap();
        assert_eq!(read.mask(annotation).unwrap(), Some(mask));
    }
    assert!(CocoWriter::create(path("coco"), "large", (1 << 16, 1 << 16).into(), &names).is_err());
    let negative = GeoJsonOptions { placement: pixels, names, simplify: -1.0 };
    assert!(GeoJsonWriter::create(path("none"), negative).is_err());
    assert!(!path("none").exists());
}

#[test]
fn only_tiles_with_objects_are_read_for_their_means() {
    /// A picture without pixels, and the regions of it that were read.
    struct Asked([Level; 1], Mutex<Vec<Region>>);

    impl RegionSource for Asked {
        fn path(&self) -> &Path {
            Path::new("asked")
        }

        fn levels(&self) -> &[Level] {
            &self.0
        }

        fn bands(&self) -> usize {
            1
        }

        fn read(&self, _: usize, region: Region) -> Result<RegionPixels> {
            self.1.lock().unwrap().push(region);
            let rows = region.top..region.top + region.height;
            let values = rows.flat_map(|y| (region.left..region.left + region.width).map(move |x| (x + y) as f32));
            let image = Image::new(region.width, region.height, 1, values.collect()).unwrap();
            Ok(RegionPixels { image, missing: Vec::new() })
        }
    }

    let (width, height) = (1600, 900);
    // One object in the second block of columns, one over the border of blocks and of bands, one in the last row.
    let is_object = |x: u32, y: u32| {
        (600..610).contains(&x) && (10..20).contains(&y)
            || (1020..1030).contains(&x) && (250..262).contains(&y)
            || x == 1599 && y == 899
    };
    let map = map(width, height, |x, y| u32::from(is_object(x, y)));
    let picture = Asked([Level { width, height, scale: 1.0 }], Mutex::default());
    let mut means = Vec::new();
    let mut object = |object: Object| {
        means.push((object.centroid(), object.means[0]));
        Ok(())
    };
    let options = options(Connectivity::Eight, None);
    find_objects(&map, Some(IntensityImage { source: &picture, level: 0 }), &options, |_| Ok(()), Some(&mut object))
        .unwrap();
    assert_eq!(means.len(), 3);
    assert!(means.iter().all(|([x, y], mean)| (x + y - mean).abs() < 1e-9), "{means:?}");
    let regions = picture.1.into_inner().unwrap();
    let pixels: u32 = regions.iter().map(|region| region.width * region.height).sum();
    assert_eq!(regions.len(), 5, "{regions:?}");
    assert!(pixels < 5 * 512 * 256 && regions.iter().all(|region| region.height <= 256), "{regions:?}");
}
