//! Every public operator with drawn shapes, views and gradients: a panic with a reason, or values of the shape that is
//! promised; the sanitizer looks for reads and writes out of bounds.

#![no_main]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{LazyLock, Mutex, PoisonError},
};

use arbitrary::{Arbitrary, Unstructured};
use burn::tensor::{
    Device, Distribution, Tensor, TensorData,
    ops::{ConvOptions, ConvTransposeOptions},
};
use libfuzzer_sys::fuzz_target;
use segkiln_ops::{
    ResizeMode, RoiAlignOptions, add_relu, batch_norm_train, batched_nms, conv_transpose2d, conv2d, conv2d_affine,
    gelu, hard_swish, max_pool2d, nms, resize, roi_align, silu,
};

/// Values of the largest tensor.
const MOST: usize = 1 << 15;

static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let device = Device::flex();
    device.seed(1);
    device
});

/// A tensor by its shape and the way it is stored.
#[derive(Arbitrary, Debug, Clone, Copy)]
struct Drawn {
    shape: [u8; 4],
    view: View,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum View {
    Whole,
    Transposed,
    Part,
    Flipped,
    Spread,
}

#[derive(Arbitrary, Debug)]
enum Operator {
    AddRelu { x: Drawn, y: Drawn },
    BatchNorm { x: Drawn, channels: [u8; 2], relu: bool },
    Conv { x: Drawn, second: Option<Drawn>, weight: Drawn, bias: Option<u8>, options: [u8; 7], range: bool },
    ConvTranspose { x: Drawn, weight: Drawn, bias: Option<u8>, options: [u8; 9] },
    Gate { x: Drawn, kind: u8 },
    MaxPool { x: Drawn, kernel: [u8; 2], stride: [u8; 2], padding: [u8; 2], ceil: bool },
    Nms { boxes: Vec<[f32; 4]>, scores: Vec<f32>, classes: Vec<u8>, threshold: f64 },
    Resize { x: Drawn, size: [u16; 2], corners: Option<bool> },
    RoiAlign { x: Drawn, rois: Vec<[f32; 5]>, size: [u8; 2], scale: f32, sampling: Option<u8>, aligned: bool },
}

#[derive(Arbitrary, Debug)]
struct Input {
    operator: Operator,
    gradient: bool,
}

fn sides(shape: [u8; 4]) -> [usize; 4] {
    // Small ones mostly, sometimes longer than a register, seldom none.
    shape.map(|side| match side {
        0 => 0,
        side if side < 200 => 1 + usize::from(side) % 9,
        side => usize::from(side) - 180,
    })
}

impl Drawn {
    fn tensor(self, gradient: bool) -> Option<Tensor<4>> {
        let shape = sides(self.shape);
        let count: usize = shape.iter().product();
        if count > MOST {
            return None;
        }
        let device = if gradient { DEVICE.clone().autodiff() } else { DEVICE.clone() };
        let of = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &device);
        let [n, c, h, w] = shape;
        let x = match self.view {
            View::Whole => of(shape),
            View::Transposed => of([n, c, w, h]).swap_dims(2, 3),
            View::Part if count > 0 => of([n, c + 1, h + 2, w + 1]).slice([0..n, 1..c + 1, 1..h + 1, 0..w]),
            View::Flipped => of(shape).flip([3]),
            View::Spread if count > 0 => of([n, 1, h, w]).expand([n, c, h, w]),
            _ => of(shape),
        };
        Some(if gradient { x.require_grad() } else { x })
    }
}

fn vector(length: u8, gradient: bool) -> Tensor<1> {
    let device = if gradient { DEVICE.clone().autodiff() } else { DEVICE.clone() };
    Tensor::random([usize::from(length)], Distribution::Default, &device)
}

/// Reads every value, and those of the gradient.
fn consume(y: Tensor<4>, gradient: bool, x: &Tensor<4>) {
    let count = y.dims().iter().product::<usize>();
    assert_eq!(y.clone().into_data().iter::<f32>().count(), count);
    if gradient && count > 0 {
        let gradients = y.sum().backward();
        if let Some(gradient) = x.grad(&gradients) {
            assert_eq!(gradient.dims(), x.dims());
            assert_eq!(gradient.into_data().iter::<f32>().count(), x.dims().iter().product::<usize>());
        }
    }
}

