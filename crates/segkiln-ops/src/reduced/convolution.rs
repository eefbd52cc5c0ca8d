//! Convolutions with bf16 factors: packing of the weight, and the parts that 8-bit convolutions share.

use std::{mem::MaybeUninit, sync::OnceLock};

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{DType, Tensor, bf16, ops::ConvOptions},
};

use super::{
    activations::{Dims, Format, Quantization, is_reduced, reduced, written},
    direct::{self, Direct},
    product::Bf16,
    unit::{LANES, Unit, UnitKind, transpose},
    winograd,
};
use crate::{
    conv2d::Joined,
    cpu::{
        disjoint::{Disjoint, Part},
        memory::{Memory, view_mut},
    },
};

/// Input channels, of one tensor or of two concatenated ones.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a, E> {
    pub batch: usize,
    pub size: [usize; 2],
    tensors: [&'a [E]; 2],
    channels: [usize; 2],
    /// Zero point of each tensor.
    zeros: [E; 2],
    /// Zero point of the first tensor.
    pub zero: E,
}

impl<'a, E: Copy> Inputs<'a, E> {
    /// Joins the channels of one or two tensors, each with its zero point.
    pub fn new(tensors: &[(Dims, &'a [E], E)]) -> Self {
        let (dims, values, zero) = tensors[0];
        let (second, more, last) = match tensors.get(1) {
            Some((dims, values, zero)) => (dims.channels, *values, *zero),
            None => (0, &[][..], zero),
        };
        Self {
            batch: dims.batch,
            size: dims.size,
            tensors: [values, more],
            channels: [dims.channels, second],
            zeros: [zero, last],
            zero,
        }
    }

    /// Locates 16 channels: the tensor's values, its channels per pixel, and the first of the 16 within a pixel.
    #[inline(always)]
    pub fn source(&self, channel: usize) -> (*const E, usize, usize) {
        let [first, second] = self.channels;
        if channel < first {
            (self.tensors[0].as_ptr(), first, channel)
        } else {
            (self.tensors[1].as_ptr(), second, channel - first)
        }
    }

    /// Channels of both tensors.
    #[inline(always)]
    pub fn channels(&self) -> usize {
        self.channels[0] + self.channels[1]
    }

    /// The tensors and the channels of a pixel.
    pub fn parts(&self) -> impl Iterator<Item = (&'a [E], usize)> {
        self.tensors.into_iter().zip(self.channels).filter(|(_, channels)| *channels > 0)
    }
}

impl Inputs<'_, u8> {
    /// Zero points of the 32 channels from this one on.
    ///
    /// # Safety
    /// The instructions of the unit are there.
    #[inline(always)]
    pub unsafe fn zeros<U: Unit>(&self, unit: U, channel: usize) -> U::Shorts {
        let [first, last] = [channel, channel + LANES].map(|channel| {
            let second = channel >= self.channels[0];
            [self.zeros[usize::from(second)]; LANES]
        });
        // SAFETY: the caller's promise.
        unsafe { unit.load_shorts(first.as_ptr(), last.as_ptr()) }
    }
}

/// Affine function of each output channel, then a range: `output · scale + shift` within `range`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// One a channel, padded to whole registers.
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub range: [f32; 2],
}

impl Epilogue<'_> {
    #[inline(always)]
    pub fn registers<U: Unit>(&self, unit: U, channel: usize) -> Finish<U> {
        let [scale, shift] = [self.scale, self.shift].map(|values| &values[channel..channel + LANES]);
        // SAFETY: the slices have a register's values, and who calls this runs on the unit.
        unsafe {
            Finish {
                scale: unit.load(scale.as_ptr()),
                shift: unit.load(shift.as_ptr()),
                range: self.range.map(|bound| unit.splat(bound)),
            }
        }
    }
}

/// The epilogue of 16 channels.
#[derive(Clone, Copy)]
pub(super) struct Finish<U: Unit> {
    scale: U::Float,
    shift: U::Float,
    range: [U::Float; 2],
}

impl<U: Unit> Finish<U> {
    /// # Safety
    /// The instructions of the unit are there.
    #[inline(always)]
    pub unsafe fn apply(&self, unit: U, value: U::Float) -> U::Float {
        // SAFETY: the caller's promise.
        unsafe {
            let value = unit.add(unit.mul(value, self.scale), self.shift);
            unit.at_most(unit.at_least(value, self.range[0]), self.range[1])
        }
    }
}

