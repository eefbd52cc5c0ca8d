//! Quantization as a user goes: `unet_train`, `quantize`, `unet_predict`, `Segmenter`; and what is refused.

mod common;

use std::{fs, path::Path, process::Command};

use burn::tensor::Device;
use common::{data_set, discs, example, run_badly, run_well, unet_predict, unet_train};
use image::DynamicImage;
use segkiln::{
    Detector, PredictError, QuantizeError, QuantizeOptions, Quantized, SegmentOptions, Segmenter,
    core::{Classes, Detection, Precision},
    data::Image,
    models::{
        DetectorCard,
        backbones::BackboneConfig,
        config_file::ConfigFile,
        detection::{DetectionNetworkConfig, DetectionOptions, DetectorConfig, DetectorKind},
        weights,
    },
    quantize,
};
use serde_json::{Value, json};

/// A data set of discs, and a network that has learned a little of it.
fn trained(root: &Path) {
    data_set(&root.join("data"), [4, 2, 0]);
    run_well(unet_train(&root.join("data"), &root.join("run")).args(["--epochs", "2", "--base", "16", "--lr", "5e-3"]));
}

fn quantize_command(root: &Path, output: &str) -> Command {
    let mut command = example("quantize");
    command.arg("--model").arg(root.join("run")).arg("--calibrate").arg(root.join("data"));
    command.arg("--output").arg(root.join(output));
    command
}

