use burn::{
    backend::Flex,
    tensor::{
        DType, Device, Tensor, TensorData, Tolerance,
        ops::{ConvOptions, ConvTransposeOptions, MaxPoolOptions},
    },
};

use super::{
    PoolWindow, Quantization, QuantizedConv2d, add_relu, cat,
    convolution::{Affine, ReducedConv2d, primitive, to_full},
    is_reduced_activation, max_pool2d, quantization, training,
    unit::UnitKind,
    upsample_nearest, winograd,
};
use crate::{Joined, conv_transpose2d, conv2d, conv2d_affine, conv2d_bf16};

/// The units of this processor: the definition, and the fastest.
fn units() -> Vec<UnitKind> {
    [Some(UnitKind::Portable), UnitKind::fastest()].into_iter().flatten().collect()
}

/// Values in (-1, 1) without a pattern that sums could cancel by.
fn noise<const D: usize>(shape: [usize; D], salt: u64) -> Tensor<D> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
        .map(|index| {
            let mut bits = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(salt << 32);
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((bits ^ (bits >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// The root of the mean squared difference, in parts of the expected values' own.
fn error(actual: Tensor<4>, expected: Tensor<4>) -> f32 {
    let power = |x: Tensor<4>| x.clone().mul(x).mean().into_scalar::<f32>().sqrt();
    power(actual - expected.clone()) / power(expected)
}

fn affine(channels: usize) -> Affine {
    Affine { scale: noise([channels], 3) + 1.5, shift: noise([channels], 4), range: Some([0.0, f32::INFINITY]) }
}

/// Input, output channels, kernel, stride, padding, dilation, height and width.
type Shape = (usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 2], [usize; 2]);

const WINOGRAD: [Shape; 7] = [
    (16, 32, [3, 3], [1, 1], [2, 2], [2, 2], [19, 17]),
    (16, 32, [3, 3], [1, 1], [3, 0], [3, 1], [25, 17]),
    (16, 16, [3, 3], [1, 1], [1, 1], [1, 1], [4, 4]),
    (32, 48, [3, 3], [1, 1], [1, 1], [1, 1], [13, 18]),
    (64, 7, [3, 3], [1, 1], [0, 2], [1, 1], [9, 33]),
    (16, 64, [3, 3], [1, 1], [1, 1], [1, 1], [70, 41]),
    (256, 33, [3, 3], [1, 1], [1, 1], [1, 1], [5, 3]),
];

const DIRECT: [Shape; 7] = [
    (16, 32, [3, 3], [1, 1], [9, 9], [9, 9], [10, 6]),
    (16, 16, [1, 1], [1, 1], [0, 0], [1, 1], [3, 5]),
    (64, 2, [1, 1], [1, 1], [0, 0], [1, 1], [17, 9]),
    (32, 48, [1, 1], [2, 2], [0, 0], [1, 1], [7, 8]),
    (48, 33, [3, 3], [2, 2], [1, 1], [1, 1], [11, 14]),
    (16, 32, [3, 3], [1, 1], [4, 4], [4, 4], [5, 6]),
    (32, 16, [5, 2], [1, 3], [3, 1], [2, 1], [12, 30]),
];

/// The kernel that is meant: the limits of the two differ, and those of 8 bits, which are multiplied twice as fast without tiles.
#[test]
fn shapes_reach_their_kernels() {
    let mut of_bytes = 0;
    for (shapes, expected) in [(&WINOGRAD[..], true), (&DIRECT[..], false)] {
        for (_, _, kernel, stride, padding, dilation, size) in shapes {
            let output = [0, 1].map(|axis| {
                (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1
            });
            let has_tiles = *kernel == [3, 3] && *stride == [1, 1];
            let fits = has_tiles && winograd::pays(output, *dilation);
            assert_eq!(fits, expected, "{kernel:?} {stride:?} {dilation:?} {size:?}");
            let fits_bytes = has_tiles && winograd::pays_for_bytes(output, *dilation);
            assert!(fits || !fits_bytes, "{kernel:?} {stride:?} {dilation:?} {size:?}");
            of_bytes += usize::from(fits_bytes);
        }
    }
    assert!((2..WINOGRAD.len()).contains(&of_bytes), "{of_bytes} shapes go by tiles of bytes");
}

fn compare(kind: UnitKind, shape: Shape, most: f32) {
    let (channels_in, channels_out, kernel, stride, padding, dilation, [height, width]) = shape;
    let options = || ConvOptions::new(stride, padding, dilation, 1);
    let weight = noise([channels_out, channels_in, kernel[0], kernel[1]], 1);
    let x = noise([2, channels_in, height, width], 2);
    let affine = affine(channels_out);
    let expected =
        conv2d_affine(x.clone(), weight.clone(), affine.scale.clone(), affine.shift.clone(), affine.range, options());
    let layer = ReducedConv2d::pack_for(kind, &weight, &affine, options()).expect("there is a kernel");
    let full = layer.forward(x.clone(), false);
    assert_eq!((full.dtype(), full.dims()), (DType::F32, expected.dims()), "{shape:?}");
    let found = error(full.clone(), expected.clone());
    assert!(found < most, "{kind:?} {shape:?}: {found}");
    let kept = layer.forward(x.clone(), true);
    assert_eq!(is_reduced_activation(&kept), channels_out.is_multiple_of(16), "{shape:?}");
    assert!(error(to_full(kind, kept), full.clone()) < 3e-3, "{shape:?}");
    if channels_in >= 32 {
        // Read from two tensors, of 16 channels and the rest.
        let [first, second] = [0..16, 16..channels_in].map(|range| x.clone().slice([0..2, range, 0..height, 0..width]));
        layer.forward([first, second], false).into_data().assert_eq(&full.into_data(), true);
    }
}

#[test]
fn winograd_s_tiles_equal_f32_to_the_rounding_of_bf16() {
    for kind in units() {
        for shape in WINOGRAD {
            compare(kind, shape, 1.3e-2);
        }
    }
}

#[test]
fn direct_kernels_equal_f32_to_the_rounding_of_bf16() {
    for kind in units() {
        for shape in DIRECT {
            compare(kind, shape, 3.5e-3);
        }
    }
}

#[test]
fn transposed_convolutions_equal_f32_to_the_rounding_of_bf16() {
    for kind in units() {
        for (channels, kernel, size) in
            [([32, 16], [2, 2], [5, 7]), ([48, 40], [3, 1], [2, 9]), ([16, 3], [2, 2], [33, 4])]
        {
            let weight = noise([channels[0], channels[1], kernel[0], kernel[1]], 1);
            let (x, bias) = (noise([2, channels[0], size[0], size[1]], 2), noise([channels[1]], 3));
            let options = ConvTransposeOptions::new(kernel, [0, 0], [0, 0], [1, 1], 1);
            let expected = conv_transpose2d(x.clone(), weight.clone(), Some(bias.clone()), options);
            let layer = ReducedConv2d::pack_transposed_for(kind, &weight, Some(&bias)).expect("there is a kernel");
            let found = error(layer.forward(x, false), expected);
            assert!(found < 3.5e-3, "{kind:?} {channels:?}: {found}");
        }
    }
}

/// Both units do the same arithmetic; the order of two sums in a dot product and FMA are all that differs.
#[test]
fn the_definition_and_the_processor_agree() {
    let Some(fastest) = UnitKind::fastest() else { return };
    for (channels_in, channels_out, kernel, stride, padding, dilation, [height, width]) in
        WINOGRAD.into_iter().chain(DIRECT)
    {
        let weight = noise([channels_out, channels_in, kernel[0], kernel[1]], 1);
        let x = noise([1, channels_in, height, width], 2);
        let options = ConvOptions::new(stride, padding, dilation, 1);
        let [a, b] = [fastest, UnitKind::Portable].map(|kind| {
            let layer = ReducedConv2d::pack_for(kind, &weight, &affine(channels_out), options.clone());
            layer.expect("there is a kernel").forward(x.clone(), false)
        });
        a.into_data().assert_approx_eq::<f32>(&b.into_data(), Tolerance::rel_abs(2e-3, 5e-3));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (channels_in, channels_out, kernel, stride, padding, dilation, [height, width]) in [WINOGRAD[5], DIRECT[4]] {
        let weight = noise([channels_out, channels_in, kernel[0], kernel[1]], 1);
        let x = noise([2, channels_in, height, width], 2);
        for kind in units() {
            let options = ConvOptions::new(stride, padding, dilation, 1);
            let layer = ReducedConv2d::pack_for(kind, &weight, &affine(channels_out), options);
            let layer = layer.expect("there is a kernel");
            let [one, three] = [1, 3].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| layer.forward(x.clone(), false).into_data())
            });
            one.assert_eq(&three, true);
        }
    }
}

#[test]
fn pooling_and_sums_of_what_layers_pass_on() {
    let weight = noise([16, 16, 1, 1], 6);
    let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
    for kind in units() {
        let layer = ReducedConv2d::pack_for(kind, &weight, &Affine { range: None, ..affine(16) }, options.clone());
        let layer = layer.expect("there is a kernel");
        let [x, y] = [5, 7].map(|salt| layer.forward(noise([2, 16, 7, 10], salt), true));
        for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1)] {
            let pooled = max_pool2d(&x, PoolWindow { kernel, stride, padding }).expect("bf16, channels last");
            let expected = MaxPoolOptions {
                stride: [stride; 2],
                padding: [(padding, padding); 2],
                ..MaxPoolOptions::new([kernel; 2])
            };
            let expected = crate::max_pool2d(to_full(kind, x.clone()), expected);
            to_full(kind, pooled).into_data().assert_eq(&expected.into_data(), true);
        }
        let expected = crate::resize(to_full(kind, x.clone()), [14, 30], crate::ResizeMode::Nearest);
        let enlarged = upsample_nearest(&x, [14, 30]).expect("bf16, channels last");
        to_full(kind, enlarged).into_data().assert_eq(&expected.into_data(), true);
        assert!(upsample_nearest(&x, [15, 30]).is_none() && upsample_nearest(&x, [0, 10]).is_none());
        let joined = cat(&[x.clone(), noise([2, 32, 7, 10], 8), y.clone()]).expect("bf16, channels last");
        let expected =
            Tensor::cat(vec![to_full(kind, x.clone()), noise([2, 32, 7, 10], 8), to_full(kind, y.clone())], 1);
        assert!(is_reduced_activation(&joined));
        assert!(error(to_full(kind, joined), expected) < 3e-3);
        let sum = add_relu(&x, &y, None).expect("bf16, channels last");
        let expected = crate::add_relu(to_full(kind, x), to_full(kind, y));
        assert!(error(to_full(kind, sum), expected) < 3e-3);
    }
    let window = PoolWindow { kernel: 2, stride: 2, padding: 0 };
    assert!(cat(&[noise([2, 16, 3, 3], 5)]).is_none());
    assert!(max_pool2d(&noise([2, 16, 7, 10], 5), window).is_none());
}

/// Values of 8 bits with a zero in their middle or at their end, and as `low` to `high` have them.
fn bytes(kind: UnitKind, x: Tensor<4>, low: f32, high: f32) -> (Tensor<4>, Quantization) {
    let quantization = Quantization::of_range(low, high);
    let x = super::activations::quantized(kind, primitive(x), quantization);
    (Tensor::from_primitive::<Flex>(x), quantization)
}

/// A weight as its 8 bits have it.
fn of_bytes(weight: Tensor<4>, outputs: usize) -> Tensor<4> {
    let others: Vec<usize> = (0..4).filter(|axis| *axis != outputs).collect();
    let most = others.iter().fold(weight.clone().abs(), |most, axis| most.max_dim(*axis));
    let scale = most.div_scalar(127.0);
    (weight / scale.clone()).round() * scale
}

fn compare_quantized(kind: UnitKind, shape: Shape, low: f32, most: f32) {
    let (channels_in, channels_out, kernel, stride, padding, dilation, [height, width]) = shape;
    let options = || ConvOptions::new(stride, padding, dilation, 1);
    let weight = noise([channels_out, channels_in, kernel[0], kernel[1]], 1);
    let (x, input) = bytes(kind, noise([2, channels_in, height, width], 2), low, 1.0);
    let affine = affine(channels_out);
    let expected = conv2d_affine(
        to_full(kind, x.clone()),
        of_bytes(weight.clone(), 0),
        affine.scale.clone(),
        affine.shift.clone(),
        affine.range,
        options(),
    );
    let layer = QuantizedConv2d::pack_for(kind, &weight, &affine, options()).expect("there is a kernel");
    let full = layer.forward(x.clone(), input, None);
    assert_eq!((full.dtype(), full.dims()), (DType::F32, expected.dims()), "{shape:?}");
    let found = error(full.clone(), expected.clone());
    assert!(found < most, "{kind:?} {shape:?}: {found}");
    // What is f32 is quantized on the way.
    layer.forward(to_full(kind, x.clone()), input, None).into_data().assert_eq(&full.clone().into_data(), true);
    let output = Quantization::of_range(0.0, full.clone().max().into_scalar::<f32>());
    let kept = layer.forward(x.clone(), input, Some(output));
    assert_eq!(quantization(&kept), channels_out.is_multiple_of(16).then_some(output), "{shape:?}");
    let difference = (to_full(kind, kept) - full.clone()).abs().max().into_scalar::<f32>();
    assert!(difference <= 0.501 * output.scale, "{shape:?}: {difference} of {}", output.scale);
    if channels_in >= 32 {
        // Read from two tensors, of 16 channels and the rest, in 8 bits that stand for other numbers.
        let x = to_full(kind, x);
        let [first, second] = [0..16, 16..channels_in].map(|range| x.clone().slice([0..2, range, 0..height, 0..width]));
        let same = [first.clone(), second.clone()].map(|x| bytes(kind, x, low, 1.0).0);
        layer.forward(same, input, None).into_data().assert_eq(&full.clone().into_data(), true);
        let layer = QuantizedConv2d::pack_for(kind, &weight, &affine, options()).expect("there is a kernel");
        let wide = bytes(kind, second.clone(), -2.5, 1.5).0;
        let expected = conv2d_affine(
            Tensor::cat(vec![first.clone(), to_full(kind, wide.clone())], 1),
            of_bytes(weight, 0),
            affine.scale.clone(),
            affine.shift.clone(),
            affine.range,
            options(),
        );
        let found = error(layer.forward([bytes(kind, first.clone(), low, 1.0).0, wide], input, None), expected.clone());
        assert!(found < 1e-2, "{kind:?} {shape:?}: {found}");
        // The layer is packed for these, and takes others, which are quantized once more.
        let found =
            error(layer.forward([first, second].map(|x| bytes(kind, x, low, 1.0).0), input, None), full.clone());
        assert!(found < 2e-2, "{kind:?} {shape:?}: {found}");
        let whole = layer.forward(bytes(kind, x, low, 1.0).0, input, None);
        assert!(error(whole, full) < most.max(1e-5), "{kind:?} {shape:?}");
    }
}

/// Integers are exact; only the transformed kernels of many channels are rounded.
#[test]
fn products_of_bytes_equal_those_of_their_numbers() {
    for kind in units() {
        for (low, high) in [(-1.0, 1e-5), (0.0, 1e-5)] {
            for shape in DIRECT {
                compare_quantized(kind, shape, low, high);
            }
            for shape in WINOGRAD {
                compare_quantized(kind, shape, low, high);
            }
            // Sums of so many channels could overflow with the kernels' transforms as they are.
            compare_quantized(kind, (512, 16, [3, 3], [1, 1], [1, 1], [1, 1], [12, 16]), low, 4e-3);
        }
    }
}

#[test]
fn transposed_convolutions_of_bytes_equal_those_of_their_numbers() {
    for kind in units() {
        for (channels, kernel, size) in
            [([32, 16], [2, 2], [5, 7]), ([48, 40], [3, 1], [2, 9]), ([16, 3], [2, 2], [33, 4])]
        {
            let weight = noise([channels[0], channels[1], kernel[0], kernel[1]], 1);
            let bias = noise([channels[1]], 3);
            let (x, input) = bytes(kind, noise([2, channels[0], size[0], size[1]], 2), -0.7, 1.0);
            let options = ConvTransposeOptions::new(kernel, [0, 0], [0, 0], [1, 1], 1);
            let expected =
                conv_transpose2d(to_full(kind, x.clone()), of_bytes(weight.clone(), 1), Some(bias.clone()), options);
            let layer = QuantizedConv2d::pack_transposed_for(kind, &weight, Some(&bias)).expect("there is a kernel");
            let found = error(layer.forward(x, input, None), expected);
            assert!(found < 1e-5, "{kind:?} {channels:?}: {found}");
        }
    }
}

/// Both units give the same bits in 8 bits, for any number of threads.
#[test]
fn the_definition_and_the_processor_agree_exactly_in_bytes() {
    let Some(fastest) = UnitKind::fastest() else { return };
    for (channels_in, channels_out, kernel, stride, padding, dilation, [height, width]) in
        WINOGRAD.into_iter().chain(DIRECT)
    {
        let weight = noise([channels_out, channels_in, kernel[0], kernel[1]], 1);
        let x = noise([1, channels_in, height, width], 2);
        let input = Quantization::of_range(-0.9, 0.8);
        let options = ConvOptions::new(stride, padding, dilation, 1);
        let output = Some(Quantization::of_range(0.0, 3.0));
        let results = [(fastest, 1), (fastest, 3), (UnitKind::Portable, 2)].map(|(kind, threads)| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let layer = QuantizedConv2d::pack_for(kind, &weight, &affine(channels_out), options.clone());
            let layer = layer.expect("there is a kernel");
            pool.install(|| {
                let kept = to_full(kind, layer.forward(x.clone(), input, output));
                (layer.forward(x.clone(), input, None).into_data(), kept.into_data())
            })
        });
        for other in &results[1..] {
            results[0].0.assert_eq(&other.0, true);
            results[0].1.assert_eq(&other.1, true);
        }
    }
}

