//! Parts of one-stage detectors, whose heads classify every anchor of every level.

use burn::{
    nn::{
        Initializer,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};
use rayon::prelude::*;
use segkiln_core::Detection;

use super::{AnchorGrid, Corners, DetectionError, ImageBatch, ImageDetections, clip_to_image};
use crate::layers::{conv2d, zero_bias};

/// An anchor with a class, of which a detection may be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Index of the anchor in its level.
    pub anchor: usize,
    /// Class, from 0.
    pub class: u32,
    /// Score, from 0 to 1.
    pub score: f32,
}

/// Finds the `limit` best candidates of one level whose score exceeds `threshold`, best first; of equal scores the first one
/// comes first.
///
/// `logits` are rows of `classes` values, a row an anchor; `score` computes the score of an anchor's logit. To spare most
/// calls of it, only logits of at least `min_logit` are looked at; see [`min_logit`].
pub fn top_candidates(
    logits: &[f32],
    classes: usize,
    min_logit: f32,
    threshold: f32,
    limit: usize,
    score: impl Fn(usize, f32) -> f32 + Sync,
) -> Vec<Candidate> {
    /// Anchors of a task.
    const BLOCK: usize = 1024;
    let mut candidates: Vec<Candidate> = logits
        .par_chunks(classes.max(1) * BLOCK)
        .enumerate()
        .flat_map_iter(|(block, logits)| {
            let kept = logits.iter().enumerate().filter(|(_, logit)| **logit >= min_logit);
            kept.filter_map(|(index, logit)| {
                let anchor = block * BLOCK + index / classes;
                let score = score(anchor, *logit);
                (score > threshold).then_some(Candidate { anchor, class: (index % classes) as u32, score })
            })
            .collect::<Vec<_>>()
        })
        .collect();
    let falling = |a: &Candidate, b: &Candidate| {
        b.score.total_cmp(&a.score).then(a.anchor.cmp(&b.anchor)).then(a.class.cmp(&b.class))
    };
    if limit < candidates.len() {
        candidates.select_nth_unstable_by(limit, falling);
        candidates.truncate(limit);
    }
    candidates.sort_unstable_by(falling);
    candidates
}

/// Post-processing of the outputs of a one-stage detector: the best candidates of each level, decoded, clipped, and suppressed
/// class by class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DensePostprocess {
    /// Logits of an anchor, with the background.
    pub classes: usize,
    /// Score that a detection must exceed, from 0 to 1.
    pub score_threshold: f32,
    /// Logit below which no score can exceed the threshold; see [`min_logit`].
    pub min_logit: f32,
    /// Most candidates of each level.
    pub topk_candidates: usize,
    /// IoU above which the worse of two detections of a class is dropped, from 0 to 1.
    pub nms_iou: f64,
    /// Most detections of an image.
    pub max_detections: usize,
}

impl DensePostprocess {
    /// Detections of each image of a batch, best first, in the image's own pixels. As in torchvision, candidates of class 0
    /// count towards the limits; they are dropped at the end, as are boxes without area.
    ///
    /// `logits` and `codes` hold for each level the values of all images, in the order of the anchors; `score` computes the
    /// score of an anchor's logit, from the level and the anchor's index in all images' anchors of the level; `decode` the
    /// box of a code and its anchor.
    ///
    /// # Errors
    /// [`DetectionError::Core`] if a box is beyond ±10⁹ pixels.
    ///
    /// # Panics
    /// If there are fewer values than anchors.
    pub fn forward(
        &self,
        batch: &ImageBatch,
        grids: &[AnchorGrid],
        [logits, codes]: [&[Vec<f32>]; 2],
        score: impl Fn(usize, usize, f32) -> f32 + Sync,
        decode: impl Fn([f32; 4], Corners) -> Corners,
    ) -> Result<Vec<Vec<Detection>>, DetectionError> {
        let detect = |(image, size): (usize, &[usize; 2])| {
            let mut found = ImageDetections::default();
            for (level, grid) in grids.iter().enumerate() {
                let (anchors, values) = (grid.len(), grid.len() * self.classes);
                let first = image * anchors;
                let candidates = top_candidates(
                    &logits[level][image * values..][..values],
                    self.classes,
                    self.min_logit,
                    self.score_threshold,
                    self.topk_candidates,
                    |anchor, logit| score(level, first + anchor, logit),
                );
                let codes = codes[level].as_chunks::<4>().0;
                for Candidate { anchor, class, score } in candidates {
                    let bbox = decode(codes[first + anchor], grid.get(anchor));
                    found.boxes.push(clip_to_image(bbox, *size));
                    found.labels.push(class);
                    found.scores.push(score);
                }
            }
            found.suppressed(self.nms_iou, self.max_detections).restored(batch, image)
        };
        batch.sizes.iter().enumerate().map(detect).collect()
    }
}

