use burn::{nn::Dropout, tensor::Tensor};

/// Drops whole channels in training: Tompson et al., CVPR 2015, <https://arxiv.org/abs/1411.4280>.
///
/// # Shapes
/// `[n, c, h, w]` → the same
pub fn channel_dropout(dropout: &Dropout, x: Tensor<4>) -> Tensor<4> {
    if dropout.prob == 0.0 || !x.device().is_autodiff() {
        return x;
    }
    let [n, c, _, _] = x.dims();
    let kept = dropout.forward(Tensor::<4>::ones([n, c, 1, 1], &x.device()));
    x * kept
}
