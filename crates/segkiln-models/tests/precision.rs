//! Networks computed in bf16 and in 8 bits beside the same in f32. On processors without their dot products all are f32, unless
//! `SEGKILN_SIMD=scalar` asks for the definition in plain loops.

use burn::{
    module::Module,
    tensor::{DType, Device, Distribution, Tensor},
};
use segkiln_core::Precision;
use segkiln_models::{
    Calibration, CalibrationError, InferenceSession, ModelConfig, NetworkQuantization, PrecisionError, RangeMethod,
    SegmentationNetwork, SegmentationNetworkConfig, TrainingPrecision,
    layers::{NormConfig, UpsampleConfig},
    unet::{ConvPadding, UNetConfig},
};

fn error(actual: Tensor<4>, expected: Tensor<4>) -> f32 {
    let power = |x: Tensor<4>| x.clone().mul(x).mean().into_scalar::<f32>().sqrt();
    power(actual - expected.clone()) / power(expected.clone() - expected.mean().reshape([1, 1, 1, 1]))
}

fn compare(name: &str, config: ModelConfig, size: [usize; 2]) {
    let device = Device::flex();
    device.seed(1);
    let model = config.init(&device);
    let x = Tensor::random([2, config.in_channels(), size[0], size[1]], Distribution::Normal(0.0, 1.0), &device);
    let expected = model.forward(x.clone());
    let calibration = Calibration::new(&device).unwrap();
    calibration.run(|| model.forward(x.clone())).into_data().assert_eq(&expected.to_data(), true);
    let sessions = match calibration.finish(&model, RangeMethod::MinMax) {
        Ok(quantization) => vec![InferenceSession::quantized(&model, &quantization, &device).unwrap()],
        // All layers are narrow.
        Err(CalibrationError::NoLayer) => Vec::new(),
        Err(error) => panic!("{name}: {error}"),
    };
    for session in sessions.into_iter().chain([InferenceSession::new(Precision::Bf16, &device).unwrap()]) {
        let logits = session.run(|| model.forward(x.clone()));
        assert_eq!((logits.dtype(), logits.dims()), (DType::F32, expected.dims()), "{name}");
        let found = error(logits.clone(), expected.clone());
        let most = if session.precision() == Precision::Int8 { 0.2 } else { 0.06 };
        assert!(found < most, "{name} in {}: {found}", session.precision());
        // The second time layers are packed already.
        session.run(|| model.forward(x.clone())).into_data().assert_eq(&logits.into_data(), true);
    }
    // After the session all is as before.
    model.forward(x).into_data().assert_eq(&expected.into_data(), true);
}

#[test]
fn every_decoder_and_family_of_backbones() {
    for decoder in ModelConfig::decoders() {
        for backbone in ["resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"] {
            let name = format!("{decoder}_{backbone}");
            // Not every backbone can be dilated.
            if let Ok(config) = ModelConfig::by_name(&name, 5) {
                compare(&name, config, [64, 48]);
            }
        }
    }
}

#[test]
fn u_nets_of_every_kind() {
    let plain = UNetConfig::new(3, 2).with_base(16).with_depth(2);
    for (name, config) in [
        ("plain", plain.clone()),
        ("narrow", plain.clone().with_base(12)),
        ("bilinear", plain.clone().with_upsample(UpsampleConfig::Bilinear)),
        ("valid", plain.clone().with_padding(ConvPadding::Valid)),
        ("without norm", plain.clone().with_norm(NormConfig::None)),
        ("group norm", plain.clone().with_norm(NormConfig::Group { groups: 4 })),
        ("wide", plain.with_base(64)),
    ] {
        compare(name, ModelConfig::UNet(config), [52, 68]);
    }
}

