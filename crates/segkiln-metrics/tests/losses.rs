//! Losses against PyTorch and segmentation_models_pytorch (`tests/parity/losses.py`), and what holds for all of them.

use std::fs;

use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::SafeTensors;
use segkiln_metrics::losses::*;
use serde_json::{Value, json};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/losses");
const IGNORE: i64 = 255;

/// The defaults of every loss, by the name that configuration files use.
fn default_config(name: &str) -> LossConfig {
    match name {
        "cross_entropy" => LossConfig::CrossEntropy(CrossEntropyLossConfig::new()),
        "bce" => LossConfig::Bce(BceLossConfig::new()),
        "dice" => LossConfig::Dice(DiceLossConfig::new()),
        "jaccard" => LossConfig::Jaccard(JaccardLossConfig::new()),
        "tversky" => LossConfig::Tversky(TverskyLossConfig::new()),
        "focal_tversky" => LossConfig::FocalTversky(FocalTverskyLossConfig::new()),
        "focal" => LossConfig::Focal(FocalLossConfig::new()),
        "lovasz" => LossConfig::Lovasz(LovaszLossConfig::new()),
        "mcc" => LossConfig::Mcc(MccLossConfig::new()),
        "boundary" => LossConfig::Boundary(BoundaryLossConfig::new()),
        _ => panic!("no loss is called {name}"),
    }
}

const NAMES: [&str; 10] =
    ["cross_entropy", "bce", "dice", "jaccard", "tversky", "focal_tversky", "focal", "lovasz", "mcc", "boundary"];

/// The defaults with some fields changed.
fn config(name: &str, options: &Value) -> LossConfig {
    let mut config = serde_json::to_value(default_config(name)).unwrap();
    for (field, value) in options.as_object().unwrap() {
        let fields = config[name].as_object_mut().unwrap();
        *fields.get_mut(field).unwrap_or_else(|| panic!("{name} has no field {field}")) = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    fn load() -> Self {
        Self { bytes: fs::read(format!("{FIXTURES}.safetensors")).unwrap() }
    }

    fn bytes<const N: usize>(&self, name: &str) -> (Vec<usize>, Vec<[u8; N]>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        (view.shape().to_vec(), view.data().chunks_exact(N).map(|b| b.try_into().unwrap()).collect())
    }

    fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, values) = self.bytes(name);
        (shape, values.into_iter().map(f32::from_le_bytes).collect())
    }

    fn logits(&self, name: &str, device: &Device) -> Tensor<4> {
        let (shape, values) = self.floats(&format!("{name}.logits"));
        Tensor::from_data(TensorData::new(values, shape), device).require_grad()
    }

    fn targets(&self, name: &str, device: &Device) -> Tensor<3, Int> {
        let (shape, values) = self.bytes(name);
        let values: Vec<i32> = values.into_iter().map(i32::from_le_bytes).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter().collect()
}

/// Equal to a part in 100 000, and values near 0 to five in a million of the greatest.
fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let greatest = expected.iter().fold(0f32, |greatest, e| greatest.max(e.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let tolerance = 1e-5 * e.abs() + 5e-6 * greatest;
        assert!((a - e).abs() <= tolerance, "{what}[{i}]: {a} for {e}");
    }
}

