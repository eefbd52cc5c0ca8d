//! Values of `tests/parity/tracking.py`.

use segkiln_core::{BBox, LabelMap};
use serde_json::Value;

use crate::{
    ctc::{CtcEvaluator, CtcTrack},
    kalman::Kalman,
    metrics::{FrameTracks, evaluate},
};

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tracking.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn numbers<const N: usize>(value: &Value) -> [f64; N] {
    let numbers: Vec<f64> = items(value).map(|number| number.as_f64().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[track_caller]
fn check(value: f64, expected: &Value, tolerance: f64, name: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((value - expected).abs() <= tolerance, "{name}: {value}, expected {expected}");
}

#[test]
fn mota_idf1_and_hota_are_those_of_others() {
    let boxes = |value: &Value| -> Vec<(u64, BBox)> {
        let object = |object: &Value| (object[0].as_u64().unwrap(), BBox::try_from(numbers(&object[1])).unwrap());
        items(value).map(object).collect()
    };
    for sequence in items(&fixture()["sequences"]) {
        let frame = |frame: &Value| FrameTracks { truth: boxes(&frame[0]), result: boxes(&frame[1]) };
        let frames: Vec<FrameTracks> = items(&sequence["frames"]).map(frame).collect();
        let scores = evaluate(&frames).unwrap();
        let clear = scores.clear;
        for (name, value) in [
            ("num_switches", clear.switches as f64),
            ("num_misses", clear.misses as f64),
            ("num_false_positives", clear.false_positives as f64),
            ("mota", clear.mota),
            ("motp", 1.0 - clear.motp),
            ("idf1", scores.identity.idf1),
            ("idp", scores.identity.idp),
            ("idr", scores.identity.idr),
            ("HOTA", scores.hota.hota),
            ("DetA", scores.hota.deta),
            ("AssA", scores.hota.assa),
            ("LocA", scores.hota.loca),
        ] {
            check(value, &sequence[name], 1e-9, name);
        }
    }
    let twice = FrameTracks { truth: vec![(1, BBox::new(0.0, 0.0, 1.0, 1.0).unwrap()); 2], result: Vec::new() };
    assert!(evaluate(&[twice]).unwrap_err().to_string().contains("object 1 twice"));
    let nothing = evaluate(&[FrameTracks::default()]).unwrap();
    assert!(nothing.clear.mota.is_nan() && nothing.hota.hota == 0.0);
}

#[test]
fn seg_and_tra_are_those_of_others() {
    for film in items(&fixture()["films"]) {
        let side = film["side"].as_u64().unwrap() as u32;
        let map = |runs: &Value| {
            let runs: Vec<u32> = items(runs).map(|number| number.as_u64().unwrap() as u32).collect();
            let labels = runs.as_chunks::<2>().0.iter().flat_map(|[label, count]| (0..*count).map(|_| *label));
            LabelMap::new(side, side, labels.collect()).unwrap()
        };
        let tracks = |lines: &Value| -> Vec<CtcTrack> {
            let track = |line: &Value| {
                let [label, begin, end, parent] = numbers(line).map(|number| number as u32);
                let parent = (parent > 0).then_some(parent);
                CtcTrack { label, begin: begin as usize, end: end as usize, parent }
            };
            items(lines).map(track).collect()
        };
        let mut evaluator = CtcEvaluator::default();
        for (truth, result) in items(&film["truth"]).zip(items(&film["result"])) {
            evaluator.add(&map(truth), &map(result)).unwrap();
        }
        let scores = evaluator.scores(&tracks(&film["tracks"]), &tracks(&film["found"])).unwrap();
        check(scores.seg, &film["SEG"], 1e-9, "SEG");
        check(scores.det, &film["DET"], 1e-9, "DET");
        check(scores.tra, &film["TRA"], 1e-9, "TRA");
    }
}

#[test]
fn four_filters_of_two_are_one_of_eight() {
    let fixture = &fixture()["kalman"];
    let boxes: Vec<BBox> = items(&fixture["boxes"]).map(|bbox| BBox::from_xywh(numbers(bbox)).unwrap()).collect();
    let unseen = fixture["unseen"].as_u64().unwrap() as usize;
    let mut filter = Kalman::new(&boxes[0]);
    for (frame, state) in (1..).zip(items(&fixture["states"])) {
        filter.predict(frame != unseen + 1);
        if frame != unseen {
            filter.update(&boxes[frame]);
        }
        let found = filter.bbox().unwrap().xywh();
        for (value, expected) in found.into_iter().zip(items(state)) {
            check(value, expected, 1e-9, "state");
        }
    }
}
