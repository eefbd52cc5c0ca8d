use burn::tensor::{Device, Distribution, Tensor};

use super::hard_swish;
use crate::test_devices;

/// Output and gradient against Burn's operators; more values than a block, and no whole number of registers.
#[test]
fn equals_burn_s_operators() {
    for device in test_devices() {
        for shape in [[2, 3, 5, 7], [1, 3, 181, 199], [0, 3, 4, 4]] {
            let values = |seed, deviation| {
                Device::flex().seed(seed);
                Tensor::<4>::random(shape, Distribution::Normal(0.0, deviation), &Device::flex()).into_data()
            };
            let (x, weight) = (values(1, 3.0), values(2, 1.0));
            let run = |device: Device, ours: bool| {
                let device = device.autodiff();
                let x = Tensor::<4>::from_data(x.clone(), &device).require_grad();
                let gate = |x: Tensor<4>| x.add_scalar(3.0).clamp(0.0, 6.0).div_scalar(6.0);
                let y = if ours { hard_swish(x.clone()) } else { x.clone() * gate(x.clone()) };
                let gradients = (y.clone() * Tensor::from_data(weight.clone(), &device)).backward();
                [y.inner(), x.grad(&gradients).unwrap()].map(|values| values.into_data().try_to_vec::<f32>().unwrap())
            };
            for (ours, burn) in run(device.clone(), true).iter().zip(&run(Device::flex(), false)) {
                assert_eq!(ours.len(), burn.len());
                for (ours, burn) in ours.iter().zip(burn) {
                    assert!((ours - burn).abs() <= 1e-6 * burn.abs().max(1.0), "{ours} {burn}");
                }
            }
        }
    }
}

#[test]
fn views_work_and_what_is_not_a_number_stays() {
    let x = Tensor::<2>::from_floats([[6.0, f32::NAN], [-4.0, 1.5]], &Device::flex());
    let y = hard_swish(x.swap_dims(0, 1)).into_data().try_to_vec::<f32>().unwrap();
    assert_eq!((y[0], y[1].abs(), y[3]), (6.0, 0.0, 1.125));
    assert!(y[2].is_nan());
}
