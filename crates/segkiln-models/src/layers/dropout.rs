use burn::{nn::Dropout, tensor::Tensor};

/// Drops whole channels in training: Tompson et al., CVPR 2015, <https://arxiv.org/abs/1411.4280>.
///
/// # Shapes
/// `[n, c, h, w]` → the same
pub fn channel_dropout(dropout: &Dropout, x: Tensor<4>) -> Tensor<4> {
    let [n, c, _, _] = x.dims();
    drop_parts(dropout, x, [n, c, 1, 1])
}

/// Drops whole images in training, which leaves a residual block out for them.
///
/// # Shapes
/// `[n, c, h, w]` → the same
pub fn image_dropout(dropout: &Dropout, x: Tensor<4>) -> Tensor<4> {
    let [n, ..] = x.dims();
    drop_parts(dropout, x, [n, 1, 1, 1])
}

fn drop_parts(dropout: &Dropout, x: Tensor<4>, parts: [usize; 4]) -> Tensor<4> {
    let device = x.device();
    if dropout.prob == 0.0 || !device.is_autodiff() {
        return x;
    }
    x * dropout.forward(Tensor::<4>::ones(parts, &device))
}
