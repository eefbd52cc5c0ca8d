use std::fs;

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Tensor, TensorData, Tolerance},
};
use serde::Deserialize;

use super::{RoiAlignOps, RoiAlignOptions, roi_align};
use crate::test_devices;

/// torchvision's outputs and gradients (`tests/parity/roi_align.py`).
#[derive(Deserialize)]
struct Fixture {
    boxes: Vec<[f32; 5]>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    shape: [usize; 4],
    size: [usize; 2],
    scale: f64,
    sampling_ratio: Option<usize>,
    aligned: bool,
    output: Vec<f32>,
    gradient: Vec<f32>,
}

impl Case {
    fn options(&self) -> RoiAlignOptions {
        let Self { size, scale, sampling_ratio, aligned, .. } = *self;
        RoiAlignOptions { size, scale, sampling_ratio, aligned }
    }
}

fn fixture() -> Fixture {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/roi_align.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn wave(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let values: Vec<f32> =
        (0..shape.iter().product::<usize>()).map(|i| ((i as f64 * 0.7).sin() * 3.0) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn regions(boxes: &[[f32; 5]], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(boxes.concat(), [boxes.len(), 5]), device)
}

fn options(size: [usize; 2], sampling_ratio: Option<usize>, aligned: bool) -> RoiAlignOptions {
    RoiAlignOptions { size, scale: 0.5, sampling_ratio, aligned }
}

/// The sum of a tensor's values, on the host: Mesa's software Vulkan driver crashes on Burn's kernel for it.
fn sum(x: Tensor<4>) -> f64 {
    x.into_data().iter::<f64>().sum()
}

#[test]
fn equals_torchvision() {
    let Fixture { boxes, cases } = fixture();
    for device in test_devices() {
        let device = device.autodiff();
        for case in &cases {
            let x = wave(case.shape, &device).require_grad();
            let y = roi_align(x.clone(), regions(&boxes, &device), case.options());
            let shape = y.dims();
            let gradient = x.grad(&(y.clone() * wave(shape, &device)).backward()).unwrap();
            for (ours, expected, shape) in [(y.inner(), &case.output, shape), (gradient, &case.gradient, case.shape)] {
                let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                let expected = TensorData::new(expected.clone(), shape);
                ours.into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5 * largest.max(0.1)));
            }
        }
    }
}

