use burn::{
    backend::{
        Autodiff, Backend, TensorMetadata,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        get_device_settings,
        ops::FloatTensorOps,
        tensor::FloatTensor,
    },
    tensor::{Shape, Slice, ops::ConvOptions},
};

use super::{Conv2dOps, affine};
use crate::add_relu::AddReluOps;

impl<B: Backend + Conv2dOps + AddReluOps, C: CheckpointStrategy> Conv2dOps for Autodiff<B, C> {
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

    fn convolve_affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        range: Option<[f32; 2]>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        // The fused operator is differentiated for its input only, as explanations and attacks ask for.
        if [&weight, &scale, &shift].iter().any(|constant| constant.is_tracked()) {
            return affine::<Self>(Self::convolve(x, weight, options), scale, shift, range);
        }
        let [weight, scale, shift] = [weight, scale, shift].map(|constant| constant.into_primitive());
        match ConvolveAffine.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let node = prep.checkpoint(&x);
                let factors = scaled::<B>(weight.clone(), scale.clone());
                let output = B::convolve_affine(x.into_primitive(), weight, scale, shift, range, options.clone());
                prep.finish((node, factors, output.clone(), range, options), output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::convolve_affine(x.into_primitive(), weight, scale, shift, range, options))
            }
        }
    }

    fn convolve_joined_affine(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        range: Option<[f32; 2]>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let is_learned = [&weight, &scale, &shift].iter().any(|constant| constant.is_tracked());
        if !B::JOINS || options.groups != 1 || is_learned {
            return Self::convolve_affine(Self::float_cat(vec![x, more], 1), weight, scale, shift, range, options);
        }
        let [weight, scale, shift] = [weight, scale, shift].map(|constant| constant.into_primitive());
        match ConvolveJoinedAffine.prepare::<C>([x.node(), more.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&x, &more].map(|tensor| prep.checkpoint(tensor));
                let factors = scaled::<B>(weight.clone(), scale.clone());
                let [x, more] = [x, more].map(|tensor| tensor.into_primitive());
                let output = B::convolve_joined_affine(x, more, weight, scale, shift, range, options.clone());
                prep.finish((nodes, factors, output.clone(), range, options), output)
            }
            OpsKind::UnTracked(prep) => {
                let [x, more] = [x, more].map(|tensor| tensor.into_primitive());
                prep.finish(B::convolve_joined_affine(x, more, weight, scale, shift, range, options))
            }
        }
    }

    fn convolve_bf16(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        if !(B::FITS_BF16)(x.shape().dims(), weight.shape().dims(), &options) {
            return Self::convolve(x, weight, options);
        }
        let guards = [x.node(), weight.node()];
        match ConvolveBf16.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let weight_node = prep.checkpoint(&weight);
                let x = B::bf16_factors(x.into_primitive());
                let output = B::convolve_bf16(x.clone(), weight.into_primitive(), options.clone());
                prep.finish(([x], weight_node, options), output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::convolve_bf16(x.into_primitive(), weight.into_primitive(), options))
            }
        }
    }

    fn convolve_joined_bf16(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let [channels_out, _, rows, columns] = weight.shape().dims();
        let fits = |x: &FloatTensor<Self>| {
            let shape: [usize; 4] = x.shape().dims();
            (B::FITS_BF16)(shape, [channels_out, shape[1], rows, columns], &options)
        };
        if !fits(&x) || !fits(&more) {
            return Self::convolve_joined(x, more, weight, options);
        }
        let guards = [x.node(), more.node(), weight.node()];
        match ConvolveBf16.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let weight_node = prep.checkpoint(&weight);
                let [x, more] = [x, more].map(|x| B::bf16_factors(x.into_primitive()));
                let weight = weight.into_primitive();
                let output = B::convolve_joined_bf16(x.clone(), more.clone(), weight, options.clone());
                prep.finish(([x, more], weight_node, options), output)
            }
            OpsKind::UnTracked(prep) => {
                let (x, more) = (x.into_primitive(), more.into_primitive());
                prep.finish(B::convolve_joined_bf16(x, more, weight.into_primitive(), options))
            }
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
        let mut weights = Vec::with_capacity(2);
        let shares = shares::<B>(&weight, [&x, &more]);
        for ((x, weight), node) in [x, more].into_iter().zip(shares).zip([node_x, node_more]) {
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

/// Each input's share of the weight.
fn shares<B: Backend>(weight: &FloatTensor<B>, inputs: [&FloatTensor<B>; 2]) -> [FloatTensor<B>; 2] {
    let [out, all, height, width] = weight.shape().dims();
    let first = inputs[0].shape()[1];
    [0..first, first..all]
        .map(|channels| B::float_slice(weight.clone(), &[0..out, channels, 0..height, 0..width].map(Slice::from)))
}

/// State: the inputs, one or two, as they were multiplied, the weight, and the options.
#[derive(Debug)]
struct ConvolveBf16;

impl<B: Backend + Conv2dOps> Backward<B, 2> for ConvolveBf16 {
    type State = ([B::FloatTensorPrimitive; 1], NodeId, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_weight] = ops.parents;
        let grad = B::bf16_factors(grads.consume::<B>(&ops.node));
        let ([x], weight, options) = ops.state;
        let weight = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(weight);
        if let Some(node) = node_x {
            let grad = B::convolve_bf16_x_backward(x.clone(), weight.clone(), grad.clone(), options.clone());
            grads.register::<B>(node.id, grad);
        }
        if let Some(node) = node_weight {
            grads.register::<B>(node.id, B::convolve_bf16_weight_backward(x, weight, grad, options));
        }
    }
}

