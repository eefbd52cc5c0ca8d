//! Convolution on the CPU: a guide to this folder.
//!
//! # Methods
//!
//! [`Plan::new`] chooses one of these methods for each pass of a layer; `SEGKILN_EXPLAIN_PLAN=1` prints what it chose and why.
//! An empty cell is never chosen.
//!
//! | method | forward | input gradient | weight gradient | file |
//! |---|---|---|---|---|
//! | Winograd, by tiles | 3×3, stride 1 or 2, 8 channels or more in and out | the same for stride 1, with turned kernels | stride 1: the adjoint | `winograd/` |
//! | Winograd, a tile for each grid | of these, a dilation near the image's size | the same | | `winograd/grids.rs` |
//! | depthwise | each channel a group | the same; with a stride by phases | the same | `depthwise.rs` |
//! | product in place | few channels out of a group | few channels into a group; by phases | | `in_place.rs` |
//! | product from a padded copy | few channels in | | | `padded_copy.rs` |
//! | implicit GEMM | all others | all others; by phases | all others | `implicit/` |
//! | Burn's | not f32, or no values | the same | the same | |
//!
//! # How the data goes
//!
//! ```text
//!   x [batch, channels in, height, width]                     weight [channels out, channels in, kernel]
//!        │                                                         │
//!        │ a task takes some pixels (a block, a band               │ as it lies, transformed (Winograd),
//!        │ of rows, some tiles) of some channels                   │ or transposed (gradient of the input)
//!        ▼                                                         │
//!   scratch memory of the task, in the cache:                      │
//!     band    padded rows, every tap a plain read                  │
//!     matrix  [channels in · taps, pixels] (im2col)                │
//!     tiles   [36 points][channels in, tiles] (Winograd)           │
//!        │                                                         │
//!        └────────────► Product (cpu/matrix.rs) ◄──────────────────┘
//!                       8 rows (output channels) × 2 registers (pixels), summed over channels and taps
//!                            │
//!                            │ Winograd: transformed back; phases: interleaved
//!                            ▼
//!                       Epilogue: scale, shift, clamp in registers
//!                            │
//!                            ▼
//!   output [batch, channels out, height', width'], each value written once, by one task
//! ```
//!
//! A 1×1 kernel may lie as a fully connected layer's weight, `[channels in, channels out]`: the implicit GEMM then packs its columns.
//!
//! A depthwise convolution has no product: it multiplies registers of a band by single weights.
//!
//! # Words
//!
//! - **tap**: one position of the kernel; a 3×3 kernel has nine.
//! - **register**, **lanes**: a processor's vector of 16, 8 or 4 values, and its values. A *pair* is two registers.
//! - **plane**: the pixels of one channel of one image.
//! - **band**: some rows of a plane, copied with their padding ([`Band`](band::Band)).
//! - **block**: the pixels of a task of the implicit GEMM.
//! - **panel**: a matrix cut to what a product reads in a row: `kernel_rows` output channels, or a pair of registers of pixels.
//! - **depth**: the number of terms of a product, input channels × taps.
//! - **tile**: in Winograd's filtering, 4×4 outputs (2×2 with stride 2) that are computed from a 6×6 (5×5) patch of the input. The
//!   two columns (one) of the patch beyond those of the tile's own are its **halo**; neighboring tiles share them.
//! - **point**: one of the 36 (25) values of a transformed tile or kernel; products are computed point by point.
//! - **grid**: a convolution with dilation d is d × d plain ones, each on every d-th row and column.
//! - **phase**: the pixels of a strided convolution's input gradient that have the same taps; see [`phases`]. In a band, the
//!   columns that have the same remainder by the stride.
//! - **chunk**: as many channels as are handled before the next, so that their values stay in the cache.
//! - **task**: what one thread does at a time; the tasks of a layer depend on its shape only, so that its sums do too.

use std::mem::MaybeUninit;

use burn::{
    backend::{
        Flex, TensorMetadata,
        flex::FlexTensor,
        ops::{FloatTensorOps, ModuleOps},
        tensor::FloatTensor,
    },
    tensor::ops::ConvOptions,
};
use pulp::Simd;

