use burn::config::Config;
use burn::tensor::activation::{relu, softmax};
use burn::tensor::{Int, Tensor};

use super::SegmentationLoss;
use super::common::{Labels, indicator};
use crate::Result;

/// Configuration of [`LovaszLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct LovaszLossConfig {
    /// Label of ignored pixels.
    pub ignore_index: Option<i64>,
    /// Take the loss of each image and then the mean, and not one loss of the whole batch.
    #[config(default = false)]
    pub per_image: bool,
}

impl LovaszLossConfig {
    /// Builds the loss.
    ///
    /// # Errors
    /// None; a `Result` as with the other losses.
    pub fn try_init(&self) -> Result<LovaszLoss> {
        Ok(self.init())
    }

    /// The loss.
    pub fn init(&self) -> LovaszLoss {
        LovaszLoss { config: self.clone() }
    }
}

/// Lovász loss (Berman et al. 2018), a convex surrogate of the Jaccard index, as segmentation_models_pytorch's
/// `LovaszLoss`: the Lovász hinge of binary logits, and of more classes the Lovász softmax, as the mean of the classes that
/// occur.
///
/// It sorts the pixels of each class, on the host where the backend does so.
#[derive(Debug, Clone)]
pub struct LovaszLoss {
    config: LovaszLossConfig,
}

impl SegmentationLoss for LovaszLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        let (logits, labels) = Labels::prepare(logits, targets, self.config.ignore_index);
        let [batch, channels, height, width] = logits.dims();
        let truth = labels.one_hot();
        let errors = match channels {
            1 => (logits * (truth.clone() * 2 - 1)).neg() + 1,
            _ => (truth.clone() - softmax(logits, 1)).abs(),
        };
        // A negative error is sorted behind all that count, and counts for nothing.
        let errors = labels.fill_ignored(errors, -1.0);

        let (images, pixels) =
            if self.config.per_image { (batch, height * width) } else { (1, batch * height * width) };
        let rows = |x: Tensor<4>| match self.config.per_image {
            true => x.reshape([images * channels, pixels]),
            false => x.swap_dims(0, 1).reshape([images * channels, pixels]),
        };
        let (losses, foreground) = lovasz_extension(rows(errors), rows(truth));
        let losses = losses.reshape([images, channels]);
        if channels == 1 {
            return losses.mean();
        }
        let present = indicator(foreground.reshape([images, channels]).greater_scalar(0));
        let classes = present.clone().sum_dim(1).clamp_min(1);
        ((losses * present).sum_dim(1) / classes).mean()
    }
}

/// The Lovász extension of the Jaccard loss of each row, `[R, 1]`, and the number of foreground pixels of each, `[R, 1]`.
///
/// # Shapes
/// - errors, truth: `[R, P]`
fn lovasz_extension(errors: Tensor<2>, truth: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let order = errors.clone().without_autodiff().argsort_descending(1);
    let errors = errors.gather(1, order.clone());
    let truth = truth.gather(1, order);

    let foreground = truth.clone().sum_dim(1);
    let rank = truth.ones_like().cumsum(1);
    let missed = foreground.clone() - truth.clone().cumsum(1);
    let union = missed.clone() + rank;
    // What an error adds to the Jaccard loss of those before it, without their difference, which would lose its digits: a
    // missed foreground pixel 1/U, a false one I/(U·(U - 1)), with the intersection I and union U after it.
    let false_positive = missed / (union.clone() * (union.clone() - 1).clamp_min(1));
    let weights = truth.clone() * union.recip() + (truth.neg() + 1) * false_positive;
    // Without foreground the first error costs everything and the others nothing.
    let errors = relu(errors);
    let first = errors.clone().narrow(1, 0, 1) * indicator(foreground.clone().equal_scalar(0));
    let losses = (errors * weights).sum_dim(1) + first;
    (losses, foreground)
}
