//! The sizes of a convolution, from which everything else follows.

use burn::{backend::flex::FlexTensor, tensor::ops::ConvOptions};

use super::plan::{Method, Pass, Plan};
use crate::{conv2d::joined_dims, cpu::simd::MOST_LANES};

/// Numbers of channels that are read and written, of a convolution or of each of its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Channels {
    pub input: usize,
    pub output: usize,
}

impl Channels {
    /// Returns the channels of the gradient of the input.
    pub fn swapped(self) -> Self {
        Self { input: self.output, output: self.input }
    }
}

/// Returns the number of pixels that a kernel spans along an axis, from its first tap to its last; `None` if it is beyond `usize`.
pub(crate) fn reach(kernel: usize, dilation: usize) -> Option<usize> {
    dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)
}

/// Returns the outputs along an axis; `None` if the kernel is larger than the padded input.
pub(crate) fn output_side(
    side: usize,
    kernel: usize,
    (before, after): (usize, usize),
    stride: usize,
    dilation: usize,
) -> Option<usize> {
    let padded = side.checked_add(before)?.checked_add(after)?;
    Some(padded.checked_sub(reach(kernel, dilation)?)? / stride + 1)
}

/// The sizes of a convolution. Pairs are of rows and columns: `[height, width]` of the input, the output and the kernel, and a
/// step along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Geometry {
    pub(super) batch: usize,
    pub(super) channels: Channels,
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    /// Zeros before the first row and column; those after the last follow from the sizes.
    pub(super) padding: [usize; 2],
    pub(super) dilation: [usize; 2],
    pub(super) groups: usize,
}

impl Geometry {
    /// Returns the sizes of a convolution of `x` with `weight`; `None` if there are no values.
    ///
    /// # Panics
    /// If the shapes do not fit, or are too large for any memory.
    pub(super) fn of(x: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<2>) -> Option<Self> {
        Self::of_shapes(x.layout().shape().dims(), weight.layout().shape().dims(), options)
    }

    /// As [`of`](Self::of).
    pub(crate) fn of_shapes(x: [usize; 4], weight: [usize; 4], options: &ConvOptions<2>) -> Option<Self> {
        if x.contains(&0) || weight.contains(&0) {
            return None;
        }
        let ConvOptions { stride, padding, dilation, groups } = options;
        let output = [0, 1].map(|axis| {
            let side = output_side(x[2 + axis], weight[2 + axis], padding[axis], stride[axis], dilation[axis]);
            side.unwrap_or_else(|| {
                panic!("a kernel {weight:?} with dilation {dilation:?} is larger than the input {x:?} with padding {padding:?}")
            })
        });
        Some(Self::new(x, weight, output, *stride, padding.map(|(before, _)| before), *dilation, *groups))
    }

    /// Returns the sizes of a convolution of two tensors' channels if its method reads these where they lie: Winograd's by tiles.
    pub(super) fn of_joined(
        x: &FlexTensor,
        more: &FlexTensor,
        weight: &FlexTensor,
        options: &ConvOptions<2>,
    ) -> Option<Self> {
        let (first, second): ([usize; 4], [usize; 4]) = (x.layout().shape().dims(), more.layout().shape().dims());
        let geometry = Self::of_shapes(joined_dims(first, second), weight.layout().shape().dims(), options)?;
        let both = first[1] > 0 && second[1] > 0;
        let by_tiles = matches!(Plan::new(&geometry, Pass::Forward).method, Method::Winograd(_));
        (both && by_tiles).then_some(geometry)
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
            channels: Channels { input: channels_in, output: channels_out },
            input: [height, width],
            output,
            kernel: [kernel_height, kernel_width],
            stride,
            padding,
            dilation,
            groups,
        }
    }

    /// Returns the convolution from the output's gradient to the input's, with the kernel turned by half a turn; there is one for
    /// stride 1 and no more padding than the kernel spans.
    pub(super) fn adjoint(&self) -> Option<Self> {
        let padding = |axis: usize| (self.dilation[axis] * (self.kernel[axis] - 1)).checked_sub(self.padding[axis]);
        (self.stride == [1, 1]).then_some(())?;
        Some(Self {
            channels: self.channels.swapped(),
            input: self.output,
            output: self.input,
            padding: [padding(0)?, padding(1)?],
            ..*self
        })
    }

    /// Multiplications for each pair of an input and an output channel, by the definition.
    pub(super) fn products(&self) -> usize {
        self.batch * self.output_plane() * self.taps()
    }

    /// Channels of a group.
    pub(super) fn group_channels(&self) -> Channels {
        Channels { input: self.channels.input / self.groups, output: self.channels.output / self.groups }
    }

    /// Whether registers that hold pixels of one row of the output are at least 8/9 full on average.
    pub(super) fn fills_registers(&self) -> bool {
        8 * self.output[1].next_multiple_of(MOST_LANES) <= 9 * self.output[1]
    }

    /// Taps of a kernel.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub(super) fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    pub(super) fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    pub(super) fn input_shape(&self) -> [usize; 4] {
        [self.batch, self.channels.input, self.input[0], self.input[1]]
    }

    pub(super) fn output_shape(&self) -> [usize; 4] {
        [self.batch, self.channels.output, self.output[0], self.output[1]]
    }

    pub(super) fn weight_shape(&self) -> [usize; 4] {
        [self.channels.output, self.channels.input / self.groups, self.kernel[0], self.kernel[1]]
    }
}
