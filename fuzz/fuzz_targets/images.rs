//! Any bytes as an image and as a mask: an error, or as many values as its sides say, in memory bounded by `Limits`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use segkiln_data::{ColorMode, DecodeOptions, Limits, MaskFormat, Orientation, read_dynamic, read_image, read_labels};
use segkiln_fuzz::{Counting, file, measured, quiet};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of an image, as file and decoded.
const LIMIT: usize = 1 << 18;
/// Peak of memory beside the file's: the pixels as they are decoded, turned, and as values, and what decoders need.
const PEAK: usize = 8 * LIMIT + (16 << 20);

fuzz_target!(init: quiet(&["segkiln"]), |data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let name = ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "a"][usize::from(choice & 7) % 6];
    let path = file(name, bytes);
    let options = DecodeOptions {
        limits: Limits { max_width: 4096, max_height: 4096, max_bytes: LIMIT as u64 },
        orientation: if choice & 8 == 0 { Orientation::Apply } else { Orientation::Keep },
        page: (choice & 16 != 0).then_some(1),
        nodata: (choice & 32 != 0).then_some(7.0),
    };
    // One way of reading an image and one of reading a mask, so that an input is short work.
    let colors = vec![[0, 0, 0], [255, 0, 0], [0, 255, 0]];
    let (color, format) = match choice >> 6 {
        0 => (Some(ColorMode::Gray), MaskFormat::Index),
        1 => (Some(ColorMode::Rgb), if choice & 32 == 0 { MaskFormat::Binary } else { MaskFormat::Threshold }),
        2 => (Some(ColorMode::Rgba), MaskFormat::Instances),
        _ => (None, MaskFormat::Colors(segkiln_core::Palette::new(colors))),
    };
    let most = PEAK + 64 * bytes.len();
    if let Some(color) = color {
        let (image, peak) = measured(|| read_image(&path, color, options));
        assert!(peak <= most, "{peak} bytes for an image");
        if let Ok(image) = image {
            let count = image.width() as usize * image.height() as usize * image.channels();
            assert_eq!(image.as_slice().len(), count);
            assert!(image.as_slice().iter().all(|value| value.is_finite()));
            assert!(4 * count <= LIMIT);
        }
    } else {
        let (_, peak) = measured(|| read_dynamic(&path, options));
        assert!(peak <= most, "{peak} bytes for a picture");
    }
    let (mask, peak) = measured(|| read_labels(&path, &format, options));
    assert!(peak <= most, "{peak} bytes for a mask");
    if let Ok(mask) = mask {
        assert_eq!(mask.as_slice().len(), mask.width() as usize * mask.height() as usize);
    }
});
