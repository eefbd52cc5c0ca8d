//! The 3D U-Net against PyTorch on the same weights; `tests/parity/unet3d.py` writes the fixture.

mod formula;
mod platelets;

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData},
};
use formula::{fixture, floats, gradients, noise, write_formula};
use safetensors::SafeTensors;
use segkiln_models::{
    layers::{Activation, NormConfig},
    volumes::{UNet3d, UNet3dConfig, Widths},
    weights::{load_torch, save_torch, torch_shapes},
};

const STEP: usize = 17;

fn volume(name: &str, shape: [usize; 5], device: &Device) -> Tensor<5> {
    let values: Vec<f32> = noise(name).take(shape.iter().product()).map(|value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn load(config: &UNet3dConfig, salt: &str, device: &Device) -> UNet3d {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let model = config.init(device);
    write_formula(&torch_shapes(&model), &path, salt, &[]);
    load_torch(model, &path).unwrap()
}

#[track_caller]
fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0f32, |most, value| most.max(value.abs())).max(1e-3);
    let apart = actual.iter().zip(expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
    assert!(apart <= tolerance * most, "{what} differ by {apart} of {most}");
}

fn sampled(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().step_by(STEP).collect()
}

fn check(name: &str, config: UNet3dConfig, shape: [usize; 5]) {
    let bytes = fixture("unet3d");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let expected = |what: &str| floats(&file, &format!("{name}.{what}"));
    let values = |tensor: Tensor<5>| sampled(tensor.into_data().try_to_vec().unwrap());

    let device = Device::default();
    let model = load(&config, name, &device);
    let logits = model.forward(volume(&format!("{name} volume"), shape, &device));
    assert_close("evaluated logits", &values(logits), &expected("evaluated"), 1e-4);

    let device = device.autodiff();
    let model = load(&config, name, &device);
    let x = volume(&format!("{name} volume"), shape, &device).require_grad();
    let heads = model.forward_heads(x.clone());
    let trained = values(heads.last().unwrap().clone().inner());
    assert_close("trained logits", &trained, &expected("trained"), 1e-4);
    let losses = heads.into_iter().enumerate().map(|(index, logits)| {
        let factors = volume(&format!("{name} loss {index}"), logits.dims(), &device);
        (logits * factors).mean()
    });
    let loss = losses.reduce(|a, b| a + b).unwrap();
    assert_close("loss", &[loss.clone().into_scalar::<f32>()], &expected("loss"), 1e-3);
    let grads = loss.backward();
    assert_close("volume's gradient", &values(x.grad(&grads).unwrap()), &expected("volume"), 1e-3);
    let found = gradients(&model, &GradientsParams::from_grads(grads, &model));
    assert_eq!(found.len(), file.names().iter().filter(|key| key.starts_with(&format!("{name}.gradient."))).count());
    for (parameter, _, values) in found {
        let what = format!("gradient.{parameter}");
        assert_close(&what, &sampled(values), &expected(&what), 2e-3);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trained.safetensors");
    save_torch(&model.valid(), &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let trained = SafeTensors::deserialize(&bytes).unwrap();
    let mut count = 0;
    for parameter in trained.names().into_iter().filter(|name| name.contains("running")) {
        let what = format!("statistics.{parameter}");
        assert_close(&what, &floats(&trained, parameter), &expected(&what), 1e-4);
        count += 1;
    }
    assert_eq!(count > 0, matches!(config.norm, NormConfig::Batch { .. }));
}

fn small(in_channels: usize) -> UNet3dConfig {
    UNet3dConfig::new(in_channels, 3).with_base(8).with_depth(2)
}

#[test]
fn equals_pytorch_with_batch_norm() {
    check("even", small(1), [2, 1, 8, 12, 20]);
}

#[test]
fn equals_pytorch_with_the_paper_s_widths() {
    check("paper", small(3).with_widths(Widths::Paper), [1, 3, 4, 16, 8]);
}

#[test]
fn equals_pytorch_with_residual_encoder_instance_norm_and_deep_supervision() {
    let config = small(2)
        .with_residual(true)
        .with_deep_supervision(true)
        .with_norm(NormConfig::Instance)
        .with_activation(Activation::LeakyRelu);
    check("residual", config, [2, 2, 8, 8, 8]);
}