#[test]
fn bytes_between_layers() {
    for kind in units() {
        let (x, _) = bytes(kind, noise([2, 16, 7, 10], 5), -1.0, 1.0);
        let (y, _) = bytes(kind, noise([2, 32, 7, 10], 6), -2.0, 1.0);
        let [full_x, full_y] = [&x, &y].map(|tensor| to_full(kind, tensor.clone()));
        for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1)] {
            let pooled = max_pool2d(&x, PoolWindow { kernel, stride, padding }).expect("8 bits, channels last");
            let expected = MaxPoolOptions {
                stride: [stride; 2],
                padding: [(padding, padding); 2],
                ..MaxPoolOptions::new([kernel; 2])
            };
            let expected = crate::max_pool2d(full_x.clone(), expected);
            to_full(kind, pooled).into_data().assert_eq(&expected.into_data(), true);
        }
        let enlarged = upsample_nearest(&x, [14, 30]).expect("8 bits, channels last");
        let expected = crate::resize(full_x.clone(), [14, 30], crate::ResizeMode::Nearest);
        to_full(kind, enlarged).into_data().assert_eq(&expected.into_data(), true);
        let joined = cat(&[x.clone(), y.clone()]).expect("8 bits, channels last");
        let common = quantization(&joined).expect("still 8 bits");
        let expected = Tensor::cat(vec![full_x.clone(), full_y.clone()], 1);
        let difference = (to_full(kind, joined) - expected.clone()).abs().max().into_scalar::<f32>();
        assert!(difference <= 0.51 * common.scale, "{difference} of {common:?}");
        // Beside f32 they become bf16.
        let joined = cat(&[x.clone(), full_y]).expect("channels last");
        assert!(is_reduced_activation(&joined) && error(to_full(kind, joined), expected) < 5e-3);
        let output = Quantization::of_range(0.0, 2.0);
        let (z, _) = bytes(kind, noise([2, 16, 7, 10], 8), -1.5, 0.5);
        let sum = add_relu(&x, &z, Some(output)).expect("8 bits, channels last");
        let expected = crate::add_relu(full_x, to_full(kind, z.clone()));
        let difference = (to_full(kind, sum) - expected).abs().max().into_scalar::<f32>();
        assert!(difference <= 0.51 * output.scale, "{difference} of {output:?}");
        assert!(add_relu(&x, &z, None).is_none());
    }
}

