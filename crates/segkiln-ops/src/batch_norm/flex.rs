//! A channel is a task: it is read for its statistics, and again to be normalized while it is in the cache.

use burn::backend::{Flex, tensor::FloatTensor};
use pulp::{Simd, WithSimd};

use super::{BatchNormOps, backward};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    memory::{Memory, all_f32, contiguous, tensor, values, written},
    simd::{self, Lanes, at_least, total},
    threads::map,
};

/// Values that are added up in f32 before they go into an f64 sum.
const CHUNK: usize = 4096;

impl BatchNormOps for Flex {
    fn normalize(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&x, &gamma, &beta]) {
            let result = <Flex as burn::backend::ops::ModuleOps<Flex>>::batch_norm_train(x, gamma, beta, epsilon);
            let output = match relu {
                true => <Flex as burn::backend::ops::ActivationOps<Flex>>::relu(result.output),
                false => result.output,
            };
            return (output, result.mean, result.variance);
        }
        let (x, gamma, beta) = (x.to_contiguous(), gamma.to_contiguous(), beta.to_contiguous());
        let shape: [usize; 4] = x.layout().shape().dims();
        let planes = Planes::new(shape);
        let (x, gamma, beta) = (values(&x), values(&gamma), values(&beta));
        let arch = simd::arch();
        let mut statistics: Vec<[f32; 2]> = Vec::new();
        // SAFETY: the tasks write all channels.
        let output = unsafe {
            written(shape, Memory::Allocated, |target| {
                let target = Disjoint::new(target);
                statistics = map(planes.channels, |channel| {
                    let (gamma, beta) = (gamma[channel], beta[channel]);
                    // Each task has its channel.
                    let target = target.part();
                    arch.dispatch(Normalize { planes, channel, x, gamma, beta, epsilon, relu, target })
                });
            })
        };
        let [mean, variance] = [0, 1].map(|i| statistics.iter().map(|both| both[i]).collect());
        (output, tensor(mean, [planes.channels]), tensor(variance, [planes.channels]))
    }

    fn normalize_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !all_f32(&[&x, &gamma, &beta, &mean, &variance, &grad]) {
            return backward::<Flex>(x, gamma, beta, mean, variance, grad, epsilon, relu);
        }
        let shape: [usize; 4] = x.layout().shape().dims();
        let planes = Planes::new(shape);
        let [x, grad, gamma, beta, mean, variance] = [x, grad, gamma, beta, mean, variance].map(contiguous);
        assert_eq!(grad.layout().shape().dims::<4>(), shape, "the gradient's shape is not the output's");
        let [x, grad, gamma, beta, mean, variance] = [&x, &grad, &gamma, &beta, &mean, &variance].map(values);
        let arch = simd::arch();
        let mut gradients: Vec<[f32; 2]> = Vec::new();
        // SAFETY: the tasks write all channels.
        let output = unsafe {
            written(shape, Memory::Allocated, |target| {
                let target = Disjoint::new(target);
                gradients = map(planes.channels, |channel| {
                    let inverse = f64::from(variance[channel]) + epsilon;
                    arch.dispatch(NormalizeBackward {
                        planes,
                        channel,
                        x,
                        grad,
                        gamma: gamma[channel],
                        beta: beta[channel],
                        mean: mean[channel],
                        inverse: inverse.sqrt().recip() as f32,
                        relu,
                        // Each task has its channel.
                        target: target.part(),
                    })
                });
            })
        };
        let [gamma, beta] = [0, 1].map(|i| gradients.iter().map(|both| both[i]).collect());
        (output, tensor(gamma, [planes.channels]), tensor(beta, [planes.channels]))
    }
}

/// Layout of a tensor's channels.
#[derive(Clone, Copy)]
struct Planes {
    batch: usize,
    channels: usize,
    /// Pixels of an image.
    size: usize,
}

impl Planes {
    fn new([batch, channels, height, width]: [usize; 4]) -> Self {
        Self { batch, channels, size: height * width }
    }

    /// Returns the offset of a channel of an image.
    fn start(&self, image: usize, channel: usize) -> usize {
        (image * self.channels + channel) * self.size
    }

    /// Returns the number of values of a channel.
    fn count(&self) -> f64 {
        (self.batch * self.size) as f64
    }
}

