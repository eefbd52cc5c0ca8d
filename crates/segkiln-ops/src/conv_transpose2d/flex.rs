//! The transposed convolution is the gradient of a convolution's input, and its gradients are that convolution and its
//! weight's gradient, with input and output exchanged.

use burn::{
    backend::{Flex, flex::FlexTensor, ops::ModuleOps, tensor::FloatTensor},
    tensor::ops::ConvTransposeOptions,
};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::ConvTranspose2dOps;
use crate::{
    conv2d::flex::{Epilogue, Geometry, forward, input_gradient, weight_gradient},
    cpu::{
        memory::{all_f32, contiguous, tensor},
        simd::{self, total},
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
                let shift = bias.storage();
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
            Some(geometry) if all_f32(&[&weight, &grad]) => forward(&geometry, contiguous(grad), weight, None),
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
            Some(geometry) if all_f32(&[&x, &grad]) => weight_gradient(&geometry, contiguous(grad), x),
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
        let (grad, size, arch): (&[f32], _, _) = (grad.storage(), height * width, simd::arch());
        let sums = (0..channels).into_par_iter().map(|channel| {
            let planes = (0..batch).map(|image| &grad[(image * channels + channel) * size..][..size]);
            planes.map(|plane| arch.dispatch(Total(plane))).sum::<f64>() as f32
        });
        tensor(sums.collect(), [channels])
    }
}

/// The convolution from the output's size to that of `x`.
fn convolution(x: &FlexTensor, weight: &FlexTensor, options: &ConvTransposeOptions<2>) -> Option<Geometry> {
    let [batch, channels, height, width] = x.layout().shape().dims();
    let weight: [usize; 4] = weight.layout().shape().dims();
    assert_eq!(channels, weight[0], "input channels and weight's");
    let side = |axis: usize, size: usize| {
        let reach = options.dilation[axis] * weight[2 + axis].checked_sub(1)? + 1;
        let padded = size.checked_sub(1)? * options.stride[axis] + reach + options.padding_out[axis];
        padded.checked_sub(2 * options.padding[axis])
    };
    let large = [batch, weight[1] * options.groups, side(0, height)?, side(1, width)?];
    let ConvTransposeOptions { stride, padding, dilation, groups, .. } = *options;
    Geometry::new(large, weight, [height, width], stride, padding, dilation, groups)
}

/// The sum of a plane.
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
