use segkiln_core::{BBox, Detection, Instance, Instances};
use segkiln_ops::batched_nms;

use super::{Corners, DetectionError, ImageBatch};

/// Objects of one image that a training step learns from, in pixels of the network's input.
#[derive(Debug, Clone, Default)]
pub struct ImageTargets<'a> {
    /// Box of each object.
    pub boxes: Vec<Corners>,
    /// Class of each object, from 1.
    pub labels: Vec<u32>,
    /// The annotations that the objects come from.
    pub instances: Vec<&'a Instance>,
}

impl<'a> ImageTargets<'a> {
    /// Brings the objects of an image of the batch to the network's pixels. Crowds are left out, and boxes that have no area
    /// in 32-bit floats.
    pub fn new(batch: &ImageBatch, image: usize, target: &'a Instances) -> Self {
        let [x, y] = batch.scale(image);
        let mut targets = Self::default();
        for instance in target.as_slice().iter().filter(|instance| !instance.crowd) {
            let [x1, y1, x2, y2] = instance.bbox.xyxy().map(|value| value as f32);
            let bbox = [x1 * x, y1 * y, x2 * x, y2 * y];
            if !(bbox[2] > bbox[0] && bbox[3] > bbox[1]) {
                continue;
            }
            targets.boxes.push(bbox);
            targets.labels.push(instance.label());
            targets.instances.push(instance);
        }
        targets
    }

    /// The objects of all images of a batch.
    ///
    /// # Panics
    /// If there are more targets than images.
    pub fn of_batch(batch: &ImageBatch, targets: &'a [Instances]) -> Vec<Self> {
        targets.iter().enumerate().map(|(image, target)| Self::new(batch, image, target)).collect()
    }
}

/// Detections of one image, best first, in pixels of the network's input.
#[derive(Debug, Clone, Default)]
pub struct ImageDetections {
    /// Box of each detection.
    pub boxes: Vec<Corners>,
    /// Class of each detection, from 1.
    pub labels: Vec<u32>,
    /// Score of each detection, from 0 to 1.
    pub scores: Vec<f32>,
}

impl ImageDetections {
    /// Keeps the `limit` best candidates that remain after class-wise non-maximum suppression at `nms_iou`.
    ///
    /// # Panics
    /// If boxes, labels and scores are not as many.
    pub fn suppressed(self, nms_iou: f64, limit: usize) -> Self {
        let mut kept = batched_nms(&self.boxes, &self.scores, &self.labels, nms_iou);
        kept.truncate(limit);
        Self {
            boxes: kept.iter().map(|index| self.boxes[*index]).collect(),
            labels: kept.iter().map(|index| self.labels[*index]).collect(),
            scores: kept.iter().map(|index| self.scores[*index]).collect(),
        }
    }

    /// Detections without masks in the pixels of an image of the batch. Those of class 0, which is the background, and
    /// boxes that have no area after they were clipped to the image are left out.
    ///
    /// # Errors
    /// [`DetectionError::Core`] if a coordinate is beyond ±10⁹.
    pub fn restored(self, batch: &ImageBatch, image: usize) -> Result<Vec<Detection>, DetectionError> {
        let Self { boxes, labels, scores } = self;
        let mut detections = Vec::with_capacity(boxes.len());
        for ((bbox, label), score) in boxes.into_iter().zip(labels).zip(scores) {
            let [x1, y1, x2, y2] = batch.restore(image, bbox).map(f64::from);
            if label > 0 && x2 > x1 && y2 > y1 {
                detections.push(Detection::new(BBox::new(x1, y1, x2, y2)?, label, score)?);
            }
        }
        Ok(detections)
    }
}
