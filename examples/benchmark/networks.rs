//! Cases of whole networks.

use burn::{
    module::Module,
    optim::{AdamConfig, GradientsParams, SgdConfig, momentum::MomentumConfig},
    tensor::{Device, Distribution, Int, Tensor},
};
use segkiln::{
    core::{BBox, Instance, Instances, Precision, Rle},
    losses::{CrossEntropyLossConfig, SegmentationLoss},
    models::{
        Calibration, InferenceSession, ModelConfig, RangeMethod, SegmentationModel, SegmentationNetwork,
        SegmentationNetworkConfig, TrainingPrecision,
        backbones::{BackboneConfig, Classifier, ClassifierConfig},
        detection::{
            DetectionNetwork, Sampling,
            rcnn::{Rcnn, RcnnConfig},
        },
        layers::NormConfig,
        unet::{UNet, UNetConfig},
        volumes::{UNet3d, UNet3dConfig},
    },
    ops::slices,
};

use crate::{Case, common::Failure, uniform};

/// A network that computes what `input` makes, in a precision.
fn inference<M: Module + 'static, I: 'static>(
    model: M,
    input: impl Fn() -> I,
    forward: impl Fn(&M, &I) + 'static,
    precision: Precision,
    device: &Device,
) -> Result<Case, Failure> {
    let session = match precision {
        Precision::Int8 => {
            let calibration = Calibration::new(device)?;
            for _ in 0..4 {
                let x = input();
                calibration.run(|| forward(&model, &x));
            }
            InferenceSession::quantized(&model, &calibration.finish(&model, RangeMethod::default())?, device)?
        }
        precision => InferenceSession::new(precision, device)?,
    };
    let x = input();
    Ok(Box::new(move || session.run(|| forward(&model, &x))))
}

pub fn unet_infer(base: usize, side: usize, precision: Precision, device: &Device) -> Result<Case, Failure> {
    let unet = UNetConfig::new(3, 2).with_base(base).init(device).materialize();
    let forward = |unet: &UNet, x: &Tensor<4>| drop(unet.forward(x.clone()).into_data());
    inference(unet, || noise(side, device), forward, precision, device)
}

/// An image of noise, as a network sees it.
fn noise(side: usize, device: &Device) -> Tensor<4> {
    Tensor::random([1, 3, side, side], Distribution::Normal(0.0, 1.0), device)
}

pub fn unet_train(
    base: usize,
    side: usize,
    batch: usize,
    precision: Precision,
    device: &Device,
) -> Result<Case, Failure> {
    segmenter_train(UNetConfig::new(3, 2).with_base(base), side, batch, precision, device)
}

/// Training steps of a segmentation network of 21 classes, two images each.
pub fn named_train(name: &str, side: usize, precision: Precision, device: &Device) -> Result<Case, Failure> {
    segmenter_train(ModelConfig::by_name(name, 21)?, side, 2, precision, device)
}

fn segmenter_train<C: SegmentationNetworkConfig>(
    config: C,
    side: usize,
    batch: usize,
    precision: Precision,
    device: &Device,
) -> Result<Case, Failure>
where
    C::Network: 'static,
{
    let precision = TrainingPrecision::new(precision, device)?;
    let device = device.clone().autodiff();
    let network = config.init(&device).materialize();
    let x = Tensor::<4>::random([batch, 3, side, side], Distribution::Normal(0.0, 1.0), &device);
    let classes = Distribution::Uniform(0.0, config.classes() as f64);
    let y = Tensor::<3>::random([batch, side, side], classes, &device);
    Ok(train(network, y.int(), device, move |network: &C::Network| precision.run(|| network.forward(x.clone()))))
}

/// Steps of cross-entropy with Adam.
fn train<M: Module + 'static>(
    model: M,
    y: Tensor<3, Int>,
    device: Device,
    forward: impl Fn(&M) -> Tensor<4> + 'static,
) -> Case {
    let mut model = Some(model);
    let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
    let loss = CrossEntropyLossConfig::new().init();
    Box::new(move || {
        let current = model.take().expect("put back below");
        let value = loss.forward(forward(&current), y.clone());
        let gradients = GradientsParams::from_grads(value.backward(), &current);
        model = Some(optimizer.step(1e-3, current, gradients));
        value.into_scalar::<f32>();
        device.sync().expect("the device finishes its work");
    })
}

