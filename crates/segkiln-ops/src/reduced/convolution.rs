//! A convolution whose weight is packed for dot products of bf16.

use std::sync::OnceLock;

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{DType, Tensor, bf16, ops::ConvOptions},
};

use super::{
    activations::{Dims, is_reduced, reduced, written},
    direct::{self, Direct},
    unit::{LANES, Unit, UnitKind},
    winograd,
};
use crate::{conv2d::Joined, cpu::memory::Shared};

/// Channels that are read, in one tensor or two that follow each other.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub batch: usize,
    pub size: [usize; 2],
    tensors: [&'a [bf16]; 2],
    channels: [usize; 2],
}

impl<'a> Inputs<'a> {
    /// Where 16 channels lie: a tensor's pixels, how many channels a pixel has, and the first channel.
    #[inline(always)]
    pub fn source(&self, channel: usize) -> (*const bf16, usize, usize) {
        let [first, second] = self.channels;
        if channel < first {
            (self.tensors[0].as_ptr(), first, channel)
        } else {
            (self.tensors[1].as_ptr(), second, channel - first)
        }
    }

    /// The tensors and the channels of a pixel.
    pub fn parts(&self) -> impl Iterator<Item = (&'a [bf16], usize)> {
        self.tensors.into_iter().zip(self.channels).filter(|(_, channels)| *channels > 0)
    }
}

/// What becomes of an output: `output · scale + shift`, within a range, one scale and shift a channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// Of as many channels as whole registers have.
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
            unit.at_most(unit.at_least(unit.mul_add(value, self.scale, self.shift), self.range[0]), self.range[1])
        }
    }
}

/// Where outputs are written, channels last.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub size: [usize; 2],
    pub channels: usize,
    dtype: DType,
    values: Shared,
}

impl Target {
    /// Writes 16 channels of a pixel, as far as there are so many.
    ///
    /// # Safety
    /// The pixel is within the target, and these channels of it are this task's. The instructions of the unit are there.
    #[inline(always)]
    pub unsafe fn store<U: Unit>(&self, unit: U, value: U::Float, pixel: usize, channel: usize) {
        let place = pixel * self.channels + channel;
        // SAFETY: the caller's promise.
        unsafe {
            if self.dtype == DType::BF16 {
                // Channels are a multiple of 16.
                unit.store_bf16(value, self.values.at(0).cast::<bf16>().add(place));
            } else if channel + LANES <= self.channels {
                unit.store(value, self.values.at(place));
            } else {
                let mut line = [0.0; LANES];
                unit.store(value, line.as_mut_ptr());
                let count = self.channels - channel;
                std::ptr::copy_nonoverlapping(line.as_ptr(), self.values.at(place), count);
            }
        }
    }
}

/// The weight, packed for the kernels that compute the layer.
#[derive(Debug)]
struct Packed {
    winograd: Option<winograd::Kernels>,
    /// Packed when an image first needs it, where there is the other.
    direct: OnceLock<Direct>,
    /// For `direct`.
    weight: Option<Tensor<4>>,
}

impl From<Direct> for Packed {
    fn from(direct: Direct) -> Self {
        Self { winograd: None, direct: direct.into(), weight: None }
    }
}

impl Packed {
    fn direct(&self, channels: [usize; 2], kernel: [usize; 2]) -> &Direct {
        self.direct.get_or_init(|| {
            let weight = self.weight.clone().and_then(values).unwrap_or_default();
            Direct::convolution(&weight, channels, kernel)
        })
    }
}

/// A convolution, or a transposed convolution whose kernel is its stride, that multiplies in bf16 and adds in f32: weight,
/// scale and shift are packed once.
///
/// The factors are rounded to bf16, which keeps 8 bits: relative to the range of the outputs the error is some 2·10⁻³, with
/// Winograd's transforms some 5·10⁻³.
#[derive(Debug)]
pub struct ReducedConv2d {
    kind: UnitKind,
    packed: Packed,
    channels: [usize; 2],
    kernel: [usize; 2],
    options: ConvOptions<2>,
    /// Of a transposed convolution.
    step: [usize; 2],
    scale: Vec<f32>,
    shift: Vec<f32>,
    range: [f32; 2],
}

