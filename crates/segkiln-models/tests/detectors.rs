//! Every detector of the list, made small: from its name to a training step.

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Device, Distribution, Tensor},
};
use segkiln_core::{BBox, Classes, Instance, Instances, Rle};
use segkiln_models::{
    DetectorCard,
    backbones::{BackboneConfig, ResNetConfig},
    detection::{
        DetectionError, DetectionModel, DetectionNetwork, DetectionNetworkConfig, DetectionOptions, DetectorConfig,
        Sampling, rcnn::RcnnConfig,
    },
    weights::{load, load_torch, save, save_torch, torch_shapes},
};

/// The detector of a name on a narrow ResNet-18.
fn small(name: &str, classes: usize) -> DetectorConfig {
    let backbone = || BackboneConfig::ResNet(ResNetConfig::resnet18());
    let config = match DetectorConfig::by_name(name, classes).unwrap() {
        DetectorConfig::Rcnn(mut config) => {
            let pyramid = RcnnConfig::with_backbone(backbone(), classes);
            config.backbone = pyramid.backbone;
            config.stages = pyramid.stages;
            config.anchors = pyramid.anchors;
            config.channels = 32;
            config.roi.representation = 32;
            config.mask = config.mask.map(|mask| mask.with_channels(16));
            DetectorConfig::Rcnn(config)
        }
        DetectorConfig::RetinaNet(mut config) => {
            config.backbone = backbone();
            config.channels = 32;
            DetectorConfig::RetinaNet(config)
        }
        DetectorConfig::Fcos(mut config) => {
            config.backbone = backbone();
            config.channels = 32;
            DetectorConfig::Fcos(config)
        }
    };
    config.with_options(DetectionOptions {
        min_size: Some(64),
        max_size: Some(96),
        score_threshold: Some(0.0),
        max_detections: Some(3),
    })
}

/// One image of noise with an object of each class, with masks.
fn sample(device: &Device) -> ([Tensor<3>; 1], [Instances; 1]) {
    let (width, height) = (60, 48);
    device.seed(5);
    let image = Tensor::random([3, height as usize, width as usize], Distribution::Default, device);
    let object = |label: u32, [x1, y1, x2, y2]: [u32; 4]| {
        let mask = Rle::from_fn(width, height, |x, y| (x1..x2).contains(&x) && (y1..y2).contains(&y)).unwrap();
        let bbox = BBox::new(x1.into(), y1.into(), x2.into(), y2.into()).unwrap();
        Instance::new(bbox, label).unwrap().with_mask(mask)
    };
    let objects = vec![object(1, [4, 6, 40, 30]), object(2, [20, 20, 55, 45])];
    ([image], [Instances::new(width, height, objects).unwrap()])
}

fn config_survives_a_file(name: &str, config: &DetectorConfig) {
    let json = serde_json::to_string(config).unwrap();
    let read: DetectorConfig = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), json, "{name}");
    let card = DetectorCard::new(read, Classes::new(["background", "a", "b"]).unwrap());
    card.check().unwrap();
    let json = serde_json::to_string(&card).unwrap();
    serde_json::from_str::<DetectorCard>(&json).unwrap().check().unwrap();
}

fn weights_survive_files(name: &str, config: &DetectorConfig, model: &DetectionModel) {
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["a.bpk", "a.safetensors"].map(|file| folder.path().join(file));
    save(model, &ours).unwrap();
    save_torch(model, &theirs).unwrap();
    let (images, _) = sample(&device);
    let found = model.detect(&images).unwrap();
    assert!(found[0].len() <= 3, "{name}");
    let fresh = || config.init(&device).unwrap();
    for loaded in [load(fresh(), &ours), load_torch(fresh(), &theirs), fresh().load_pretrained(&theirs)] {
        assert_eq!(loaded.unwrap().detect(&images).unwrap(), found, "{name}");
    }
    // A network for more classes takes all but its last layers.
    let other = small(name, 5).init(&device).unwrap();
    let prefixes = other.class_tensors();
    assert!(torch_shapes(&other).iter().any(|(tensor, _)| prefixes.iter().any(|prefix| tensor.starts_with(prefix))));
    other.load_pretrained(&theirs).unwrap();
    assert!(matches!(model.clone().with_config(small(name, 5)), Err(DetectionError::Config(_))), "{name}");
}

fn a_training_step_has_gradients(name: &str, model: DetectionModel, device: &Device) {
    let (images, targets) = sample(device);
    let gradients = |model: &DetectionModel| {
        let losses = model.losses(&images, &targets, Sampling::Random { seed: 1 }).unwrap();
        for (term, loss) in losses.named() {
            assert!(loss.clone().into_scalar::<f32>().is_finite(), "{name}: {term}");
        }
        GradientsParams::from_grads(losses.total().backward(), model).len()
    };
    let all = gradients(&model);
    assert!(all > 30, "{name}: {all}");
    assert!(gradients(&model.clone().freeze_backbone(0)) < all, "{name}");
    let (losses, found) = model.valid().validate(&sample(&Device::default()).0, &targets, Sampling::First).unwrap();
    assert!(losses.total().into_scalar::<f32>() > 0.0 && found.len() == 1, "{name}");
    let error = model.losses(&images, &[], Sampling::First).unwrap_err();
    assert!(matches!(error, DetectionError::Target { .. }), "{name}: {error}");
}

#[test]
fn every_detector_goes_from_its_name_to_a_training_step() {
    let names = DetectorConfig::names();
    assert_eq!(names.len(), 9);
    let device = Device::default().autodiff();
    for name in names {
        let whole = DetectorConfig::by_name(name, 91).unwrap();
        whole.check().unwrap();
        assert_eq!((whole.classes(), whole.has_masks()), (91, name.starts_with("mask")), "{name}");
        let config = small(name, 3);
        config.check().unwrap();
        config_survives_a_file(name, &config);
        let model = config.init(&device).unwrap().materialize();
        weights_survive_files(name, &config, &model.valid());
        a_training_step_has_gradients(name, model, &device);
    }
    assert!(DetectorConfig::by_name("fasterrcnn_resnet51_fpn", 91).is_none());
}

/// Files of before there were other detectors hold an R-CNN's config without the variant's name, and weights by the same
/// paths.
#[test]
fn earlier_files_of_rcnn_are_read() {
    let DetectorConfig::Rcnn(config) = small("maskrcnn_resnet50_fpn", 3) else { panic!("another detector") };
    let read: DetectorConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert!(matches!(read, DetectorConfig::Rcnn(_)));
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rcnn.bpk");
    save(&config.init(&device).unwrap(), &path).unwrap();
    load(read.init(&device).unwrap(), &path).unwrap();
    let error = serde_json::from_str::<DetectorConfig>(r#"{"YOLO": {}}"#).unwrap_err().to_string();
    assert!(error.contains("YOLO") && error.contains("RetinaNet"), "{error}");
}