#[test]
fn a_trained_network_in_8_bits() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    trained(root);
    let result = run_well(quantize_command(root, "small").arg("--data").arg(root.join("data")));
    let number = |name: &str| result[name].as_f64().unwrap_or_else(|| panic!("{name} of {result}"));
    assert!(number("bytes_after") < 0.3 * number("bytes_before"), "{result}");
    assert!((number("dice_before") - number("dice_after")).abs() < 0.02, "{result}");
    assert!(number("ms_before") > 0.0 && number("ms_after") > 0.0, "{result}");
    assert_eq!(result["kept_in_higher_precision"], json!([]), "{result}");

    // Both networks say nearly the same, in the same sizes.
    let image = root.join("data/images/val_1000.png");
    for model in ["run", "small"] {
        run_well(&mut unet_predict(&root.join(model), &image, &root.join(format!("{model}_out"))));
    }
    let maps =
        ["run", "small"].map(|model| image::open(root.join(format!("{model}_out/val_1000.png"))).unwrap().to_luma8());
    assert_eq!(maps[0].dimensions(), maps[1].dimensions());
    let differing = maps[0].as_raw().iter().zip(maps[1].as_raw()).filter(|(a, b)| a != b).count();
    assert!(differing < 48 * 40 / 50, "{differing} pixels differ");

    // The library loads it as it is, and in f32 where that is asked for.
    let device = Device::flex();
    let small = Segmenter::load(root.join("small"), &device).unwrap();
    assert_eq!(small.precision(), Precision::Int8);
    assert!(small.quantization().is_some_and(|quantization| !quantization.layers.is_empty()));
    let picture = image::open(&image).unwrap();
    let own = small.segment(&picture).unwrap();
    let [full, again] = [Precision::F32, Precision::Int8]
        .map(|precision| small.clone().with_precision(precision).unwrap().segment(&picture).unwrap());
    assert_eq!(again, own);
    assert_eq!(full.map().as_slice().len(), own.map().as_slice().len());
    let error = Segmenter::load(root.join("run"), &device).unwrap().with_precision(Precision::Int8).unwrap_err();
    assert!(error.to_string().contains("quantize"), "{error}");

    // The fastest is one that was tried.
    let mut command = unet_predict(&root.join("small"), &image, &root.join("auto"));
    let ended = common::run(command.args(["--precision", "auto"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for precision in Precision::ALL {
        assert!(ended.stdout.contains(&format!("{precision}: ")), "{}", ended.stdout);
    }
    let chosen = ended.result()["precision"].as_str().unwrap().to_owned();
    assert!(chosen.parse::<Precision>().is_ok(), "{chosen}");
    let error = run_badly(unet_predict(&root.join("run"), &image, &root.join("out")).args(["--precision", "int8"]));
    assert!(error.contains("quantize"), "{error}");

    // Values that 8 bits do not have are an error, as they are in f32.
    let values = Image::new(16, 16, 1, vec![f32::NAN; 256]).unwrap();
    for segmenter in [&small, &Segmenter::load(root.join("run"), &device).unwrap()] {
        segmenter.segment_values(&values, &SegmentOptions::default()).unwrap_err();
    }

    // What is wrong in config.json is named.
    let config = root.join("small/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let change = |edit: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        edit(&mut value["quantization"]["layers"]);
        fs::write(&config, value.to_string()).unwrap();
        run_badly(&mut unet_predict(&root.join("small"), &image, &root.join("out")))
    };
    let error = change(&|layers| layers["no.such.layer"] = json!({ "input": [0, 1], "output": [0, 1] }));
    assert!(error.contains("no.such.layer") && error.contains("another network"), "{error}");
    let error = change(&|layers| {
        for (_, layer) in layers.as_object_mut().unwrap() {
            layer["input"] = json!([1, -1]);
        }
    });
    assert!(error.contains("config.json") && error.contains("[1, -1]"), "{error}");
}

#[test]
fn what_cannot_be_quantized_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    trained(root);
    let error = run_badly(&mut quantize_command(root, "run"));
    assert!(error.contains("best.bpk") && error.contains("replaced"), "{error}");
    let error = run_badly(quantize_command(root, "small").args(["--max-loss", "2"]));
    assert!(error.contains("--max-loss"), "{error}");
    fs::create_dir(root.join("empty")).unwrap();
    let error = run_badly(quantize_command(root, "small").arg("--calibrate").arg(root.join("empty")));
    assert!(error.contains("empty"), "{error}");
    let error = run_badly(quantize_command(root, "small").args(["--method", "most"]));
    assert!(error.contains("minmax, percentile, mse"), "{error}");
    assert!(!root.join("small").exists(), "nothing is written before all is known");
    run_well(&mut quantize_command(root, "small"));
    let error = run_badly(quantize_command(root, "again").arg("--model").arg(root.join("small")));
    assert!(error.contains("quantized already"), "{error}");
}

/// A measure that falls with each layer that computes in 8 bits keeps as many layers as the bound asks for.
#[test]
fn layers_are_kept_until_the_bound_holds() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path());
    let segmenter = Segmenter::load(folder.path().join("run"), &Device::flex()).unwrap();
    let pictures = [0, 1].map(|seed| DynamicImage::from(discs(seed, 48, 40).0));
    let predict = |segmenter: &Segmenter, picture: &DynamicImage| segmenter.segment(picture).map(drop);
    let loss = |segmenter: &Segmenter| -> f64 {
        let layers = segmenter.quantization().map_or(0, |quantization| quantization.layers.len());
        let worst = segmenter
            .quantization()
            .is_some_and(|quantization| quantization.layers.contains_key("UNet.encoder.levels.1.first.conv"));
        0.01 * layers as f64 + if worst { 0.5 } else { 0.0 }
    };
    let run = |max_loss: Option<f64>| -> Result<Quantized<Segmenter>, QuantizeError<PredictError>> {
        let options = QuantizeOptions { max_loss, ..Default::default() };
        quantize(&segmenter, &pictures, options, predict, |segmenter| Ok(1.0 - loss(segmenter)))
    };
    let all = run(None).unwrap();
    let count = all.predictor.quantization().unwrap().layers.len();
    assert!(count > 10 && all.kept.is_empty());
    assert!((all.before - 1.0).abs() < 1e-9 && (all.after - (0.5 - 0.01 * count as f64)).abs() < 1e-9);
    for most in [1, 2, 7, count - 1] {
        let some = run(Some(0.01 * most as f64 + 1e-9)).unwrap();
        assert_eq!(some.predictor.quantization().unwrap().layers.len(), most);
        assert_eq!((some.kept.len(), some.kept[0].as_str()), (count - most, "UNet.encoder.levels.1.first.conv"));
    }
    assert!(matches!(run(Some(-0.1)), Err(QuantizeError::Bound { .. })));
    let none: [DynamicImage; 0] = [];
    let error = quantize(&segmenter, &none, QuantizeOptions::default(), predict, |_| Ok(1.0)).unwrap_err();
    assert!(error.to_string().contains("no images"), "{error}");
}

