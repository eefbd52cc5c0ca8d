//! What the tests of the example programs share: a synthetic data set and a way to run the programs.
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
    core::LabelMap,
    data::{write_image, write_labels},
};
use serde_json::Value;

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

/// A data set of `train` + `val` + `test` grey images of 48×40 pixels.
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

/// What a program left behind.
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
