use burn::backend::{Autodiff, Backend, autodiff::checkpoint::strategy::CheckpointStrategy, tensor::FloatTensor};

use super::{AttentionOps, forward};

impl<B: Backend + AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        if [&query, &key, &value].iter().any(|tensor| tensor.is_tracked()) {
            return forward::<Self>(query, key, value, heads);
        }
        let [query, key, value] = [query, key, value].map(|tensor| tensor.into_primitive());
        FloatTensor::<Self>::new(B::attend(query, key, value, heads))
    }
}
