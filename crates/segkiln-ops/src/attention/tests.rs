use burn::tensor::{Device, Tensor, Tolerance, activation::softmax};

use super::attention;
use crate::{test_devices, test_values};

/// Queries and keys of more and of fewer positions than registers have, several heads, odd widths; output and gradients.
#[test]
fn equals_the_definition() {
    for device in test_devices() {
        for (shape, keys, heads) in [
            ([2, 12, 70], 9, 3),
            ([1, 32, 256], 64, 1),
            ([1, 5, 3], 1, 1),
            ([1, 14, 33], 17, 2),
            ([1, 8, 40], 1100, 1),
            ([0, 4, 5], 3, 2),
        ] {
            let [batch, channels, positions] = shape;
            let query = test_values(shape, 1, &Device::flex()) * 4.0;
            let [key, value] = [2, 3].map(|seed| test_values([batch, channels, keys], seed, &Device::flex()) * 2.0);
            let factor = test_values(shape, 4, &Device::flex());
            let run = |device: Device, ours: bool| {
                let device = device.autodiff();
                let [query, key, value] =
                    [&query, &key, &value].map(|x| Tensor::<3>::from_data(x.to_data(), &device).require_grad());
                let y = if ours {
                    attention(query.clone(), key.clone(), value.clone(), heads)
                } else {
                    let split = |x: &Tensor<3>| {
                        let [.., length] = x.dims();
                        x.clone().reshape([batch, heads, channels / heads, length])
                    };
                    let scores = split(&query).swap_dims(2, 3).matmul(split(&key));
                    let weights = softmax(scores / ((channels / heads) as f32).sqrt(), 3);
                    split(&value).matmul(weights.swap_dims(2, 3)).reshape([batch, channels, positions])
                };
                let gradients = (y.clone() * Tensor::from_data(factor.to_data(), &device)).sum().backward();
                let gradients = [query, key, value].map(|x| x.grad(&gradients).unwrap().into_data());
                (y.inner().into_data(), gradients)
            };
            if batch == 0 {
                let tensors = [&query, &key, &value].map(|x| Tensor::<3>::from_data(x.to_data(), &device));
                let [query, key, value] = tensors;
                assert_eq!(attention(query, key, value, heads).dims(), shape);
                continue;
            }
            let [query, key, value] = [&query, &key, &value].map(|x| Tensor::<3>::from_data(x.to_data(), &device));
            let inference = attention(query, key, value, heads);
            let ((ours, our_gradients), (expected, gradients)) =
                (run(device.clone(), true), run(Device::flex(), false));
            let tolerance = Tolerance::absolute(2e-5);
            ours.assert_approx_eq::<f32>(&expected, tolerance);
            inference.into_data().assert_approx_eq::<f32>(&expected, tolerance);
            for (ours, expected) in our_gradients.iter().zip(&gradients) {
                ours.assert_approx_eq::<f32>(expected, tolerance);
            }
        }
    }
}

/// Scores far apart, whose exponentials would overflow.
#[test]
fn large_scores_choose_one_key() {
    let device = Device::flex();
    let query = Tensor::<3>::full([1, 1, 3], 1000.0, &device);
    let key = Tensor::<3>::from_floats([[[-1.0, 2.0, 1.0]]], &device);
    let value = Tensor::<3>::from_floats([[[5.0, 7.0, 9.0]]], &device);
    assert_eq!(attention(query, key, value, 1).into_data().try_to_vec::<f32>().unwrap(), [7.0; 3]);
}
