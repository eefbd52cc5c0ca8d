use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use super::{Gate, GatedOps};

impl<B: Backend + GatedOps, C: CheckpointStrategy> GatedOps for Autodiff<B, C> {
    fn gated(x: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self> {
        match Gated(gate).prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = x.into_primitive();
                prep.finish(x.clone(), B::gated(x, gate))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gated(x.into_primitive(), gate)),
        }
    }
}

/// State: the input.
#[derive(Debug)]
struct Gated(Gate);

impl<B: Backend + GatedOps> Backward<B, 1> for Gated {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let grad = B::gated_backward(ops.state, grad, self.0);
        if let Some(x) = x {
            grads.register::<B>(x.id, grad);
        }
    }
}
