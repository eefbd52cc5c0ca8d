use burn::tensor::{Device, Tensor, Tolerance, module::conv3d as burn_conv3d, ops::ConvOptions};

use super::{conv3d, conv3d_affine};
use crate::test_values as values;

fn options(stride: [usize; 3], padding: [usize; 3], dilation: [usize; 3], groups: usize) -> ConvOptions<3> {
    ConvOptions::new(stride, padding, dilation, groups)
}

fn plain(padding: usize) -> ConvOptions<3> {
    options([1; 3], [padding; 3], [1; 3], 1)
}

/// Shapes of inputs and weights: slices by Winograd's method and by others, one slice and fewer than the kernel's, several volumes,
/// steps along each axis, more padding than the kernel is deep.
fn layers() -> Vec<([usize; 5], [usize; 5], ConvOptions<3>)> {
    vec![
        ([1, 8, 6, 14, 19], [12, 8, 3, 3, 3], plain(1)),
        ([2, 16, 3, 9, 33], [8, 16, 3, 3, 3], plain(1)),
        ([2, 1, 5, 12, 12], [16, 1, 3, 3, 3], plain(1)),
        ([1, 9, 4, 10, 10], [9, 9, 3, 3, 3], plain(0)),
        ([1, 8, 1, 8, 8], [8, 8, 3, 3, 3], plain(1)),
        ([1, 8, 2, 8, 8], [8, 8, 5, 3, 3], options([1; 3], [2, 1, 1], [1; 3], 1)),
        ([1, 4, 3, 5, 7], [3, 4, 1, 1, 1], plain(0)),
        ([1, 8, 4, 9, 9], [8, 8, 1, 3, 3], options([1; 3], [0, 1, 1], [1; 3], 1)),
        ([2, 8, 9, 13, 12], [10, 8, 3, 3, 3], options([2; 3], [1; 3], [1; 3], 1)),
        ([1, 3, 8, 9, 10], [5, 3, 2, 2, 2], options([2; 3], [0; 3], [1; 3], 1)),
        ([1, 8, 7, 8, 8], [8, 8, 3, 3, 3], options([3, 1, 1], [1; 3], [1; 3], 1)),
        ([1, 2, 7, 6, 6], [3, 2, 2, 3, 3], options([4, 2, 1], [0, 1, 1], [1; 3], 1)),
        ([1, 8, 3, 8, 8], [8, 8, 3, 3, 3], options([1; 3], [4, 1, 1], [1; 3], 1)),
        ([1, 8, 4, 9, 12], [8, 8, 3, 3, 3], options([1; 3], [1, 2, 2], [1, 2, 2], 1)),
        // Burn's own: parts of the kernel that do not follow each other, or with some of the channels.
        ([1, 4, 7, 6, 6], [4, 4, 3, 3, 3], options([1; 3], [2, 1, 1], [2, 1, 1], 1)),
        ([1, 4, 5, 6, 6], [4, 2, 3, 3, 3], options([1; 3], [1; 3], [1; 3], 2)),
    ]
}

/// Output and all gradients, of volumes that lie slice by slice, channel by channel, and as a part of a larger one.
#[test]
fn equals_burn() {
    let device = Device::flex().autodiff();
    for (x_shape, weight_shape, options) in layers() {
        let run = |ours: bool, order: usize| {
            let x = values(x_shape, 0, &device).require_grad();
            let weight = values(weight_shape, 1, &device).require_grad();
            let bias = values([weight_shape[0]], 2, &device).require_grad();
            let view = match order {
                0 => x.clone(),
                // Slice by slice, and back.
                1 => (x.clone().permute([0, 2, 1, 3, 4]) * 1.0).permute([0, 2, 1, 3, 4]),
                _ => Tensor::cat(vec![x.clone(), x.clone().narrow(0, 0, 1)], 0).narrow(0, 0, x_shape[0]),
            };
            let (weights, biases) = (weight.clone(), Some(bias.clone()));
            let y = match ours {
                true => conv3d(view, weights, biases, options.clone()),
                false => burn_conv3d(view, weights, biases, options.clone()),
            };
            let gradients = (y.clone() * values(y.dims(), 3, &device)).backward();
            let [x, weight] = [x, weight].map(|tensor| tensor.grad(&gradients).unwrap().into_data());
            [y.inner().into_data(), x, weight, bias.grad(&gradients).unwrap().into_data()]
        };
        let expected = run(false, 0);
        for order in 0..3 {
            for (ours, burn) in run(true, order).iter().zip(&expected) {
                ours.assert_approx_eq::<f32>(burn, Tolerance::rel_abs(1e-4, 1e-3));
            }
        }
    }
}

/// The gradient of a sum is one value that all places share.
#[test]
fn differentiates_sums() {
    let device = Device::flex().autodiff();
    let x = Tensor::<5>::ones([1, 8, 4, 8, 8], &device).require_grad();
    let weight = Tensor::<5>::ones([8, 8, 3, 3, 3], &device).require_grad();
    let gradients = conv3d(x.clone(), weight.clone(), None, plain(1)).sum().backward();
    let x = x.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
    assert_eq!((x[0], x[64 + 9]), (8.0 * 8.0, 8.0 * 27.0));
    let weight = weight.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
    assert_eq!((weight[0], weight[13]), (3.0 * 49.0, 4.0 * 64.0));
}

#[test]
fn applies_scale_shift_and_range() {
    let device = Device::flex();
    for (x_shape, weight_shape, options) in layers() {
        let channels = weight_shape[0];
        let (x, weight) = (values(x_shape, 0, &device), values(weight_shape, 1, &device));
        let (scale, shift) = (values([channels], 2, &device), values([channels], 3, &device));
        let range = [-0.5, 2.0];
        let ours = conv3d_affine(x.clone(), weight.clone(), scale.clone(), shift.clone(), Some(range), options.clone());
        let by_channel = |values: Tensor<1>| values.reshape([1, channels, 1, 1, 1]);
        let burn = burn_conv3d(x, weight, None, options) * by_channel(scale) + by_channel(shift);
        let burn = burn.clamp(range[0], range[1]);
        ours.into_data().assert_approx_eq::<f32>(&burn.into_data(), Tolerance::rel_abs(1e-4, 1e-3));
    }
}

#[test]
fn bits_do_not_depend_on_the_thread_count() {
    let run = || {
        let device = Device::flex().autodiff();
        let x = values([2, 24, 7, 40, 24], 0, &device).require_grad();
        let weight = values([20, 24, 3, 3, 3], 1, &device).require_grad();
        let y = conv3d(x.clone(), weight.clone(), None, plain(1));
        let gradients = (y.clone() * values(y.dims(), 3, &device)).backward();
        let [x, weight] = [x, weight].map(|tensor| tensor.grad(&gradients).unwrap().into_data());
        [y.inner().into_data(), x, weight]
    };
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(run);
    let many = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(run);
    for (one, many) in one.iter().zip(&many) {
        assert_eq!(one.as_bytes(), many.as_bytes());
    }
}

#[test]
#[should_panic(expected = "is larger than the input")]
fn refuses_a_kernel_deeper_than_the_volume() {
    let device = Device::flex();
    conv3d(values([1, 1, 2, 5, 5], 0, &device), values([1, 1, 3, 3, 3], 0, &device), None, plain(0));
}
