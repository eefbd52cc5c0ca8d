//! Non-maximum suppression against torchvision (`tests/parity/nms.py`).

use std::fs;

use segkiln_ops::{batched_nms, nms};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    classes: Vec<u32>,
    threshold: f64,
    kept: Vec<usize>,
    kept_by_class: Vec<usize>,
}

#[test]
fn keeps_what_torchvision_keeps() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nms.json");
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for Case { boxes, scores, classes, threshold, kept, kept_by_class } in cases {
        assert_eq!(nms(&boxes, &scores, threshold), kept);
        assert_eq!(batched_nms(&boxes, &scores, &classes, threshold), kept_by_class);
    }
}
