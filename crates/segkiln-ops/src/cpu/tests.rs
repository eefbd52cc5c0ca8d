//! Tensors that do not fit together, or whose memory is smaller than their shape says, are refused: kernels rely on it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::{
    backend::{
        Flex,
        flex::{FlexTensor, Layout},
    },
    tensor::{Bytes, DType, Shape, ops::ConvOptions, ops::ConvTransposeOptions},
};

use crate::{
    RoiAlignOptions,
    add_relu::AddReluOps,
    batch_norm::BatchNormOps,
    conv_transpose2d::ConvTranspose2dOps,
    conv2d::Conv2dOps,
    cpu::memory::tensor,
    gated::{Gate, GatedOps},
    max_pool2d::MaxPool2dOps,
    resize::{ResizeMode, ResizeOps},
    roi_align::RoiAlignOps,
};

fn zeros<const D: usize>(shape: [usize; D]) -> FlexTensor {
    tensor(vec![0.0; shape.iter().product()], shape)
}

/// A tensor whose memory holds fewer values than its shape and strides say.
fn short<const D: usize>(shape: [usize; D], strides: [isize; D]) -> FlexTensor {
    let layout = Layout::new(Shape::new(shape), strides.to_vec(), 0);
    FlexTensor::new(Bytes::from_elems(vec![0.0f32; 3]), layout, DType::F32)
}

fn options() -> ConvOptions<2> {
    ConvOptions::new([1, 1], [1, 1], [1, 1], 1)
}

fn assert_refused(name: &str, f: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "{name} was computed");
}

#[test]
fn gradients_of_other_shapes_are_refused() {
    let (x, weight, grad) = (zeros([1, 8, 9, 9]), zeros([8, 8, 3, 3]), zeros([1, 8, 9, 8]));
    assert_refused("input gradient", || {
        _ = Flex::convolve_x_backward(x.clone(), weight.clone(), grad.clone(), options())
    });
    assert_refused("weight gradient", || {
        _ = Flex::convolve_weight_backward(x.clone(), weight.clone(), grad.clone(), options());
    });
    let transposed = ConvTransposeOptions::new([1, 1], [1, 1], [0, 0], [1, 1], 1);
    assert_refused("transposed input gradient", || {
        _ = Flex::convolve_transposed_x_backward(x.clone(), weight.clone(), grad.clone(), transposed.clone());
    });
    assert_refused("transposed weight gradient", || {
        _ = Flex::convolve_transposed_weight_backward(x.clone(), weight.clone(), grad.clone(), transposed.clone());
    });
    let channels = zeros([8]);
    assert_refused("batch norm", || {
        let [gamma, beta, mean, variance] = [(); 4].map(|()| channels.clone());
        _ = Flex::normalize_backward(x.clone(), gamma, beta, mean, variance, grad.clone(), 1e-5, true);
    });
    assert_refused("max pooling", || _ = Flex::max_pool_2x2_backward(x.clone(), zeros([1, 8, 4, 3])));
    assert_refused("ReLU", || _ = Flex::add_relu_backward(x.clone(), grad.clone()));
    assert_refused("SiLU", || _ = Flex::gated_backward(x.clone(), grad.clone(), Gate::Silu));
    let options = RoiAlignOptions { size: [2, 2], scale: 1.0, sampling_ratio: None, aligned: true };
    assert_refused("RoIAlign", || {
        _ = Flex::roi_align_backward(zeros([1, 8, 2, 1]), zeros([1, 5]), [1, 8, 9, 9], options);
    });
}

#[test]
#[cfg_attr(miri, ignore)]
fn tensors_with_too_little_memory_are_refused() {
    for strides in [[648, 81, 9, 1], [648, 1, 72, 8], [648, 81, 1, 9]] {
        let x = || short([1, 8, 9, 9], strides);
        let channels = || zeros([8]);
        assert_refused("convolution", || _ = Flex::convolve(x(), zeros([8, 8, 3, 3]), options()));
        assert_refused("weight", || {
            _ = Flex::convolve(zeros([1, 8, 9, 9]), short([8, 8, 3, 3], [72, 9, 3, 1]), options());
        });
        assert_refused("scale", || {
            let (x, weight) = (zeros([1, 8, 9, 9]), zeros([8, 8, 3, 3]));
            _ = Flex::convolve_affine(x, weight, short([8], [1]), channels(), None, options());
        });
        assert_refused("batch norm", || _ = Flex::normalize(x(), channels(), channels(), 1e-5, true));
        assert_refused("max pooling", || _ = Flex::max_pool_2x2(x()));
        assert_refused("sum", || _ = Flex::add_relu(x(), zeros([1, 8, 9, 9])));
        assert_refused("SiLU", || _ = Flex::gated(x(), Gate::Silu));
        assert_refused("resizing", || _ = Flex::resize(x(), [5, 7], ResizeMode::default()));
        let options = RoiAlignOptions { size: [2, 2], scale: 1.0, sampling_ratio: None, aligned: true };
        let rois = tensor(vec![0.0, 0.0, 0.0, 9.0, 9.0], [1, 5]);
        assert_refused("RoIAlign", || _ = Flex::roi_align(x(), rois.clone(), options));
    }
}
