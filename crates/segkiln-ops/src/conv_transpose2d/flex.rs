//! The transposed convolution is the gradient of a convolution's input, and its gradients are that convolution and its
//! weight's gradient, with input and output exchanged.

use burn::{
    backend::{Flex, flex::FlexTensor, ops::ModuleOps, tensor::FloatTensor},
    tensor::ops::ConvTransposeOptions,
};
use pulp::{Simd, WithSimd};

use super::ConvTranspose2dOps;
use crate::{
    conv2d::flex::{Epilogue, Geometry, forward, input_gradient, reach, weight_gradient},
    cpu::{
        memory::{all_f32, contiguous, tensor, values},
        simd::{self, total},
        threads::map,
    },
};

impl ConvTranspose2dOps for Flex {
    fn convolve_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvTransposeOptions<2>,
    ) -> FloatTensor<Self> {
        match convolution(&x, &weight, &options) {
            Some(geometry) if all_f32(&[&x, &weight, &bias]) => {
                let bias = bias.to_contiguous();
                let shift = values(&bias);
                let scale = vec![1.0; shift.len()];
                let epilogue = Epilogue { scale: &scale, shift, range: Epilogue::UNBOUNDED };
                input_gradient(&geometry, weight, x, Some(epilogue))
            }
            _ => <Flex as ModuleOps<Flex>>::conv_transpose2d(x, weight, Some(bias), options),
        }
    }

    fn convolve_transposed_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvTransposeOptions<2>,
    ) -> FloatTensor<Self> {
        match convolution(&x, &weight, &options) {
            Some(geometry) if all_f32(&[&weight, &grad]) => forward(&geometry, grad, weight, None),
            _ => <Flex as ModuleOps<Flex>>::conv_transpose2d_x_backward(weight, grad, options),
        }
    }

    fn convolve_transposed_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvTransposeOptions<2>,
    ) -> FloatTensor<Self> {
        match convolution(&x, &weight, &options) {
            Some(geometry) if all_f32(&[&x, &grad]) => weight_gradient(&geometry, grad, x),
            _ => <Flex as ModuleOps<Flex>>::conv_transpose2d_weight_backward(x, weight, grad, options),
        }
    }

    fn convolve_transposed_bias_backward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !all_f32(&[&grad]) {
            return <Flex as ModuleOps<Flex>>::conv_transpose2d_bias_backward(x, bias, grad);
        }
        let grad = contiguous(grad);
        let [batch, channels, height, width] = grad.layout().shape().dims();
        let (grad, size, arch) = (values(&grad), height * width, simd::arch());
        let sums = map(channels, |channel| {
            let planes = (0..batch).map(|image| &grad[(image * channels + channel) * size..][..size]);
            planes.map(|plane| arch.dispatch(Total(plane))).sum::<f64>() as f32
        });
        tensor(sums, [channels])
    }
}

/// Returns the convolution from the output's size to that of `x`; `None` if there are no values.
fn convolution(x: &FlexTensor, weight: &FlexTensor, options: &ConvTransposeOptions<2>) -> Option<Geometry> {
    let (x, weight): ([usize; 4], [usize; 4]) = (x.layout().shape().dims(), weight.layout().shape().dims());
    if x.contains(&0) || weight.contains(&0) {
        return None;
    }
    assert_eq!(x[1], weight[0], "channels of input {x:?} and weight {weight:?}");
    let ConvTransposeOptions { stride, padding, padding_out, dilation, groups } = *options;
    let side = |axis: usize| {
        let spread = (x[2 + axis] - 1).checked_mul(stride[axis])?;
        let whole = spread.checked_add(reach(weight[2 + axis], dilation[axis])?)?.checked_add(padding_out[axis])?;
        whole.checked_sub(padding[axis].checked_mul(2)?).filter(|side| *side > 0)
    };
    let (Some(height), Some(width), Some(channels)) = (side(0), side(1), weight[1].checked_mul(groups)) else {
        panic!("input {x:?} and weight {weight:?} leave no output with {options:?}");
    };
    let large = [x[0], channels, height, width];
    Some(Geometry::new(large, weight, [x[2], x[3]], stride, padding, dilation, groups))
}

/// Sums a plane.
struct Total<'a>(&'a [f32]);

impl WithSimd for Total<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let mut sum = 0.0;
        for chunk in self.0.chunks(4096) {
            sum += f64::from(total(simd, chunk));
        }
        sum
    }
}
