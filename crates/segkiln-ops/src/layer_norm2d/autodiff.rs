use burn::backend::{Autodiff, Backend, autodiff::checkpoint::strategy::CheckpointStrategy, tensor::FloatTensor};

use super::{LayerNorm2dOps, forward};

impl<B: Backend + LayerNorm2dOps, C: CheckpointStrategy> LayerNorm2dOps for Autodiff<B, C> {
    fn layer_norm2d(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        if [&x, &gamma, &beta].iter().any(|tensor| tensor.is_tracked()) {
            return forward::<Self>(x, gamma, beta, epsilon);
        }
        let [x, gamma, beta] = [x, gamma, beta].map(|tensor| tensor.into_primitive());
        FloatTensor::<Self>::new(B::layer_norm2d(x, gamma, beta, epsilon))
    }
}
