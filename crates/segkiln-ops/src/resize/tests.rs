use burn::tensor::{Device, Tensor, TensorData, Tolerance};

use super::{ResizeMode, resize};

const MODES: [ResizeMode; 3] =
    [ResizeMode::Nearest, ResizeMode::Bilinear { align_corners: false }, ResizeMode::Bilinear { align_corners: true }];

/// Up, down, mixed, odd, one pixel wide or high.
const SIZES: [([usize; 2], [usize; 2]); 8] = [
    ([4, 6], [8, 12]),
    ([8, 12], [4, 6]),
    ([5, 7], [13, 3]),
    ([7, 5], [6, 17]),
    ([1, 1], [3, 4]),
    ([6, 5], [1, 1]),
    ([1, 9], [4, 2]),
    ([16, 16], [3, 5]),
];

/// The devices that this build has. `SEGKILN_TEST_DEVICES` (names as in `BURN_DEVICE`, comma-separated) replaces the list;
/// `vulkan` runs the CubeCL kernels on a software Vulkan device where one is installed.
fn devices() -> Vec<Device> {
    crate::test_devices()
}

fn ramp(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The definition, in f64 and one output at a time.
fn reference(x: &[f64], [height, width]: [usize; 2], size: [usize; 2], mode: ResizeMode) -> Vec<f64> {
    let axis = |index: usize, from: usize, to: usize| -> (usize, usize, f64) {
        let at = match mode {
            ResizeMode::Nearest => return (index * from / to, index * from / to, 0.0),
            ResizeMode::Bilinear { align_corners: true } if to == 1 => 0.0,
            ResizeMode::Bilinear { align_corners: true } => index as f64 * (from - 1) as f64 / (to - 1) as f64,
            ResizeMode::Bilinear { align_corners: false } => {
                ((index as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0)
            }
        };
        let first = (at.floor() as usize).min(from - 1);
        (first, (first + 1).min(from - 1), at - first as f64)
    };
    let mut output = Vec::new();
    for row in 0..size[0] {
        let (top, bottom, v) = axis(row, height, size[0]);
        for column in 0..size[1] {
            let (left, right, u) = axis(column, width, size[1]);
            let at = |r: usize, c: usize| x[r * width + c];
            output.push(
                (1.0 - v) * ((1.0 - u) * at(top, left) + u * at(top, right))
                    + v * ((1.0 - u) * at(bottom, left) + u * at(bottom, right)),
            );
        }
    }
    output
}

#[test]
fn equals_the_definition() {
    for device in devices() {
        for mode in MODES {
            for (from, to) in SIZES {
                let x = ramp([2, 3, from[0], from[1]], &device);
                let planes: Vec<f64> = x.to_data().iter::<f64>().collect();
                let expected: Vec<f64> =
                    planes.chunks(from[0] * from[1]).flat_map(|plane| reference(plane, from, to, mode)).collect();
                resize(x, to, mode).into_data().assert_approx_eq::<f32>(
                    &TensorData::new(expected, [2, 3, to[0], to[1]]).convert::<f32>(),
                    Tolerance::absolute(2e-5),
                );
            }
        }
    }
}

/// The sum of a tensor's values, on the host: Mesa's software Vulkan driver crashes on Burn's kernel for it. `backward` adds
/// up by itself.
fn sum(x: Tensor<4>) -> f64 {
    x.into_data().iter::<f64>().sum()
}

/// Resizing is linear, so its gradient is the adjoint: ⟨resize(x), g⟩ = ⟨x, resize'(g)⟩ for any x and g.
#[test]
fn gradient_is_the_adjoint() {
    for device in devices() {
        let device = device.autodiff();
        for mode in MODES {
            for (from, to) in SIZES {
                let x = ramp([2, 3, from[0], from[1]], &device).require_grad();
                let g = ramp([2, 3, to[0], to[1]], &device).mul_scalar(0.5);
                let product = resize(x.clone(), to, mode) * g;
                let gradient = x.grad(&product.backward()).expect("x is tracked");
                let (product, adjoint) = (sum(product.inner()), sum(x.inner() * gradient));
                assert!(
                    (product - adjoint).abs() <= 1e-4 * product.abs().max(1.0),
                    "{mode:?} {from:?} -> {to:?}: {product} against {adjoint}"
                );
            }
        }
    }
}

#[test]
fn gradient_equals_finite_differences() {
    for device in devices() {
        for mode in MODES {
            let shape = [1, 1, 3, 4];
            let weights = ramp([1, 1, 5, 3], &device);
            let loss = |x: Tensor<4>, weights: Tensor<4>| resize(x, [5, 3], mode).square() * weights;
            let tracked = ramp(shape, &device.clone().autodiff()).require_grad();
            let lifted = Tensor::from_inner(weights.clone());
            let gradient = tracked.grad(&loss(tracked.clone(), lifted).backward()).expect("x is tracked");
            let gradient = gradient.into_data().try_to_vec::<f32>().unwrap();
            let x = ramp(shape, &device).into_data().try_to_vec::<f32>().unwrap();
            for index in 0..x.len() {
                let gradient = f64::from(gradient[index]);
                let at = |step: f32| {
                    let mut x = x.clone();
                    x[index] += step;
                    sum(loss(Tensor::from_data(TensorData::new(x, shape), &device), weights.clone()))
                };
                let difference = (at(0.05) - at(-0.05)) / 0.1;
                assert!(
                    (difference - gradient).abs() < 1e-3 * (1.0 + difference.abs()),
                    "{mode:?} at {index}: {difference} against {gradient}"
                );
            }
        }
    }
}

#[test]
fn views_and_empty_batches_work() {
    for device in devices() {
        let x = ramp([1, 2, 6, 8], &device);
        let view = x.clone().swap_dims(2, 3).slice([0..1, 1..2, 2..7, 0..6]);
        let copy = Tensor::<4>::from_data(view.to_data(), &device);
        let size = [3, 9];
        resize(view, size, ResizeMode::default())
            .into_data()
            .assert_eq(&resize(copy, size, ResizeMode::default()).into_data(), true);
        let none = Tensor::<4>::zeros([0, 2, 6, 8], &device);
        assert_eq!(resize(none, size, ResizeMode::Nearest).dims(), [0, 2, 3, 9]);
    }
}

#[test]
#[should_panic(expected = "no side may be zero")]
fn zero_size_is_refused() {
    resize(Tensor::zeros([1, 1, 2, 2], &Device::default()), [0, 2], ResizeMode::Nearest);
}

/// Its number of values is 2^64, which is 0 where products wrap.
#[test]
#[should_panic(expected = "larger than any memory")]
#[cfg(feature = "flex")]
fn sizes_beyond_any_memory_are_refused() {
    let x = Tensor::zeros([1, 1 << 20, 1, 1], &Device::flex());
    let _ = resize(x, [1 << 22, 1 << 22], ResizeMode::Nearest);
}