/// Output and statistics of one channel.
struct Normalize<'a> {
    planes: Planes,
    channel: usize,
    x: &'a [f32],
    gamma: f32,
    beta: f32,
    epsilon: f64,
    relu: bool,
    target: Part<'a>,
}

impl WithSimd for Normalize<'_> {
    /// Mean and variance.
    type Output = [f32; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f32; 2] {
        let Self { planes, channel, x, gamma, beta, epsilon, relu, target } = self;
        let mut sum = 0.0;
        for image in 0..planes.batch {
            for chunk in x[planes.start(image, channel)..][..planes.size].chunks(CHUNK) {
                sum += f64::from(total(simd, chunk));
            }
        }
        let mean = (sum / planes.count()) as f32;
        let mut squares = 0.0;
        for image in 0..planes.batch {
            for chunk in x[planes.start(image, channel)..][..planes.size].chunks(CHUNK) {
                squares += f64::from(total_squares(simd, chunk, mean));
            }
        }
        let variance = squares / planes.count();
        let scale = gamma * (variance + epsilon).sqrt().recip() as f32;
        for image in 0..planes.batch {
            let start = planes.start(image, channel);
            let target = target.at(start, planes.size);
            // SAFETY: the target has a plane's values.
            unsafe { rescale(simd, &x[start..][..planes.size], [scale, mean, beta], relu, target) };
        }
        [mean, variance as f32]
    }
}

/// Returns the sum of the squared differences from `mean`.
#[inline(always)]
fn total_squares<S: Simd>(simd: S, values: &[f32], mean: f32) -> f32 {
    let (registers, rest) = S::as_simd_f32s(values);
    let mean_register = simd.splat_f32s(mean);
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (fours, ones) = registers.as_chunks::<4>();
    for four in fours {
        for (sum, value) in sums.iter_mut().zip(four) {
            let value = simd.sub_f32s(*value, mean_register);
            *sum = simd.mul_add_e_f32s(value, value, *sum);
        }
    }
    for value in ones {
        let value = simd.sub_f32s(*value, mean_register);
        sums[0] = simd.mul_add_e_f32s(value, value, sums[0]);
    }
    let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    let mut total = simd.reduce_sum_f32s(sum);
    for value in rest {
        total += (value - mean) * (value - mean);
    }
    total
}

/// Writes `(x − mean) · scale + shift`, with `relu` its positive part.
///
/// # Safety
/// `target` has room for as many values as `x` has.
#[inline(always)]
unsafe fn rescale<S: Simd>(simd: S, x: &[f32], [scale, mean, shift]: [f32; 3], relu: bool, target: *mut f32) {
    let (registers, rest) = S::as_simd_f32s(x);
    let low = if relu { 0.0 } else { f32::NEG_INFINITY };
    let [scales, means, shifts, lows] = [scale, mean, shift, low].map(|value| simd.splat_f32s(value));
    for (index, value) in registers.iter().enumerate() {
        let value = simd.mul_add_e_f32s(simd.sub_f32s(*value, means), scales, shifts);
        // SAFETY: the caller's promise.
        unsafe { Lanes(simd, value).max(Lanes(simd, lows)).store(target.add(index * S::F32_LANES)) };
    }
    for (index, value) in rest.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            target.add(registers.len() * S::F32_LANES + index).write(at_least((value - mean) * scale + shift, low))
        };
    }
}

/// The gradient of one channel of the input, and of its gamma and beta.
struct NormalizeBackward<'a> {
    planes: Planes,
    channel: usize,
    x: &'a [f32],
    grad: &'a [f32],
    gamma: f32,
    beta: f32,
    mean: f32,
    /// 1 / √(variance + ε)
    inverse: f32,
    relu: bool,
    target: Part<'a>,
}

