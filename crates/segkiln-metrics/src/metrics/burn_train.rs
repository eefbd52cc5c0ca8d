//! Pixel-wise metrics as metrics of burn-train's learner.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorReadError};
use burn_train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry, SerializedEntry,
    format_float,
};

use super::{Average, ConfusionMatrix, Figure};
use crate::Result;

/// Input of [`SegmentationMetric`]: the labels of a batch. A model's output provides it by burn-train's `Adaptor`.
#[derive(Debug, Clone)]
pub struct SegmentationInput {
    /// Predicted class of each pixel, `[N, H, W]`.
    pub predicted: Tensor<3, Int>,
    /// Target class of each pixel, `[N, H, W]`.
    pub targets: Tensor<3, Int>,
}

impl SegmentationInput {
    /// Predicts the most likely class: foreground where logits `[N, 1, H, W]` are above 0, or the channel of `[N, C, H, W]` with the
    /// greatest logit.
    pub fn from_logits(logits: Tensor<4>, targets: Tensor<3, Int>) -> Self {
        let predicted = match logits.dims()[1] {
            1 => logits.greater_scalar(0).int(),
            _ => logits.argmax(1),
        };
        Self { predicted: predicted.squeeze_dim(1), targets }
    }
}

/// Figure of the confusion matrix that a [`SegmentationMetric`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// Share of the pixels whose class is predicted correctly.
    PixelAccuracy,
    /// Mean of the classes' accuracies.
    MeanAccuracy,
    /// Cohen's kappa.
    Kappa,
    /// A figure of all classes together.
    Mean(Figure, Average),
    /// A figure of one class.
    Class(Figure, usize),
}

impl Score {
    fn of(self, matrix: &ConfusionMatrix) -> Option<f64> {
        match self {
            Self::PixelAccuracy => matrix.pixel_accuracy(),
            Self::MeanAccuracy => matrix.mean_accuracy(),
            Self::Kappa => matrix.kappa(),
            Self::Mean(figure, average) => matrix.average(figure, average),
            Self::Class(figure, class) => matrix.figure(figure, class),
        }
    }

    /// Unique name: burn-train distinguishes metrics by it.
    fn name(self) -> String {
        let figure_name = |figure| match figure {
            Figure::Iou => "IoU",
            Figure::Dice => "Dice",
            Figure::Precision => "Precision",
            Figure::Recall => "Recall",
        };
        match self {
            Self::PixelAccuracy => "Pixel Accuracy".into(),
            Self::MeanAccuracy => "Mean Accuracy".into(),
            Self::Kappa => "Kappa".into(),
            Self::Mean(figure, Average::Macro) => format!("Mean {}", figure_name(figure)),
            Self::Mean(figure, Average::Micro) => format!("Micro {}", figure_name(figure)),
            Self::Mean(figure, Average::Weighted) => format!("Weighted {}", figure_name(figure)),
            Self::Class(figure, class) => format!("{} of Class {class}", figure_name(figure)),
        }
    }
}

type CustomScore = dyn Fn(&ConfusionMatrix) -> Option<f64> + Send + Sync;

/// Value of a confusion matrix.
#[derive(Clone)]
enum MatrixScore {
    Known(Score),
    Custom(Arc<CustomScore>),
}

impl MatrixScore {
    fn of(&self, matrix: &ConfusionMatrix) -> Option<f64> {
        match self {
            Self::Known(score) => score.of(matrix),
            Self::Custom(score) => score(matrix),
        }
    }
}

impl std::fmt::Debug for MatrixScore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(score) => score.fmt(f),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// A figure of the confusion matrix as a metric of burn-train.
///
/// The value that burn-train shows and stores for an epoch is computed from all its pixels, not the mean over its batches.
///
/// ```
/// use segkiln_metrics::metrics::{Average, Figure, Score, SegmentationMetric};
///
/// let miou = SegmentationMetric::new(Score::Mean(Figure::Iou, Average::Macro), 21, Some(255))?;
/// let person = SegmentationMetric::new(Score::Class(Figure::Iou, 15), 21, Some(255))?;
/// # let _ = (miou, person);
/// # Ok::<(), segkiln_metrics::MetricsError>(())
/// ```
#[derive(Debug, Clone)]
pub struct SegmentationMetric {
    score: MatrixScore,
    name: MetricName,
    batch: ConfusionMatrix,
    batch_size: usize,
    epoch: ConfusionMatrix,
    epoch_size: usize,
}

