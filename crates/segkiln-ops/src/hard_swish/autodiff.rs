use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use super::HardSwishOps;

impl<B: Backend + HardSwishOps, C: CheckpointStrategy> HardSwishOps for Autodiff<B, C> {
    fn hard_swish(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match HardSwish.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = x.into_primitive();
                prep.finish(x.clone(), B::hard_swish(x))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::hard_swish(x.into_primitive())),
        }
    }
}

/// State: the input.
#[derive(Debug)]
struct HardSwish;

impl<B: Backend + HardSwishOps> Backward<B, 1> for HardSwish {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let grad = B::hard_swish_backward(ops.state, grad);
        if let Some(x) = x {
            grads.register::<B>(x.id, grad);
        }
    }
}