use super::{Conv2dOps, affine};
use crate::{
    cpu::{
        matrix::Finish,
        memory::{Memory, all_f32, contiguous, tensor, values, values_of, written},
        simd::{Lanes, at_least},
    },
    reduced::training,
};

mod band;
mod depthwise;
mod geometry;
mod implicit;
mod in_place;
mod padded_copy;
mod phases;
pub(super) mod plan;
mod planes;
mod winograd;

pub(crate) use geometry::{Geometry, output_side, reach};
use implicit::Layout;
use plan::{Method, Pass, Plan};
pub(crate) use planes::Images;
use planes::Planes;
use winograd::Kernels;

/// Tasks that a convolution is split into, about. Fixed, so that sums do not depend on the number of threads; enough that threads
/// end together.
const TASKS: usize = 32;

impl Conv2dOps for Flex {
    const JOINS: bool = true;

    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        match Geometry::of(&x, &weight, &options) {
            Some(geometry) if all_f32(&[&x, &weight]) => forward(&geometry, x, weight, None),
            _ => <Flex as ModuleOps<Flex>>::conv2d(x, weight, None, options),
        }
    }

    fn convolve_affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        range: Option<[f32; 2]>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        match Geometry::of(&x, &weight, &options) {
            Some(geometry) if all_f32(&[&x, &weight, &scale, &shift]) => {
                let (scale, shift) = (scale.to_contiguous(), shift.to_contiguous());
                forward(&geometry, x, weight, Some(Epilogue::new(&scale, &shift, range)))
            }
            _ => affine::<Self>(Self::convolve(x, weight, options), scale, shift, range),
        }
    }

    fn convolve_joined(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        match Geometry::of_joined(&x, &more, &weight, &options) {
            Some(geometry) if all_f32(&[&x, &more, &weight]) => forward_joined(&geometry, [x, more], weight, None),
            _ => Self::convolve(Self::float_cat(vec![x, more], 1), weight, options),
        }
    }

    fn convolve_joined_affine(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        range: Option<[f32; 2]>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        match Geometry::of_joined(&x, &more, &weight, &options) {
            Some(geometry) if all_f32(&[&x, &more, &weight, &scale, &shift]) => {
                let (scale, shift) = (scale.to_contiguous(), shift.to_contiguous());
                let epilogue = Epilogue::new(&scale, &shift, range);
                forward_joined(&geometry, [x, more], weight, Some(epilogue))
            }
            _ => Self::convolve_affine(Self::float_cat(vec![x, more], 1), weight, scale, shift, range, options),
        }
    }

    fn convolve_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        match Geometry::of(&x, &weight, &options) {
            Some(geometry) if all_f32(&[&weight, &grad]) => input_gradient(&geometry, weight, grad, None),
            _ => <Flex as ModuleOps<Flex>>::conv2d_x_backward(x, weight, grad, options),
        }
    }

    fn convolve_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        match Geometry::of(&x, &weight, &options) {
            Some(geometry) if all_f32(&[&x, &grad]) => weight_gradient(&geometry, x, grad),
            _ => <Flex as ModuleOps<Flex>>::conv2d_weight_backward(x, weight, grad, options),
        }
    }

    const FITS_BF16: fn([usize; 4], [usize; 4], &ConvOptions<2>) -> bool = training::fits;

    fn bf16_factors(x: FloatTensor<Self>) -> FloatTensor<Self> {
        training::factors(x)
    }

    fn convolve_bf16(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        if !all_f32(&[&weight]) || !training::fits(x.shape().dims(), weight.shape().dims(), &options) {
            return Self::convolve(x, weight, options);
        }
        training::forward(&[x], weight, &options)
    }

    fn convolve_joined_bf16(
        x: FloatTensor<Self>,
        more: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let [batch, _, height, width] = x.shape().dims();
        let [channels_out, _, rows, columns] = weight.shape().dims();
        let fits = [&x, &more].iter().all(|x| {
            let channels = x.shape()[1];
            training::fits([batch, channels, height, width], [channels_out, channels, rows, columns], &options)
        });
        if !all_f32(&[&weight]) || !fits {
            return Self::convolve_joined(x, more, weight, options);
        }
        training::forward(&[x, more], weight, &options)
    }

    fn convolve_bf16_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let [.., height, width] = x.shape().dims::<4>();
        match training::input_gradient([height, width], weight.clone(), grad.clone(), &options) {
            Some(gradient) => gradient,
            None => Self::convolve_x_backward(x, weight, training::full(grad), options),
        }
    }

    fn convolve_bf16_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let [.., rows, columns] = weight.shape().dims::<4>();
        training::weight_gradient([rows, columns], x, grad, &options)
    }
}

