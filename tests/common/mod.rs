//! Shared parts of the tests of the example programs: a synthetic data set and a way to run the programs.
//!
//! Cargo builds the examples when it builds all targets of the package; where only one test was asked for, they are built
//! here. Those that are there are taken as they are: after a change of the sources, `cargo build --examples` comes first.

#![allow(dead_code, reason = "each test takes a part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use image::{DynamicImage, GrayImage, Luma};
use segkiln::{
    core::{LabelMap, Rle},
    data::{write_image, write_labels},
};
use serde_json::{Value, json};

/// SplitMix64: random numbers that are the same in every run of a test.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// At least `from`, less than `to`.
    pub fn range(&mut self, from: u32, to: u32) -> u32 {
        from + (self.next() % u64::from(to - from)) as u32
    }

    /// In `[0, 1)`.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Five bright discs on a noisy ground, and their mask. The discs' ids are 256, 512, …: whoever keeps only 8 bits of a mask
/// finds no foreground.
pub fn discs(seed: u64, width: u32, height: u32) -> (GrayImage, LabelMap) {
    let mut random = Random(seed);
    let discs: Vec<_> = (0..5).map(|_| [random.range(0, width), random.range(0, height), random.range(4, 8)]).collect();
    let id = |x: u32, y: u32| {
        let inside = |&[cx, cy, r]: &[u32; 3]| x.abs_diff(cx).pow(2) + y.abs_diff(cy).pow(2) <= r * r;
        discs.iter().position(inside).map_or(0, |index| 256 * (index as u32 + 1))
    };
    let labels = (0..width * height).map(|at| id(at % width, at / width)).collect();
    let mask = LabelMap::new(width, height, labels).unwrap();
    let image = GrayImage::from_fn(width, height, |x, y| {
        let ground = if id(x, y) > 0 { 150 } else { 30 };
        Luma([(ground + random.range(0, 60)) as u8])
    });
    (image, mask)
}

