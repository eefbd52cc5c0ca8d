mod reading;
mod selection;
mod writing;

use super::*;
use crate::DecodeOptions;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/regions").join(format!("{name}.tif"))
}

fn open(name: &str) -> TiffSource {
    TiffSource::open(fixture(name), DecodeOptions::default()).unwrap()
}

/// The script's picture.
fn value(y: u32, x: u32, band: usize) -> u32 {
    (7 * y + 3 * x + 50 * band as u32 + x * y / 11) % 251
}

/// Regions of 70 rows and 90 columns: all, tiles' corners, single pixels, and such as cross tiles and strips.
const REGIONS: [[u32; 4]; 6] =
    [[0, 0, 90, 70], [0, 0, 1, 1], [89, 69, 1, 1], [31, 15, 34, 40], [47, 0, 2, 70], [3, 31, 87, 2]];

fn regions() -> impl Iterator<Item = Region> {
    REGIONS.into_iter().map(|[left, top, width, height]| Region { left, top, width, height })
}

/// Compares regions of a level with what a pixel must be.
fn compare(source: &TiffSource, level: usize, region: Region, expected: impl Fn(u32, u32, usize) -> f32, within: f32) {
    let RegionPixels { image, .. } = source.read(level, region).unwrap();
    assert_eq!((image.width(), image.height()), (region.width, region.height));
    let bands = source.bands();
    for (at, found) in image.as_slice().iter().enumerate() {
        let (pixel, band) = (at / bands, at % bands);
        let (x, y) = (region.left + pixel as u32 % region.width, region.top + pixel as u32 / region.width);
        let expected = expected(y, x, band);
        assert!((found - expected).abs() <= within, "{source:?} ({x}, {y}) {band}: {found}, not {expected}");
    }
}
