use burn::tensor::{
    Device, Int, Tensor, TensorData,
    activation::{log_sigmoid, log_softmax, sigmoid, softmax},
};
use segkiln_core::{Classes, LabelMap, Size};
use segkiln_data::{Image, Normalize};
use segkiln_models::{LayerMaps, ModelCard, SegmentationNetwork};

use crate::{
    ExplainError, ExplanationTarget, PixelReduction, Pixels, Result, Subject,
    subject::{finite, values},
};

/// A segmentation network, its normalization and classes.
///
/// The network computes as in prediction, with its fused operators, and its weights are constants: gradients are computed for images
/// and layers only.
#[derive(Debug, Clone)]
pub struct SegmentationSubject<M: SegmentationNetwork> {
    network: M,
    classes: Classes,
    normalize: Normalize,
    device: Device,
}

impl<M: SegmentationNetwork> SegmentationSubject<M> {
    /// Takes a network as it is, on the device of its weights.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if the parts of the card do not fit each other.
    pub fn new(network: &M, card: &ModelCard<M::Config>, device: &Device) -> Result<Self> {
        card.check().map_err(|error| ExplainError::Option { option: "card", reason: error.to_string() })?;
        let (classes, normalize) = (card.classes.clone(), card.normalize.clone());
        Ok(Self { network: network.valid(), classes, normalize, device: device.clone().without_autodiff() })
    }

    /// The network, whose weights are constants.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// The normalized image as the network takes it, `[1, channels, height, width]`.
    ///
    /// # Errors
    /// [`ExplainError::Data`] if the channels are not those that the network takes.
    pub fn input(&self, image: &Image) -> Result<Tensor<4>> {
        let mut image = image.clone();
        self.normalize.apply(&mut image)?;
        Ok(crate::picture::tensor(image, &self.device))
    }

    /// Logits of normalized images, `[n, classes or 1, height, width]`.
    pub fn logits(&self, x: Tensor<4>) -> Tensor<4> {
        self.network.forward(x)
    }

    /// Probabilities of each class, `[n, classes, height, width]`; a single logit gives two.
    pub fn probabilities(&self, x: Tensor<4>) -> Tensor<4> {
        probabilities(self.logits(x))
    }

    /// The most likely class of each pixel of a normalized image.
    ///
    /// # Errors
    /// [`ExplainError::Undefined`] if the network gives NaN.
    pub fn predict(&self, x: &Tensor<4>) -> Result<LabelMap> {
        let logits = self.logits(x.clone());
        let [_, channels, height, width] = logits.dims();
        let logits = values(logits)?;
        let pixels = height * width;
        let label = |pixel: usize| -> Result<u32> {
            let mut best = (0, f32::NEG_INFINITY);
            for class in 0..channels {
                let logit = logits[class * pixels + pixel];
                if logit.is_nan() {
                    return Err(ExplainError::Undefined(logit));
                }
                if logit > best.1 {
                    best = (class as u32, logit);
                }
            }
            Ok(if channels == 1 { u32::from(best.1 > 0.0) } else { best.0 })
        };
        let labels = (0..pixels).map(label).collect::<Result<Vec<_>>>()?;
        Ok(LabelMap::new(width as u32, height as u32, labels).expect("a label a pixel"))
    }

    fn check_class(&self, class: usize) -> Result<()> {
        if class < self.classes.count() {
            return Ok(());
        }
        Err(ExplainError::Class { class, names: self.classes.names().to_vec() })
    }
}

/// Cross-entropy of each pixel with its label.
///
/// # Shapes
/// `logits`: `[n, classes or 1, height, width]`, `labels`: `[n, 1, height, width]` → `[n, 1, height, width]`
pub(crate) fn cross_entropy(logits: Tensor<4>, labels: Tensor<4, Int>) -> Tensor<4> {
    match logits.dims()[1] {
        // -log σ(z) of the foreground, -log σ(-z) of the background
        1 => log_sigmoid(logits * (labels.float() * 2.0 - 1.0)).neg(),
        _ => log_softmax(logits, 1).gather(1, labels).neg(),
    }
}

