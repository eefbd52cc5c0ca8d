//! Attention of all positions of a map to those of another: Vaswani et al., "Attention Is All You Need", NeurIPS 2017,
//! <https://arxiv.org/abs/1706.03762>; of tensors whose channels come first, as maps have them.
//!
//! On the CPU the weights of a block of positions stay in the cache and are never written to memory. Other backends, and networks
//! whose gradients are tracked, compute with Burn's operators.

use burn::{
    backend::{
        Backend, Dispatch, TensorMetadata, backend_extension,
        ops::{ActivationOps, FloatTensorOps},
        tensor::FloatTensor,
    },
    tensor::{Shape, Tensor},
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// Computes `V · softmax(Kᵀ Q / √width)` for each head, over the positions of keys; a head has `width` channels in a row.
///
/// # Shapes
/// - `query`: `[batch, channels, positions]`, and so is the output
/// - `key`, `value`: `[batch, channels, positions of keys]`
///
/// # Panics
/// If the shapes do not fit, or `heads` does not divide the channels.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::attention;
///
/// let device = Device::default();
/// let query = Tensor::<3>::zeros([1, 2, 5], &device);
/// let value = Tensor::<3>::from_floats([[[1.0, 3.0], [0.0, 8.0]]], &device);
/// let y = attention(query, Tensor::ones([1, 2, 2], &device), value, 1);
/// assert_eq!(y.slice([0..1, 0..2, 0..1]).into_data().try_to_vec::<f32>().unwrap(), [2.0, 4.0]);
/// ```
pub fn attention(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, heads: usize) -> Tensor<3> {
    let ([batch, channels, _], of_keys) = (query.dims(), key.dims());
    assert_eq!(of_keys, value.dims(), "keys and values have one shape");
    assert_eq!(of_keys[..2], [batch, channels], "queries and keys have one batch and number of channels");
    assert!(heads > 0 && channels.is_multiple_of(heads), "{heads} heads do not divide {channels} channels");
    let [query, key, value] = [query, key, value].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as AttentionOps>::attend(query, key, value, heads))
}

/// Backend operator behind [`attention`]; the default is Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait AttentionOps: Backend {
    /// The weighed sums of the values.
    #[fusion(default)]
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        forward::<Self>(query, key, value, heads)
    }
}

/// [`AttentionOps::attend`] with Burn's operators.
fn forward<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    heads: usize,
) -> FloatTensor<B> {
    let shape: [usize; 3] = query.shape().dims();
    let [batch, channels, _] = shape;
    let width = channels / heads;
    let split = |tensor: FloatTensor<B>| {
        let length = tensor.shape()[2];
        <B as FloatTensorOps<B>>::float_reshape(tensor, Shape::new([batch, heads, width, length]))
    };
    let [query, key, value] = [query, key, value].map(split);
    let swap = |tensor| <B as FloatTensorOps<B>>::float_swap_dims(tensor, 2, 3);
    let query = swap(<B as FloatTensorOps<B>>::float_mul_scalar(query, scale(width).into()));
    let weights = swap(<B as ActivationOps<B>>::softmax(<B as FloatTensorOps<B>>::float_matmul(query, key), 3));
    <B as FloatTensorOps<B>>::float_reshape(<B as FloatTensorOps<B>>::float_matmul(value, weights), Shape::new(shape))
}

/// Factor of the queries.
fn scale(width: usize) -> f32 {
    (width as f32).sqrt().recip()
}

#[cfg(test)]
mod tests;
