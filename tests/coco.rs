//! Detections evaluated as by pycocotools (`tests/parity/coco.py`), and files that cannot be.

mod common;

use std::{fs, path::Path};

use common::{example, run_badly, run_well};
use segkiln::{
    coco_evaluate,
    core::BBox,
    data::coco::{CocoFile, CocoResultFile},
    metrics::{
        coco::{CocoEvaluator, CocoParams, IouType},
        voc::{VocApForm, VocEvaluator, VocPrediction, VocTruth},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

fn fixture(section: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../segkiln-metrics/tests/fixtures/coco.json");
    serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap()[section].take()
}

fn read<T: for<'de> Deserialize<'de>>(value: &Value) -> T {
    T::deserialize(value).unwrap()
}

#[track_caller]
fn near(actual: f64, expected: &Value, what: &str) {
    let expected: f64 = read(expected);
    assert!((actual - expected).abs() < 1e-9, "{what}: {actual}, not {expected}");
}

fn files(folder: &Path, case: &Value) -> (CocoFile, CocoResultFile) {
    let (gt, dt) = (folder.join("gt.json"), folder.join("dt.json"));
    fs::write(&gt, case["gt"].to_string()).unwrap();
    fs::write(&dt, case["dt"].to_string()).unwrap();
    (CocoFile::read(gt).unwrap(), CocoResultFile::read(dt).unwrap())
}

const KINDS: [(&str, IouType); 2] = [("bbox", IouType::Bbox), ("segm", IouType::Segm)];

fn evaluator(case: &Value, iou: IouType, params: CocoParams) -> CocoEvaluator {
    let folder = tempfile::tempdir().unwrap();
    let (truth, found) = files(folder.path(), case);
    coco_evaluate(&truth, &found, iou, params).unwrap()
}

#[test]
fn figures_are_pycocotools() {
    for case in fixture("cases").as_array().unwrap() {
        for (kind, iou) in KINDS.into_iter().filter(|(kind, _)| case.get(kind).is_some()) {
            let (expected, name) = (&case[kind], format!("{} {kind}", case["name"]));
            let evaluator = evaluator(case, iou, CocoParams::default());
            let evaluation = evaluator.evaluate();
            for (index, value) in evaluation.figures().values().into_iter().enumerate() {
                near(value, &expected["stats"][index], &format!("{name}, figure {index}"));
            }
            for class in expected["classes"].as_array().unwrap() {
                let id = Some(read(&class["id"]));
                near(evaluation.precision(id, None, "all", 100), &class["ap"], &name);
                near(evaluation.recall(id, None, "all", 100), &class["ar"], &name);
            }
            if let Some(curve) = expected.get("curve") {
                let ours = evaluator.curve(read(&curve["id"]), 0.5, "all", 100).unwrap();
                assert_eq!(ours.recall.len(), 101);
                for (index, value) in ours.precision.into_iter().enumerate() {
                    near(value, &curve["precision"][index], &format!("{name}, curve at {index}"));
                }
            }
            let params = evaluator.params();
            let settings = params
                .areas
                .iter()
                .flat_map(|area| params.max_detections.iter().map(move |most| (area.name.as_str(), *most)))
                .flat_map(|(area, most)| params.iou_thresholds.iter().map(move |iou| (area, most, *iou)));
            let classes = expected["classes"].as_array().unwrap();
            let (mut precision, mut recall) = (0.0, 0.0);
            for (area, most, iou) in settings {
                for class in classes {
                    let id = Some(read(&class["id"]));
                    precision += 101.0 * evaluation.precision(id, Some(iou), area, most);
                    recall += evaluation.recall(id, Some(iou), area, most);
                }
            }
            let relative = |ours: f64, theirs: &Value| near(ours / 1e4, &json!(read::<f64>(theirs) / 1e4), &name);
            relative(precision, &expected["precision_sum"]);
            relative(recall, &expected["recall_sum"]);

            let params = CocoParams { use_classes: false, ..CocoParams::default() };
            let one_class = self::evaluator(case, iou, params).evaluate().figures();
            for (index, value) in one_class.values().into_iter().enumerate() {
                near(value, &expected["one class"][index], &format!("{name}, without classes, figure {index}"));
            }
        }
    }
}

#[test]
fn parameters_are_pycocotools() {
    let (expected, params) = (fixture("defaults"), CocoParams::default());
    let exact = |name: &str| -> Vec<f64> {
        read::<Vec<String>>(&expected[name]).iter().map(|number| number.parse().unwrap()).collect()
    };
    assert_eq!(params.iou_thresholds, exact("iou"));
    assert_eq!(params.recall_thresholds, exact("recall"));
    let areas: Vec<[f64; 2]> = params.areas.iter().map(|area| [area.from, area.to]).collect();
    assert_eq!(areas, read::<Vec<[f64; 2]>>(&expected["areas"]));
}

#[test]
fn voc_figures_are_the_development_kit_s() {
    for problem in fixture("voc").as_array().unwrap() {
        let mut evaluator = VocEvaluator::new(0.5).unwrap();
        for (number, image) in problem["images"].as_array().unwrap().iter().enumerate() {
            let bbox = |one: &Value| BBox::try_from(read::<[f64; 4]>(&one["bbox"])).unwrap();
            let list = |name: &str| image[name].as_array().unwrap().clone();
            let truths: Vec<VocTruth> = list("truths")
                .iter()
                .map(|one| VocTruth { class: read(&one["class"]), bbox: bbox(one), difficult: read(&one["difficult"]) })
                .collect();
            let found: Vec<VocPrediction> = list("found")
                .iter()
                .map(|one| VocPrediction { class: read(&one["class"]), bbox: bbox(one), score: read(&one["score"]) })
                .collect();
            evaluator.add_image(number as i64, &truths, &found).unwrap();
        }
        for (form, name) in [(VocApForm::ElevenPoints, "eleven"), (VocApForm::Area, "area")] {
            let all: Vec<Value> = read(&problem["ap"]);
            for (class, expected) in all.iter().enumerate() {
                match evaluator.ap(class as i64, form) {
                    Some(ap) => near(ap, &expected[name], name),
                    None => assert!(expected.is_null()),
                }
            }
            let known: Vec<f64> = all.iter().filter(|ap| !ap.is_null()).map(|ap| read(&ap[name])).collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            near(evaluator.mean_ap(form).unwrap(), &json!(mean), name);
        }
    }
}

/// A file with one image, one class and one object, and one result.
fn small() -> Value {
    let runs = json!({ "size": [40, 60], "counts": [100, 20, 2280] });
    json!({
        "gt": {
            "images": [{ "id": 7, "width": 60, "height": 40 }],
            "categories": [{ "id": 3, "name": "cat" }],
            "annotations": [{
                "id": 12, "image_id": 7, "category_id": 3, "bbox": [1, 2, 20, 20], "area": 400, "iscrowd": 0,
                "segmentation": runs,
            }],
        },
        "dt": [{ "image_id": 7, "category_id": 3, "bbox": [1, 2, 20, 20], "score": 0.5, "segmentation": runs }],
    })
}

#[test]
fn the_program_prints_twelve_figures() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path(), &small());
    let program = |kind: &str| {
        let mut command = example("coco_eval");
        command.arg("--gt").arg(folder.path().join("gt.json")).arg("--dt").arg(folder.path().join("dt.json"));
        command.args(["--iou", kind]);
        command
    };
    for kind in ["bbox", "segm"] {
        let stats = &run_well(program(kind).args(["--seed", "3", "--device", "flex"]))["stats"];
        for (index, expected) in [1, 1, 1, 1, -1, -1, 1, 1, 1, 1, -1, -1].into_iter().enumerate() {
            near(read(&stats[index]), &json!(expected), &format!("{kind} {index}"));
        }
    }
    let table = common::run(&mut program("bbox")).stdout;
    let first = " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000";
    let last = " Average Recall     (AR) @[ IoU=0.50:0.95 | area= large | maxDets=100 ] = -1.000";
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[11]), (13, first, last));

    assert!(run_badly(&mut program("keypoints")).contains("keypoints"));
    fs::write(folder.path().join("dt.json"), "[]").unwrap();
    assert_eq!(run_well(&mut program("bbox"))["stats"][0], 0.0);
}

