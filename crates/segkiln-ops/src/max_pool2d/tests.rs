use burn::tensor::{Device, Tensor, TensorData, module, ops::MaxPoolOptions};

use super::max_pool2d;
use crate::test_devices;

/// Values that repeat, so that windows have equal ones.
fn values(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| (i * 7919 % 13) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Output and gradient against Burn's operator on the CPU; odd sizes, rows longer and shorter than registers, other windows.
#[test]
fn equals_burn() {
    for device in test_devices() {
        for (shape, options) in [
            ([2, 3, 6, 8], MaxPoolOptions::new([2, 2])),
            ([1, 2, 9, 71], MaxPoolOptions::new([2, 2])),
            ([1, 1, 2, 2], MaxPoolOptions::new([2, 2])),
            ([2, 1, 64, 64], MaxPoolOptions::new([2, 2])),
            ([2, 3, 11, 9], MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1])),
        ] {
            let run = |device: Device, ours: bool| {
                let device = device.autodiff();
                let x = values(shape, &device).require_grad();
                let y = if ours {
                    max_pool2d(x.clone(), options.clone())
                } else {
                    module::max_pool2d(x.clone(), options.clone())
                };
                let target = values(y.dims(), &device) + 1.0;
                let gradients = (y.clone() * target).backward();
                [y.inner(), x.grad(&gradients).unwrap()].map(Tensor::into_data)
            };
            for (ours, burn) in run(device.clone(), true).iter().zip(run(Device::flex(), false)) {
                ours.assert_eq(&burn, true);
            }
        }
    }
}

/// As PyTorch does.
#[test]
fn nan_is_kept() {
    let mut data = vec![1.0f32; 4 * 64];
    data[130] = f32::NAN;
    data[3] = f32::NAN;
    let x = Tensor::<4>::from_data(TensorData::new(data, [1, 1, 4, 64]), &Device::flex());
    let y = max_pool2d(x, MaxPoolOptions::new([2, 2])).into_data().try_to_vec::<f32>().unwrap();
    let found: Vec<usize> = (0..y.len()).filter(|i| y[*i].is_nan()).collect();
    assert_eq!(found, [1, 33]);
}
