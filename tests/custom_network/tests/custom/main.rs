//! Training, resuming and loading of the program's own parts, also from files of PyTorch's.

mod backbone;
mod detector;
mod segmentation;
mod task;

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use burn::tensor::Device;
use segkiln::{
    data::LoaderBuilder,
    train::{Run, Task, TrainingOptions, history::Monitor, schedule::ScheduleConfig},
};

/// Random numbers are the device's, so that one test at a time may draw them.
fn lock() -> MutexGuard<'static, ()> {
    static DEVICE: Mutex<()> = Mutex::new(());
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A short training that goes on where an earlier one in the folder ended.
fn run<T: Task>(
    folder: &Path,
    epochs: usize,
    task: T,
    [train, valid]: [LoaderBuilder<T::Target>; 2],
    metric: &str,
) -> Run<T> {
    Run {
        folder: folder.into(),
        task,
        options: TrainingOptions {
            epochs,
            schedule: ScheduleConfig::Constant,
            monitor: Monitor { metric: metric.into(), higher_is_better: metric != "loss" },
            ..TrainingOptions::default()
        },
        data: Default::default(),
        weights: None,
        train,
        valid,
        device: Device::default(),
        resume: true,
    }
}

/// Checks that a training in two parts left the files of one that was not interrupted.
fn same_files(whole: &Path, halves: &Path) {
    let bytes = |folder: &Path, file: &str| std::fs::read(folder.join(file)).unwrap();
    for file in ["best.bpk", "last.bpk", "config.json"] {
        assert!(bytes(whole, file) == bytes(halves, file), "{file} differs");
    }
}