#[test]
fn what_cannot_be_evaluated() {
    let (bbox, segm) = (IouType::Bbox, IouType::Segm);
    let with = |pointer: &str, value: Value| {
        let mut case = small();
        match value {
            Value::Null => {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                case.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field);
            }
            value => *case.pointer_mut(pointer).unwrap() = value,
        }
        case
    };
    let (one, result) = ("/gt/annotations/0", "/dt/0");
    let runs = |size: [u32; 2], counts: Value| json!({ "size": size, "counts": counts });
    let cases: Vec<(IouType, String, Value, &[&str])> = vec![
        (bbox, format!("{one}/bbox"), Value::Null, &["gt.json", "annotation 12", "`bbox`", "missing"]),
        (bbox, format!("{one}/area"), Value::Null, &["gt.json", "annotation 12", "`area`", "missing"]),
        (segm, format!("{one}/segmentation"), Value::Null, &["gt.json", "annotation 12", "`segmentation`", "missing"]),
        (segm, "/gt/images/0/width".into(), Value::Null, &["gt.json", "image 7", "`width`", "missing"]),
        (bbox, format!("{result}/image_id"), json!(8), &["dt.json", "result number 0", "`image_id`", "gt.json", "8"]),
        (bbox, format!("{result}/image_id"), json!("7"), &["dt.json", "result number 0", "`image_id`", "\"7\""]),
        (
            bbox,
            "/dt".into(),
            json!([small()["dt"][0], { "image_id": 7, "category_id": 3, "score": 1 }]),
            &["result number 1", "`bbox`"],
        ),
        (
            bbox,
            "/dt".into(),
            json!([{ "image_id": 7, "category_id": 3, "score": 1 }]),
            &["result number 0", "`segmentation`"],
        ),
        (
            segm,
            format!("{one}/segmentation"),
            runs([60, 40], json!([2400])),
            &["annotation 12", "`segmentation`", "40x60", "60x40"],
        ),
        (
            segm,
            format!("{one}/segmentation"),
            runs([40, 60], json!([2000, 4_000_000_000u32])),
            &["annotation 12", "`segmentation`", "4000002000"],
        ),
        (
            segm,
            format!("{result}/segmentation"),
            runs([40, 60], json!("0\u{1}")),
            &["dt.json", "result number 0", "`segmentation`", "character 1"],
        ),
        (
            segm,
            format!("{result}/segmentation"),
            runs([40, 60], json!("ooooooooooooo")),
            &["dt.json", "`segmentation`"],
        ),
        (
            segm,
            format!("{one}/segmentation"),
            json!([[1, 2, 3, 4]]),
            &["annotation 12", "`segmentation`", "three vertices"],
        ),
        (
            segm,
            format!("{one}/segmentation"),
            json!([[1, 2, 3, 4, 1e300, 9]]),
            &["annotation 12", "`segmentation`", "1e8"],
        ),
    ];
    for (iou, pointer, value, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (truth, found) = files(folder.path(), &with(&pointer, value));
        let error = coco_evaluate(&truth, &found, iou, CocoParams::default()).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
    }
    // Masks are not looked at where boxes are compared.
    let case = with("/gt/annotations/0/segmentation", runs([1, 1], json!("?")));
    evaluator(&case, bbox, CocoParams::default());
    let folder = tempfile::tempdir().unwrap();
    let (truth, found) = files(folder.path(), &small());
    let params = CocoParams { iou_thresholds: vec![50.0], ..CocoParams::default() };
    assert!(coco_evaluate(&truth, &found, bbox, params).unwrap_err().to_string().contains("iou_thresholds"));
}
