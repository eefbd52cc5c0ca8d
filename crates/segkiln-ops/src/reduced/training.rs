//! A convolution and its gradients whose factors are bf16, for training: the weight changes with each step, so nothing is kept
//! packed. Sums, outputs and gradients are f32.

use burn::{
    backend::flex::FlexTensor,
    tensor::{bf16, ops::ConvOptions},
};

use super::{
    activations::{Dims, Format, reduced},
    convolution::{Epilogue, Inputs, Layer, rounded},
    correlation,
    direct::{self, Direct},
    product::Bf16,
    taps::Pixels,
    unit::{LANES, UnitKind},
    winograd::{self, Taps},
};
use crate::cpu::memory::{Memory, tensor, values};

/// Whether [`forward`] can compute a layer, and is faster than f32: there are dot products of bf16, all channels are a multiple
/// of 16, and there are no groups.
pub(crate) fn fits(x: [usize; 4], weight: [usize; 4], options: &ConvOptions<2>) -> bool {
    UnitKind::fastest().is_some() && has_kernels(x, weight, options)
}

fn has_kernels(
    [batch, channels_in, height, width]: [usize; 4],
    [channels_out, group_in, rows, columns]: [usize; 4],
    options: &ConvOptions<2>,
) -> bool {
    let channels = [channels_in, channels_out];
    let reads = |axis: usize, size: usize, kernel: usize| {
        let (before, after) = options.padding[axis];
        kernel > 0
            && options.stride[axis] > 0
            && options.dilation[axis] > 0
            && size > 0
            && size + before + after > options.dilation[axis] * (kernel - 1)
    };
    options.groups == 1
        && group_in == channels_in
        && batch > 0
        && channels.iter().all(|channels| *channels > 0 && channels.is_multiple_of(LANES))
        && reads(0, height, rows)
        && reads(1, width, columns)
}

/// A tensor as [`forward`] and the gradients multiply it: bf16 with its channels last.
pub(crate) fn factors(x: FlexTensor) -> FlexTensor {
    reduced(fastest(), x, Memory::Allocated)
}

/// A tensor of [`factors`] as f32.
pub(crate) fn full(x: FlexTensor) -> FlexTensor {
    super::activations::full(fastest(), x, Memory::Pooled)
}

/// The unit, of which [`fits`] says that there is one.
fn fastest() -> UnitKind {
    UnitKind::fastest().unwrap_or(UnitKind::Portable)
}

/// Convolves the channels of one tensor or of two.
///
/// # Panics
/// If the shapes do not [fit](fits).
pub(crate) fn forward(x: &[FlexTensor], weight: FlexTensor, options: &ConvOptions<2>) -> FlexTensor {
    forward_on(fastest(), x, weight, options)
}

pub(super) fn forward_on(kind: UnitKind, x: &[FlexTensor], weight: FlexTensor, options: &ConvOptions<2>) -> FlexTensor {
    let weight = weight.to_contiguous();
    let [channels_out, channels_in, rows, columns] = weight.layout().shape().dims();
    let weight = values(&weight);
    let layer = Layer::plain(kind, [channels_in, channels_out], [rows, columns], options.clone());
    convolve(&layer, x, Taps::new(weight, channels_in), || weight.to_vec())
}

/// The gradient of an input of so many rows and columns; none where there are no kernels for it, with a stride and with more
/// padding than the kernel reaches.
///
/// # Panics
/// If the shapes do not [fit](fits).
pub(crate) fn input_gradient(
    size: [usize; 2],
    weight: FlexTensor,
    grad: FlexTensor,
    options: &ConvOptions<2>,
) -> Option<FlexTensor> {
    input_gradient_on(fastest(), size, weight, grad, options)
}

pub(super) fn input_gradient_on(
    kind: UnitKind,
    size: [usize; 2],
    weight: FlexTensor,
    grad: FlexTensor,
    options: &ConvOptions<2>,
) -> Option<FlexTensor> {
    let weight = weight.to_contiguous();
    let [channels_out, channels_in, rows, columns] = weight.layout().shape().dims();
    if options.stride != [1, 1] {
        return None;
    }
    // The gradient is convolved with the turned kernel; padding is what the kernel reaches beyond the input's padding.
    let [_, _, height, width] = grad.layout().shape().dims();
    let mut padding = [(0, 0); 2];
    for (axis, (kernel, given)) in [(rows, height), (columns, width)].into_iter().enumerate() {
        let reach = options.dilation[axis] * (kernel - 1);
        let before = reach.checked_sub(options.padding[axis].0)?;
        padding[axis] = (before, (size[axis] + reach).checked_sub(given + before)?);
    }
    let options = ConvOptions { padding, ..options.clone() };
    let weight = values(&weight);
    let layer = Layer::plain(kind, [channels_out, channels_in], [rows, columns], options);
    let turned = || {
        let taps = rows * columns;
        let mut turned = vec![0.0; weight.len()];
        for (index, kernel) in weight.chunks_exact(taps).enumerate() {
            let (out, input) = (index / channels_in, index % channels_in);
            let target = &mut turned[(input * channels_out + out) * taps..][..taps];
            target.copy_from_slice(kernel);
            target.reverse();
        }
        turned
    };
    Some(convolve(&layer, &[grad], Taps::new(weight, channels_in).turned(), turned))
}

