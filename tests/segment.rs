//! The program `segment`: named networks, weights in PyTorch's form, and what it says to those that do not fit.

mod common;

use std::{fs, path::PathBuf, process::Command};

use burn::tensor::Device;
use common::{example, run_badly, run_well};
use image::RgbImage;
use safetensors::SafeTensors;
use segkiln::{
    Segmenter,
    core::Classes,
    data::{Filter, Limits, Preset, read_dynamic, read_labels, write_image},
    models::{
        ModelConfig, SegmentationNetwork, SegmentationNetworkConfig,
        backbones::ClassifierConfig,
        weights::{save, save_torch},
    },
};
use tempfile::TempDir;

/// A folder with a picture.
struct Place(TempDir);

impl Place {
    fn new(width: u32, height: u32) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let picture =
            RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]));
        write_image(place.at("image.png"), &picture.into()).unwrap();
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Random weights of a network.
    fn weights(&self, name: &str, classes: usize) -> PathBuf {
        let path = self.at(&format!("{name}.safetensors"));
        let model = ModelConfig::by_name(name, classes).unwrap().with_aux(true).init(&Device::default());
        save_torch(&model, &path).unwrap();
        path
    }

    fn segment(&self, name: &str, weights: &PathBuf, classes: usize) -> Command {
        let mut command = example("segment");
        command.args(["--arch", name, "--num-classes", &classes.to_string()]).arg("--weights").arg(weights);
        command.arg("--image").arg(self.at("image.png"));
        command.arg("--output").arg(self.at("out/classes.png")).arg("--logits").arg(self.at("out/logits.safetensors"));
        command
    }

    #[track_caller]
    fn refused(&self, command: &mut Command, words: &[&str]) {
        let line = run_badly(command);
        for word in words {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
        assert!(!self.at("out").exists());
    }
}

