//! Samples a second that the loader makes of the nuclei sample, from file to tensors, by the number of workers.

use std::{path::PathBuf, sync::Arc};

use burn::data::{dataloader::DataLoader, dataset::Dataset};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use segkiln_core::Classes;
use segkiln_data::{
    ColorMode, Loader, MaskFormat, Normalize, Sample,
    datasets::{Cached, FolderDataset, FolderOptions},
    transforms::{Affine, Brightness, Compose, ElasticDeformation, HorizontalFlip, RandomCrop, RandomTurn90},
};

const SAMPLES: usize = 32;
const BATCH: usize = 8;

/// The committed image and mask as a data set of folders.
fn nuclei() -> FolderDataset {
    let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample"));
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("loader_bench");
    for (folder, file) in [("images", "image.png"), ("labels", "labels.png")] {
        std::fs::create_dir_all(root.join(folder)).expect("the target folder can be written");
        std::fs::copy(source.join(file), root.join(folder).join("nuclei.png")).expect("the nuclei sample");
    }
    let options = FolderOptions { color: ColorMode::Gray, mask: MaskFormat::Binary, ..Default::default() };
    FolderDataset::open(root, &Classes::binary(), options).expect("the nuclei sample")
}

/// The augmentation of the U-Net paper, and light.
fn augmentation() -> Compose {
    Compose::new()
        .then(RandomCrop::new(256, 256).expect("a size"))
        .then(HorizontalFlip { p: 0.5 })
        .then(RandomTurn90)
        .then(Affine::new().rotate([-15.0, 15.0]).and_then(|a| a.scale([0.8, 1.25])).expect("bounds"))
        .then(ElasticDeformation::unet())
        .then(Brightness::new([0.8, 1.2]).expect("bounds"))
        .then(Normalize::new(vec![0.2], vec![0.2]).expect("statistics"))
}

fn loader(c: &mut Criterion) {
    let datasets: [(&str, Arc<dyn Dataset<Sample>>); 2] =
        [("from_files", Arc::new(nuclei())), ("cached", Arc::new(Cached::new(nuclei(), 1 << 30)))];
    let mut group = c.benchmark_group("loader/256x256x1");
    group.throughput(Throughput::Elements(SAMPLES as u64)).sample_size(10);
    for (name, dataset) in &datasets {
        for workers in [0, 1, 2, 4] {
            let loader = Loader::builder(dataset.clone())
                .transform(augmentation())
                .batch_size(BATCH)
                .epoch_length(Some(SAMPLES))
                .workers(workers)
                .build()
                .expect("valid options");
            group.bench_function(format!("{name}/{workers}_workers"), |b| {
                b.iter(|| loader.iter().map(|batch| batch.expect("the nuclei sample").names.len()).sum::<usize>());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, loader);
criterion_main!(benches);