/// A 3D U-Net and a cube of noise.
fn unet3d(base: usize, side: usize, device: &Device) -> (UNet3d, Tensor<5>) {
    let unet = UNet3dConfig::new(1, 3).with_base(base).with_norm(NormConfig::Instance).init(device).materialize();
    (unet, Tensor::random([1, 1, side, side, side], Distribution::Normal(0.0, 1.0), device))
}

pub fn unet3d_infer(base: usize, side: usize, device: &Device) -> Case {
    let (unet, x) = unet3d(base, side, device);
    Box::new(move || drop(unet.forward(x.clone()).into_data()))
}

pub fn unet3d_train(base: usize, side: usize, device: &Device) -> Case {
    let device = device.clone().autodiff();
    let (unet, x) = unet3d(base, side, &device);
    let y = Tensor::<3>::random([side; 3], Distribution::Uniform(0.0, 3.0), &device);
    train(unet, y.int(), device, move |unet: &UNet3d| slices(unet.forward(x.clone())))
}

/// A segmentation network of 21 classes, or a classifier of 1000.
pub fn named_infer(name: &str, side: usize, precision: Precision, device: &Device) -> Result<Case, Failure> {
    if BackboneConfig::NAMES.contains(&name) {
        let model = ClassifierConfig::by_name(name)?.init(device).materialize();
        let forward = |model: &Classifier, x: &Tensor<4>| drop(model.forward(x.clone()).into_data());
        return inference(model, || noise(side, device), forward, precision, device);
    }
    let model = ModelConfig::by_name(name, 21)?.init(device).materialize();
    let forward = |model: &SegmentationModel, x: &Tensor<4>| drop(model.forward(x.clone()).into_data());
    inference(model, || noise(side, device), forward, precision, device)
}

/// An image of the size that the network sees, all detections kept.
pub fn detector(
    name: &str,
    [height, width]: [usize; 2],
    precision: Precision,
    device: &Device,
) -> Result<Case, Failure> {
    let config = RcnnConfig::by_name(name, 91).ok_or("no such network")?.with_min_size(height).with_max_size(width);
    let roi = config.roi.clone().with_score(0.0);
    let model = config.with_roi(roi).init(device)?.materialize();
    let input = || [Tensor::<3>::random([3, height, width], Distribution::Default, device)];
    let forward = |model: &Rcnn, x: &[Tensor<3>; 1]| {
        std::hint::black_box(model.detect(x).expect("the image fits"));
    };
    inference(model, input, forward, precision, device)
}

/// Eight objects of noise on one image.
pub fn detector_train(
    name: &str,
    [height, width]: [usize; 2],
    precision: Precision,
    device: &Device,
) -> Result<Case, Failure> {
    let precision = TrainingPrecision::new(precision, device)?;
    let device = device.clone().autodiff();
    let config = RcnnConfig::by_name(name, 91).ok_or("no such network")?.with_min_size(height).with_max_size(width);
    let mut model = Some(config.init(&device)?.materialize());
    let mut optimizer = SgdConfig::new().with_momentum(Some(MomentumConfig::new().with_dampening(0.0))).init();
    let x = [Tensor::<3>::random([3, height, width], Distribution::Default, &device)];
    let numbers = uniform(8 * 5, 1.0, &device);
    let noise = uniform(8 * height * width, 1.0, &device);
    let (width, height) = (width as u32, height as u32);
    let mut objects = Vec::new();
    for (numbers, noise) in numbers.chunks_exact(5).zip(noise.chunks_exact((width * height) as usize)) {
        let [x, y, w, h, label] = [0, 1, 2, 3, 4].map(|index| f64::from(numbers[index]));
        let (w, h) = (16.0 + 0.2 * w * f64::from(width), 16.0 + 0.2 * h * f64::from(height));
        let bbox = BBox::from_xywh([0.7 * x * f64::from(width), 0.7 * y * f64::from(height), w, h])?;
        let mask = Rle::from_fn(width, height, |x, y| noise[(y * width + x) as usize] > 0.5)?;
        objects.push(Instance::new(bbox, 1 + (label * 89.0) as u32)?.with_mask(mask));
    }
    let targets = [Instances::new(width, height, objects)?];
    let mut seed = 0;
    Ok(Box::new(move || {
        let current: Rcnn = model.take().expect("put back below");
        let losses = precision.run(|| current.losses(&x, &targets, Sampling::Random { seed }));
        let losses = losses.expect("the targets fit");
        seed += 1;
        let total = losses.total();
        let gradients = GradientsParams::from_grads(total.backward(), &current);
        model = Some(optimizer.step(1e-3, current, gradients));
        total.into_scalar::<f32>();
        device.sync().expect("the device finishes its work");
    }))
}
