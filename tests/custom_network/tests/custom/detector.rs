//! The detector is trained, resumed, loaded, and read from a file of PyTorch's.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use custom_network::{
    DiscObjects, Discs, RandomNegative,
    detector::{PointNet, PointNetConfig},
};
use segkiln::{
    Detector,
    core::Classes,
    data::{ColorMode, Image, Loader},
    models::{
        DetectorCard,
        detection::{DetectionNetwork, DetectionNetworkConfig, DetectionOptions},
        weights::Exceptions,
    },
    train::{detection::DetectionTask, train},
};

#[test]
fn it_is_trained_resumed_and_loaded() {
    let _lock = crate::lock();
    let root = tempfile::tempdir().unwrap();
    let [whole, halves] = ["whole", "halves"].map(|name| root.path().join(name));
    let card = DetectorCard::new(PointNetConfig::new(2), Classes::new(["background", "disc"]).unwrap())
        .with_color(ColorMode::Gray);
    let training = |folder, epochs| {
        let [learned, valid] = [16, 4].map(|count| Loader::builder(Arc::new(DiscObjects(Discs { count }))));
        let data = [learned.transform(RandomNegative), valid];
        let mut run = crate::run(folder, epochs, DetectionTask::new(card.clone()), data, "bbox_ap50");
        run.options.clip_norm = Some(10.0);
        run.options.ema_decay = Some(0.5);
        train(run).unwrap()
    };
    let outcome = training(&whole, 2);
    training(&halves, 1);
    training(&halves, 2);
    crate::same_files(&whole, &halves);
    let rows = std::fs::read_to_string(whole.join("metrics.csv")).unwrap();
    assert!(rows.contains("bbox_ap50") && !rows.contains("segm_ap"), "{rows}");

    let device = Device::default();
    let options = DetectionOptions { score_threshold: Some(0.0), max_detections: Some(3), ..Default::default() };
    let detector = Detector::<PointNet>::load_network(&whole, &device).unwrap().with_options(options).unwrap();
    let found = detector.detect_values(&Image::new(40, 40, 1, vec![0.5; 1600]).unwrap()).unwrap();
    assert_eq!((found.len(), detector.name(&found[0])), (3, "disc"));
    // What was loaded is what was trained.
    let images = [Tensor::ones([1, 32, 32], &device) * 0.3];
    let best = outcome.model.with_config(detector.card().model.clone()).unwrap();
    assert_eq!(best.detect(&images).unwrap(), detector.model().detect(&images).unwrap());

    let file = root.path().join("pytorch.safetensors");
    best.save_torch(&file).unwrap();
    assert!(best.torch_shapes().iter().any(|(name, _)| name == "stem.1.weight"));
    let fresh = |classes| PointNetConfig::new(classes).init(&device).unwrap();
    let loaded = fresh(2).load_torch(&file, Exceptions::default()).unwrap();
    let loaded = loaded.with_config(detector.card().model.clone()).unwrap();
    assert_eq!(loaded.detect(&images).unwrap(), best.detect(&images).unwrap());
    // Also what a training for other classes begins with.
    fresh(4).load_pretrained(&file).unwrap();
    let error = fresh(4).load_torch(&file, Exceptions::default()).unwrap_err().to_string();
    assert!(error.contains("head.weight"), "{error}");
}

#[test]
fn layers_of_a_backbone_cannot_be_frozen_where_there_is_none() {
    let card = DetectorCard::new(PointNetConfig::new(2), Classes::new(["background", "disc"]).unwrap())
        .with_color(ColorMode::Gray);
    let data = [4, 4].map(|count| Loader::builder(Arc::new(DiscObjects(Discs { count }))));
    let root = tempfile::tempdir().unwrap();
    let mut run = crate::run(&root.path().join("run"), 1, DetectionTask::new(card), data, "loss");
    run.options.trainable = Some(1);
    let error = train(run).unwrap_err().to_string();
    assert!(error.contains("trainable") && error.contains("backbone"), "{error}");
}
