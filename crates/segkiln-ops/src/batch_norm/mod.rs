//! Batch normalization in training, with the ReLU that follows it: Ioffe and Szegedy, "Batch Normalization: Accelerating
//! Deep Network Training by Reducing Internal Covariate Shift", ICML 2015, <https://arxiv.org/abs/1502.03167>.
//!
//! On the CPU a channel is read for its statistics and normalized while it is in the cache, forward and backward. Other backends
//! compute with Burn's operators.

use burn::{
    backend::{Backend, Dispatch, backend_extension, ops::ModuleOps, tensor::FloatTensor},
    tensor::Tensor,
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// Output and statistics of [`batch_norm_train`].
#[derive(Debug, Clone)]
pub struct BatchNormOutput {
    /// Normalized input, `[batch, channels, height, width]`.
    pub output: Tensor<4>,
    /// Mean of the batch, `[channels]`, without gradient.
    pub mean: Tensor<1>,
    /// Biased variance of the batch, `[channels]`, without gradient.
    pub variance: Tensor<1>,
}

/// Computes `γ · (x − mean) / √(variance + ε) + β` with the batch's statistics, followed by a ReLU if `relu` is set.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - `gamma`, `beta`: `[channels]`
///
/// # Panics
/// If the shapes do not fit.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::batch_norm_train;
///
/// let device = Device::default();
/// let x = Tensor::<4>::from_floats([[[[1.0, 3.0]]]], &device);
/// let result = batch_norm_train(x, Tensor::ones([1], &device), Tensor::zeros([1], &device), 0.0, true);
/// assert_eq!(result.output.into_data().try_to_vec::<f32>().unwrap(), [0.0, 1.0]);
/// assert_eq!(result.mean.into_scalar::<f32>(), 2.0);
/// ```
pub fn batch_norm_train(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64, relu: bool) -> BatchNormOutput {
    let channels = x.dims()[1];
    assert_eq!(gamma.dims(), [channels], "gamma of {channels} channels");
    assert_eq!(beta.dims(), [channels], "beta of {channels} channels");
    let (x, gamma, beta) = (x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch());
    let (output, mean, variance) = <Dispatch as BatchNormOps>::normalize(x, gamma, beta, epsilon, relu);
    BatchNormOutput {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// Backend operators behind [`batch_norm_train`]; the defaults are Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait BatchNormOps: Backend {
    /// Output, mean and variance.
    #[fusion(default)]
    fn normalize(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let result = <Self as ModuleOps<Self>>::batch_norm_train(x, gamma, beta, epsilon);
        let output = if relu { Self::relu(result.output) } else { result.output };
        (output, result.mean, result.variance)
    }

    /// Gradients of `x`, `gamma` and `beta`, from the output's gradient and the statistics.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments)]
    fn normalize_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        backward::<Self>(x, gamma, beta, mean, variance, grad, epsilon, relu)
    }
}

/// [`BatchNormOps::normalize_backward`] with Burn's operators.
#[allow(clippy::too_many_arguments)]
fn backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    grad: FloatTensor<B>,
    epsilon: f64,
    relu: bool,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let grad = match relu {
        true => {
            let y = <B as ModuleOps<B>>::batch_norm(
                x.clone(),
                gamma.clone(),
                beta,
                mean.clone(),
                variance.clone(),
                epsilon,
            );
            B::relu_backward(B::relu(y), grad)
        }
        false => grad,
    };
    let result = <B as ModuleOps<B>>::batch_norm_train_backward(x, gamma, mean, variance, epsilon, grad);
    (result.x_grad, result.gamma_grad, result.beta_grad)
}

#[cfg(test)]
mod tests;
