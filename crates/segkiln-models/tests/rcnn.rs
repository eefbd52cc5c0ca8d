//! Faster and Mask R-CNN against torchvision on the same weights; `tests/parity/rcnn.py` and `tests/parity/rcnn_train.py`
//! write the fixtures and say which formulas weights and images have.

mod formula;

use burn::{module::Module, optim::GradientsParams, tensor::Device};
use formula::{fixture, floats, gradients, image, part, write_formula};
use safetensors::SafeTensors;
use segkiln_core::{BBox, Detection, Instance, Instances, Rle};
use segkiln_models::{
    backbones::{BackboneConfig, ResNetConfig},
    detection::{
        AnchorConfig, DetectionNetwork, Sampling,
        rcnn::{MaskConfig, Rcnn, RcnnConfig},
    },
    layers::NormConfig,
    weights::{load_torch, torch_shapes},
};

fn integers(file: &SafeTensors, name: &str) -> Vec<i32> {
    let view = file.tensor(name).unwrap();
    view.data().chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The network with the formula's weights, which it reads from a file.
fn load(config: &RcnnConfig, salt: &str, factors: &[(&str, f64)], device: &Device) -> Rcnn {
    let model = config.init(device).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write_formula(&torch_shapes(&model), &path, salt, factors);
    load_torch(model, &path).unwrap()
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

/// Boxes in quarters of a pixel, and labels.
type Objects = [([i64; 4], u32)];
const OBJECTS: [&Objects; 2] = [
    &[([58, 110, 328, 267], 2), ([149, 60, 186, 129], 1), ([214, 28, 290, 170], 1)],
    &[([9, 7, 269, 346], 2), ([154, 83, 219, 215], 1)],
];
const SIZES: [[usize; 2]; 2] = [[72, 96], [90, 70]];

/// The ellipses in the boxes.
fn target(objects: &Objects, [height, width]: [usize; 2]) -> Instances {
    let (width, height) = (width as u32, height as u32);
    let instance = |([x1, y1, x2, y2], label): &([i64; 4], u32)| {
        let mask = Rle::from_fn(width, height, |x, y| {
            let a = (8 * i64::from(x) + 4 - x1 - x2) * (y2 - y1);
            let b = (8 * i64::from(y) + 4 - y1 - y2) * (x2 - x1);
            a * a + b * b <= ((x2 - x1) * (y2 - y1)).pow(2)
        });
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(|side| *side as f64 / 4.0);
        Instance::new(BBox::new(x1, y1, x2, y2).unwrap(), *label).unwrap().with_mask(mask.unwrap())
    };
    Instances::new(width, height, objects.iter().map(instance).collect()).unwrap()
}

/// A small Mask R-CNN.
fn small(norm: NormConfig) -> RcnnConfig {
    let backbone = BackboneConfig::ResNet(ResNetConfig::resnet18().with_norm(norm));
    let anchors = AnchorConfig::new().with_sizes([8.0, 16.0, 32.0, 64.0, 128.0].map(|size| vec![size]).into());
    let config = RcnnConfig::with_backbone(backbone, 3);
    let rpn = config.rpn.clone().with_samples(64).with_before_nms_train(200).with_after_nms_train(300);
    let roi = config.roi.clone().with_samples(48);
    let config = config.with_min_size(96).with_max_size(128).with_anchors(anchors).with_rpn(rpn).with_roi(roi);
    config.with_mask(Some(MaskConfig::new()))
}

/// The losses and gradients of a training step.
fn check_training(case: &str, salt: &str, norm: NormConfig, counts: [usize; 2], tolerance: f32) {
    const FACTORS: [(&str, f64); 3] = [(".conv2.", 0.4), ("rpn.head.bbox_pred.", 0.1), (".cls_score.", 1.0)];
    const PARTS: [(&str, &[usize]); 16] = [
        ("backbone.body.conv1.weight", &[8]),
        ("backbone.body.layer2.0.conv1.weight", &[16, 16]),
        ("backbone.fpn.inner_blocks.1.0.weight", &[16, 16]),
        ("backbone.fpn.layer_blocks.0.0.weight", &[32, 32]),
        ("backbone.fpn.layer_blocks.3.0.bias", &[]),
        ("rpn.head.conv.0.0.weight", &[32, 32]),
        ("rpn.head.cls_logits.weight", &[]),
        ("rpn.head.cls_logits.bias", &[]),
        ("rpn.head.bbox_pred.weight", &[1, 16]),
        ("roi_heads.box_head.fc6.weight", &[64, 197]),
        ("roi_heads.box_head.fc7.bias", &[8]),
        ("roi_heads.box_predictor.cls_score.weight", &[1, 8]),
        ("roi_heads.box_predictor.bbox_pred.weight", &[1, 16]),
        ("roi_heads.mask_head.0.0.weight", &[32, 32]),
        ("roi_heads.mask_predictor.conv5_mask.weight", &[32, 32]),
        ("roi_heads.mask_predictor.mask_fcn_logits.weight", &[]),
    ];
    let device = Device::default().autodiff();
    let model = load(&small(norm), salt, &FACTORS, &device);
    let images = [0, 1].map(|index| image(index, SIZES[index], &device));
    let targets = [0, 1].map(|index| target(&OBJECTS[index][..counts[index]], SIZES[index]));
    let losses = model.losses(&images, &targets, Sampling::First).unwrap();
    let bytes = fixture(&format!("rcnn_train_{case}"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, loss) in losses.named() {
        let (actual, expected) = (loss.clone().into_scalar::<f32>(), floats(&file, name)[0]);
        assert!((actual - expected).abs() <= 2e-5 * expected.abs(), "{case}: {name} is {actual} and not {expected}");
    }
    if case == "empty" {
        return;
    }
    let grads = GradientsParams::from_grads(losses.total().backward(), &model);
    let found = gradients(&model, &grads);
    let norms = floats(&file, "norms");
    assert_eq!(found.len(), norms.len(), "{case}: parameters with gradients");
    for ((name, shape, values), expected) in found.iter().zip(norms) {
        let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
        assert!((norm - expected).abs() <= tolerance * expected, "{case}: norm of {name} is {norm} and not {expected}");
        let batch_norms =
            ["bn1", "layer2.0.downsample.1", "layer4.1.bn2"].map(|layer| format!("backbone.body.{layer}."));
        let steps = PARTS.iter().find(|(part, _)| part == name).map(|(_, steps)| *steps);
        let steps = steps.or(batch_norms.iter().any(|layer| name.starts_with(layer)).then_some(&[]));
        if let Some(steps) = steps {
            let expected = floats(&file, &format!("grad.{name}"));
            let actual = part(shape, values, steps);
            assert_eq!(actual.len(), expected.len(), "{case}: {name}");
            let most = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let difference = actual.iter().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
            assert!(difference <= tolerance * most, "{case}: gradient of {name} differs by {difference} of {most}");
        }
    }
}

/// Where a ReLU opens or not by the last bits, the gradients before it differ.
#[test]
fn training_with_frozen_norms() {
    check_training("frozen", "a", NormConfig::Frozen { epsilon: 1e-5 }, [3, 2], 5e-3);
}

#[test]
fn training_with_batch_norm() {
    check_training("batch", "o", NormConfig::default(), [3, 2], 1e-2);
}

#[test]
fn training_without_objects() {
    check_training("empty", "a", NormConfig::Frozen { epsilon: 1e-5 }, [3, 0], 1e-4);
}

/// As torchvision counts them; the first versions' norms are frozen, and theirs do not count.
#[test]
fn parameters_are_as_many_as_torchvision_s() {
    for (name, frozen, expected) in [
        ("fasterrcnn_resnet50_fpn", true, 41_755_286),
        ("fasterrcnn_resnet50_fpn_v2", false, 43_712_278),
        ("maskrcnn_resnet50_fpn", true, 44_401_393),
        ("maskrcnn_resnet50_fpn_v2", false, 46_359_409),
        ("fasterrcnn_mobilenet_v3_large_fpn", false, 19_410_754),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", false, 19_410_754),
    ] {
        let config = RcnnConfig::by_name(name, 91).unwrap();
        let config = if frozen { config.with_frozen_norm(0.0) } else { config };
        let model = config.init(&Device::default()).unwrap();
        assert_eq!(segkiln_models::weights::parameters(&model), expected, "{name}");
    }
}

/// Weights that no file gives: a network begins to learn, with finite losses that the same seeds repeat.
#[test]
fn random_weights_have_finite_losses() {
    let device = Device::default().autodiff();
    let run = || {
        device.seed(3);
        let config = small(NormConfig::default());
        let config = config.clone().with_channels(16).with_roi(config.roi.with_representation(32));
        let model = config.with_mask(Some(MaskConfig::new().with_channels(16))).init(&device).unwrap().materialize();
        let images = [image(0, SIZES[0], &device)];
        let losses = model.losses(&images, &[target(OBJECTS[0], SIZES[0])], Sampling::Random { seed: 1 }).unwrap();
        losses.named().iter().map(|(_, loss)| loss.clone().into_scalar::<f32>()).collect::<Vec<_>>()
    };
    let losses = run();
    assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{losses:?}");
    assert_eq!(losses, run());
}

#[test]
fn a_network_keeps_its_layers() {
    let model = small(NormConfig::default()).init(&Device::default()).unwrap();
    let config = model.config();
    let model = model.with_config(config.clone().with_min_size(200).with_max_size(100)).unwrap();
    assert_eq!(model.config().min_size, 200);
    let error = model.with_config(config.with_channels(9)).unwrap_err().to_string();
    assert!(error.contains("layers"), "{error}");
}
