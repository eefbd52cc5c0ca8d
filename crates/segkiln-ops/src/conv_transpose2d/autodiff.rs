use burn::{
    backend::{
        Autodiff, Backend,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::ops::ConvTransposeOptions,
};

use super::ConvTranspose2dOps;

impl<B: Backend + ConvTranspose2dOps, C: CheckpointStrategy> ConvTranspose2dOps for Autodiff<B, C> {
    fn convolve_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvTransposeOptions<2>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        match ConvolveTransposed.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [prep.checkpoint(&x), prep.checkpoint(&weight), prep.checkpoint(&bias)];
                let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.into_primitive());
                prep.finish((state, options.clone()), B::convolve_transposed(x, weight, bias, options))
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.into_primitive());
                prep.finish(B::convolve_transposed(x, weight, bias, options))
            }
        }
    }
}

/// State: input, weight and bias, and the options.
#[derive(Debug)]
struct ConvolveTransposed;

impl<B: Backend + ConvTranspose2dOps> Backward<B, 3> for ConvolveTransposed {
    type State = ([NodeId; 3], ConvTransposeOptions<2>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_weight, node_bias] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (state, options) = ops.state;
        let [x, weight, bias] = state.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        if let Some(node) = node_x {
            let (x, weight, grad) = (x.clone(), weight.clone(), grad.clone());
            grads.register::<B>(node.id, B::convolve_transposed_x_backward(x, weight, grad, options.clone()));
        }
        if let Some(node) = node_weight {
            let grad = B::convolve_transposed_weight_backward(x.clone(), weight, grad.clone(), options);
            grads.register::<B>(node.id, grad);
        }
        if let Some(node) = node_bias {
            grads.register::<B>(node.id, B::convolve_transposed_bias_backward(x, bias, grad));
        }
    }
}
