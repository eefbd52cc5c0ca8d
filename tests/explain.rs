//! The programs `explain` and `robustness`, on networks with random weights.

mod common;

use std::{fs, path::PathBuf, process::Command};

use burn::tensor::Device;
use common::{data_set, example, run_badly, run_well};
use safetensors::SafeTensors;
use segkiln::{
    core::Classes,
    data::{ColorMode, DecodeOptions, Normalize, read_dynamic},
    models::{
        ModelCard, ModelConfig, SegmentationNetworkConfig,
        detection::{DetectionNetworkConfig, DetectorConfig},
        unet::UNetConfig,
        weights::{save, save_torch},
    },
};
use serde_json::Value;
use tempfile::TempDir;

/// A data set, and a run of a network with random weights that drops values.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        data_set(&place.at("data"), [1, 0, 2]);
        for (run, seed) in [("run", 1), ("other", 2)] {
            let device = Device::default();
            device.seed(seed);
            let unet = UNetConfig::new(1, 1).with_base(4).with_depth(2).with_dropout(0.5);
            let model = ModelConfig::UNet(unet);
            fs::create_dir(place.at(run)).unwrap();
            save(&model.init(&device), &place.at(run).join("best.bpk")).unwrap();
            let normalize = Normalize::new(vec![0.4], vec![0.25]).unwrap();
            let card = ModelCard { model, classes: Classes::binary(), color: Some(ColorMode::Gray), normalize };
            fs::write(place.at(run).join("config.json"), serde_json::to_string(&card).unwrap()).unwrap();
        }
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn explain(&self, flags: &[&str]) -> Command {
        let mut command = example("explain");
        command.arg("--model").arg(self.at("run")).arg("--image").arg(self.at("data/images/test_2000.png"));
        command.arg("--output").arg(self.at("out")).args(flags);
        command
    }
}

#[test]
fn everything_is_explained_on_one_page() {
    let place = Place::new();
    let ensemble = format!("ensemble:{}", place.at("other").display());
    for uncertainty in ["mc", "tta", &ensemble] {
        let line = run_well(&mut place.explain(&[
            "--class",
            "1",
            "--over",
            "image",
            "--method",
            "gradcam,saliency,integrated_gradients,occlusion",
            "--layer",
            "encoder",
            "--attack",
            "pgd",
            "--epsilon",
            "6",
            "--steps",
            "4",
            "--uncertainty",
            uncertainty,
            "--raw",
        ]));
        let methods = line["methods"].as_object().unwrap();
        assert_eq!(methods.len(), 4);
        for (name, found) in methods {
            let picture = read_dynamic(found["map"].as_str().unwrap(), DecodeOptions::default()).unwrap();
            assert_eq!((picture.width(), picture.height()), (48, 40), "{name}");
            let bytes = fs::read(place.at(&format!("out/{name}.safetensors"))).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(file.tensor("map").unwrap().shape(), [40, 48], "{name}");
            let values =
                file.tensor("map").unwrap().data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let (min, max) = values.fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(value), high.max(value)));
            assert!((f64::from(min) - found["min"].as_f64().unwrap()).abs() < 1e-5, "{name}");
            assert!((f64::from(max) - found["max"].as_f64().unwrap()).abs() < 1e-5 && max > min, "{name}");
        }
        let attack = &line["attack"];
        assert!(attack["score_after"].as_f64() < attack["score_before"].as_f64(), "{attack}");
        let [was, now] = ["data/images/test_2000.png", "out/attacked.png"]
            .map(|path| read_dynamic(place.at(path), DecodeOptions::default()).unwrap().into_luma8());
        let most = was.iter().zip(now.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 6 && f64::from(most) == attack["linf"].as_f64().unwrap().round(), "{most}");
        assert!(line["uncertainty"]["entropy_mean"].as_f64().unwrap() > 0.0);
        let page = fs::read_to_string(line["report"].as_str().unwrap()).unwrap();
        assert!(!page.contains("http") && page.matches("data:image/png;base64,").count() >= 8);
        for (tag, end) in [("<section", "</section>"), ("<table", "</table>"), ("<main", "</main>")] {
            assert_eq!(page.matches(tag).count(), page.matches(end).count());
        }
        let facts: Value = serde_json::from_str(&fs::read_to_string(place.at("out/explain.json")).unwrap()).unwrap();
        assert_eq!(facts["results"], line);
        assert_eq!(facts["layers"], serde_json::json!(["encoder"]));
    }
}

