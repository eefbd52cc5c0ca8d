use burn::tensor::{Device, Tensor, TensorData, Tolerance, module, ops::ConvTransposeOptions};

use super::conv_transpose2d;
use crate::test_devices;

fn values<const D: usize>(shape: [usize; D], phase: f32, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Output and the three gradients against Burn's operator on the CPU: sizes that fill blocks, registers and kernels' rows
/// and ones that do not, several tasks, and another kernel.
#[test]
fn equals_burn_s_operator() {
    let doubling = ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1);
    for device in test_devices() {
        for (x_shape, weight_shape, options) in [
            ([2, 3, 5, 7], [3, 5, 2, 2], doubling.clone()),
            ([1, 16, 16, 16], [16, 8, 2, 2], doubling.clone()),
            ([1, 20, 9, 40], [20, 33, 2, 2], doubling.clone()),
            ([3, 2, 1, 1], [2, 1, 2, 2], doubling.clone()),
            ([1, 4, 48, 64], [4, 4, 2, 2], doubling.clone()),
            ([1, 2, 4, 3], [2, 3, 3, 3], ConvTransposeOptions::new([2, 2], [1, 1], [1, 1], [1, 1], 1)),
        ] {
            let run = |device: Device, ours: bool| {
                let device = device.autodiff();
                let x = values(x_shape, 0.0, &device).require_grad();
                let weight = values(weight_shape, 1.0, &device).require_grad();
                let bias = values([weight_shape[1]], 2.0, &device).require_grad();
                let (a, b, c) = (x.clone(), weight.clone(), Some(bias.clone()));
                let y = match ours {
                    true => conv_transpose2d(a, b, c, options.clone()),
                    false => module::conv_transpose2d(a, b, c, options.clone()),
                };
                let gradients = (y.clone() * values(y.dims(), 3.0, &device)).backward();
                [
                    y.inner().into_data(),
                    x.grad(&gradients).unwrap().into_data(),
                    weight.grad(&gradients).unwrap().into_data(),
                    bias.grad(&gradients).unwrap().into_data(),
                ]
            };
            for (ours, burn) in run(device.clone(), true).iter().zip(run(Device::flex(), false)) {
                ours.assert_approx_eq::<f32>(&burn, Tolerance::rel_abs(1e-4, 1e-3));
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_thread_count() {
    let device = Device::flex().autodiff();
    let run = || {
        let x = values([2, 24, 40, 40], 0.0, &device).require_grad();
        let weight = values([24, 20, 2, 2], 1.0, &device).require_grad();
        let y = conv_transpose2d(x.clone(), weight.clone(), None, super::doubling());
        let gradients = (y.clone() * y.clone()).backward();
        [y.inner(), x.grad(&gradients).unwrap(), weight.grad(&gradients).unwrap()].map(Tensor::into_data)
    };
    let with = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    let one = with(1);
    for threads in [2, 5] {
        for (ours, one) in with(threads).iter().zip(&one) {
            ours.assert_eq(one, true);
        }
    }
}
