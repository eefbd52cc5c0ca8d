//! The task is trained with the library's loop and options, and resumed.

use std::sync::Arc;

use burn::{
    data::dataset::Dataset,
    tensor::{Device, Tensor, TensorData},
};
use custom_network::{DiscLabels, Discs, backbone::PatchNetConfig, task::Classification};
use segkiln::{
    data::{Loader, Sample},
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
    // Three of the seven discs are large, so that an answer that is always the same is not right for half of them.
    const COUNT: usize = 7;
    let training = |folder, epochs| {
        let data = [16, COUNT].map(|count| Loader::builder(Arc::new(DiscLabels(Discs { count }))));
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
    let device = Device::default();
    let loaded = weights::load(config.init(&device), &whole.join("best.bpk")).unwrap();
    let x = || Tensor::<4>::ones([1, 1, 32, 32], &device);
    loaded.forward(x()).into_data().assert_eq(&outcome.model.forward(x()).into_data(), true);
    // The accuracy of the best epoch is that of the weights that were kept, counted by hand.
    let discs = DiscLabels(Discs { count: COUNT });
    let is_right = |index: &usize| {
        let Sample { image, target, .. } = discs.get(*index).unwrap();
        let x = Tensor::<4>::from_data(TensorData::new(image.into_vec(), [1, 1, 32, 32]), &device);
        let logits: Vec<f32> = loaded.forward(x).into_data().try_to_vec().unwrap();
        (logits[1] > logits[0]) == (target.class == 1)
    };
    let right = 100.0 * (0..COUNT).filter(is_right).count() as f64 / COUNT as f64;
    let accuracy = outcome.best.valid("accuracy").unwrap();
    assert!((accuracy - right).abs() < 1e-3, "{accuracy}, not {right}");
}
