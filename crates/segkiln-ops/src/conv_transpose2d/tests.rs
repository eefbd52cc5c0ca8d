use burn::tensor::{Device, Tensor, TensorData, Tolerance, module, ops::ConvTransposeOptions};

use super::conv_transpose2d;

fn values<const D: usize>(shape: [usize; D], phase: f32, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn doubling() -> ConvTransposeOptions<2> {
    ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1)
}

/// Output and the three gradients against Burn's operator: sizes that fill blocks, registers and kernels' rows
/// and ones that do not, several tasks, other kernels, strides, paddings, dilations and groups.
///
/// Other devices have Burn's operator; its kernels end lavapipe's compiler.
#[test]
fn equals_burn() {
    let device = Device::flex().autodiff();
    for (x_shape, weight_shape, options) in [
        ([2, 3, 5, 7], [3, 5, 2, 2], doubling()),
        ([1, 16, 16, 16], [16, 8, 2, 2], doubling()),
        ([1, 20, 9, 40], [20, 33, 2, 2], doubling()),
        ([3, 2, 1, 1], [2, 1, 2, 2], doubling()),
        ([1, 4, 48, 64], [4, 4, 2, 2], doubling()),
        ([2, 240, 9, 31], [240, 4, 3, 3], ConvTransposeOptions::new([2, 2], [1, 1], [1, 0], [1, 1], 2)),
        ([1, 2, 4, 3], [2, 3, 3, 3], ConvTransposeOptions::new([2, 2], [1, 1], [1, 1], [1, 1], 1)),
        ([2, 6, 7, 19], [6, 4, 4, 3], ConvTransposeOptions::new([2, 3], [1, 0], [0, 2], [1, 1], 2)),
        ([1, 8, 9, 11], [8, 9, 3, 3], ConvTransposeOptions::new([1, 1], [1, 1], [0, 0], [2, 1], 1)),
        ([1, 8, 9, 11], [8, 9, 3, 3], ConvTransposeOptions::new([2, 2], [1, 1], [1, 1], [1, 1], 1)),
        ([1, 3, 6, 20], [3, 1, 5, 5], ConvTransposeOptions::new([2, 2], [2, 2], [1, 1], [1, 1], 3)),
        ([1, 4, 5, 6], [4, 2, 1, 1], ConvTransposeOptions::new([3, 2], [0, 0], [1, 0], [1, 1], 1)),
    ] {
        let run = |ours: bool| {
            let x = values(x_shape, 0.0, &device).require_grad();
            let weight = values(weight_shape, 1.0, &device).require_grad();
            let bias = values([weight_shape[1] * options.groups], 2.0, &device).require_grad();
            let (a, b, c) = (x.clone(), weight.clone(), Some(bias.clone()));
            let y = match ours {
                true => conv_transpose2d(a, b, c, options.clone()),
                false => module::conv_transpose2d(a, b, c, options.clone()),
            };
            let gradients = (y.clone() * values(y.dims(), 3.0, &device)).backward();
            let [x, weight] = [x, weight].map(|tensor| tensor.grad(&gradients).unwrap().into_data());
            [y.inner().into_data(), x, weight, bias.grad(&gradients).unwrap().into_data()]
        };
        for (ours, burn) in run(true).iter().zip(run(false)) {
            ours.assert_approx_eq::<f32>(&burn, Tolerance::rel_abs(1e-4, 1e-3));
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_thread_count() {
    let device = Device::flex().autodiff();
    let run = || {
        let x = values([2, 24, 40, 40], 0.0, &device).require_grad();
        let weight = values([24, 20, 2, 2], 1.0, &device).require_grad();
        let y = conv_transpose2d(x.clone(), weight.clone(), None, doubling());
        let gradients = (y.clone() * y.clone()).backward();
        [y.inner(), x.grad(&gradients).unwrap(), weight.grad(&gradients).unwrap()].map(Tensor::into_data)
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
