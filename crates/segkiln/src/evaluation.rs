//! Evaluation of predictors on a split of a data set.

use std::collections::BTreeMap;
#[cfg(feature = "train")]
use std::path::Path;

use rayon::prelude::*;
use segkiln_core::{Detection, Instances, LabelMap};
use segkiln_data::{
    Cleaning, Sample,
    coco::{CocoFile, CocoResult, CocoResultFile, ImageId},
};
#[cfg(feature = "train")]
use segkiln_data::{Image, draw, write_image};
use segkiln_metrics::{
    MetricsError,
    metrics::{
        ConfusionMatrix,
        coco::{CocoEvaluator, CocoFigures, CocoParams, CocoPrediction, CocoTruth, IouType},
    },
};
use segkiln_models::{
    SegmentationNetwork,
    detection::{DetectionNetwork, DetectionNetworkConfig},
};

use crate::{CocoError, Detector, PredictError, SegmentOptions, Segmentation, Segmenter, coco_evaluate};

impl<M: SegmentationNetwork> Segmenter<M> {
    /// Segments every image of a split and counts its pixels by their class in mask and prediction. `each` sees the index and the
    /// sample of each image and its segmentation, to draw them for example.
    ///
    /// # Errors
    /// The split's own, those of `each`, [`PredictError`] if an image does not fit the network, and [`MetricsError`] if a mask
    /// does not fit the classes.
    pub fn segment_split<E: From<PredictError> + From<MetricsError>>(
        &self,
        split: impl IntoIterator<Item = Result<Sample, E>>,
        mut each: impl FnMut(usize, &Sample, &Segmentation) -> Result<(), E>,
    ) -> Result<ConfusionMatrix, E> {
        let mut matrix = ConfusionMatrix::new(self.classes().count(), self.classes().ignore_index())?;
        let options = SegmentOptions { probabilities: false, ..Default::default() };
        for (index, sample) in split.into_iter().enumerate() {
            let sample = sample?;
            let result = self.segment_values(&sample.image, &options)?;
            matrix.update_maps(result.map(), &sample.target)?;
            each(index, &sample, &result)?;
        }
        Ok(matrix)
    }

    /// Chooses steps that clean the network's maps on a split that it was not trained on, as nnU-Net chooses its postprocessing: those
    /// that [raise](Cleaning::choose) the mean over the images of the mean Dice coefficient of the classes but the background.
    ///
    /// All maps of the split are held, 8 bytes a pixel.
    ///
    /// # Errors
    /// As [`segment_split`](Self::segment_split), and [`PredictError::Data`] as [`Cleaning::choose`].
    pub fn choose_cleaning<E: From<PredictError> + From<MetricsError>>(
        &self,
        split: impl IntoIterator<Item = Result<Sample, E>>,
    ) -> Result<Cleaning, E> {
        let mut maps = Vec::new();
        self.segment_split(split, |_, sample, result| {
            maps.push((result.map().clone(), sample.target.clone()));
            Ok::<(), E>(())
        })?;
        let (classes, ignored) = (self.classes().count(), self.classes().ignore_index());
        let dice = |predicted: &LabelMap, truth: &LabelMap| {
            let mut matrix = ConfusionMatrix::new(classes, ignored)?;
            matrix.update_maps(predicted, truth)?;
            let there: Vec<f64> = (1..classes).filter_map(|class| matrix.dice(class)).collect();
            Ok::<f64, MetricsError>(there.iter().sum::<f64>() / there.len().max(1) as f64)
        };
        // The maps were counted before, so they can be again.
        let score = |predicted: &LabelMap, truth: &LabelMap| dice(predicted, truth).unwrap_or(0.0);
        Ok(Cleaning::choose(&maps, classes as u32, score).map_err(PredictError::from)?)
    }

    /// [`segment_split`](Self::segment_split) with pictures of the first `most` images in `folder`, each beside its mask and its
    /// prediction. Unfinished files of a process that was killed are removed.
    ///
    /// # Errors
    /// Errors of the split and the network, and of a picture or folder that cannot be written.
    #[cfg(feature = "train")]
    pub fn draw_split(
        &self,
        split: &dyn burn::data::dataset::Dataset<Sample>,
        folder: &Path,
        most: usize,
    ) -> Result<ConfusionMatrix, Box<dyn std::error::Error>> {
        segkiln_train::checkpoint::create_and_sweep(folder)?;
        let samples = (0..split.len()).map(|index| split.get(index).map_err(Box::from));
        self.segment_split(samples, |index, Sample { name, image, target }, result| {
            if index < most {
                let plain = Image::to_dynamic(image);
                let truth = draw::overlay(&plain, target, self.classes(), 0.4)?;
                let row = draw::side_by_side(&[plain.to_rgb8(), truth, result.overlay(&plain, 0.4)?]);
                write_image(folder.join(format!("{name}.png")), &row.into())?;
            }
            Ok(())
        })
    }
}

/// Detections of a detector in the images of a split, beside the annotated objects.
#[derive(Debug, Clone, Default)]
pub struct SplitDetections {
    images: Vec<(Instances, Vec<Detection>)>,
}

