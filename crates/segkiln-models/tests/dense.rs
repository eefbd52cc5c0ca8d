//! RetinaNet and FCOS against torchvision on the same weights; `tests/parity/dense.py` writes the fixtures and says which
//! formulas weights and images have.

mod formula;

use burn::{
    optim::GradientsParams,
    tensor::{Device, Tensor},
};
use formula::{fixture, floats, gradients, image, part, write_formula};
use safetensors::SafeTensors;
use segkiln_core::{BBox, Instance, Instances};
use segkiln_models::{
    backbones::{BackboneConfig, ResNetConfig},
    detection::{
        AnchorConfig, DetectionNetwork, DetectionNetworkConfig, Sampling,
        fcos::FcosConfig,
        retinanet::{BoxLoss, RetinaNetConfig},
    },
    layers::{LastLevel, NormConfig},
    weights::{load_torch, parameters, torch_shapes},
};

const FACTORS: [(&str, f64); 5] =
    [(".conv2.", 0.4), (".extra_blocks.", 0.7), (".cls_logits.", 0.6), (".bbox_reg.", 0.3), (".bbox_ctrness.", 1.0)];

/// The network with the formula's weights, which it reads from a file.
fn load<C: DetectionNetworkConfig>(config: &C, salt: &str, factors: &[(&str, f64)], device: &Device) -> C::Network {
    let model = config.init(device).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write_formula(&torch_shapes(&model), &path, salt, factors);
    load_torch(model, &path).unwrap()
}

#[track_caller]
fn assert_close(what: &str, actual: &[f64], expected: &[f32], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let most = actual.iter().zip(expected).map(|(a, e)| (a - f64::from(*e)).abs()).fold(0.0, f64::max);
    println!("{what}: differs by {most}");
    assert!(most < tolerance, "{what} differ by {most}");
}

/// Detections of the whole network in two images.
fn check<C: DetectionNetworkConfig>(name: &str, salt: &str, config: &C) {
    let device = Device::default();
    // In a ResNet-50 `conv2` does not end the residual branch.
    let model = load(config, salt, &FACTORS[1..], &device);
    let images = [image(0, [96, 128], &device), image(1, [120, 90], &device)];
    let found = model.detect(&images).unwrap();
    let bytes = fixture(name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (image, found) in found.iter().enumerate() {
        let what = |part: &str| format!("{image}.{part}");
        let labels: Vec<f64> = found.iter().map(|detection| detection.label().into()).collect();
        let view = file.tensor(&what("labels")).unwrap();
        let expected: Vec<f32> =
            view.data().chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()) as f32).collect();
        assert_close(&format!("{name} {}", what("labels")), &labels, &expected, 0.5);
        let boxes: Vec<f64> = found.iter().flat_map(|detection| detection.bbox.xyxy()).collect();
        assert_close(&format!("{name} {}", what("boxes")), &boxes, &floats(&file, &what("boxes")), 5e-3);
        let scores: Vec<f64> = found.iter().map(|detection| detection.score.into()).collect();
        assert_close(&format!("{name} {}", what("scores")), &scores, &floats(&file, &what("scores")), 1e-4);
    }
}

#[test]
fn retinanet_resnet50_fpn() {
    let config = RetinaNetConfig::by_name("retinanet_resnet50_fpn", 5).unwrap();
    let config = config.with_min_size(128).with_max_size(192).with_topk_candidates(40).with_max_detections(30);
    check("retinanet_resnet50_fpn", "e", &config);
}

#[test]
fn retinanet_resnet50_fpn_v2() {
    let config = RetinaNetConfig::by_name("retinanet_resnet50_fpn_v2", 5).unwrap();
    let config = config.with_min_size(128).with_max_size(192).with_topk_candidates(40).with_max_detections(30);
    check("retinanet_resnet50_fpn_v2", "c", &config);
}

#[test]
fn fcos_resnet50_fpn() {
    let config = FcosConfig::by_name("fcos_resnet50_fpn", 5).unwrap();
    let config = config.with_min_size(128).with_max_size(192).with_topk_candidates(40).with_max_detections(30);
    check("fcos_resnet50_fpn", "c", &config);
}

