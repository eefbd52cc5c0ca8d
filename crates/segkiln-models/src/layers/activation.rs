use burn::{
    config::Config,
    tensor::{Tensor, activation},
};

/// Activation after a norm or a convolution; none has parameters.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Activation {
    /// `x`
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`, of the MobileNets.
    Relu6,
    /// `x` where positive, else `0.01 x`
    LeakyRelu,
    /// `x · Φ(x)`, Hendrycks and Gimpel 2016.
    Gelu,
    /// `x · σ(x)`, also called swish.
    Silu,
    /// `x · relu6(x + 3) / 6`, of MobileNetV3.
    HardSwish,
    /// `relu6(x + 3) / 6`, of MobileNetV3.
    HardSigmoid,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
}

impl Activation {
    /// Applies the activation to each value.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let hard_sigmoid = |x: Tensor<D>| x.add_scalar(3.0).clamp(0.0, 6.0).div_scalar(6.0);
        match self {
            Self::Identity => x,
            Self::Relu => activation::relu(x),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::LeakyRelu => activation::leaky_relu(x, 0.01),
            Self::Gelu => segkiln_ops::gelu(x),
            Self::Silu => segkiln_ops::silu(x),
            Self::HardSwish => segkiln_ops::hard_swish(x),
            Self::HardSigmoid => hard_sigmoid(x),
            Self::Sigmoid => activation::sigmoid(x),
        }
    }

    /// The bounds of those that only bound, which a convolution applies while its output is in the cache.
    pub(super) fn range(self) -> Option<[f32; 2]> {
        match self {
            Self::Relu => Some([0.0, f32::INFINITY]),
            Self::Relu6 => Some([0.0, 6.0]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn equal_their_definitions() {
        let x = [-4.0f32, -3.0, -1.0, 0.0, 0.5, 2.0, 3.0, 7.0];
        let hard = |x: f32| (x + 3.0).clamp(0.0, 6.0) / 6.0;
        let cases: [(Activation, &dyn Fn(f32) -> f32); 8] = [
            (Activation::Identity, &|x| x),
            (Activation::Relu, &|x| x.max(0.0)),
            (Activation::Relu6, &|x| x.clamp(0.0, 6.0)),
            (Activation::LeakyRelu, &|x| if x > 0.0 { x } else { 0.01 * x }),
            (Activation::HardSwish, &|x| x * hard(x)),
            (Activation::HardSigmoid, &hard),
            (Activation::Sigmoid, &|x| 1.0 / (1.0 + (-x).exp())),
            (Activation::Silu, &|x| x / (1.0 + (-x).exp())),
        ];
        for (activation, expected) in cases {
            let y = activation.forward(Tensor::<1>::from_floats(x, &Device::default()));
            for (y, x) in y.into_data().try_to_vec::<f32>().unwrap().into_iter().zip(x) {
                assert!((y - expected(x)).abs() < 1e-6, "{activation:?} of {x} is {y}");
            }
        }
    }
}