/// Pooling is linear, so its gradient is the adjoint: ⟨pool(x), g⟩ = ⟨x, pool'(g)⟩ for any x and g.
#[test]
fn gradient_is_the_adjoint() {
    let boxes = fixture().boxes;
    for device in test_devices() {
        let device = device.autodiff();
        for sampling_ratio in [None, Some(1), Some(2), Some(5)] {
            for aligned in [false, true] {
                for shape in [[2, 3, 40, 56], [2, 20, 9, 33], [3, 1, 1, 1]] {
                    let x = wave(shape, &device).require_grad();
                    let y = roi_align(x.clone(), regions(&boxes, &device), options([7, 5], sampling_ratio, aligned));
                    let product = y.clone() * wave(y.dims(), &device).mul_scalar(0.5);
                    let gradient = x.grad(&product.backward()).expect("x is tracked");
                    let (product, adjoint) = (sum(product.inner()), sum(x.inner() * gradient));
                    assert!(
                        (product - adjoint).abs() <= 1e-4 * product.abs().max(1.0),
                        "{shape:?} {sampling_ratio:?} {aligned}: {product} against {adjoint}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradient_equals_finite_differences() {
    for device in test_devices() {
        for sampling_ratio in [None, Some(2)] {
            let shape = [1, 2, 4, 5];
            let boxes = regions(&[[0.0, 1.2, -0.7, 8.3, 6.1], [0.0, 2.2, 3.3, 4.9, 13.1]], &device);
            let weights = wave([2, 2, 3, 2], &device);
            let loss = |x: Tensor<4>, boxes: Tensor<2>, weights: Tensor<4>| {
                roi_align(x, boxes, options([3, 2], sampling_ratio, true)).square() * weights
            };
            let tracked = wave(shape, &device.clone().autodiff()).require_grad();
            let (lifted_boxes, lifted) = (Tensor::from_inner(boxes.clone()), Tensor::from_inner(weights.clone()));
            let gradient = tracked.grad(&loss(tracked.clone(), lifted_boxes, lifted).backward());
            let gradient = gradient.expect("x is tracked").into_data().try_to_vec::<f32>().unwrap();
            let x = wave(shape, &device).into_data().try_to_vec::<f32>().unwrap();
            for index in 0..x.len() {
                let gradient = f64::from(gradient[index]);
                let at = |step: f32| {
                    let mut x = x.clone();
                    x[index] += step;
                    let x = Tensor::from_data(TensorData::new(x, shape), &device);
                    sum(loss(x, boxes.clone(), weights.clone()))
                };
                let difference = (at(0.05) - at(-0.05)) / 0.1;
                assert!(
                    (difference - gradient).abs() < 1e-3 * (1.0 + difference.abs()),
                    "{sampling_ratio:?} at {index}: {difference} against {gradient}"
                );
            }
        }
    }
}

/// The gradient's own gradient: the operator again.
#[test]
fn gradient_of_the_adjoint_is_the_operator() {
    let boxes = fixture().boxes;
    for device in test_devices() {
        let tracked = device.clone().autodiff();
        let (shape, options) = ([2, 2, 20, 28], options([3, 4], Some(2), false));
        let grad = wave([boxes.len(), 2, 3, 4], &tracked).require_grad();
        let rois = regions(&boxes, &tracked).into_dispatch();
        let x = <Dispatch as RoiAlignOps>::roi_align_backward(grad.clone().into_dispatch(), rois, shape, options);
        let product = Tensor::<4>::from_dispatch(x) * wave(shape, &tracked);
        let gradient = grad.grad(&product.backward()).expect("it is tracked");
        let y = roi_align(wave(shape, &device), regions(&boxes, &device), options);
        gradient.into_data().assert_eq(&y.into_data(), true);
    }
}

/// Channels last in memory, a view of some rows and columns, and empty lists and batches.
#[test]
fn views_and_empty_lists_work() {
    let boxes = fixture().boxes;
    for device in test_devices() {
        let tracked = device.clone().autodiff();
        let options = options([3, 4], Some(2), true);
        for view in [
            wave([2, 40, 33, 18], &device).permute([0, 3, 1, 2]),
            wave([2, 20, 50, 40], &device).slice([0..2, 1..19, 2..42, 3..36]),
            wave([2, 18, 33, 40], &device).swap_dims(2, 3),
            wave([1, 18, 1, 1], &device).expand([2, 18, 40, 33]),
            wave([2, 18, 40, 33], &device).flip([2]),
        ] {
            let copy = Tensor::<4>::from_data(view.to_data(), &device);
            let [of_view, of_copy] = [view, copy].map(|x| roi_align(x, regions(&boxes, &device), options).into_data());
            of_view.assert_eq(&of_copy, true);
        }
        for shape in [[2, 3, 8, 9], [0, 3, 8, 9]] {
            let x = wave(shape, &tracked).require_grad();
            let y = roi_align(x.clone(), Tensor::zeros([0, 5], &tracked), options);
            assert_eq!(y.dims(), [0, 3, 3, 4]);
            if shape[0] > 0 {
                let gradient = x.grad(&y.sum().backward()).unwrap().into_data();
                gradient.assert_eq(&Tensor::<4>::zeros(shape, &device).into_data(), true);
            }
        }
        let none = roi_align(Tensor::zeros([2, 0, 8, 9], &device), regions(&boxes, &device), options);
        assert_eq!(none.dims(), [boxes.len(), 0, 3, 4]);
    }
}

/// They are computed with as f32.
#[test]
fn other_floats_work() {
    let boxes = fixture().boxes;
    let (device, options) = (Device::flex(), options([3, 4], Some(2), true));
    let expected = roi_align(wave([2, 3, 20, 28], &device), regions(&boxes, &device), options).into_data();
    let x = wave([2, 3, 20, 28], &device.autodiff()).cast(DType::F64).require_grad();
    let y = roi_align(x.clone(), regions(&boxes, &x.device()).cast(DType::F64), options);
    let gradient = x.grad(&(y.clone() * y.clone()).backward()).expect("x is tracked");
    assert_eq!([y.dtype(), gradient.dtype()], [DType::F64; 2]);
    y.into_data().convert::<f32>().assert_eq(&expected, true);
}

/// Neither the time nor the memory depends on how large a box is.
#[test]
fn absurd_boxes_are_harmless() {
    for device in test_devices() {
        let device = device.autodiff();
        for sampling_ratio in [None, Some(2)] {
            for aligned in [false, true] {
                let (nan, inf) = (f32::NAN, f32::INFINITY);
                let boxes = [
                    [0.0, nan, 1.0, 5.0, 6.0],
                    [0.0, 1.0, nan, 5.0, 6.0],
                    [1.0, 1.0, 2.0, nan, 6.0],
                    [1.0, 1.0, 2.0, 5.0, nan],
                    [0.0, -inf, -inf, inf, inf],
                    [0.0, 2.0, 3.0, inf, 9.0],
                    [0.0, inf, inf, inf, inf],
                    [0.0, -3e38, -3e38, 3e38, 3e38],
                    [0.0, 1e9, 1e9, 2e9, 2e9],
                    [0.0, -2e9, -2e9, -1e9, -1e9],
                    [0.0, -1e9, -1e9, 1e9, 1e9],
                    [0.0, -1e30, 2.0, 1e30, 5.0],
                    [1.0, 1e9, 1e9, -1e9, -1e9],
                ];
                let x = wave([2, 3, 9, 11], &device).require_grad();
                let y = roi_align(x.clone(), regions(&boxes, &device), options([3, 3], sampling_ratio, aligned));
                let gradient = x.grad(&y.clone().sum_dim(3).backward()).unwrap();
                let y = y.into_data().try_to_vec::<f32>().unwrap();
                assert_eq!(y[..10 * 27], [0.0; 10 * 27]);
                assert!(y.iter().all(|value| value.abs() <= 3.0));
                assert!(gradient.into_data().iter::<f32>().all(f32::is_finite));
            }
        }
    }
}

/// Points of a box of a billion pixels are where the definition has them, but fewer.
#[test]
fn large_boxes_have_the_mean_of_the_map() {
    for device in test_devices() {
        let x = Tensor::<4>::ones([1, 1, 8, 8], &device);
        for width in [1e3f32, 1e5, 1e7] {
            let boxes = regions(&[[0.0, -width, 2.0, width, 10.0]], &device);
            let y = roi_align(x.clone(), boxes, options([1, 1], None, true)).into_data().try_to_vec::<f32>().unwrap();
            // Points from −1 to 8 count.
            let expected = 9.0 / f64::from(width);
            assert!((f64::from(y[0]) / expected - 1.0).abs() < 0.15, "{width}: {} against {expected}", y[0]);
        }
    }
}

/// Large enough that several tasks are at work.
#[test]
fn bits_do_not_depend_on_the_thread_count() {
    let device = Device::flex().autodiff();
    let boxes: Vec<[f32; 5]> = (0..50)
        .map(|i| {
            let [x, y] = [i * 37 % 61, i * 23 % 47].map(|i| i as f32 * 1.3);
            [(i % 2) as f32, x, y, x + (i * 7 % 31) as f32, y + (i * 11 % 29) as f32]
        })
        .collect();
    let run = || {
        let x = wave([2, 50, 40, 48], &device).require_grad();
        let y = roi_align(x.clone(), regions(&boxes, &device), options([7, 7], Some(2), false));
        let gradients = (y.clone() * y.clone()).backward();
        [y.inner(), x.grad(&gradients).unwrap()].map(Tensor::into_data)
    };
    let with = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    let one = with(1);
    // Within a pool, and with helpers.
    for results in [with(2), with(5), run()] {
        for (ours, one) in results.iter().zip(&one) {
            ours.assert_eq(one, true);
        }
    }
}

/// Backends that do not check indices give zeros.
#[cfg(feature = "vulkan")]
#[test]
fn images_outside_the_batch_are_harmless_on_gpus() {
    let gpu = Device::vulkan(Default::default());
    for device in test_devices().into_iter().filter(|device| *device == gpu) {
        let device = device.autodiff();
        let boxes = [-1.0, -7.0, 2.0, 1e9, f32::INFINITY, f32::NAN].map(|image| [image, 0.0, 0.0, 9.0, 9.0]);
        let x = wave([2, 3, 8, 9], &device).require_grad();
        let y = roi_align(x.clone(), regions(&boxes, &device), options([2, 2], None, true));
        let gradient = x.grad(&(y.clone() + 1.0).square().backward()).expect("x is tracked");
        for values in [y.inner(), gradient] {
            assert!(values.into_data().iter::<f32>().all(|value| value == 0.0));
        }
    }
}

fn pool(x: [usize; 4], boxes: &[[f32; 5]], size: [usize; 2], sampling_ratio: Option<usize>) {
    let device = Device::flex();
    roi_align(Tensor::zeros(x, &device), regions(boxes, &device), options(size, sampling_ratio, false));
}

#[test]
#[should_panic(expected = "region 1 is of image 2, of 2")]
fn an_image_outside_the_batch_is_refused() {
    pool([2, 1, 4, 4], &[[1.0, 0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 0.0, 2.0, 2.0]], [1, 1], None);
}

#[test]
#[should_panic(expected = "is of image NaN")]
fn an_image_that_is_not_a_number_is_refused() {
    pool([2, 1, 4, 4], &[[f32::NAN, 0.0, 0.0, 2.0, 2.0]], [1, 1], None);
}

#[test]
#[should_panic(expected = "no side may be zero")]
fn zero_size_is_refused() {
    pool([1, 1, 4, 4], &[], [0, 2], None);
}

#[test]
#[should_panic(expected = "at least one point")]
fn no_points_are_refused() {
    pool([1, 1, 4, 4], &[], [2, 2], Some(0));
}

/// Read past its end, a short gradient would give away memory.
#[test]
#[cfg(feature = "flex")]
fn a_gradient_of_another_shape_is_refused() {
    let device = Device::flex();
    let options = RoiAlignOptions { size: [2, 2], scale: 1.0, sampling_ratio: None, aligned: true };
    for shape in [[1, 1, 1, 1], [1, 3, 2, 2], [2, 4, 2, 2], [1, 4, 2, 3]] {
        let rois = Tensor::<2>::from_floats([[0.0, 0.0, 0.0, 4.0, 4.0]], &device);
        let grad = Tensor::<4>::zeros(shape, &device);
        let run = || {
            <Dispatch as RoiAlignOps>::roi_align_backward(
                grad.into_dispatch(),
                rois.into_dispatch(),
                [1, 4, 8, 8],
                options,
            )
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err(), "{shape:?}");
    }
}