fn by_pixel(config: &LossConfig, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<3> {
    match config {
        LossConfig::CrossEntropy(config) => config.init().forward_no_reduction(logits, targets),
        LossConfig::Bce(config) => config.init().forward_no_reduction(logits, targets),
        LossConfig::Focal(config) => config.init().forward_no_reduction(logits, targets),
        _ => panic!("{config:?} has no loss of a pixel"),
    }
}

#[test]
fn values_and_gradients_are_the_references() {
    let fixture = Fixture::load();
    let device = Device::default().autodiff();
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(format!("{FIXTURES}.json")).unwrap()).unwrap();
    for (index, case) in cases.iter().enumerate() {
        let text = |field: &str| case[field].as_str().unwrap();
        let config = config(text("loss"), &case["options"]);
        let logits = fixture.logits(text("logits"), &device);
        let targets = fixture.targets(&format!("{}.{}", text("logits"), text("targets")), &device);
        let (value, weighted) = if case["pixels"].as_bool().unwrap() {
            let value = by_pixel(&config, logits.clone(), targets);
            let count = value.shape().num_elements();
            let weights =
                Tensor::<1, Int>::arange(0..count as i64, &device).float().reshape(value.shape()) / count as f64;
            (values(value.clone()), (value * weights).sum())
        } else {
            let value = config.init().forward(logits.clone(), targets);
            (values(value.clone()), value)
        };
        let gradient = logits.grad(&weighted.backward()).unwrap();
        assert_close(&value, &fixture.floats(&format!("{index}.value")).1, &format!("value of {case}"));
        assert_close(&values(gradient), &fixture.floats(&format!("{index}.grad")).1, &format!("gradient of {case}"));
    }
}

#[test]
fn deep_supervision_is_the_weighted_sum_of_resized_targets() {
    let fixture = Fixture::load();
    let device = Device::default().autodiff();
    let outputs = ["multi", "small", "tiny"].map(|name| fixture.logits(name, &device));
    let loss = DeepSupervisionConfig::new(default_config("dice"), vec![1.0, 0.5, 0.25]).init();
    let value = loss.forward(&outputs, fixture.targets("multi.all", &device));
    let gradients = value.backward();
    assert_close(&values(value), &fixture.floats("deep.value").1, "value");
    for (i, output) in outputs.iter().enumerate() {
        let expected = fixture.floats(&format!("deep.grad{i}")).1;
        assert_close(&values(output.grad(&gradients).unwrap()), &expected, "gradient");
    }
}

/// Losses with fields that open other branches of their code.
fn variants(ignore_index: Option<i64>) -> Vec<LossConfig> {
    let more = [
        ("cross_entropy", json!({"label_smoothing": 0.1})),
        ("cross_entropy", json!({"hard_pixels": {"top_k": {"percent": 10.0}}})),
        ("cross_entropy", json!({"hard_pixels": {"ohem": {"threshold": 0.7, "min_kept": 4}}})),
        ("dice", json!({"log_loss": true})),
        ("tversky", json!({"gamma": 0.5})),
        ("focal", json!({"gamma": 0.5, "alpha": 0.25})),
        ("focal", json!({"normalized": true, "reduced_threshold": 0.5})),
        ("lovasz", json!({"per_image": true})),
    ];
    let plain = NAMES.into_iter().map(|name| (name, json!({})));
    plain
        .chain(more)
        .map(|(name, mut options)| {
            options["ignore_index"] = json!(ignore_index);
            config(name, &options)
        })
        .collect()
}

fn value_and_gradient(loss: &LossConfig, logits: &Tensor<4>, targets: &Tensor<3, Int>) -> (f32, Vec<f32>) {
    let logits = logits.clone().detach().require_grad();
    let value = loss.init().forward(logits.clone(), targets.clone());
    let gradient = logits.grad(&value.backward()).unwrap();
    (value.into_scalar(), values(gradient))
}

