//! The task is trained with the library's loop and options, and resumed.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use custom_network::{DiscLabels, Discs, backbone::PatchNetConfig, task::Classification};
use segkiln::{
    data::Loader,
    models::{
        backbones::{BackboneConfig, ClassifierConfig, register_backbone},
        weights,
    },
    train::train,
};

#[test]
fn a_classifier_is_trained_resumed_and_loaded() {
    let _lock = crate::lock();
    register_backbone::<PatchNetConfig>("PatchNet").unwrap();
    let root = tempfile::tempdir().unwrap();
    let [whole, halves] = ["whole", "halves"].map(|name| root.path().join(name));
    let backbone = BackboneConfig::by_name("patchnet").unwrap().with_in_channels(1);
    let config = ClassifierConfig::new(backbone).with_classes(2);
    let training = |folder, epochs| {
        let data = [16, 8].map(|count| Loader::builder(Arc::new(DiscLabels(Discs { count }))));
        let task = Classification { config: config.clone() };
        let mut run = crate::run(folder, epochs, task, data, "accuracy");
        run.options.accumulation = 2;
        run.options.clip_norm = Some(1.0);
        run.options.ema_decay = Some(0.5);
        run.options.patience = Some(4);
        train(run).unwrap()
    };
    let outcome = training(&whole, 2);
    training(&halves, 1);
    training(&halves, 2);
    crate::same_files(&whole, &halves);
    assert!(outcome.best.valid("accuracy").is_some_and(|accuracy| accuracy > 0.0), "{:?}", outcome.best);
    let device = Device::default();
    let loaded = weights::load(config.init(&device), &whole.join("best.bpk")).unwrap();
    let x = || Tensor::<4>::ones([1, 1, 32, 32], &device);
    loaded.forward(x()).into_data().assert_eq(&outcome.model.forward(x()).into_data(), true);
}
