//! The segmentation networks against torchvision and segmentation_models_pytorch on the same weights;
//! `tests/parity/segmentation.py` writes the fixture and says which formulas weights and images have.

mod formula;

use burn::{
    module::Module,
    nn::DropoutConfig,
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData},
};
use formula::{fixture, floats, gradients, image, noise, part, write_formula};
use safetensors::SafeTensors;
use segkiln_models::{
    ModelConfig, SegmentationModel, SegmentationNetwork, SegmentationNetworkConfig,
    backbones::{Backbone, BackboneConfig, ConvNeXtStage},
    deeplab::DeepLabV3PlusConfig,
    segmentation::HeadLogits,
    weights::{Exceptions, load_torch, parameters, save_safetensors, save_torch, torch_shapes},
};

/// Factors of the formula, by a part of a tensor's name.
type Factors = &'static [(&'static str, f64)];

const BASIC: Factors = &[(".conv2.weight", 0.4)];
const INVERTED: Factors = &[(".conv.2.weight", 0.6)];
const SQUEEZE: Factors = &[(".block.3.0.", 1.2), (".fc1.", 2.0), (".fc2.", 3.0)];
const SCALE: Factors = &[("layer_scale", 0.2)];

fn factors(name: &str) -> Factors {
    match name {
        _ if name.ends_with("resnet34") => BASIC,
        _ if name.ends_with("mobilenet_v2") => INVERTED,
        _ if name.ends_with("mobilenet_v3_large") || name.contains("efficientnet") => SQUEEZE,
        _ if name.ends_with("convnext_tiny") => SCALE,
        _ => &[],
    }
}

fn load(config: &ModelConfig, salt: &str, factors: Factors, device: &Device) -> SegmentationModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let model = config.init(device);
    write_formula(&torch_shapes(&model), &path, salt, factors);
    load_torch(model, &path).unwrap()
}

/// Fixture of a network, by the library that it is from.
fn fixture_of(name: &str) -> &'static str {
    if name.starts_with("segformer") { "segformer" } else { "segmentation" }
}

/// As the fixture samples logits.
fn sampled(logits: Tensor<4>) -> Vec<f32> {
    const STEP: usize = 61;
    let values: Vec<f32> = logits.into_data().try_to_vec().unwrap();
    let step = if values.len() < STEP { 1 } else { STEP };
    values.into_iter().step_by(step).collect()
}

