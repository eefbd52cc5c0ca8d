use burn::{
    config::Config,
    module::{Module, Param, ParamId, RunningState},
    nn::{BatchNorm, BatchNormConfig, GroupNorm, GroupNormConfig, Initializer, InstanceNorm, InstanceNormConfig},
    tensor::{Device, Tensor},
};
use segkiln_ops::batch_norm_train;

use super::Activation;
use crate::{ConfigError, precision, trace::tap};

/// Normalization after a convolution.
#[derive(Config, Debug, PartialEq)]
pub enum NormConfig {
    /// Over the batch, per channel (Ioffe and Szegedy 2015).
    Batch {
        /// Added to the variance.
        epsilon: f64,
        /// Share of the new batch in the running statistics.
        momentum: f64,
    },
    /// Batch normalization that keeps the statistics and the scale that it was given: for fine-tuning with small batches.
    Frozen {
        /// Added to the variance.
        epsilon: f64,
    },
    /// Over groups of channels of each image (Wu and He 2018); for small batches.
    Group {
        /// Number of groups; it must divide the channels of every layer.
        groups: usize,
    },
    /// Over each channel of each image (Ulyanov et al. 2016), with scale and shift.
    Instance,
    /// None; the convolutions have a bias instead.
    None,
}

impl Default for NormConfig {
    /// Batch normalization with PyTorch's epsilon 1e-5 and momentum 0.1.
    fn default() -> Self {
        Self::Batch { epsilon: 1e-5, momentum: 0.1 }
    }
}

impl NormConfig {
    /// Whether the layer can be built for multiples of `channels`.
    ///
    /// # Errors
    /// A sentence that names the number out of range.
    pub fn check(&self, channels: usize) -> Result<(), ConfigError> {
        match *self {
            Self::Batch { epsilon, .. } if !(epsilon.is_finite() && epsilon > 0.0) => {
                Err(ConfigError::new("norm epsilon", format!("must be finite and above 0, is {epsilon}")))
            }
            Self::Frozen { epsilon } if !(epsilon.is_finite() && epsilon >= 0.0) => {
                Err(ConfigError::new("norm epsilon", format!("must be finite and not below 0, is {epsilon}")))
            }
            Self::Batch { momentum, .. } if !(0.0..=1.0).contains(&momentum) => {
                Err(ConfigError::new("norm momentum", format!("must be from 0 to 1, is {momentum}")))
            }
            Self::Group { groups } if groups == 0 || !channels.is_multiple_of(groups) => Err(
                ConfigError::with_message("norm", format!("{groups} norm groups do not divide {channels} channels")),
            ),
            _ => Ok(()),
        }
    }

    /// The layer for this many channels.
    ///
    /// # Panics
    /// If the groups do not divide the channels.
    pub fn init(&self, channels: usize, device: &Device) -> Option<Norm> {
        match *self {
            Self::Batch { epsilon, momentum } => Some(Norm::Batch(
                BatchNormConfig::new(channels).with_epsilon(epsilon).with_momentum(momentum).init(device),
            )),
            Self::Frozen { epsilon } => Some(Norm::Frozen(FrozenBatchNorm::new(channels, epsilon, device))),
            Self::Group { groups } => Some(Norm::Group(GroupNormConfig::new(groups, channels).init(device))),
            Self::Instance => Some(Norm::Instance(InstanceNormConfig::new(channels).init(device))),
            Self::None => None,
        }
    }
}

/// A normalization layer.
#[derive(Module, Debug)]
pub enum Norm {
    /// Batch normalization.
    Batch(BatchNorm),
    /// Batch normalization that does not learn.
    Frozen(FrozenBatchNorm),
    /// Group normalization.
    Group(GroupNorm),
    /// Instance normalization.
    Instance(InstanceNorm),
}

impl Norm {
    /// # Shapes
    /// `[n, c, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Batch(norm) if trains(norm, &x.device()) => batch_train(norm, x, false),
            Self::Batch(norm) => norm.forward(x),
            Self::Frozen(norm) => norm.forward(x),
            Self::Group(norm) => norm.forward(x),
            Self::Instance(norm) => norm.forward(x),
        }
    }

    /// A parameter of the norm, by which it is known; a frozen one has none.
    pub(super) fn id(&self) -> Option<ParamId> {
        match self {
            Self::Batch(norm) => Some(norm.gamma.id),
            Self::Frozen(_) => None,
            Self::Group(norm) => norm.gamma.as_ref().map(|gamma| gamma.id),
            Self::Instance(norm) => norm.gamma.as_ref().map(|gamma| gamma.id),
        }
    }

    /// Returns the scale and the shift of each channel, where they do not depend on the image.
    pub(crate) fn affine(&self, device: &Device) -> Option<[Tensor<1>; 2]> {
        match self {
            Self::Batch(norm) => {
                let running = [&norm.running_mean, &norm.running_var];
                Some(affine(norm.gamma.val(), norm.beta.val(), running, norm.epsilon, device))
            }
            Self::Frozen(norm) => Some(norm.affine(device)),
            Self::Group(_) | Self::Instance(_) => None,
        }
    }
}

/// Layer normalization of each pixel's channels (Ba et al. 2016).
#[derive(Module, Debug)]
pub struct LayerNorm2d {
    /// Scale, `[channels]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    pub beta: Param<Tensor<1>>,
    /// Added to the variance.
    #[module(skip)]
    pub epsilon: f64,
}

