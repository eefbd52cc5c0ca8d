//! Exact resume: a run that was killed, at whatever moment, ends with the bytes of one that was not.

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use burn::tensor::Device;
use common::{Random, data_set, detection_set, files, rcnn_train, run, run_badly, run_well, unet_train};
use segkiln::{
    core::{Classes, Precision},
    data::{
        ColorMode, Loader, MaskFormat, Normalize,
        datasets::{FolderDataset, FolderOptions},
        splits,
        transforms::{Compose, HorizontalFlip, RandomCrop},
        write_image,
    },
    models::{ModelCard, ModelConfig, TrainingPrecision, unet::UNetConfig},
    train::{Run, SegmentationTask, TrainingOptions, train},
};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a data set, and room for runs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        data_set(&place.data(), [4, 2, 2]);
        place
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, out: &str) -> Command {
        let mut command = unet_train(&self.data(), &self.out(out));
        command.args(["--epochs", "4", "--seed", "3"]);
        command
    }
}

/// Asserts that two runs agree in all files' names, the weights' bytes, and the figures except for the time.
fn assert_same_run(a: &Path, b: &Path) {
    assert_eq!(files(a), files(b), "files of {} and {}", a.display(), b.display());
    assert_eq!(figures(a), figures(b), "metrics of {} and {}", a.display(), b.display());
    for name in ["best.bpk", "last.bpk", "config.json"] {
        let same = fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap();
        assert!(same, "{name} of {} and {} differ", a.display(), b.display());
    }
}

/// The lines of metrics.csv without the last column, the seconds.
fn figures(run: &Path) -> Vec<String> {
    let csv = fs::read_to_string(run.join("metrics.csv")).unwrap();
    csv.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned()).collect()
}

fn without_seconds(mut result: Value) -> Value {
    result.as_object_mut().unwrap().remove("seconds").expect("every result has its seconds");
    result
}

/// Kills of a test; more of them, by hand, find rarer faults.
fn kills() -> usize {
    env::var("SEGKILN_KILLS").map_or(6, |kills| kills.parse().expect("SEGKILN_KILLS is a number"))
}

/// Starts `command`, which resumes the run in `out`, until it has been killed [`kills`] times and has then come to its end.
/// A run that ends between two kills is held against `expected` and begun anew.
fn kill_and_resume(command: impl Fn() -> Command, out: &Path, expected: &Path, duration: Duration) {
    let mut random = Random(7);
    let mut killed = 0;
    while killed <= kills() {
        let before = entries(&out.join("checkpoint"));
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let last = killed == kills();
        if !last {
            // Half of the kills fall anywhere in a run, the others where a checkpoint is written and what follows it.
            let delay = match killed % 2 {
                0 => duration.mul_f64(0.8 * random.share()),
                _ => {
                    while entries(&out.join("checkpoint")) == before && child.try_wait().unwrap().is_none() {
                        sleep(Duration::from_micros(200));
                    }
                    Duration::from_millis(30).mul_f64(random.share())
                }
            };
            sleep(delay);
        }
        if !last && child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        } else {
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "after {killed} kills: {stderr}");
            assert_same_run(out, expected);
            if last {
                return;
            }
            fs::remove_dir_all(out).unwrap();
        }
    }
}

/// Names in a folder, none where there is no folder.
fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_killed_run_ends_as_if_it_had_not_been() {
    let place = Place::new();
    let start = Instant::now();
    let expected = run_well(&mut place.train("whole"));
    let duration = start.elapsed();
    let resumed = || {
        let mut command = place.train("killed");
        command.arg("--resume");
        command
    };
    kill_and_resume(resumed, &place.out("killed"), &place.out("whole"), duration);

    assert_eq!(figures(&place.out("killed")).len(), 1 + 4);
    // Once more: there is nothing left to train, and the result is the same.
    let again = run_well(&mut resumed());
    assert_eq!(without_seconds(again), without_seconds(expected));
    assert_same_run(&place.out("killed"), &place.out("whole"));
}

