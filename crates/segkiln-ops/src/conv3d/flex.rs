//! Convolution of volumes on the CPU, as convolutions of images that overlap; see [`super`].
//!
//! Slices near the ends of a volume have fewer neighbors than the kernel is deep. They are convolved by themselves, with the part of
//! the kernel that meets slices, so that no volume is padded by a copy. Slices that meet the same part are one [`Run`].

use std::{borrow::Cow, mem::MaybeUninit, ops::Range};

use burn::{
    backend::{
        Flex, TensorMetadata,
        flex::FlexTensor,
        ops::{FloatTensorOps, ModuleOps},
        tensor::FloatTensor,
    },
    tensor::{Shape, ops::ConvOptions},
};

use super::Conv3dOps;
use crate::{
    conv2d::{
        affine,
        flex::{Epilogue, Geometry, Images, output_side, weight_gradient_values, write_forward, write_input_gradient},
    },
    cpu::memory::{Memory, Temporary, all_f32, tensor, values, values_of, written},
};

impl Conv3dOps for Flex {
    fn convolve3d(x: FloatTensor<Self>, weight: FloatTensor<Self>, options: ConvOptions<3>) -> FloatTensor<Self> {
        match Volumes::of(&x, &weight, &options) {
            Some(volumes) if all_f32(&[&x, &weight]) => volumes.forward(x, weight, None),
            _ => <Flex as ModuleOps<Flex>>::conv3d(x, weight, None, options),
        }
    }

    fn convolve3d_affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        range: Option<[f32; 2]>,
        options: ConvOptions<3>,
    ) -> FloatTensor<Self> {
        match Volumes::of(&x, &weight, &options) {
            Some(volumes) if all_f32(&[&x, &weight, &scale, &shift]) => {
                let (scale, shift) = (scale.to_contiguous(), shift.to_contiguous());
                volumes.forward(x, weight, Some(Epilogue::new(&scale, &shift, range)))
            }
            _ => affine::<Self>(Self::convolve3d(x, weight, options), scale, shift, range),
        }
    }

    fn convolve3d_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<3>,
    ) -> FloatTensor<Self> {
        match Volumes::of(&x, &weight, &options) {
            Some(volumes) if all_f32(&[&weight, &grad]) => volumes.input_gradient(weight, grad),
            _ => <Flex as ModuleOps<Flex>>::conv3d_x_backward(x, weight, grad, options),
        }
    }

    fn convolve3d_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        options: ConvOptions<3>,
    ) -> FloatTensor<Self> {
        match Volumes::of(&x, &weight, &options) {
            Some(volumes) if all_f32(&[&x, &grad]) => volumes.weight_gradient(x, grad),
            _ => <Flex as ModuleOps<Flex>>::conv3d_weight_backward(x, weight, grad, options),
        }
    }
}

/// A convolution of volumes whose kernels meet neighboring slices.
struct Volumes {
    batch: usize,
    /// Channels of the input and of the output.
    channels: [usize; 2],
    /// Slices of the input, the output and the kernel.
    depth: [usize; 3],
    stride: usize,
    /// Slices of zeros before the first.
    padding: usize,
    /// Height and width of the input, the output and the kernel.
    sizes: [[usize; 2]; 3],
    /// Options of the convolution of each slice.
    options: ConvOptions<2>,
}

/// Neighboring output slices that meet the same slices of the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    outputs: Range<usize>,
    /// Slices of the kernel.
    kernel: Range<usize>,
    /// The input slice that the first of them meets for the first output.
    input: usize,
}