impl<B: Backend + Conv2dOps> Backward<B, 3> for ConvolveBf16 {
    type State = ([B::FloatTensorPrimitive; 2], NodeId, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_more, node_weight] = ops.parents;
        let grad = B::bf16_factors(grads.consume::<B>(&ops.node));
        let ([x, more], weight, options) = ops.state;
        let weight = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(weight);
        let mut weights = Vec::with_capacity(2);
        let shares = shares::<B>(&weight, [&x, &more]);
        for ((x, weight), node) in [x, more].into_iter().zip(shares).zip([node_x, node_more]) {
            if let Some(node) = node {
                let (x, grad) = (x.clone(), grad.clone());
                grads.register::<B>(node.id, B::convolve_bf16_x_backward(x, weight.clone(), grad, options.clone()));
            }
            if node_weight.is_some() {
                weights.push(B::convolve_bf16_weight_backward(x, weight, grad.clone(), options.clone()));
            }
        }
        if let Some(node) = node_weight {
            grads.register::<B>(node.id, B::float_cat(weights, 1));
        }
    }
}

/// The weight times the scale of each output channel: with it the scale costs the gradient nothing.
fn scaled<B: Backend>(weight: FloatTensor<B>, scale: FloatTensor<B>) -> FloatTensor<B> {
    let channels = scale.shape()[0];
    B::float_mul(weight, B::float_reshape(scale, Shape::new([channels, 1, 1, 1])))
}

/// The gradient before a clamp: none at its bounds, as PyTorch's of ReLU and ReLU6.
fn before_clamp<B: Backend + AddReluOps>(
    output: FloatTensor<B>,
    range: Option<[f32; 2]>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    match range {
        None => grad,
        Some([0.0, f32::INFINITY]) => B::add_relu_backward(output, grad),
        Some([low, high]) => {
            let dtype = get_device_settings::<B>(&output.device()).bool_dtype;
            let below = B::float_lower_equal_elem(output.clone(), low.into(), dtype);
            let above = B::float_greater_equal_elem(output, high.into(), dtype);
            B::float_mask_fill(grad, B::bool_or(below, above), 0f32.into())
        }
    }
}

/// State: the input, the scaled weight, the output and the options.
#[derive(Debug)]
struct ConvolveAffine;

impl<B: Backend + Conv2dOps + AddReluOps> Backward<B, 1> for ConvolveAffine {
    type State = (NodeId, FloatTensor<B>, FloatTensor<B>, Option<[f32; 2]>, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, output, range, options) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        if let Some(node) = node {
            let grad = before_clamp::<B>(output, range, grad);
            grads.register::<B>(node.id, B::convolve_x_backward(x, weight, grad, options));
        }
    }
}

/// State: both inputs, the scaled weight, the output and the options.
#[derive(Debug)]
struct ConvolveJoinedAffine;

impl<B: Backend + Conv2dOps + AddReluOps> Backward<B, 2> for ConvolveJoinedAffine {
    type State = ([NodeId; 2], FloatTensor<B>, FloatTensor<B>, Option<[f32; 2]>, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (nodes, weight, output, range, options) = ops.state;
        let grad = before_clamp::<B>(output, range, grad);
        let inputs = nodes.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let shares = shares::<B>(&weight, [&inputs[0], &inputs[1]]);
        for ((x, weight), node) in inputs.into_iter().zip(shares).zip(ops.parents) {
            if let Some(node) = node {
                grads.register::<B>(node.id, B::convolve_x_backward(x, weight, grad.clone(), options.clone()));
            }
        }
    }
}