/// Where outputs are written, channels last or, where the kernel can, a plane a channel.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub size: [usize; 2],
    pub channels: usize,
    /// Whether the values are f32 of `[batch, channels, height, width]`.
    pub planes: bool,
    format: Format,
    values: &'a Disjoint<'a, u8>,
}

impl Target<'_> {
    /// The outputs of a task.
    ///
    /// # Safety
    /// No other task writes them.
    #[inline(always)]
    pub unsafe fn outputs(&self) -> Outputs<'_> {
        // SAFETY: the caller's promise.
        let values = unsafe { self.values.part() };
        Outputs { size: self.size, channels: self.channels, format: self.format, values }
    }
}

/// The outputs of a target that one task writes.
#[derive(Clone, Copy)]
pub(super) struct Outputs<'a> {
    size: [usize; 2],
    channels: usize,
    format: Format,
    values: Part<'a, u8>,
}

impl Outputs<'_> {
    /// Writes 16 channels of 4×4 pixels, `dilation` apart, from `first` on, one plane per channel; pixels and channels past the
    /// end are left out.
    ///
    /// # Panics
    /// If the target ends before them.
    ///
    /// # Safety
    /// The instructions of the unit are there.
    #[inline(always)]
    pub unsafe fn store_planes<U: Unit>(
        &self,
        unit: U,
        outputs: [[U::Float; 4]; 4],
        image: usize,
        first: [usize; 2],
        dilation: [usize; 2],
        channel: usize,
    ) {
        let [height, width] = self.size;
        let mut lines = [outputs[0][0]; LANES];
        for a in 0..4 {
            for b in 0..4 {
                lines[4 * a + b] = outputs[a][b];
            }
        }
        const VALUE: usize = size_of::<f32>();
        // SAFETY: the part has the bytes that are asked for; the caller promises the instructions.
        unsafe {
            // A register is then a channel, with four values of each row.
            transpose(unit, &mut lines);
            let count = LANES.min(self.channels - channel);
            let whole = dilation == [1, 1] && first[0] + 4 <= height && first[1] + 4 <= width;
            for (index, line) in lines.into_iter().enumerate().take(count) {
                let plane = (image * self.channels + channel + index) * height * width;
                if whole {
                    let place = plane + first[0] * width + first[1];
                    let row = self.values.rows(place * VALUE, width * VALUE, 4, 4 * VALUE).cast::<f32>();
                    unit.store_fours(line, [row, row.add(width), row.add(2 * width), row.add(3 * width)]);
                    continue;
                }
                let mut values = [0.0; LANES];
                unit.store(line, values.as_mut_ptr());
                for a in 0..4 {
                    for b in 0..4 {
                        let (row, column) = (first[0] + a * dilation[0], first[1] + b * dilation[1]);
                        if row < height && column < width {
                            let target = self.values.at((plane + row * width + column) * VALUE, VALUE);
                            target.cast::<f32>().write_unaligned(values[4 * a + b]);
                        }
                    }
                }
            }
        }
    }

    /// Writes 16 channels of a pixel; channels past the end are left out.
    ///
    /// # Panics
    /// If the target ends before them.
    ///
    /// # Safety
    /// The instructions of the unit are there.
    #[inline(always)]
    pub unsafe fn store<U: Unit>(&self, unit: U, value: U::Float, pixel: usize, channel: usize) {
        let (place, size) = (pixel * self.channels + channel, self.format.size());
        let count = LANES.min(self.channels - channel);
        let target = self.values.at(place * size, count * size);
        // SAFETY: the part has the bytes of as many values; the caller promises the instructions.
        unsafe {
            if count < LANES {
                // Channels are a multiple of 16 but for f32.
                assert!(self.format == Format::F32, "whole registers of reduced values");
                let mut line = [0.0; LANES];
                unit.store(value, line.as_mut_ptr());
                std::ptr::copy_nonoverlapping(line.as_ptr().cast(), target, count * size);
            } else if self.format == Format::Bf16 {
                unit.store_bf16(value, target.cast());
            } else if let Format::U8(_) = self.format {
                unit.store_u8(value, target);
            } else {
                unit.store(value, target.cast());
            }
        }
    }
}