/// Returns the runs of `outputs` output slices, of which the first meets the kernel's slice `k` at input slice `first + k`, and
/// the next `stride` later. Outputs that meet no slice are in runs with an empty part of the kernel.
fn runs(inputs: usize, outputs: usize, kernel: usize, first: isize, stride: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for output in 0..outputs {
        let begin = first + (output * stride) as isize;
        let start = usize::try_from(-begin).unwrap_or(0).min(kernel);
        let end = usize::try_from(inputs as isize - begin).unwrap_or(0).clamp(start, kernel);
        let part = if start == end { 0..0 } else { start..end };
        match runs.last_mut() {
            Some(run) if run.kernel == part => run.outputs.end += 1,
            _ => {
                let input = usize::try_from(begin + part.start as isize).unwrap_or(0);
                runs.push(Run { outputs: output..output + 1, kernel: part, input });
            }
        }
    }
    runs
}

/// Returns the values of `[batch, channels, depth, …]` as `[batch, depth, channels, …]`: as they lie, if an operator here made the
/// tensor.
fn slices(volume: FlexTensor) -> FlexTensor {
    Flex::float_permute(volume, &[0, 2, 1, 3, 4]).to_contiguous()
}

/// Returns the view `[batch, channels, depth, height, width]` of slices one after the other.
fn volume(slices: FlexTensor, batch: usize) -> FlexTensor {
    let [all, channels, height, width] = slices.shape().dims();
    let shape = Shape::new([batch, all / batch, channels, height, width]);
    Flex::float_permute(Flex::float_reshape(slices, shape), &[0, 2, 1, 3, 4])
}

impl Volumes {
    /// Returns the sizes of a convolution; `None` if there are no values, or the kernel does not meet neighboring slices with all
    /// their channels.
    ///
    /// # Panics
    /// If the shapes do not fit, or are too large for any memory.
    fn of(x: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<3>) -> Option<Self> {
        let (x, weight): ([usize; 5], [usize; 5]) = (x.shape().dims(), weight.shape().dims());
        let ConvOptions { stride, padding, dilation, groups } = options;
        if x.contains(&0) || weight.contains(&0) || *groups != 1 || (dilation[0] != 1 && weight[2] > 1) {
            return None;
        }
        let [batch, channels, depth, height, width] = x;
        assert_eq!(channels, weight[1], "channels of input {x:?} and weight {weight:?}");
        let output = [0, 1, 2].map(|axis| {
            let side = output_side(x[2 + axis], weight[2 + axis], padding[axis], stride[axis], dilation[axis]);
            side.filter(|side| *side < 1 << 48).unwrap_or_else(|| {
                panic!("a kernel {weight:?} with dilation {dilation:?} is larger than the input {x:?} with padding {padding:?}")
            })
        });
        let rest = |values: &[usize; 3]| [values[1], values[2]];
        let inner = ConvOptions {
            stride: rest(stride),
            padding: [padding[1], padding[2]],
            dilation: rest(dilation),
            groups: 1,
        };
        Some(Self {
            batch,
            channels: [channels, weight[0]],
            depth: [depth, output[0], weight[2]],
            // Where there is one output slice only, any stride is the same, and one beyond the input would be too large to count with.
            stride: if output[0] == 1 { 1 } else { stride[0] },
            padding: padding[0].0,
            sizes: [[height, width], rest(&output), rest(&[weight[2], weight[3], weight[4]])],
            options: inner,
        })
    }

    /// Returns the sizes of a convolution of `images` whose channels are those of `slices` neighboring slices, on one side.
    fn images(&self, images: usize, slices: [usize; 2]) -> Geometry {
        let ([input, output], [[height, width], _, [rows, columns]]) = (self.channels, self.sizes);
        let [input, output] = [input * slices[0], output * slices[1]];
        Geometry::of_shapes([images, input, height, width], [output, input, rows, columns], &self.options)
            .expect("there are values")
    }

    /// Returns the sizes of slices of the input and of the output.
    fn slice_sizes(&self) -> [usize; 2] {
        [0, 1].map(|side| values_of(&[self.channels[side], self.sizes[side][0], self.sizes[side][1]]))
    }

    /// Returns the output's runs.
    fn runs(&self) -> Vec<Run> {
        let [inputs, outputs, kernel] = self.depth;
        runs(inputs, outputs, kernel, -(self.padding as isize), self.stride)
    }

