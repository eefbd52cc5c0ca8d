//! Time of each transform on one sample of 512 x 512 pixels, gray and RGB, and of decoding the nuclei sample.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use segkiln_core::LabelMap;
use segkiln_data::{
    ColorMode, Image, Limits, MaskFormat, Normalize, Sample, TransformRng, read_image, read_labels, resize_image,
    transforms::{
        Affine, Brightness, CenterCrop, Contrast, Cutout, ElasticDeformation, ForegroundCrop, Gamma, GaussianBlur,
        GaussianNoise, HorizontalFlip, Hue, RandomCrop, RandomTurn90, Resize, Saturation, ScaleJitter, Transform,
        VerticalFlip,
    },
};

const SIDE: u32 = 512;

/// Smooth colors, and blocks of labels.
fn sample(channels: usize) -> Sample {
    let pixels = SIDE * SIDE;
    let value = |i: u32| ((i as f32 * 0.001).sin() + 1.0) / 2.0;
    Sample {
        name: "synthetic".into(),
        image: Image::new(SIDE, SIDE, channels, (0..pixels * channels as u32).map(value).collect()).expect("the size"),
        target: LabelMap::new(SIDE, SIDE, (0..pixels).map(|i| (i / SIDE / 32 + i % SIDE / 32) % 3).collect())
            .expect("the size"),
    }
}

fn transforms(c: &mut Criterion) {
    let cases: Vec<(&str, Box<dyn Transform>)> = vec![
        ("horizontal_flip", Box::new(HorizontalFlip { p: 1.0 })),
        ("vertical_flip", Box::new(VerticalFlip { p: 1.0 })),
        ("turn90", Box::new(RandomTurn90)),
        ("affine", Box::new(Affine::new().rotate([17.0, 17.0]).expect("bounds"))),
        ("elastic", Box::new(ElasticDeformation::unet())),
        ("center_crop_256", Box::new(CenterCrop::new(256, 256).expect("a size"))),
        ("random_crop_256", Box::new(RandomCrop::new(256, 256).expect("a size"))),
        ("foreground_crop_256", Box::new(ForegroundCrop::new(256, 256, 1.0).expect("a size"))),
        ("resize_256", Box::new(Resize::exact(256, 256).expect("a size"))),
        ("scale_1.5", Box::new(ScaleJitter::new([1.5, 1.5]).expect("bounds"))),
        ("brightness", Box::new(Brightness::new([1.2, 1.2]).expect("bounds"))),
        ("contrast", Box::new(Contrast::new([1.2, 1.2]).expect("bounds"))),
        ("gamma", Box::new(Gamma::new([1.2, 1.2]).expect("bounds"))),
        ("hue", Box::new(Hue::new([0.1, 0.1]).expect("bounds"))),
        ("saturation", Box::new(Saturation::new([1.2, 1.2]).expect("bounds"))),
        ("gaussian_noise", Box::new(GaussianNoise::new([0.1, 0.1]).expect("bounds"))),
        ("gaussian_blur_1", Box::new(GaussianBlur::new([1.0, 1.0]).expect("bounds"))),
        ("cutout", Box::new(Cutout::new(3, [0.2, 0.2]).expect("bounds"))),
    ];
    for channels in [1, 3] {
        let mut group = c.benchmark_group(format!("transforms/{SIDE}x{SIDE}x{channels}"));
        group.sample_size(20);
        let sample = sample(channels);
        for (name, transform) in &cases {
            let mut rng = TransformRng::new(0, 0, 0);
            group.bench_function(*name, |b| {
                b.iter_batched(|| sample.clone(), |sample| transform.apply(sample, &mut rng), BatchSize::LargeInput);
            });
        }
        let normalize = Normalize::new(vec![0.5; channels], vec![0.25; channels]).expect("statistics");
        group.bench_function("normalize", |b| {
            b.iter_batched(
                || sample.image.clone(),
                |mut image| normalize.apply(&mut image).map(|()| image),
                BatchSize::LargeInput,
            );
        });
    }
}

fn codecs(c: &mut Criterion) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample");
    let limits = Limits::default();
    let mut group = c.benchmark_group("codecs");
    group.bench_function("read_image/png_512", |b| {
        b.iter(|| read_image(format!("{folder}/image.png"), ColorMode::Gray, &limits).expect("the nuclei sample"));
    });
    group.bench_function("read_labels/png_512", |b| {
        b.iter(|| {
            read_labels(format!("{folder}/labels.png"), &MaskFormat::Binary, &limits).expect("the nuclei sample")
        });
    });
    let image = sample(3).image;
    group.bench_function("resize_image/512_to_256", |b| b.iter(|| resize_image(black_box(&image), 256, 256)));
    group.finish();
}

criterion_group!(benches, transforms, codecs);
criterion_main!(benches);
