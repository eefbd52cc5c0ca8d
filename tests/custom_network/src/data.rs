//! Discs as data sets of maps, of objects and of classes, and a transform.

use burn::data::dataset::{Dataset, DatasetError};
use segkiln::{
    core::{BBox, Instance, Instances, LabelMap},
    data::{
        Image, Result, Sample, TransformRng,
        transforms::{Target, Transform},
    },
};

use crate::task::Label;

/// Bright discs on a dark ground, drawn when they are asked for.
pub struct Discs {
    /// Number of images.
    pub count: usize,
}

impl Discs {
    /// Side of the images in pixels.
    pub const SIDE: u32 = 32;

    /// Column and row of the center, and the radius.
    fn disc(index: usize) -> [i32; 3] {
        let index = index as i32;
        [index * 7 % 20 + 6, index * 11 % 20 + 6, 4 + index % 4]
    }
}

impl Dataset<Sample> for Discs {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        let [x0, y0, radius] = Self::disc(index);
        let pixels = (0..Self::SIDE as i32).flat_map(|y| (0..Self::SIDE as i32).map(move |x| (x, y)));
        let labels: Vec<u32> =
            pixels.map(|(x, y)| u32::from((x - x0).pow(2) + (y - y0).pow(2) <= radius * radius)).collect();
        let values = labels.iter().enumerate().map(|(at, label)| 0.2 + 0.5 * *label as f32 + 0.1 * (at % 3) as f32);
        let image = Image::new(Self::SIDE, Self::SIDE, 1, values.collect())?;
        let target = LabelMap::new(Self::SIDE, Self::SIDE, labels).expect("a label a pixel");
        Ok(Sample { name: format!("disc {index}"), image, target })
    }

    fn len(&self) -> usize {
        self.count
    }
}

/// The discs with their boxes.
pub struct DiscObjects(pub Discs);

impl Dataset<Sample<Instances>> for DiscObjects {
    fn get(&self, index: usize) -> std::result::Result<Sample<Instances>, DatasetError> {
        let Sample { name, image, .. } = self.0.get(index)?;
        let [x, y, radius] = Discs::disc(index).map(f64::from);
        let bbox = BBox::new(x - radius, y - radius, x + radius, y + radius).and_then(|bbox| Instance::new(bbox, 1));
        let target = Instances::new(Discs::SIDE, Discs::SIDE, vec![bbox.expect("a disc has an area")]);
        Ok(Sample { name, image, target: target.expect("a size above 0") })
    }

    fn len(&self) -> usize {
        self.0.count
    }
}

/// Small discs, class 0, and large ones, class 1.
pub struct DiscLabels(pub Discs);

impl Dataset<Sample<Label>> for DiscLabels {
    fn get(&self, index: usize) -> std::result::Result<Sample<Label>, DatasetError> {
        let Sample { name, image, .. } = self.0.get(index)?;
        let [.., radius] = Discs::disc(index);
        Ok(Sample { name, image, target: Label { size: (Discs::SIDE, Discs::SIDE).into(), class: u32::from(radius > 5) } })
    }

    fn len(&self) -> usize {
        self.0.count
    }
}

/// Turns every other image, by chance, to its negative, whatever is annotated.
#[derive(Debug)]
pub struct RandomNegative;

impl<T: Target> Transform<T> for RandomNegative {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        if rng.chance(0.5) {
            sample.image.as_mut_slice().iter_mut().for_each(|value| *value = 1.0 - *value);
        }
        Ok(sample)
    }
}