/// The library with all that an epoch's state consists of: averaged weights, dropout, clipped gradients, augmentation.
fn train_with_average(data: &Path, out: &Path) {
    let device = Device::default();
    let classes = Classes::binary();
    let open = |split: &str| {
        let stems = splits::read_list(data.join(format!("{split}.txt"))).unwrap();
        let mask = MaskFormat::Binary;
        let options = FolderOptions { stems: Some(stems), color: ColorMode::Gray, mask, ..Default::default() };
        Arc::new(FolderDataset::open(data, &classes, options).unwrap())
    };
    let (train_split, valid_split) = (open("train"), open("val"));
    let normalize = Normalize::of_dataset(&train_split).unwrap();
    let options = TrainingOptions {
        seed: 5,
        epochs: 4,
        batch_size: 4,
        ema_decay: Some(0.9),
        clip_norm: Some(1.0),
        ..TrainingOptions::default()
    };
    let augment =
        Compose::new().then(RandomCrop::new(32, 32).unwrap()).then(HorizontalFlip { p: 0.5 }).then(normalize.clone());
    let training = Loader::builder(train_split).transform(augment).epoch_length(Some(32));
    let unet = UNetConfig::new(1, 1).with_base(2).with_depth(2).with_dropout(0.3);
    train(Run {
        folder: out.into(),
        task: SegmentationTask::new(ModelCard {
            model: ModelConfig::UNet(unet),
            classes: classes.clone(),
            color: Some(ColorMode::Gray),
            normalize: normalize.clone(),
        }),
        options,
        data: Value::Null,
        weights: None,
        train: training,
        valid: Loader::builder(valid_split).transform(normalize),
        device,
        resume: true,
    })
    .unwrap();
}

#[test]
fn a_killed_run_with_averaged_weights_ends_as_if_it_had_not_been() {
    const OUT: &str = "SEGKILN_TEST_OUT";
    const DATA: &str = "SEGKILN_TEST_DATA";
    // In the process that is to be killed, this test is the run.
    if let (Some(data), Some(out)) = (env::var_os(DATA), env::var_os(OUT)) {
        return train_with_average(data.as_ref(), out.as_ref());
    }
    let place = Place::new();
    let child = |out: &str| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "a_killed_run_with_averaged_weights_ends_as_if_it_had_not_been"]);
        command.env(DATA, place.data()).env(OUT, place.out(out)).stdin(Stdio::null());
        command
    };
    let start = Instant::now();
    let whole = run(&mut child("whole"));
    assert_eq!(whole.code, Some(0), "{}{}", whole.stdout, whole.stderr);
    let duration = start.elapsed();
    kill_and_resume(|| child("killed"), &place.out("killed"), &place.out("whole"), duration);
    assert!(place.out("whole/checkpoint/00004/average.bpk").exists());
}

#[test]
fn a_killed_detector_s_run_ends_as_if_it_had_not_been() {
    let place = Place(tempfile::tempdir().unwrap());
    detection_set(&place.data());
    let train = |out: &str| {
        let mut command = rcnn_train(&place.data(), &place.out(out));
        // Weights of little size, which a checkpoint writes in little time.
        command.args(["--arch", "faster", "--backbone", "mobilenet_v3_small", "--epochs", "3", "--resume"]);
        command
    };
    let start = Instant::now();
    run_well(&mut train("whole"));
    kill_and_resume(|| train("killed"), &place.out("killed"), &place.out("whole"), start.elapsed());
}

#[test]
fn a_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let place = Place::new();
    for (out, threads) in [("one", "1"), ("again", "1"), ("two", "2"), ("five", "5")] {
        run_well(place.train(out).env("RAYON_NUM_THREADS", threads));
        assert_same_run(&place.out("one"), &place.out(out));
    }
    run_well(place.train("other").args(["--seed", "4"]));
    let weights = |out| fs::read(place.out(out).join("last.bpk")).unwrap();
    assert!(weights("one") != weights("other"), "the seed changes nothing");
}

