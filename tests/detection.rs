//! Detectors as a user meets them: `rcnn_train`, `detect`, `coco_eval`; and what they say to bad input.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use burn::tensor::Device;
use common::{detection_set, example, rcnn_train, run, run_badly, run_well};
use image::GrayImage;
use segkiln::{
    Detector,
    core::Classes,
    data::{
        Loader,
        datasets::{CocoDetection, CocoOptions},
        regions::{GeoTags, SampleType, TiffSink, TiffSinkOptions},
        write_image,
    },
    models::{
        DetectorCard,
        backbones::BackboneConfig,
        detection::rcnn::{MaskConfig, RcnnConfig},
    },
    train::{
        Run,
        detection::{DetectionTask, reference_options},
        train,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a data set, and room for runs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        detection_set(place.0.path());
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, split: &str, file: &Value) {
        fs::write(self.at(&format!("{split}.json")), file.to_string()).unwrap();
    }

    fn read(&self, split: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.at(&format!("{split}.json"))).unwrap()).unwrap()
    }

    fn train(&self, out: &str) -> Command {
        rcnn_train(self.0.path(), &self.at(out))
    }

    /// Trains after `spoil` has been at the training annotations.
    #[track_caller]
    fn train_refused(spoil: impl FnOnce(&mut Value), words: &[&str]) {
        let place = Self::new();
        let mut file = place.read("train");
        spoil(&mut file);
        place.write("train", &file);
        refused(&mut place.train("run"), words);
    }
}

#[track_caller]
fn refused(command: &mut Command, words: &[&str]) {
    let line = run_badly(command);
    for word in words {
        assert!(line.to_lowercase().contains(&word.to_lowercase()), "no {word:?} in {line}");
    }
}