/// Norm or bias, and activation, after a convolution: `output · scale + shift` within `range`.
#[derive(Debug, Clone)]
pub struct Affine {
    /// One a channel.
    pub scale: Tensor<1>,
    /// One a channel.
    pub shift: Tensor<1>,
    /// Smallest and largest output; unbounded if none.
    pub range: Option<[f32; 2]>,
}

/// Everything about a layer except its packed weight.
#[derive(Debug)]
pub(super) struct Layer {
    pub kind: UnitKind,
    pub channels: [usize; 2],
    pub kernel: [usize; 2],
    pub options: ConvOptions<2>,
    /// Outputs of a pixel, of a transposed convolution.
    pub step: [usize; 2],
    /// One a channel, padded to whole registers.
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub range: [f32; 2],
}

impl Layer {
    /// A convolution, or none where there are groups or the input channels are no multiple of 16.
    ///
    /// # Panics
    /// If scale and shift are of other channels.
    pub fn convolution(kind: UnitKind, weight: &Tensor<4>, affine: &Affine, options: ConvOptions<2>) -> Option<Self> {
        let [channels_out, channels_in, rows, columns] = weight.dims();
        let fits = options.groups == 1 && rows * columns > 0;
        fits.then(|| Self::new(kind, [channels_in, channels_out], [rows, columns], options, [1, 1], affine))?
    }

    /// A transposed convolution, without padding, whose stride is its kernel.
    ///
    /// # Panics
    /// If the bias is of other channels.
    pub fn transposed(kind: UnitKind, weight: &Tensor<4>, bias: Option<&Tensor<1>>) -> Option<Self> {
        let [channels_in, channels_out, rows, columns] = weight.dims();
        let scale = Tensor::ones([channels_out], &weight.device());
        let shift = bias.cloned().unwrap_or_else(|| scale.zeros_like());
        let affine = Affine { scale, shift, range: None };
        let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        let layer = || Self::new(kind, [channels_in, channels_out], [1, 1], options, [rows, columns], &affine);
        (rows * columns > 0).then(layer)?
    }

    fn new(
        kind: UnitKind,
        channels: [usize; 2],
        kernel: [usize; 2],
        options: ConvOptions<2>,
        step: [usize; 2],
        affine: &Affine,
    ) -> Option<Self> {
        if !channels[0].is_multiple_of(LANES) || channels.contains(&0) {
            return None;
        }
        let whole = |tensor: &Tensor<1>| -> Option<Vec<f32>> {
            assert_eq!(tensor.dims(), [channels[1]], "scale and shift of {} channels", channels[1]);
            let mut values = tensor.clone().into_data().convert::<f32>().try_to_vec().ok()?;
            values.resize(channels[1].next_multiple_of(LANES), 0.0);
            Some(values)
        };
        let (scale, shift) = (whole(&affine.scale)?, whole(&affine.shift)?);
        let range = affine.range.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        Some(Self { kind, channels, kernel, options, step, scale, shift, range })
    }

    /// A convolution without bias.
    pub fn plain(kind: UnitKind, channels: [usize; 2], kernel: [usize; 2], options: ConvOptions<2>) -> Self {
        let padded = channels[1].next_multiple_of(LANES);
        let (scale, shift, range) = (vec![1.0; padded], vec![0.0; padded], [f32::NEG_INFINITY, f32::INFINITY]);
        Self { kind, channels, kernel, options, step: [1, 1], scale, shift, range }
    }

    /// `[output channels, input channels, rows, columns]`
    pub fn weight_shape(&self) -> [usize; 4] {
        let ([channels_in, channels_out], [rows, columns]) = (self.channels, self.kernel);
        [channels_out, channels_in, rows, columns]
    }

    /// Whether Winograd's tiles can compute it.
    pub fn has_tiles(&self) -> bool {
        self.kernel == [3, 3] && self.options.stride == [1, 1] && self.step == [1, 1]
    }

    /// Whether outputs can be passed on with their channels last: they are a multiple of 16.
    pub fn can_reduce(&self) -> bool {
        self.channels[1].is_multiple_of(LANES)
    }