#[test]
fn an_image_is_segmented() {
    let place = Place::new(37, 21);
    let name = "deeplabv3_mobilenet_v3_small";
    let weights = place.weights(name, 4);
    for (size, shape) in [("0", [1, 4, 21, 37]), ("30", [1, 4, 30, 52])] {
        let result = run_well(place.segment(name, &weights, 4).args(["--size", size]));
        let shares: f64 = result["classes"].as_object().unwrap().values().map(|share| share.as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{result}");
        assert!(result["classes"].as_object().unwrap().keys().all(|name| name.starts_with("class ")), "{result}");
        let bytes = fs::read(place.at("out/logits.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let logits = file.tensor("out").unwrap();
        assert_eq!(logits.shape(), shape);
        let map = read_labels(place.at("out/classes.png"), &Default::default(), &Limits::default()).unwrap();
        assert_eq!((map.width(), map.height()), (37, 21));

        // The same as a library.
        {
            let segmenter = Segmenter::by_name(name, &weights, 4, &Device::default()).unwrap();
            let resize = (size != "0").then(|| size.parse().unwrap());
            let preset = Preset { resize, crop: None, filter: Filter::Bilinear };
            let segmenter = segmenter.with_preset(Some(preset)).unwrap();
            let image = read_dynamic(place.at("image.png"), &Limits::default()).unwrap();
            let values = segmenter.logits(&image).unwrap().into_data();
            let here: Vec<u8> = values.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            assert!(here == logits.data(), "the library's logits are others");
            assert_eq!(segmenter.segment(&image).unwrap().map(), &map);
        }
    }
}

/// 21 classes are Pascal VOC's only where someone says so.
#[test]
fn classes_are_named_by_the_user() {
    let place = Place::new(8, 8);
    let name = "lraspp_mobilenet_v3_small";
    let weights = place.weights(name, 21);
    let names = place.at("names.txt");
    let segment = |classes: Option<&str>| {
        let mut command = place.segment(name, &weights, 21);
        command.args(["--size", "0"]).args(classes.into_iter().flat_map(|classes| ["--class-names", classes]));
        command
    };
    let keys = |classes: Option<&str>| -> Vec<String> {
        run_well(&mut segment(classes))["classes"].as_object().unwrap().keys().cloned().collect()
    };
    assert!(keys(None).iter().all(|name| name.starts_with("class ")));
    assert!(keys(Some("voc")).iter().all(|name| Classes::voc().names().contains(name)));
    let own: Vec<String> = (0..21).map(|number| format!("kind {number}")).collect();
    fs::write(&names, own.join("\n")).unwrap();
    assert!(keys(names.to_str()).iter().all(|name| own.contains(name)));

    fs::remove_dir_all(place.at("out")).unwrap();
    place.refused(&mut segment(Some("coco")), &["21 output channels for 91 classes"]);
    fs::write(&names, "a\nb\na").unwrap();
    place.refused(&mut segment(names.to_str()), &["--class-names", "names.txt", "\"a\""]);
    place.refused(&mut segment(place.at("none.txt").to_str()), &["none.txt"]);
}

#[test]
fn a_single_logit_is_a_binary_task() {
    let place = Place::new(1, 1);
    let weights = place.weights("unet_mobilenet_v3_small", 1);
    let result = run_well(place.segment("unet_mobilenet_v3_small", &weights, 1).args(["--size", "0"]));
    assert_eq!(result["classes"].as_object().unwrap().len(), 1);
}

/// A classifier's weights, a training on them that is stopped by its number of epochs and one that goes on, and what a user
/// may get wrong.
#[test]
fn a_training_begins_with_weights() {
    let place = Place::new(8, 8);
    common::data_set(&place.at("data"), [4, 2, 0]);
    let weights = place.at("classifier.safetensors");
    let classifier = ClassifierConfig::by_name("mobilenet_v3_small").unwrap().init(&Device::default());
    save_torch(&classifier, &weights).unwrap();
    let train = |out: &str| {
        let mut command = example("unet_train");
        command.arg("--data").arg(place.at("data")).arg("--out").arg(place.at(out)).args(["--crop", "32"]);
        command.args(["--encoder", "mobilenet_v3_small", "--epochs", "1"]);
        command
    };
    run_well(train("run").arg("--weights").arg(&weights));
    run_well(train("random").arg("--seed").arg("0"));
    let bytes = |out: &str| fs::read(place.at(out).join("best.bpk")).unwrap();
    assert!(bytes("run") != bytes("random"), "the weights change nothing");
    let before = bytes("run");
    run_well(train("run").arg("--weights").arg(&weights).arg("--resume"));
    assert!(bytes("run") == before, "a finished run changed");

    // The run that the new one moves aside is where it begins; and wrong weights move nothing.
    let error = run_badly(train("run").arg("--weights").arg(place.at("none.pth")));
    assert!(error.contains("none.pth") && !place.at("run.1").exists(), "{error}");
    run_well(train("run").arg("--weights").arg(place.at("run/best.bpk")));
    assert!(place.at("run.1/best.bpk").exists());
    let error = run_badly(train("other").args(["--encoder", "resnet19"]));
    assert!(error.contains("resnet19") && error.contains("resnet18"), "{error}");
}

/// A second head in the file, which prediction does without, in every form of file.
#[test]
fn second_heads_are_passed_over() {
    let place = Place::new(9, 7);
    let name = "fcn_mobilenet_v3_small";
    let device = Device::default();
    let torch = place.weights(name, 3);
    let ours = place.at("weights.bpk");
    let model = ModelConfig::by_name(name, 3).unwrap().with_aux(true).init(&device).load_pretrained(&torch).unwrap();
    save(&model, &ours).unwrap();
    let image = read_dynamic(place.at("image.png"), &Limits::default()).unwrap();
    let maps = [&torch, &ours].map(|path| Segmenter::by_name(name, path, 3, &device).unwrap().segment(&image).unwrap());
    assert_eq!(maps[0], maps[1]);
}

#[test]
fn what_does_not_fit_is_named() {
    let place = Place::new(8, 8);
    let weights = place.weights("lraspp_mobilenet_v3_small", 3);
    let segment = |name: &str, classes| place.segment(name, &weights, classes);
    place.refused(&mut segment("lraspp_mobilenet_v4", 3), &["lraspp_mobilenet_v4", "mobilenet_v3_small", "deeplabv3"]);
    place.refused(
        &mut segment("lraspp_mobilenet_v3_small", 4),
        &["lraspp_mobilenet_v3_small.safetensors", "classifier.low_classifier.weight", "[4, 24, 1, 1]"],
    );
    place.refused(&mut segment("unet_resnet18", 3), &["missing", "encoder.conv1.weight", "unexpected"]);
    place.refused(&mut segment("lraspp_mobilenet_v3_small", 0), &["classes"]);
    place.refused(&mut segment("lraspp_mobilenet_v3_small", usize::MAX), &["classes"]);
    place.refused(segment("lraspp_mobilenet_v3_small", 3).args(["--size", "4000000000"]), &["--size"]);
    place.refused(segment("lraspp_mobilenet_v3_small", 3).arg("--image").arg(place.at("none.png")), &["none.png"]);
    fs::write(&weights, b"PK").unwrap();
    place
        .refused(&mut segment("lraspp_mobilenet_v3_small", 3), &["lraspp_mobilenet_v3_small.safetensors", "cut short"]);
}

/// Published weights come from the cache; where they are not there and the network is down, the line says what to put where.
#[test]
fn published_weights_are_taken_from_the_cache() {
    let place = Place::new(20, 20);
    let cache = place.at("cache");
    let file = cache.join("lraspp_mobilenet_v3_large-d234d4ea.pth");
    let segment = || {
        let mut command = example("segment");
        command.args(["--arch", "lraspp_mobilenet_v3_large", "--size", "0"]).arg("--image").arg(place.at("image.png"));
        // Whatever is on this machine, and a network on which nobody answers.
        command
            .env("SEGKILN_CACHE", &cache)
            .env("TORCH_HOME", place.at("torch"))
            .env("ALL_PROXY", "http://127.0.0.1:9");
        command
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env("https_proxy", "http://127.0.0.1:9")
            .env_remove("NO_PROXY");
        command
    };
    let words =
        ["lraspp_mobilenet_v3_large-d234d4ea.pth", "https://download.pytorch.org/models/", "a file of your own"];
    place.refused(&mut segment(), &words);
    place.refused(
        segment().args(["--weights", "COCO_V1"]),
        &["COCO_V1 is no file", "COCO_WITH_VOC_LABELS_V1 and DEFAULT"],
    );
    place.refused(segment().args(["--arch", "unet_resnet18"]), &["no weights of unet_resnet18 are published"]);

    let weights = place.weights("lraspp_mobilenet_v3_large", 21);
    for folder in [cache.clone(), place.at("torch/hub/checkpoints")] {
        fs::create_dir_all(&folder).unwrap();
        fs::copy(&weights, folder.join(file.file_name().unwrap())).unwrap();
        let result = run_well(&mut segment());
        // The names of what was published come with it.
        let names = Classes::voc().names().to_vec();
        let classes = result["classes"].as_object().unwrap();
        assert!(!classes.is_empty() && classes.keys().all(|name| names.contains(name)), "{result}");
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// PyTorch's names, ours, and back; and 8 bits.
#[test]
fn weights_are_converted_and_back() {
    let place = Place::new(20, 20);
    let name = "lraspp_mobilenet_v3_small";
    let weights = place.weights(name, 4);
    let convert = |from: &PathBuf, to: &str| {
        let mut command = example("convert");
        command.args(["--arch", name, "--num-classes", "4"]).arg("--weights").arg(from);
        command.arg("--output").arg(place.at(to));
        command
    };
    let result = run_well(&mut convert(&weights, "new/ours.bpk"));
    let whole = result["bytes"].as_u64().unwrap();
    run_well(&mut convert(&place.at("new/ours.bpk"), "new/back.safetensors"));
    assert!(fs::read(&weights).unwrap() == fs::read(place.at("new/back.safetensors")).unwrap());

    let result = run_well(convert(&weights, "new/small.bpk").arg("--quantize"));
    assert!(result["bytes"].as_u64().unwrap() < whole / 3, "{result}");
    let logits = |weights: &PathBuf| -> Vec<f32> {
        run_well(place.segment(name, weights, 4).args(["--size", "0"]));
        let bytes = fs::read(place.at("out/logits.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let values =
            file.tensor("out").unwrap().data().as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
        values.collect()
    };
    let [whole, small] = [&weights, &place.at("new/small.bpk")].map(logits);
    let most = whole.iter().fold(0f32, |most, value| most.max(value.abs()));
    let error = whole.iter().zip(&small).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(error > 0.0 && error < 0.1 * most, "{error} of {most}");

    fs::remove_dir_all(place.at("out")).unwrap();
    place.refused(&mut convert(&weights, "out/weights.pth"), &["--output", ".bpk or .safetensors"]);
    place.refused(convert(&weights, "out/weights.safetensors").arg("--quantize"), &["--quantize", ".bpk"]);
    place.refused(
        convert(&weights, "out/a.bpk").args(["--arch", "unet_resnet18"]),
        &["missing", "encoder.conv1.weight"],
    );
}

#[test]
fn costs_are_shown() {
    let mut command = example("summary");
    command.args(["--arch", "fpn_resnet18", "--num-classes", "2", "--size", "64", "--depth", "1"]);
    let result = run_well(&mut command);
    let model = ModelConfig::by_name("fpn_resnet18", 2).unwrap().init(&Device::default());
    assert_eq!(result["parameters"], segkiln::models::weights::parameters(&model));
    assert!(result["multiply_adds"].as_u64().unwrap() > result["activations"].as_u64().unwrap());
    assert!(run_badly(example("summary").args(["--arch", "fpn_resnet19"])).contains("resnet18"));
}