#[test]
fn a_seed_gives_the_same_bytes_in_each_precision() {
    let place = Place::new();
    let train = |out: &str, precision: &str| {
        let mut command = place.train(out);
        command.args(["--base", "16", "--epochs", "2", "--precision", precision]);
        command
    };
    for precision in ["bf16", "int8"] {
        let [one, two] = [1, 2].map(|threads| format!("{precision}_{threads}"));
        for (out, threads) in [(&one, "1"), (&two, "2")] {
            run_well(train(out, precision).env("RAYON_NUM_THREADS", threads));
        }
        assert_same_run(&place.out(&one), &place.out(&two));
        let config: Value = serde_json::from_slice(&fs::read(place.out(&one).join("config.json")).unwrap()).unwrap();
        assert_eq!(config["recipe"]["precision"], precision);
    }
    run_well(&mut train("full", "f32"));
    let weights = |out| fs::read(place.out(out).join("last.bpk")).unwrap();
    let differs = TrainingPrecision::fastest(&Device::flex()) == Precision::Bf16;
    assert_eq!(weights("bf16_1") != weights("full"), differs, "processors without dot products of bf16 train in f32");
    assert_ne!(weights("int8_1"), weights("full"), "factors are rounded to 8 bits on any processor");
}

#[test]
fn a_detector_s_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let place = Place(tempfile::tempdir().unwrap());
    detection_set(&place.data());
    for (out, threads) in [("one", "1"), ("two", "2"), ("three", "3")] {
        run_well(rcnn_train(&place.data(), &place.out(out)).env("RAYON_NUM_THREADS", threads));
        assert_same_run(&place.out("one"), &place.out(out));
    }
}

#[test]
fn other_settings_cannot_be_resumed() {
    let place = Place::new();
    run_well(place.train("run").args(["--epochs", "1"]));
    let before: Vec<_> = ["last.bpk", "config.json"].map(|name| fs::read(place.out("run").join(name)).unwrap()).into();
    for (setting, value, field) in [
        ("--base", "4", "base"),
        ("--lr", "0.5", "learning_rate"),
        ("--epochs", "2", "epochs"),
        ("--crop", "16", "crop"),
        ("--precision", "bf16", "precision"),
    ] {
        let error = run_badly(place.train("run").args(["--epochs", "1", "--resume", setting, value]));
        assert!(error.contains(field) && error.contains("config.json"), "{setting}: {error}");
    }
    let after: Vec<_> = ["last.bpk", "config.json"].map(|name| fs::read(place.out("run").join(name)).unwrap()).into();
    assert!(before == after, "a refused run changed files");
    // What the error says of epochs.
    run_well(place.train("more").args(["--epochs", "1", "--weights"]).arg(place.out("run").join("best.bpk")));
    // Other data.
    fs::copy(place.data().join("images/train_0.png"), place.data().join("images/train_1.png")).unwrap();
    let bright = image::GrayImage::from_pixel(48, 40, image::Luma([9]));
    write_image(place.data().join("images/train_0.png"), &bright.into()).unwrap();
    let error = run_badly(place.train("run").args(["--epochs", "1", "--resume"]));
    assert!(error.contains("the data: names, sizes or objects"), "{error}");
}

#[test]
fn a_new_run_moves_the_old_one_aside() {
    let place = Place::new();
    let one_epoch = |seed: &str| {
        let mut command = place.train("runs/unet");
        command.args(["--epochs", "1", "--seed", seed]);
        command
    };
    let snapshot = |run: &str| -> Vec<(PathBuf, Vec<u8>)> {
        let run = place.out(run);
        files(&run).into_iter().map(|file| (file.clone(), fs::read(run.join(&file)).unwrap())).collect()
    };
    // Nothing to resume: it just starts.
    run_well(one_epoch("1").arg("--resume"));
    let first = snapshot("runs/unet");
    run_well(&mut one_epoch("2"));
    let second = snapshot("runs/unet");
    assert!(snapshot("runs/unet.1") == first, "the first run is not as it was");
    run_well(&mut one_epoch("3"));
    assert!(snapshot("runs/unet.1") == first && snapshot("runs/unet.2") == second, "an earlier run is not as it was");

    // A run whose checkpoint is gone can be started anew, not overwritten.
    fs::remove_dir_all(place.out("runs/unet/checkpoint")).unwrap();
    let third = snapshot("runs/unet");
    run_well(one_epoch("4").arg("--resume"));
    assert!(snapshot("runs/unet.3") == third, "the third run is not as it was");
}
