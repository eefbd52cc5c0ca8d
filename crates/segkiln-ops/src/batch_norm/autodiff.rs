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

use super::BatchNormOps;

impl<B: Backend + BatchNormOps, C: CheckpointStrategy> BatchNormOps for Autodiff<B, C> {
    fn normalize(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let guards = [x.node(), gamma.node(), beta.node()];
        let (output, mean, variance) = match Normalize.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = [prep.checkpoint(&x), prep.checkpoint(&gamma), prep.checkpoint(&beta)];
                let [x, gamma, beta] = [x, gamma, beta].map(|tensor| tensor.into_primitive());
                let (output, mean, variance) = B::normalize(x, gamma, beta, epsilon, relu);
                let state = State { nodes, mean: mean.clone(), variance: variance.clone(), epsilon, relu };
                (prep.finish(state, output), mean, variance)
            }
            OpsKind::UnTracked(prep) => {
                let [x, gamma, beta] = [x, gamma, beta].map(|tensor| tensor.into_primitive());
                let (output, mean, variance) = B::normalize(x, gamma, beta, epsilon, relu);
                (prep.finish(output), mean, variance)
            }
        };
        (output, FloatTensor::<Self>::new(mean), FloatTensor::<Self>::new(variance))
    }
}

#[derive(Debug)]
struct Normalize;

#[derive(Debug, Clone)]
struct State<B: Backend> {
    /// Input, gamma, beta.
    nodes: [NodeId; 3],
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    epsilon: f64,
    relu: bool,
}

impl<B: Backend + BatchNormOps> Backward<B, 3> for Normalize {
    type State = State<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let State { nodes, mean, variance, epsilon, relu } = ops.state;
        let [x, gamma, beta] = nodes.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let (x, gamma, beta) = B::normalize_backward(x, gamma, beta, mean, variance, grad, epsilon, relu);
        for (node, grad) in ops.parents.iter().zip([x, gamma, beta]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}
