//! Convolution on the CPU. [`Geometry::method`] tells which of the files here computes what.

use burn::{
    backend::{
        Flex,
        flex::FlexTensor,
        ops::{FloatTensorOps, ModuleOps},
        tensor::FloatTensor,
    },
    tensor::ops::ConvOptions,
};

use super::{Conv2dOps, affine, joined_dims};
use crate::cpu::{
    matrix::Finish,
    memory::{Memory, all_f32, contiguous, tensor, written},
    simd::{MOST_LANES, at_least},
};

mod band;
mod depthwise;
mod direct;
mod implicit;
mod in_place;
mod winograd;

use winograd::Kernels;

/// Tasks wanted; fixed, so that sums do not depend on the number of threads.
const TASKS: usize = 32;

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// 3×3 kernels on several channels: a quarter of the multiplications. With stride 2 two thirds, forward only.
    Winograd,
    /// Each channel by itself.
    Depthwise,
    /// Few channels out, of each group; the gradient of the weight is that of the implicit GEMM. That of the input has this way
    /// too where there are few channels in.
    InPlace,
    /// Few channels in, where the gradient of the weight is that of the implicit GEMM.
    Direct,
    /// Everything else.
    Implicit,
}

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
}

pub(crate) fn forward(
    geometry: &Geometry,
    x: FlexTensor,
    weight: FlexTensor,
    epilogue: Option<Epilogue>,
) -> FlexTensor {
    let (x, weight) = (contiguous(x), weight.to_contiguous());
    let (x, weight) = (x.storage(), weight.storage());
    let memory = memory(epilogue);
    // SAFETY: every method writes every value.
    unsafe {
        written(geometry.output_shape(), memory, |output| match geometry.method() {
            Method::Winograd => {
                let x = Planes::one(x, geometry.channels[0]);
                winograd::forward(geometry, x, Kernels::new(geometry, weight), epilogue, output);
            }
            Method::Depthwise => depthwise::forward(geometry, x, weight, epilogue, output),
            Method::InPlace => in_place::forward(geometry, x, weight, epilogue, output),
            Method::Direct => direct::forward(geometry, x, weight, epilogue, output),
            Method::Implicit => implicit::forward(geometry, x, weight, epilogue, output),
        })
    }
}

/// [`forward`] with two tensors' channels, for [`Geometry::of_joined`].
fn forward_joined(
    geometry: &Geometry,
    x: [FlexTensor; 2],
    weight: FlexTensor,
    epilogue: Option<Epilogue>,
) -> FlexTensor {
    let channels = x[0].layout().shape()[1];
    let ([x, more], weight) = (x.map(contiguous), weight.to_contiguous());
    let x =
        Planes { first: x.storage(), channels: [channels, geometry.channels[0] - channels], second: more.storage() };
    // SAFETY: every value is written.
    unsafe {
        written(geometry.output_shape(), memory(epilogue), |output| {
            winograd::forward(geometry, x, Kernels::new(geometry, weight.storage()), epilogue, output);
        })
    }
}

/// What has an epilogue is evaluated, but for the few transposed convolutions of a training.
fn memory(epilogue: Option<Epilogue>) -> Memory {
    if epilogue.is_some() { Memory::Pooled } else { Memory::Allocated }
}

/// The gradient of the input, after the epilogue.
pub(crate) fn input_gradient(
    geometry: &Geometry,
    weight: FlexTensor,
    grad: FlexTensor,
    epilogue: Option<Epilogue>,
) -> FlexTensor {
    let (weight, grad) = (weight.to_contiguous(), contiguous(grad));
    let (weight, grad) = (weight.storage(), grad.storage());
    let memory = memory(epilogue);
    // SAFETY: every method writes every value.
    unsafe {
        written(geometry.input_shape(), memory, |output| match (geometry.method(), geometry.adjoint()) {
            (Method::Winograd, Some(adjoint)) => {
                let grad = Planes::one(grad, adjoint.channels[0]);
                winograd::forward(&adjoint, grad, Kernels::new(geometry, weight).turned(), epilogue, output);
            }
            (Method::Depthwise, _) => depthwise::input_gradient(geometry, weight, grad, epilogue, output),
            _ if in_place::gradient_fits(geometry) => {
                in_place::input_gradient(geometry, weight, grad, epilogue, output);
            }
            _ => implicit::input_gradient(geometry, weight, grad, epilogue, output),
        })
    }
}

pub(crate) fn weight_gradient(geometry: &Geometry, x: FlexTensor, grad: FlexTensor) -> FlexTensor {
    let (x, grad) = (contiguous(x), contiguous(grad));
    let (x, grad) = (x.storage(), grad.storage());
    let gradient = match geometry.method() {
        Method::Winograd if geometry.stride == [1, 1] && winograd::tile_products(geometry) <= geometry.products() => {
            winograd::weight_gradient(geometry, x, grad)
        }
        Method::Depthwise => depthwise::weight_gradient(geometry, x, grad),
        Method::Winograd | Method::InPlace | Method::Direct | Method::Implicit => {
            implicit::weight_gradient(geometry, x, grad)
        }
    };
    let [channels_in, channels_out] = geometry.channels;
    tensor(gradient, [channels_out, channels_in / geometry.groups, geometry.kernel[0], geometry.kernel[1]])
}

