use burn::tensor::{
    DType, Device, Tensor, TensorData, Tolerance,
    ops::{ConvOptions, ConvTransposeOptions, MaxPoolOptions},
};

use super::{
    PoolWindow, add_relu, cat,
    convolution::{Affine, ReducedConv2d, to_full},
    is_reduced_activation, max_pool2d,
    unit::UnitKind,
    upsample_nearest, winograd,
};
use crate::{conv_transpose2d, conv2d_affine};

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

/// The kernel that is meant: the limits of the two differ.
#[test]
fn shapes_reach_their_kernels() {
    for (shapes, expected) in [(&WINOGRAD[..], true), (&DIRECT[..], false)] {
        for (_, _, kernel, stride, padding, dilation, size) in shapes {
            let output = [0, 1].map(|axis| {
                (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1
            });
            let fits = *kernel == [3, 3] && *stride == [1, 1] && winograd::pays(output, *dilation);
            assert_eq!(fits, expected, "{kernel:?} {stride:?} {dilation:?} {size:?}");
        }
    }
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
        let sum = add_relu(&x, &y).expect("bf16, channels last");
        let expected = crate::add_relu(to_full(kind, x), to_full(kind, y));
        assert!(error(to_full(kind, sum), expected) < 3e-3);
    }
    let window = PoolWindow { kernel: 2, stride: 2, padding: 0 };
    assert!(cat(&[noise([2, 16, 3, 3], 5)]).is_none());
    assert!(max_pool2d(&noise([2, 16, 7, 10], 5), window).is_none());
}
