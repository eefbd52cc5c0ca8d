//! Fake quantization, for training that knows of the 8 bits that its network will be computed in (Jacob et al., CVPR 2018,
//! <https://arxiv.org/abs/1712.05877>): factors are rounded as [`quantization`](crate::quantization) rounds them, and stay f32.
//! Gradients pass the rounding as if it were not there (straight-through estimator).
//!
//! A batch norm that follows is a factor of each output channel, as the scale of the weights is one: they are rounded as they
//! will be with the norm folded in.

use burn::tensor::Tensor;
use segkiln_ops::Joined;

use crate::quantization::can_be_read;

/// The factors of a convolution, rounded to 8 bits where it can compute in them. `out` is the weight's dimension of output channels.
pub(crate) fn factors(x: Joined, weight: Tensor<4>, out: usize, groups: usize) -> (Joined, Tensor<4>) {
    if groups != 1 || !can_be_read(&x) {
        return (x, weight);
    }
    (activations(x), weights(weight, out))
}

/// The weights with a scale for each output channel, with which the largest is 127.
fn weights(weight: Tensor<4>, out: usize) -> Tensor<4> {
    let values = weight.clone().detach();
    let others = (0..4).filter(|dim| *dim != out);
    let scale = others.fold(values.clone().abs(), |most, dim| most.max_dim(dim)).div_scalar(127.0);
    // A channel of zeros stays one.
    let scale = scale.clamp_min(f32::MIN_POSITIVE);
    straight_through(weight, (values / scale.clone()).round() * scale)
}

/// The activations in 255 steps from the smallest to the largest value of the batch, of which one is 0. Two tensors have steps of their own,
/// as maps of 8 bits that a layer reads one after the other.
fn activations(x: Joined) -> Joined {
    x.map(|x| {
        let bound = |value: Tensor<1>| value.into_data().iter::<f32>().next().unwrap_or_default();
        let (low, high) = (bound(x.clone().detach().min()).min(0.0), bound(x.clone().detach().max()).max(0.0));
        let scale = (high - low) / 255.0;
        // The loss tells of values that are not finite.
        if !scale.is_finite() || scale == 0.0 {
            return x;
        }
        let zero = (-low / scale).round_ties_even();
        let steps = x.clone().detach().div_scalar(scale).add_scalar(zero).round().clamp(0.0, 255.0);
        straight_through(x, steps.sub_scalar(zero).mul_scalar(scale))
    })
}

/// The value of `rounded` with the gradient of `x`.
fn straight_through(x: Tensor<4>, rounded: Tensor<4>) -> Tensor<4> {
    let error = rounded - x.clone().detach();
    x + error.detach()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().iter().collect()
    }

    #[test]
    fn factors_are_multiples_of_their_steps_and_gradients_pass() {
        let device = Device::flex().autodiff();
        let random =
            |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Uniform(-1.0, 3.0), &device).require_grad();
        let (x, weight) = (random([2, 16, 5, 4]), random([6, 16, 3, 3]));
        let (rounded, kernel) = factors(x.clone().into(), weight.clone(), 0, 1);
        let rounded = rounded.tensors().next().unwrap().clone();

        let (found, from) = (values(rounded.clone()), values(x.clone()));
        let low = from.iter().fold(0f32, |low, value| low.min(*value));
        let high = from.iter().fold(0f32, |high, value| high.max(*value));
        let step = (high - low) / 255.0;
        assert!(found.iter().zip(&from).all(|(found, from)| (found - from).abs() <= 0.51 * step));
        assert!(found.iter().all(|value| (value / step - (value / step).round()).abs() < 1e-3));
        for (found, from) in values(kernel.clone()).chunks(144).zip(values(weight.clone()).chunks(144)) {
            let step = from.iter().fold(0f32, |most, value| most.max(value.abs())) / 127.0;
            assert!(found.iter().zip(from).all(|(found, from)| (found - from).abs() <= 0.51 * step));
            assert!(found.iter().all(|value| (value / step - (value / step).round()).abs() < 1e-3));
        }

        let gradients = (rounded.sum() + kernel.sum()).backward();
        for tensor in [x, weight] {
            assert!(values(tensor.grad(&gradients).unwrap()).iter().all(|gradient| *gradient == 1.0));
        }
    }

    #[test]
    fn layers_that_do_not_compute_in_8_bits_are_left() {
        let device = Device::flex();
        let x = Tensor::<4>::random([1, 12, 4, 4], Distribution::Default, &device);
        let weight = Tensor::<4>::random([8, 12, 1, 1], Distribution::Default, &device);
        let (same, kernel) = factors(x.clone().into(), weight.clone(), 0, 1);
        assert_eq!((values(same.tensors().next().unwrap().clone()), values(kernel)), (values(x), values(weight)));
    }
}
