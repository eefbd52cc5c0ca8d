//! Convolution on the CPU. [`Method::of`] tells which of the files here computes what.

use burn::{
    backend::{Flex, flex::FlexTensor, ops::ModuleOps, tensor::FloatTensor},
    tensor::{DType, Shape, ops::ConvOptions},
};

use super::{Conv2dOps, affine};
use crate::simd::{Shared, tensor};

mod gemm;
mod winograd;

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// 3×3 kernels of stride 1 on several channels: a quarter of the multiplications.
    Winograd,
    /// Everything else without groups.
    Gemm,
    /// Burn's own operator: groups, other types than f32, and tensors without values.
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
            (Some(geometry), method @ (Method::Winograd | Method::Gemm)) => {
                forward(method, &geometry, x, weight, false, Epilogue::default())
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
            (Some(geometry), Method::Winograd | Method::Gemm) if vectors => {
                let (scale, shift) = (scale.to_contiguous(), shift.to_contiguous());
                let epilogue = Epilogue { scale: Some(scale.storage()), shift: Some(shift.storage()), range };
                forward(method, &geometry, x, weight, false, epilogue)
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
        let adjoint = geometry.and_then(Geometry::adjoint);
        match (adjoint, Method::of(adjoint.as_ref(), [&weight, &grad])) {
            (Some(adjoint), method @ (Method::Winograd | Method::Gemm)) => {
                forward(method, &adjoint, grad, weight, true, Epilogue::default())
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
            (Some(geometry), method @ (Method::Winograd | Method::Gemm)) => weight_gradient(method, &geometry, x, grad),
            _ => <Flex as ModuleOps<Flex>>::conv2d_weight_backward(x, weight, grad, options),
        }
    }
}

/// `adjoint`: the weight is that of the convolution whose input's gradient this one computes.
fn forward(
    method: Method,
    geometry: &Geometry,
    x: FlexTensor,
    weight: FlexTensor,
    adjoint: bool,
    epilogue: Epilogue,
) -> FlexTensor {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let [channels_in, channels_out] = geometry.channels;
    let mut output: Vec<f32> = Vec::with_capacity(geometry.batch * channels_out * geometry.output_plane());
    let target = Shared(output.as_mut_ptr());
    match method {
        Method::Winograd => {
            let strides = if adjoint { [9, channels_out * 9] } else { [channels_in * 9, 9] };
            let kernels = Kernels { values: weight.storage(), strides, turned: adjoint };
            winograd::forward(geometry, x.storage(), kernels, epilogue, target);
        }
        _ if adjoint => gemm::forward(geometry, x.storage(), &turned(geometry, weight.storage()), epilogue, target),
        _ => gemm::forward(geometry, x.storage(), weight.storage(), epilogue, target),
    }
    // SAFETY: both methods write every value.
    unsafe { output.set_len(output.capacity().min(geometry.batch * channels_out * geometry.output_plane())) };
    tensor(output, [geometry.batch, channels_out, geometry.output[0], geometry.output[1]])
}

fn weight_gradient(method: Method, geometry: &Geometry, x: FlexTensor, grad: FlexTensor) -> FlexTensor {
    let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
    let gradient = match method {
        Method::Winograd => winograd::weight_gradient(geometry, x.storage(), grad.storage()),
        _ => gemm::weight_gradient(geometry, x.storage(), grad.storage()),
    };
    let [channels_in, channels_out] = geometry.channels;
    tensor(gradient, [channels_out, channels_in, geometry.kernel[0], geometry.kernel[1]])
}

/// `[out, in, …]` → `[in, out, …]` with the kernel turned by half a turn; `geometry` is the adjoint's.
fn turned(geometry: &Geometry, weight: &[f32]) -> Vec<f32> {
    let [channels_out, channels_in] = geometry.channels;
    let kernels: Vec<&[f32]> = weight.chunks_exact(geometry.taps()).collect();
    let mut turned = Vec::with_capacity(weight.len());
    for channel_in in 0..channels_in {
        for channel_out in 0..channels_out {
            turned.extend(kernels[channel_out * channels_in + channel_in].iter().rev());
        }
    }
    turned
}

/// The sizes of a convolution without groups.
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
}

impl Geometry {
    /// None where Burn's convolution is used: groups, and anything without values.
    fn of(x: &Shape, weight: &Shape, options: &ConvOptions<2>) -> Option<Self> {
        let [batch, channels_in, height, width] = x.dims();
        let [channels_out, weight_in, kernel_height, kernel_width] = weight.dims();
        assert_eq!(channels_in, weight_in * options.groups, "input channels and weight {weight:?}");
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
        };
        let values = batch * channels_in * channels_out * height * width * kernel_height * kernel_width;
        (options.groups == 1 && values > 0).then_some(geometry)
    }

    /// The convolution from the output's gradient to the input's, with the kernel turned round; there is one for stride 1.
    fn adjoint(self) -> Option<Self> {
        let padding = |axis: usize| (self.dilation[axis] * (self.kernel[axis] - 1)).checked_sub(self.padding[axis]);
        (self.stride == [1, 1]).then_some(())?;
        Some(Self {
            channels: [self.channels[1], self.channels[0]],
            input: self.output,
            output: self.input,
            padding: [padding(0)?, padding(1)?],
            ..self
        })
    }

    fn method(&self) -> Method {
        let [channels_in, channels_out] = self.channels;
        // Few channels leave the transforms of tiles without enough products to pay for them.
        let worth = channels_in >= 3 && channels_out >= 8;
        match self.kernel == [3, 3] && self.stride == [1, 1] && worth {
            true => Method::Winograd,
            false => Method::Gemm,
        }
    }

    /// Whether the block matrix is the input itself.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
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
            *value = (*value * scale + shift).max(low).min(high);
        }
    }

    fn is_none(&self) -> bool {
        self.scale.is_none() && self.shift.is_none() && self.range.is_none()
    }
}
