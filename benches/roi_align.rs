//! RoIAlign, forward, and forward and backward together: a box head's regions, a mask head's few, and boxes of any size with
//! as many points as pixels.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use segkiln_ops::{RoiAlignOptions, roi_align};

/// So many boxes of an image of 800×1088, of up to `side` pixels a side.
fn boxes(count: usize, side: f64) -> Tensor<2> {
    let device = Device::default();
    let uniform = |most: f64| Tensor::<2>::random([count, 1], Distribution::Uniform(0.0, most), &device);
    let corner = Tensor::cat(vec![uniform(1088.0 - side), uniform(800.0 - side)], 1);
    let size = Tensor::cat(vec![uniform(side), uniform(side)], 1);
    Tensor::cat(vec![Tensor::zeros([count, 1], &device), corner.clone(), corner + size], 1)
}

fn regions(criterion: &mut Criterion) {
    let x = Tensor::<4>::random([1, 256, 200, 272], Distribution::Normal(0.0, 1.0), &Device::default());
    for (name, count, side, size, sampling_ratio) in [
        ("1000_to_7x7", 1000, 180.0, [7, 7], Some(2)),
        ("25_to_14x14", 25, 180.0, [14, 14], Some(2)),
        ("200_large_to_7x7", 200, 700.0, [7, 7], None),
    ] {
        let options = RoiAlignOptions { size, scale: 0.25, sampling_ratio, aligned: false };
        let rois = boxes(count, side);
        let mut group = criterion.benchmark_group(format!("roi_align/{name}"));
        group.bench_function("forward", |bencher| {
            bencher.iter(|| black_box(roi_align(x.clone(), rois.clone(), options).into_data()));
        });
        let (x, rois) = (x.clone().autodiff(), rois.autodiff());
        group.bench_function("forward_backward", |bencher| {
            bencher.iter(|| {
                let x = x.clone().require_grad();
                let mut gradients = roi_align(x.clone(), rois.clone(), options).sum().backward();
                black_box(x.grad_remove(&mut gradients).expect("it was required").into_data())
            });
        });
        group.finish();
    }
}

criterion_group!(benches, regions);
criterion_main!(benches);
