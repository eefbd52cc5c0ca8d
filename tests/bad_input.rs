//! Bad input ends a program with one line that names the file and what is wrong with it: no panic, no waiting.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{data_set, discs, files, run, run_badly, run_well, unet_predict, unet_train};
use segkiln::data::write_labels;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a data set and, if asked for, a network that was trained on it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        data_set(&place.at("data"), [3, 1, 1]);
        place
    }

    fn with_network() -> Self {
        let place = Self::new();
        run_well(&mut place.train());
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn train(&self) -> Command {
        let mut command = unet_train(&self.at("data"), &self.at("run"));
        command.args(["--epochs", "1"]);
        command
    }

    fn predict(&self, input: &str) -> Command {
        unet_predict(&self.at("run"), &self.at(input), &self.at("out"))
    }

    /// Runs a program that must refuse its input with a line that has each of `words` in it.
    #[track_caller]
    fn refused(&self, command: &mut Command, words: &[&str]) {
        let line = run_badly(command);
        for word in words {
            assert!(line.to_lowercase().contains(&word.to_lowercase()), "no {word:?} in {line}");
        }
    }

    /// Trains after `spoil` has been at the data.
    #[track_caller]
    fn train_refused(spoil: impl FnOnce(&Path), words: &[&str]) {
        let place = Self::new();
        spoil(&place.at("data"));
        place.refused(&mut place.train(), words);
        assert!(!place.at("run").exists(), "a run that was refused left a folder");
    }

    /// Predicts after `edit` has been at the network's config.
    #[track_caller]
    fn config_refused(&self, edit: impl FnOnce(&mut Value), words: &[&str]) {
        let path = self.at("run/config.json");
        let whole = fs::read_to_string(&path).unwrap();
        let mut config = serde_json::from_str(&whole).unwrap();
        edit(&mut config);
        fs::write(&path, config.to_string()).unwrap();
        self.refused(&mut self.predict("data/images"), &[&["config.json"], words].concat());
        fs::write(&path, whole).unwrap();
    }
}

/// A PNG that is nothing but the header of `side` × `side` gray pixels.
fn png_header(side: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(side.to_be_bytes().repeat(2));
    chunk.extend([8, 0, 0, 0, 0]);
    let crc = chunk.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    [b"\x89PNG\r\n\x1a\n\0\0\0\x0d", chunk.as_slice(), &(!crc).to_be_bytes()].concat()
}

fn truncate(path: &Path) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() / 2]).unwrap();
}

#[test]
fn incomplete_data_sets() {
    let remove = |file: &'static str| move |data: &Path| fs::remove_file(data.join(file)).unwrap();
    Place::train_refused(|data| fs::remove_dir_all(data).unwrap(), &["/data/train.txt", "no such file"]);
    Place::train_refused(remove("train.txt"), &["/data/train.txt", "no such file"]);
    Place::train_refused(remove("val.txt"), &["/data/val.txt", "no such file"]);
    Place::train_refused(
        |data| fs::write(data.join("train.txt"), "\n \n").unwrap(),
        &["/data/train.txt", "no samples"],
    );
    Place::train_refused(remove("images/train_1.png"), &["/data/images", "no image for 1 (train_1)"]);
    Place::train_refused(remove("labels/train_2.png"), &["/data/labels", "no mask for 1 (train_2)"]);
}

#[test]
fn broken_images_and_masks() {
    Place::train_refused(|data| truncate(&data.join("images/train_1.png")), &["images/train_1.png", "PNG"]);
    Place::train_refused(|data| truncate(&data.join("labels/val_1000.png")), &["labels/val_1000.png", "PNG"]);
    // Found before the training, not after it.
    Place::train_refused(|data| truncate(&data.join("images/test_2000.png")), &["images/test_2000.png", "PNG"]);
    let huge = |data: &Path| fs::write(data.join("images/train_1.png"), png_header(100_000)).unwrap();
    Place::train_refused(huge, &["images/train_1.png", "100000x100000", "limit"]);
    let text = |data: &Path| fs::write(data.join("images/train_1.png"), "nuclei, 48 by 40 pixels").unwrap();
    Place::train_refused(text, &["images/train_1.png", "PNG"]);
    let other_size = |data: &Path| write_labels(data.join("labels/train_2.png"), &discs(0, 40, 48).1).unwrap();
    Place::train_refused(other_size, &["images/train_2.png", "labels/train_2.png", "48x40", "40x48"]);
    let swapped = |data: &Path| {
        for (from, to) in [("images", "aside"), ("labels", "images"), ("aside", "labels")] {
            fs::rename(data.join(from), data.join(to)).unwrap();
        }
    };
    Place::train_refused(swapped, &["labels/train_0.png", "swapped"]);
}

