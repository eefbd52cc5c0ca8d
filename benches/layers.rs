//! The operators under a network's layers, forward, and forward and backward together: convolutions by the shape of the
//! layer, transposed convolution, pooling, and batch norm with ReLU.

use std::hint::black_box;

use burn::tensor::{
    Device, Distribution, Tensor,
    ops::{ConvOptions, ConvTransposeOptions, MaxPoolOptions},
};
use criterion::{Criterion, criterion_group, criterion_main};
use segkiln_ops::{
    batch_norm_train, conv_transpose2d, conv2d, max_pool2d,
    reduced::{Affine, ReducedConv2d},
};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::default())
}

/// Times `f` of the tensors, and the gradients of both.
fn both<const D: usize>(
    criterion: &mut Criterion,
    name: &str,
    x: Tensor<4>,
    weight: Tensor<D>,
    f: impl Fn(Tensor<4>, Tensor<D>) -> Tensor<4>,
) {
    let mut group = criterion.benchmark_group(name);
    group.bench_function("forward", |bencher| {
        bencher.iter(|| black_box(f(x.clone(), weight.clone()).into_data()));
    });
    let grad = random(f(x.clone(), weight.clone()).dims()).autodiff();
    let (x, weight) = (x.autodiff(), weight.autodiff());
    group.bench_function("forward_backward", |bencher| {
        bencher.iter(|| {
            let (x, weight) = (x.clone().require_grad(), weight.clone().require_grad());
            let mut gradients = (f(x.clone(), weight.clone()) * grad.clone()).backward();
            let weight = weight.grad_remove(&mut gradients).map(Tensor::into_data);
            black_box((x.grad_remove(&mut gradients).expect("it was required").into_data(), weight))
        });
    });
    group.finish();
}

/// Channels in and out, kernel, stride, dilation, groups, side.
const CONVOLUTIONS: [[usize; 7]; 11] = [
    [64, 64, 3, 1, 1, 1, 256],
    [256, 256, 3, 1, 1, 1, 64],
    [1024, 1024, 3, 1, 1, 1, 16],
    [3, 32, 3, 1, 1, 1, 256],
    [3, 64, 7, 2, 1, 1, 512],
    [64, 256, 1, 1, 1, 1, 128],
    [256, 512, 1, 2, 1, 1, 128],
    [128, 128, 3, 2, 1, 1, 128],
    [512, 512, 3, 1, 2, 1, 65],
    [240, 240, 3, 1, 1, 240, 33],
    [128, 128, 3, 1, 1, 32, 128],
];

fn convolutions(criterion: &mut Criterion) {
    for [channels_in, channels_out, kernel, stride, dilation, groups, side] in CONVOLUTIONS {
        let name = format!("conv/i{channels_in}_o{channels_out}_k{kernel}_s{stride}_d{dilation}_g{groups}_n{side}");
        let padding = dilation * (kernel / 2);
        let options = ConvOptions::new([stride; 2], [padding; 2], [dilation; 2], groups);
        let x = random([1, channels_in, side, side]);
        let weight = random([channels_out, channels_in / groups, kernel, kernel]);
        both(criterion, &name, x, weight, |x, weight| conv2d(x, weight, None, options.clone()));
    }
}

/// The convolutions that can be packed for bf16, forward.
fn reduced_convolutions(criterion: &mut Criterion) {
    for [channels_in, channels_out, kernel, stride, dilation, groups, side] in CONVOLUTIONS {
        let name = format!("bf16/i{channels_in}_o{channels_out}_k{kernel}_s{stride}_d{dilation}_g{groups}_n{side}");
        let padding = dilation * (kernel / 2);
        let options = ConvOptions::new([stride; 2], [padding; 2], [dilation; 2], groups);
        let weight = random([channels_out, channels_in / groups, kernel, kernel]);
        let affine = Affine { scale: random([channels_out]), shift: random([channels_out]), range: None };
        let Some(layer) = ReducedConv2d::pack(&weight, &affine, options) else { continue };
        // What another layer would pass on.
        let identity = Affine { scale: random([channels_in]), shift: random([channels_in]), range: None };
        let before = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        let before = ReducedConv2d::pack(&random([channels_in, channels_in, 1, 1]), &identity, before);
        let x = before.expect("packed as the layer was").forward(random([1, channels_in, side, side]), true);
        criterion.bench_function(&name, |bencher| bencher.iter(|| black_box(layer.forward(x.clone(), true))));
    }
}

fn others(criterion: &mut Criterion) {
    let options = ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1);
    both(criterion, "conv_transpose/i64_o32_n128", random([1, 64, 128, 128]), random([64, 32, 2, 2]), |x, weight| {
        conv_transpose2d(x, weight, None, options.clone())
    });
    both(criterion, "max_pool/i32_n256", random([1, 32, 256, 256]), random([1]), |x, _| {
        max_pool2d(x, MaxPoolOptions::new([2, 2]))
    });
    both(criterion, "batch_norm_relu/i32_n256", random([2, 32, 256, 256]), random([32]), |x, gamma| {
        batch_norm_train(x, gamma.clone(), gamma, 1e-5, true).output
    });
}

criterion_group!(benches, convolutions, reduced_convolutions, others);
criterion_main!(benches);
