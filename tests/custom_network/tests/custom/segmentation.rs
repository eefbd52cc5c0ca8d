//! The network is trained, resumed, loaded, and read from a file of PyTorch's.

use std::{path::Path, sync::Arc};

use burn::tensor::{Device, Tensor, TensorData};
use custom_network::{Discs, RandomNegative, SquaredError, TinyNet, TinyNetConfig};
use segkiln::{
    SegmentOptions, Segmenter,
    core::Classes,
    data::{ColorMode, Image, Loader, Normalize},
    models::{
        ModelCard, SegmentationNetwork, SegmentationNetworkConfig,
        weights::{Exceptions, save_safetensors},
    },
    train::{Loss, Outcome, SegmentationTask, train},
};

fn card() -> ModelCard<TinyNetConfig> {
    ModelCard {
        model: TinyNetConfig::new(1, 1),
        classes: Classes::binary(),
        color: Some(ColorMode::Gray),
        normalize: Normalize::identity(1),
    }
}

fn run(folder: &Path, epochs: usize, weights: Option<&Path>) -> Outcome<TinyNet> {
    let task = SegmentationTask::new(card())
        .with_loss(Loss::custom(SquaredError))
        .with_score("foreground_recall", |matrix| matrix.recall(1))
        .unwrap();
    let [training, valid] = [12, 4].map(|count| Loader::builder(Arc::new(Discs { count })));
    let mut run = crate::run(folder, epochs, task, [training.transform(RandomNegative), valid], "foreground_recall");
    run.options.accumulation = 2;
    run.options.ema_decay = Some(0.5);
    run.weights = weights.map(Into::into);
    train(run).unwrap()
}

#[test]
fn it_is_trained_resumed_and_loaded() {
    let _lock = crate::lock();
    let root = tempfile::tempdir().unwrap();
    let [whole, halves] = ["whole", "halves"].map(|name| root.path().join(name));
    let outcome = run(&whole, 4, None);
    assert!(outcome.best.valid("foreground_recall").is_some_and(|recall| recall > 0.0));
    run(&halves, 2, None);
    run(&halves, 4, None);
    let bytes = |folder: &Path, file: &str| std::fs::read(folder.join(file)).unwrap();
    crate::same_files(&whole, &halves);
    assert!(String::from_utf8(bytes(&whole, "metrics.csv")).unwrap().contains("foreground_recall"));
    assert!(String::from_utf8(bytes(&whole, "config.json")).unwrap().contains("SquaredError"));

    let device = Device::default();
    let segmenter = Segmenter::<TinyNet>::load_network(&whole, &device).unwrap();
    let image = Image::new(40, 25, 1, vec![0.5; 1000]).unwrap();
    let result = segmenter.segment_values(&image, &SegmentOptions::default()).unwrap();
    assert_eq!((result.map().width(), result.map().height()), (40, 25));
    let x = || Tensor::<4>::ones([1, 1, 25, 40], &device);
    segmenter.model().forward(x()).into_data().assert_eq(&outcome.model.forward(x()).into_data(), true);
}

#[test]
fn it_reads_a_file_of_pytorch_s() {
    let _lock = crate::lock();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.safetensors");
    let device = Device::default();
    let network = TinyNetConfig::new(1, 1).init(&device);
    let shapes = network.torch_shapes();
    assert!(shapes.iter().any(|(name, _)| name == "layers.1.running_var"), "{shapes:?}");
    let values = |shape: &[usize]| vec![0.25f32; shape.iter().product()];
    let tensors = shapes.into_iter().map(|(name, shape)| (name, TensorData::new(values(&shape), shape)));
    save_safetensors(tensors.collect(), &path).unwrap();
    let loaded = network.load_torch(&path, Exceptions::default()).unwrap();
    let first: Vec<f32> = loaded.forward(Tensor::ones([1, 1, 8, 8], &device)).into_data().iter().collect();
    assert!(first.iter().all(|value| value.is_finite()));
    // It is also what a training for other classes begins with.
    TinyNetConfig::new(1, 3).init(&device).load_pretrained(&path).unwrap();
    run(&folder.path().join("run"), 1, Some(&path));
    let error = TinyNetConfig::new(1, 1).with_width(8).init(&device).load_pretrained(&path).unwrap_err();
    assert!(error.to_string().contains("layers.0.weight"), "{error}");
    let summary = TinyNetConfig::new(1, 1).summary([16, 16], &device);
    assert!(summary.total().parameters > 100);
}
