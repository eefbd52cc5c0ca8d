use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use segkiln_core::Instances;

use super::{
    super::{
        AnchorGrid, BackboneWithFpn, BoxLinearCoder, Corners, DensePostprocess, DetectionError, DetectionLosses,
        ImageTargets, binary_cross_entropy, generalized_box_iou_loss,
        host::{indices, rows},
        losses::sum,
        min_logit,
        one_stage::one_stage,
        predictions::Predictions,
        sigmoid_focal_loss, stack_levels,
    },
    FcosConfig, FcosHead, assign_locations,
};
use crate::layers::NormConfig;

/// FCOS; see [`FcosConfig`]. The terms of its losses are `classification`, `bbox_regression` and `bbox_ctrness`.
#[derive(Module, Debug)]
pub struct Fcos {
    /// Levels P3 to P7.
    pub backbone: BackboneWithFpn,
    /// Classes, boxes and centerness of the locations.
    pub head: FcosHead,
    #[module(skip)]
    config: FcosConfig,
}

impl FcosConfig {
    /// The network with random weights, as torchvision draws them.
    ///
    /// # Errors
    /// [`DetectionError::Config`] where [`check`](Self::check) gives an error.
    pub fn init(&self, device: &Device) -> Result<Fcos, DetectionError> {
        self.check()?;
        let Self { backbone, stages, channels, last_level, .. } = self;
        Ok(Fcos {
            backbone: BackboneWithFpn::new(backbone, stages, *channels, &NormConfig::None, *last_level, device),
            head: FcosHead::new(self, device),
            config: self.clone(),
        })
    }
}

one_stage!(FcosConfig => Fcos, BoxLinearCoder);

impl Fcos {
    fn postprocess(&self) -> DensePostprocess {
        let config = &self.config;
        DensePostprocess {
            classes: config.classes,
            score_threshold: config.score_threshold,
            // The centerness is at most 1, so that the class probability must exceed the square.
            min_logit: min_logit(config.score_threshold.powi(2)),
            topk_candidates: config.topk_candidates,
            nms_iou: config.nms_iou,
            max_detections: config.max_detections,
        }
    }

    fn losses_of(&self, predictions: Predictions, targets: &[Instances]) -> DetectionLosses {
        let Predictions { images, grids, outputs } = predictions;
        let device = images.tensor.device();
        let anchors: Vec<Corners> = grids.iter().flat_map(AnchorGrid::iter).collect();
        let (mut positives, mut classes) = (Vec::new(), Vec::new());
        let (mut own_anchors, mut boxes) = (Vec::new(), Vec::new());
        for (image, targets) in ImageTargets::of_batch(&images, targets).iter().enumerate() {
            let assigned = assign_locations(&targets.boxes, &grids, self.config.center_sampling_radius);
            for (index, object) in assigned.into_iter().enumerate() {
                let Some(object) = object else { continue };
                positives.push(image * anchors.len() + index);
                classes.push(targets.labels[object] as usize);
                own_anchors.push(anchors[index]);
                boxes.push(targets.boxes[object]);
            }
        }
        let count = positives.len().max(1) as f64;
        let weights = vec![(1.0 / count) as f32; images.sizes.len() * anchors.len()];
        let pairs: Vec<(usize, usize)> = positives.iter().copied().zip(classes).collect();
        let classification = sigmoid_focal_loss(stack_levels(outputs.logits), &weights, &pairs);
        let [bbox_regression, bbox_ctrness] = if positives.is_empty() {
            [0, 1].map(|_| Tensor::zeros([1], &device))
        } else {
            let selected = |levels| stack_levels(levels).select(0, indices(&positives, &device));
            let decoded = BoxLinearCoder.decode_tensor(selected(outputs.codes), rows(&own_anchors, &device));
            let overlap = sum(generalized_box_iou_loss(decoded, rows(&boxes, &device))).div_scalar(count);
            let centerness: Vec<f32> =
                boxes.iter().zip(&own_anchors).map(|(bbox, anchor)| target(*bbox, *anchor)).collect();
            let centerness = Tensor::<1>::from_floats(centerness.as_slice(), &device).reshape([boxes.len(), 1]);
            [overlap, binary_cross_entropy(selected(outputs.centerness), centerness)]
        };
        DetectionLosses::new(vec![
            ("classification", classification),
            ("bbox_regression", bbox_regression),
            ("bbox_ctrness", bbox_ctrness),
        ])
    }
}

/// Centerness of a location in its object's box: 1 at the center, 0 at the sides (equation 3 of the paper).
fn target(bbox: Corners, anchor: Corners) -> f32 {
    let [left, top, right, bottom] = BoxLinearCoder.encode(bbox, anchor);
    ((left.min(right) / left.max(right)) * (top.min(bottom) / top.max(bottom))).sqrt()
}