/// Computes a convolution; [`Plan`] says how.
///
/// # Panics
/// If the tensors do not have the geometry's shapes.
pub(crate) fn forward(
    geometry: &Geometry,
    x: FlexTensor,
    weight: FlexTensor,
    epilogue: Option<Epilogue>,
) -> FlexTensor {
    let x = contiguous(x);
    let x = of_shape(&x, geometry.input_shape());
    if let Some(weight) = linear_layout(&weight, geometry)
        && Plan::new(geometry, Pass::Forward).method == Method::ImplicitGemm
    {
        // SAFETY: every value is written.
        return unsafe {
            written(geometry.output_shape(), memory(epilogue), |output| {
                implicit::forward(geometry, x, weight, Layout::Linear, epilogue, output);
            })
        };
    }
    let weight = weight.to_contiguous();
    let (x, weight) = (Images::apart(x, geometry.channels.input), of_shape(&weight, geometry.weight_shape()));
    // SAFETY: every value is written.
    unsafe {
        written(geometry.output_shape(), memory(epilogue), |output| {
            write_forward(geometry, x, weight, epilogue, output);
        })
    }
}

/// Returns the values of a weight of a 1×1 kernel that lies as a fully connected layer's, `[channels read][channels written]`.
fn linear_layout<'a>(weight: &'a FlexTensor, geometry: &Geometry) -> Option<&'a [f32]> {
    let [channels_out, channels_in, rows, columns] = geometry.weight_shape();
    let layout = weight.layout();
    let lies_so =
        layout.shape().dims::<4>() == geometry.weight_shape() && layout.strides()[..2] == [1, channels_out as isize];
    let fits = lies_so && geometry.groups == 1 && [rows, columns] == [1, 1] && layout.start_offset() == 0;
    fits.then(|| &weight.storage::<f32>()[..values_of(&[channels_in, channels_out])])
}

/// Writes a convolution to `output`, every value of it.
///
/// # Panics
/// If the numbers of values are not those of the geometry's shapes.
pub(crate) fn write_forward(
    geometry: &Geometry,
    x: Images,
    weight: &[f32],
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    assert_eq!(weight.len(), values_of(&geometry.weight_shape()), "values of the weight");
    assert_eq!(output.len(), values_of(&geometry.output_shape()), "values of the output");
    let plan = Plan::new(geometry, Pass::Forward);
    if let Method::Winograd(_) = plan.method {
        let x = x.planes(geometry.input_shape());
        return winograd::forward(plan.method, geometry, x, Kernels::new(geometry, weight), epilogue, output);
    }
    let x = &x.one_by_one(geometry.input_shape());
    match plan.method {
        Method::Winograd(_) | Method::WinogradGrids | Method::WinogradAdjoint => {
            let x = Planes::one(x, geometry.channels.input);
            winograd::forward(plan.method, geometry, x, Kernels::new(geometry, weight), epilogue, output);
        }
        Method::Depthwise => depthwise::forward(geometry, x, weight, epilogue, output),
        Method::InPlace => in_place::forward(geometry, x, weight, epilogue, output),
        Method::PaddedCopy => padded_copy::forward(geometry, x, weight, epilogue, output),
        Method::ImplicitGemm => implicit::forward(geometry, x, weight, Layout::Convolution, epilogue, output),
    }
}

