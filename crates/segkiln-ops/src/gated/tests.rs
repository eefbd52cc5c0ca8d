use burn::tensor::{Device, Distribution, Tensor, activation};

use super::{gelu, hard_swish, silu};
use crate::test_devices;

type Unary = fn(Tensor<4>) -> Tensor<4>;

/// Output and gradient against Burn's operators; more values than a block, and no whole number of registers.
#[test]
fn equals_burn() {
    let functions: [(Unary, Unary); 3] = [
        (hard_swish, |x| x.clone() * x.add_scalar(3.0).clamp(0.0, 6.0).div_scalar(6.0)),
        (silu, activation::silu),
        (gelu, activation::gelu),
    ];
    for device in test_devices() {
        for shape in [[2, 3, 5, 7], [1, 3, 181, 199], [0, 3, 4, 4]] {
            let values = |seed, deviation| {
                Device::flex().seed(seed);
                Tensor::<4>::random(shape, Distribution::Normal(0.0, deviation), &Device::flex()).into_data()
            };
            let (x, weight) = (values(1, 3.0), values(2, 1.0));
            for (ours, burn) in functions {
                let run = |device: Device, function: Unary| {
                    let device = device.autodiff();
                    let x = Tensor::<4>::from_data(x.clone(), &device).require_grad();
                    let y = function(x.clone());
                    let gradients = (y.clone() * Tensor::from_data(weight.clone(), &device)).backward();
                    let results = [y.inner(), x.grad(&gradients).unwrap()];
                    results.map(|values| values.into_data().try_to_vec::<f32>().unwrap())
                };
                for (ours, burn) in run(device.clone(), ours).iter().zip(&run(Device::flex(), burn)) {
                    assert_eq!(ours.len(), burn.len());
                    for (ours, burn) in ours.iter().zip(burn) {
                        assert!((ours - burn).abs() <= 1e-6 * burn.abs().max(1.0), "{ours} {burn}");
                    }
                }
            }
        }
    }
}

/// Far from zero an activation is its input or nothing, and near it the definition in f64.
#[test]
fn the_whole_line_is_covered() {
    let x: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.25).chain([-1e38, -1e20, 1e20, 1e38]).collect();
    let run = |function: Unary| {
        let x = Tensor::<1>::from_floats(x.as_slice(), &Device::flex()).reshape([1, 1, 1, x.len()]);
        function(x).into_data().try_to_vec::<f32>().unwrap()
    };
    for ((x, silu), gelu) in x.iter().zip(run(silu)).zip(run(gelu)) {
        let x = f64::from(*x);
        let expected = x / (1.0 + (-x).exp());
        let difference = (f64::from(silu) - expected).abs();
        assert!(difference <= 3e-7 * expected.abs() + 1e-35, "silu of {x} is {silu}, not {expected}");
        let nearly = if x > 0.0 { x } else { 0.0 };
        assert!(x.abs() < 6.0 || (f64::from(gelu) - nearly).abs() <= 1e-7 * nearly + 1e-7, "gelu of {x} is {gelu}");
    }
}

#[test]
fn views_work_and_nan_is_kept() {
    let x = Tensor::<2>::from_floats([[6.0, f32::NAN], [-4.0, 1.5]], &Device::flex());
    for function in [hard_swish, silu, gelu] {
        let y = function(x.clone().swap_dims(0, 1)).into_data().try_to_vec::<f32>().unwrap();
        assert!((y[0] - 6.0).abs() < 0.1 && y[1].abs() < 0.1 && y[2].is_nan() && y[3] > 1.1, "{y:?}");
    }
}
