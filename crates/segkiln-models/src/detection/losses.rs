//! Losses of detectors, equal to torchvision's functions of these names.

use burn::tensor::{
    Int, Tensor,
    activation::{log_softmax, relu, sigmoid},
};

use super::{box_coder::columns, host::indices};

/// Named loss terms of a training step, one number each.
#[derive(Debug, Clone)]
pub struct DetectionLosses(Vec<(&'static str, Tensor<1>)>);

impl DetectionLosses {
    /// Collects terms of shape `[1]`.
    ///
    /// # Panics
    /// If there is no term.
    pub fn new(terms: Vec<(&'static str, Tensor<1>)>) -> Self {
        assert!(!terms.is_empty(), "a network has a loss");
        Self(terms)
    }

    /// Sum of the terms, shape `[1]`, of which a training step takes the gradient.
    pub fn total(&self) -> Tensor<1> {
        let mut terms = self.0.iter().map(|(_, term)| term.clone());
        let first = terms.next().expect("a network has a loss");
        terms.fold(first, |sum, term| sum + term)
    }

    /// Name and value of each term, in the network's order; the names are torchvision's.
    pub fn named(&self) -> &[(&'static str, Tensor<1>)] {
        &self.0
    }
}

/// Sum of smooth L1 (Girshick, ICCV 2015, <https://arxiv.org/abs/1504.08083>) with `beta` 1/9.
///
/// # Shapes
/// `x` and `target` of one shape → `[1]`
pub fn smooth_l1<const D: usize>(x: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    const BETA: f64 = 1.0 / 9.0;
    let difference = (x - target).abs();
    let bend = difference.clone().lower_elem(BETA);
    let square = difference.clone().powi_scalar(2).mul_scalar(0.5 / BETA);
    difference.sub_scalar(0.5 * BETA).mask_where(bend, square).sum()
}

/// Mean binary cross-entropy of logits `x` and targets from 0 to 1.
///
/// # Shapes
/// `x` and `target` of one shape → `[1]`
pub fn binary_cross_entropy<const D: usize>(x: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    let rest = x.clone().abs().neg().exp().log1p();
    (relu(x.clone()) - x * target + rest).mean()
}

/// Mean cross-entropy.
///
/// # Shapes
/// logits `x`: `[n, classes]`, `labels`: `[n]` → `[1]`
pub fn cross_entropy(x: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(x, 1).gather(1, labels.unsqueeze_dim(1)).mean().neg()
}

/// Generalized IoU loss of each pair of boxes: `1 - GIoU`, from 0 to 2 (Rezatofighi et al., CVPR 2019,
/// <https://arxiv.org/abs/1902.09630>).
///
/// # Shapes
/// `boxes` and `targets`: `[n, 4]`, `[x1, y1, x2, y2]` → `[n, 1]`
pub fn generalized_box_iou_loss(boxes: Tensor<2>, targets: Tensor<2>) -> Tensor<2> {
    const EPSILON: f64 = 1e-7;
    let area = |[x1, y1, x2, y2]: [Tensor<2>; 4]| (x2 - x1) * (y2 - y1);
    let (a, b) = (columns(boxes), columns(targets));
    let low = |side: usize| a[side].clone().max_pair(b[side].clone());
    let high = |side: usize| a[side].clone().min_pair(b[side].clone());
    let intersection = relu(high(2) - low(0)) * relu(high(3) - low(1));
    let enclosing = (a[2].clone().max_pair(b[2].clone()) - high(0)) * (a[3].clone().max_pair(b[3].clone()) - high(1));
    let union = area(a) + area(b) - intersection.clone();
    let iou = intersection / union.clone().add_scalar(EPSILON);
    let gap = (enclosing.clone() - union) / enclosing.add_scalar(EPSILON);
    (iou - gap).neg().add_scalar(1.0)
}

/// Weight of the positive class in the focal loss, as in its paper.
const ALPHA: f64 = 0.25;

/// Sum of the sigmoid focal losses (Lin et al., ICCV 2017, <https://arxiv.org/abs/1708.02002>; alpha 0.25, gamma 2) of all
/// anchors and classes.
///
/// All targets are 0 but the classes `positives` = `(anchor, class)`. Each anchor's losses are multiplied by its weight: 0
/// for an ignored anchor, else usually the reciprocal of the number of positives.
///
/// # Shapes
/// `logits`: `[anchors, classes]` → `[1]`
///
/// # Panics
/// If there are not as many weights as anchors.
pub fn sigmoid_focal_loss(logits: Tensor<2>, weights: &[f32], positives: &[(usize, usize)]) -> Tensor<1> {
    let [anchors, classes] = logits.dims();
    assert_eq!(weights.len(), anchors, "a weight for each anchor");
    let device = logits.device();
    let weight = Tensor::<1>::from_floats(weights, &device).reshape([anchors, 1]);
    // Summed along an axis first: burn-flex sums many values at once in an order that varies from run to run.
    let background = (focal(logits.clone()).mul_scalar(1.0 - ALPHA).sum_dim(1) * weight).sum();
    if positives.is_empty() {
        return background;
    }
    let flat: Vec<usize> = positives.iter().map(|(anchor, class)| anchor * classes + class).collect();
    let weights: Vec<f32> = positives.iter().map(|(anchor, _)| weights[*anchor]).collect();
    let x: Tensor<1> = logits.reshape([anchors * classes]).select(0, indices(&flat, &device));
    let foreground = focal(x.clone().neg()).mul_scalar(ALPHA) - focal(x).mul_scalar(1.0 - ALPHA);
    background + (foreground * Tensor::<1>::from_floats(weights.as_slice(), &device)).sum()
}

/// Focal loss without alpha of logits whose target is 0: `p² · -log(1 - p)`.
fn focal<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let p = sigmoid(x.clone());
    softplus(x) * p.clone() * p
}

/// `log(1 + exp(x))`, exact also where it is small.
fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let rest = x.clone().abs().neg().exp().log1p();
    relu(x) + rest
}
