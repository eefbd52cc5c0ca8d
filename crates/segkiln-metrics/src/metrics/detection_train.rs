//! COCO's average precision as a metric of burn-train's learner.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn_train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry, SerializedEntry,
    format_float,
};
use segkiln_core::{Detection, Instances};

use super::coco::{CocoEvaluator, CocoParams, CocoPrediction, CocoTruth, IouType};
use crate::Result;

/// Input of [`DetectionMetric`]: the detections and targets of a batch. A model's output provides it by burn-train's `Adaptor`.
#[derive(Debug, Clone)]
pub struct DetectionInput {
    /// Detections of each image.
    pub found: Vec<Vec<Detection>>,
    /// Targets of each image. Crowds and difficult objects count neither for nor against.
    pub targets: Vec<Instances>,
}

/// COCO's average precision of boxes or masks as a metric of burn-train, over all images of an epoch at its end.
///
/// ```
/// use segkiln_metrics::metrics::{DetectionMetric, coco::IouType};
///
/// let ap = DetectionMetric::new(IouType::Bbox, None)?;
/// let ap50 = DetectionMetric::new(IouType::Segm, Some(0.5))?;
/// # let _ = (ap, ap50);
/// # Ok::<(), segkiln_metrics::MetricsError>(())
/// ```
#[derive(Debug, Clone)]
pub struct DetectionMetric {
    name: MetricName,
    evaluator: CocoEvaluator,
    images: i64,
}

impl DetectionMetric {
    /// Creates the metric for one IoU threshold, or for the mean over COCO's ten.
    ///
    /// # Errors
    /// An overlap that is not between 0 and 1.
    pub fn new(iou: IouType, threshold: Option<f64>) -> Result<Self> {
        let kind = match iou {
            IouType::Bbox => "Box",
            IouType::Segm => "Mask",
        };
        let mut params = CocoParams::default();
        let name = match threshold {
            Some(threshold) => {
                params.iou_thresholds = vec![threshold];
                format!("{kind} AP at {threshold}")
            }
            None => format!("{kind} AP"),
        };
        Ok(Self { name: Arc::new(name), evaluator: CocoEvaluator::new(iou, params)?, images: 0 })
    }

    fn average_precision(&self) -> f64 {
        match self.evaluator.evaluate().figures().ap {
            // There was nothing to find.
            -1.0 => f64::NAN,
            ap => ap,
        }
    }
}

impl Metric for DetectionMetric {
    type Input = DetectionInput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: true }.into()
    }

    /// Panics on a mask that is missing or of another size: a mistake in the data set that burn-train has no error for.
    fn update(&mut self, item: &DetectionInput, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        for (found, targets) in item.found.iter().zip(&item.targets) {
            self.images += 1;
            let truths: Vec<CocoTruth> =
                targets.as_slice().iter().zip(1..).map(|(t, id)| CocoTruth::of(t, id)).collect();
            let found: Vec<CocoPrediction> = found.iter().map(CocoPrediction::of).collect();
            let added = self.evaluator.add_image(self.images, &truths, &found);
            added.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
        let text = format!("{} images", self.images);
        Ok(SerializedEntry::new(text, SerializedEntry::NOT_AVAILABLE.to_string()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let entry = self.final_value();
        Ok(SerializedEntry::new(format_float(self.average_precision(), 4), entry.serialize()))
    }

    fn clear(&mut self) {
        self.evaluator.reset();
        self.images = 0;
    }
}

/// Average precision is not a mean over batches, so there is none before the epoch has ended.
impl Numeric for DetectionMetric {
    fn value(&self) -> Option<NumericEntry> {
        None
    }

    fn running_value(&self) -> Option<NumericEntry> {
        None
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.average_precision())
    }
}