#[test]
fn nonsense_for_training() {
    let place = Place::new();
    for (option, value, words) in [
        ("--batch-size", "0", &["batch_size", "at least 1"][..]),
        ("--epochs", "0", &["epochs", "at least 1"]),
        ("--crop", "0", &["crop", "at least 1"]),
        ("--lr", "nan", &["learning_rate", "finite"]),
        ("--lr", "0", &["learning_rate", "above 0"]),
        ("--base", "0", &["base"]),
        ("--base", "100000000", &["base", "100000000"]),
        ("--device", "nonsense", &["nonsense", "flex"]),
    ] {
        place.refused(place.train().args([option, value]), words);
        assert!(!place.at("run").exists(), "{option} {value} left a folder");
    }
    place.refused(place.train().env("BURN_DEVICE", "nonsense"), &["nonsense", "flex"]);

    fs::write(place.at("run"), "").unwrap();
    place.refused(&mut place.train(), &["/run", "file exists"]);
}

#[test]
fn a_loss_that_leaves_the_numbers() {
    let place = Place::new();
    place.refused(place.train().args(["--lr", "1e30"]), &["loss is", "learning rate"]);

    // The first epoch ends well.
    let diverging = || {
        let mut command = place.train();
        command.args(["--lr", "1000", "--epochs", "6"]);
        command
    };
    place.refused(&mut diverging(), &["the epochs before it", "learning rate"]);
    let before = snapshot(&place.at("run"));
    let kept = |name: &str| before.iter().any(|(file, _)| file.ends_with(name));
    assert!(kept("last.bpk") && kept("metrics.csv") && kept("optimizer.bpk"), "{:?}", files(&place.at("run")));
    // What was kept can be gone on with, though not with that learning rate.
    place.refused(diverging().arg("--resume"), &["the epochs before it", "learning rate"]);
    assert!(snapshot(&place.at("run")) == before, "the failed run changed files");
}

/// All files of a folder with their bytes.
fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(folder).into_iter().map(|file| (file.clone(), fs::read(folder.join(&file)).unwrap())).collect()
}

/// Runs a program where no file can be longer than `blocks` of 512 bytes, as if the disk were full after these.
#[cfg(unix)]
fn on_a_full_disk(blocks: u32, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""), "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

#[cfg(unix)]
#[test]
fn a_full_disk() {
    let place = Place::with_network();
    let before = snapshot(&place.at("run"));
    // A new run leaves the earlier one alone.
    place.refused(&mut on_a_full_disk(40, &place.train()), &["cannot write", "/run/", "too large"]);
    assert!(snapshot(&place.at("run.1")) == before, "the earlier run is not as it was");
    assert_eq!(files(&place.at("run")), [Path::new("config.json")]);

    // A run that is gone on with keeps its last checkpoint and what was made from it.
    fs::remove_dir_all(place.at("run")).unwrap();
    fs::rename(place.at("run.1"), place.at("run")).unwrap();
    place.refused(&mut on_a_full_disk(2, place.train().arg("--resume")), &["cannot write", "/run/", "too large"]);
    assert!(snapshot(&place.at("run")) == before, "the resumed run is not as it was");

    place.refused(&mut on_a_full_disk(0, &place.predict("data/images")), &["cannot write", "/out/", "too large"]);
    assert!(files(&place.at("out")).is_empty(), "{:?}", files(&place.at("out")));
}