/// [`forward`] of two tensors' channels, for [`Geometry::of_joined`].
fn forward_joined(
    geometry: &Geometry,
    x: [FlexTensor; 2],
    weight: FlexTensor,
    epilogue: Option<Epilogue>,
) -> FlexTensor {
    let ([first, second], weight) = (x.map(contiguous), weight.to_contiguous());
    let channels = [&first, &second].map(|x| x.layout().shape()[1]);
    let [batch, all, height, width] = geometry.input_shape();
    assert_eq!(channels[0] + channels[1], all, "both tensors have the channels together");
    let [first, second] = [(&first, channels[0]), (&second, channels[1])]
        .map(|(x, channels)| of_shape(x, [batch, channels, height, width]));
    let x = Planes { first, second, channels, steps: channels };
    let kernels = Kernels::new(geometry, of_shape(&weight, geometry.weight_shape()));
    let plan = Plan::new(geometry, Pass::Forward);
    // SAFETY: every value is written.
    unsafe {
        written(geometry.output_shape(), memory(epilogue), |output| {
            winograd::forward(plan.method, geometry, x, kernels, epilogue, output);
        })
    }
}

/// Inference outputs come from the pool; training outputs are allocated, because autodiff keeps them. An epilogue means
/// inference, or one of the few transposed convolutions of a training step.
fn memory(epilogue: Option<Epilogue>) -> Memory {
    if epilogue.is_some() { Memory::Pooled } else { Memory::Allocated }
}

/// Returns the values of a contiguous tensor.
///
/// # Panics
/// If it has another shape: kernels rely on it.
fn of_shape(tensor: &FlexTensor, shape: [usize; 4]) -> &[f32] {
    assert_eq!(tensor.layout().shape().dims::<4>(), shape, "the tensor's shape is not the convolution's");
    values(tensor)
}

/// Computes the gradient of the input from that of the output, which is a transposed convolution, and applies the epilogue.
///
/// # Panics
/// If the tensors do not have the geometry's shapes.
pub(crate) fn input_gradient(
    geometry: &Geometry,
    weight: FlexTensor,
    grad: FlexTensor,
    epilogue: Option<Epilogue>,
) -> FlexTensor {
    let grad = contiguous(grad);
    let grad = of_shape(&grad, geometry.output_shape());
    let is_plain = geometry.stride == [1, 1] && geometry.padding == [0, 0] && geometry.input == geometry.output;
    if let Some(weight) = linear_layout(&weight, geometry)
        && is_plain
        && let Some(adjoint) = geometry.adjoint()
    {
        // The layer's memory is the gradient's weight, `[channels written][channels read]`.
        let grad = Images::apart(grad, geometry.channels.output);
        // SAFETY: every value is written.
        return unsafe {
            written(geometry.input_shape(), memory(epilogue), |output| {
                write_forward(&adjoint, grad, weight, epilogue, output);
            })
        };
    }
    let weight = weight.to_contiguous();
    let (grad, weight) = (Images::apart(grad, geometry.channels.output), of_shape(&weight, geometry.weight_shape()));
    // SAFETY: every value is written.
    unsafe {
        written(geometry.input_shape(), memory(epilogue), |output| {
            write_input_gradient(geometry, weight, grad, epilogue, output);
        })
    }
}

/// Writes the gradient of the input to `output`, every value of it.
///
/// # Panics
/// If the numbers of values are not those of the geometry's shapes.
pub(crate) fn write_input_gradient(
    geometry: &Geometry,
    weight: &[f32],
    grad: Images,
    epilogue: Option<Epilogue>,
    output: &mut [MaybeUninit<f32>],
) {
    assert_eq!(weight.len(), values_of(&geometry.weight_shape()), "values of the weight");
    assert_eq!(output.len(), values_of(&geometry.input_shape()), "values of the input");
    let plan = Plan::new(geometry, Pass::InputGradient);
    if let Method::Winograd(_) | Method::WinogradGrids | Method::WinogradAdjoint = plan.method {
        let adjoint = geometry.adjoint().expect("Winograd's method has an adjoint convolution");
        let kernels = Kernels::new(geometry, weight).turned();
        if let Method::Winograd(_) = plan.method {
            let grad = grad.planes(adjoint.input_shape());
            return winograd::forward(plan.method, &adjoint, grad, kernels, epilogue, output);
        }
        let grad = &grad.one_by_one(adjoint.input_shape());
        let grad = Planes::one(grad, adjoint.channels.input);
        return winograd::forward(plan.method, &adjoint, grad, kernels, epilogue, output);
    }
    let grad = &grad.one_by_one(geometry.output_shape());
    match plan.method {
        Method::Depthwise => depthwise::input_gradient(geometry, weight, grad, epilogue, output),
        Method::InPlace => in_place::input_gradient(geometry, weight, grad, epilogue, output),
        _ => implicit::input_gradient(geometry, weight, grad, epilogue, output),
    }
}