/// Boxes in quarters of a pixel, and labels.
type Objects = [([i64; 4], u32)];
const OBJECTS: [&Objects; 2] = [
    &[([58, 110, 328, 267], 2), ([149, 60, 186, 129], 1), ([214, 28, 290, 170], 1)],
    &[([9, 7, 269, 346], 2), ([154, 83, 219, 215], 1)],
];
const SIZES: [[usize; 2]; 2] = [[72, 96], [90, 70]];

fn target(objects: &Objects, [height, width]: [usize; 2]) -> Instances {
    let instance = |(sides, label): &([i64; 4], u32)| {
        let [x1, y1, x2, y2] = sides.map(|side| side as f64 / 4.0);
        Instance::new(BBox::new(x1, y1, x2, y2).unwrap(), *label).unwrap()
    };
    Instances::new(width as u32, height as u32, objects.iter().map(instance).collect()).unwrap()
}

fn batch(counts: [usize; 2], device: &Device) -> ([Tensor<3>; 2], [Instances; 2]) {
    let images = [0, 1].map(|index| image(index, SIZES[index], device));
    let targets = [0, 1].map(|index| target(&OBJECTS[index][..counts[index]], SIZES[index]));
    (images, targets)
}

fn resnet18(norm: NormConfig) -> BackboneConfig {
    BackboneConfig::ResNet(ResNetConfig::resnet18().with_norm(norm))
}

fn small_retinanet(norm: NormConfig) -> RetinaNetConfig {
    let anchors = AnchorConfig::with_octaves(&[8.0, 16.0, 32.0, 64.0, 128.0]);
    let config = RetinaNetConfig::with_backbone(resnet18(norm), 3).with_channels(64).with_anchors(anchors);
    config.with_min_size(96).with_max_size(128)
}

fn small_fcos(norm: NormConfig) -> FcosConfig {
    FcosConfig::with_backbone(resnet18(norm), 3).with_channels(64).with_min_size(96).with_max_size(128)
}

/// Losses and gradients of a training step: each term, the norm of every gradient, and parts of some.
fn check_training<C: DetectionNetworkConfig>(case: &str, config: &C, counts: [usize; 2], frozen: bool, tolerance: f32) {
    const PARTS: [(&str, &[usize]); 16] = [
        ("backbone.body.conv1.weight", &[8]),
        ("backbone.body.layer2.0.conv1.weight", &[16, 16]),
        ("backbone.fpn.inner_blocks.1.0.weight", &[16, 16]),
        ("backbone.fpn.layer_blocks.0.0.weight", &[16, 16]),
        ("backbone.fpn.extra_blocks.p6.weight", &[16, 16]),
        ("backbone.fpn.extra_blocks.p7.bias", &[]),
        ("head.classification_head.conv.0.0.weight", &[16, 16]),
        ("head.classification_head.conv.3.1.weight", &[]),
        ("head.classification_head.conv.9.weight", &[16, 16]),
        ("head.classification_head.conv.10.bias", &[]),
        ("head.classification_head.cls_logits.weight", &[1, 16]),
        ("head.classification_head.cls_logits.bias", &[]),
        ("head.regression_head.conv.3.0.weight", &[16, 16]),
        ("head.regression_head.conv.9.bias", &[]),
        ("head.regression_head.bbox_reg.weight", &[1, 16]),
        ("head.regression_head.bbox_ctrness.weight", &[1, 16]),
    ];
    let device = Device::default().autodiff();
    let model = load(config, "a", &FACTORS, &device);
    let (images, targets) = batch(counts, &device);
    let losses = model.losses(&images, &targets, Sampling::First).unwrap();
    let bytes = fixture(case);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, loss) in losses.named() {
        let (actual, expected) = (loss.clone().into_scalar::<f32>(), floats(&file, name)[0]);
        println!("{case}: {name} is {actual}, torchvision's {expected}");
        assert!((actual - expected).abs() <= 2e-5 * expected.abs(), "{case}: {name} is {actual} and not {expected}");
    }
    let grads = GradientsParams::from_grads(losses.total().backward(), &model);
    let found = gradients(&model, &grads);
    let norms = floats(&file, "norms");
    let mut names: Vec<String> = torch_shapes(&model)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            let is_running = name.contains("running_");
            let is_frozen_norm = frozen && (name.contains(".bn") || name.contains(".downsample.1."));
            !is_running && !is_frozen_norm
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), norms.len(), "{case}: parameters");
    for (name, expected) in names.iter().zip(norms) {
        let Some((_, shape, values)) = found.iter().find(|(found, _, _)| found == name) else {
            assert_eq!(expected, 0.0, "{case}: {name} has no gradient");
            continue;
        };
        let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
        assert!((norm - expected).abs() <= tolerance * expected, "{case}: norm of {name} is {norm} and not {expected}");
        if let Some((_, steps)) = PARTS.iter().find(|(part, _)| part == name) {
            let expected = floats(&file, &format!("grad.{name}"));
            let actual = part(shape, values, steps);
            assert_eq!(actual.len(), expected.len(), "{case}: {name}");
            let most = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let difference = actual.iter().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
            println!("{case}: gradient of {name} differs by {:.2e} of its largest value", difference / most);
            assert!(difference <= tolerance * most, "{case}: gradient of {name} differs by {difference} of {most}");
        }
    }
}