#[test]
fn a_range_has_its_zero_among_its_values() {
    for (low, high, zero) in [(0.0, 1.0, 0), (-1.0, 0.0, 255), (-1.0, 1.0, 128), (2.0, 3.0, 0), (-3.0, -2.0, 255)] {
        let quantization = Quantization::of_range(low, high);
        assert!(quantization.zero.abs_diff(zero) <= 1, "{low} {high}: {quantization:?}");
        assert!(quantization.scale > 0.0 && quantization.scale.is_finite());
    }
    for (low, high) in [(0.0, 0.0), (f32::NAN, 1.0), (f32::NEG_INFINITY, f32::INFINITY), (f32::MIN, f32::MAX)] {
        let Quantization { scale, .. } = Quantization::of_range(low, high);
        assert!(scale > 0.0 && scale.is_finite(), "{low} {high}: {scale}");
    }
}

/// Channels in and out, kernel, stride, padding, dilation, height and width of layers that are trained.
const TRAINED: [Shape; 11] = [
    (16, 16, [3, 3], [1, 1], [1, 1], [1, 1], [4, 4]),
    (16, 32, [3, 3], [1, 1], [1, 1], [1, 1], [13, 18]),
    (32, 16, [3, 3], [1, 1], [0, 2], [1, 1], [9, 33]),
    (16, 48, [3, 3], [1, 1], [2, 2], [2, 2], [19, 17]),
    // Several parts of the positions, and several pairs of chunks.
    (16, 16, [3, 3], [1, 1], [1, 1], [1, 1], [70, 61]),
    (80, 96, [3, 3], [1, 1], [1, 1], [1, 1], [21, 10]),
    (16, 32, [3, 3], [1, 1], [9, 9], [9, 9], [10, 6]),
    (64, 16, [1, 1], [1, 1], [0, 0], [1, 1], [17, 9]),
    (80, 96, [1, 1], [1, 1], [0, 0], [1, 1], [30, 41]),
    (48, 16, [3, 3], [2, 2], [1, 1], [1, 1], [11, 14]),
    (32, 16, [5, 2], [1, 3], [3, 1], [2, 1], [12, 30]),
];

