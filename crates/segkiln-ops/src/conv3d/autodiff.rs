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
    tensor::ops::ConvOptions,
};

use super::Conv3dOps;

impl<B: Backend + Conv3dOps, C: CheckpointStrategy> Conv3dOps for Autodiff<B, C> {
    fn convolve3d(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<3>) -> FloatTensor<Self> {
        let guards = [x.node(), weight.node()];
        match Convolve3d.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&weight), options.clone());
                let output = B::convolve3d(x.into_primitive(), weight.into_primitive(), options);
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::convolve3d(x.into_primitive(), weight.into_primitive(), options))
            }
        }
    }
}

/// State: input and weight, and the options.
#[derive(Debug)]
struct Convolve3d;

impl<B: Backend + Conv3dOps> Backward<B, 2> for Convolve3d {
    type State = (NodeId, NodeId, ConvOptions<3>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_weight] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, options) = ops.state;
        let x = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(x);
        let weight = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(weight);
        if let Some(node) = node_x {
            let grad = B::convolve3d_x_backward(x.clone(), weight.clone(), grad.clone(), options.clone());
            grads.register::<B>(node.id, grad);
        }
        if let Some(node) = node_weight {
            grads.register::<B>(node.id, B::convolve3d_weight_backward(x, weight, grad, options));
        }
    }
}