const FROZEN: NormConfig = NormConfig::Frozen { epsilon: 1e-5 };

/// Where a ReLU opens or not by the last bits, the gradients before it differ.
#[test]
fn retinanet_training_with_frozen_norms() {
    check_training("retinanet_train_frozen", &small_retinanet(FROZEN), [3, 2], true, 5e-3);
}

/// Group norm in the heads, P6 on C5 and the GIoU loss, as the second version has them.
#[test]
fn retinanet_training_with_giou() {
    let config = small_retinanet(NormConfig::default())
        .with_last_level(LastLevel::P6P7OnC5)
        .with_head_norm(NormConfig::Group { groups: 32 })
        .with_box_loss(BoxLoss::GeneralizedIou);
    check_training("retinanet_train_giou", &config, [3, 2], false, 1e-2);
}

#[test]
fn retinanet_training_with_an_image_without_objects() {
    check_training("retinanet_train_empty", &small_retinanet(FROZEN), [3, 0], true, 5e-3);
}

#[test]
fn fcos_training_with_frozen_norms() {
    check_training("fcos_train_frozen", &small_fcos(FROZEN), [3, 2], true, 5e-3);
}

#[test]
fn fcos_training_with_batch_norm() {
    check_training("fcos_train_batch", &small_fcos(NormConfig::default()), [3, 2], false, 1e-2);
}

#[test]
fn fcos_training_without_objects() {
    check_training("fcos_train_empty", &small_fcos(FROZEN), [0, 0], true, 5e-3);
}

/// As torchvision counts them; the first versions' norms are frozen, and theirs do not count.
#[test]
fn parameters_are_as_many_as_torchvision_s() {
    let device = Device::default();
    let retinanet = |name| RetinaNetConfig::by_name(name, 91).unwrap();
    let first = retinanet("retinanet_resnet50_fpn").with_frozen_norm(0.0).init(&device).unwrap();
    assert_eq!(parameters(&first), 34_014_999);
    let second = retinanet("retinanet_resnet50_fpn_v2").init(&device).unwrap();
    assert_eq!(parameters(&second), 38_198_935);
    let fcos = FcosConfig::by_name("fcos_resnet50_fpn", 91).unwrap().with_frozen_norm(1e-5).init(&device).unwrap();
    assert_eq!(parameters(&fcos), 32_269_600);
}

/// Names of RetinaNet's tensors in files of torchvision before 0.13, which COCO's weights still have.
#[test]
fn old_names_of_retinanet_are_understood() {
    let device = Device::default();
    let config = small_retinanet(NormConfig::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.safetensors");
    let shapes = torch_shapes(&config.init(&device).unwrap());
    let old = |(name, shape): &(String, Vec<usize>)| {
        let mut parts: Vec<String> = name.split('.').map(String::from).collect();
        if name.starts_with("head.") && parts[2] == "conv" {
            parts[3] = (2 * parts[3].parse::<usize>().unwrap()).to_string();
            parts.remove(4);
        }
        (parts.join("."), shape.clone())
    };
    write_formula(&shapes.iter().map(old).collect::<Vec<_>>(), &path, "a", &FACTORS);
    load_torch(config.init(&device).unwrap(), &path).unwrap();
}
