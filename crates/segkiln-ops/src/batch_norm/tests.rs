use burn::tensor::{Device, Tensor, TensorData, Tolerance, activation::relu, module};

use super::batch_norm_train;
use crate::test_devices;

fn values<const D: usize>(shape: [usize; D], phase: f32, device: &Device) -> Tensor<D> {
    let values: Vec<f32> =
        (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.37 + phase).sin() + 0.3).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Output, statistics and the three gradients against Burn's operators on the CPU; sizes that do not fill registers, one
/// pixel, and more values than a chunk.
#[test]
fn equals_burn() {
    for device in test_devices() {
        for (shape, with_relu) in [
            ([2, 3, 5, 7], true),
            ([2, 3, 5, 7], false),
            ([3, 2, 1, 1], true),
            ([1, 4, 80, 70], true),
            ([2, 1, 64, 64], false),
        ] {
            let run = |device: Device, ours: bool| {
                let device = device.autodiff();
                let x = values(shape, 0.0, &device).require_grad();
                let gamma = values([shape[1]], 1.0, &device).require_grad();
                let beta = values([shape[1]], 2.0, &device).require_grad();
                let (y, mean, variance) = if ours {
                    let result = batch_norm_train(x.clone(), gamma.clone(), beta.clone(), 1e-3, with_relu);
                    (result.output, result.mean, result.variance)
                } else {
                    let result = module::batch_norm_train(x.clone(), gamma.clone(), beta.clone(), 1e-3);
                    let y = if with_relu { relu(result.output) } else { result.output };
                    (y, result.mean, result.variance)
                };
                let gradients = (y.clone() * values(shape, 3.0, &device)).backward();
                [
                    y.inner().into_data(),
                    mean.inner().into_data(),
                    variance.inner().into_data(),
                    x.grad(&gradients).unwrap().into_data(),
                    gamma.grad(&gradients).unwrap().into_data(),
                    beta.grad(&gradients).unwrap().into_data(),
                ]
            };
            let ours = run(device.clone(), true);
            let burn = run(Device::flex(), false);
            for (ours, burn) in ours.iter().zip(&burn) {
                ours.assert_approx_eq::<f32>(burn, Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_thread_count() {
    let device = Device::flex().autodiff();
    let run = || {
        let x = values([2, 9, 33, 65], 0.0, &device).require_grad();
        let (gamma, beta) = (values([9], 1.0, &device), values([9], 2.0, &device));
        let y = batch_norm_train(x.clone(), gamma, beta, 1e-5, true).output;
        let gradients = (y.clone() * y.clone()).backward();
        [y.inner(), x.grad(&gradients).unwrap()].map(Tensor::into_data)
    };
    let with = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    let one = with(1);
    // Within a pool, and with helpers.
    for results in [with(2), with(5), run()] {
        for (ours, one) in results.iter().zip(&one) {
            ours.assert_eq(one, true);
        }
    }
}

/// A training that diverged must show it.
#[test]
fn nan_is_kept() {
    let device = Device::flex();
    for relu in [false, true] {
        let x = values([1, 1, 5, 7], 0.0, &device).mul_scalar(f32::NAN);
        let y = batch_norm_train(x, Tensor::ones([1], &device), Tensor::ones([1], &device), 1e-5, relu).output;
        assert!(y.into_data().iter::<f32>().all(f32::is_nan));
    }
}
