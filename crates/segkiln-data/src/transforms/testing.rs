//! Samples whose image shows their mask, so that a transform which moves one without the other is seen.

use segkiln_core::LabelMap;

use crate::{Image, Sample};

/// Each pixel has its own label, and that number in every channel.
pub(crate) fn ramp(width: u32, height: u32, channels: usize) -> Sample {
    let labels: Vec<u32> = (0..width * height).collect();
    of_labels(width, height, channels, labels)
}

/// Blocks of `side` pixels with labels of their own, and that number in every channel.
pub(crate) fn blocks(width: u32, height: u32, channels: usize, side: u32) -> Sample {
    let per_row = width.div_ceil(side);
    let labels = (0..width * height).map(|i| (i / width / side) * per_row + i % width / side).collect();
    of_labels(width, height, channels, labels)
}

fn of_labels(width: u32, height: u32, channels: usize, labels: Vec<u32>) -> Sample {
    let values = labels.iter().flat_map(|label| std::iter::repeat_n(*label as f32, channels)).collect();
    Sample {
        name: "test".into(),
        image: Image::new(width, height, channels, values).unwrap(),
        target: LabelMap::new(width, height, labels).unwrap(),
    }
}

/// Whether each pixel's value in every channel is its label, to the bit.
pub(crate) fn agrees(sample: &Sample) -> bool {
    share(sample, 0.0) == 1.0
}

/// The share of pixels whose value in every channel is their label but for rounding.
pub(crate) fn agreement(sample: &Sample) -> f64 {
    share(sample, 1e-4)
}

fn share(sample: &Sample, tolerance: f32) -> f64 {
    let pixels = sample.image.as_slice().chunks_exact(sample.image.channels());
    let close = |value: &f32, label: u32| (value - label as f32).abs() <= tolerance;
    let agree = pixels.zip(sample.target.as_slice()).filter(|(p, label)| p.iter().all(|v| close(v, **label))).count();
    agree as f64 / sample.target.as_slice().len() as f64
}

/// One row of pixels with these values, all labeled 1.
pub(crate) fn pixels(channels: usize, values: &[f32]) -> Sample {
    let width = (values.len() / channels) as u32;
    Sample {
        name: "test".into(),
        image: Image::new(width, 1, channels, values.to_vec()).unwrap(),
        target: LabelMap::filled(width, 1, 1),
    }
}
