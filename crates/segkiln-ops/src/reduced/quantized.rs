//! A convolution of 8 bits.

use std::sync::OnceLock;

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{Tensor, ops::ConvOptions},
};

use super::{
    activations::{Dims, Format, Quantization, octets, quantization, quantized},
    convolution::{Affine, Epilogue, Inputs, Layer, primitive, values},
    direct::{self, Direct},
    pool::cat_quantized,
    product::{Bytes, Shorts},
    unit::UnitKind,
    winograd,
};
use crate::{conv2d::Joined, cpu::memory::Memory};

/// Values of a sum of products of 8 bits that fit 32: 255 · 127 · this < 2³¹.
const MOST_DEPTH: usize = 1 << 16;

/// A convolution, or a transposed convolution whose kernel is its stride, of activations and weights of 8 bits. A weight has a
/// scale for each output channel, with which its largest value is 127; activations have one [`Quantization`] for all channels.
///
/// Products and sums are integers. 3×3 kernels of stride 1 go by Winograd's F(4×4, 3×3), whose transforms of 8 bits are integers of
/// 16; where a sum could overflow 32 bits, the transformed weights are rounded to fewer.
#[derive(Debug)]
pub struct QuantizedConv2d {
    layer: Layer,
    /// `[output channel][input channel][row][column]`, of a transposed convolution input channels first.
    weight: Vec<i8>,
    /// Step of each output channel's weights.
    scales: Vec<f32>,
    winograd: OnceLock<Tiles>,
    direct: OnceLock<Bulk>,
}

#[derive(Debug)]
struct Tiles {
    kernels: winograd::Kernels<Shorts>,
    /// The scale of each of two tensors in parts of the larger.
    units: [f32; 2],
    /// Channels of the first.
    first: usize,
}

#[derive(Debug)]
struct Bulk {
    direct: Direct<i8>,
    /// `[phase][output channel]`
    sums: Vec<i32>,
}

impl QuantizedConv2d {
    /// Packs a convolution, or gives none where the processor has no dot products of 8 bits, the tensors are of another
    /// backend, there are groups, the input channels are no multiple of 16, or a weight is not finite.
    ///
    /// # Shapes
    /// - `weight`: `[channels_out, channels_in, kernel_height, kernel_width]`
    /// - `affine`: `[channels_out]` each
    pub fn pack(weight: &Tensor<4>, affine: &Affine, options: ConvOptions<2>) -> Option<Self> {
        Self::pack_for(UnitKind::fastest()?, weight, affine, options)
    }

    pub(super) fn pack_for(
        kind: UnitKind,
        weight: &Tensor<4>,
        affine: &Affine,
        options: ConvOptions<2>,
    ) -> Option<Self> {
        Self::new(Layer::convolution(kind, weight, affine, options)?, weight)
    }

    /// Packs a transposed convolution, without padding, whose stride is its kernel; see [`pack`](Self::pack).
    ///
    /// # Shapes
    /// - `weight`: `[channels_in, channels_out, kernel_height, kernel_width]`
    /// - `bias`: `[channels_out]`
    pub fn pack_transposed(weight: &Tensor<4>, bias: Option<&Tensor<1>>) -> Option<Self> {
        Self::pack_transposed_for(UnitKind::fastest()?, weight, bias)
    }

    pub(super) fn pack_transposed_for(kind: UnitKind, weight: &Tensor<4>, bias: Option<&Tensor<1>>) -> Option<Self> {
        Self::new(Layer::transposed(kind, weight, bias)?, weight)
    }

    fn new(layer: Layer, weight: &Tensor<4>) -> Option<Self> {
        let values = values(weight.clone())?;
        let [channels_in, channels_out] = layer.channels;
        let taps = layer.kernel.iter().chain(&layer.step).product::<usize>();
        if channels_in * layer.kernel.iter().product::<usize>() > MOST_DEPTH
            || values.iter().any(|value| !value.is_finite())
        {
            return None;
        }
        let out = |index: usize| match layer.step {
            [1, 1] => index / (channels_in * taps),
            _ => index / taps % channels_out,
        };
        let mut scales = vec![0f32; channels_out];
        for (index, value) in values.iter().enumerate() {
            scales[out(index)] = scales[out(index)].max(value.abs());
        }
        for scale in &mut scales {
            *scale = if *scale > 0.0 { (*scale / 127.0).max(f32::MIN_POSITIVE) } else { 1.0 };
        }
        let weight = values.iter().enumerate();
        let weight = weight.map(|(index, value)| (value / scales[out(index)]).round_ties_even() as i8).collect();
        Some(Self { layer, weight, scales, winograd: OnceLock::new(), direct: OnceLock::new() })
    }

    /// Stride, padding and dilation that it was packed with.
    pub fn options(&self) -> &ConvOptions<2> {
        &self.layer.options
    }

    /// Convolves `x`: tensors of 8 bits as layers pass them on, others are quantized as `input` says. The output is of 8 bits with
    /// its channels last in memory where `output` says what they stand for and the output channels are a multiple of 16, else
    /// f32.
    ///
    /// # Panics
    /// If the shapes do not fit, or `x` is on another device than the weight was.
    pub fn forward(&self, x: impl Into<Joined>, input: Quantization, output: Option<Quantization>) -> Tensor<4> {
        self.compute(x.into(), input, output)
    }

