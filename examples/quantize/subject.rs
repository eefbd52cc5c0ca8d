//! Predictors of either kind, and what is measured of them.

use std::path::Path;

use burn::{data::dataset::Dataset, tensor::Device};
use image::DynamicImage;
use segkiln::{
    Detector, PredictError, Quantizable, SegmentOptions, Segmenter,
    core::{Instance, Instances, LabelMap},
    data::{
        ColorMode, DecodeOptions, Image, MaskFormat, Sample,
        datasets::{CocoDetection, CocoOptions, FolderDataset, FolderOptions, InvalidBoxes},
    },
    metrics::{ConfusionMatrix, coco::IouType},
};

use crate::common::Failure;

/// A predictor that is quantized, and measured on samples.
pub trait Subject: Quantizable<Error = PredictError> {
    /// Name of the measure.
    const MEASURE: &'static str;

    type Target;

    fn open(path: &Path, device: &Device) -> Result<Self, PredictError>;

    fn predict(&self, picture: &DynamicImage) -> Result<(), PredictError>;

    /// Annotated samples.
    fn samples(
        &self,
        folder: &Path,
        coco: Option<&Path>,
        decode: DecodeOptions,
    ) -> Result<Vec<Sample<Self::Target>>, Failure>;

    /// Samples with what the predictor itself says of pictures.
    fn own_samples(&self, pictures: &[DynamicImage]) -> Result<Vec<Sample<Self::Target>>, Failure>;

    /// The measure, of which more is better.
    fn measure(&self, samples: &[Sample<Self::Target>]) -> Result<f64, PredictError>;
}

/// Dice, the mean of the classes that are there but for the first, the background; 1 where nothing else is there or found.
impl Subject for Segmenter {
    const MEASURE: &'static str = "dice";

    type Target = LabelMap;

    fn open(path: &Path, device: &Device) -> Result<Self, PredictError> {
        Self::load(path, device)
    }

    fn predict(&self, picture: &DynamicImage) -> Result<(), PredictError> {
        self.segment_with(picture, &options()).map(drop)
    }

    fn samples(&self, folder: &Path, coco: Option<&Path>, decode: DecodeOptions) -> Result<Vec<Sample>, Failure> {
        if coco.is_some() {
            return Err("--coco is for detectors, and this is a segmentation network".into());
        }
        let mask = if self.classes().count() == 2 { MaskFormat::Binary } else { MaskFormat::default() };
        let color = self.card().color.unwrap_or(ColorMode::Rgb);
        let options = FolderOptions { color, mask, decode, ..Default::default() };
        let dataset = FolderDataset::open_split(folder, "val", self.classes(), options)?;
        Ok(dataset.iter().collect::<Result<_, _>>()?)
    }

    fn own_samples(&self, pictures: &[DynamicImage]) -> Result<Vec<Sample>, Failure> {
        let color = self.card().color.unwrap_or(ColorMode::Rgb);
        let sample = |picture: &DynamicImage| -> Result<Sample, Failure> {
            let target = self.segment_with(picture, &options())?.map().clone();
            Ok(Sample { name: String::new(), image: Image::from_dynamic(picture, color), target })
        };
        pictures.iter().map(sample).collect()
    }

    fn measure(&self, samples: &[Sample]) -> Result<f64, PredictError> {
        let mut matrix = ConfusionMatrix::new(self.classes().count(), self.classes().ignore_index())
            .expect("the classes of a card can be counted");
        for Sample { image, target, .. } in samples {
            let found = self.segment_values(image, &options())?;
            matrix.update_maps(found.map(), target).expect("a map has its classes' labels and its mask's size");
        }
        let found: Vec<f64> = (1..matrix.classes()).filter_map(|class| matrix.dice(class)).collect();
        if found.is_empty() {
            return Ok(1.0);
        }
        Ok(found.iter().sum::<f64>() / found.len() as f64)
    }
}

/// COCO's average precision of boxes.
impl Subject for Detector {
    const MEASURE: &'static str = "ap";

    type Target = Instances;

    fn open(path: &Path, device: &Device) -> Result<Self, PredictError> {
        Self::load(path, device)
    }

    fn predict(&self, picture: &DynamicImage) -> Result<(), PredictError> {
        self.detect(picture).map(drop)
    }

    fn samples(
        &self,
        folder: &Path,
        coco: Option<&Path>,
        decode: DecodeOptions,
    ) -> Result<Vec<Sample<Instances>>, Failure> {
        let json = coco.ok_or("a detector is measured on the annotations of --coco JSON; give it beside --data")?;
        let card = self.card();
        let categories = (!card.categories.is_empty()).then(|| card.categories.clone());
        let names = categories.as_ref().map(|_| card.classes.names()[1..].to_vec());
        let (invalid_boxes, color) = (InvalidBoxes::Drop, card.color);
        let options = CocoOptions { categories, names, invalid_boxes, masks: false, color, decode };
        Ok(CocoDetection::open(folder, json, options)?.iter().collect::<Result<_, _>>()?)
    }

    fn own_samples(&self, pictures: &[DynamicImage]) -> Result<Vec<Sample<Instances>>, Failure> {
        /// Score of what is taken for an object.
        const SCORE: f32 = 0.5;
        let sample = |picture: &DynamicImage| -> Result<Sample<Instances>, Failure> {
            let found = self.detect(picture)?.into_iter().filter(|found| found.score >= SCORE);
            let objects = found.map(|found| Instance::new(found.bbox, found.label())).collect::<Result<_, _>>()?;
            let target = Instances::new(picture.width(), picture.height(), objects)?;
            Ok(Sample { name: String::new(), image: Image::from_dynamic(picture, self.card().color), target })
        };
        pictures.iter().map(sample).collect()
    }

    fn measure(&self, samples: &[Sample<Instances>]) -> Result<f64, PredictError> {
        let samples = samples.iter().cloned().map(Ok::<_, PredictError>);
        let found = self.detect_split(samples, |_, _, _| Ok(()))?;
        Ok(found.coco_figures(IouType::Bbox).expect("boxes of detections are finite").ap)
    }
}

fn options() -> SegmentOptions {
    SegmentOptions { probabilities: false, ..Default::default() }
}