#[test]
fn finite_at_large_logits_and_on_one_sided_masks() {
    let device = Device::default().autodiff();
    for channels in [1, 3] {
        let shape = [2, channels, 4, 4];
        let count = 32 * channels;
        let mixed: Vec<f32> = (0..count).map(|i| if i * 7 % 3 == 0 { 1e4 } else { -1e4 }).collect();
        let patterns = [vec![1e4; count], vec![-1e4; count], vec![0.0; count], mixed];
        for label in 0..channels.max(2) as i64 {
            let uniform = Tensor::<3, Int>::full([2, 4, 4], label, &device);
            let one_other = uniform.clone().slice_fill([0..1, 0..1, 0..1], 1 - label.min(1));
            for targets in [uniform, one_other] {
                for pattern in &patterns {
                    let logits = Tensor::from_data(TensorData::new(pattern.clone(), shape), &device);
                    for loss in variants(Some(IGNORE)).iter().chain(&variants(None)) {
                        let (value, gradient) = value_and_gradient(loss, &logits, &targets);
                        assert!(value.is_finite(), "{loss:?}: {value}");
                        assert!(gradient.iter().all(|g| g.is_finite()), "{loss:?}: {gradient:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn perfect_predictions_cost_nothing() {
    let device = Device::default().autodiff();
    let targets = Tensor::<3, Int>::from_ints([[[0, 1, 2], [2, 1, 0]]], &device);
    let logits = (targets.clone().one_hot::<4>(3).float() * 2e4 - 1e4).permute([0, 3, 1, 2]);
    for loss in variants(None) {
        let smoothed = matches!(&loss, LossConfig::CrossEntropy(config) if config.label_smoothing > 0.0);
        if !smoothed {
            let (value, gradient) = value_and_gradient(&loss, &logits, &targets);
            assert!(value.abs() < 1e-5, "{loss:?}: {value}");
            assert!(gradient.iter().all(|g| g.abs() < 1e-5), "{loss:?}: {gradient:?}");
        }
    }
}

#[test]
fn ignored_pixels_count_for_nothing() {
    let device = Device::default().autodiff();
    for channels in [1, 3] {
        let shape = [2, channels, 4, 5];
        let logits = Tensor::<4>::random(shape, burn::tensor::Distribution::Normal(0.0, 2.0), &device);
        let nothing = Tensor::<3, Int>::full([2, 4, 5], IGNORE, &device);
        let half = nothing.clone().slice_fill([0..2, 0..2, 0..5], 1);
        for loss in variants(Some(IGNORE)) {
            let (value, gradient) = value_and_gradient(&loss, &logits, &nothing);
            assert!(value == 0.0 && gradient.iter().all(|g| *g == 0.0), "{loss:?}: {value}, {gradient:?}");

            let (value, gradient) = value_and_gradient(&loss, &logits, &half);
            let ignored = |i: usize| i % 20 >= 10;
            assert!(gradient.iter().enumerate().all(|(i, g)| !ignored(i) || *g == 0.0), "{loss:?}: {gradient:?}");
            let other = logits.clone().slice_fill([0..2, 0..channels, 2..4, 0..5], 3.0);
            assert_eq!(value_and_gradient(&loss, &other, &half).0, value, "{loss:?}");
        }
    }
}

#[test]
fn gradients_are_the_slopes() {
    let device = Device::default().autodiff();
    let values: Vec<f32> = (0..36).map(|i| 2.0 * (i as f32 * 1.7 + 0.4).sin()).collect();
    let logits = Tensor::<4>::from_data(TensorData::new(values.clone(), [1, 3, 3, 4]), &device);
    let targets = Tensor::<3, Int>::from_ints([[[0, 1, 2, 255], [0, 0, 1, 1], [2, 255, 1, 0]]], &device);
    // The Lovász losses have a kink wherever two errors change places.
    for loss in variants(Some(IGNORE)).into_iter().filter(|loss| !matches!(loss, LossConfig::Lovasz(_))) {
        let (_, gradient) = value_and_gradient(&loss, &logits, &targets);
        for i in [0, 7, 17, 26, 35] {
            let at = |step: f32| {
                let mut moved = values.clone();
                moved[i] += step;
                let logits = Tensor::from_data(TensorData::new(moved, [1, 3, 3, 4]), &device);
                value_and_gradient(&loss, &logits, &targets).0
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((slope - gradient[i]).abs() < 1e-3, "{loss:?} at {i}: slope {slope}, gradient {}", gradient[i]);
        }
    }
}

#[test]
fn two_calls_give_the_same_bits() {
    let device = Device::default().autodiff();
    // Above burn-flex's limit for sums in parallel.
    let logits = Tensor::<4>::random([1, 1, 2048, 2304], burn::tensor::Distribution::Normal(0.0, 2.0), &device);
    let targets = logits.clone().greater_scalar(0.5).int().squeeze_dim::<3>(1);
    for name in ["cross_entropy", "bce", "dice", "focal", "mcc"] {
        let loss = default_config(name).init();
        let bits = || loss.forward(logits.clone(), targets.clone()).into_scalar::<f32>().to_bits();
        let first = bits();
        assert!((0..3).all(|_| bits() == first), "{name}");
    }
}

#[test]
fn targets_may_lie_on_the_device_without_autodiff() {
    let logits =
        Tensor::<4>::random([1, 3, 4, 4], burn::tensor::Distribution::Normal(0.0, 2.0), &Device::default().autodiff());
    let targets = Tensor::<3, Int>::ones([1, 4, 4], &Device::default());
    for loss in variants(Some(IGNORE)) {
        value_and_gradient(&loss, &logits, &targets);
    }
}

#[test]
fn half_precision_logits_are_taken() {
    let device = Device::default().autodiff();
    // Exact in half precision.
    let values: Vec<f32> = (0..48).map(|i| (i * 29 % 48) as f32 / 8.0 - 3.0).collect();
    let logits = Tensor::<4>::from_data(TensorData::new(values, [1, 3, 4, 4]), &device);
    let targets = Tensor::<3, Int>::ones([1, 4, 4], &device).slice_fill([0..1, 0..2, 0..4], 2);
    for loss in variants(Some(IGNORE)) {
        let half = logits.clone().cast(burn::tensor::FloatDType::F16);
        let (value, gradient) = value_and_gradient(&loss, &half, &targets);
        let (expected, expected_gradient) = value_and_gradient(&loss, &logits, &targets);
        assert_eq!(value, expected, "{loss:?}");
        for (actual, expected) in gradient.iter().zip(expected_gradient) {
            assert!((actual - expected).abs() < 1e-3, "{loss:?}");
        }
    }
}

#[test]
fn nonsense_is_refused() {
    let wrong = [
        ("cross_entropy", json!({"class_weights": [1.0, -1.0]})),
        ("cross_entropy", json!({"label_smoothing": 1.5})),
        ("cross_entropy", json!({"hard_pixels": {"top_k": {"percent": 101.0}}})),
        ("bce", json!({"pos_weight": [0.0]})),
        ("dice", json!({"classes": []})),
        ("dice", json!({"eps": 0.0})),
        ("jaccard", json!({"smooth": -1.0})),
        ("tversky", json!({"alpha": -0.1})),
        ("focal", json!({"gamma": -2.0})),
        ("focal", json!({"reduced_threshold": 0.0})),
        ("mcc", json!({"eps": 0.0})),
        ("boundary", json!({"classes": []})),
    ];
    for (name, options) in wrong {
        assert!(config(name, &options).try_init().is_err(), "{name} {options}");
    }
    assert!(LossConfig::Focal(FocalLossConfig::new().with_gamma(f64::NAN)).try_init().is_err());
    assert!(LossConfig::Sum(vec![]).try_init().is_err());
    assert!(LossConfig::Sum(vec![(f64::NAN, default_config("dice"))]).try_init().is_err());
    assert!(DeepSupervisionConfig::new(default_config("dice"), vec![]).try_init().is_err());
}

#[test]
#[should_panic(expected = "got targets [2, 3, 3] for logits [2, 1, 3, 4]")]
fn wrong_shapes_are_named() {
    let device = Device::default();
    default_config("dice").init().forward(Tensor::zeros([2, 1, 3, 4], &device), Tensor::zeros([2, 3, 3], &device));
}

#[test]
#[should_panic(expected = "class_weights has 2 values for 3 channels")]
fn wrong_number_of_weights_is_named() {
    let device = Device::default();
    let loss = config("cross_entropy", &json!({"class_weights": [1.0, 2.0]})).init();
    loss.forward(Tensor::zeros([1, 3, 2, 2], &device), Tensor::zeros([1, 2, 2], &device));
}