impl LayerNorm2d {
    /// Creates a norm with scales of 1 and shifts of 0.
    pub fn new(channels: usize, epsilon: f64, device: &Device) -> Self {
        let filled = |initializer: Initializer| initializer.init([channels], device);
        Self { gamma: filled(Initializer::Ones), beta: filled(Initializer::Zeros), epsilon }
    }

    /// # Shapes
    /// `[n, c, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // A pixel depends on itself; that all of its channels change alike says nothing else.
        if precision::reaches() {
            return x;
        }
        let y = segkiln_ops::layer_norm2d(precision::full(x), self.gamma.val(), self.beta.val(), self.epsilon);
        tap(&self.gamma, y)
    }
}

/// Batch normalization whose statistics, scale and shift do not change in training. Its values are no parameters.
#[derive(Module, Debug)]
pub struct FrozenBatchNorm {
    /// Scale, `[channels]`.
    pub gamma: RunningState<Tensor<1>>,
    /// Shift, `[channels]`.
    pub beta: RunningState<Tensor<1>>,
    /// Mean, `[channels]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// Variance, `[channels]`.
    pub running_var: RunningState<Tensor<1>>,
    /// Added to the variance.
    #[module(skip)]
    pub epsilon: f64,
}

impl FrozenBatchNorm {
    /// Creates a norm that changes nothing (but for `epsilon`) until it has values.
    pub fn new(channels: usize, epsilon: f64, device: &Device) -> Self {
        let zeros = || RunningState::new(Tensor::zeros([channels], device));
        let ones = || RunningState::new(Tensor::ones([channels], device));
        Self { gamma: ones(), beta: zeros(), running_mean: zeros(), running_var: ones(), epsilon }
    }

    /// # Shapes
    /// `[n, c, h, w]` → the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [scale, shift] = self.affine(&x.device()).map(|values| {
            let channels = values.dims()[0];
            values.reshape([1, channels, 1, 1])
        });
        x * scale + shift
    }

    fn affine(&self, device: &Device) -> [Tensor<1>; 2] {
        let [gamma, beta] = [&self.gamma, &self.beta].map(|running| running.value_sync().to_device(device));
        affine(gamma, beta, [&self.running_mean, &self.running_var], self.epsilon, device)
    }
}

/// Whether batch norm takes the batch's statistics and not the running ones.
pub(super) fn trains(norm: &BatchNorm, device: &Device) -> bool {
    device.is_autodiff() && norm.training.is_enabled()
}

/// Returns the scale and the shift of each channel of a batch norm in evaluation.
fn affine(
    gamma: Tensor<1>,
    beta: Tensor<1>,
    running: [&RunningState<Tensor<1>>; 2],
    epsilon: f64,
    device: &Device,
) -> [Tensor<1>; 2] {
    let [mean, variance] = running.map(|running| running.value_sync().to_device(device));
    let scale = gamma / variance.add_scalar(epsilon).sqrt();
    let shift = beta - mean * scale.clone();
    [scale, shift]
}

/// Batch norm and, if `relu`, ReLU in training. Burn's own training step keeps the biased variance as running statistic;
/// PyTorch keeps the unbiased one, and so do the weights that it exports.
pub(super) fn batch_train(norm: &BatchNorm, x: Tensor<4>, relu: bool) -> Tensor<4> {
    let [n, channels, h, w] = x.dims();
    let count = (n * h * w) as f64;
    // A single value has no variance. PyTorch refuses it; to learn a variance of 0 from it would ruin the evaluation.
    if count <= 1.0 {
        let running = [&norm.running_mean, &norm.running_var];
        let affine = affine(norm.gamma.val(), norm.beta.val(), running, norm.epsilon, &x.device());
        let [scale, shift] = affine.map(|values| values.reshape([1, channels, 1, 1]));
        let y = x * scale + shift;
        return if relu { Activation::Relu.forward(y) } else { y };
    }
    let unbiased = count / (count - 1.0);
    let result = batch_norm_train(x, norm.gamma.val(), norm.beta.val(), norm.epsilon, relu);
    let blend = |running: Tensor<1>, new: Tensor<1>, scale: f64| {
        let device = new.device();
        (running.to_device(&device).mul_scalar(1.0 - norm.momentum) + new.detach().mul_scalar(norm.momentum * scale))
            .detach()
    };
    norm.running_mean.update(blend(norm.running_mean.value_sync(), result.mean, 1.0));
    norm.running_var.update(blend(norm.running_var.value_sync(), result.variance, unbiased));
    result.output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_value_leaves_the_statistics_alone() {
        let device = Device::default().autodiff();
        let Some(Norm::Batch(norm)) = NormConfig::default().init(2, &device) else { panic!("batch norm") };
        let x = Tensor::<4>::from_floats([[[[3.0]], [[-2.0]]]], &device);
        let y = batch_train(&norm, x.clone(), true);
        assert_eq!(y.into_data().iter::<f32>().map(f32::round).collect::<Vec<_>>(), [3.0, 0.0]);
        assert_eq!(norm.running_var.value_sync().into_data().iter::<f32>().collect::<Vec<_>>(), [1.0, 1.0]);
        batch_train(&norm, Tensor::cat(vec![x.clone(), x.neg()], 0), false);
        assert_ne!(norm.running_var.value_sync().into_data().iter::<f32>().collect::<Vec<_>>(), [1.0, 1.0]);
    }
}
