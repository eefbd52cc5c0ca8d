use burn::{
    backend::{
        Autodiff, Backend, TensorMetadata,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        ops::FloatTensorOps,
        tensor::FloatTensor,
    },
    tensor::{Slice, ops::ConvOptions},
};

use super::Conv2dOps;

impl<B: Backend + Conv2dOps, C: CheckpointStrategy> Conv2dOps for Autodiff<B, C> {
    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        let guards = [x.node(), weight.node()];
        match Convolve.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&weight), options.clone());
                let output = B::convolve(x.into_primitive(), weight.into_primitive(), options);
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::convolve(x.into_primitive(), weight.into_primitive(), options)),
        }
    }

    fn convolve_joined(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        // A group may have channels of both.
        if !B::JOINS || options.groups != 1 {
            return Self::convolve(Self::float_cat(vec![x, more], 1), weight, options);
        }
        let guards = [x.node(), more.node(), weight.node()];
        let output = |x: FloatTensor<Self>, more: FloatTensor<Self>, weight: FloatTensor<Self>, options| {
            B::convolve_joined(x.into_primitive(), more.into_primitive(), weight.into_primitive(), options)
        };
        match ConvolveJoined.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&x, &more, &weight].map(|tensor| prep.checkpoint(tensor));
                prep.finish((nodes, options.clone()), output(x, more, weight, options))
            }
            OpsKind::UnTracked(prep) => prep.finish(output(x, more, weight, options)),
        }
    }
}

/// State: input and weight, and the options.
#[derive(Debug)]
struct Convolve;

impl<B: Backend + Conv2dOps> Backward<B, 2> for Convolve {
    type State = (NodeId, NodeId, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_weight] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, options) = ops.state;
        let x = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(x);
        let weight = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(weight);
        if let Some(node) = node_x {
            let grad = B::convolve_x_backward(x.clone(), weight.clone(), grad.clone(), options.clone());
            grads.register::<B>(node.id, grad);
        }
        if let Some(node) = node_weight {
            grads.register::<B>(node.id, B::convolve_weight_backward(x, weight, grad, options));
        }
    }
}

/// State: both inputs and the weight, and the options.
#[derive(Debug)]
struct ConvolveJoined;

impl<B: Backend + Conv2dOps> Backward<B, 3> for ConvolveJoined {
    type State = ([NodeId; 3], ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_more, node_weight] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (nodes, options) = ops.state;
        let [x, more, weight] = nodes.map(|node| checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(node));
        // Each input has its share of the weight.
        let channels = [&x, &more].map(|tensor| tensor.shape()[1]);
        let ends = [0, channels[0], channels[0] + channels[1]];
        let mut weights = Vec::with_capacity(2);
        for (index, (x, node)) in [x, more].into_iter().zip([node_x, node_more]).enumerate() {
            let [out, _, height, width] = weight.shape().dims();
            let slices = [0..out, ends[index]..ends[index + 1], 0..height, 0..width].map(Slice::from);
            let weight = B::float_slice(weight.clone(), &slices);
            if node_weight.is_some() {
                let grad = B::convolve_weight_backward(x.clone(), weight.clone(), grad.clone(), options.clone());
                weights.push(grad);
            }
            if let Some(node) = node {
                grads.register::<B>(node.id, B::convolve_x_backward(x, weight, grad.clone(), options.clone()));
            }
        }
        if let Some(node) = node_weight {
            grads.register::<B>(node.id, B::float_cat(weights, 1));
        }
    }
}