/// Pixels from the first that a kernel covers to the last, both counted.
pub(crate) fn reach(kernel: usize, dilation: usize) -> Option<usize> {
    dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)
}

/// Taps of a phase of the input's gradient, and where in its reader's kernel they are.
type PhaseTaps = Vec<(usize, [usize; 2])>;

/// The sizes of a convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    batch: usize,
    /// Channels in and out.
    channels: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Zeros before the first row and column; those after the last follow from the sizes.
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
}

impl Geometry {
    /// None where there are no values.
    ///
    /// # Panics
    /// If the shapes do not fit, or are too large for any memory.
    fn of(x: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<2>) -> Option<Self> {
        Self::of_shapes(x.layout().shape().dims(), weight.layout().shape().dims(), options)
    }

    /// As [`of`](Self::of).
    fn of_shapes(x: [usize; 4], weight: [usize; 4], options: &ConvOptions<2>) -> Option<Self> {
        if x.contains(&0) || weight.contains(&0) {
            return None;
        }
        let ConvOptions { stride, padding, dilation, groups } = options;
        let output = [0, 1].map(|axis| {
            let (before, after) = padding[axis];
            let padded = x[2 + axis].checked_add(before).and_then(|size| size.checked_add(after));
            let reach = reach(weight[2 + axis], dilation[axis]);
            match (padded, reach) {
                (Some(padded), Some(reach)) if padded >= reach => (padded - reach) / stride[axis] + 1,
                _ => panic!("a kernel {weight:?} with dilation {dilation:?} is larger than the input {x:?} with padding {padding:?}"),
            }
        });
        Some(Self::new(x, weight, output, *stride, padding.map(|(before, _)| before), *dilation, *groups))
    }

    /// Of a convolution of two tensors' channels, where these can be read from both.
    fn of_joined(x: &FlexTensor, more: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<2>) -> Option<Self> {
        let (first, second): ([usize; 4], [usize; 4]) = (x.layout().shape().dims(), more.layout().shape().dims());
        let geometry = Self::of_shapes(joined_dims(first, second), weight.layout().shape().dims(), options)?;
        let both = first[1] > 0 && second[1] > 0;
        (both && geometry.method() == Method::Winograd && !winograd::by_grids(&geometry)).then_some(geometry)
    }

    /// As [`of`](Self::of), with the output's size; there are values.
    pub fn new(
        x: [usize; 4],
        weight: [usize; 4],
        output: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
        groups: usize,
    ) -> Self {
        let [batch, channels_in, height, width] = x;
        let [channels_out, weight_in, kernel_height, kernel_width] = weight;
        let fits = weight_in.checked_mul(groups) == Some(channels_in) && channels_out.is_multiple_of(groups);
        assert!(fits, "input {x:?} and weight {weight:?} do not fit {groups} groups");
        let sides = [0, 1]
            .map(|axis| reach(weight[2 + axis], dilation[axis])?.checked_add(padding[axis])?.checked_add(output[axis]));
        let sizes = [batch, channels_in.max(channels_out), height.max(output[0]), width.max(output[1])];
        let len = sizes.iter().try_fold(size_of::<f32>(), |len, size| len.checked_mul(*size));
        let possible =
            len.is_some_and(|len| len < 1 << 48) && sides.iter().all(|side| side.is_some_and(|side| side < 1 << 48));
        assert!(possible, "a convolution of {x:?} with {weight:?} to {output:?} fits no memory");
        // Where there is one output only, any stride is the same, and one beyond the input would be too large to count with.
        let stride = [0, 1].map(|axis| if output[axis] == 1 { stride[axis].min(x[2 + axis]) } else { stride[axis] });
        Self {
            batch,
            channels: [channels_in, channels_out],
            input: [height, width],
            output,
            kernel: [kernel_height, kernel_width],
            stride,
            padding,
            dilation,
            groups,
        }
    }

    /// The convolution from the output's gradient to the input's, with the kernel turned round; there is one for stride 1.
    fn adjoint(&self) -> Option<Self> {
        let padding = |axis: usize| (self.dilation[axis] * (self.kernel[axis] - 1)).checked_sub(self.padding[axis]);
        (self.stride == [1, 1]).then_some(())?;
        Some(Self {
            channels: [self.channels[1], self.channels[0]],
            input: self.output,
            output: self.input,
            padding: [padding(0)?, padding(1)?],
            ..*self
        })
    }

