//! Faster and Mask R-CNN against torchvision on the same weights; `tests/parity/rcnn.py` and `tests/parity/rcnn_train.py`
//! write the fixtures and say which formulas weights and images have.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{SafeTensors, tensor::TensorView};
use segkiln_core::Detection;
use segkiln_models::{
    rcnn::{Rcnn, RcnnConfig},
    weights::{load_torch, torch_shapes},
};

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.safetensors"));
    std::fs::read(path).unwrap()
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn integers(file: &SafeTensors, name: &str) -> Vec<i32> {
    let view = file.tensor(name).unwrap();
    view.data().chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Numbers in [-1, 1): splitmix64 from FNV-1a of the text.
fn noise(text: &str) -> impl Iterator<Item = f64> {
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (0u64..).map(move |index| {
        let z = hash.wrapping_add(index).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 40) as f64 / 8_388_608.0 - 1.0
    })
}

/// The values of a tensor by its name.
fn formula(name: &str, shape: &[usize], salt: &str, factors: &[(&str, f64)]) -> Vec<f32> {
    const FACTORS: [(&str, f64); 10] = [
        (".conv3.", 0.4),
        (".downsample.", 0.7),
        (".block.2.0.", 0.7),
        (".block.3.0.", 0.7),
        (".fpn.", 0.4),
        (".cls_logits.", 1.0),
        ("rpn.head.bbox_pred.", 0.3),
        (".cls_score.", 3.0),
        ("box_predictor.bbox_pred.", 1.0),
        (".mask_fcn_logits.", 3.0),
    ];
    let (offset, scale) = if shape.len() > 1 {
        let factor = factors.iter().chain(&FACTORS).find(|(text, _)| name.contains(text)).map_or(1.0, |(_, f)| *f);
        (0.0, factor * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt())
    } else if name.ends_with("running_var") {
        (1.0, 0.2)
    } else if name.ends_with("weight") {
        (1.0, 0.1)
    } else {
        (0.0, 0.1)
    };
    let count = shape.iter().product();
    noise(&format!("{salt}{name}")).take(count).map(|noise| (offset + scale * noise) as f32).collect()
}

/// The network with the formula's weights, which it reads from a file as torchvision would write it.
fn load(config: &RcnnConfig, salt: &str, factors: &[(&str, f64)], device: &Device) -> Rcnn {
    let model = config.init(device).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = torch_shapes(&model)
        .into_iter()
        .map(|(name, shape)| {
            let name = name.replace(".body.features.", ".body.");
            let bytes = formula(&name, &shape, salt, factors).iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    load_torch(model, &path, &[]).unwrap()
}

/// A ramp, stripes and noise.
fn image(index: usize, [height, width]: [usize; 2], device: &Device) -> Tensor<3> {
    let mut values = Vec::with_capacity(3 * height * width);
    for c in 0..3 {
        for y in 0..height {
            for x in 0..width {
                let block = (x / 24 + 2 * (y / 20) + c + index) % 3 * 60;
                let value = (x * 7 + y * 13 + c * 31 + (x * y) % 17 * 5) % 256 / 2 + block;
                values.push(value as f32 / 255.0);
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [3, height, width]), device)
}

fn check(name: &str, salt: &str, classes: usize, factors: &[(&str, f64)], change: impl Fn(RcnnConfig) -> RcnnConfig) {
    let device = Device::default();
    let config = RcnnConfig::by_name(name, classes).unwrap().with_min_size(128).with_max_size(192);
    let model = load(&change(config), salt, factors, &device);
    let images = [image(0, [96, 128], &device), image(1, [120, 90], &device)];
    let found = model.detect(&images).unwrap();
    let bytes = fixture(name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (image, found) in found.iter().enumerate() {
        let key = |what: &str| format!("{image}.{what}");
        let labels: Vec<i32> = found.iter().map(|detection| detection.label() as i32).collect();
        assert_eq!(labels, integers(&file, &key("labels")), "{name}, image {image}");
        let close = |what: &str, actual: Vec<f64>, tolerance: f64| {
            let expected = floats(&file, &key(what));
            assert_eq!(actual.len(), expected.len());
            let most = actual.iter().zip(&expected).map(|(a, e)| (a - f64::from(*e)).abs()).fold(0.0, f64::max);
            assert!(most < tolerance, "{name}, image {image}: {what} differ by {most}");
        };
        close("boxes", found.iter().flat_map(|detection| detection.bbox.xyxy()).collect(), 5e-3);
        close("scores", found.iter().map(|detection| detection.score.into()).collect(), 1e-4);
        if name.starts_with("mask") {
            let areas = integers(&file, &key("areas"));
            for (Detection { mask, .. }, area) in found.iter().zip(areas) {
                let actual = mask.as_ref().unwrap().area() as i32;
                assert!((actual - area).abs() <= 1, "{name}, image {image}: {actual} pixels and not {area}");
            }
        }
    }
}

fn few(config: RcnnConfig) -> RcnnConfig {
    let rpn = config.rpn.clone().with_before_nms(30).with_after_nms(80);
    let roi = config.roi.clone().with_detections(20);
    config.with_rpn(rpn).with_roi(roi)
}

fn fewer(config: RcnnConfig) -> RcnnConfig {
    let rpn = config.rpn.clone().with_before_nms(10).with_after_nms(30);
    let roi = config.roi.clone().with_detections(10);
    config.with_rpn(rpn).with_roi(roi)
}

#[test]
fn fasterrcnn_resnet50_fpn() {
    check("fasterrcnn_resnet50_fpn", "x", 5, &[], few);
}

#[test]
fn fasterrcnn_resnet50_fpn_v2() {
    check("fasterrcnn_resnet50_fpn_v2", "s", 5, &[], fewer);
}

#[test]
fn fasterrcnn_mobilenet_v3_large_fpn() {
    check("fasterrcnn_mobilenet_v3_large_fpn", "s", 91, &[(".cls_score.", 6.0)], |config| {
        let rpn = config.rpn.clone().with_after_nms(100);
        let roi = config.roi.clone().with_detections(20);
        config.with_rpn(rpn).with_roi(roi)
    });
}

#[test]
fn fasterrcnn_mobilenet_v3_large_320_fpn() {
    check("fasterrcnn_mobilenet_v3_large_320_fpn", "x", 5, &[], |config| {
        let rpn = config.rpn.clone().with_after_nms(50);
        let roi = config.roi.clone().with_detections(20);
        config.with_rpn(rpn).with_roi(roi)
    });
}

#[test]
fn maskrcnn_resnet50_fpn() {
    check("maskrcnn_resnet50_fpn", "e", 5, &[], few);
}

#[test]
fn maskrcnn_resnet50_fpn_v2() {
    check("maskrcnn_resnet50_fpn_v2", "a", 5, &[], fewer);
}
