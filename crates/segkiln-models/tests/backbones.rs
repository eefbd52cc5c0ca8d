//! Backbones and classifiers against torchvision and timm; `tests/parity/backbones.py` writes the fixture.

mod formula;

use std::path::{Path, PathBuf};

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData},
};
use formula::{fixture, floats, image, part, write_formula};
use safetensors::SafeTensors;
use segkiln_data::{ColorMode, Limits, Normalize, read_image};
use segkiln_models::{
    ModelConfig, SegmentationNetwork, SegmentationNetworkConfig,
    backbones::{Backbone, BackboneConfig, ClassifierConfig},
    weights::{
        MobileNetV2Weights, Weights, load_torch, parameters, save_safetensors, save_torch, torch_contents, torch_shapes,
    },
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
        "convnext_tiny",
        "efficientnet_lite0",
        "tf_efficientnet_b0",
        "mobilenetv3_large_100",
        "tf_mobilenetv3_small_100",
    ];
    for name in names {
        let config = BackboneConfig::by_name(name).unwrap();
        let path = folder.path().join(format!("{name}.safetensors"));
        let network = config.init(&device);
        write_formula(&torch_shapes(&network), &path, "", &[]);
        let network = load_torch(network, &path).unwrap();
        let stages: Vec<usize> = (0..config.channels().len()).collect();
        let sizes: &[[usize; 2]] = match name {
            "convnext_tiny" => &[[48, 64], [65, 49]],
            "efficientnet_lite0" | "tf_efficientnet_b0" | "tf_mobilenetv3_small_100" => &[[48, 64], [65, 49], [1, 1]],
            _ => &[[48, 64]],
        };
        for size in sizes {
            let what = match size {
                [48, 64] => name.to_string(),
                [height, width] => format!("{name}.{height}x{width}"),
            };
            let maps = network.forward(image(0, *size, &device).unsqueeze(), &stages);
            for (stage, map) in maps.into_iter().enumerate() {
                let shape = map.dims();
                let values: Vec<f32> = map.into_data().try_to_vec().unwrap();
                let parts = [1, 4, 3, 3].iter().zip(shape);
                let steps: Vec<usize> = parts.map(|(parts, size)| (size / parts).max(1)).collect();
                let actual = part(&shape, &values, &steps);
                let expected = floats(&file, &format!("{what}.{stage}"));
                assert_eq!(actual.len(), expected.len(), "{what}: stage {stage}");
                let most = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                let difference = actual.iter().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
                assert!(difference <= 1e-5 * most, "{what}: stage {stage} differs by {difference} of {most}");
            }
        }
    }
}

#[test]
fn classifiers_are_torchvision_s() {
    let device = Device::default();
    let bytes = fixture("backbones");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "resnet18",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "efficientnet_b3",
        "convnext_tiny",
        "efficientnet_lite0",
        "tf_efficientnet_b0",
        "mobilenetv3_large_100",
        "tf_mobilenetv3_small_100",
    ];
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

/// With ImageNet's classes, as torchvision and timm count.
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
        ("convnext_tiny", 28_589_128),
        ("convnext_small", 50_223_688),
        ("efficientnet_lite0", 4_652_008),
        ("tf_efficientnet_b4", 19_341_616),
    ] {
        let network = ClassifierConfig::by_name(name).unwrap().init(&device);
        assert_eq!(parameters(&network), expected, "{name}");
    }
}

/// The names of timm and of segmentation_models_pytorch, which `tests/parity/backbones.py` writes in torchvision's order.
fn other_names(library: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/names.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let names = text.lines().skip_while(|line| *line != format!("[{library}]")).skip(1);
    names.take_while(|line| !line.starts_with('[')).map(String::from).collect()
}

