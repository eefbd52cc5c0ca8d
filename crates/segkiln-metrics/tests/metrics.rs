//! Metrics against torchmetrics, MONAI and plain NumPy (`tests/parity/metrics.py`).

use std::fs;

use segkiln_core::LabelMap;
use segkiln_metrics::metrics::*;
use serde_json::Value;

fn cases(section: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/metrics.json");
    let fixture: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    fixture[section].as_array().unwrap().clone()
}

fn labels(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn map(value: &Value) -> LabelMap {
    let side = |name: &str| value[name].as_u64().unwrap() as u32;
    LabelMap::new(side("width"), side("height"), labels(&value["labels"])).unwrap()
}

/// The references compute in single precision.
fn assert_figure(actual: Option<f64>, expected: &Value, what: &str) {
    let expected = match expected {
        Value::String(infinity) if infinity == "inf" => Some(f64::INFINITY),
        other => other.as_f64(),
    };
    let equal = match (actual, expected) {
        (Some(a), Some(e)) => a == e || (a - e).abs() <= 1e-6 * e.abs().max(1.0),
        (a, e) => a == e,
    };
    assert!(equal, "{what}: {actual:?} for {expected:?}");
}

#[test]
fn pixel_wise_figures_are_torchmetrics() {
    for case in cases("confusion") {
        let expected = &case["expected"];
        let classes = case["classes"].as_u64().unwrap() as usize;
        let mut matrix = ConfusionMatrix::new(classes, case["ignore_index"].as_u64().map(|i| i as u32)).unwrap();
        let (predicted, target) = (labels(&case["predicted"]), labels(&case["target"]));
        // Batches of uneven size.
        for range in [0..7, 7..50, 50..predicted.len()] {
            matrix.update(&predicted[range.clone()], &target[range]).unwrap();
        }
        assert_eq!(matrix.counts(), serde_json::from_value::<Vec<u64>>(expected["counts"].clone()).unwrap());
        assert_figure(matrix.pixel_accuracy(), &expected["accuracy"], "accuracy");
        assert_figure(matrix.mean_accuracy(), &expected["mean_accuracy"], "mean accuracy");
        assert_figure(matrix.kappa(), &expected["kappa"], "kappa");
        let figures = [
            ("iou", Figure::Iou),
            ("dice", Figure::Dice),
            ("precision", Figure::Precision),
            ("recall", Figure::Recall),
        ];
        for (name, figure) in figures {
            let averages = [("micro", Average::Micro), ("macro", Average::Macro), ("weighted", Average::Weighted)];
            for (average_name, average) in averages {
                let what = format!("{name}.{average_name}");
                assert_figure(matrix.average(figure, average), &expected[&what], &what);
            }
            for (class, expected) in expected[name].as_array().unwrap().iter().enumerate() {
                // A class that does not occur has no figure here; torchmetrics gives 0.
                let occurs = predicted.contains(&(class as u32)) || target.contains(&(class as u32));
                let actual = matrix.figure(figure, class);
                assert_eq!(actual.is_some(), occurs, "{name} of class {class}");
                assert_figure(Some(actual.unwrap_or(0.0)), expected, &format!("{name} of class {class}"));
            }
        }
    }
}

#[test]
fn contours_are_monai_s() {
    for case in cases("surface") {
        let number = |name: &str| case[name].as_f64().unwrap();
        let (predicted, target) = (map(&case["predicted"]), map(&case["target"]));
        let spacing: [f64; 2] = serde_json::from_value(case["spacing"].clone()).unwrap();
        let distances = SurfaceDistances::new(&predicted, &target, 1, spacing).unwrap();
        let mut boundary = BoundaryIou::new(1, number("ratio")).unwrap();
        boundary.update(&predicted, &target).unwrap();
        let figures = [
            ("hausdorff", distances.hausdorff()),
            ("hausdorff_95", distances.hausdorff_percentile(95.0)),
            ("average", distances.average()),
            ("average_symmetric", distances.average_symmetric()),
            ("surface_dice", distances.surface_dice(number("tolerance"))),
            ("boundary_iou", boundary.value()),
        ];
        for (name, figure) in figures {
            assert_figure(figure, &case["expected"][name], name);
        }
    }
}

#[test]
fn instances_are_the_dense_table_s() {
    for case in cases("instances") {
        let expected = &case["expected"];
        let (predicted, target) = (map(&case["predicted"]), map(&case["target"]));
        let mut metrics = InstanceMetrics::new([0.5, 0.7, 0.9]).unwrap();
        metrics.update(&predicted, &target).unwrap();
        for (i, (threshold, found)) in metrics.matched().enumerate() {
            let counts = [found.true_positive, found.false_positive, found.false_negative];
            assert_eq!(expected["counts"][i], serde_json::json!(counts), "at {threshold}");
            assert_figure(found.f1(), &expected["f1"][i], "f1");
        }
        let panoptic = metrics.panoptic();
        assert_figure(panoptic.panoptic_quality(), &expected["panoptic_quality"], "panoptic quality");
        assert_figure(panoptic.segmentation_quality(), &expected["segmentation_quality"], "segmentation quality");
        assert_figure(metrics.data_science_bowl(), &expected["data_science_bowl"], "data science bowl");
        assert_figure(metrics.aggregated_jaccard(), &expected["aggregated_jaccard"], "aggregated Jaccard");
    }
}

/// By SciPy, see `tests/parity/volumes.py`.
#[test]
fn surfaces_of_volumes_are_in_millimeters() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/volumes.json");
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for (index, case) in cases.iter().enumerate() {
        let size: [usize; 3] = serde_json::from_value(case["size"].clone()).unwrap();
        let spacing: [f64; 3] = serde_json::from_value(case["spacing"].clone()).unwrap();
        let tolerance = case["tolerance"].as_f64().unwrap();
        let (predicted, target) = (labels(&case["predicted"]), labels(&case["target"]));
        let expected = &case["expected"];
        let distances = SurfaceDistances::of_volumes(&predicted, &target, size, 1, spacing).unwrap();
        assert_figure(distances.hausdorff(), &expected["hausdorff"], "hausdorff");
        assert_figure(distances.average_symmetric(), &expected["average_symmetric"], "average symmetric");
        let mut table = CaseTable::new(vec![1], tolerance).unwrap();
        table.add(index.to_string(), &predicted, &target, size, spacing).unwrap();
        let row = &table.rows()[0];
        assert_figure(row.dice, &expected["dice"], "dice");
        assert_figure(row.hausdorff_95, &expected["hausdorff_95"], "hausdorff 95");
        assert_figure(row.surface_dice, &expected["surface_dice"], "surface dice");
    }
    assert_eq!(cases.len(), 3);
}