/// What follows a convolution: `output · scale + shift` within `range`.
#[derive(Debug, Clone)]
pub struct Affine {
    /// One a channel.
    pub scale: Tensor<1>,
    /// One a channel.
    pub shift: Tensor<1>,
    /// Smallest and largest output; without, all.
    pub range: Option<[f32; 2]>,
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
        let [channels_out, channels_in, rows, columns] = weight.dims();
        if options.groups != 1 || !channels_in.is_multiple_of(LANES) || channels_in == 0 || channels_out == 0 {
            return None;
        }
        let values = values(weight.clone())?;
        let channels = [channels_in, channels_out];
        let packed = if [rows, columns] == [3, 3] && options.stride == [1, 1] {
            let winograd = Some(winograd::Kernels::new(&values, channels));
            Packed { winograd, direct: OnceLock::new(), weight: Some(weight.clone()) }
        } else {
            Packed::from(Direct::convolution(&values, channels, [rows, columns]))
        };
        Self::new(kind, packed, channels, [rows, columns], options, [1, 1], affine)
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
        let [channels_in, channels_out, rows, columns] = weight.dims();
        if !channels_in.is_multiple_of(LANES) || channels_in == 0 || channels_out == 0 || rows * columns == 0 {
            return None;
        }
        let scale = Tensor::ones([channels_out], &weight.device());
        let shift = bias.cloned().unwrap_or_else(|| scale.zeros_like());
        let affine = Affine { scale, shift, range: None };
        let (channels, kernel) = ([channels_in, channels_out], [rows, columns]);
        let packed = Packed::from(Direct::transposed(&values(weight.clone())?, channels, kernel));
        let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        Self::new(kind, packed, channels, [1, 1], options, kernel, &affine)
    }

    fn new(
        kind: UnitKind,
        packed: Packed,
        channels: [usize; 2],
        kernel: [usize; 2],
        options: ConvOptions<2>,
        step: [usize; 2],
        affine: &Affine,
    ) -> Option<Self> {
        let whole = |tensor: &Tensor<1>| -> Option<Vec<f32>> {
            assert_eq!(tensor.dims(), [channels[1]], "scale and shift of {} channels", channels[1]);
            let mut values = tensor.clone().into_data().convert::<f32>().try_to_vec().ok()?;
            values.resize(channels[1].next_multiple_of(LANES), 0.0);
            Some(values)
        };
        let (scale, shift) = (whole(&affine.scale)?, whole(&affine.shift)?);
        let range = affine.range.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        Some(Self { kind, packed, channels, kernel, options, step, scale, shift, range })
    }

    /// Stride, padding and dilation that it was packed with.
    pub fn options(&self) -> &ConvOptions<2> {
        &self.options
    }

    /// Whether outputs can be passed on in bf16, channels last: they are a multiple of 16.
    pub fn can_reduce(&self) -> bool {
        self.channels[1].is_multiple_of(LANES)
    }

    /// Convolves `x`, of f32 or of bf16. The output is bf16 with its channels last in memory where `keep_reduced` is set and
    /// it [can](Self::can_reduce) be, else f32.
    ///
    /// # Panics
    /// If the shapes do not fit, or `x` is on another device than the weight was.
    pub fn forward(&self, x: impl Into<Joined>, keep_reduced: bool) -> Tensor<4> {
        let (first, second) = x.into().into_parts();
        let tensors: Vec<FlexTensor> = match second {
            Some(second) => self.joined(first, second),
            None => vec![reduced(self.kind, primitive(first))],
        };
        let dims: Vec<Dims> = tensors.iter().map(Dims::of).collect();
        let channels_in = dims.iter().map(|dims| dims.channels).sum::<usize>();
        assert_eq!(channels_in, self.channels[0], "input channels");
        let Dims { batch, size, .. } = dims[0];
        let output = [0, 1].map(|axis| {
            let (before, after) = self.options.padding[axis];
            let reach = self.options.dilation[axis] * (self.kernel[axis] - 1) + 1;
            let padded = size[axis] + before + after;
            assert!(padded >= reach, "a kernel {:?} is larger than the input {size:?}", self.kernel);
            ((padded - reach) / self.options.stride[axis] + 1) * self.step[axis]
        });
        let dtype = if keep_reduced && self.can_reduce() { DType::BF16 } else { DType::F32 };
        let target = Dims { batch, channels: self.channels[1], size: output };
        let mut inputs = Inputs { batch, size, tensors: [&[], &[]], channels: [0, 0] };
        for (index, (tensor, dims)) in tensors.iter().zip(&dims).enumerate() {
            inputs.tensors[index] = tensor.storage();
            inputs.channels[index] = dims.channels;
        }
        let epilogue = Epilogue { scale: &self.scale, shift: &self.shift, range: self.range };
        let padding = self.options.padding.map(|(before, _)| before);
        // SAFETY: each kernel writes every value.
        let output = unsafe {
            written(target, dtype, |values| {
                let target = Target { size: output, channels: self.channels[1], dtype, values: Shared(values.cast()) };
                let (kind, options) = (self.kind, &self.options);
                match &self.packed.winograd {
                    Some(kernels) if winograd::pays(output, options.dilation) => {
                        let dilation = options.dilation;
                        winograd::Convolution { kind, inputs, kernels, padding, dilation, epilogue, target }.run();
                    }
                    _ => {
                        let direct = self.packed.direct(self.channels, self.kernel);
                        direct::Convolution { kind, inputs, direct, options, epilogue, target }.run();
                    }
                }
            })
        };
        let output = if dtype == DType::F32 { super::activations::full(self.kind, output) } else { output };
        Tensor::from_primitive::<Flex>(output)
    }

    /// Two tensors' channels, or one where they cannot be read from both.
    fn joined(&self, first: Tensor<4>, second: Tensor<4>) -> Vec<FlexTensor> {
        if [&first, &second].iter().all(|tensor| tensor.dims()[1].is_multiple_of(LANES)) {
            return [first, second].map(|tensor| reduced(self.kind, primitive(tensor))).to_vec();
        }
        let parts = [first, second].map(|tensor| to_full(self.kind, tensor));
        vec![reduced(self.kind, primitive(Tensor::cat(parts.to_vec(), 1)))]
    }
}

/// Whether a tensor is bf16 with its channels last, as [`ReducedConv2d`] passes activations on.
pub fn is_reduced_activation(x: &Tensor<4>) -> bool {
    x.dtype() == DType::BF16 && x.clone().try_into_primitive::<Flex>().is_ok_and(|x| is_reduced(&x))
}

pub(super) fn to_full(kind: UnitKind, x: Tensor<4>) -> Tensor<4> {
    let x = super::activations::full(kind, primitive(x));
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
fn values(weight: Tensor<4>) -> Option<Vec<f32>> {
    weight.clone().try_into_primitive::<Flex>().ok()?;
    weight.into_data().convert::<f32>().try_to_vec().ok()
}
