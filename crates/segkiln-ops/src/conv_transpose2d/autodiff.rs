use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use super::ConvTranspose2dOps;

impl<B: Backend + ConvTranspose2dOps, C: CheckpointStrategy> ConvTranspose2dOps for Autodiff<B, C> {
    fn double(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        match Double.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [prep.checkpoint(&x), prep.checkpoint(&weight), prep.checkpoint(&bias)];
                let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.into_primitive());
                prep.finish(state, B::double(x, weight, bias))
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.into_primitive());
                prep.finish(B::double(x, weight, bias))
            }
        }
    }
}

/// State: input, weight and bias.
#[derive(Debug)]
struct Double;

impl<B: Backend + ConvTranspose2dOps> Backward<B, 3> for Double {
    type State = [NodeId; 3];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_weight, node_bias] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let [x, weight, bias] = ops.state.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        if let Some(node) = node_x {
            grads.register::<B>(node.id, B::double_x_backward(weight.clone(), grad.clone()));
        }
        if let Some(node) = node_weight {
            grads.register::<B>(node.id, B::double_weight_backward(x.clone(), weight, grad.clone()));
        }
        if let Some(node) = node_bias {
            grads.register::<B>(node.id, B::double_bias_backward(x, bias, grad));
        }
    }
}
