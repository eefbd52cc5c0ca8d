use burn::backend::{
    Autodiff, Backend, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind, unary},
    },
    tensor::FloatTensor,
};

use super::{ResizeMode, ResizeOps};

impl<B: Backend + ResizeOps, C: CheckpointStrategy> ResizeOps for Autodiff<B, C> {
    fn resize(x: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self> {
        let [_, _, height, width] = x.shape().dims();
        let (primitive, node) = x.into_parts();
        let output = B::resize(primitive, size, mode);
        match Resize.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([height, width], mode), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn resize_backward(grad: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self> {
        let [_, _, height, width] = grad.shape().dims();
        let (primitive, node) = grad.into_parts();
        let output = B::resize_backward(primitive, size, mode);
        match ResizeBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([height, width], mode), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

/// State: the input's height and width, and the mode. Resizing is linear, so nothing else is kept.
#[derive(Debug)]
struct Resize;

impl<B: Backend + ResizeOps> Backward<B, 1> for Resize {
    type State = ([usize; 2], ResizeMode);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (size, mode) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |grad| B::resize_backward(grad, size, mode));
    }
}

/// The adjoint's adjoint is the operator itself.
#[derive(Debug)]
struct ResizeBackward;

impl<B: Backend + ResizeOps> Backward<B, 1> for ResizeBackward {
    type State = ([usize; 2], ResizeMode);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (size, mode) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |grad| B::resize(grad, size, mode));
    }
}