    /// What the input's pixels read of the output's gradient, as if it were one convolution of stride 1, and for each phase, row
    /// by row, the taps and where in that convolution's kernel they are.
    fn gradient_reader(&self) -> (Self, Vec<PhaseTaps>) {
        let [rows, columns] = self.stride;
        let phases: Vec<_> =
            (0..rows * columns).map(|phase| self.reaching([phase / columns, phase % columns])).collect();
        let ends = [0, 1].map(|axis| {
            let offsets = phases.iter().flatten().map(|(_, offset)| offset[axis]);
            offsets.fold([0, 0], |[low, high], offset| [offset.min(low), offset.max(high)])
        });
        let reader = Self {
            input: self.output,
            output: [0, 1].map(|axis| self.input[axis].div_ceil(self.stride[axis])),
            kernel: ends.map(|[low, high]| (high - low + 1).unsigned_abs()),
            stride: [1, 1],
            padding: ends.map(|[low, _]| low.unsigned_abs()),
            dilation: [1, 1],
            ..*self
        };
        let place = |(tap, offset): (usize, [isize; 2])| {
            (tap, [0, 1].map(|axis| (offset[axis] - ends[axis][0]).unsigned_abs()))
        };
        (reader, phases.into_iter().map(|taps| taps.into_iter().map(place).collect()).collect())
    }

    /// The taps that lead to an output from the inputs `(i, j) · stride + phase`, and how far from `(i, j)` it is.
    fn reaching(&self, phase: [usize; 2]) -> Vec<(usize, [isize; 2])> {
        let [rows, columns] = [0, 1].map(|axis| -> Vec<(usize, isize)> {
            let offset =
                |tap: usize| (phase[axis] + self.padding[axis]) as isize - (tap * self.dilation[axis]) as isize;
            let stride = self.stride[axis] as isize;
            let taps = (0..self.kernel[axis]).filter(|tap| offset(*tap).rem_euclid(stride) == 0);
            taps.map(|tap| (tap, offset(tap).div_euclid(stride))).collect()
        });
        let both = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
        both.map(|(row, column)| (row.0 * self.kernel[1] + column.0, [row.1, column.1])).collect()
    }

    fn method(&self) -> Method {
        let [channels_in, channels_out] = self.channels;
        // Few channels leave the transforms of tiles without enough products to pay for them, and a dilation near the
        // image's size leaves the tiles half empty.
        let worth = || channels_in >= 8 && channels_out >= 8 && winograd::products(self) <= self.products();
        if winograd::fits(self) && worth() {
            Method::Winograd
        } else if self.groups == channels_in && self.groups == channels_out && self.groups > 1 && depthwise::fits(self)
        {
            Method::Depthwise
        } else if in_place::fits(self) {
            Method::InPlace
        } else if direct::fits(self) {
            Method::Direct
        } else {
            Method::Implicit
        }
    }

    /// Products for each pair of channels by the definition.
    fn products(&self) -> usize {
        self.batch * self.output_plane() * self.taps()
    }

    /// Channels in and out of a group.
    fn group_channels(&self) -> [usize; 2] {
        self.channels.map(|channels| channels / self.groups)
    }

    /// Whether most registers are full that are filled from one row of the output.
    fn fills_registers(&self) -> bool {
        8 * self.output[1].next_multiple_of(MOST_LANES) <= 9 * self.output[1]
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    fn input_shape(&self) -> [usize; 4] {
        [self.batch, self.channels[0], self.input[0], self.input[1]]
    }

    fn output_shape(&self) -> [usize; 4] {
        [self.batch, self.channels[1], self.output[0], self.output[1]]
    }
}

/// Planes of one tensor, `[batch, channels, height, width]`, or of two whose channels follow each other.
#[derive(Clone, Copy)]
struct Planes<'a> {
    first: &'a [f32],
    second: &'a [f32],
    channels: [usize; 2],
}

impl<'a> Planes<'a> {
    fn one(values: &'a [f32], channels: usize) -> Self {
        Self { first: values, second: &[], channels: [channels, 0] }
    }

    /// The values, how many channels they have, and which of them is this one.
    #[inline(always)]
    fn of(&self, channel: usize) -> (&'a [f32], usize, usize) {
        let [first, second] = self.channels;
        if channel < first { (self.first, first, channel) } else { (self.second, second, channel - first) }
    }

    /// Whether `count` values follow the beginning of each plane of an image, within the tensor.
    fn follow(&self, image: usize, count: usize, plane: usize) -> bool {
        [self.first, self.second].into_iter().zip(self.channels).all(|(values, channels)| {
            let last = ((image + 1) * channels).saturating_sub(1) * plane;
            channels == 0 || last.checked_add(count).is_some_and(|end| end <= values.len())
        })
    }
}

/// What happens to an output before it is stored: `range` bounds `output · scale + shift`, one of each a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    /// Smallest and largest value.
    pub range: [f32; 2],
}

impl<'a> Epilogue<'a> {
    /// Of contiguous tensors.
    fn new(scale: &'a FlexTensor, shift: &'a FlexTensor, range: Option<[f32; 2]>) -> Self {
        Self { scale: scale.storage(), shift: shift.storage(), range: range.unwrap_or(Self::UNBOUNDED) }
    }

    /// What a product does whose first row is this channel's.
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

    fn apply(&self, channel: usize, values: &mut [f32]) {
        let (scale, shift, [low, high]) = (self.scale[channel], self.shift[channel], self.range);
        for value in values {
            let scaled = at_least(*value * scale + shift, low);
            *value = if scaled > high { high } else { scaled };
        }
    }
}