/// A folder that may be read and not written. Root may write everywhere, so that programs run as nobody then.
#[cfg(unix)]
#[test]
fn a_read_only_folder() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::with_network();
    let before = snapshot(&place.at("run"));
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    allow(place.0.path(), 0o555);
    allow(&place.at("run"), 0o555);
    let is_root = fs::write(place.at("run/probe"), "").is_ok();
    if is_root {
        fs::remove_file(place.at("run/probe")).unwrap();
    }
    let unprivileged = |command: &Command| {
        if !is_root {
            let mut same = Command::new(command.get_program());
            same.args(command.get_args());
            return same;
        }
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(command.get_program());
        nobody.args(command.get_args());
        nobody
    };
    if !is_root || run(&mut unprivileged(&Command::new("true"))).code == Some(0) {
        for command in [place.train(), {
            let mut resumed = place.train();
            resumed.args(["--resume", "--seed", "0"]);
            resumed
        }] {
            let line = run_badly(&mut unprivileged(&command));
            assert!(line.contains("cannot write") || line.contains("cannot create"), "{line}");
            assert!(line.contains("/run") && line.to_lowercase().contains("permission denied"), "{line}");
            assert!(snapshot(&place.at("run")) == before, "a refused run changed files");
        }
        let line = run_badly(&mut unprivileged(&place.predict("data/images")));
        assert!(line.contains("/out") && line.to_lowercase().contains("permission denied"), "{line}");
    }
    // For the folder's removal.
    allow(place.0.path(), 0o755);
    allow(&place.at("run"), 0o755);
}

#[test]
fn no_network() {
    let place = Place::with_network();
    let predict = |model: &str| unet_predict(&place.at(model), &place.at("data/images"), &place.at("out"));
    place.refused(&mut predict("nowhere"), &["nowhere", "no such file"]);
    place.refused(&mut predict("data"), &["data/config.json", "no such file"]);
    place.refused(&mut predict("run/last"), &["run/last", "no such file"]);

    run_well(place.train().arg("--out").arg(place.at("other")).args(["--base", "4"]));
    fs::copy(place.at("other/best.bpk"), place.at("run/best.bpk")).unwrap();
    place.refused(&mut predict("run"), &["run/best.bpk", "first.conv.weight (needs [2, 1, 3, 3], has [4, 1, 3, 3])"]);
    truncate(&place.at("run/best.bpk"));
    place.refused(&mut predict("run"), &["cannot read", "run/best.bpk"]);
    fs::write(place.at("run/best.bpk"), "weights").unwrap();
    place.refused(&mut predict("run"), &["cannot read", "run/best.bpk"]);
    fs::remove_file(place.at("run/best.bpk")).unwrap();
    place.refused(&mut predict("run"), &["cannot read", "run/best.bpk", "no such file"]);
}

#[test]
fn a_spoilt_config() {
    let place = Place::with_network();
    let unet = |config: &mut Value, field: &str, value: Value| config["model"]["UNet"][field] = value;
    place.config_refused(|config| *config = json!("U-Net"), &["expected"]);
    place.config_refused(|config| config["model"] = json!({"VNet": {}}), &["VNet"]);
    place.config_refused(|config| config["color"] = json!(3), &["expected"]);
    place.config_refused(|config| unet(config, "base", json!("two")), &["two"]);
    place.config_refused(|config| unet(config, "base", json!(1_000_000_000_000u64)), &["base"]);
    place.config_refused(|config| unet(config, "depth", json!(99)), &["99"]);
    place.config_refused(|config| unet(config, "in_channels", json!(3)), &["channels"]);
    place.config_refused(|config| config["classes"]["names"] = json!([]), &["class"]);
    place.config_refused(|config| config["normalize"]["std"] = json!([0.0]), &["std"]);
    place.config_refused(|config| config["normalize"]["mean"] = json!([null]), &["null"]);
    // What does not say how to read pictures reads none.
    place.config_refused(|config| drop(config.as_object_mut().unwrap().remove("color")), &["no color"]);
    for field in ["model", "classes", "normalize"] {
        place.config_refused(|config| drop(config.as_object_mut().unwrap().remove(field)), &["missing", field]);
    }
    fs::write(place.at("run/config.json"), "{\"model\": ").unwrap();
    place.refused(&mut place.predict("data/images"), &["config.json", "EOF"]);
}

#[test]
fn bad_input_for_prediction() {
    let place = Place::with_network();
    place.refused(&mut place.predict("nowhere.png"), &["nowhere.png", "no such file"]);
    place.refused(&mut place.predict("data/train.txt"), &["train.txt", "not an image"]);
    fs::create_dir(place.at("empty")).unwrap();
    place.refused(&mut place.predict("empty"), &["no images", "/empty"]);
    fs::copy(place.at("data/images/train_0.png"), place.at("data/images/train_0.PNG")).unwrap();
    place.refused(&mut place.predict("data/images"), &["train_0.png", "train_0.PNG", "rename"]);
    for (option, value) in [("--tile", "0"), ("--overlap", "2"), ("--overlap", "nan"), ("--device", "nonsense")] {
        let words = [option.trim_start_matches('-'), "must be"];
        let words = if option == "--device" { &["nonsense", "flex"][..] } else { &words };
        place.refused(place.predict("data/images/val_1000.png").args([option, value]), words);
    }
    fs::write(place.at("file"), "").unwrap();
    let input = place.at("data/images/val_1000.png");
    place.refused(&mut unet_predict(&place.at("run"), &input, &place.at("file")), &["/file", "file exists"]);
}