/// Writes the network's weights by other names; timm's layer scales have one axis.
fn write_as<M: Module>(network: &M, path: &Path, name: impl Fn(usize, &str) -> String) {
    save_torch(network, path).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = torch_shapes(network).into_iter().enumerate().map(|(index, (ours, mut shape))| {
        let values = floats(&file, &ours);
        if ours.ends_with("layer_scale") {
            shape.truncate(1);
        }
        (name(index, &ours), TensorData::new(values, shape))
    });
    save_safetensors(tensors.collect(), path).unwrap();
}

/// Files of timm's and segmentation_models_pytorch's networks give the same network as torchvision's.
#[test]
fn names_of_other_libraries_are_understood() {
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let [path, after] = ["other.safetensors", "after.safetensors"].map(|name| folder.path().join(name));
    let x = image(0, [32, 64], &device).unsqueeze::<4>();
    for (library, backbone) in [
        ("timm efficientnet_b0", "efficientnet_b0"),
        ("smp efficientnet_b0", "tf_efficientnet_b0"),
        ("timm convnext_tiny", "convnext_tiny"),
        ("timm mobilenetv3_large_100", "mobilenetv3_large_100"),
        ("timm mobilenetv3_small_100", "tf_mobilenetv3_small_100"),
    ] {
        let names = other_names(library);
        // A classifier, and what of it is a backbone; segmentation_models_pytorch's has no classes.
        let config = ClassifierConfig::by_name(backbone).unwrap();
        let classifier = config.init(&device);
        let logits = classifier.forward(x.clone());
        write_as(&classifier, &path, |index, ours| match names.get(index) {
            Some(name) => name.clone(),
            None => ours.replace("classifier.1", "_fc"),
        });
        let loaded = load_torch(config.init(&device), &path).unwrap();
        loaded.forward(x.clone()).into_data().assert_eq(&logits.into_data(), true);
        let unet = ModelConfig::by_name(&format!("unet_{backbone}"), 2).unwrap();
        let begun = unet.init(&device).load_pretrained(&path).unwrap();
        let maps = |backbone: &Backbone| backbone.forward(x.clone(), &[0, 7]).remove(1).into_data();
        maps(begun.backbone().unwrap()).assert_eq(&maps(&classifier.backbone), true);
        if backbone == "tf_efficientnet_b0" {
            let other = ModelConfig::by_name("unet_efficientnet_b0", 2).unwrap().init(&device);
            let error = other.load_pretrained(&path).unwrap_err().to_string();
            assert!(error.contains("other.safetensors") && error.contains("tf_efficientnet_"), "{error}");
        }
        // The whole network.
        write_as(&begun, &path, |index, ours| match names.get(index).filter(|_| ours.starts_with("encoder.")) {
            // As timm has them where it gives maps out.
            Some(name) if backbone == "convnext_tiny" => {
                format!("encoder.model.{}", name.replace("stem.", "stem_").replace("stages.", "stages_"))
            }
            Some(name) => format!("encoder.{name}"),
            None => ours.into(),
        });
        let loaded = load_torch(unet.init(&device), &path).unwrap();
        loaded.forward(x.clone()).into_data().assert_eq(&begun.forward(x.clone()).into_data(), true);
        // Written with torchvision's.
        save_torch(&loaded, &after).unwrap();
        assert!(torch_contents(&after).unwrap().iter().any(|(name, _)| name.starts_with("encoder.features.0.0.")));
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
    let of = |backbone: &Backbone, x: Tensor<4>| backbone.forward(x, &[0, 18]);
    let expected = of(&backbone, x.clone());
    for channels in [1, 3, 6] {
        let config = ModelConfig::by_name("fpn_mobilenet_v2", 2).unwrap().with_in_channels(channels);
        config.check().unwrap();
        let model = config.init(&device).load_pretrained(&path).unwrap();
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
    let error = config.init(&device).load_pretrained(&path).unwrap_err().to_string();
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
        let model = ModelConfig::by_name(name, 3).unwrap().with_aux(aux).init(&device).load_pretrained(&path).unwrap();
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