#[test]
fn gradients_in_bf16_equal_f32_to_the_rounding() {
    for shape in TRAINED {
        let (channels_in, channels_out, kernel, stride, padding, dilation, [height, width]) = shape;
        let options = ConvOptions::new(stride, padding, dilation, 1);
        let weight = noise([channels_out, channels_in, kernel[0], kernel[1]], 1);
        let x = noise([2, channels_in, height, width], 2);
        let autodiff = Device::flex().autodiff();
        let (x_tracked, weight_tracked) = (
            Tensor::<4>::from_data(x.to_data(), &autodiff).require_grad(),
            Tensor::<4>::from_data(weight.to_data(), &autodiff).require_grad(),
        );
        let expected = conv2d(x_tracked.clone(), weight_tracked.clone(), None, options.clone());
        let grad = noise(expected.dims(), 3);
        let gradients = (expected.clone() * Tensor::from_data(grad.to_data(), &autodiff)).sum().backward();
        let expected = [
            expected.inner(),
            x_tracked.grad(&gradients).expect("the input is tracked"),
            weight_tracked.grad(&gradients).expect("the weight is tracked"),
        ];
        let mut first: Option<Vec<TensorData>> = None;
        for kind in units() {
            let [x, weight, grad] = [&x, &weight, &grad].map(|tensor| primitive(tensor.clone()));
            let tensor = Tensor::<4>::from_primitive::<Flex>;
            let y = training::forward_on(kind, std::slice::from_ref(&x), weight.clone(), &options);
            let x_gradient = training::input_gradient_on(kind, [height, width], weight, grad.clone(), &options);
            let weight_gradient = training::weight_gradient_on(kind, kernel, x, grad, &options);
            assert_eq!(x_gradient.is_some(), stride == [1, 1], "{shape:?}");
            let found = [Some(y), x_gradient, Some(weight_gradient)].map(|found| found.map(tensor));
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                if let Some(found) = found {
                    assert_eq!(found.dims(), expected.dims(), "{kind:?} {shape:?}");
                    let error = error(found.clone(), expected.clone());
                    assert!(error < 1.5e-2, "{kind:?} {shape:?}, {index}: {error}");
                }
            }
            let data = found.into_iter().flatten().map(Tensor::into_data).collect::<Vec<_>>();
            // The units round alike; only the order of a word's two products may differ.
            match &first {
                None => first = Some(data),
                Some(first) => {
                    for (found, expected) in data.iter().zip(first) {
                        found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(2e-2, 2e-2));
                    }
                }
            }
        }
    }
}

