//! Convolution on the CPU. [`Method::of`] tells which of the files here computes what.

use burn::{
    backend::{Flex, flex::FlexTensor, ops::ModuleOps, tensor::FloatTensor},
    tensor::{DType, Shape, ops::ConvOptions},
};

use super::{Conv2dOps, affine};
use crate::{
    pool::vector,
    simd::{Shared, at_least, contiguous, pooled_tensor, tensor},
};

mod depthwise;
mod implicit;
mod winograd;

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// 3×3 kernels of stride 1 on several channels: a quarter of the multiplications.
    Winograd,
    /// Each channel by itself.
    Depthwise,
    /// Everything else.
    Implicit,
    /// Burn's own operator: other types than f32, and tensors without values.
    Burn,
}

impl Method {
    fn of(geometry: Option<&Geometry>, tensors: [&FlexTensor; 2]) -> Self {
        match geometry {
            Some(geometry) if tensors.iter().all(|tensor| tensor.dtype() == DType::F32) => geometry.method(),
            _ => Self::Burn,
        }
    }
}

impl Conv2dOps for Flex {
    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<2>) -> FloatTensor<Self> {
        let geometry = Geometry::of(x.layout().shape(), weight.layout().shape(), &options);
        match (geometry, Method::of(geometry.as_ref(), [&x, &weight])) {
            (Some(geometry), method @ (Method::Winograd | Method::Depthwise | Method::Implicit)) => {
                forward(method, &geometry, x, weight, Epilogue::default())
            }
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
        let geometry = Geometry::of(x.layout().shape(), weight.layout().shape(), &options);
        let method = Method::of(geometry.as_ref(), [&x, &weight]);
        let vectors = scale.dtype() == DType::F32 && shift.dtype() == DType::F32;
        match (geometry, method) {
            (Some(geometry), Method::Winograd | Method::Depthwise | Method::Implicit) if vectors => {
                let (scale, shift) = (scale.to_contiguous(), shift.to_contiguous());
                let epilogue = Epilogue { scale: Some(scale.storage()), shift: Some(shift.storage()), range };
                forward(method, &geometry, x, weight, epilogue)
            }
            _ => affine::<Self>(Self::convolve(x, weight, options), scale, shift, range),
        }
    }

    fn convolve_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let geometry = Geometry::of(x.layout().shape(), weight.layout().shape(), &options);
        match (geometry, Method::of(geometry.as_ref(), [&weight, &grad])) {
            (Some(geometry), method @ (Method::Winograd | Method::Depthwise | Method::Implicit)) => {
                input_gradient(method, &geometry, weight, grad)
            }
            _ => <Flex as ModuleOps<Flex>>::conv2d_x_backward(x, weight, grad, options),
        }
    }

    fn convolve_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let geometry = Geometry::of(x.layout().shape(), weight.layout().shape(), &options);
        match (geometry, Method::of(geometry.as_ref(), [&x, &grad])) {
            (Some(geometry), method @ (Method::Winograd | Method::Depthwise | Method::Implicit)) => {
                weight_gradient(method, &geometry, x, grad)
            }
            _ => <Flex as ModuleOps<Flex>>::conv2d_weight_backward(x, weight, grad, options),
        }
    }
}

fn forward(method: Method, geometry: &Geometry, x: FlexTensor, weight: FlexTensor, epilogue: Epilogue) -> FlexTensor {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let [channels_in, channels_out] = geometry.channels;
    let len = geometry.batch * channels_out * geometry.output_plane();
    // A training keeps its tensors until the backward pass, and then a pool is only in the way.
    let evaluated = !epilogue.is_none();
    let mut output = if evaluated { vector(len) } else { Vec::with_capacity(len) };
    let target = Shared(output.as_mut_ptr());
    match method {
        Method::Winograd => {
            let kernels = Kernels { values: weight.storage(), strides: [channels_in * 9, 9], turned: false };
            winograd::forward(geometry, x.storage(), kernels, epilogue, target);
        }
        Method::Depthwise => depthwise::forward(geometry, x.storage(), weight.storage(), epilogue, target),
        _ => implicit::forward(geometry, x.storage(), weight.storage(), epilogue, target),
    }
    // SAFETY: both methods write every value.
    unsafe { output.set_len(len) };
    let shape = [geometry.batch, channels_out, geometry.output[0], geometry.output[1]];
    if evaluated { pooled_tensor(output, shape) } else { tensor(output, shape) }
}