#[test]
fn what_is_not_there_is_named() {
    let place = Place::new();
    for (flags, words) in [
        (&["--class", "2"][..], &["class 2", "background", "foreground"][..]),
        (&["--layer", "encoder.levels.9"], &["encoder.levels.9", "encoder.levels it has", "encoder.levels.1"]),
        (&["--method", "gradcamm"], &["gradcamm", "gradcam_plus_plus"]),
        (&["--attack", "pgdd"], &["pgdd", "segpgd"]),
        (&["--attack", "pgd", "--epsilon", "0"], &["budget", "255"]),
        (&["--attack", "pgd", "--epsilon", "-1"], &["budget"]),
        (&["--attack", "pgd", "--epsilon", "300"], &["budget"]),
        (&["--over", "100,2"], &["x 100", "48x40"]),
        (&["--over", "nothing"], &["predicted, image"]),
        (&["--uncertainty", "mcc"], &["mc, tta"]),
        (&["--object", "0"], &["config.json"]),
    ] {
        let line = run_badly(&mut place.explain(flags));
        for word in words {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
    }
    // Nothing that is read is replaced.
    let mut command = example("explain");
    command
        .arg("--model")
        .arg(place.at("run"))
        .arg("--image")
        .arg(place.at("gradcam.png"))
        .arg("--output")
        .arg(place.at(""));
    fs::copy(place.at("data/images/test_2000.png"), place.at("gradcam.png")).unwrap();
    assert!(run_badly(&mut command).contains("gradcam.png"));
}

#[test]
fn objects_are_explained() {
    let place = Place::new();
    let device = Device::default();
    device.seed(5);
    let name = "fasterrcnn_mobilenet_v3_large_320_fpn";
    let weights = place.at("weights.safetensors");
    save_torch(&DetectorConfig::by_name(name, 3).unwrap().init(&device).unwrap(), &weights).unwrap();
    let explain = |object: &str| {
        let mut command = example("explain");
        command.args([
            "--arch",
            name,
            "--num-classes",
            "3",
            "--object",
            object,
            "--size",
            "96",
            "--method",
            "gradcam,hirescam,saliency",
        ]);
        command.arg("--weights").arg(&weights).arg("--image").arg(place.at("data/images/test_2001.png"));
        command.arg("--output").arg(place.at("objects"));
        command
    };
    let line = run_well(&mut explain("0"));
    assert_eq!(line["methods"].as_object().unwrap().len(), 3);
    assert!(line["methods"]["saliency"]["max"].as_f64().unwrap() > 0.0);
    assert!(run_badly(&mut explain("9999")).contains("object 9999"));
    let mut command = explain("0");
    let line = run_well(command.args(["--attack", "tog_vanish", "--epsilon", "8", "--steps", "3"]));
    let attack = &line["attack"];
    // Random weights know no object to lose; how far attacks go is tested beside them.
    let [linf, before, after] = ["linf", "score_before", "score_after"].map(|name| attack[name].as_f64().unwrap());
    assert!(linf > 0.0 && linf <= 8.01 && before > 0.0 && after != before, "{attack}");
    assert!(place.at("objects/attacked.png").is_file());
    let line = run_well(explain("0").args(["--uncertainty", "tta"]));
    let found = &line["uncertainty"];
    assert_eq!(found["answers"], 6);
    let objects = found["objects"].as_array().unwrap();
    assert!(objects.iter().all(|object| object["share"].as_f64().unwrap() > 0.1), "{found}");
    assert!(objects.iter().any(|object| object["score_deviation"].as_f64().unwrap() > 0.0), "{found}");
    let page = fs::read_to_string(line["report"].as_str().unwrap()).unwrap();
    assert!(page.contains("How sure the detector is") && page.contains("of 6; "));
    assert!(run_badly(explain("0").args(["--uncertainty", "mc"])).contains("drops nothing"));
    assert!(run_badly(explain("0").args(["--part", "mask"])).contains("no masks"));
    assert!(run_badly(explain("0").args(["--attack", "segpgd"])).contains("on objects"));
}

#[test]
fn robustness_falls_with_the_budget() {
    let place = Place::new();
    let nuclei = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample");
    let mut train = example("unet_train");
    train
        .args(["--data", nuclei, "--epochs", "2", "--base", "4", "--crop", "96"])
        .arg("--out")
        .arg(place.at("trained"));
    run_well(&mut train);
    let mut command = example("robustness");
    command.arg("--model").arg(place.at("trained")).args(["--data", nuclei]).arg("--output").arg(place.at("out"));
    command.args(["--attack", "segpgd", "--epsilons", "0,4,16", "--steps", "3"]);
    let line = run_well(&mut command);
    let curve = line["curve"].as_array().unwrap();
    let figures = |name: &str| -> Vec<f64> { curve.iter().map(|point| point[name].as_f64().unwrap()).collect() };
    assert_eq!(figures("epsilon"), [0.0, 4.0, 16.0]);
    for name in ["dice", "iou", "pixel_accuracy"] {
        let found = figures(name);
        assert!(found[2] < found[1] && found[1] < found[0], "{name}: {found:?}");
    }
    assert_eq!(fs::read_to_string(place.at("out/robustness.csv")).unwrap().lines().count(), 4);
    assert!(fs::read_to_string(place.at("out/robustness.svg")).unwrap().starts_with("<svg"));
    let mut command = example("robustness");
    command.arg("--model").arg(place.at("trained")).args(["--data", nuclei, "--epsilons", "-3"]);
    command.arg("--output").arg(place.at("out2"));
    assert!(run_badly(&mut command).contains("budget"));
}
