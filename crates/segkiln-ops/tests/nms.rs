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

/// Scores of 0 and -0 are equal, and the first comes first; what is not a number is before all, whatever its sign.
#[test]
fn equal_scores_keep_their_order() {
    let boxes = [[0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0], [8.0, 8.0, 9.0, 9.0]];
    assert_eq!(nms(&boxes, &[-0.0, 0.0, 0.5], 0.5), [2, 0, 1]);
    assert_eq!(nms(&boxes, &[0.5, f32::NAN, -f32::NAN], 0.5), [1, 2, 0]);
    assert_eq!(batched_nms(&boxes, &[-0.0, 0.0, 0.5], &[2, 1, 0], 0.5), [2, 0, 1]);
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