impl<M: DetectionNetwork> Detector<M> {
    /// Detects the objects of every image of a split. `each` sees the index and the sample of each image and its detections,
    /// to draw them for example.
    ///
    /// # Errors
    /// The split's own, those of `each`, and [`PredictError::Detection`] if an image does not fit the network.
    pub fn detect_split<E: From<PredictError>>(
        &self,
        split: impl IntoIterator<Item = Result<Sample<Instances>, E>>,
        mut each: impl FnMut(usize, &Sample<Instances>, &[Detection]) -> Result<(), E>,
    ) -> Result<SplitDetections, E> {
        let mut images = Vec::new();
        for (index, sample) in split.into_iter().enumerate() {
            let sample = sample?;
            let detections = self.detect_values(&sample.image)?;
            each(index, &sample, &detections)?;
            images.push((sample.target, detections));
        }
        Ok(SplitDetections { images })
    }

    /// [`detect_split`](Self::detect_split) with pictures of the first `most` images in `folder`, each beside its annotated
    /// objects and the detections with a score of at least a half. Unfinished files of a process that was killed are removed.
    ///
    /// # Errors
    /// Errors of the split and the network, and of a picture or folder that cannot be written.
    #[cfg(feature = "train")]
    pub fn draw_split(
        &self,
        split: &dyn burn::data::dataset::Dataset<Sample<Instances>>,
        folder: &Path,
        most: usize,
    ) -> Result<SplitDetections, Box<dyn std::error::Error>> {
        segkiln_train::checkpoint::create_and_sweep(folder)?;
        let samples = (0..split.len()).map(|index| split.get(index).map_err(Box::from));
        self.detect_split(samples, |index, sample, detections| {
            if index < most {
                let shown: Vec<Detection> = detections.iter().filter(|found| found.score >= 0.5).cloned().collect();
                let picture = self.comparison(&Image::to_dynamic(&sample.image), &sample.target, &shown)?;
                write_image(folder.join(format!("{}.png", sample.name)), &picture.into())?;
            }
            Ok(())
        })
    }
}

impl SplitDetections {
    /// Number of images.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// COCO's twelve figures of boxes as `bbox` and, of a detector that finds masks, of masks as `segm`: from the file of
    /// annotations where there is one, else from the objects of the samples.
    ///
    /// # Errors
    /// As [`coco_figures_of_file`](Self::coco_figures_of_file) and [`coco_figures`](Self::coco_figures).
    pub fn figures<M: DetectionNetwork>(
        &self,
        file: Option<&CocoFile>,
        detector: &Detector<M>,
    ) -> Result<BTreeMap<&'static str, CocoFigures>, CocoError> {
        let masks = detector.card().model.has_masks();
        let kinds = [("bbox", IouType::Bbox)].into_iter().chain(masks.then_some(("segm", IouType::Segm)));
        let of = |iou| match file {
            Some(file) => self.coco_figures_of_file(file, detector, iou),
            None => self.coco_figures(iou),
        };
        kinds.map(|(name, iou)| Ok((name, of(iou)?))).collect()
    }

    /// COCO's twelve figures, from the objects of the samples.
    ///
    /// # Errors
    /// [`CocoError::Metrics`] if a mask is missing where masks are compared.
    pub fn coco_figures(&self, iou: IouType) -> Result<CocoFigures, CocoError> {
        let mut evaluator = CocoEvaluator::new(iou, CocoParams::default())?;
        for ((target, detections), number) in self.images.iter().zip(1..) {
            let truths: Vec<CocoTruth> =
                target.as_slice().iter().zip(1..).map(|(instance, id)| CocoTruth::of(instance, id)).collect();
            let found: Vec<CocoPrediction> = detections.iter().map(CocoPrediction::of).collect();
            evaluator.add_image(number, &truths, &found)?;
        }
        Ok(evaluator.evaluate().figures())
    }

    /// Detections as COCO's files of results have them, of a split that was read from a file of annotations, whose images must be
    /// in the split's order.
    pub fn coco_results<M: DetectionNetwork>(&self, file: &CocoFile, detector: &Detector<M>) -> Vec<CocoResult> {
        let ids: Vec<&ImageId> = file.images().iter().map(|image| &image.id).collect();
        let images = self.images.par_iter().zip(ids);
        images.flat_map_iter(|((_, detections), id)| detector.coco_results(id, detections)).collect()
    }

    /// COCO's twelve figures, from the file of annotations that the split was read from, whose images must be in the split's
    /// order; as [`coco_evaluate`] computes them from files.
    ///
    /// # Errors
    /// As [`coco_evaluate`].
    pub fn coco_figures_of_file<M: DetectionNetwork>(
        &self,
        file: &CocoFile,
        detector: &Detector<M>,
        iou: IouType,
    ) -> Result<CocoFigures, CocoError> {
        let results = CocoResultFile::new("results", self.coco_results(file, detector));
        Ok(coco_evaluate(file, &results, iou, CocoParams::default())?.evaluate().figures())
    }
}
