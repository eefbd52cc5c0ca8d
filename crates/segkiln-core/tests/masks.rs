//! Boxes and masks against pycocotools and torchvision (`tests/parity/masks.py`).

use std::fs;

use segkiln_core::{BBox, CoreError, Rle};
use serde::Deserialize;
use serde_json::Value;

fn cases(section: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/masks.json");
    let fixture: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    fixture[section].as_array().unwrap().clone()
}

fn read<T: for<'de> Deserialize<'de>>(value: &Value) -> T {
    T::deserialize(value).unwrap()
}

fn size(case: &Value) -> [u32; 2] {
    [read(&case["width"]), read(&case["height"])]
}

fn mask(case: &Value, string: &Value) -> Rle {
    let [width, height] = size(case);
    Rle::from_string(width, height, string.as_str().unwrap()).unwrap()
}

#[test]
fn runs_are_pycocotools() {
    for case in cases("rle") {
        let ([width, height], counts) = (size(&case), read::<Vec<u32>>(&case["counts"]));
        let rle = Rle::new(width, height, &counts).unwrap();
        assert_eq!(rle.counts(), counts);
        assert_eq!(rle.to_coco_string(), case["string"].as_str().unwrap());
        assert_eq!(mask(&case, &case["string"]), rle);
        assert_eq!(rle.area(), read::<u32>(&case["area"]));
        assert_eq!(rle.bbox().map_or([0.0; 4], |bbox| bbox.xywh()), read::<[f64; 4]>(&case["bbox"]));
        let pixels = rle.to_mask();
        let again = Rle::from_fn(width, height, |x, y| pixels[y as usize * width as usize + x as usize]).unwrap();
        assert_eq!(again, rle);
        let json = serde_json::to_string(&rle).unwrap();
        assert_eq!(serde_json::from_str::<Rle>(&json).unwrap(), rle);
    }
}

#[test]
fn unions_and_intersections_are_pycocotools() {
    for case in cases("merge") {
        let masks: Vec<Rle> = case["strings"].as_array().unwrap().iter().map(|string| mask(&case, string)).collect();
        let union = masks.iter().skip(1).fold(masks[0].clone(), |all, mask| all.union(mask).unwrap());
        let both = masks.iter().skip(1).fold(masks[0].clone(), |all, mask| all.intersection(mask).unwrap());
        assert_eq!(union, mask(&case, &case["union"]));
        assert_eq!(both, mask(&case, &case["intersection"]));
    }
}

#[test]
fn mask_overlaps_are_pycocotools() {
    for case in cases("iou") {
        let [dt, gt] = ["dt", "gt"]
            .map(|name| case[name].as_array().unwrap().iter().map(|string| mask(&case, string)).collect::<Vec<_>>());
        let (crowd, matrix): (Vec<u8>, Vec<Vec<f64>>) = (read(&case["iscrowd"]), read(&case["matrix"]));
        for (dt, row) in dt.iter().zip(&matrix) {
            for ((gt, crowd), expected) in gt.iter().zip(&crowd).zip(row) {
                assert!((dt.iou(gt, *crowd == 1).unwrap() - expected).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn polygons_are_pycocotools_pixel_by_pixel() {
    for case in cases("polygons") {
        let ([width, height], polygons) = (size(&case), read::<Vec<Vec<f64>>>(&case["polygons"]));
        for (polygon, string) in polygons.iter().zip(case["strings"].as_array().unwrap()) {
            let rle = Rle::from_polygons(width, height, &[polygon]).unwrap();
            assert_eq!(rle.to_coco_string(), string.as_str().unwrap(), "{}: {polygon:?}", case["kind"]);
        }
        let union = Rle::from_polygons(width, height, &polygons).unwrap();
        assert_eq!(union, mask(&case, &case["union"]), "{}", case["kind"]);
    }
}

#[test]
fn box_overlaps_are_torchvision_s() {
    for case in cases("boxes") {
        let [a, b] = ["a", "b"].map(|name| BBox::try_from(read::<[f64; 4]>(&case[name])).unwrap());
        for (name, actual) in [("iou", a.iou(&b)), ("giou", a.giou(&b)), ("diou", a.diou(&b)), ("ciou", a.ciou(&b))] {
            let expected: f64 = read(&case[name]);
            assert!((actual - expected).abs() < 1e-12, "{name} of {a:?} and {b:?}: {actual}, not {expected}");
        }
    }
}

#[test]
fn wrong_masks_are_refused() {
    assert!(matches!(Rle::new(0, 3, &[0]), Err(CoreError::MaskSize { .. })));
    assert!(matches!(Rle::new(1 << 16, 1 << 16, &[]), Err(CoreError::MaskSize { .. })));
    assert!(matches!(Rle::new(2, 3, &[1, 4]), Err(CoreError::MaskCounts { actual: 5, .. })));
    assert!(matches!(Rle::new(2, 3, &[u32::MAX, u32::MAX]), Err(CoreError::MaskCounts { .. })));
    assert_eq!(Rle::new(2, 3, &[1, 0, 2, 0, 0, 3]).unwrap().counts(), [3, 3]);
    for string in ["6P", "6 ", "é", "oooooooooo0", "@"] {
        let wrong = Rle::from_string(2, 3, string);
        assert!(matches!(wrong, Err(CoreError::MaskString { .. })), "{string:?}: {wrong:?}");
    }
    let [a, b] = [[2, 3], [3, 2]].map(|[width, height]| Rle::new(width, height, &[6]).unwrap());
    assert!(matches!(a.iou(&b, false), Err(CoreError::MaskMismatch { .. })));
    for polygon in [&[0.0, 0.0, 1.0, 1.0][..], &[0.0; 7], &[0.0, f64::NAN, 1.0, 1.0, 2.0, 0.0], &[1e9; 6]] {
        assert!(matches!(Rle::from_polygons(4, 4, &[polygon]), Err(CoreError::Polygon { index: 0, .. })));
    }
}

#[test]
fn a_polygon_far_outside_costs_nothing() {
    let rle = Rle::from_polygons(5, 5, &[[-1e8, -1e8, 1e8, -1e8, 1e8, 1e8, -1e8, 1e8]]).unwrap();
    assert_eq!(rle.area(), 25);
}

#[test]
fn many_polygons_take_no_square_of_time() {
    let square = |i: u32| {
        let (x, y) = (f64::from(i % 1000) * 4.0, f64::from(i / 1000) * 4.0);
        vec![x, y, x + 2.0, y, x + 2.0, y + 2.0, x, y + 2.0]
    };
    let polygons: Vec<Vec<f64>> = (0..200_000).map(square).collect();
    let start = std::time::Instant::now();
    let mask = Rle::from_polygons(4000, 800, &polygons).unwrap();
    assert_eq!(mask.area(), 800_000);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
