//! Optimizers with weight decay on weights alone, and clipping of the gradients' common norm.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamGroup},
    optim::{
        AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig,
    },
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

use crate::params::for_each_path;

/// Optimizer, with PyTorch's meaning of each number.
///
/// Weight decay acts on parameters of two axes or more. Biases and the scales and shifts of norms, which have one, are
/// spared: decay would only pull them off what the next layer expects.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Averages of the gradient and of its square.
        betas: [f32; 2],
        /// Added to the denominator.
        epsilon: f32,
        /// Share of a weight that a step at learning rate 1 takes away.
        weight_decay: f32,
    },
    /// Gradient descent with momentum.
    Sgd {
        /// Share of the last step.
        momentum: f64,
        /// Whether the gradient is taken ahead of the step.
        nesterov: bool,
        /// Added to the gradient, times the weight.
        weight_decay: f32,
    },
}

impl Default for OptimizerConfig {
    /// AdamW with PyTorch's defaults.
    fn default() -> Self {
        Self::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 1e-2 }
    }
}

impl OptimizerConfig {
    /// The optimizer for `module`'s parameters.
    pub fn init<M: Module>(&self, module: &M) -> ModuleOptimizer {
        let mut spared = Vec::new();
        for_each_path(module, |path, rank| {
            if rank < 2 {
                spared.push(path.to_owned());
            }
        });
        let spared = ParamGroup::from_paths(spared);
        match *self {
            Self::AdamW { betas: [beta_1, beta_2], epsilon, weight_decay } => {
                let adamw = |weight_decay: f32| {
                    AdamWConfig::new()
                        .with_beta_1(beta_1)
                        .with_beta_2(beta_2)
                        .with_epsilon(epsilon)
                        .with_weight_decay(weight_decay)
                        .build()
                };
                ModuleOptimizer::from(adamw(weight_decay)).with_group(spared, adamw(0.0), None)
            }
            Self::Sgd { momentum, nesterov, weight_decay } => {
                let sgd = |weight_decay: f32| {
                    let momentum = MomentumConfig { momentum, dampening: 0.0, nesterov };
                    SgdConfig::new()
                        .with_momentum(Some(momentum))
                        .with_weight_decay((weight_decay > 0.0).then_some(WeightDecayConfig { penalty: weight_decay }))
                        .build()
                };
                ModuleOptimizer::from(sgd(weight_decay)).with_group(spared, sgd(0.0), None)
            }
        }
    }
}

