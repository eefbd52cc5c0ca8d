use burn::tensor::{Device, Distribution, Tensor, activation::relu};

use super::add_relu;
use crate::test_devices;

/// Output and both gradients against Burn's operators; more values than a block, and no whole number of registers.
#[test]
fn equals_burn() {
    for device in test_devices() {
        for shape in [[2, 3, 5, 7], [1, 3, 181, 199], [0, 3, 4, 4]] {
            let values = |seed| {
                Device::flex().seed(seed);
                Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex()).into_data()
            };
            let (x, y, weight) = (values(1), values(2), values(3));
            let run = |device: Device, ours: bool| {
                let device = device.autodiff();
                let [x, y] = [&x, &y].map(|values| Tensor::<4>::from_data(values.clone(), &device).require_grad());
                let z = if ours { add_relu(x.clone(), y.clone()) } else { relu(x.clone() + y.clone()) };
                let gradients = (z.clone() * Tensor::from_data(weight.clone(), &device)).backward();
                [z.inner(), x.grad(&gradients).unwrap(), y.grad(&gradients).unwrap()].map(Tensor::into_data)
            };
            for (ours, burn) in run(device.clone(), true).iter().zip(run(Device::flex(), false)) {
                ours.assert_eq(&burn, true);
            }
        }
    }
}

#[test]
fn views_work_and_nan_is_kept() {
    let x = Tensor::<4>::from_floats([[[[1.0, f32::NAN], [-3.0, 4.0]]]], &Device::flex());
    let y = add_relu(x.clone().swap_dims(2, 3), x.zeros_like());
    let y = y.into_data().try_to_vec::<f32>().unwrap();
    assert_eq!((y[0], y[1], y[3]), (1.0, 0.0, 4.0));
    assert!(y[2].is_nan());
}