/// Finds the level and the anchor that each detection of the first image was made of, by its values.
pub(super) fn anchors_of(
    detections: &[Detection],
    batch: &ImageBatch,
    grids: &[AnchorGrid],
    [logits, codes]: [&[Vec<f32>]; 2],
    classes: usize,
    score: impl Fn(usize, usize, f32) -> f32,
    decode: impl Fn([f32; 4], Corners) -> Corners,
) -> Vec<Option<(usize, usize)>> {
    let place = |detection: &Detection| {
        let class = detection.label() as usize;
        let is_it = |(level, anchor): &(usize, usize)| {
            score(*level, *anchor, logits[*level][anchor * classes + class]) == detection.score && {
                let code = codes[*level].as_chunks::<4>().0[*anchor];
                let bbox = clip_to_image(decode(code, grids[*level].get(*anchor)), batch.sizes[0]);
                batch.restore(0, bbox).map(f64::from) == detection.bbox.xyxy()
            }
        };
        let mut all =
            grids.iter().enumerate().flat_map(|(level, grid)| (0..grid.len()).map(move |anchor| (level, anchor)));
        all.find(is_it)
    };
    detections.iter().map(place).collect()
}

/// Logit below which the sigmoid cannot exceed `threshold`, with a margin for rounding.
pub fn min_logit(threshold: f32) -> f32 {
    let threshold = f64::from(threshold).clamp(0.0, 1.0);
    ((threshold / (1.0 - threshold)).ln() - 1e-3) as f32
}

/// Logistic function of a number on the host.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Brings a head's output of one level into the order of the anchors.
///
/// # Shapes
/// `[n, anchors · values, height, width]` → `[n, height · width · anchors, values]`
pub fn flatten_predictions(x: Tensor<4>, values: usize) -> Tensor<3> {
    let [n, channels, height, width] = x.dims();
    x.permute([0, 2, 3, 1]).reshape([n, height * width * (channels / values), values])
}

/// Joins the outputs of all levels.
///
/// # Shapes
/// `[n, anchors of the level, values]` of each level → `[n · anchors, values]`, image by image, the first level first
pub fn stack_levels(levels: Vec<Tensor<3>>) -> Tensor<2> {
    let all = Tensor::cat(levels, 1);
    let [n, anchors, values] = all.dims();
    all.reshape([n * anchors, values])
}

/// Weights that a head begins with: normal with standard deviation 0.01.
pub(super) fn head_initializer() -> Initializer {
    Initializer::Normal { mean: 0.0, std: 0.01 }
}

/// 3×3 convolution of a head's outputs, its bias zero.
pub(super) fn head_conv(in_channels: usize, out_channels: usize, device: &Device) -> Conv2d {
    let conv = Conv2dConfig::new([in_channels, out_channels], [3, 3])
        .with_padding(burn::nn::PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_initializer(head_initializer())
        .init(device);
    zero_bias(conv, device)
}

/// [`head_conv`] for logits of classes, which begin at a probability of 0.01, so that the many background anchors do not
/// decide the first steps (Lin et al., 2017, section 4.1).
pub(super) fn class_conv(in_channels: usize, out_channels: usize, device: &Device) -> Conv2d {
    const PRIOR: f64 = 0.01;
    let mut conv = head_conv(in_channels, out_channels, device);
    let value = -((1.0 - PRIOR) / PRIOR).ln();
    conv.bias = conv.bias.map(|bias| Initializer::Constant { value }.init(bias.lazy_shape(), device));
    conv
}

/// A convolution's output as rows in the order of the anchors.
pub(super) fn predict(conv: &Conv2d, x: Tensor<4>, values: usize) -> Tensor<3> {
    flatten_predictions(conv2d(conv, x), values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_candidates_come_first() {
        // Two classes of three anchors.
        let logits = [0.0, 2.0, -9.0, 1.0, 2.0, -1.0];
        let best = |limit, threshold| {
            top_candidates(&logits, 2, min_logit(threshold), threshold, limit, |_, logit| sigmoid(logit))
        };
        let found: Vec<(usize, u32)> = best(3, 0.2).iter().map(|found| (found.anchor, found.class)).collect();
        assert_eq!(found, [(0, 1), (2, 0), (1, 1)]);
        assert_eq!(best(10, 0.2).len(), 5);
        assert_eq!(best(10, 0.6).len(), 3);
        assert_eq!(best(10, 0.0).len(), 6);
        assert_eq!(min_logit(0.0), f32::NEG_INFINITY);
        assert!(best(10, 1.0).is_empty());
    }

    #[test]
    fn predictions_are_in_the_order_of_anchors() {
        let device = Device::default();
        // Two anchors of two values each on a map of 1×2.
        let x = Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &device).reshape([1, 4, 1, 2]);
        let values = super::super::host::values(flatten_predictions(x, 2));
        assert_eq!(values, [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    }
}
