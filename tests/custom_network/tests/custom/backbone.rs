//! The backbone stands beneath this library's decoders and detectors.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use custom_network::{
    Discs,
    backbone::{PatchNet, PatchNetConfig},
};
use segkiln::{
    SegmentOptions, Segmenter,
    core::Classes,
    data::{ColorMode, Image, Loader, Normalize},
    models::{
        ModelCard, ModelConfig, SegmentationNetwork, SegmentationNetworkConfig,
        backbones::{BackboneConfig, BackboneFamily, Variants, register_backbone},
        detection::{DetectionNetwork, DetectionNetworkConfig, DetectorConfig, fcos::FcosConfig},
        weights,
    },
    train::{LayerRates, SegmentationTask, train},
};

fn register() {
    register_backbone::<PatchNetConfig>("PatchNet").unwrap();
}

#[test]
fn decoders_and_detectors_stand_on_it() {
    let _lock = crate::lock();
    register();
    let device = Device::default();
    for decoder in ModelConfig::decoders() {
        let config = ModelConfig::by_name(&format!("{decoder}_patchnet"), 2).unwrap().with_in_channels(1);
        config.check().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        let read: ModelConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json, "{decoder}");
        let network = read.init(&device);
        assert_eq!(network.forward(Tensor::zeros([1, 1, 45, 33], &device)).dims(), [1, 2, 45, 33], "{decoder}");
        assert!(network.torch_shapes().iter().any(|(name, _)| name.ends_with("blocks.4.weight")), "{decoder}");
    }
    let backbone = BackboneConfig::custom(PatchNetConfig::new().with_width(4)).unwrap();
    let config = DetectorConfig::from(FcosConfig::with_backbone(backbone, 2).with_channels(32).with_min_size(64));
    let detector = config.init(&device).unwrap();
    assert_eq!(detector.detect(&[Tensor::zeros([3, 40, 60], &device)]).unwrap().len(), 1);
}

#[test]
fn a_network_on_it_is_trained_resumed_and_loaded_by_name() {
    let _lock = crate::lock();
    register();
    let root = tempfile::tempdir().unwrap();
    let [whole, halves] = ["whole", "halves"].map(|name| root.path().join(name));
    let model = ModelConfig::by_name("unet_patchnet", 1).unwrap().with_in_channels(1);
    let card = ModelCard {
        model: model.clone(),
        classes: Classes::binary(),
        color: Some(ColorMode::Gray),
        normalize: Normalize::identity(1),
    };
    let training = |folder, epochs| {
        let data = [8, 4].map(|count| Loader::builder(Arc::new(Discs { count })));
        let mut run = crate::run(folder, epochs, SegmentationTask::new(card.clone()), data, "dice");
        run.options.trainable = Some(4);
        run.options.layer_rates = Some(LayerRates { last: 0.5, decay: 0.5 });
        train(run).unwrap()
    };
    let outcome = training(&whole, 2);
    training(&halves, 1);
    training(&halves, 2);
    crate::same_files(&whole, &halves);

    let segmenter = Segmenter::load(&whole, &Device::default()).unwrap();
    let image = Image::new(40, 25, 1, vec![0.5; 1000]).unwrap();
    let result = segmenter.segment_values(&image, &SegmentOptions::default()).unwrap();
    assert_eq!((result.map().width(), result.map().height()), (40, 25));
    // The backbone's weights begin another network.
    let file = root.path().join("patchnet.safetensors");
    let of_backbone = |name: &str| name.strip_prefix("encoder.").map(String::from);
    outcome.model.save_torch(&root.path().join("unet.safetensors")).unwrap();
    let shapes = outcome.model.torch_shapes().into_iter();
    let tensors = shapes.filter_map(|(name, shape)| {
        let values = vec![0.125f32; shape.iter().product()];
        Some((of_backbone(&name)?, burn::tensor::TensorData::new(values, shape)))
    });
    weights::save_safetensors(tensors.collect(), &file).unwrap();
    let network = model.init(&Device::default()).load_pretrained(&file).unwrap();
    let bias: f32 = network.backbone().unwrap().forward(Tensor::zeros([1, 1, 2, 2], &Device::default()), &[0])[0]
        .clone()
        .max()
        .into_scalar();
    assert_eq!(bias, 0.125);
}

/// Another family with a variant of the same name.
#[derive(burn::config::Config, Debug)]
struct Copied {
    #[config(default = 3)]
    in_channels: usize,
}

impl BackboneFamily for Copied {
    type Network = PatchNet;

    const VARIANTS: Variants<Self> = &[("patchnet", Copied::new)];

    fn stages(&self) -> segkiln::models::backbones::Stages {
        PatchNetConfig::new().stages()
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        Self { in_channels }
    }

    fn init(&self, device: &Device) -> PatchNet {
        PatchNetConfig::new().init(device)
    }
}

#[test]
fn what_cannot_be_registered_or_found_is_said() {
    register();
    register();
    let error = register_backbone::<Copied>("PatchNet").unwrap_err().to_string();
    assert!(error.contains("another family") && error.contains("PatchNet"), "{error}");
    let error = register_backbone::<Copied>("Copied").unwrap_err().to_string();
    assert!(error.contains("\"patchnet\" already"), "{error}");
    let error = BackboneConfig::custom(Copied::new()).unwrap_err().to_string();
    assert!(error.contains("register_backbone"), "{error}");
    let json = r#"{"Custom": {"family": "Nobody", "config": {}}}"#;
    let error = serde_json::from_str::<BackboneConfig>(json).unwrap_err().to_string();
    assert!(error.contains("\"Nobody\"") && error.contains("register_backbone"), "{error}");
}
