//! The table of published weights against torchvision's; `tests/parity/published.py` writes the fixture.

use segkiln_data::Filter;
use segkiln_models::weights::Published;
use serde_json::{Value, json};

#[test]
fn the_table_is_torchvision_s() {
    let text = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/published.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let ours = Published::all().iter().map(|published| {
        let preset = published.preset;
        let filter = preset.map(|preset| match preset.filter {
            Filter::Bilinear => "bilinear",
            Filter::Bicubic => "bicubic",
        });
        json!({
            "network": published.network,
            "name": published.name,
            "url": published.url(),
            "classes": published.data.classes(),
            "default": published.is_default,
            "resize": preset.map(|preset| preset.resize),
            "crop": preset.and_then(|preset| preset.crop),
            "filter": filter,
        })
    });
    assert_eq!(ours.collect::<Vec<_>>(), expected);
}
