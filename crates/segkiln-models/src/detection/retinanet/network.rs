use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use segkiln_core::Instances;

use super::{
    super::{
        AnchorGrid, BackboneWithFpn, BoxCoder, Corners, DensePostprocess, DetectionError, DetectionLosses,
        ImageTargets, Match, Matcher, frozen_epsilon, generalized_box_iou_loss,
        host::{indices, rows},
        losses::sum,
        min_logit,
        one_stage::one_stage,
        predictions::Predictions,
        sigmoid_focal_loss, stack_levels,
    },
    BoxLoss, RetinaNetConfig, RetinaNetHead,
};
use crate::{layers::NormConfig, weights::WeightsError};

const CODER: BoxCoder = BoxCoder { weights: [1.0; 4] };

/// RetinaNet; see [`RetinaNetConfig`]. The terms of its losses are `classification` and `bbox_regression`.
#[derive(Module, Debug)]
pub struct RetinaNet {
    /// Levels P3 to P7.
    pub backbone: BackboneWithFpn,
    /// Classes and boxes of the anchors.
    pub head: RetinaNetHead,
    #[module(skip)]
    config: RetinaNetConfig,
}

impl RetinaNetConfig {
    /// The network with random weights, as torchvision draws them.
    ///
    /// # Errors
    /// [`DetectionError::Config`] where [`check`](Self::check) gives an error.
    pub fn init(&self, device: &Device) -> Result<RetinaNet, DetectionError> {
        self.check()?;
        let Self { backbone, stages, channels, last_level, .. } = self;
        Ok(RetinaNet {
            backbone: BackboneWithFpn::new(backbone, stages, *channels, &NormConfig::None, *last_level, device),
            head: RetinaNetHead::new(self, device),
            config: self.clone(),
        })
    }
}

one_stage!(RetinaNetConfig => RetinaNet, CODER,
    fn adapted_to(self, path: &Path) -> Result<Self, WeightsError> {
        Ok(match frozen_epsilon(path)? {
            Some(epsilon) => self.with_frozen_norm(epsilon),
            None => self,
        })
    }
);

impl RetinaNet {
    fn postprocess(&self) -> DensePostprocess {
        let config = &self.config;
        DensePostprocess {
            classes: config.classes,
            score_threshold: config.score_threshold,
            min_logit: min_logit(config.score_threshold),
            topk_candidates: config.topk_candidates,
            nms_iou: config.nms_iou,
            max_detections: config.max_detections,
        }
    }

    fn losses_of(&self, predictions: Predictions, targets: &[Instances]) -> DetectionLosses {
        let Predictions { images, grids, outputs } = predictions;
        let config = &self.config;
        let matcher = Matcher {
            foreground_iou: config.foreground_iou,
            background_iou: config.background_iou,
            allow_low_quality: true,
        };
        let anchors: Vec<Corners> = grids.iter().flat_map(AnchorGrid::iter).collect();
        let mut weights = Vec::with_capacity(targets.len() * anchors.len());
        let mut positives = Positives::default();
        for (image, targets) in ImageTargets::of_batch(&images, targets).iter().enumerate() {
            let matches = matcher.matches(&targets.boxes, &anchors);
            let count = matches.iter().filter(|found| matches!(found, Match::Object(_))).count();
            // Losses are normalized image by image, and averaged over the images.
            let weight = 1.0 / (count.max(1) * images.sizes.len()) as f32;
            for (index, found) in matches.into_iter().enumerate() {
                weights.push(if found == Match::Ignored { 0.0 } else { weight });
                if let Match::Object(object) = found {
                    positives.rows.push(image * anchors.len() + index);
                    positives.classes.push(targets.labels[object] as usize);
                    positives.anchors.push(anchors[index]);
                    positives.boxes.push(targets.boxes[object]);
                    positives.weights.push(weight);
                }
            }
        }
        let pairs: Vec<(usize, usize)> =
            positives.rows.iter().copied().zip(positives.classes.iter().copied()).collect();
        let classification = sigmoid_focal_loss(stack_levels(outputs.logits), &weights, &pairs);
        let boxes = positives.loss(stack_levels(outputs.codes), config.box_loss);
        DetectionLosses::new(vec![("classification", classification), ("bbox_regression", boxes)])
    }
}

/// Anchors of a batch that learn an object.
#[derive(Default)]
struct Positives {
    /// Indices in all images' anchors.
    rows: Vec<usize>,
    classes: Vec<usize>,
    anchors: Vec<Corners>,
    /// Box of each anchor's object.
    boxes: Vec<Corners>,
    weights: Vec<f32>,
}

impl Positives {
    /// Weighted sum of the losses of the boxes.
    fn loss(&self, codes: Tensor<2>, loss: BoxLoss) -> Tensor<1> {
        let device = codes.device();
        if self.rows.is_empty() {
            return Tensor::zeros([1], &device);
        }
        let codes = codes.select(0, indices(&self.rows, &device));
        let losses = match loss {
            BoxLoss::L1 => {
                let pairs = self.boxes.iter().zip(&self.anchors);
                let targets: Vec<[f32; 4]> = pairs.map(|(target, anchor)| CODER.encode(*target, *anchor)).collect();
                (codes - rows(&targets, &device)).abs().sum_dim(1)
            }
            BoxLoss::GeneralizedIou => {
                let boxes = CODER.decode_tensor(codes, rows(&self.anchors, &device));
                generalized_box_iou_loss(boxes, rows(&self.boxes, &device))
            }
        };
        let weights = Tensor::<1>::from_floats(self.weights.as_slice(), &device).reshape([self.rows.len(), 1]);
        sum(losses * weights)
    }
}