/// Writes an image of discs with its mask as `images/STEM.EXTENSION` and `labels/STEM.png`.
pub fn write_pair(root: &Path, stem: &str, extension: &str, image: &DynamicImage, mask: &LabelMap) {
    for folder in ["images", "labels"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    write_image(root.join(format!("images/{stem}.{extension}")), image).unwrap();
    write_labels(root.join(format!("labels/{stem}.png")), mask).unwrap();
}

/// A data set of `train` + `val` + `test` gray images of 48×40 pixels.
pub fn data_set(root: &Path, [train, val, test]: [u64; 3]) {
    for (split, seeds) in [("train", 0..train), ("val", 1000..1000 + val), ("test", 2000..2000 + test)] {
        if seeds.is_empty() {
            continue;
        }
        let stems: Vec<String> = seeds.clone().map(|seed| format!("{split}_{seed}")).collect();
        for (seed, stem) in seeds.zip(&stems) {
            let (image, mask) = discs(seed, 48, 40);
            write_pair(root, stem, "png", &image.into(), &mask);
        }
        fs::write(root.join(format!("{split}.txt")), stems.join("\n")).unwrap();
    }
}

/// Images of bright rectangles and discs on a dark ground in `images`, and COCO's annotations of six of them in
/// `train.json`, of two in `val.json`.
pub fn detection_set(root: &Path) {
    fs::create_dir_all(root.join("images")).unwrap();
    for (split, count) in [("train", 6), ("val", 2)] {
        let mut images = Vec::new();
        let mut annotations = Vec::new();
        for index in 0..count {
            let id = images.len() as u64 + 100;
            let mut random = Random(id + 1000 * count);
            let labels = objects(&mut random, index % 3);
            let picture = GrayImage::from_fn(64, 48, |x, y| {
                let ground = if labels.get(x, y).unwrap() > 0 { 180 } else { 20 };
                Luma([(ground + random.range(0, 40)) as u8])
            });
            write_image(root.join(format!("images/{split}_{index}.png")), &picture.into()).unwrap();
            images.push(json!({ "id": id, "file_name": format!("{split}_{index}.png"), "width": 64, "height": 48 }));
            for (label, mask) in Rle::of_labels(&labels).unwrap() {
                let bbox = mask.bbox().unwrap().xywh();
                annotations.push(json!({
                    "id": annotations.len() + 1, "image_id": id, "category_id": if label % 2 == 0 { 7 } else { 3 },
                    "bbox": bbox, "area": mask.area(), "iscrowd": 0,
                    "segmentation": { "size": [48, 64], "counts": mask.to_coco_string() },
                }));
            }
        }
        let categories = [json!({ "id": 7, "name": "disc" }), json!({ "id": 3, "name": "box" })];
        let file = json!({ "images": images, "annotations": annotations, "categories": categories });
        fs::write(root.join(format!("{split}.json")), file.to_string()).unwrap();
    }
}

/// Up to two rectangles and discs, numbered from 1: odd ones are rectangles.
fn objects(random: &mut Random, count: u64) -> LabelMap {
    let mut labels = LabelMap::filled(64, 48, 0);
    for number in 1..=count as u32 {
        let (x, y) = (random.range(4, 30) + 20 * (number - 1), random.range(4, 20));
        let (w, h) = (random.range(10, 18), random.range(10, 18));
        for at in 0..64 * 48u32 {
            let (dx, dy) = ((at % 64).wrapping_sub(x), (at / 64).wrapping_sub(y));
            let disc = |d: u32, s: u32| (2.0 * f64::from(d) - f64::from(s) + 1.0) / f64::from(s);
            let inside = dx < w && dy < h && (number % 2 == 1 || disc(dx, w).powi(2) + disc(dy, h).powi(2) <= 1.0);
            if inside {
                labels.as_mut_slice()[at as usize] = number;
            }
        }
    }
    labels
}

/// Settings of `rcnn_train` on a [`detection_set`] that take about a second an epoch.
pub fn rcnn_train(root: &Path, out: &Path) -> Command {
    let mut command = example("rcnn_train");
    for split in ["train", "val"] {
        command.arg(format!("--{split}-images")).arg(root.join("images"));
        command.arg(format!("--{split}-json")).arg(root.join(format!("{split}.json")));
    }
    command.args([
        "--backbone",
        "resnet18",
        "--anchor-sizes",
        "8,16,32,64,128",
        "--min-size",
        "48",
        "--max-size",
        "64",
    ]);
    command.args(["--epochs", "1", "--optimizer", "adamw", "--lr", "5e-4", "--detections", "10", "--seed", "5"]);
    command.arg("--out").arg(out);
    command
}

/// Settings of `unet_train` that take less than a second: a tiny network on small crops.
pub fn unet_train(data: &Path, out: &Path) -> Command {
    let mut command = example("unet_train");
    command.arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--base", "2", "--crop", "32"]);
    command
}

/// `unet_predict` on what `unet_train` wrote.
pub fn unet_predict(model: &Path, input: &Path, output: &Path) -> Command {
    let mut command = example("unet_predict");
    command.arg("--model").arg(model).arg("--input").arg(input).arg("--output").arg(output);
    command
}

/// An example program, built where it is missing.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let program = target.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !program.exists() {
        let profile = match target.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-p", "segkiln", "--profile", profile, "--example", name, "--target-dir"]);
        cargo.arg(target.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(cargo.status().unwrap().success(), "cannot build the example {name}");
    }
    let mut command = Command::new(program);
    // A user's settings must not decide what the tests see.
    command.env_remove("BURN_DEVICE").stdin(Stdio::null());
    command
}

/// Exit code and output of a program.
pub struct Ended {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Ended {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).expect("programs write UTF-8");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs a program that must succeed, and gives the JSON object on its last line.
pub fn run_well(command: &mut Command) -> Value {
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{command:?}\n{}\n{}", ended.stdout, ended.stderr);
    ended.result()
}

/// Runs a program that must fail, soon and with one line on stderr, and gives that line.
pub fn run_badly(command: &mut Command) -> String {
    let start = Instant::now();
    let ended = run(command);
    let Ended { code, stdout, stderr } = &ended;
    assert_eq!(*code, Some(1), "{command:?}\n{stdout}\n{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{command:?}\n{stderr}");
    assert!(start.elapsed() < Duration::from_secs(10), "{command:?} took {:?} to fail", start.elapsed());
    ended.stderr
}

impl Ended {
    /// The JSON object on the last line.
    pub fn result(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("last line {last:?}: {error}"));
        assert!(value.is_object(), "{last}");
        value
    }
}

/// All files below a folder, by their paths in it.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, root, found),
                false => found.push(path.strip_prefix(root).unwrap().to_owned()),
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}
