mod layers;

use std::collections::HashSet;

use burn::tensor::{
    Device, Distribution, Tensor, TensorData, Tolerance, module::conv2d as burn_conv2d, ops::ConvOptions,
};
use layers::layers;
use proptest::{prelude::*, sample::select, test_runner::RngSeed};

use super::{
    conv2d, conv2d_affine,
    flex::{
        methods,
        plan::{
            Method::{self, *},
            Order::*,
        },
    },
};
use crate::{
    cpu::{matrix::RegisterSizes, simd::MOST_LANES},
    test_devices, test_values as values,
};

fn options(stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2], groups: usize) -> ConvOptions<2> {
    ConvOptions::new(stride, padding, dilation, groups)
}

/// The methods are those of the table in `flex/mod.rs`.
#[test]
fn each_layer_has_its_methods() {
    let wide = RegisterSizes::native().lanes == MOST_LANES;
    let mut wrong = Vec::new();
    for layer in layers() {
        let expected = if wide { layer.methods } else { layer.narrow };
        let found = methods(layer.x, layer.weight, &layer.options);
        if found != expected {
            wrong.push(format!("{}: {found:?}, not {expected:?}", layer.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Compares the method of the forward pass, with registers of 16 values: with narrower ones a few are others.
fn assert_method(method: Method, x: [usize; 4], weight: [usize; 4], options: &ConvOptions<2>) {
    if RegisterSizes::native().lanes == MOST_LANES {
        assert_eq!(methods(x, weight, options)[0], method, "{x:?} * {weight:?}");
    }
}

#[test]
fn layers_reach_every_method() {
    let tasks = [Winograd(Tiles), Winograd(Channels), Winograd(Points)];
    let reached: [HashSet<Method>; 3] =
        [0, 1, 2].map(|pass| layers().iter().map(|layer| layer.methods[pass]).collect());
    let [forward, input, weight] = [
        [&tasks[..], &[WinogradGrids, Depthwise, InPlace, PaddedCopy, ImplicitGemm]].concat(),
        [&tasks[..], &[WinogradGrids, Depthwise, InPlace, ImplicitGemm]].concat(),
        vec![WinogradAdjoint, Depthwise, ImplicitGemm],
    ];
    assert_eq!(reached, [forward, input, weight].map(HashSet::from_iter));
}

/// Products of a layer that Miri is asked for; it takes a quarter of a minute for a thousand.
const MOST_FOR_MIRI: usize = 3500;

/// How an input lies in memory.
#[derive(Debug, Clone, Copy)]
enum View {
    Whole,
    /// Columns before rows.
    Turned,
    /// Within a larger tensor.
    Sliced,
}

impl View {
    /// The shape of the tensor of which this is a view of that shape.
    fn whole(self, [batch, channels, height, width]: [usize; 4]) -> [usize; 4] {
        match self {
            Self::Whole => [batch, channels, height, width],
            Self::Turned => [batch, channels, width, height],
            Self::Sliced => [batch, channels + 1, height + 3, width + 2],
        }
    }

    fn of(self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        match self {
            Self::Whole => x,
            Self::Turned => x.swap_dims(2, 3),
            Self::Sliced => x.slice([0..batch, 1..channels, 2..height - 1, 0..width - 2]),
        }
    }
}

/// Output and both gradients of `f`, whose input is `view` of a tensor of this shape.
fn differentiated(
    x_shape: [usize; 4],
    weight_shape: [usize; 4],
    view: View,
    f: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>,
) -> [TensorData; 3] {
    let device = Device::flex().autodiff();
    let x = values(view.whole(x_shape), 0, &device).require_grad();
    let weight = values(weight_shape, 1, &device).require_grad();
    let y = f(view.of(x.clone()), weight.clone());
    let target = values(y.dims(), 2, &device);
    let gradients = (y.clone() * target).backward();
    [y.inner(), x.grad(&gradients).unwrap(), weight.grad(&gradients).unwrap()].map(Tensor::into_data)
}

/// Compares with Burn's values, to 1e-4 of the largest.
fn assert_close(name: &str, ours: &TensorData, burn: &TensorData) {
    let largest = burn.iter::<f32>().fold(0.0, |largest, value| value.abs().max(largest));
    let tolerance = 1e-4 * largest.max(1.0);
    assert_eq!(ours.shape(), burn.shape(), "{name}");
    for (index, (ours, burn)) in ours.iter::<f32>().zip(burn.iter::<f32>()).enumerate() {
        assert!((ours - burn).abs() <= tolerance, "{name}: {ours}, not {burn}, at {index}");
    }
}

/// Output and both gradients against Burn's own operator, which the other backends' are.
fn assert_equals_burn(name: &str, x_shape: [usize; 4], weight_shape: [usize; 4], view: View, options: &ConvOptions<2>) {
    let ours = differentiated(x_shape, weight_shape, view, |x, weight| conv2d(x, weight, None, options.clone()));
    let burn = differentiated(x_shape, weight_shape, view, |x, weight| burn_conv2d(x, weight, None, options.clone()));
    for ((ours, burn), pass) in ours.iter().zip(&burn).zip(["output", "input gradient", "weight gradient"]) {
        assert_close(&format!("{name}, {pass}"), ours, burn);
    }
}

#[test]
fn equals_burn_conv2d() {
    for layer in layers() {
        if cfg!(miri) && layer.products() > MOST_FOR_MIRI {
            continue;
        }
        assert_equals_burn(layer.name, layer.x, layer.weight, View::Whole, &layer.options);
    }
}

#[derive(Debug, Clone, Copy)]
struct Axis {
    size: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: (usize, usize),
}

prop_compose! {
    fn axis()(
        kernel in prop_oneof![3 => Just(3), 1 => Just(1), 2 => 1..8usize],
        stride in prop_oneof![3 => Just(1), 2 => Just(2), 1 => 3..5usize],
        dilation in prop_oneof![3 => Just(1), 1 => 2..9usize],
        padding in prop_oneof![1 => Just((0, 0)), 2 => Just((1, 1)), 2 => (0..6usize, 0..6usize)],
        more in 0..48usize,
    ) -> Axis {
        let reach = dilation * (kernel - 1) + 1;
        let size = reach.saturating_sub(padding.0 + padding.1).max(1) + more;
        Axis { size, kernel, stride, dilation, padding }
    }
}

/// Groups, and the channels in and out of each.
fn channels() -> impl Strategy<Value = [usize; 3]> {
    prop_oneof![
        3 => [1..2usize, 1..80, 1..80],
        2 => [1..2usize, 8..80, 8..80],
        2 => [1..2usize, 1..5, 1..80],
        1 => [2..5usize, 1..20, 1..20],
        2 => [1..20usize, 1..2, 1..2],
    ]
}

prop_compose! {
    /// Shapes and options of a convolution, and how its input lies in memory; both axes alike two times of three.
    fn convolutions()(
        batch in prop_oneof![1 => Just(0), 19 => 1..3usize],
        [groups, channels_in, channels_out] in channels(),
        rows in axis(),
        other in axis(),
        alike in select(vec![true, true, false]),
        view in select(vec![View::Whole, View::Turned, View::Sliced]),
    ) -> ([usize; 4], [usize; 4], View, ConvOptions<2>) {
        let columns = if alike { Axis { size: rows.size + other.size % 5, ..rows } } else { other };
        let axes = [rows, columns];
        // A slice without values has no gradients.
        let view = if batch == 0 { View::Whole } else { view };
        (
            [batch, groups * channels_in, rows.size, columns.size],
            [groups * channels_out, channels_in, rows.kernel, columns.kernel],
            view,
            ConvOptions::new_with_padding(axes.map(|axis| axis.stride), axes.map(|axis| axis.padding), axes.map(|axis| axis.dilation), groups),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(0), failure_persistence: None, ..ProptestConfig::default() })]

    /// Output and gradients against Burn's operator; two tensors against one, and an epilogue against operators after it.
    #[test]
    #[cfg_attr(miri, ignore)]
    fn any_convolution_equals_burn((x_shape, weight_shape, view, options) in convolutions()) {
        assert_equals_burn("drawn", x_shape, weight_shape, view, &options);
        let device = Device::flex();
        let x = view.of(values(view.whole(x_shape), 0, &device));
        let weight = values(weight_shape, 1, &device);
        let y = conv2d(x.clone(), weight.clone(), None, options.clone());
        if x_shape[1] > 1 {
            let first = 1 + weight_shape[0] % (x_shape[1] - 1);
            let [a, b] = [0..first, first..x_shape[1]].map(|channels| x.clone().slice([0..x_shape[0], channels]));
            let joined = conv2d([a, b], weight.clone(), None, options.clone());
            joined.into_data().assert_eq(&y.to_data(), true);
        }
        let [scale, shift] = [2, 3].map(|seed| values([1, weight_shape[0], 1, 1], seed, &device));
        let expected = (y * scale.clone() + shift.clone()).clamp(-0.5, 6.0);
        let [scale, shift] = [scale, shift].map(|values| values.reshape([weight_shape[0]]));
        let fused = conv2d_affine(x, weight, scale, shift, Some([-0.5, 6.0]), options);
        assert_close("epilogue", &fused.into_data(), &expected.into_data());
    }
}

/// By several methods. The output is linear in each value, so that large steps do no harm.
#[test]
fn gradients_equal_finite_differences() {
    let device = Device::flex();
    for (method, x_shape, weight_shape, options) in [
        (Winograd(Tiles), [2, 8, 9, 35], [9, 8, 3, 3], options([1, 1], [1, 2], [1, 1], 1)),
        (ImplicitGemm, [1, 6, 8, 21], [4, 3, 3, 2], options([2, 1], [1, 0], [1, 2], 2)),
        (Depthwise, [2, 5, 11, 18], [5, 1, 3, 3], options([2, 2], [1, 1], [1, 1], 5)),
        (InPlace, [1, 3, 8, 31], [4, 3, 3, 3], options([2, 2], [1, 1], [1, 1], 1)),
        (PaddedCopy, [1, 3, 5, 31], [18, 3, 3, 3], options([1, 1], [1, 1], [1, 1], 1)),
    ] {
        assert_method(method, x_shape, weight_shape, &options);
        let (x, weight) = (values(x_shape, 0, &device), values(weight_shape, 1, &device));
        let y = conv2d(x.clone(), weight.clone(), None, options.clone());
        let target = values(y.dims(), 2, &device).into_data().try_into_vec::<f32>().unwrap();
        let loss = |x: &Tensor<4>, weight: &Tensor<4>| -> f64 {
            let y = conv2d(x.clone(), weight.clone(), None, options.clone()).into_data();
            y.iter::<f32>().zip(&target).map(|(value, target)| f64::from(value) * f64::from(*target)).sum()
        };
        let moved = |tensor: &Tensor<4>, index: usize, step: f32| {
            let mut values = tensor.to_data().try_into_vec::<f32>().unwrap();
            values[index] += step;
            Tensor::<4>::from_data(TensorData::new(values, tensor.dims()), &device)
        };
        let (x, weight) = (x.autodiff().require_grad(), weight.autodiff().require_grad());
        let y = conv2d(x.clone(), weight.clone(), None, options.clone());
        let target = Tensor::<4>::from_data(TensorData::new(target.clone(), y.dims()), &device).autodiff();
        let gradients = (y * target).backward();
        let both = [x.grad(&gradients), weight.grad(&gradients)].map(|gradient| gradient.unwrap().into_data());
        let (x, weight) = (x.inner(), weight.inner());
        for (of_weight, gradient) in [false, true].into_iter().zip(&both) {
            let gradient = gradient.iter::<f32>().collect::<Vec<_>>();
            for index in (0..gradient.len()).step_by(gradient.len() / 7) {
                let at = |step: f32| match of_weight {
                    true => loss(&x, &moved(&weight, index, step)),
                    false => loss(&moved(&x, index, step), &weight),
                };
                let (difference, gradient) = ((at(2.0) - at(-2.0)) / 4.0, f64::from(gradient[index]));
                assert!(
                    (difference - gradient).abs() < 1e-3,
                    "{weight_shape:?}, {index}: {difference}, not {gradient}"
                );
            }
        }
    }
}

/// Winograd's transforms round more than sums do: the largest difference from sums in f64, as part of the output's range. With
/// tiles of 4×4, and of 6×6, 3×3 and 2×2 where each grid of a dilation is a tile.
#[test]
fn winograd_is_exact_to_a_hundred_thousandth() {
    let device = Device::flex();
    for channels in [16, 256] {
        for (side, stride, dilation) in [(12, 1, 1), (32, 1, 4), (28, 1, 6), (22, 1, 7), (21, 2, 1)] {
            device.seed(0);
            let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
            let (x, weight) = (random([1, channels, side, side]), random([8, channels, 3, 3]));
            let y = conv2d(x.clone(), weight.clone(), None, options([stride; 2], [0, 0], [dilation; 2], 1));
            let [x, weight, y] = [x, weight, y].map(|tensor| tensor.into_data().try_into_vec::<f32>().unwrap());
            let out_side = (side - 2 * dilation).div_ceil(stride);
            let sum = |index: usize| -> f64 {
                let (out, row, column) = (index / out_side / out_side, index / out_side % out_side, index % out_side);
                let terms = (0..channels * 9).map(|index| {
                    let (channel, a, b) = (index / 9, index / 3 % 3, index % 3);
                    let [row, column] = [row * stride + a * dilation, column * stride + b * dilation];
                    let pixel = x[(channel * side + row) * side + column];
                    f64::from(pixel) * f64::from(weight[out * channels * 9 + index])
                });
                terms.sum()
            };
            let exact: Vec<f64> = (0..y.len()).map(sum).collect();
            let range = exact.iter().copied().fold(f64::NEG_INFINITY, f64::max)
                - exact.iter().copied().fold(f64::INFINITY, f64::min);
            let error = y.iter().zip(&exact).map(|(y, exact)| (f64::from(*y) - exact).abs()).fold(0.0, f64::max);
            assert!(
                error < 1e-5 * range,
                "{channels} channels, stride {stride}, dilation {dilation}: {error} of {range}"
            );
        }
    }
}

#[test]
fn views_bias_and_empty_batches_work() {
    let device = Device::flex();
    let options = options([1, 1], [1, 1], [1, 1], 1);
    let weight = values([4, 3, 3, 3], 1, &device);
    let bias = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &device);
    let view = values([1, 6, 8, 9], 0, &device).swap_dims(2, 3).slice([0..1, 1..4, 1..8, 2..7]);
    let copy = Tensor::<4>::from_data(view.to_data(), &device);
    let [of_view, of_copy] =
        [view, copy.clone()].map(|x| conv2d(x, weight.clone(), Some(bias.clone()), options.clone()).into_data());
    of_view.assert_eq(&of_copy, true);
    let plain = conv2d(copy, weight.clone(), None, options.clone()) + bias.reshape([1, 4, 1, 1]);
    of_view.assert_approx_eq::<f32>(&plain.into_data(), Tolerance::default());
    let none = conv2d(Tensor::zeros([0, 3, 5, 5], &device), weight, None, options);
    assert_eq!(none.dims(), [0, 4, 5, 5]);
}

/// Scale, shift and range against the operators that they stand for, by every method.
#[test]
fn affine_equals_operators_one_by_one() {
    for device in test_devices() {
        for (method, x_shape, weight_shape, dilation, groups) in [
            (Winograd(Tiles), [2, 8, 9, 35], [9, 8, 3, 3], [1, 1], 1),
            (WinogradGrids, [2, 8, 9, 13], [9, 8, 3, 3], [5, 4], 1),
            (ImplicitGemm, [2, 3, 9, 11], [4, 3, 2, 3], [1, 1], 1),
            (PaddedCopy, [2, 3, 9, 47], [21, 3, 3, 3], [1, 1], 1),
            (Depthwise, [1, 5, 7, 18], [5, 1, 3, 3], [1, 1], 5),
            (InPlace, [2, 6, 9, 31], [18, 2, 3, 3], [1, 1], 3),
            (InPlace, [1, 70, 9, 250], [3, 70, 3, 3], [1, 1], 1),
        ] {
            let options = options([1, 1], dilation, dilation, groups);
            assert_method(method, x_shape, weight_shape, &options);
            let (x, weight) = (values(x_shape, 0, &device), values(weight_shape, 1, &device));
            let channels = weight_shape[0];
            let [scale, shift] = [2, 3].map(|seed| values([1, channels, 1, 1], seed, &device));
            let y = conv2d(x.clone(), weight.clone(), None, options.clone()) * scale.clone() + shift.clone();
            for (range, expected) in [(None, y.clone()), (Some([-0.5, 1.0]), y.clamp(-0.5, 1.0))] {
                let [scale, shift] = [&scale, &shift].map(|values| values.clone().reshape([channels]));
                let fused = conv2d_affine(x.clone(), weight.clone(), scale, shift, range, options.clone());
                fused.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }
}

/// The fused operator's gradient for its inputs against that of the operators one by one, whose weights are constants or are learned.
#[test]
fn affine_is_differentiated() {
    for device in test_devices() {
        for (shape, more, out, groups) in
            [([2, 6, 9, 31], 4, 18, 1), ([1, 20, 33, 47], 9, 12, 1), ([1, 4, 12, 9], 4, 8, 2)]
        {
            let [n, channels, height, width] = shape;
            let options = options([1, 1], [1, 1], [1, 1], groups);
            let parts = [
                values(shape, 0, &device),
                values([n, more, height, width], 1, &device),
                values([out, (channels + more) / groups, 3, 3], 2, &device),
            ];
            let [scale, shift] = [3, 4].map(|seed| values([1, out, 1, 1], seed, &device));
            for range in [None, Some([0.0, f32::INFINITY]), Some([-0.5, 0.75])] {
                for tracked in [[true, true, false], [false, true, false], [true, false, false], [true; 3]] {
                    let run = |fused: bool| {
                        let [x, more, weight] = [0, 1, 2].map(|index| match tracked[index] {
                            true => parts[index].clone().autodiff().require_grad(),
                            false => parts[index].clone(),
                        });
                        let inputs = [x.clone(), more.clone()];
                        let y = if fused {
                            let [scale, shift] = [&scale, &shift].map(|values| values.clone().reshape([out]));
                            conv2d_affine(inputs, weight.clone(), scale, shift, range, options.clone())
                        } else {
                            let inputs = inputs.map(Tensor::autodiff);
                            let y =
                                conv2d(inputs, weight.clone(), None, options.clone()) * scale.clone() + shift.clone();
                            match range {
                                Some([0.0, f32::INFINITY]) => burn::tensor::activation::relu(y),
                                Some([low, high]) => y.clamp(low, high),
                                None => y,
                            }
                        };
                        let gradients = (y.clone() * values(y.dims(), 5, &device)).backward();
                        let mut results = vec![y.inner()];
                        results.extend([x, more, weight].into_iter().filter_map(|part| part.grad(&gradients)));
                        results.into_iter().map(Tensor::into_data).collect::<Vec<_>>()
                    };
                    let (fused, single) = (run(true), run(false));
                    assert_eq!(fused.len(), 1 + tracked.iter().filter(|tracked| **tracked).count());
                    for (fused, single) in fused.iter().zip(&single) {
                        assert_close(&format!("{shape:?}, {range:?}, {tracked:?}"), fused, single);
                    }
                }
            }
        }
    }
}

/// Two tensors' channels, evaluated and with the gradients of all: each order of Winograd's tasks, borders and several
/// images, and what other methods compute from one tensor.
#[test]
fn joined_inputs_equal_one() {
    for (shape, more, out, options) in [
        ([2, 20, 33, 47], 9, 12, options([1, 1], [1, 1], [1, 1], 1)),
        ([1, 32, 70, 130], 32, 40, options([1, 1], [0, 2], [1, 1], 1)),
        ([2, 5, 9, 7], 70, 64, options([1, 1], [1, 1], [1, 1], 1)),
        ([1, 300, 45, 47], 50, 345, options([1, 1], [1, 1], [1, 1], 1)),
        ([1, 11, 26, 30], 8, 9, options([1, 1], [4, 3], [4, 3], 1)),
        ([2, 9, 23, 31], 7, 10, options([1, 1], [5, 8], [5, 8], 1)),
        ([2, 13, 22, 141], 8, 12, options([2, 2], [1, 1], [1, 1], 1)),
        ([2, 3, 10, 9], 4, 5, options([1, 1], [0, 0], [1, 1], 1)),
        ([1, 4, 12, 9], 4, 8, options([2, 2], [1, 1], [1, 1], 2)),
    ] {
        let [n, channels, height, width] = shape;
        let (more_shape, weight_shape) = ([n, more, height, width], [out, (channels + more) / options.groups, 3, 3]);
        let run = |joined: bool, tracked: [bool; 3]| {
            let autodiff = tracked.contains(&true);
            let device = if autodiff { Device::flex().autodiff() } else { Device::flex() };
            let bias = values([1, out, 1, 1], 3, &device).reshape([out]);
            let tensors = [(shape, 0, 0), (more_shape, 2, 1), (weight_shape, 1, 2)];
            let tensors = tensors.map(|(shape, seed, index)| {
                let tensor = values(shape, seed, &device);
                if tracked[index] { tensor.require_grad() } else { tensor }
            });
            let [x, more, weight] = tensors.clone();
            let y = match joined {
                true => conv2d([x, more], weight, Some(bias), options.clone()),
                false => conv2d(Tensor::cat(vec![x, more], 1), weight, Some(bias), options.clone()),
            };
            let mut results = vec![y.to_data()];
            if autodiff {
                let gradients = (y.clone() * values(y.dims(), 4, &device)).backward();
                for (tensor, tracked) in tensors.iter().zip(tracked) {
                    let gradient = tensor.grad(&gradients);
                    assert_eq!(gradient.is_some(), tracked);
                    results.extend(gradient.map(Tensor::into_data));
                }
            }
            results
        };
        let only = |index: usize| [0, 1, 2].map(|tracked| tracked == index);
        for tracked in [[false; 3], [true; 3], only(0), only(1), only(2)] {
            for (index, (two, one)) in run(true, tracked).iter().zip(run(false, tracked)).enumerate() {
                if index == 0 {
                    assert_eq!(*two, one, "{shape:?} and {more}");
                } else {
                    let largest = one.iter::<f32>().fold(0.0, |largest, value| value.abs().max(largest));
                    two.assert_approx_eq::<f32>(&one, Tolerance::absolute(1e-4 * largest.max(1.0)));
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "differ in more than the channels")]
fn inputs_of_other_sizes_are_not_joined() {
    let device = Device::flex();
    conv2d(
        [Tensor::<4>::zeros([1, 8, 9, 9], &device), Tensor::zeros([1, 8, 9, 8], &device)],
        Tensor::zeros([8, 16, 3, 3], &device),
        None,
        options([1, 1], [1, 1], [1, 1], 1),
    );
}

/// A training that diverged must show it.
#[test]
fn nan_is_kept() {
    let device = Device::flex();
    for (method, weight_shape, stride, dilation, groups) in [
        (Winograd(Tiles), [8, 8, 3, 3], 1, 1, 1),
        (Winograd(Tiles), [8, 8, 3, 3], 2, 1, 1),
        (WinogradGrids, [8, 8, 3, 3], 1, 7, 1),
        (InPlace, [2, 8, 3, 3], 1, 1, 1),
        (InPlace, [2, 8, 2, 3], 1, 1, 1),
        (PaddedCopy, [18, 8, 2, 3], 1, 1, 1),
        (ImplicitGemm, [4, 8, 1, 1], 1, 0, 1),
        (Depthwise, [8, 1, 3, 3], 1, 1, 8),
        (InPlace, [8, 2, 3, 3], 2, 1, 4),
    ] {
        let x = values([1, 8, 7, 31], 0, &device).mul_scalar(f32::NAN);
        let weight = values(weight_shape, 1, &device);
        let ones = Tensor::<1>::ones([weight_shape[0]], &device);
        let options = options([stride; 2], [dilation; 2], [dilation.max(1); 2], groups);
        assert_method(method, [1, 8, 7, 31], weight_shape, &options);
        let y = conv2d_affine(x, weight, ones.clone(), ones, Some([0.0, f32::INFINITY]), options);
        assert!(y.into_data().iter::<f32>().all(f32::is_nan));
    }
}

/// Where there is one output only, a stride means nothing, however large.
#[test]
fn a_stride_beyond_the_input_is_any_other() {
    let device = Device::flex().autodiff();
    for (weight_shape, groups) in [([2, 1, 3, 3], 2), ([3, 2, 3, 3], 1)] {
        let run = |stride: usize| {
            let x = values([1, 2, 3, 18], 0, &device).require_grad();
            let weight = values(weight_shape, 1, &device).require_grad();
            let y = conv2d(x.clone(), weight.clone(), None, options([stride, 1], [0, 0], [1, 1], groups));
            let gradients = (y.clone() * y.clone()).backward();
            [y.inner(), x.grad(&gradients).unwrap(), weight.grad(&gradients).unwrap()].map(Tensor::into_data)
        };
        for (far, one) in run(1 << 60).iter().zip(&run(1)) {
            far.assert_approx_eq::<f32>(one, Tolerance::rel_abs(1e-4, 1e-4));
        }
    }
}

/// Large enough that several blocks and tasks are at work.
#[test]
fn bits_do_not_depend_on_the_thread_count() {
    let device = Device::flex().autodiff();
    let run = || {
        [([2, 48, 40, 64], [32, 48, 3, 3]), ([2, 70, 40, 250], [3, 70, 3, 3])].map(|(x_shape, weight_shape)| {
            let (x, weight) = (values(x_shape, 0, &device), values(weight_shape, 1, &device));
            let (x, weight) = (x.require_grad(), weight.require_grad());
            let y = conv2d(x.clone(), weight.clone(), None, options([1, 1], [1, 1], [1, 1], 1));
            let gradients = (y.clone() * y.clone()).backward();
            [y.inner(), x.grad(&gradients).unwrap(), weight.grad(&gradients).unwrap()].map(Tensor::into_data)
        })
    };
    let with = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    let one = with(1);
    // Within a pool, and with helpers.
    for results in [with(2), with(3), with(8), run()] {
        for (ours, one) in results.iter().flatten().zip(one.iter().flatten()) {
            ours.assert_eq(one, true);
        }
    }
}

fn convolve(x: [usize; 4], weight: [usize; 4], options: ConvOptions<2>) {
    let device = Device::flex();
    conv2d(Tensor::zeros(x, &device), Tensor::zeros(weight, &device), None, options);
}

#[test]
#[should_panic(expected = "is larger than the input")]
fn a_kernel_larger_than_the_input_is_refused() {
    convolve([1, 1, 4, 4], [1, 1, 5, 5], options([1, 1], [0, 0], [1, 1], 1));
}

#[test]
#[should_panic(expected = "do not fit 2 groups")]
fn channels_that_are_no_whole_groups_are_refused() {
    convolve([1, 2, 5, 5], [3, 1, 3, 3], options([1, 1], [0, 0], [1, 1], 2));
}

#[test]
#[should_panic(expected = "fits no memory")]
fn sizes_beyond_any_memory_are_refused() {
    convolve([1, 2, 1, 16], [2, 1, 1, 1], options([1, 1], [1 << 59, 0], [1, 1], 2));
}

/// A 1×1 kernel that lies as a fully connected layer's weight, forward and both gradients: single channels, parts of panels,
/// several tasks, several images.
#[test]
fn linear_layouts_equal_kernels() {
    for (batch, from, to, side) in
        [(1, 1, 1, 3), (2, 1, 9, 4), (1, 9, 1, 5), (2, 40, 37, 7), (1, 70, 300, 2), (3, 64, 16, 33), (1, 33, 130, 20)]
    {
        let run = |is_linear: bool| {
            let device = Device::flex().autodiff();
            let x = values([batch, from, side, side], 1, &device).require_grad();
            let layer = values([1, 1, from, to], 2, &device).require_grad();
            let kernel = layer.clone().permute([3, 2, 0, 1]);
            // Adding a value makes new memory, in the kernel's own order.
            let kernel = if is_linear { kernel } else { kernel.zeros_like() + kernel };
            let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
            let y = conv2d(x.clone(), kernel, None, options);
            let gradients = (y.clone() * values(y.dims(), 3, &device)).sum().backward();
            [y.inner(), x.grad(&gradients).unwrap(), layer.grad(&gradients).unwrap()].map(Tensor::into_data)
        };
        for (linear, kernel) in run(true).iter().zip(&run(false)) {
            linear.assert_approx_eq::<f32>(kernel, Tolerance::absolute(1e-4));
        }
    }
}