#[track_caller]
fn assert_near(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let most = expected.iter().fold(f32::NEG_INFINITY, |most, value| most.max(*value));
    let least = expected.iter().fold(f32::INFINITY, |least, value| least.min(*value));
    let scale = (most - least).max(most.abs()).max(least.abs());
    let difference = actual.iter().zip(expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
    assert!(difference <= tolerance * scale, "{what} differs by {difference} of {scale}");
}

fn check(name: &str, config: &ModelConfig, sizes: &[[usize; 2]]) {
    let device = Device::default();
    let bytes = fixture(fixture_of(name));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let model = load(config, "", factors(name), &device);
    for size in sizes {
        let logits = model.forward_heads(image(0, *size, &device).unsqueeze());
        let [height, width] = size;
        let keys: &[&str] = if logits.len() > 1 { &["aux", "out"] } else { &["out"] };
        for (key, head) in keys.iter().zip(logits) {
            let key = format!("{name}.{height}x{width}.{key}");
            assert_near(&sampled(head.logits), &floats(&file, &key), 2e-5, &key);
        }
    }
}

#[test]
fn networks_are_the_references() {
    for (name, sizes) in [
        ("deeplabv1_resnet50", &[[65, 49], [1, 1], [24, 304]][..]),
        ("deeplabv1_vgg16_bn", &[[65, 49], [24, 304]]),
        ("deeplabv2_resnet50", &[[65, 49], [1, 1], [24, 304]]),
        ("deeplabv2_vgg16_bn", &[[65, 49], [24, 304]]),
        ("fcn_resnet50", &[[65, 49], [1, 1]]),
        ("deeplabv3_resnet50", &[[65, 49], [1, 1], [24, 304]]),
        ("deeplabv3_mobilenet_v3_large", &[[65, 49], [1, 1], [16, 608]]),
        ("lraspp_mobilenet_v3_large", &[[65, 49], [1, 1]]),
        ("unet_resnet34", &[[64, 96], [65, 49]]),
        ("unet_mobilenet_v2", &[[64, 96]]),
        ("unet_vgg16_bn", &[[64, 96], [65, 49]]),
        ("unetplusplus_resnet34", &[[64, 96]]),
        ("deeplabv3plus_resnet34", &[[64, 96], [32, 608]]),
        ("deeplabv3plus_mobilenet_v2", &[[64, 96]]),
        ("pspnet_resnet34", &[[64, 96]]),
        ("fpn_resnet34", &[[64, 96]]),
        ("unet_convnext_tiny", &[[64, 96], [65, 49]]),
        ("unetplusplus_convnext_tiny", &[[64, 96]]),
        ("unet_efficientnet_b0", &[[64, 96]]),
        ("unet_tf_efficientnet_b1", &[[48, 80]]),
        ("upernet_resnet34", &[[64, 96]]),
        ("upernet_convnext_tiny", &[[64, 96]]),
        ("segformer_b0", &[[65, 49], [64, 96]]),
    ] {
        check(name, &ModelConfig::by_name(name, 5).unwrap().with_aux(true), sizes);
    }
    // By timm's names a file is not of torchvision's MobileNetV3.
    let timm = ModelConfig::by_name("deeplabv3plus_tu-mobilenetv3_large_100", 5).unwrap();
    check("deeplabv3plus_mobilenet_v3_large", &timm, &[[64, 96]]);
    let dense = |name, sizes: &[_]| {
        let ModelConfig::DeepLabV3Plus(config) = ModelConfig::by_name(name, 5).unwrap() else {
            panic!("another network");
        };
        let encoder = config.backbone.with_output_stride(8).unwrap();
        check(name, &ModelConfig::DeepLabV3Plus(DeepLabV3PlusConfig::new(encoder, 5)), sizes);
    };
    dense("deeplabv3plus_resnet50", &[[64, 96], [32, 304]]);
    dense("deeplabv3plus_convnext_tiny", &[[64, 96]]);
}

/// With 21 classes and the auxiliary heads.
#[test]
fn parameters_are_as_many_as_the_references() {
    let device = Device::default();
    for (name, expected) in [
        ("deeplabv1_vgg16_bn", 20_513_877),
        ("deeplabv2_resnet101", 44_048_532),
        ("fcn_resnet50", 35_322_218),
        ("fcn_resnet101", 54_314_346),
        ("deeplabv3_resnet50", 42_004_074),
        ("deeplabv3_resnet101", 60_996_202),
        ("deeplabv3_mobilenet_v3_large", 11_029_328),
        ("lraspp_mobilenet_v3_large", 3_221_538),
        ("unet_resnet18", 14_331_109),
        ("unet_resnet50", 32_524_005),
        ("unet_vgg16_bn", 23_759_589),
        ("unetplusplus_resnext50_32x4d", 48_460_517),
        ("unetplusplus_vgg16_bn", 39_358_693),
        ("deeplabv3plus_resnet18", 12_334_437),
        ("deeplabv3plus_mobilenet_v2", 4_383_653),
        ("pspnet_resnet50", 24_393_173),
        ("pspnet_vgg16_bn", 15_608_277),
        ("fpn_resnext50_32x4d", 25_590_485),
        ("unet_convnext_tiny", 31_931_653),
        ("fpn_convnext_small", 51_449_333),
        ("unet_tf_efficientnet_b0", 6_254_369),
        ("unet_efficientnet_b4", 20_228_589),
        ("unetplusplus_efficientnet_lite0", 5_935_941),
        ("deeplabv3plus_efficientnet_b0", 4_912_609),
        ("upernet_resnet50", 37_289_813),
        ("segformer_b0", 3_719_541),
        ("segformer_b1", 13_682_645),
        ("segformer_b2", 27_362_773),
        ("segformer_b3", 47_238_613),
        ("segformer_b4", 64_009_173),
        ("segformer_b5", 84_609_493),
    ] {
        let model = ModelConfig::by_name(name, 21).unwrap().with_aux(true).init(&device);
        assert_eq!(parameters(&model), expected, "{name}");
    }
}

/// Any image of any size goes through any network.
#[test]
fn sizes_that_the_references_refuse() {
    let device = Device::default();
    for decoder in ModelConfig::decoders() {
        for backbone in [
            "resnet18",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "efficientnet_b0",
            "tf_efficientnet_lite0",
            "vgg11_bn",
            "convnext_tiny",
        ] {
            let Ok(config) = ModelConfig::by_name(&format!("{decoder}_{backbone}"), 3) else {
                assert_eq!([decoder, backbone], ["unetplusplus", "convnext_tiny"]);
                continue;
            };
            config.check().unwrap();
            let model = config.init(&device);
            for [height, width] in [[1, 1], [2, 33], [37, 1]] {
                let logits = model.forward(Tensor::zeros([1, 3, height, width], &device));
                assert_eq!(logits.dims(), [1, 3, height, width], "{decoder}_{backbone}");
            }
        }
    }
}

#[test]
fn names_that_are_none_are_refused() {
    for name in ["", "unet", "unet_", "unet_resnet51", "mask_resnet50", "resnet50"] {
        let error = ModelConfig::by_name(name, 2).unwrap_err().to_string();
        assert!(error.contains("unetplusplus") && error.contains("resnext50_32x4d"), "{error}");
    }
    let mobile = BackboneConfig::by_name("mobilenet_v3_large").unwrap();
    assert!(mobile.with_output_stride(4).unwrap_err().to_string().contains("8, 16 or 32"));
    assert!(ModelConfig::by_name("unet_resnet18", 0).unwrap().check().unwrap_err().to_string().contains("classes"));
}

/// timm leaves out what a network does not use of its encoder; what it uses must be there.
#[test]
fn unused_layers_may_be_missing() {
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let model = ModelConfig::by_name("pspnet_resnet18", 2).unwrap().init(&device);
    let load_without = |missing: &[&str]| {
        let tensors =
            torch_shapes(&model).into_iter().filter(|(name, _)| !missing.iter().any(|part| name.contains(part)));
        let tensors = tensors.map(|(name, shape)| {
            let values = vec![0.5f32; shape.iter().product()];
            (name, TensorData::new(values, shape))
        });
        save_safetensors(tensors.collect(), &path).unwrap();
        model.clone().load_torch(&path, Exceptions::default())
    };
    load_without(&["encoder.layer3.", "encoder.layer4."]).unwrap();
    let error = load_without(&["encoder.layer2.1.conv1."]).unwrap_err().to_string();
    assert!(error.contains("missing: encoder.layer2.1.conv1.weight"), "{error}");
}

/// Weights saved for PyTorch have its names, and load again.
#[test]
fn weights_go_to_pytorch_and_come_back() {
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    for name in ["lraspp_mobilenet_v3_large", "unetplusplus_resnet18"] {
        let config = ModelConfig::by_name(name, 2).unwrap();
        let model = config.init(&device);
        save_torch(&model, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| file.tensor(name).map(|tensor| tensor.shape().to_vec()).unwrap();
        match name {
            "unetplusplus_resnet18" => assert_eq!(shape("decoder.blocks.x_1_2.conv1.0.weight"), [64, 256, 3, 3]),
            _ => assert_eq!(shape("backbone.15.block.3.1.running_var"), [160]),
        }
        let back = load_torch(config.init(&device), &path).unwrap();
        let x = image(0, [33, 40], &device).unsqueeze();
        model.forward(x.clone()).into_data().assert_eq(&back.forward(x).into_data(), true);
    }
}

/// All dropout off, as in the fixture.
fn without_dropout(model: SegmentationModel) -> SegmentationModel {
    let off = DropoutConfig::new(0.0).init();
    match model {
        SegmentationModel::EncodedUNet(mut model) => {
            if let Backbone::ConvNeXt(encoder) = &mut model.encoder {
                for stage in &mut encoder.features {
                    let ConvNeXtStage::Blocks(blocks) = stage else { continue };
                    blocks.iter_mut().for_each(|block| block.dropped = off.clone());
                }
            }
            SegmentationModel::EncodedUNet(model)
        }
        SegmentationModel::DeepLabV3(mut model) => {
            model.classifier.aspp.dropout = off.clone();
            if let Some(aux) = &mut model.aux_classifier {
                aux.dropout = off;
            }
            SegmentationModel::DeepLabV3(model)
        }
        SegmentationModel::DeepLabV3Plus(mut model) => {
            model.decoder.aspp.dropout = off;
            SegmentationModel::DeepLabV3Plus(model)
        }
        SegmentationModel::PspNet(mut model) => {
            model.decoder.dropout = off;
            SegmentationModel::PspNet(model)
        }
        SegmentationModel::Fpn(mut model) => {
            model.decoder.dropout = off;
            SegmentationModel::Fpn(model)
        }
        SegmentationModel::SegFormer(mut model) => {
            model.decode_head.dropout = off.clone();
            model.encoder.stages.block.iter_mut().flatten().for_each(|block| block.drop_path = off.clone());
            SegmentationModel::SegFormer(model)
        }
        SegmentationModel::Fcn(mut model) => {
            model.classifier.dropout = off.clone();
            if let Some(aux) = &mut model.aux_classifier {
                aux.dropout = off;
            }
            SegmentationModel::Fcn(model)
        }
        SegmentationModel::DeepLabV1(mut model) => {
            model.dropout = off;
            SegmentationModel::DeepLabV1(model)
        }
        model @ (SegmentationModel::UNet(_)
        | SegmentationModel::UNetPlusPlus(_)
        | SegmentationModel::AttentionUNet(_)
        | SegmentationModel::EncodedUNetPlusPlus(_)
        | SegmentationModel::FusionUNet(_)
        | SegmentationModel::DeepLabV2(_)
        | SegmentationModel::LrAspp(_)
        | SegmentationModel::UPerNet(_)) => model,
    }
}

/// Outputs, gradients and running statistics of a training step. One ReLU that opens by the last bits moves a gradient: where
/// all weights move by 1e-6, PyTorch's own norms do by 0.9 % and its gradients by 4 % of the largest value.
fn check_training(name: &str, salt: &str, size: [usize; 2], count: usize, parts: &[(&str, &[usize])], norms: &[&str]) {
    let device = Device::default().autodiff();
    let bytes = fixture(fixture_of(name));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let fixed = |key: &str| floats(&file, &format!("train.{name}.{key}"));
    let config = ModelConfig::by_name(name, 5).unwrap().with_aux(true);
    let model = without_dropout(load(&config, salt, factors(name), &device));
    let batch = Tensor::stack((0..count).map(|index| image(index, size, &device)).collect(), 0);
    let mut heads = model.forward_heads(batch);
    heads.reverse();
    let mut loss = Tensor::<1>::zeros([1], &device);
    for (key, HeadLogits { weight, logits }) in ["out", "aux"].into_iter().zip(heads) {
        assert_near(&sampled(logits.clone()), &fixed(key), 5e-5, &format!("{name}: {key}"));
        let shape = logits.dims();
        let noise: Vec<f32> = noise(key).take(shape.iter().product()).map(|value| value as f32).collect();
        let noise = Tensor::<4>::from_data(TensorData::new(noise, shape), &device);
        loss = loss + (logits * noise).mean().mul_scalar(weight);
    }
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let found = gradients(&model, &grads);
    let expected = fixed("norms");
    assert_eq!(found.len(), expected.len(), "{name}: parameters with gradients");
    let most = expected.iter().fold(0.0f32, |most, norm| most.max(*norm));
    for ((parameter, shape, values), expected) in found.iter().zip(expected) {
        let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
        let floor = 1e-4 * most;
        assert!(
            (norm - expected).abs() <= 0.02 * expected.max(floor),
            "{name}: norm of {parameter} is {norm} and not {expected}"
        );
        let steps = parts.iter().find(|(part, _)| part == parameter).map(|(_, steps)| *steps);
        let of_norm = norms.iter().any(|layer| parameter.strip_prefix(layer).is_some_and(|rest| rest.starts_with('.')));
        if let Some(steps) = steps.or(of_norm.then_some(&[])) {
            let what = format!("{name}: gradient of {parameter}");
            assert_near(&part(shape, values, steps), &fixed(&format!("grad.{parameter}")), 0.03, &what);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("after.safetensors");
    save_torch(&model.valid(), &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let after = SafeTensors::deserialize(&bytes).unwrap();
    for layer in norms {
        for kind in ["running_mean", "running_var"] {
            let key = format!("{layer}.{kind}");
            assert_near(&floats(&after, &key), &fixed(&format!("after.{key}")), 5e-5, &format!("{name}: {key}"));
        }
    }
}

#[test]
fn a_training_step_of_unet() {
    check_training(
        "unet_resnet34",
        "e",
        [64, 96],
        2,
        &[
            ("encoder.conv1.weight", &[8]),
            ("encoder.layer2.0.conv1.weight", &[16, 16]),
            ("encoder.layer4.2.conv2.weight", &[64, 64]),
            ("decoder.blocks.0.conv1.0.weight", &[32, 64]),
            ("decoder.blocks.4.conv2.0.weight", &[4, 1]),
            ("segmentation_head.0.weight", &[]),
            ("segmentation_head.0.bias", &[]),
        ],
        &["encoder.bn1", "decoder.blocks.2.conv1.1"],
    );
}

#[test]
fn training_steps_of_the_others() {
    for (name, salt, size, count, head, steps, norm) in [
        ("unetplusplus_resnet34", "h", [64, 96], 2, "segmentation_head.0.weight", &[][..], "encoder.bn1"),
        ("deeplabv3plus_resnet34", "i", [64, 96], 4, "segmentation_head.0.weight", &[1, 8], "encoder.bn1"),
        ("pspnet_resnet34", "j", [64, 96], 2, "segmentation_head.0.weight", &[1, 8], "encoder.bn1"),
        ("fpn_resnet34", "k", [64, 96], 2, "segmentation_head.0.weight", &[], "encoder.bn1"),
        ("lraspp_mobilenet_v3_large", "l", [64, 96], 4, "classifier.low_classifier.weight", &[], "backbone.0.1"),
        ("upernet_resnet34", "m", [64, 96], 4, "segmentation_head.0.weight", &[], "encoder.bn1"),
    ] {
        check_training(name, salt, size, count, &[(head, steps)], &[norm]);
    }
}

#[test]
fn a_training_step_of_unet_on_convnext() {
    check_training(
        "unet_convnext_tiny",
        "g",
        [64, 96],
        2,
        &[
            ("encoder.features.0.0.weight", &[4]),
            ("encoder.features.1.0.layer_scale", &[]),
            ("encoder.features.3.1.block.0.weight", &[8]),
            ("encoder.features.3.2.block.2.weight", &[]),
            ("encoder.features.5.4.block.3.weight", &[64, 32]),
            ("encoder.features.6.1.weight", &[64, 32]),
            ("encoder.features.7.2.block.5.bias", &[8]),
            ("decoder.blocks.0.conv1.0.weight", &[32, 64]),
            ("decoder.blocks.3.conv1.0.weight", &[4, 8]),
            ("segmentation_head.0.weight", &[]),
        ],
        &["decoder.blocks.2.conv1.1"],
    );
}

#[test]
fn a_training_step_of_segformer() {
    check_training(
        "segformer_b0",
        "n",
        [64, 96],
        2,
        &[
            ("segformer.encoder.patch_embeddings.0.proj.weight", &[4]),
            ("segformer.encoder.block.0.1.attention.self.sr.weight", &[8, 8]),
            ("segformer.encoder.block.2.0.attention.self.query.weight", &[16, 8]),
            ("segformer.encoder.block.3.1.mlp.dwconv.dwconv.weight", &[8]),
            ("decode_head.linear_c.2.proj.weight", &[16, 8]),
            ("decode_head.classifier.weight", &[]),
        ],
        &["decode_head.batch_norm"],
    );
}

/// The attention of every block, and of images that are smaller than the reductions' kernels.
#[test]
fn attention_of_segformer() {
    let device = Device::default();
    let bytes = fixture("segformer");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let config = ModelConfig::by_name("segformer_b0", 5).unwrap();
    let SegmentationModel::SegFormer(model) = load(&config, "", &[], &device) else { panic!("another network") };
    let x = image(0, [65, 49], &device).unsqueeze::<4>();
    let (logits, attention) = model.forward_with_attention(x.clone());
    logits.into_data().assert_eq(&model.forward(x).into_data(), true);
    assert_eq!(attention.len(), 8);
    for (index, weights) in attention.into_iter().enumerate() {
        let key = format!("segformer_b0.65x49.attention.{index}");
        assert_near(&sampled(weights), &floats(&file, &key), 2e-5, &key);
    }
    for [height, width] in [[1, 1], [2, 33], [37, 1]] {
        let logits = model.forward(Tensor::zeros([1, 3, height, width], &device));
        assert_eq!(logits.dims(), [1, 5, height, width]);
    }
}

/// The names that transformers 5 has in memory, and an encoder that was trained as a classifier.
#[test]
fn other_files_of_segformer() {
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let config = ModelConfig::by_name("segformer_b0", 5).unwrap();
    let model = load(&config, "", &[], &device);
    let in_memory = |name: &str| {
        let name =
            name.replace("attention.self.query", "attention.q_proj").replace("attention.self.key", "attention.k_proj");
        let name = name
            .replace("attention.self.value", "attention.v_proj")
            .replace("attention.output.dense", "attention.o_proj");
        let name = name.replace("attention.self.sr", "attention.sequence_reduction.sequence_reduction");
        let name = name.replace("attention.self.layer_norm", "attention.sequence_reduction.layer_norm");
        let name = name.replace("layer_norm_1", "layernorm_before").replace("layer_norm_2", "layernorm_after");
        let name = name.replace("mlp.dense", "mlp.fc").replace("linear_c", "linear_projections");
        let parts: Vec<&str> = name.split('.').collect();
        match *parts {
            ["segformer", "encoder", "block", stage, ref rest @ ..] => {
                format!("segformer.stages.{stage}.blocks.{}", rest.join("."))
            }
            ["segformer", "encoder", part, stage, ref rest @ ..] => {
                format!("segformer.stages.{stage}.{part}.{}", rest.join("."))
            }
            _ => name,
        }
    };
    save_torch(&model, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = |keep: &dyn Fn(&str) -> Option<String>| {
        let tensors = file.names().into_iter().filter_map(|name| {
            let data = TensorData::new(floats(&file, name), file.tensor(name).unwrap().shape().to_vec());
            Some((keep(name)?, data))
        });
        tensors.collect::<Vec<_>>()
    };
    let x = image(0, [64, 48], &device).unsqueeze::<4>();
    save_safetensors(tensors(&|name| Some(in_memory(name))), &path).unwrap();
    let loaded = load_torch(config.init(&device), &path).unwrap();
    loaded.forward(x.clone()).into_data().assert_eq(&model.forward(x.clone()).into_data(), true);

    let mut encoder = tensors(&|name| name.starts_with("segformer.").then(|| name.into()));
    encoder.push(("classifier.weight".into(), TensorData::zeros::<f32, _>([1000, 256])));
    save_safetensors(encoder, &path).unwrap();
    let begun = config.init(&device).load_pretrained(&path).unwrap();
    let SegmentationModel::SegFormer(begun) = begun else { panic!("another network") };
    let SegmentationModel::SegFormer(model) = model else { panic!("another network") };
    let [theirs, ours] = [model, begun].map(|model| model.forward_with_attention(x.clone()).1.remove(7).into_data());
    ours.assert_eq(&theirs, true);
}

#[test]
fn a_training_step_of_deeplab() {
    check_training(
        "deeplabv3_mobilenet_v3_large",
        "f",
        [65, 49],
        4,
        &[
            ("backbone.0.0.weight", &[]),
            ("backbone.4.block.1.0.weight", &[8]),
            ("backbone.4.block.2.fc1.weight", &[]),
            ("backbone.13.block.1.0.weight", &[32]),
            ("backbone.15.block.3.0.weight", &[8, 32]),
            ("backbone.16.0.weight", &[32, 16]),
            ("classifier.0.convs.1.0.weight", &[32, 128]),
            ("classifier.0.convs.4.1.weight", &[32, 64]),
            ("classifier.0.project.0.weight", &[32, 64]),
            ("classifier.1.weight", &[32, 64]),
            ("classifier.4.weight", &[]),
            ("classifier.4.bias", &[]),
            ("aux_classifier.0.weight", &[2, 8]),
            ("aux_classifier.4.weight", &[]),
        ],
        &["backbone.0.1", "classifier.0.convs.4.2", "aux_classifier.1"],
    );
}
