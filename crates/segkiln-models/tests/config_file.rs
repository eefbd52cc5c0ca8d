//! Files `config.json` that earlier versions wrote are read.

use std::path::PathBuf;

use segkiln_models::{DetectorCard, ModelCard, config_file, detection::DetectionNetworkConfig};

/// Files of `unet_train` and `rcnn_train` from before the file had a number of its format.
fn format_0(task: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", &format!("config_0_{task}.json")].iter().collect()
}

#[test]
fn a_segmentation_run_without_a_format() {
    let card: ModelCard = config_file::read(&format_0("segmentation")).unwrap();
    card.check().unwrap();
    assert_eq!(card.classes.names(), ["background", "foreground"]);
    assert_eq!(card.normalize.mean(), [0.13350867]);
}

#[test]
fn a_detection_run_without_a_format() {
    let card: DetectorCard = config_file::read(&format_0("detection")).unwrap();
    card.check().unwrap();
    assert_eq!(card.model.classes(), 2);
}