#[test]
fn a_detector_is_trained_used_and_evaluated() {
    let place = Place::new();
    let result = run_well(&mut place.train("run"));
    assert_eq!((&result["images"], &result["epochs"]), (&json!(2), &json!(1)));
    for kind in ["bbox", "segm"] {
        let figures = result[kind].as_object().unwrap();
        assert_eq!(figures.len(), 12);
        assert!(figures.values().all(|figure| (-1.0..=1.0).contains(&figure.as_f64().unwrap())), "{figures:?}");
    }
    for file in ["best.bpk", "last.bpk", "config.json", "metrics.csv", "curves.svg", "overlays/val_0.png"] {
        assert!(fs::metadata(place.at("run").join(file)).unwrap().len() > 0, "{file}");
    }

    // Resumed also where `config.json` has the network without its kind, as there were only R-CNNs before.
    let path = place.at("run/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["model"] = config["model"]["Rcnn"].take();
    fs::write(&path, config.to_string()).unwrap();
    Detector::load(place.at("run"), &Device::default()).unwrap();
    assert_eq!(run_well(place.train("run").arg("--resume"))["bbox"], result["bbox"]);

    // The same again, and resumed when there is nothing left to do: the same weights.
    let again = run_well(&mut place.train("again"));
    let resumed = run_well(place.train("again").arg("--resume"));
    assert_eq!((&again["bbox"], &resumed["bbox"]), (&result["bbox"], &result["bbox"]));
    for file in ["best.bpk", "last.bpk"] {
        let same = fs::read(place.at("run").join(file)).unwrap() == fs::read(place.at("again").join(file)).unwrap();
        assert!(same, "{file} of two runs differ");
    }

    let mut detect = example("detect");
    detect.arg("--model").arg(place.at("run")).arg("--image").arg(place.at("images"));
    detect
        .args(["--score-threshold", "0"])
        .arg("--output")
        .arg(place.at("found.json"))
        .arg("--overlay")
        .arg(place.at("seen"));
    let found = run_well(&mut detect);
    assert_eq!(found["images"], json!(8));
    let results: Vec<Value> = serde_json::from_str(&fs::read_to_string(place.at("found.json")).unwrap()).unwrap();
    assert_eq!(found["detections"], json!(results.len()));
    assert!(results.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()));
    for result in &results {
        assert!([3, 7].contains(&result["category_id"].as_u64().unwrap()), "{result}");
        assert_eq!(result["segmentation"]["size"], json!([48, 64]));
    }
    assert!(place.at("seen/train_0.png").exists());

    // What is found at a level is said in the picture's pixels.
    let small = image::open(place.at("images/val_1.png")).unwrap().into_luma8();
    let level = image::imageops::resize(&small, 256, 192, image::imageops::FilterType::Nearest);
    level.save(place.at("level.png")).unwrap();
    let picture = image::imageops::resize(&level, 512, 384, image::imageops::FilterType::Nearest);
    let options = TiffSinkOptions {
        width: 512,
        height: 384,
        bands: 1,
        samples: SampleType::U8,
        geo: GeoTags::default(),
        identity: None,
    };
    let mut file = TiffSink::create(place.at("picture.tif"), options).unwrap();
    file.push_labels(&picture.as_raw().iter().map(|value| u32::from(*value)).collect::<Vec<u32>>()).unwrap();
    file.finish().unwrap();
    let found = |image: &str, flags: &[&str]| -> Vec<Value> {
        let mut detect = example("detect");
        detect.arg("--model").arg(place.at("run")).arg("--image").arg(place.at(image)).args(["--score-threshold", "0"]);
        detect.arg("--output").arg(place.at("level.json")).arg("--geojson").arg(place.at("level.geojson")).args(flags);
        run_well(&mut detect);
        serde_json::from_str(&fs::read_to_string(place.at("level.json")).unwrap()).unwrap()
    };
    let areas = || -> Vec<u64> {
        let file: Value = serde_json::from_str(&fs::read_to_string(place.at("level.geojson")).unwrap()).unwrap();
        file["features"].as_array().unwrap().iter().map(|it| it["properties"]["area"].as_u64().unwrap()).collect()
    };
    let expected = found("level.png", &[]);
    let expected_areas = areas();
    let overlay = place.at("level_seen.png");
    let of_level = found("picture.tif", &["--level", "1", "--overlay", overlay.to_str().unwrap()]);
    assert!(!expected.is_empty() && of_level.len() == expected.len());
    for (found, expected) in of_level.iter().zip(&expected) {
        assert_eq!(found["score"], expected["score"]);
        let sides = |value: &Value| serde_json::from_value::<[f64; 4]>(value["bbox"].clone()).unwrap();
        let off =
            sides(found).iter().zip(sides(expected)).any(|(found, expected)| (found - 2.0 * expected).abs() > 0.01);
        assert!(!off, "{found} {expected}");
        assert_eq!(found["segmentation"]["size"], json!([384, 512]));
    }
    assert_eq!(areas(), expected_areas.iter().map(|area| 4 * area).collect::<Vec<u64>>());
    assert_eq!(image::open(overlay).unwrap().width(), 512);

    let mut video = example("video");
    video.arg("--model").arg(place.at("run")).arg("--input").arg(place.at("images"));
    video.arg("--output").arg(place.at("film.gif")).arg("--mot").arg(place.at("mot.txt"));
    assert_eq!(run_well(video.args(["--track", "--score-threshold", "0"]))["frames"], json!(8));
    assert!(place.at("film.gif").exists() && place.at("mot.txt").exists());

    // As a library.
    let detector = Detector::load(place.at("run"), &Device::default()).unwrap();
    assert_eq!(detector.classes().names(), ["background", "box", "disc"]);
    let image = image::open(place.at("images/val_1.png")).unwrap();
    let here = detector.detect(&image).unwrap();
    assert_eq!(detector.overlay(&image, &here).unwrap().dimensions(), (64, 48));
}