    /// Height and width of the output.
    ///
    /// # Panics
    /// If the kernel is larger than the input.
    pub fn output(&self, size: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let (before, after) = self.options.padding[axis];
            let reach = self.options.dilation[axis] * (self.kernel[axis] - 1) + 1;
            let padded = size[axis] + before + after;
            assert!(padded >= reach, "a kernel {:?} is larger than the input {size:?}", self.kernel);
            ((padded - reach) / self.options.stride[axis] + 1) * self.step[axis]
        })
    }

    /// Zeros before the first row and column.
    pub fn padding(&self) -> [usize; 2] {
        self.options.padding.map(|(before, _)| before)
    }

    /// The output that `compute` writes, of tensors with these sizes: as bf16 or 8 bits with its channels last where `format` says
    /// so, as f32 in contiguous memory else, of which `compute` writes planes where `planes` says that it can.
    ///
    /// # Safety
    /// `compute` writes every value.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub unsafe fn written(
        &self,
        inputs: &[Dims],
        format: Format,
        planes: bool,
        memory: Memory,
        compute: impl FnOnce(Target<'_>),
    ) -> FlexTensor {
        let channels_in = inputs.iter().map(|dims| dims.channels).sum::<usize>();
        assert_eq!(channels_in, self.channels[0], "input channels");
        let (batch, channels, size) = (inputs[0].batch, self.channels[1], self.output(inputs[0].size));
        let planes = planes && format == Format::F32;
        let write = |values: &mut [MaybeUninit<u8>]| {
            compute(Target { size, channels, planes, format, values: &Disjoint::new(values) });
        };
        // SAFETY: the caller's promise.
        unsafe {
            if planes {
                let shape = [batch, channels, size[0], size[1]];
                return crate::cpu::memory::written(shape, memory, |values| write(view_mut(values)));
            }
            let output = written(Dims { batch, channels, size }, format, write);
            if format == Format::F32 { super::activations::full(self.kind, output, memory) } else { output }
        }
    }

    /// The tensors that are read, each as `convert` makes it: two tensors' channels, or one where they cannot be read from
    /// both.
    pub fn inputs(&self, x: Joined, convert: impl Fn(FlexTensor) -> FlexTensor) -> Vec<FlexTensor> {
        match x.into_parts() {
            (first, None) => vec![convert(primitive(first))],
            (first, Some(second)) => {
                if [&first, &second].iter().all(|tensor| tensor.dims()[1].is_multiple_of(LANES)) {
                    return [first, second].map(|tensor| convert(primitive(tensor))).to_vec();
                }
                let parts = [first, second].map(|tensor| to_full(self.kind, tensor));
                vec![convert(primitive(Tensor::cat(parts.to_vec(), 1)))]
            }
        }
    }
}

/// A convolution, or a transposed convolution whose kernel is its stride, that multiplies in bf16 and adds in f32: weight,
/// scale and shift are packed once.
///
/// The factors are rounded to bf16, which keeps 8 bits: relative to the range of the outputs the error is some 2·10⁻³, with
/// Winograd's transforms some 5·10⁻³.
#[derive(Debug)]
pub struct ReducedConv2d {
    layer: Layer,
    winograd: Option<winograd::Kernels<Bf16>>,
    /// Packed when an image first needs it, where there is the other.
    direct: OnceLock<Direct<bf16>>,
    /// For `direct`.
    weight: Option<Tensor<4>>,
}