    fn forward(&self, x: FlexTensor, weight: FlexTensor, epilogue: Option<Epilogue>) -> FlexTensor {
        let (x, weight) = (slices(x), slices(weight));
        let (x, weight) = (values(&x), values(&weight));
        let [input, output] = self.slice_sizes();
        let ([channels, channels_out], [depth, depth_out, kernel]) = (self.channels, self.depth);
        let [_, [height, width], _] = self.sizes;
        let runs = self.runs();
        let weights: Vec<Cow<[f32]>> = runs.iter().map(|run| part(weight, channels_out, kernel, &run.kernel)).collect();
        let memory = if epilogue.is_some() { Memory::Pooled } else { Memory::Allocated };
        // SAFETY: the runs are all output slices, and every value of each is written.
        let y = unsafe {
            written([self.batch * depth_out, channels_out, height, width], memory, |y| {
                for (x, y) in x.chunks_exact(depth * input).zip(y.chunks_exact_mut(depth_out * output)) {
                    for (run, weight) in runs.iter().zip(&weights) {
                        let y = &mut y[run.outputs.start * output..run.outputs.end * output];
                        if run.kernel.is_empty() {
                            fill(y, height * width, channels_out, epilogue);
                            continue;
                        }
                        let geometry = self.images(run.outputs.len(), [run.kernel.len(), 1]);
                        let x = Images::overlapping(&x[run.input * input..], self.stride * channels);
                        write_forward(&geometry, x, weight, epilogue, y);
                    }
                }
            })
        };
        volume(y, self.batch)
    }

    /// The gradient of the input is a convolution of the output's gradient, with the kernel's slices in reverse. With a stride,
    /// slices that are a stride apart meet every so many of the kernel's slices: each such phase is a convolution of its own.
    fn input_gradient(&self, weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (weight, grad) = (slices(weight), slices(grad));
        let (weight, grad) = (values(&weight), values(&grad));
        let ([input, output], [depth, depth_out, _]) = (self.slice_sizes(), self.depth);
        let ([channels, _], [[height, width], ..]) = (self.channels, self.sizes);
        let phases: Vec<Phase> = (0..self.stride).filter_map(|phase| self.phase(weight, phase)).collect();
        // SAFETY: the phases are all slices, and every value of each is written.
        let x = unsafe {
            written([self.batch * depth, channels, height, width], Memory::Allocated, |x| {
                for (grad, x) in grad.chunks_exact(depth_out * output).zip(x.chunks_exact_mut(depth * input)) {
                    for phase in &phases {
                        if self.stride == 1 {
                            self.write_phase(phase, grad, x);
                            continue;
                        }
                        let mut slices = Temporary::new(phase.count * input);
                        self.write_phase(phase, grad, slices.as_mut_slice());
                        let targets = x.chunks_exact_mut(input).skip(phase.first).step_by(self.stride);
                        for (target, slice) in targets.zip(slices.as_slice().chunks_exact(input)) {
                            target.copy_from_slice(slice);
                        }
                    }
                }
            })
        };
        volume(x, self.batch)
    }

    /// Returns the phase of the input's slices that the kernel's slices `phase`, `phase + stride`, … meet; `None` if it has none.
    fn phase(&self, weight: &[f32], phase: usize) -> Option<Phase> {
        let ([depth, depth_out, kernel], stride) = (self.depth, self.stride);
        // The slice's index and the padding together are the phase, but for whole strides.
        let first = (phase + stride - self.padding % stride) % stride;
        let count = depth.checked_sub(first)?.div_ceil(stride);
        let [channels, channels_out] = self.channels;
        let per_slice = channels * self.sizes[2][0] * self.sizes[2][1];
        let mut reversed = Vec::new();
        let met: Vec<usize> = (phase..kernel).step_by(stride).collect();
        for slice in met.iter().rev() {
            for out in 0..channels_out {
                reversed.extend_from_slice(&weight[(out * kernel + slice) * per_slice..][..per_slice]);
            }
        }
        let begin = ((first + self.padding - phase) / stride) as isize - (met.len() as isize - 1);
        let runs = runs(depth_out, count, met.len(), begin, 1);
        (count > 0).then_some(Phase { first, count, runs, weight: reversed })
    }