/// RetinaNet and FCOS by the same programs.
#[test]
fn detectors_of_one_stage_are_trained_and_used() {
    let place = Place::new();
    for (arch, kind) in [("retinanet", "RetinaNet"), ("fcos", "Fcos")] {
        let result = run_well(place.train(arch).args(["--arch", arch]));
        assert_eq!(result["bbox"].as_object().unwrap().len(), 12, "{arch}");
        assert!(result.get("segm").is_none(), "{arch}");
        let config: Value =
            serde_json::from_str(&fs::read_to_string(place.at(arch).join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model"][kind]["max_detections"], json!(10), "{arch}");
        let resumed = run_well(place.train(arch).args(["--arch", arch, "--resume"]));
        assert_eq!(resumed["bbox"], result["bbox"], "{arch}");

        let mut detect = example("detect");
        detect.arg("--model").arg(place.at(arch)).arg("--image").arg(place.at("images/val_0.png"));
        detect.args(["--score-threshold", "0"]).arg("--output").arg(place.at("found.json"));
        let found = run_well(&mut detect);
        let count = found["detections"].as_u64().unwrap();
        assert!((1..=10).contains(&count), "{arch}: {count}");
    }
}

#[test]
fn detectors_learn_from_attacked_images() {
    let place = Place::new();
    let adversarial = |attack: &str| {
        let mut command = place.train("attacked");
        command.args(["--arch", "faster", "--adversarial", attack, "--epsilon", "6", "--share", "0.5"]);
        command
    };
    run_well(&mut adversarial("fgsm"));
    let config = fs::read_to_string(place.at("attacked/config.json")).unwrap();
    assert!(config.contains("AdversarialDetectionTraining") && config.contains("epsilon: 6.0"), "{config}");
    refused(&mut adversarial("segpgd"), &["segpgd", "take fgsm or pgd"]);
}

/// Objects of classes that the network does not have, and objects without masks that it is to learn.
#[test]
fn data_of_another_task_end_a_training_with_an_error() {
    let place = Place::new();
    for (classes, masks, words) in [(2, false, "the network's are 1 to 1"), (3, true, "has no mask")] {
        let data = || {
            Arc::new(CocoDetection::open(place.at("images"), place.at("train.json"), CocoOptions::default()).unwrap())
        };
        let config = RcnnConfig::with_backbone(BackboneConfig::by_name("mobilenet_v3_small").unwrap(), classes);
        let roi = config.roi.clone().with_representation(16);
        let config = config.with_channels(16).with_roi(roi).with_min_size(48).with_max_size(64);
        let config = config.with_mask(masks.then(|| MaskConfig::new().with_channels(16)));
        let names = (0..classes).map(|class| format!("class {class}"));
        let card = DetectorCard::new(config, Classes::new(names).unwrap());
        let error = train(Run {
            folder: place.at("run"),
            task: DetectionTask::new(card),
            options: reference_options(6, 1, 2),
            data: Value::Null,
            weights: None,
            train: Loader::builder(data()),
            valid: Loader::builder(data()),
            device: Device::default(),
            resume: false,
        });
        let error = error.expect_err("the data do not fit").to_string();
        assert!(error.contains(words) && error.contains("train_"), "{error}");
    }
}

#[test]
fn annotations_that_are_wrong_are_named() {
    Place::train_refused(|file| file["annotations"][0]["category_id"] = json!(99), &["train.json", "category", "99"]);
    Place::train_refused(
        |file| file["annotations"][0]["image_id"] = json!(1),
        &["train.json", "annotation 1", "image"],
    );
    Place::train_refused(|file| file["annotations"][0]["bbox"] = json!([0, 0, "NaN", 2]), &["train.json", "bbox"]);
    Place::train_refused(
        |file| file["annotations"][0]["segmentation"] = json!({ "size": [48, 64], "counts": [0, 999_999] }),
        &["train.json", "annotation 1", "segmentation"],
    );
    Place::train_refused(|file| file["images"][0]["file_name"] = json!("none.png"), &["none.png"]);
    Place::train_refused(
        |file| file["annotations"][0].as_object_mut().unwrap().remove("segmentation").map(drop).unwrap(),
        &["annotation 1", "segmentation", "mask"],
    );
    let place = Place::new();
    fs::write(place.at("train.json"), "{\"images\": [").unwrap();
    refused(&mut place.train("run"), &["train.json"]);
    let place = Place::new();
    refused(place.train("run").args(["--backbone", "resnet51"]), &["resnet51", "resnet50"]);
    refused(place.train("run").args(["--min-size", "0"]), &["min_size"]);
    refused(place.train("run").args(["--lr", "nan"]), &["learning_rate"]);
    refused(example("rcnn_train").args(["--format", "voc"]), &["--voc"]);
    refused(example("rcnn_train").args(["--arch", "faster", "--format", "voc", "--voc", "/nowhere"]), &["/nowhere"]);
}

#[test]
fn a_bad_image_does_not_stop_the_others() {
    let place = Place::new();
    run_well(&mut place.train("run"));
    let detect = |image: &str, output: &str| {
        let mut command = example("detect");
        command.arg("--model").arg(place.at("run")).arg("--image").arg(place.at(image)).arg("--output");
        command.arg(place.at(output));
        command
    };
    fs::write(place.at("images/train_1.png"), "no picture").unwrap();
    fs::write(place.at("images/._train_0.png"), "of a Mac").unwrap();
    let ended = run(&mut detect("images", "found.json"));
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert_eq!((&ended.result()["images"], &ended.result()["failed"]), (&json!(7), &json!(1)));
    assert!(ended.stderr.lines().count() == 1 && ended.stderr.contains("images/train_1.png"), "{}", ended.stderr);
    assert!(place.at("found.json").exists());
    refused(&mut detect("images/train_1.png", "one.json"), &["train_1.png"]);
    // Limits of the decoders, and results that would replace an input.
    let one = "images/train_0.png";
    refused(detect(one, "one.json").args(["--limits", "2000"]), &["train_0.png", "limit"]);
    run_well(detect(one, "one.json").args(["--limits", "100000"]));
    refused(&mut detect(one, one), &["train_0.png is an input"]);
    refused(detect("images", "found.json").arg("--overlay").arg(place.at("images")), &["is an input"]);
}

#[test]
fn data_that_changed_and_more_epochs() {
    let place = Place::new();
    run_well(&mut place.train("run"));
    let config: Value = serde_json::from_str(&fs::read_to_string(place.at("run/config.json")).unwrap()).unwrap();
    assert_eq!(config["data"]["sha256"].as_array().unwrap().len(), 2, "{config}");
    assert!(config["data"]["warnings"].is_array() && config["data"]["decode"]["limits"].is_object(), "{config}");
    refused(place.train("run").args(["--resume", "--epochs", "2"]), &["epochs was 1, is 2", "best.bpk"]);
    refused(place.train("run").args(["--resume", "--keep-orientation"]), &["data.decode.orientation"]);
    let mut file = place.read("train");
    file["annotations"][0]["bbox"] = json!([1, 1, 9, 9]);
    place.write("train", &file);
    refused(place.train("run").arg("--resume"), &["config.json", "the data: names, sizes or objects"]);

    // Rates of gradient descent in steps: what comes behind the last milestone goes on.
    let sgd = |epochs: &str| {
        let mut command = place.train("steps");
        command.args(["--optimizer", "sgd", "--lr", "0.001", "--resume", "--epochs", epochs]);
        command
    };
    run_well(&mut sgd("2"));
    for epochs in ["3", "4"] {
        assert_eq!(run_well(&mut sgd(epochs))["epochs"], json!(epochs.parse::<usize>().unwrap()));
    }
    let metrics = fs::read_to_string(place.at("steps/metrics.csv")).unwrap();
    let rates: Vec<f64> =
        metrics.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    assert!(rates.len() == 4 && rates[1] < 0.001 && rates[2..] == [rates[1]; 2], "{rates:?}");
}

#[test]
fn weights_that_are_wrong_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.png");
    write_image(&image, &GrayImage::new(20, 20).into()).unwrap();
    let detect = |weights: &Path, arch: &str| {
        let mut command = example("detect");
        command.arg("--arch").arg(arch).arg("--weights").arg(weights).arg("--image").arg(&image);
        command
    };
    let file = folder.path().join("weights.pth");
    refused(&mut detect(&file, "maskrcnn_resnet50_fpn"), &["weights.pth"]);
    for content in [&b""[..], b"PK\x03\x04 not a zip", b"\x80\x02}q\x00.", b"0123456{\"a\":1}", &[0xff; 100]] {
        fs::write(&file, content).unwrap();
        refused(&mut detect(&file, "fasterrcnn_mobilenet_v3_large_320_fpn"), &["weights.pth"]);
    }
    refused(&mut detect(&file, "fasterrcnn_resnet51"), &["fasterrcnn_resnet51", "fasterrcnn_resnet50_fpn"]);
    refused(example("detect").arg("--image").arg(&image), &["--arch"]);
}