fn run(operator: Operator, gradient: bool) -> Option<()> {
    let of = |value: u8, most: u8| usize::from(value % (most + 1));
    match operator {
        Operator::AddRelu { x, y } => {
            let (x, y) = (x.tensor(gradient)?, y.tensor(gradient)?);
            consume(add_relu(x.clone(), y), gradient, &x);
        }
        Operator::BatchNorm { x, channels: [gamma, beta], relu } => {
            let x = x.tensor(gradient)?;
            let own = x.dims()[1] as u8;
            let pick = |value: u8| if value < 250 { own } else { value };
            let (gamma, beta) = (vector(pick(gamma), gradient), vector(pick(beta), gradient));
            consume(batch_norm_train(x.clone(), gamma, beta, 1e-5, relu).output, gradient, &x);
        }
        Operator::Conv { x, second, weight, bias, options, range } => {
            let x = x.tensor(gradient)?;
            let weight = weight.tensor(gradient)?;
            let channels = weight.dims()[0] as u8;
            let [s0, s1, p0, p1, d0, d1, groups] = options;
            let options = ConvOptions::new(
                [of(s0, 4), of(s1, 4)],
                [of(p0, 5), of(p1, 5)],
                [of(d0, 3), of(d1, 3)],
                1 + of(groups, 3),
            );
            let bias = bias.map(|bias| vector(if bias < 250 { channels } else { bias }, gradient));
            let y = match second.map(|second| second.tensor(gradient)) {
                Some(second) => conv2d([x.clone(), second?], weight, bias, options),
                None if range => {
                    let scale = vector(channels, gradient);
                    conv2d_affine(x.clone(), weight, scale.clone(), bias.unwrap_or(scale), Some([0.0, 6.0]), options)
                }
                None => conv2d(x.clone(), weight, bias, options),
            };
            consume(y, gradient, &x);
        }
        Operator::ConvTranspose { x, weight, bias, options } => {
            let x = x.tensor(gradient)?;
            let weight = weight.tensor(gradient)?;
            let channels = weight.dims()[1] as u8;
            let [s0, s1, p0, p1, d0, d1, o0, o1, groups] = options;
            let options = ConvTransposeOptions::new(
                [of(s0, 3), of(s1, 3)],
                [of(p0, 3), of(p1, 3)],
                [of(o0, 2), of(o1, 2)],
                [of(d0, 2), of(d1, 2)],
                1 + of(groups, 2),
            );
            let bias = bias.map(|bias| vector(if bias < 250 { channels } else { bias }, gradient));
            consume(conv_transpose2d(x.clone(), weight, bias, options), gradient, &x);
        }
        Operator::Gate { x, kind } => {
            let x = x.tensor(gradient)?;
            let y = match kind % 3 {
                0 => gelu(x.clone()),
                1 => silu(x.clone()),
                _ => hard_swish(x.clone()),
            };
            consume(y, gradient, &x);
        }
        Operator::MaxPool { x, kernel, stride, padding, ceil } => {
            let x = x.tensor(gradient)?;
            let pad = padding.map(|side| (of(side, 2), of(side, 2)));
            let options = burn::tensor::ops::MaxPoolOptions {
                kernel_size: kernel.map(|side| 1 + of(side, 3)),
                stride: stride.map(|side| 1 + of(side, 3)),
                padding: pad,
                dilation: [1, 1],
                ceil_mode: ceil,
            };
            consume(max_pool2d(x.clone(), options), gradient, &x);
        }
        Operator::Nms { boxes, scores, classes, threshold } => {
            let count = boxes.len().min(scores.len()).min(classes.len());
            let classes: Vec<u32> = classes.into_iter().map(u32::from).collect();
            let boxes = &boxes[..count];
            for kept in [
                nms(boxes, &scores[..count], threshold),
                batched_nms(boxes, &scores[..count], &classes[..count], threshold),
            ] {
                assert!(kept.len() <= count && kept.iter().all(|index| *index < count));
            }
        }
        Operator::Resize { x, size, corners } => {
            let x = x.tensor(gradient)?;
            let size = size.map(|side| usize::from(side % 70));
            let [n, c, ..] = x.dims();
            if n * c * size[0] * size[1] > 4 * MOST {
                return None;
            }
            let mode = corners.map_or(ResizeMode::Nearest, |align_corners| ResizeMode::Bilinear { align_corners });
            consume(resize(x.clone(), size, mode), gradient, &x);
        }
        Operator::RoiAlign { x, rois, size, scale, sampling, aligned } => {
            let x = x.tensor(gradient)?;
            let rois = &rois[..rois.len().min(8)];
            let rois: Vec<f32> =
                rois.iter().flat_map(|roi| [roi[0].abs() % 4.0, roi[1], roi[2], roi[3], roi[4]]).collect();
            let count = rois.len() / 5;
            let options = RoiAlignOptions {
                size: size.map(|side| of(side, 9)),
                scale: f64::from(scale),
                // The adaptive number of points grows with the region.
                sampling_ratio: Some(sampling.map_or(2, |sampling| of(sampling, 5))),
                aligned,
            };
            let rois = Tensor::<2>::from_data(TensorData::new(rois, [count, 5]), &x.device());
            consume(roi_align(x.clone(), rois, options), gradient, &x);
        }
    }
    Some(())
}

/// Place of the last panic.
static PLACE: Mutex<String> = Mutex::new(String::new());

fuzz_target!(init: std::panic::set_hook(Box::new(|info| {
    *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
})), |data: &[u8]| {
    let Ok(Input { operator, gradient }) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    // Shapes that do not fit are a documented panic; that of what is promised here is a fault.
    let run = AssertUnwindSafe(|| run(operator, gradient));
    if let Err(reason) = catch_unwind(run) {
        let text = reason.downcast_ref::<String>().map_or("", String::as_str);
        let text = reason.downcast_ref::<&str>().copied().unwrap_or(text);
        let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
        let arithmetic = ["index out of bounds", "overflow", "out of range for slice"];
        // Burn computes sizes of convolutions without values so.
        if place.contains("segkiln") && arithmetic.iter().any(|words| text.contains(words)) {
            eprintln!("{place}");
            std::process::abort();
        }
    }
});