#[test]
fn one_bad_file_does_not_stop_the_others_and_hidden_ones_are_left_out() {
    let place = Place::with_network();
    truncate(&place.at("data/images/train_1.png"));
    fs::write(place.at("data/images/._train_0.png"), "of a Mac").unwrap();
    let ended = run(&mut place.predict("data/images"));
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert_eq!((&ended.result()["images"], &ended.result()["failed"]), (&json!(4), &json!(1)));
    assert!(ended.stderr.lines().count() == 1 && ended.stderr.contains("images/train_1.png"), "{}", ended.stderr);
    assert_eq!(files(&place.at("out")).len(), 2 * 4);
    // Nor does one of which the network makes no numbers; here it makes none of any.
    let config = place.at("run/config.json");
    let mut text: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    text["normalize"]["std"] = json!([1e-38]);
    fs::write(&config, text.to_string()).unwrap();
    let ended = run(&mut place.predict("data/images"));
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert_eq!((&ended.result()["images"], &ended.result()["failed"]), (&json!(0), &json!(5)));
    assert!(ended.stderr.contains("images/train_0.png: the network gives NaN"), "{}", ended.stderr);
}

#[test]
fn results_never_replace_what_they_are_made_from() {
    let place = Place::with_network();
    let before = snapshot(&place.at("data"));
    let into = |input: &str| unet_predict(&place.at("run"), &place.at(input), &place.at("data/images/../images"));
    place.refused(&mut into("data/images/train_0.png"), &["train_0.png is an input"]);
    place.refused(&mut into("data/images"), &["is an input"]);
    // A training in the folder of its data moves a run's files only.
    for _ in 0..2 {
        run_well(place.train().arg("--out").arg(place.at("data")));
    }
    let after = snapshot(&place.at("data"));
    assert!(before.iter().all(|file| after.contains(file)), "{:?}", files(&place.at("data")));
    assert!(place.at("data.1/best.bpk").exists() && !place.at("data.1/images").exists());
}

#[cfg(unix)]
#[test]
fn a_second_training_in_one_folder() {
    let place = Place::with_network();
    let before = snapshot(&place.at("run"));
    let first = fs::File::open(place.at("run")).unwrap();
    first.lock().unwrap();
    place.refused(&mut place.train(), &["another training", "/run"]);
    place.refused(place.train().arg("--resume"), &["another training", "/run"]);
    assert!(snapshot(&place.at("run")) == before && !place.at("run.1").exists());
    drop(first);
    run_well(place.train().arg("--resume"));
}

#[test]
fn data_are_checked_without_training() {
    let place = Place::new();
    let check = || place.train().arg("--check-data").args(["--seed", "1"]).output().unwrap();
    let lines = |output: std::process::Output| -> Vec<Value> {
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!(lines(check()), [json!({ "problems": 0, "images": 5 })]);
    truncate(&place.at("data/images/train_1.png"));
    write_labels(place.at("data/labels/train_2.png"), &discs(0, 40, 48).1).unwrap();
    fs::remove_file(place.at("data/labels/val_1000.png")).unwrap();
    let found = lines(check());
    assert_eq!(found.last(), Some(&json!({ "problems": 3, "images": 4 })));
    let words = ["images/train_1.png", "images/train_2.png", "no mask for 1 (val_1000)"];
    for (problem, word) in found.iter().zip(words) {
        let mut fields: Vec<&String> = problem.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["cure", "field", "file", "object", "problem"]);
        assert!(problem.to_string().contains(word), "{problem}");
    }
    assert!(!place.at("run").exists());
}

#[test]
fn a_reader_that_leaves() {
    let place = Place::new();
    let mut child = place.train().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: Broken pipe (os error 32)\n");
    assert!(place.at("run/best.bpk").exists(), "the training did not go on without a reader");
}

#[test]
fn bad_usage() {
    for command in
        [common::example("unet_train").args(["--epochs", "many"]), common::example("unet_predict").arg("--nonsense")]
    {
        let ended = run(command);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains("--help"), "{}", ended.stderr);
        assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
    }
}