fn input_gradient(method: Method, geometry: &Geometry, weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
    let (weight, grad) = (weight.to_contiguous(), contiguous(grad));
    let channels_in = geometry.channels[0];
    let mut output: Vec<f32> = Vec::with_capacity(geometry.batch * channels_in * geometry.input_plane());
    let target = Shared(output.as_mut_ptr());
    match (method, geometry.adjoint()) {
        (Method::Winograd, Some(adjoint)) => {
            let kernels = Kernels { values: weight.storage(), strides: [9, channels_in * 9], turned: true };
            winograd::forward(&adjoint, grad.storage(), kernels, Epilogue::default(), target);
        }
        (Method::Depthwise, _) => depthwise::input_gradient(geometry, weight.storage(), grad.storage(), target),
        _ => implicit::input_gradient(geometry, weight.storage(), grad.storage(), target),
    }
    // SAFETY: both methods write every value.
    unsafe { output.set_len(geometry.batch * channels_in * geometry.input_plane()) };
    tensor(output, [geometry.batch, channels_in, geometry.input[0], geometry.input[1]])
}

fn weight_gradient(method: Method, geometry: &Geometry, x: FlexTensor, grad: FlexTensor) -> FlexTensor {
    let (x, grad) = (x.to_contiguous(), contiguous(grad));
    let gradient = match method {
        Method::Winograd => winograd::weight_gradient(geometry, x.storage(), grad.storage()),
        Method::Depthwise => depthwise::weight_gradient(geometry, x.storage(), grad.storage()),
        _ => implicit::weight_gradient(geometry, x.storage(), grad.storage()),
    };
    let [channels_in, channels_out] = geometry.channels;
    tensor(gradient, [channels_out, channels_in / geometry.groups, geometry.kernel[0], geometry.kernel[1]])
}

/// The sizes of a convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
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
    /// None where there are no values, or the channels are not whole groups.
    fn of(x: &Shape, weight: &Shape, options: &ConvOptions<2>) -> Option<Self> {
        let [batch, channels_in, height, width] = x.dims();
        let [channels_out, weight_in, kernel_height, kernel_width] = weight.dims();
        assert_eq!(channels_in, weight_in * options.groups, "input channels and weight {weight:?}");
        if [batch, channels_in, channels_out, height, width, kernel_height, kernel_width].contains(&0) {
            return None;
        }
        let side = |axis: usize, input: usize, kernel: usize| {
            let reach = options.dilation[axis] * (kernel - 1) + 1;
            let (before, after) = options.padding[axis];
            Some((input + before + after).checked_sub(reach)? / options.stride[axis] + 1)
        };
        let geometry = Self {
            batch,
            channels: [channels_in, channels_out],
            input: [height, width],
            output: [side(0, height, kernel_height)?, side(1, width, kernel_width)?],
            kernel: [kernel_height, kernel_width],
            stride: options.stride,
            padding: options.padding.map(|(before, _)| before),
            dilation: options.dilation,
            groups: options.groups,
        };
        channels_out.is_multiple_of(options.groups).then_some(geometry)
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

    fn method(&self) -> Method {
        let [channels_in, channels_out] = self.channels;
        // Few channels leave the transforms of tiles without enough products to pay for them, and a dilation near the
        // image's size leaves the tiles half empty.
        let worth = channels_in >= 3 && channels_out >= 8 && winograd::products(self) <= self.products();
        if self.kernel == [3, 3] && self.stride == [1, 1] && self.groups == 1 && worth {
            Method::Winograd
        } else if self.groups == channels_in && self.groups == channels_out && self.groups > 1 {
            Method::Depthwise
        } else {
            Method::Implicit
        }
    }

    /// Products for each pair of channels by the definition.
    fn products(&self) -> usize {
        self.batch * self.output_plane() * self.taps()
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
}

/// Kernels in memory.
#[derive(Clone, Copy)]
pub(super) struct Kernels<'a> {
    pub values: &'a [f32],
    /// From an output channel to the next, and from an input channel to the next.
    pub strides: [usize; 2],
    /// Whether they are turned by half a turn, as the gradient of the input needs them.
    pub turned: bool,
}

/// What happens to an output before it is stored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Epilogue<'a> {
    /// A factor for each channel.
    pub scale: Option<&'a [f32]>,
    /// A summand for each channel.
    pub shift: Option<&'a [f32]>,
    /// Smallest and largest value.
    pub range: Option<[f32; 2]>,
}

impl Epilogue<'_> {
    fn apply(&self, channel: usize, values: &mut [f32]) {
        let (scale, shift) =
            (self.scale.map_or(1.0, |scale| scale[channel]), self.shift.map_or(0.0, |shift| shift[channel]));
        let [low, high] = self.range.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        for value in values {
            let scaled = at_least(*value * scale + shift, low);
            *value = if scaled > high { high } else { scaled };
        }
    }

    fn is_none(&self) -> bool {
        self.scale.is_none() && self.shift.is_none() && self.range.is_none()
    }
}
