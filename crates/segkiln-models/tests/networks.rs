//! Every segmentation network of the list, made small: from its name to a training step.

use std::collections::BTreeSet;

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Device, Distribution, Tensor},
};
use segkiln_core::Classes;
use segkiln_data::{ColorMode, Normalize};
use segkiln_models::{
    ModelCard, ModelConfig, SegmentationModel, SegmentationNetwork, SegmentationNetworkConfig,
    backbones::BackboneConfig,
    unet::{AttentionUNetConfig, EncodedUNetConfig, FusionUNetConfig, UNetConfig, UNetPlusPlusConfig},
    weights::{Exceptions, load, save},
};

/// Every name, on small backbones, and the networks that have no name.
fn configs(classes: usize) -> Vec<(String, ModelConfig)> {
    let backbones = ["resnet18", "mobilenet_v3_small"];
    let decoders = ModelConfig::decoders();
    let on_backbones = decoders.iter().flat_map(|decoder| backbones.map(|backbone| format!("{decoder}_{backbone}")));
    // The larger ones differ in numbers alone.
    let whole = ModelConfig::names().into_iter().filter(|name| name.ends_with("_b0") || name.ends_with("_b1"));
    let names = on_backbones.chain(whole.map(String::from));
    let mut configs: Vec<(String, ModelConfig)> = names
        .map(|name| {
            let config = ModelConfig::by_name(&name, classes).unwrap();
            (name, config.with_aux(true))
        })
        .collect();
    let resnet = |channels| BackboneConfig::by_name("resnet18").unwrap().with_in_channels(channels);
    let unet = EncodedUNetConfig::new(resnet(2), classes).with_channels([32, 16, 8, 8, 8]);
    let others: [(&str, ModelConfig); 4] = [
        ("UNet", UNetConfig::new(3, classes).with_base(4).with_depth(2).with_dropout(0.5).into()),
        (
            "UNetPlusPlus",
            UNetPlusPlusConfig::new(3, classes).with_base(4).with_depth(2).with_deep_supervision(true).into(),
        ),
        ("AttentionUNet", AttentionUNetConfig::new(3, classes).with_base(4).with_depth(2).into()),
        ("FusionUNet", FusionUNetConfig::new(unet, resnet(1)).into()),
    ];
    configs.extend(others.map(|(name, config)| (name.into(), config)));
    configs
}

fn image(device: &Device) -> Tensor<4> {
    device.seed(3);
    Tensor::random([2, 3, 64, 48], Distribution::Default, device)
}

fn config_survives_a_file(name: &str, config: &ModelConfig) {
    let json = serde_json::to_string(config).unwrap();
    let read: ModelConfig = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), json, "{name}");
    let classes = Classes::new((0..read.classes()).map(|class| format!("class {class}"))).unwrap();
    let card = ModelCard { model: read, classes, color: Some(ColorMode::Rgb), normalize: Normalize::imagenet() };
    card.check().unwrap();
    let json = serde_json::to_string(&card).unwrap();
    serde_json::from_str::<ModelCard>(&json).unwrap().check().unwrap();
    let changed = config.clone().with_in_channels(5);
    changed.check().unwrap();
    assert_eq!(changed.in_channels(), 5, "{name}");
}

fn weights_survive_files(name: &str, config: &ModelConfig, model: &SegmentationModel) {
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["a.bpk", "a.safetensors"].map(|file| folder.path().join(file));
    save(model, &ours).unwrap();
    model.save_torch(&theirs).unwrap();
    let names: Vec<String> = model.torch_shapes().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{name}: two tensors have one name");
    let logits = model.forward(image(&device)).into_data();
    let fresh = || config.init(&device);
    for loaded in [
        load(fresh(), &ours),
        fresh().load_pretrained(&ours),
        fresh().load_torch(&theirs, Exceptions::default()),
        fresh().load_pretrained(&theirs),
    ] {
        loaded.unwrap().forward(image(&device)).into_data().assert_eq(&logits, true);
    }
    // A network for more classes takes all but its last layers.
    let (_, other) = configs(7).into_iter().find(|(other, _)| other == name).unwrap();
    let other = other.init(&device);
    let prefixes = other.class_tensors();
    assert!(names.iter().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))), "{name}");
    other.load_pretrained(&theirs).unwrap();
}

fn a_training_step_has_gradients(name: &str, config: &ModelConfig, model: SegmentationModel, device: &Device) {
    let gradients = |model: &SegmentationModel| {
        let heads = model.forward_heads(image(device));
        let weights: f64 = heads.iter().map(|head| head.weight).sum();
        assert!(weights > 0.99, "{name}");
        let losses = heads.into_iter().map(|head| {
            assert_eq!(head.logits.dims(), [2, config.classes(), 64, 48], "{name}");
            head.logits.square().mean().mul_scalar(head.weight)
        });
        let loss = losses.reduce(|sum, loss| sum + loss).unwrap();
        assert!(loss.clone().into_scalar::<f32>().is_finite(), "{name}");
        GradientsParams::from_grads(loss.backward(), model).len()
    };
    let all = gradients(&model);
    assert!(all > 10, "{name}: {all}");
    let frozen = gradients(&model.clone().freeze_backbone(0));
    assert_eq!(frozen < all, config.has_backbone(), "{name}: {frozen} of {all}");
    // Dropout and statistics of the batch are for training alone.
    let valid = model.valid();
    let plain = Device::default();
    let x = image(&plain);
    let first = valid.forward(x.clone()).into_data();
    valid.forward(x.clone()).into_data().assert_eq(&first, true);
    let one = valid.forward(x.slice(0..1)).into_data();
    one.assert_approx_eq::<f32>(
        &Tensor::<4>::from_data(first, &plain).slice(0..1).into_data(),
        burn::tensor::Tolerance::rel_abs(1e-3, 1e-4),
    );
}

#[test]
fn every_network_goes_from_its_name_to_a_training_step() {
    for name in ModelConfig::names() {
        ModelConfig::by_name(name, 21).unwrap().check().unwrap();
    }
    let device = Device::default().autodiff();
    for (name, config) in configs(3) {
        config.check().unwrap();
        assert_eq!((config.classes(), config.in_channels()), (3, 3), "{name}");
        config_survives_a_file(&name, &config);
        device.seed(1);
        let model = config.init(&device).materialize();
        weights_survive_files(&name, &config, &model.valid());
        a_training_step_has_gradients(&name, &config, model, &device);
    }
}