/// The public function, on layers that it computes in bf16 and on others; of one input and of two.
#[test]
fn convolutions_are_trained_in_bf16() {
    let device = Device::flex().autodiff();
    let options = || ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
    for (channels, groups) in [(16, 1), (24, 1), (16, 2)] {
        let options = ConvOptions { groups, ..options() };
        let tracked = |x: Tensor<4>| Tensor::<4>::from_data(x.into_data(), &device).require_grad();
        let inputs = [noise([2, channels, 9, 10], 1), noise([2, 32, 9, 10], 2)].map(tracked);
        let weight = tracked(noise([32, (channels + 32) / groups, 3, 3], 3));
        let grad = Tensor::<4>::from_data(noise([2, 32, 9, 10], 4).into_data(), &device);
        let results = [true, false].map(|reduced| {
            let (x, kernel, options) = (Joined::from(inputs.clone()), weight.clone(), options.clone());
            let y = if reduced { conv2d_bf16(x, kernel, None, options) } else { conv2d(x, kernel, None, options) };
            let gradients = (y.clone() * grad.clone()).sum().backward();
            let [first, second] = inputs.each_ref().map(|x| x.grad(&gradients).expect("inputs are tracked"));
            [y.inner(), first, second, weight.grad(&gradients).expect("the weight is tracked")]
        });
        let [found, expected] = results;
        let reduced = UnitKind::fastest().is_some() && channels % 16 == 0 && groups == 1;
        for (found, expected) in found.into_iter().zip(expected) {
            let error = error(found, expected);
            assert!(error < 1.5e-2 && (error > 1e-4) == reduced, "{channels} channels, {groups} groups: {error}");
        }
    }
}
