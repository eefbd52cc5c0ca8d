//! Case of COCO's evaluation.

use std::{fs, path::Path};

use burn::tensor::Device;
use segkiln::{
    coco_evaluate,
    core::Rle,
    data::coco::{CocoFile, CocoResult, CocoResultFile, CocoSegmentation, write_results},
    metrics::coco::{CocoParams, IouType},
};
use serde_json::json;

use crate::{Case, common::Failure, uniform};

/// Reads annotations and results from `$COCO_CASE_DIR`, where they are drawn if they are missing, and evaluates boxes
/// and masks.
pub fn evaluation(images: usize, device: &Device) -> Result<Case, Failure> {
    let kept = std::env::var_os("COCO_CASE_DIR");
    let passing = tempfile::tempdir()?;
    let folder = kept.as_ref().map_or(passing.path(), Path::new);
    let (gt, dt) = (folder.join("gt.json"), folder.join("dt.json"));
    if !gt.exists() {
        draw_problem(images, &gt, &dt, device)?;
    }
    let job = move || -> Result<(), Failure> {
        // Deleted with the case.
        let _ = &passing;
        let (truth, found) = (CocoFile::read(&gt)?, CocoResultFile::read(&dt)?);
        for iou in [IouType::Bbox, IouType::Segm] {
            std::hint::black_box(coco_evaluate(&truth, &found, iou, CocoParams::default())?.evaluate().figures());
        }
        Ok(())
    };
    job()?;
    Ok(Box::new(move || job().expect("it went well before")))
}

/// Images of 256×256 with 20 ellipses of 10 classes each, and 50 detections: these ellipses moved and resized, a fifth
/// of them with any class.
fn draw_problem(images: usize, gt: &Path, dt: &Path, device: &Device) -> Result<(), Failure> {
    const SIDE: u32 = 256;
    let mut values = uniform(images * (20 * 6 + 50 * 8), 1.0, device).into_iter().map(f64::from);
    let mut random = |from: f64, to: f64| from + (to - from) * values.next().expect("as many are drawn");
    let (mut annotations, mut results) = (Vec::new(), Vec::new());
    for image in 1..=images as i64 {
        let mut shapes = Vec::new();
        for _ in 0..20 {
            let shape = [random(10.0, 246.0), random(10.0, 246.0), random(3.0, 40.0), random(3.0, 40.0)];
            let (class, crowd) = (random(1.0, 11.0) as i64, random(0.0, 1.0) < 0.03);
            let mask = ellipse(SIDE, shape)?;
            annotations.push(json!({
                "id": annotations.len() + 1, "image_id": image, "category_id": class, "iscrowd": u8::from(crowd),
                "bbox": mask.bbox().map_or([0.0; 4], |bbox| bbox.xywh()), "area": mask.area(),
                "segmentation": CocoSegmentation::from(&mask),
            }));
            shapes.push((shape, class));
        }
        for index in 0..50 {
            let ([x, y, rx, ry], class) = shapes[index % shapes.len()];
            let shape = [
                x + random(-5.0, 5.0),
                y + random(-5.0, 5.0),
                (rx * random(0.7, 1.4)).max(2.0),
                (ry * random(0.7, 1.4)).max(2.0),
            ];
            let (other, changed) = (random(1.0, 11.0) as i64, random(0.0, 1.0) > 0.8);
            let mask = ellipse(SIDE, shape)?;
            results.push(CocoResult {
                image_id: image.into(),
                category_id: if changed { other } else { class },
                bbox: Some(mask.bbox().map_or([0.0; 4], |bbox| bbox.xywh())),
                score: (random(0.0, 1.0) * 1e3).round() / 1e3,
                segmentation: Some(CocoSegmentation::from(&mask)),
            });
        }
    }
    let images: Vec<_> = (1..=images).map(|id| json!({ "id": id, "width": SIDE, "height": SIDE })).collect();
    let categories: Vec<_> = (1..=10).map(|id| json!({ "id": id, "name": id.to_string() })).collect();
    let whole = json!({ "images": images, "categories": categories, "annotations": annotations });
    fs::write(gt, whole.to_string())?;
    write_results(dt, &results)?;
    Ok(())
}

/// The pixels of an ellipse around `(x, y)`, which may be partly outside.
fn ellipse(side: u32, [x, y, rx, ry]: [f64; 4]) -> Result<Rle, Failure> {
    let (mut counts, mut done) = (Vec::new(), 0);
    for column in 0..side {
        let half = ry * (1.0 - ((f64::from(column) - x) / rx).powi(2)).max(0.0).sqrt();
        let [first, end] = [(y - half).ceil(), (y + half).floor() + 1.0].map(|row| row.clamp(0.0, side.into()) as u32);
        if half > 0.0 && first < end {
            counts.extend([column * side + first - done, end - first]);
            done = column * side + end;
        }
    }
    counts.push(side * side - done);
    Ok(Rle::new(side, side, &counts)?)
}