    /// Not generic, so that the kernels are compiled in this crate, where what they are made of is inlined.
    fn compute(&self, x: Joined, input: Quantization, output: Option<Quantization>) -> Tensor<4> {
        let layer = &self.layer;
        let kind = layer.kind;
        let as_bytes = |x| if quantization(&x).is_some() { x } else { quantized(kind, x, input) };
        let mut tensors = layer.inputs(x, as_bytes);
        let meaning = |tensor: &FlexTensor| quantization(tensor).unwrap_or(input);
        let size = Dims::of(&tensors[0]).size;
        let tiles = layer.has_tiles() && winograd::pays_for_bytes(layer.output(size), layer.options.dilation);
        let first = Dims::of(&tensors[0]).channels;
        let tiles = tiles.then(|| {
            let given: Vec<f32> = tensors.iter().map(|tensor| meaning(tensor).scale).collect();
            let largest = given.iter().fold(0f32, |most, scale| most.max(*scale));
            self.tiles([given[0] / largest, given.last().map_or(1.0, |scale| scale / largest)], first)
        });
        let tiles = tiles.filter(|tiles| tiles.first == first || tiles.units == [1.0; 2]);
        match (tiles, &tensors[..]) {
            (Some(tiles), [one, two]) => {
                // Kernels were packed with the scale of the second in parts of the first's.
                let (scale, given) = (meaning(one).scale / tiles.units[0] * tiles.units[1], meaning(two));
                if (scale - given.scale).abs() > 1e-5 * scale {
                    tensors[1] = quantized(kind, two.clone(), Quantization { scale, ..given });
                }
            }
            (None, [_, _]) => tensors = vec![cat_quantized(kind, &tensors)],
            _ => {}
        }
        let meanings: Vec<Quantization> = tensors.iter().map(meaning).collect();
        let dims: Vec<Dims> = tensors.iter().map(Dims::of).collect();
        let parts = tensors.iter().zip(&dims).zip(&meanings);
        let parts: Vec<_> = parts.map(|((tensor, dims), meaning)| (*dims, octets(tensor), meaning.zero)).collect();
        let scale_in = meanings.iter().fold(0f32, |most, meaning| most.max(meaning.scale));
        let format = match output {
            Some(output) if layer.can_reduce() => Format::U8(output),
            _ => Format::F32,
        };
        let (scale_out, zero_out) = match format {
            Format::U8(Quantization { scale, zero }) => (scale, f32::from(zero)),
            _ => (1.0, 0.0),
        };
        let weights = self.scales.iter().copied().chain(std::iter::repeat(0.0));
        let scale: Vec<f32> =
            layer.scale.iter().zip(weights).map(|(scale, weight)| scale * weight * scale_in / scale_out).collect();
        let shift: Vec<f32> = layer.shift.iter().map(|shift| shift / scale_out + zero_out).collect();
        let range = layer.range.map(|bound| bound / scale_out + zero_out);
        let epilogue = Epilogue { scale: &scale, shift: &shift, range };
        let (inputs, options) = (Inputs::new(&parts), &layer.options);
        // SAFETY: each kernel writes every value.
        let output = unsafe {
            layer.written(&dims, format, tiles.is_some(), Memory::Pooled, |target| {
                if let Some(Tiles { kernels, .. }) = tiles {
                    let (padding, dilation) = (layer.padding(), options.dilation);
                    winograd::Convolution { kind, inputs, kernels, padding, dilation, epilogue, target }.run();
                } else {
                    let Bulk { direct, sums } = self.bulk();
                    let zero = i32::from(inputs.zero);
                    let begin: Vec<i32> = sums.iter().map(|sum| -zero * sum).collect();
                    direct::Convolution::<Bytes> { kind, inputs, direct, begin: &begin, options, epilogue, target }
                        .run();
                }
            })
        };
        Tensor::from_primitive::<Flex>(output)
    }

    /// Kernels for tiles, transformed when they are first asked for: of two tensors, of which the first has so many channels,
    /// with scales of so many parts of the larger.
    fn tiles(&self, units: [f32; 2], first: usize) -> &Tiles {
        self.winograd.get_or_init(|| {
            let channels = self.layer.channels;
            let of_channel = |channel: usize| units[usize::from(channel >= first)];
            let parts: Vec<f32> = (0..channels[0]).map(of_channel).collect();
            Tiles { kernels: winograd::Kernels::of_integers(&self.weight, channels, &parts), units, first }
        })
    }

    fn bulk(&self) -> &Bulk {
        self.direct.get_or_init(|| {
            let Layer { channels, kernel, step, .. } = self.layer;
            let direct = match step {
                [1, 1] => Direct::convolution(&self.weight, channels, kernel),
                _ => Direct::transposed(&self.weight, channels, step),
            };
            Bulk { sums: direct.sums(), direct }
        })
    }
}

/// `x` in 8 bits with its channels last; what is not of the CPU backend stays.
pub fn quantize(x: &Tensor<4>, target: Quantization) -> Option<Tensor<4>> {
    x.clone().try_into_primitive::<Flex>().ok()?;
    let kind = UnitKind::fastest().unwrap_or(UnitKind::Portable);
    Some(Tensor::from_primitive::<Flex>(quantized(kind, primitive(x.clone()), target)))
}