#[test]
fn gradients_are_tracked_in_f32() {
    let device = Device::flex().autodiff();
    let unet = UNetConfig::new(1, 2).with_base(16).with_depth(1).init(&device);
    let x = Tensor::<4>::random([1, 1, 16, 16], Distribution::Default, &device).require_grad();
    let session = InferenceSession::new(Precision::Bf16, &device).unwrap();
    let gradients = session.run(|| unet.forward(x.clone()).mean().backward());
    assert!(x.grad(&gradients).is_some());
}

#[test]
fn ranges_of_other_networks_are_refused() {
    let device = Device::flex();
    let small = UNetConfig::new(1, 2).with_base(16).with_depth(1).init(&device);
    let large = UNetConfig::new(1, 2).with_base(16).with_depth(2).init(&device);
    let calibration = Calibration::new(&device).unwrap();
    calibration.run(|| large.forward(Tensor::zeros([1, 1, 16, 16], &device)));
    let quantization = calibration.finish(&large, RangeMethod::default()).unwrap();
    let error = InferenceSession::quantized(&small, &quantization, &device).unwrap_err();
    assert!(matches!(&error, PrecisionError::OtherNetwork { layer } if layer.contains(".1.")), "{error}");
    let error = InferenceSession::new(Precision::Int8, &device).unwrap_err().to_string();
    assert!(error.contains("quantize"), "{error}");
    assert!(matches!(calibration.finish(&large, RangeMethod::default()), Err(CalibrationError::NoLayer)));
    calibration.run(|| large.forward(Tensor::full([1, 1, 16, 16], f32::NAN, &device)));
    let error = calibration.finish(&large, RangeMethod::default()).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
    let json = serde_json::to_string(&quantization).unwrap();
    assert_eq!(serde_json::from_str::<NetworkQuantization>(&json).unwrap(), quantization);
    assert!(quantization.check().is_ok());
    let spoiled: NetworkQuantization =
        serde_json::from_str(&json.replacen("\"output\":[0.0", "\"output\":[9e9", 1)).unwrap();
    assert!(spoiled.check().unwrap_err().to_string().contains("the layer"), "{:?}", spoiled.check());
}

#[test]
fn networks_learn_in_the_numbers_of_8_bits() {
    let device = Device::flex();
    device.seed(3);
    // Without running statistics, which a training step would compute from its batch.
    let config = UNetConfig::new(16, 2).with_base(16).with_depth(2).with_norm(NormConfig::None);
    let unet = config.init(&device.clone().autodiff());
    let x = Tensor::<4>::random([2, 16, 24, 32], Distribution::Normal(0.0, 1.0), &device);
    let full = unet.clone().valid().forward(x.clone());
    let calibration = Calibration::new(&device).unwrap();
    calibration.run(|| unet.valid().forward(x.clone()));
    let quantization = calibration.finish(&unet.valid(), RangeMethod::MinMax).unwrap();
    let session = InferenceSession::quantized(&unet.valid(), &quantization, &device).unwrap();
    let quantized = session.run(|| unet.valid().forward(x.clone()));

    let training = TrainingPrecision::new(Precision::Int8, &device).unwrap();
    let learned = training.run(|| unet.forward(x.autodiff()));
    let lost = error(quantized.clone(), full.clone());
    let apart = error(learned.clone().without_autodiff(), quantized);
    let moved = error(learned.clone().without_autodiff(), full);
    // The ranges of both differ a little, so that not each value is rounded alike.
    assert!(lost > 1e-3 && (0.7..1.4).contains(&(moved / lost)), "{lost} {moved}");
    assert!(apart < 0.75 * lost.hypot(moved), "{apart} {lost} {moved}");
    let gradients = learned.powi_scalar(2).mean().backward();
    let bottleneck = unet.encoder.bottleneck.first.conv.weight.val();
    for weight in [unet.encoder.levels[0].first.conv.weight.val(), bottleneck, unet.head.weight.val()] {
        let gradient = weight.grad(&gradients).unwrap().abs().max().into_scalar::<f32>();
        assert!(gradient.is_finite() && gradient > 0.0, "{gradient}");
    }
}