impl WithSimd for NormalizeBackward<'_> {
    /// The gradients of gamma and beta.
    type Output = [f32; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f32; 2] {
        let Self { planes, channel, x, grad, gamma, beta, mean, inverse, relu, target } = self;
        // The output is (x − mean) · scale + beta.
        let scale = gamma * inverse;
        let affine = [scale, mean, beta];
        let mut sums = [0.0f64; 2];
        for image in 0..planes.batch {
            let range = planes.start(image, channel)..planes.start(image, channel) + planes.size;
            for (x, grad) in x[range.clone()].chunks(CHUNK).zip(grad[range].chunks(CHUNK)) {
                let both = gradient_totals(simd, x, grad, affine, relu);
                sums[0] += f64::from(both[0]);
                sums[1] += f64::from(both[1]);
            }
        }
        // With centered x: dx = scale · (dy − mean(dy) − x̂ · mean(dy · x̂)), x̂ = x · inverse.
        let mean_grad = (sums[0] / planes.count()) as f32;
        let slope = (sums[1] / planes.count() * f64::from(inverse) * f64::from(inverse)) as f32;
        for image in 0..planes.batch {
            let start = planes.start(image, channel);
            let (x, grad) = (&x[start..][..planes.size], &grad[start..][..planes.size]);
            let target = target.at(start, planes.size);
            // SAFETY: the target has a plane's values, as many as `x` and `grad`.
            unsafe { gradient(simd, x, grad, affine, [mean_grad, slope], relu, target) };
        }
        [(sums[1] * f64::from(inverse)) as f32, sums[0] as f32]
    }
}

/// Returns the sums of the gradient and of its products with the centered input; with `relu` where the output is positive.
#[inline(always)]
fn gradient_totals<S: Simd>(simd: S, x: &[f32], grad: &[f32], [scale, mean, shift]: [f32; 3], relu: bool) -> [f32; 2] {
    let ((x, x_rest), (grad, grad_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(grad));
    let [scales, means, shifts, zero] = [scale, mean, shift, 0.0].map(|value| simd.splat_f32s(value));
    let mut sums = [[zero; 2]; 2];
    for (index, (x, grad)) in x.iter().zip(grad).enumerate() {
        let x = simd.sub_f32s(*x, means);
        let grad = match relu {
            true => {
                let cut = simd.less_than_or_equal_f32s(simd.mul_add_e_f32s(x, scales, shifts), zero);
                simd.select_f32s(cut, zero, *grad)
            }
            false => *grad,
        };
        let sums = &mut sums[index % 2];
        sums[0] = simd.add_f32s(sums[0], grad);
        sums[1] = simd.mul_add_e_f32s(grad, x, sums[1]);
    }
    let mut totals = [0, 1].map(|i| simd.reduce_sum_f32s(simd.add_f32s(sums[0][i], sums[1][i])));
    for (x, grad) in x_rest.iter().zip(grad_rest) {
        let x = x - mean;
        let grad = if relu && x * scale + shift <= 0.0 { 0.0 } else { *grad };
        totals[0] += grad;
        totals[1] += grad * x;
    }
    totals
}

/// Writes the gradient of the input.
///
/// # Safety
/// `grad` has as many values as `x`, and `target` room for them.
#[inline(always)]
unsafe fn gradient<S: Simd>(
    simd: S,
    x: &[f32],
    grad: &[f32],
    [scale, mean, shift]: [f32; 3],
    [mean_grad, slope]: [f32; 2],
    relu: bool,
    target: *mut f32,
) {
    let ((x, x_rest), (grad, grad_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(grad));
    let [scales, means, shifts, zero] = [scale, mean, shift, 0.0].map(|value| simd.splat_f32s(value));
    let [mean_grads, slopes] = [mean_grad, slope].map(|value| simd.splat_f32s(value));
    for (index, (x, grad)) in x.iter().zip(grad).enumerate() {
        let x = simd.sub_f32s(*x, means);
        let grad = match relu {
            true => {
                let cut = simd.less_than_or_equal_f32s(simd.mul_add_e_f32s(x, scales, shifts), zero);
                simd.select_f32s(cut, zero, *grad)
            }
            false => *grad,
        };
        let centered = simd.sub_f32s(simd.sub_f32s(grad, mean_grads), simd.mul_f32s(x, slopes));
        // SAFETY: the caller's promise.
        unsafe { Lanes(simd, simd.mul_f32s(centered, scales)).store(target.add(index * S::F32_LANES)) };
    }
    for (index, (x_value, grad)) in x_rest.iter().zip(grad_rest).enumerate() {
        let x_value = x_value - mean;
        let grad = if relu && x_value * scale + shift <= 0.0 { 0.0 } else { *grad };
        let value = (grad - mean_grad - x_value * slope) * scale;
        // SAFETY: the caller's promise.
        unsafe { target.add(x.len() * S::F32_LANES + index).write(value) };
    }
}
