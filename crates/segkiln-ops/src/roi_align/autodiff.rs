use burn::backend::{
    Autodiff, Backend, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind, unary},
    },
    tensor::FloatTensor,
};

use super::{RoiAlignOps, RoiAlignOptions};

impl<B: Backend + RoiAlignOps, C: CheckpointStrategy> RoiAlignOps for Autodiff<B, C> {
    fn roi_align(x: FloatTensor<Self>, rois: FloatTensor<Self>, options: RoiAlignOptions) -> FloatTensor<Self> {
        let shape = x.shape().dims();
        let (primitive, node) = x.into_parts();
        let rois = rois.into_primitive();
        let output = B::roi_align(primitive, rois.clone(), options);
        match RoiAlign.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((rois, shape, options), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn roi_align_backward(
        grad: FloatTensor<Self>,
        rois: FloatTensor<Self>,
        shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        let (primitive, node) = grad.into_parts();
        let rois = rois.into_primitive();
        let output = B::roi_align_backward(primitive, rois.clone(), shape, options);
        match RoiAlignBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((rois, options), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

/// State: the regions, the input's shape, and the options. Pooling is linear in the input, so that is not kept.
#[derive(Debug)]
struct RoiAlign;

impl<B: Backend + RoiAlignOps> Backward<B, 1> for RoiAlign {
    type State = (FloatTensor<B>, [usize; 4], RoiAlignOptions);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (rois, shape, options) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |grad| B::roi_align_backward(grad, rois, shape, options));
    }
}

/// The adjoint's adjoint is the operator itself.
#[derive(Debug)]
struct RoiAlignBackward;

impl<B: Backend + RoiAlignOps> Backward<B, 1> for RoiAlignBackward {
    type State = (FloatTensor<B>, RoiAlignOptions);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (rois, options) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |grad| B::roi_align(grad, rois, options));
    }
}
