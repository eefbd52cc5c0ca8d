use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use super::AddReluOps;

impl<B: Backend + AddReluOps, C: CheckpointStrategy> AddReluOps for Autodiff<B, C> {
    fn add_relu(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        match AddRelu.prepare::<C>([x.node(), y.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = B::add_relu(x.into_primitive(), y.into_primitive());
                prep.finish(output.clone(), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::add_relu(x.into_primitive(), y.into_primitive())),
        }
    }
}

/// State: the output.
#[derive(Debug)]
struct AddRelu;

impl<B: Backend + AddReluOps> Backward<B, 2> for AddRelu {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x, y] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let grad = B::add_relu_backward(ops.state, grad);
        if let Some(x) = x {
            grads.register::<B>(x.id, grad.clone());
        }
        if let Some(y) = y {
            grads.register::<B>(y.id, grad);
        }
    }
}
