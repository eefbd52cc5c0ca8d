use burn::tensor::{
    Int, Tensor,
    activation::{log_softmax, relu},
};

/// The losses of a training step, each one number, by torchvision's names.
#[derive(Debug, Clone)]
pub struct RcnnLosses {
    /// Which anchors hold objects: `loss_objectness`.
    pub objectness: Tensor<1>,
    /// How anchors must be moved: `loss_rpn_box_reg`.
    pub rpn_box: Tensor<1>,
    /// The classes of proposals: `loss_classifier`.
    pub classifier: Tensor<1>,
    /// How proposals must be moved: `loss_box_reg`.
    pub box_shift: Tensor<1>,
    /// The masks, if the network makes them: `loss_mask`.
    pub mask: Option<Tensor<1>>,
}

impl RcnnLosses {
    /// Their sum, of which a step takes the gradient.
    pub fn total(&self) -> Tensor<1> {
        let boxes = self.objectness.clone() + self.rpn_box.clone() + self.classifier.clone() + self.box_shift.clone();
        match &self.mask {
            Some(mask) => boxes + mask.clone(),
            None => boxes,
        }
    }

    /// Name and value of each.
    pub fn named(&self) -> Vec<(&'static str, Tensor<1>)> {
        let mut named = vec![
            ("loss_objectness", self.objectness.clone()),
            ("loss_rpn_box_reg", self.rpn_box.clone()),
            ("loss_classifier", self.classifier.clone()),
            ("loss_box_reg", self.box_shift.clone()),
        ];
        named.extend(self.mask.clone().map(|mask| ("loss_mask", mask)));
        named
    }
}

/// Sum of smooth L1 (Girshick, ICCV 2015) with its bend at 1/9.
pub(super) fn smooth_l1<const D: usize>(x: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    const BETA: f64 = 1.0 / 9.0;
    let difference = (x - target).abs();
    let bend = difference.clone().lower_elem(BETA);
    let square = difference.clone().powi_scalar(2).mul_scalar(0.5 / BETA);
    difference.sub_scalar(0.5 * BETA).mask_where(bend, square).sum()
}

/// Mean binary cross-entropy of logits and targets from 0 to 1.
pub(super) fn binary_cross_entropy<const D: usize>(x: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    let rest = x.clone().abs().neg().exp().log1p();
    (relu(x.clone()) - x * target + rest).mean()
}

/// Mean cross-entropy of logits `[n, classes]` and labels `[n]`.
pub(super) fn cross_entropy(x: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(x, 1).gather(1, labels.unsqueeze_dim(1)).mean().neg()
}