impl ReducedConv2d {
    /// Packs a convolution, or gives none where [`crate::conv2d()`] is as fast: where the processor has no dot products of
    /// bf16, the tensors are of another backend, there are groups, or the input channels are no multiple of 16.
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
        let layer = Layer::convolution(kind, weight, affine, options)?;
        let values = values(weight.clone())?;
        if layer.has_tiles() {
            let taps = winograd::Taps::new(&values, layer.channels[0]);
            let winograd = Some(winograd::Kernels::new(kind, taps, layer.channels));
            return Some(Self { layer, winograd, direct: OnceLock::new(), weight: Some(weight.clone()) });
        }
        let direct = Direct::convolution(&rounded(&values), layer.channels, layer.kernel);
        Some(Self { layer, winograd: None, direct: direct.into(), weight: None })
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
        let layer = Layer::transposed(kind, weight, bias)?;
        let direct = Direct::transposed(&rounded(&values(weight.clone())?), layer.channels, layer.step);
        Some(Self { layer, winograd: None, direct: direct.into(), weight: None })
    }

    /// Stride, padding and dilation that it was packed with.
    pub fn options(&self) -> &ConvOptions<2> {
        &self.layer.options
    }

    /// Convolves `x`, of f32 or as layers pass it on. The output is bf16 with its channels last in memory where `keep_reduced` is
    /// set and the output channels are a multiple of 16, else f32.
    ///
    /// # Panics
    /// If the shapes do not fit, or `x` is on another device than the weight was.
    pub fn forward(&self, x: impl Into<Joined>, keep_reduced: bool) -> Tensor<4> {
        self.compute(x.into(), keep_reduced)
    }

    /// Not generic, so that the kernels are compiled in this crate, where what they are made of is inlined.
    fn compute(&self, x: Joined, keep_reduced: bool) -> Tensor<4> {
        let layer = &self.layer;
        let tensors = layer.inputs(x, |x| reduced(layer.kind, x, Memory::Pooled));
        let dims: Vec<Dims> = tensors.iter().map(Dims::of).collect();
        let parts: Vec<_> =
            tensors.iter().zip(&dims).map(|(tensor, dims)| (*dims, tensor.storage(), bf16::ZERO)).collect();
        let (kind, inputs, options) = (layer.kind, Inputs::new(&parts), &layer.options);
        let epilogue = Epilogue { scale: &layer.scale, shift: &layer.shift, range: layer.range };
        let format = if keep_reduced && layer.can_reduce() { Format::Bf16 } else { Format::F32 };
        let tiles = self.winograd.as_ref();
        let tiles = tiles.filter(|_| winograd::pays(layer.output(dims[0].size), options.dilation));
        // SAFETY: each kernel writes every value.
        let output = unsafe {
            layer.written(&dims, format, tiles.is_some(), Memory::Pooled, |target| match tiles {
                Some(kernels) => {
                    let (padding, dilation) = (layer.padding(), options.dilation);
                    winograd::Convolution { kind, inputs, kernels, padding, dilation, epilogue, target }.run();
                }
                None => {
                    let direct = self.direct.get_or_init(|| {
                        let weight = self.weight.clone().and_then(values).unwrap_or_default();
                        Direct::convolution(&rounded(&weight), layer.channels, layer.kernel)
                    });
                    direct::Convolution::<Bf16> { kind, inputs, direct, begin: &[], options, epilogue, target }.run();
                }
            })
        };
        Tensor::from_primitive::<Flex>(output)
    }
}

pub(super) fn rounded(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

/// Whether a tensor is bf16 with its channels last, as [`ReducedConv2d`] passes activations on.
pub fn is_reduced_activation(x: &Tensor<4>) -> bool {
    x.dtype() == DType::BF16 && x.clone().try_into_primitive::<Flex>().is_ok_and(|x| is_reduced(&x))
}

/// Returns the quantization of activations of 8 bits, as [`QuantizedConv2d`](super::QuantizedConv2d) passes them on; none for
/// other tensors.
pub fn quantization(x: &Tensor<4>) -> Option<Quantization> {
    let of = |x: FlexTensor| super::activations::quantization(&x);
    if matches!(x.dtype(), DType::QFloat(_)) { x.clone().try_into_primitive::<Flex>().ok().and_then(of) } else { None }
}

pub(super) fn to_full(kind: UnitKind, x: Tensor<4>) -> Tensor<4> {
    let x = super::activations::full(kind, primitive(x), Memory::Pooled);
    Tensor::from_primitive::<Flex>(x)
}

/// The tensor of the CPU backend.
pub(super) fn primitive(x: Tensor<4>) -> FlexTensor {
    match x.try_into_primitive::<Flex>() {
        Ok(x) => x,
        Err(error) => panic!("a layer that was packed for the CPU: {error:?}"),
    }
}

/// The values of a weight of the CPU backend.
pub(super) fn values(weight: Tensor<4>) -> Option<Vec<f32>> {
    weight.clone().try_into_primitive::<Flex>().ok()?;
    weight.into_data().convert::<f32>().try_to_vec().ok()
}
