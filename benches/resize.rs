//! Forward pass of the resize operator, and forward and backward pass together, for a decoder's step and for a logit map.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use segkiln_ops::{ResizeMode, resize};

fn resizes(criterion: &mut Criterion) {
    let plain = Device::default();
    let tracked = plain.clone().autodiff();
    let modes = [
        ("nearest", ResizeMode::Nearest),
        ("bilinear", ResizeMode::Bilinear { align_corners: false }),
        ("bilinear_align_corners", ResizeMode::Bilinear { align_corners: true }),
    ];
    for (shape, size) in [([4, 64, 64, 64], [128, 128]), ([1, 21, 65, 65], [520, 520])] {
        let [batch, channels, height, width] = shape;
        let name = format!("resize/{batch}x{channels}x{height}x{width}_to_{}x{}", size[0], size[1]);
        let mut group = criterion.benchmark_group(name);
        let x = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &plain);
        let leaf = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &tracked);
        for (name, mode) in modes {
            group.bench_function(format!("{name}/forward"), |bencher| {
                bencher.iter(|| black_box(resize(x.clone(), size, mode).into_data()));
            });
            group.bench_function(format!("{name}/forward_backward"), |bencher| {
                bencher.iter(|| {
                    let leaf = leaf.clone().detach().require_grad();
                    let gradients = resize(leaf.clone(), size, mode).sum().backward();
                    black_box(leaf.grad(&gradients).expect("the leaf has a gradient").into_data())
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, resizes);
criterion_main!(benches);