/// Computes the gradient of the weight from the input and the output's gradient.
///
/// # Panics
/// If the tensors do not have the geometry's shapes.
pub(crate) fn weight_gradient(geometry: &Geometry, x: FlexTensor, grad: FlexTensor) -> FlexTensor {
    let (x, grad) = (contiguous(x), contiguous(grad));
    let (x, grad) = (of_shape(&x, geometry.input_shape()), of_shape(&grad, geometry.output_shape()));
    let x = Images::apart(x, geometry.channels.input);
    tensor(weight_gradient_values(geometry, x, grad), geometry.weight_shape())
}

/// Returns the values of the gradient of the weight.
///
/// # Panics
/// If the numbers of values are not those of the geometry's shapes.
pub(crate) fn weight_gradient_values(geometry: &Geometry, x: Images, grad: &[f32]) -> Vec<f32> {
    assert_eq!(grad.len(), values_of(&geometry.output_shape()), "values of the output's gradient");
    let method = Plan::new(geometry, Pass::WeightGradient).method;
    if method == Method::WinogradAdjoint {
        return winograd::weight_gradient(geometry, x.planes(geometry.input_shape()), grad);
    }
    let x = &x.one_by_one(geometry.input_shape());
    match method {
        Method::Depthwise => depthwise::weight_gradient(geometry, x, grad),
        _ => implicit::weight_gradient(geometry, x, grad),
    }
}

/// Returns the methods of the forward pass, of the gradient of the input and of that of the weight, for tests.
#[cfg(test)]
pub(super) fn methods(x: [usize; 4], weight: [usize; 4], options: &ConvOptions<2>) -> [Method; 3] {
    let geometry = Geometry::of_shapes(x, weight, options).expect("there are values");
    [Pass::Forward, Pass::InputGradient, Pass::WeightGradient].map(|pass| Plan::new(&geometry, pass).method)
}

/// The last step of each output before it is stored: `clamp(output · scale + shift, range)`, with a scale and a shift a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    /// Smallest and largest value.
    pub range: [f32; 2],
}

impl<'a> Epilogue<'a> {
    /// Takes scale and shift from contiguous tensors.
    pub fn new(scale: &'a FlexTensor, shift: &'a FlexTensor, range: Option<[f32; 2]>) -> Self {
        Self { scale: values(scale), shift: values(shift), range: range.unwrap_or(Self::UNBOUNDED) }
    }

    /// Returns the last step of a product whose rows are channels from `channel` on.
    #[inline(always)]
    fn finish(epilogue: Option<Self>, channel: usize) -> Finish<'a> {
        match epilogue {
            Some(Self { scale, shift, range }) => {
                Finish::Affine { scale: &scale[channel..], shift: &shift[channel..], range }
            }
            None => Finish::Store,
        }
    }

    pub const UNBOUNDED: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

    /// Returns the epilogue of one channel in registers.
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S, channel: usize) -> EpilogueLanes<S> {
        let Self { scale, shift, range: [low, high] } = self;
        let splat = |value| Lanes::splat(simd, value);
        EpilogueLanes {
            scale: splat(scale[channel]),
            shift: splat(shift[channel]),
            low: splat(*low),
            high: splat(*high),
        }
    }

    /// Applies the epilogue to outputs of one channel.
    pub(crate) fn apply(&self, channel: usize, outputs: &mut [f32]) {
        let (scale, shift, [low, high]) = (self.scale[channel], self.shift[channel], self.range);
        for output in outputs {
            let scaled = at_least(*output * scale + shift, low);
            *output = if scaled > high { high } else { scaled };
        }
    }
}

/// [`Epilogue`] of one channel.
#[derive(Clone, Copy)]
struct EpilogueLanes<S: Simd> {
    scale: Lanes<S>,
    shift: Lanes<S>,
    low: Lanes<S>,
    high: Lanes<S>,
}

impl<S: Simd> EpilogueLanes<S> {
    #[inline(always)]
    fn apply(self, output: Lanes<S>) -> Lanes<S> {
        output.mul_add(self.scale, self.shift).max(self.low).min(self.high)
    }
}