/// The gradient of a weight with a kernel of these rows and columns.
///
/// # Panics
/// If the shapes do not [fit](fits).
pub(crate) fn weight_gradient(
    kernel: [usize; 2],
    x: FlexTensor,
    grad: FlexTensor,
    options: &ConvOptions<2>,
) -> FlexTensor {
    weight_gradient_on(fastest(), kernel, x, grad, options)
}

pub(super) fn weight_gradient_on(
    kind: UnitKind,
    kernel: [usize; 2],
    x: FlexTensor,
    grad: FlexTensor,
    options: &ConvOptions<2>,
) -> FlexTensor {
    let [x, grad] = [x, grad].map(|tensor| reduced(kind, tensor, Memory::Pooled));
    let [x_dims, grad_dims] = [&x, &grad].map(Dims::of);
    let [channels_in, channels_out] = [x_dims.channels, grad_dims.channels];
    let layer = Layer::plain(kind, [channels_in, channels_out], kernel, options.clone());
    assert!(has_kernels(x.layout().shape().dims(), layer.weight_shape(), options), "the layer fits");
    assert_eq!((grad_dims.batch, grad_dims.size), (x_dims.batch, layer.output(x_dims.size)), "shape of the gradient");
    let [x, grad] =
        [(&x, x_dims), (&grad, grad_dims)].map(|(tensor, dims)| Inputs::new(&[(dims, tensor.storage(), bf16::ZERO)]));
    let gradient = if layer.has_tiles() && winograd::pays(grad.size, options.dilation) {
        let tiles = winograd::Tiles::new(x, grad, layer.padding(), options.dilation);
        correlation::weight_gradient(kind, &tiles, 9)
    } else {
        correlation::weight_gradient(kind, &Pixels { x, grad, kernel, options }, kernel[0] * kernel[1])
    };
    tensor(gradient, layer.weight_shape())
}

/// Computes a layer, by tiles with the kernels `taps` or with the weight that `weight` makes.
fn convolve(layer: &Layer, x: &[FlexTensor], taps: Taps<'_>, weight: impl FnOnce() -> Vec<f32>) -> FlexTensor {
    let kind = layer.kind;
    let x: Vec<FlexTensor> = x.iter().map(|x| reduced(kind, x.clone(), Memory::Pooled)).collect();
    let dims: Vec<Dims> = x.iter().map(Dims::of).collect();
    let first = dims[0];
    for (x, dims) in x.iter().zip(&dims) {
        assert_eq!((dims.batch, dims.size), (first.batch, first.size), "both tensors have one size");
        let [channels_out, _, rows, columns] = layer.weight_shape();
        let weight = [channels_out, dims.channels, rows, columns];
        assert!(has_kernels(x.layout().shape().dims(), weight, &layer.options), "the layer fits");
    }
    let parts: Vec<_> = x.iter().zip(&dims).map(|(x, dims)| (*dims, x.storage(), bf16::ZERO)).collect();
    let (inputs, options) = (Inputs::new(&parts), &layer.options);
    let epilogue = Epilogue { scale: &layer.scale, shift: &layer.shift, range: layer.range };
    let tiles = layer.has_tiles() && winograd::pays(layer.output(first.size), options.dilation);
    // SAFETY: each kernel writes every value.
    unsafe {
        layer.written(&dims, Format::F32, tiles, Memory::Allocated, |target| {
            if tiles {
                let kernels = &winograd::Kernels::new(kind, taps, layer.channels);
                let (padding, dilation) = (layer.padding(), options.dilation);
                winograd::Convolution { kind, inputs, kernels, padding, dilation, epilogue, target }.run();
            } else {
                let direct = &Direct::convolution(&rounded(&weight()), layer.channels, layer.kernel);
                direct::Convolution::<Bf16> { kind, inputs, direct, begin: &[], options, epilogue, target }.run();
            }
        })
    }
}
