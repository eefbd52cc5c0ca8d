//! The program `segment`: named networks, weights in PyTorch's form, and what it says to those that do not fit.

mod common;

use std::{fs, path::PathBuf, process::Command};

use burn::tensor::Device;
use common::{example, run_badly, run_well};
use image::RgbImage;
use safetensors::SafeTensors;
use segkiln::{
    Segmenter,
    data::{ColorMode, Image, Limits, read_dynamic, read_labels, write_image},
    models::{ModelConfig, weights::save_torch},
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
        let bytes = fs::read(place.at("out/logits.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let logits = file.tensor("out").unwrap();
        assert_eq!(logits.shape(), shape);
        let map = read_labels(place.at("out/classes.png"), &Default::default(), &Limits::default()).unwrap();
        assert_eq!((map.width(), map.height()), (37, 21));

        // The same as a library.
        if size == "0" {
            let segmenter = Segmenter::by_name(name, &weights, 4, &Device::default()).unwrap();
            let image = read_dynamic(place.at("image.png"), &Limits::default()).unwrap();
            let values = segmenter.logits(Image::from_dynamic(&image, ColorMode::Rgb)).unwrap().into_data();
            let here: Vec<u8> = values.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            assert!(here == logits.data(), "the library's logits are others");
            assert_eq!(segmenter.segment(&image).unwrap().map(), &map);
        }
    }
}

#[test]
fn a_single_logit_is_a_binary_task() {
    let place = Place::new(1, 1);
    let weights = place.weights("unet_mobilenet_v3_small", 1);
    let result = run_well(place.segment("unet_mobilenet_v3_small", &weights, 1).args(["--size", "0"]));
    assert_eq!(result["classes"].as_object().unwrap().len(), 1);
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
    place.refused(&mut segment("deeplabv3plus_vgg16_bn", 3), &["VGG"]);
    place.refused(&mut segment("lraspp_mobilenet_v3_small", 0), &["classes"]);
    place.refused(&mut segment("lraspp_mobilenet_v3_small", usize::MAX), &["classes"]);
    place.refused(segment("lraspp_mobilenet_v3_small", 3).args(["--size", "4000000000"]), &["--size"]);
    place.refused(segment("lraspp_mobilenet_v3_small", 3).arg("--image").arg(place.at("none.png")), &["none.png"]);
    fs::write(&weights, b"PK").unwrap();
    place
        .refused(&mut segment("lraspp_mobilenet_v3_small", 3), &["lraspp_mobilenet_v3_small.safetensors", "cut short"]);
}
