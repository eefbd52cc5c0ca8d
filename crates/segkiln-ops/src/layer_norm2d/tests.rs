use burn::{
    nn::LayerNormConfig,
    tensor::{Device, Tensor, Tolerance},
};

use super::layer_norm2d;
use crate::{test_devices, test_values};

/// Output and gradients against Burn's layer norm of the last axis; whole blocks, parts of registers and single pixels.
#[test]
fn equals_burn() {
    for device in test_devices() {
        for shape in [[2, 5, 7, 9], [1, 96, 8, 16], [1, 3, 11, 13], [3, 40, 1, 1], [1, 1, 2, 3], [0, 4, 2, 2]] {
            let channels = shape[1];
            let (x, weight) =
                (test_values(shape, 1, &Device::flex()) * 3.0 + 1.0, test_values(shape, 2, &Device::flex()));
            let [gamma, beta] = [3, 4].map(|seed| test_values([channels], seed, &Device::flex()));
            let run = |device: Device, ours: bool| {
                let device = device.autodiff();
                let [x, weight] = [&x, &weight].map(|values| Tensor::<4>::from_data(values.to_data(), &device));
                let [gamma, beta] = [&gamma, &beta].map(|values| Tensor::<1>::from_data(values.to_data(), &device));
                let (x, gamma, beta) = (x.require_grad(), gamma.require_grad(), beta.require_grad());
                let y = if ours {
                    layer_norm2d(x.clone(), gamma.clone(), beta.clone(), 1e-6)
                } else {
                    let mut norm = LayerNormConfig::new(channels).with_epsilon(1e-6).init(&device);
                    norm.gamma = burn::module::Param::from_tensor(gamma.clone());
                    norm.beta = Some(burn::module::Param::from_tensor(beta.clone()));
                    norm.forward(x.clone().permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
                };
                let gradients = (y.clone() * weight).sum().backward();
                let gradient = x.grad(&gradients).map(Tensor::into_data);
                (y.inner().into_data(), gradient)
            };
            let inference = layer_norm2d(
                Tensor::from_data(x.to_data(), &device),
                Tensor::from_data(gamma.to_data(), &device),
                Tensor::from_data(beta.to_data(), &device),
                1e-6,
            );
            let ((ours, our_gradient), (burn, gradient)) = (run(device.clone(), true), run(Device::flex(), false));
            let tolerance = Tolerance::absolute(2e-5);
            ours.assert_approx_eq::<f32>(&burn, tolerance);
            inference.into_data().assert_approx_eq::<f32>(&burn, tolerance);
            our_gradient.unwrap().assert_approx_eq::<f32>(&gradient.unwrap(), tolerance);
        }
    }
}

#[test]
fn views_work_and_nan_stays_in_its_pixel() {
    let device = Device::flex();
    let x = Tensor::<4>::from_floats([[[[1.0, f32::NAN], [3.0, 5.0]], [[3.0, 2.0], [1.0, 9.0]]]], &device);
    let y = layer_norm2d(x.swap_dims(2, 3), Tensor::ones([2], &device), Tensor::zeros([2], &device), 0.0);
    let y = y.into_data().try_to_vec::<f32>().unwrap();
    assert_eq!([y[0], y[1], y[3], y[4], y[5], y[7]], [-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]);
    assert!(y[2].is_nan() && y[6].is_nan());
}
