//! The metrics inside burn-train: an epoch's figure is that of all its pixels.
#![cfg(feature = "train")]

use burn::data::dataloader::Progress;
use burn::tensor::{Device, Int, Tensor};
use burn_train::metric::{Metric, MetricMetadata, Numeric, NumericEntry};
use segkiln_core::{BBox, Detection, Instance, Instances};
use segkiln_metrics::metrics::{
    Average, ConfusionMatrix, DetectionInput, DetectionMetric, Figure, Score, SegmentationInput, SegmentationMetric,
    coco::IouType,
};

fn metadata() -> MetricMetadata {
    MetricMetadata { progress: Progress::new(1, 1, None), iteration: None, lr: None }
}

/// One image of one row.
fn input<const W: usize>(predicted: [i32; W], targets: [i32; W]) -> SegmentationInput {
    let device = Device::default();
    let tensor = |row: [i32; W]| Tensor::<1, Int>::from_ints(row, &device).reshape([1, 1, W]);
    SegmentationInput { predicted: tensor(predicted), targets: tensor(targets) }
}

#[test]
fn the_epoch_is_not_the_mean_of_its_batches() {
    let mut metric = SegmentationMetric::mean_iou(2, Some(255)).unwrap();
    assert_eq!(metric.name().as_str(), "Mean IoU");
    metric.update(&input([0, 1], [0, 1]), &metadata()).unwrap();
    assert_eq!(metric.value().unwrap().current(), 1.0);
    metric.update(&input([1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 255]), &metadata()).unwrap();
    assert_eq!(metric.value().unwrap().current(), 0.0);

    let mut exact = ConfusionMatrix::new(2, Some(255)).unwrap();
    exact.update(&[0, 1, 1, 1, 1, 1, 0], &[0, 1, 0, 0, 0, 0, 1]).unwrap();
    let exact = exact.mean_iou(Average::Macro).unwrap();
    assert_eq!(metric.running_value().unwrap().current(), exact);
    let stored = NumericEntry::deserialize(&metric.compute().unwrap().serialized).unwrap();
    assert!(matches!(stored, NumericEntry::Final(value) if value == exact), "{stored:?}");
    assert_eq!(metric.final_value().current(), exact);

    metric.clear();
    assert!(metric.running_value().is_none());
}

#[test]
fn a_batch_without_the_class_has_no_value() {
    let mut metric = SegmentationMetric::new(Score::Class(Figure::Dice, 2), 3, None).unwrap();
    let entry = metric.update(&input([0, 1], [0, 0]), &metadata()).unwrap();
    assert!(entry.is_not_available());
    assert!(metric.value().is_none() && metric.final_value().current().is_nan());
    metric.update(&input([2, 2], [2, 0]), &metadata()).unwrap();
    assert_eq!(metric.final_value().current(), 2.0 / 3.0);
}

#[test]
#[should_panic(expected = "Pixel Accuracy: target label 3 at position 1 is not one of 2 classes")]
fn a_label_that_is_no_class_is_named() {
    let mut metric = SegmentationMetric::pixel_accuracy(2, None).unwrap();
    let _ = metric.update(&input([0, 1], [0, 3]), &metadata());
}

#[test]
fn logits_become_labels() {
    let device = Device::default();
    let targets = Tensor::<3, Int>::zeros([1, 1, 2], &device);
    let labels = |logits: Tensor<4>| -> Vec<i64> {
        SegmentationInput::from_logits(logits, targets.clone()).predicted.into_data().iter().collect()
    };
    assert_eq!(labels(Tensor::from_floats([[[[0.5, -0.5]]]], &device)), [1, 0]);
    assert_eq!(labels(Tensor::from_floats([[[[0.5, -0.5]], [[0.1, 2.0]], [[0.2, 1.0]]]], &device)), [0, 1]);
}

#[test]
fn an_epoch_of_detections_has_the_figure_of_the_evaluator() {
    let bbox = |x: f64| BBox::new(x, 0.0, x + 10.0, 10.0).unwrap();
    let input = |found: f64| DetectionInput {
        found: vec![vec![Detection::new(bbox(found), 1, 0.9).unwrap()]],
        targets: vec![Instances::new(50, 20, vec![Instance::new(bbox(0.0), 1).unwrap()]).unwrap()],
    };
    let mut metric = DetectionMetric::new(IouType::Bbox, Some(0.5)).unwrap();
    let ap = |metric: &DetectionMetric| match metric.final_value() {
        NumericEntry::Final(ap) => ap,
        _ => unreachable!("an epoch has one figure"),
    };
    metric.update(&input(1.0), &metadata()).unwrap();
    assert!(metric.value().is_none());
    assert!((ap(&metric) - 1.0).abs() < 1e-12, "{}", ap(&metric));
    metric.update(&input(30.0), &metadata()).unwrap();
    assert!((ap(&metric) - 51.0 / 101.0).abs() < 1e-12, "{}", ap(&metric));
    metric.clear();
    assert!(ap(&metric).is_nan());
}
