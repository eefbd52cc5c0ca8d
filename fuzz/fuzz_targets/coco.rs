//! Any text as COCO's annotations and results: an error, or masks and figures, in memory linear in the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segkiln::{
    coco_evaluate,
    data::coco::{CocoFile, CocoResultFile},
    metrics::coco::{CocoParams, IouType},
};
use segkiln_fuzz::{Counting, file, measured, quiet};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Separator of annotations and results in an input.
const BETWEEN: &[u8] = b"\n---\n";

fuzz_target!(init: quiet(&["segkiln"]), |data: &[u8]| {
    let at = data.windows(BETWEEN.len()).position(|window| window == BETWEEN);
    let (truth, found) = at.map_or((data, &b"[]"[..]), |at| (&data[..at], &data[at + BETWEEN.len()..]));
    let (truth, found) = (file("truth.json", truth), file("found.json", found));
    let ((), peak) = measured(|| {
        let Ok(truth) = CocoFile::read(&truth) else { return };
        for annotation in truth.annotations() {
            if let (Ok(Some(mask)), Ok(size)) = (truth.mask(annotation), truth.size(&annotation.image_id)) {
                assert_eq!(mask.size(), size);
            }
        }
        let Ok(found) = CocoResultFile::read(&found) else { return };
        for iou in [IouType::Bbox, IouType::Segm] {
            if let Ok(evaluator) = coco_evaluate(&truth, &found, iou, CocoParams::default()) {
                let stats = evaluator.evaluate().figures().values();
                assert!(stats.iter().all(|value| *value == -1.0 || (0.0..=1.0).contains(value)), "{stats:?}");
            }
        }
    });
    // The figures' tables have 10 x 101 values of each category and area.
    let most = (32 << 20) + 40_000 * data.len();
    assert!(peak <= most, "{peak} bytes for {} bytes", data.len());
});
