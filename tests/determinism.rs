//! Bit-identical results for one seed on one, two and three threads, in all that a training step consists of.

use std::sync::{Mutex, PoisonError};

use burn::train::TrainStep;
use burn::{
    Tensor,
    module::Module,
    nn::conv::Conv2dConfig,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, Distribution, Int},
};
use segkiln::{
    core::{Classes, Instances, LabelMap},
    data::{Batch, ColorMode, DetectionBatch, Normalize},
    losses::{CrossEntropyLossConfig, HardPixels, LossConfig, SegmentationLoss},
    models::{
        DetectorCard, ModelCard, ModelConfig, SegmentationNetworkConfig,
        backbones::BackboneConfig,
        detection::{
            DetectionNetworkConfig, DetectionOptions, DetectorConfig, DetectorKind,
            rcnn::{MaskConfig, RoiConfig, RpnConfig},
        },
        unet::UNetConfig,
        weights::save,
    },
    train::{
        SegmentationTask, StepOptions, Task, TrainingOptions,
        detection::DetectionTask,
        ema::Ema,
        optimizer::{OptimizerConfig, clip_grad_norm},
    },
};

/// Random numbers are the device's, so that one test at a time may draw them.
static DEVICE: Mutex<()> = Mutex::new(());

/// Runs `work` on one, two and three threads, twice on the last, and compares what it gives.
#[track_caller]
fn same_on_any_threads<T: PartialEq + Send>(what: &str, work: impl Fn() -> T + Sync) {
    let _lock = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    let on = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&work);
    let one = on(1);
    for threads in [2, 3, 3] {
        assert!(on(threads) == one, "{what} differs on {threads} threads");
    }
}

fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    x.into_data().iter::<f32>().map(f32::to_bits).collect()
}

/// Bytes of a network's weights.
fn bytes<M: Module>(module: &M) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bpk");
    save(module, &path).unwrap();
    std::fs::read(path).unwrap()
}

/// Two batches' gradients make a step of the optimizer, which the averaged weights follow.
fn step<M>(task: M, batches: &[M::Input], device: &Device) -> [Vec<u8>; 2]
where
    M: TrainStep + Module,
    M::Input: Clone,
{
    let mut ema = Ema::new(0.9, 0, &task);
    let mut optimizer = OptimizerConfig::default().init(&task);
    let mut gradients = GradientsAccumulator::new();
    for batch in batches {
        device.seed(7);
        gradients.accumulate(&task, TrainStep::step(&task, batch.clone()).grads);
    }
    let task = optimizer.step(1e-2, task, gradients.grads());
    ema.update(&task);
    [bytes(&task), bytes(&ema.apply(task))]
}

#[test]
fn clipping() {
    // Five million values of one parameter: burn-flex would add them as its threads come.
    let device = Device::default();
    let layer = Conv2dConfig::new([2300, 2200], [1, 1]).with_bias(false).init(&device);
    let values: Vec<f32> = (0..2300 * 2200u64).map(|i| (i * 7919 % 104_729) as f32 * 1e-5 - 0.5).collect();
    same_on_any_threads("the clipped gradient", || {
        let mut gradients = GradientsParams::new();
        let gradient = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([2200, 2300, 1, 1]);
        gradients.register(layer.weight.id, gradient);
        bits(clip_grad_norm(&layer, gradients, 1.0).get::<4>(layer.weight.id).unwrap().slice([0..2, 0..2300]))
    });
}

#[test]
fn losses_of_many_pixels() {
    let device = Device::default().autodiff();
    device.seed(1);
    // Over four million pixels.
    let shape = [1, 2, 2048, 2100];
    let logits = Tensor::<4>::random(shape, Distribution::Normal(0.0, 2.0), &device.clone().inner()).into_data();
    let labels: Vec<i32> = (0..2048 * 2100).map(|i| i % 7 / 6).collect();
    let labels = Tensor::<1, Int>::from_ints(labels.as_slice(), &device).reshape([1, 2048, 2100]);
    for hard in
        [None, Some(HardPixels::TopK { percent: 98.5 }), Some(HardPixels::Ohem { threshold: 0.7, min_kept: 10 })]
    {
        let loss = CrossEntropyLossConfig::new().with_hard_pixels(hard).init();
        same_on_any_threads(&format!("the loss with {hard:?}"), || {
            let x = Tensor::<4>::from_data(logits.clone(), &device).require_grad();
            let loss = loss.forward(x.clone(), labels.clone());
            let gradient = x.grad(&loss.backward()).unwrap();
            (bits(loss.inner()), bits(gradient.slice([0..1, 0..2, 0..40])))
        });
    }
}