impl SegmentationMetric {
    /// A score of `classes` classes (background included); target pixels labeled `ignore_index` are left out.
    ///
    /// # Errors
    /// Fewer than two classes.
    pub fn new(score: Score, classes: usize, ignore_index: Option<u32>) -> Result<Self> {
        Self::of_score(MatrixScore::Known(score), score.name(), classes, ignore_index)
    }

    /// A score of your own, computed from the confusion matrix of an epoch; none where it is undefined. Each metric of a
    /// training needs another name.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn custom(
        name: impl Into<String>,
        classes: usize,
        ignore_index: Option<u32>,
        score: impl Fn(&ConfusionMatrix) -> Option<f64> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::of_score(MatrixScore::Custom(Arc::new(score)), name.into(), classes, ignore_index)
    }

    fn of_score(score: MatrixScore, name: String, classes: usize, ignore_index: Option<u32>) -> Result<Self> {
        let matrix = ConfusionMatrix::new(classes, ignore_index)?;
        Ok(Self { score, name: Arc::new(name), batch: matrix.clone(), batch_size: 0, epoch: matrix, epoch_size: 0 })
    }

    /// Mean intersection over union of the classes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn mean_iou(classes: usize, ignore_index: Option<u32>) -> Result<Self> {
        Self::new(Score::Mean(Figure::Iou, Average::Macro), classes, ignore_index)
    }

    /// Mean Dice coefficient (F1) of the classes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn mean_dice(classes: usize, ignore_index: Option<u32>) -> Result<Self> {
        Self::new(Score::Mean(Figure::Dice, Average::Macro), classes, ignore_index)
    }

    /// Share of the pixels whose class is predicted correctly.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pixel_accuracy(classes: usize, ignore_index: Option<u32>) -> Result<Self> {
        Self::new(Score::PixelAccuracy, classes, ignore_index)
    }

    /// The confusion matrix of the epoch so far.
    pub fn matrix(&self) -> &ConfusionMatrix {
        &self.epoch
    }

    fn entry(&self, serialized: String) -> SerializedEntry {
        let text = |matrix| match self.score.of(matrix) {
            Some(value) => format_float(value, 4),
            None => SerializedEntry::NOT_AVAILABLE.to_string(),
        };
        SerializedEntry::new(format!("epoch {} - batch {}", text(&self.epoch), text(&self.batch)), serialized)
    }
}

impl Metric for SegmentationMetric {
    type Input = SegmentationInput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: true }.into()
    }

    /// Panics on a label that is neither a class nor ignored: a mistake in the data set that burn-train has no error for.
    fn update(&mut self, item: &SegmentationInput, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        let labels = |tensor: &Tensor<3, Int>| -> Result<Vec<u32>, TensorReadError> {
            // A negative label becomes one that is out of range, as it should.
            Ok(tensor.try_to_data()?.iter::<i64>().map(|label| label as u32).collect())
        };
        let (predicted, targets) = (labels(&item.predicted)?, labels(&item.targets)?);
        self.batch.reset();
        self.batch.update(&predicted, &targets).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        self.batch_size = item.targets.dims()[0];
        self.epoch.merge(&self.batch).expect("both matrices are set up alike");
        self.epoch_size += self.batch_size;
        let serialized = match self.value() {
            Some(entry) => entry.serialize(),
            None => SerializedEntry::NOT_AVAILABLE.to_string(),
        };
        Ok(self.entry(serialized))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry(self.final_value().serialize()))
    }

    fn clear(&mut self) {
        self.batch.reset();
        self.epoch.reset();
        (self.batch_size, self.epoch_size) = (0, 0);
    }
}

/// burn-train averages the entries of batches by their size, which is wrong for a ratio of counts; but where an epoch ends
/// with a final entry its store takes that alone. So batches report themselves and the epoch its own matrix.
impl Numeric for SegmentationMetric {
    fn value(&self) -> Option<NumericEntry> {
        let value = self.score.of(&self.batch)?;
        Some(NumericEntry::Aggregated { aggregated_value: value, count: self.batch_size })
    }

    fn running_value(&self) -> Option<NumericEntry> {
        let value = self.score.of(&self.epoch)?;
        Some(NumericEntry::Aggregated { aggregated_value: value, count: self.epoch_size })
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.score.of(&self.epoch).unwrap_or(f64::NAN))
    }
}
