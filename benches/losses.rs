//! Forward and backward pass of the losses at the sizes of the first training recipes.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Int, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use segkiln_metrics::losses::*;

fn losses(criterion: &mut Criterion) {
    let device = Device::default().autodiff();
    let bce_and_dice = LossConfig::Sum(vec![
        (1.0, LossConfig::Bce(BceLossConfig::new())),
        (1.0, LossConfig::Dice(DiceLossConfig::new())),
    ]);
    let cross_entropy_and_dice = LossConfig::Sum(vec![
        (1.0, LossConfig::CrossEntropy(CrossEntropyLossConfig::new())),
        (1.0, LossConfig::Dice(DiceLossConfig::new())),
    ]);
    let configs = [
        ("cross_entropy", LossConfig::CrossEntropy(CrossEntropyLossConfig::new())),
        ("bce", LossConfig::Bce(BceLossConfig::new())),
        ("dice", LossConfig::Dice(DiceLossConfig::new())),
        ("bce+dice", bce_and_dice),
        ("cross_entropy+dice", cross_entropy_and_dice),
        ("tversky", LossConfig::Tversky(TverskyLossConfig::new())),
        ("focal", LossConfig::Focal(FocalLossConfig::new())),
        ("lovasz", LossConfig::Lovasz(LovaszLossConfig::new())),
        ("mcc", LossConfig::Mcc(MccLossConfig::new())),
        ("boundary", LossConfig::Boundary(BoundaryLossConfig::new())),
    ];
    for shape in [[4, 2, 256, 256], [8, 1, 128, 128]] {
        let [batch, channels, height, width] = shape;
        let mut group = criterion.benchmark_group(format!("losses/{batch}x{channels}x{height}x{width}"));
        let logits = Tensor::<4>::random(shape, Distribution::Normal(0.0, 2.0), &device);
        // Stripes, because masks come in runs and not as noise.
        let pixels = Tensor::<1, Int>::arange(0..(batch * height * width) as i64, &device) / 61 % 2;
        let targets = pixels.reshape([batch, height, width]);
        for (name, config) in &configs {
            let loss = config.init();
            group.bench_function(*name, |bencher| {
                bencher.iter(|| {
                    let leaf = logits.clone().detach().require_grad();
                    // The product makes the logits what they are in training: the output of a model, not a leaf.
                    let gradients = loss.forward(leaf.clone() * 1, targets.clone()).backward();
                    black_box(leaf.grad(&gradients).expect("the leaf has a gradient").into_data())
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, losses);
criterion_main!(benches);
