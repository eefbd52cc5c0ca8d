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
    sum(difference.sub_scalar(0.5 * BETA).mask_where(bend, square))
}

/// Mean binary cross-entropy of logits `x` and targets from 0 to 1.
///
/// # Shapes
/// `x` and `target` of one shape → `[1]`
pub fn binary_cross_entropy<const D: usize>(x: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    let rest = x.clone().abs().neg().exp().log1p();
    mean(relu(x.clone()) - x * target + rest)
}

/// Mean cross-entropy.
///
/// # Shapes
/// logits `x`: `[n, classes]`, `labels`: `[n]` → `[1]`
pub fn cross_entropy(x: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    mean(log_softmax(x, 1).gather(1, labels.unsqueeze_dim(1))).neg()
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
    // Each anchor's first, which are far fewer values to weight.
    let background = sum(focal(logits.clone()).mul_scalar(1.0 - ALPHA).sum_dim(1) * weight);
    if positives.is_empty() {
        return background;
    }
    let flat: Vec<usize> = positives.iter().map(|(anchor, class)| anchor * classes + class).collect();
    let weights: Vec<f32> = positives.iter().map(|(anchor, _)| weights[*anchor]).collect();
    let x: Tensor<1> = logits.reshape([anchors * classes]).select(0, indices(&flat, &device));
    let foreground = focal(x.clone().neg()).mul_scalar(ALPHA) - focal(x).mul_scalar(1.0 - ALPHA);
    background + sum(foreground * Tensor::<1>::from_floats(weights.as_slice(), &device))
}

/// Sum of all values in an order that does not depend on threads: burn-flex adds four million and more values at once as its
/// threads come, so that the last bits vary from run to run. They are added along an axis first.
pub(super) fn sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    /// Values that burn-flex adds in parallel.
    const PARALLEL: usize = 1 << 22;
    /// Values of a part.
    const PART: usize = 1 << 12;
    let count = x.shape().num_elements();
    if count < PARALLEL {
        return x.sum();
    }
    let (x, whole): (Tensor<1>, _) = (x.reshape([count]), count / PART * PART);
    let parts: Tensor<2> = x.clone().narrow(0, 0, whole).reshape([whole / PART, PART]);
    let total = sum(parts.sum_dim(1));
    if whole == count { total } else { total + x.narrow(0, whole, count - whole).sum() }
}

/// Mean of all values, in the order of [`sum`].
fn mean<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let count = x.shape().num_elements();
    sum(x).div_scalar(count as f64)
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn long_sums_are_right_and_have_the_same_bits_on_any_number_of_threads() {
        let device = Device::default();
        device.seed(3);
        let count = (1 << 22) + 5000;
        let x = Tensor::<1>::random([count], Distribution::Uniform(0.0, 1.0), &device);
        let exact: f64 = x.clone().into_data().iter::<f32>().map(f64::from).sum();
        let labels = Tensor::<1>::zeros([count], &device);
        let run = || {
            let values = [
                sum(x.clone()),
                smooth_l1(x.clone(), labels.clone()),
                // As many as the pixels of 5,350 masks.
                binary_cross_entropy(x.clone(), labels.clone()),
                sigmoid_focal_loss(x.clone().reshape([count, 1]), &vec![0.5; count], &[(7, 0)]),
            ];
            values.map(|value| value.into_scalar::<f32>().to_bits())
        };
        let with = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
        let one = with(1);
        assert!(
            (f64::from(f32::from_bits(one[0])) / exact - 1.0).abs() < 1e-6,
            "{} for {exact}",
            f32::from_bits(one[0])
        );
        for threads in [2, 3, 3] {
            assert_eq!(with(threads), one, "{threads} threads");
        }
    }
}