/// Scales the gradients of `module` so that their common Euclidean norm is at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_` does. Burn's own clipping takes each parameter's norm by itself.
pub fn clip_grad_norm<M: Module>(module: &M, gradients: GradientsParams, max_norm: f32) -> GradientsParams {
    struct SumOfSquares<'a> {
        gradients: &'a GradientsParams,
        sum: Option<Tensor<1>>,
    }

    impl ModuleVisitor for SumOfSquares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                // Axis by axis: a sum of millions of values at once has no fixed order on the CPU.
                let squares = (0..D).rev().fold(gradient.square(), |squares, axis| squares.sum_dim(axis)).reshape([1]);
                self.sum = Some(match self.sum.take() {
                    Some(sum) => sum + squares,
                    None => squares,
                });
            }
        }
    }

    struct Scale {
        gradients: GradientsParams,
        scaled: GradientsParams,
        factor: Tensor<1>,
    }

    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.remove::<D>(param.id) {
                self.scaled.register(param.id, gradient * self.factor.clone().reshape([1; D]));
            }
        }
    }

    let mut squares = SumOfSquares { gradients: &gradients, sum: None };
    module.visit(&mut squares);
    let Some(sum) = squares.sum else { return gradients };
    let factor = (sum.sqrt() + 1e-6).recip().mul_scalar(max_norm).clamp_max(1.0);
    let mut scale = Scale { gradients, scaled: GradientsParams::new(), factor };
    module.visit(&mut scale);
    scale.scaled
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{BatchNormConfig, Linear, LinearConfig},
        optim::GradientsParams,
        tensor::Device,
    };

    use super::*;

    fn step(config: OptimizerConfig, linear: Linear, gradient: f32) -> Linear {
        let mut optimizer = config.init(&linear);
        let mut gradients = GradientsParams::new();
        gradients.register(linear.weight.id, Tensor::<2>::full([2, 2], gradient, &Device::default()));
        let bias = linear.bias.as_ref().unwrap();
        gradients.register(bias.id, Tensor::<1>::full([2], gradient, &Device::default()));
        optimizer.step(0.1, linear, gradients)
    }

    fn linear(device: &Device) -> Linear {
        let mut linear = LinearConfig::new(2, 2).init(device);
        linear.weight = linear.weight.map(|w| w.ones_like().require_grad());
        linear.bias = linear.bias.map(|b| b.map(|b| b.ones_like().require_grad()));
        linear
    }

    #[test]
    fn decay_spares_biases() {
        let device = Device::default().autodiff();
        for config in [
            OptimizerConfig::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.5 },
            OptimizerConfig::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.5 },
        ] {
            let after = step(config, linear(&device), 0.0);
            let weight: Vec<f32> = after.weight.val().into_data().try_to_vec().unwrap();
            let bias: Vec<f32> = after.bias.unwrap().val().into_data().try_to_vec().unwrap();
            assert!(weight.iter().all(|w| (w - 0.95).abs() < 1e-6), "{config:?}: {weight:?}");
            assert_eq!(bias, [1.0; 2], "{config:?}");
        }
    }

    #[test]
    fn sgd_has_no_dampening() {
        let device = Device::default().autodiff();
        let config = OptimizerConfig::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
        let after = step(config, linear(&device), 1.0);
        let bias: Vec<f32> = after.bias.unwrap().val().into_data().try_to_vec().unwrap();
        assert!((bias[0] - 0.9).abs() < 1e-6);
    }

    #[test]
    fn clipping_takes_the_common_norm() {
        let device = Device::default();
        let norm = BatchNormConfig::new(4).init(&device);
        let gradients = || {
            let mut gradients = GradientsParams::new();
            gradients.register(norm.gamma.id, Tensor::<1>::full([4], 3.0, &device));
            gradients.register(norm.beta.id, Tensor::<1>::full([4], 4.0, &device));
            gradients
        };
        // √(4·9 + 4·16) = 10
        let clipped = clip_grad_norm(&norm, gradients(), 1.0);
        let gamma: Vec<f32> = clipped.get::<1>(norm.gamma.id).unwrap().into_data().try_to_vec().unwrap();
        assert!((gamma[0] - 0.3).abs() < 1e-5, "{gamma:?}");
        let kept = clip_grad_norm(&norm, gradients(), 20.0);
        let beta: Vec<f32> = kept.get::<1>(norm.beta.id).unwrap().into_data().try_to_vec().unwrap();
        assert_eq!(beta, [4.0; 4]);
    }

    #[test]
    fn clipping_has_the_same_bits_each_time() {
        let device = Device::default();
        let layer = burn::nn::conv::Conv2dConfig::new([2100, 2100], [1, 1]).with_bias(false).init(&device);
        let values: Vec<f32> = (0..2100 * 2100u64).map(|i| (i * 7919 % 104_729) as f32 * 1e-5 - 0.5).collect();
        let clipped = || {
            let mut gradients = GradientsParams::new();
            let gradient = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([2100, 2100, 1, 1]);
            gradients.register(layer.weight.id, gradient);
            let clipped = clip_grad_norm(&layer, gradients, 1.0).get::<4>(layer.weight.id).unwrap();
            clipped.slice([0..1, 0..4]).into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let first = clipped();
        assert!((0..10).all(|_| clipped() == first));
    }
}