    /// Writes the gradients of a phase's slices.
    fn write_phase(&self, phase: &Phase, grad: &[f32], x: &mut [MaybeUninit<f32>]) {
        let ([input, output], [channels, channels_out]) = (self.slice_sizes(), self.channels);
        let per_slice = channels_out * channels * self.sizes[2][0] * self.sizes[2][1];
        for run in &phase.runs {
            let x = &mut x[run.outputs.start * input..run.outputs.end * input];
            if run.kernel.is_empty() {
                x.fill(MaybeUninit::new(0.0));
                continue;
            }
            let geometry = self.images(run.outputs.len(), [1, run.kernel.len()]);
            let weight = &phase.weight[run.kernel.start * per_slice..run.kernel.end * per_slice];
            let grad = Images::overlapping(&grad[run.input * output..], channels_out);
            write_input_gradient(&geometry, weight, grad, None, x);
        }
    }

    fn weight_gradient(&self, x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (x, grad) = (slices(x), slices(grad));
        let (x, grad) = (values(&x), values(&grad));
        let ([input, output], [depth, depth_out, kernel]) = (self.slice_sizes(), self.depth);
        let ([channels, channels_out], [.., [rows, columns]]) = (self.channels, self.sizes);
        let per_slice = channels * rows * columns;
        let mut sums = vec![0.0; values_of(&[channels_out, kernel, per_slice])];
        for (x, grad) in x.chunks_exact(depth * input).zip(grad.chunks_exact(depth_out * output)) {
            for run in self.runs().iter().filter(|run| !run.kernel.is_empty()) {
                let geometry = self.images(run.outputs.len(), [run.kernel.len(), 1]);
                let x = Images::overlapping(&x[run.input * input..], self.stride * channels);
                let grad = &grad[run.outputs.start * output..run.outputs.end * output];
                let gradient = weight_gradient_values(&geometry, x, grad);
                let sums = sums.chunks_exact_mut(kernel * per_slice);
                for (sums, gradient) in sums.zip(gradient.chunks_exact(run.kernel.len() * per_slice)) {
                    for (sum, value) in sums[run.kernel.start * per_slice..].iter_mut().zip(gradient) {
                        *sum += value;
                    }
                }
            }
        }
        volume(tensor(sums, [channels_out * kernel, channels, rows, columns]), channels_out)
    }
}

/// Slices of the input that meet the same slices of a kernel with a stride.
struct Phase {
    first: usize,
    count: usize,
    runs: Vec<Run>,
    /// `[slices of the kernel in reverse, channels out, channels in, taps]`
    weight: Vec<f32>,
}

/// Returns the weight of some of a kernel's slices, for each output channel.
fn part<'a>(weight: &'a [f32], channels_out: usize, kernel: usize, slices: &Range<usize>) -> Cow<'a, [f32]> {
    if slices.len() == kernel {
        return Cow::Borrowed(weight);
    }
    let per_channel = weight.len() / channels_out;
    let per_slice = per_channel / kernel;
    let part = |channel: &'a [f32]| &channel[slices.start * per_slice..slices.end * per_slice];
    weight.chunks_exact(per_channel).flat_map(part).copied().collect()
}

/// Writes slices whose kernels meet zeros only.
fn fill(slices: &mut [MaybeUninit<f32>], plane: usize, channels: usize, epilogue: Option<Epilogue>) {
    for (index, plane) in slices.chunks_exact_mut(plane).enumerate() {
        let mut value = [0.0];
        if let Some(epilogue) = epilogue {
            epilogue.apply(index % channels, &mut value);
        }
        plane.fill(MaybeUninit::new(value[0]));
    }
}