#[test]
fn steps_of_a_segmentation_network() {
    let loss = LossConfig::CrossEntropy(
        CrossEntropyLossConfig::new().with_hard_pixels(Some(HardPixels::TopK { percent: 40.0 })),
    );
    let config = ModelConfig::UNet(UNetConfig::new(1, 3).with_base(4).with_depth(2).with_dropout(0.2));
    let card = ModelCard {
        model: config.clone(),
        classes: Classes::new(["ground", "disc", "box"]).unwrap(),
        color: Some(ColorMode::Gray),
        normalize: Normalize::identity(1),
    };
    let options = TrainingOptions { clip_norm: Some(0.3), ..TrainingOptions::default() };
    let options = StepOptions::new(&options, &Device::default()).unwrap();
    same_on_any_threads("a step", || {
        let device = Device::default().autodiff();
        device.seed(2);
        let batch = |_| {
            let images = Tensor::random([2, 1, 96, 80], Distribution::Default, &device.clone().inner());
            let masks = Tensor::<3>::random([2, 96, 80], Distribution::Uniform(0.0, 2.99), &device.clone().inner());
            Batch { images: Tensor::from_inner(images), masks: Tensor::from_inner(masks.int()), names: Vec::new() }
        };
        let batches: Vec<Batch> = (0..2).map(batch).collect();
        let task = SegmentationTask::new(card.clone()).with_loss(loss.clone());
        step(task.learner(config.init(&device), options.clone()).unwrap(), &batches, &device)
    });
}

/// Twelve large squares on a field of 128x128 pixels.
fn target() -> Instances {
    let square = |index: u32, x: u32, y: u32| (x / 32 * 4 + y / 32 == index && x % 32 < 30 && y % 32 < 30) as u32;
    let labels = (0..128 * 128).map(|at| (0..12).map(|index| (index + 1) * square(index, at % 128, at / 128)).sum());
    let map = LabelMap::new(128, 128, labels.collect()).unwrap();
    Instances::from_labels(&map, |id| 1 + id % 2).unwrap()
}

#[test]
fn steps_of_detectors() {
    let backbone = BackboneConfig::by_name("resnet18").unwrap();
    let target = target();
    for (name, kind) in DetectorKind::NAMES {
        let config = DetectorConfig::on_backbone(kind, backbone.clone(), 3).reduced();
        let sizes = DetectionOptions { min_size: Some(192), max_size: Some(192), ..DetectionOptions::default() };
        let config = match config.with_options(sizes) {
            DetectorConfig::Rcnn(config) => {
                // Thousands of proposals learn masks: over four million pixels of masks.
                let rpn = RpnConfig::new().with_nms(1.0).with_before_nms_train(8000).with_after_nms_train(8000);
                let roi = RoiConfig::new().with_representation(16).with_samples(8000).with_positive(1.0);
                let roi = roi.with_foreground(0.02).with_background(0.02);
                let mask = config.mask.as_ref().map(|_| MaskConfig::new().with_channels(4).with_convolutions(1));
                config.with_channels(16).with_rpn(rpn).with_roi(roi).with_mask(mask).into()
            }
            other => other,
        };
        config.check().unwrap();
        same_on_any_threads(name, || {
            let device = Device::default().autodiff();
            device.seed(3);
            let batch = |_| {
                let image = |_| Tensor::random([3, 128, 128], Distribution::Default, &device.clone().inner());
                let images: Vec<Tensor<3>> = (0..2).map(image).map(Tensor::from_inner).collect();
                DetectionBatch { names: vec![String::new(); 2], images, targets: vec![target.clone(); 2] }
            };
            let batches: Vec<DetectionBatch> = (0..2).map(batch).collect();
            let card = DetectorCard::new(config.clone(), Classes::new(["ground", "odd", "even"]).unwrap());
            let options = TrainingOptions { clip_norm: Some(0.3), accumulation: 2, ..TrainingOptions::default() };
            let network = config.init(&device).unwrap();
            let learner =
                DetectionTask::new(card).learner(network, StepOptions::new(&options, &device).unwrap()).unwrap();
            step(learner, &batches, &device)
        });
    }
}