/// `[n, classes, h, w]` of logits; a single one gives two.
pub(crate) fn probabilities(logits: Tensor<4>) -> Tensor<4> {
    match logits.dims()[1] {
        1 => {
            let foreground = sigmoid(logits);
            Tensor::cat(vec![foreground.clone().neg().add_scalar(1.0), foreground], 1)
        }
        _ => softmax(logits, 1),
    }
}

impl<M: SegmentationNetwork> Subject for SegmentationSubject<M> {
    fn device(&self) -> &Device {
        &self.device
    }

    fn normalize(&self) -> &Normalize {
        &self.normalize
    }

    fn classes(&self) -> &Classes {
        &self.classes
    }

    fn resolve(&self, target: &ExplanationTarget, x: &Tensor<4>) -> Result<ExplanationTarget> {
        let ExplanationTarget::Class { class, pixels, reduction } = target else { return Err(NO_OBJECTS) };
        self.check_class(*class)?;
        let [_, _, height, width] = x.dims().map(|side| side as u32);
        let pixels = match pixels {
            Pixels::Image => Pixels::Image,
            Pixels::Pixel { x, y } if *x < width && *y < height => pixels.clone(),
            Pixels::Pixel { x, y } => return Err(ExplainError::Pixel { x: *x, y: *y, width, height }),
            Pixels::Mask(mask) => {
                let (found, expected) = (mask.size(), Size { width, height });
                if found != expected {
                    return Err(ExplainError::Size { what: "the mask", found, expected });
                }
                if mask.as_slice().iter().all(|label| *label == 0) {
                    return Err(ExplainError::EmptyMask);
                }
                pixels.clone()
            }
            Pixels::Predicted => {
                let mask = self.predict(x)?.map(|label| u32::from(label as usize == *class));
                if mask.as_slice().iter().all(|label| *label == 0) {
                    return Err(ExplainError::NothingPredicted(*class));
                }
                Pixels::Mask(mask)
            }
        };
        Ok(ExplanationTarget::Class { class: *class, pixels, reduction: *reduction })
    }

    fn score(&self, x: Tensor<4>, target: &ExplanationTarget) -> Result<Tensor<1>> {
        let ExplanationTarget::Class { class, pixels, reduction } = target else { return Err(NO_OBJECTS) };
        self.check_class(*class)?;
        let logits = self.logits(x);
        let [n, channels, height, width] = logits.dims();
        let logit = match channels {
            1 if *class == 0 => logits.neg(),
            1 => logits,
            _ => logits.slice([0..n, *class..class + 1, 0..height, 0..width]),
        };
        let (sum, count) = match pixels {
            Pixels::Image => (logit.reshape([n, height * width]).sum_dim(1), height * width),
            Pixels::Pixel { x, y } => {
                let (x, y) = (*x as usize, *y as usize);
                (logit.slice([0..n, 0..1, y..y + 1, x..x + 1]).reshape([n, 1]), 1)
            }
            Pixels::Mask(mask) => {
                let inside: Vec<f32> = mask.as_slice().iter().map(|label| f32::from(*label != 0)).collect();
                let count = inside.iter().filter(|inside| **inside > 0.0).count();
                let inside = TensorData::new(inside, [1, 1, height, width]);
                let inside = Tensor::<4>::from_data(inside, &self.device);
                ((logit * inside).reshape([n, height * width]).sum_dim(1), count)
            }
            Pixels::Predicted => return Err(ExplainError::Kind("the predicted pixels are resolved first")),
        };
        let score = match reduction {
            PixelReduction::Sum => sum,
            PixelReduction::Mean => sum.div_scalar(count.max(1) as f64),
        };
        Ok(score.reshape([n]))
    }

    fn layers(&self, x: &Tensor<4>, _target: &ExplanationTarget) -> Result<LayerMaps> {
        let (maps, logits) = LayerMaps::of(&self.network, || self.network.forward(x.clone()));
        finite(values(logits.sum())?[0])?;
        Ok(maps)
    }
}

const NO_OBJECTS: ExplainError =
    ExplainError::Kind("a segmentation network has classes and no objects; ask about a class");
