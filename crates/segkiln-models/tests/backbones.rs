//! Backbones and classifiers against torchvision; `tests/parity/backbones.py` writes the fixture.

mod formula;

use std::path::{Path, PathBuf};

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData},
};
use formula::{fixture, floats, image, part, write_formula};
use safetensors::SafeTensors;
use segkiln_data::{ColorMode, Limits, Normalize, read_image, resize_image};
use segkiln_models::{
    ModelConfig,
    backbones::{BackboneConfig, ClassifierConfig},
    weights::{load_torch, parameters, save_torch, torch_shapes},
};

/// The maps of every stage.
#[test]
fn backbones_are_torchvision_s() {
    let device = Device::default();
    let bytes = fixture("backbones");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "resnet18",
        "resnet34",
        "resnext50_32x4d",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "vgg11_bn",
        "vgg16_bn",
    ];
    for name in names {
        let config = BackboneConfig::by_name(name).unwrap();
        let path = folder.path().join(format!("{name}.safetensors"));
        let network = config.init(&device);
        write_formula(&torch_shapes(&network), &path, "", &[]);
        let network = load_torch(network, &path).unwrap();
        let stages: Vec<usize> = (0..config.channels().len()).collect();
        let x = image(0, [48, 64], &device).unsqueeze();
        for (stage, map) in network.forward(x, &stages).into_iter().enumerate() {
            let shape = map.dims();
            let values: Vec<f32> = map.into_data().try_to_vec().unwrap();
            let steps: Vec<usize> = [1, 4, 3, 3].iter().zip(shape).map(|(parts, size)| (size / parts).max(1)).collect();
            let actual = part(&shape, &values, &steps);
            let expected = floats(&file, &format!("{name}.{stage}"));
            assert_eq!(actual.len(), expected.len(), "{name}: stage {stage}");
            let most = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let difference = actual.iter().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
            assert!(difference <= 1e-5 * most, "{name}: stage {stage} differs by {difference} of {most}");
        }
    }
}

#[test]
fn classifiers_are_torchvision_s() {
    let device = Device::default();
    let bytes = fixture("backbones");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names =
        ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_b3"];
    for name in names {
        let path = folder.path().join(format!("{name}.safetensors"));
        let network = ClassifierConfig::by_name(name).unwrap().init(&device);
        write_formula(&torch_shapes(&network), &path, "", &[]);
        let network = load_torch(network, &path).unwrap();
        let logits = network.forward(image(0, [48, 64], &device).unsqueeze());
        assert_eq!(logits.dims(), [1, 1000]);
        // Written as it was read.
        let after = folder.path().join("after.safetensors");
        save_torch(&network, &after).unwrap();
        let files = [&path, &after].map(|path| std::fs::read(path).unwrap());
        let [read, written] = [0, 1].map(|index| SafeTensors::deserialize(&files[index]).unwrap());
        for tensor in read.names() {
            assert!(read.tensor(tensor).unwrap() == written.tensor(tensor).unwrap(), "{name}: {tensor}");
        }
        let actual: Vec<f32> = logits.into_data().iter::<f32>().step_by(61).collect();
        let expected = floats(&file, &format!("{name}.logits"));
        let most = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let difference = actual.iter().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
        assert_eq!(actual.len(), expected.len(), "{name}");
        assert!(difference <= 1e-5 * most, "{name} differs by {difference} of {most}");
    }
}

/// With ImageNet's classes, as torchvision counts.
#[test]
fn parameters_are_as_many_as_torchvision_s() {
    let device = Device::default();
    for (name, expected) in [
        ("resnet50", 25_557_032),
        ("resnext101_64x4d", 83_455_272),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_large", 5_483_032),
        ("mobilenet_v3_small", 2_542_856),
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
        ("efficientnet_b2", 9_109_994),
        ("efficientnet_b3", 12_233_232),
        ("efficientnet_b4", 19_341_616),
        ("vgg11_bn", 132_868_840),
        ("vgg13_bn", 133_053_736),
        ("vgg16_bn", 138_365_992),
        ("vgg19_bn", 143_678_248),
    ] {
        let network = ClassifierConfig::by_name(name).unwrap().init(&device);
        assert_eq!(parameters(&network), expected, "{name}");
    }
}

/// A file of `$SEGKILN_WEIGHTS`, which this repository is too small for.
fn real(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("SEGKILN_WEIGHTS").map(|folder| Path::new(&folder).join(name));
    let path = path.filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: {name} is not in the folder $SEGKILN_WEIGHTS");
    }
    path
}

/// As torchvision's classifiers take a photograph.
fn photograph(path: &Path, device: &Device) -> Tensor<4> {
    let image = read_image(path, ColorMode::Rgb, &Limits::default()).unwrap();
    let mut image = MobileNetV2Weights::ImageNet1kV1.published().preset.unwrap().apply(&image).unwrap();
    Normalize::imagenet().apply(&mut image).unwrap();
    Tensor::<4>::from_data(TensorData::new(image.into_vec(), [1, 224, 224, 3]), device).permute([0, 3, 1, 2])
}

/// torchvision's `mobilenet_v2-b0353104.pth` knows a cat (class 285) and an espresso (967): scikit-image's photographs.
#[test]
fn real_weights_know_photographs() {
    let Some(weights) = real("mobilenet_v2-b0353104.pth") else { return };
    let device = Device::default();
    let network = ClassifierConfig::by_name("mobilenet_v2").unwrap().init(&device);
    let network = load_torch(network, &weights).unwrap();
    for (name, class) in [("chelsea.png", 285), ("coffee.png", 967)] {
        let Some(path) = real(name) else { return };
        let logits = network.forward(photograph(&path, &device));
        assert_eq!(logits.argmax(1).into_scalar::<i64>(), class, "{name}");
    }
}