/// A detector is quantized by the same function, here by the number of its detections.
#[test]
fn a_detector_in_8_bits() {
    let device = Device::flex();
    device.seed(4);
    let backbone = BackboneConfig::by_name("resnet18").unwrap();
    let config = DetectorConfig::on_backbone(DetectorKind::FasterRcnn, backbone, 3).reduced();
    let classes = Classes::new(["ground", "disc", "box"]).unwrap();
    let detector = Detector::new(config.init(&device).unwrap(), DetectorCard::new(config, classes), &device).unwrap();
    let sizes =
        DetectionOptions { min_size: Some(64), max_size: Some(96), score_threshold: Some(0.0), max_detections: None };
    let detector = detector.with_options(sizes).unwrap();
    let pictures = [0, 1].map(|seed| DynamicImage::from(discs(seed, 80, 64).0));
    let predict = |detector: &Detector, picture: &DynamicImage| detector.detect(picture).map(drop);
    let measure = |detector: &Detector| Ok(detector.detect(&pictures[0])?.len() as f64);
    let quantized = quantize(&detector, &pictures, QuantizeOptions::default(), predict, measure).unwrap();
    assert_eq!(quantized.predictor.precision(), Precision::Int8);
    let layers = &quantized.predictor.quantization().unwrap().layers;
    assert!(layers.len() > 15 && layers.values().any(|ranges| ranges.sum.is_some()), "{layers:?}");
    let [full, small] = [&detector, &quantized.predictor].map(|detector| detector.detect(&pictures[1]).unwrap());
    assert!(!full.is_empty() && !small.is_empty());
    // Scores of random weights are nearly ties, so the scores are compared and not the boxes.
    let best = |found: &[Detection]| found.iter().fold(0f32, |most, found| most.max(found.score));
    assert!((best(&full) - best(&small)).abs() < 0.1, "{} {}", best(&full), best(&small));
    let (_, trials) = quantized.predictor.with_fastest_precision(&pictures, 1.0).unwrap();
    assert_eq!(trials.iter().map(|trial| trial.precision).collect::<Vec<_>>(), Precision::ALL);
    assert!(trials[0].measure > 0.999 && trials.iter().all(|trial| trial.seconds > 0.0), "{trials:?}");

    // The program takes its run, and measures boxes.
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("run")).unwrap();
    fs::create_dir_all(root.join("data")).unwrap();
    weights::save(detector.model(), &root.join("run/best.bpk")).unwrap();
    fs::write(root.join("run/config.json"), ConfigFile::new(detector.card()).to_text().unwrap()).unwrap();
    pictures[0].save(root.join("data/picture.png")).unwrap();
    let coco = json!({
        "images": [{ "id": 1, "file_name": "picture.png", "width": 80, "height": 64 }],
        "annotations": [{ "id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 30], "area": 1200, "iscrowd": 0 }],
        "categories": [{ "id": 1, "name": "disc" }, { "id": 2, "name": "box" }],
    });
    fs::write(root.join("truth.json"), coco.to_string()).unwrap();
    let mut command = quantize_command(root, "small");
    let result = run_well(command.arg("--data").arg(root.join("data")).arg("--coco").arg(root.join("truth.json")));
    for name in ["ap_before", "ap_after"] {
        assert!(result[name].as_f64().is_some_and(|ap| (0.0..=1.0).contains(&ap)), "{result}");
    }
    assert_eq!(Detector::load(root.join("small"), &device).unwrap().precision(), Precision::Int8);
    let error = run_badly(quantize_command(root, "other").arg("--data").arg(root.join("data")));
    assert!(error.contains("--coco"), "{error}");
}