/// A classifier's weights are where a training begins, for images of any number of channels.
#[test]
fn classifiers_begin_segmentation_networks() {
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("classifier.safetensors");
    let classifier = ClassifierConfig::by_name("mobilenet_v2").unwrap().init(&device);
    write_formula(&torch_shapes(&classifier), &path, "", &[]);
    let backbone = load_torch(classifier, &path).unwrap().backbone;
    let x = image(0, [32, 32], &device).unsqueeze::<4>();
    let of = |backbone: &segkiln_models::backbones::Backbone, x: Tensor<4>| backbone.forward(x, &[0, 18]);
    let expected = of(&backbone, x.clone());
    for channels in [1, 3, 6] {
        let config = ModelConfig::by_name("fpn_mobilenet_v2", 2).unwrap().with_in_channels(channels);
        config.check().unwrap();
        let model = config.init(&device).begin_with(&path).unwrap();
        // The same values in all channels, or the same three twice, are the same to the weights that were made of three's.
        let x = match channels {
            1 => x.clone().mean_dim(1),
            6 => Tensor::cat(vec![x.clone(), x.clone()], 1),
            _ => x.clone(),
        };
        let gray = channels == 1;
        let wanted = if gray { of(&backbone, x.clone().repeat_dim(1, 3)) } else { expected.clone() };
        for (map, wanted) in of(model.backbone().unwrap(), x).into_iter().zip(wanted) {
            let difference = (map - wanted.clone()).abs().max().into_scalar::<f32>();
            let most = wanted.abs().max().into_scalar::<f32>();
            assert!(difference <= 1e-4 * most, "{channels} channels: {difference} of {most}");
        }
        let model = model.freeze_backbone(0);
        assert!(model.forward(Tensor::zeros([1, channels, 32, 32], &device)).dims() == [1, 2, 32, 32]);
    }
    // A file of another backbone is none of this one.
    let config = ModelConfig::by_name("unet_resnet18", 2).unwrap();
    let error = config.init(&device).begin_with(&path).unwrap_err().to_string();
    assert!(error.contains("classifier.safetensors") && error.contains("conv1.weight"), "{error}");
}

/// Weights of a network for other classes are taken but for its head, with the second head or without.
#[test]
fn heads_for_other_classes_keep_their_weights() {
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let [path, after] = ["weights.safetensors", "after.safetensors"].map(|name| folder.path().join(name));
    for (name, aux, inner, head) in [
        ("unet_resnet18", false, "decoder.blocks.1.conv2.0.weight", "segmentation_head.0.weight"),
        ("lraspp_mobilenet_v3_small", false, "classifier.cbr.0.weight", "classifier.low_classifier.weight"),
        ("fcn_mobilenet_v3_small", true, "aux_classifier.0.weight", "classifier.4.weight"),
        ("fcn_mobilenet_v3_small", false, "classifier.0.weight", "classifier.4.weight"),
    ] {
        let trained = ModelConfig::by_name(name, 21).unwrap().with_aux(true).init(&device);
        save_torch(&trained, &path).unwrap();
        let model = ModelConfig::by_name(name, 3).unwrap().with_aux(aux).init(&device).begin_with(&path).unwrap();
        save_torch(&model, &after).unwrap();
        let files = [&path, &after].map(|path| std::fs::read(path).unwrap());
        let [trained, model] = [0, 1].map(|index| SafeTensors::deserialize(&files[index]).unwrap());
        assert!(floats(&trained, inner) == floats(&model, inner), "{name}: {inner} was not taken");
        assert_eq!(trained.tensor(head).unwrap().shape()[0], 21, "{name}");
        assert_eq!(model.tensor(head).unwrap().shape()[0], 3, "{name}");
    }
}

/// A training step with all but the last group frozen: only that learns, also its running statistics.
#[test]
fn frozen_layers_stay_as_they_are() {
    let device = Device::default().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let model = ModelConfig::by_name("fpn_resnet18", 2).unwrap().init(&device).freeze_backbone(1);
    let state = |name: &str| {
        let path = folder.path().join(name);
        save_torch(&model.valid(), &path).unwrap();
        std::fs::read(&path).unwrap()
    };
    let before = state("before");
    let logits = model.forward(image(0, [64, 64], &device).unsqueeze());
    let gradients = GradientsParams::from_grads(logits.mean().backward(), &model);
    let after = state("after");
    let learning: Vec<String> = formula::gradients(&model, &gradients).into_iter().map(|(name, ..)| name).collect();
    assert!(learning.iter().any(|name| name == "encoder.layer4.0.conv1.weight"));
    assert!(learning.iter().any(|name| name == "decoder.p2.skip_conv.weight"));
    assert!(!learning.iter().any(|name| name.starts_with("encoder.layer3") || name.starts_with("encoder.conv1")));
    let [before, after] = [&before, &after].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    for (name, moves) in [("encoder.bn1", false), ("encoder.layer3.1.bn2", false), ("encoder.layer4.1.bn2", true)] {
        let name = format!("{name}.running_mean");
        assert_eq!(floats(&before, &name) != floats(&after, &name), moves, "{name}");
    }
}
