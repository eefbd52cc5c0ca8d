use burn::tensor::{Device, Tensor, activation::relu};
use segkiln_core::{BBox, Classes, Detection, Instance, Instances};
use segkiln_data::{Image, Normalize};
use segkiln_models::{
    DetectorCard, LayerMaps,
    detection::{DetectionNetwork, DetectionNetworkConfig, DetectionTensors, Sampling},
};

use crate::{ExplainError, ExplanationTarget, ObjectPart, Result, Select, Subject, picture::tensor};

/// IoU above which a detection is the object that is asked about; pytorch-grad-cam's.
const IOU: f64 = 0.5;

/// A detector and its classes.
///
/// The network computes as in prediction and its weights are constants. Which boxes are found, and where the features of a proposal are
/// read, are constants too: gradients are those of the score of a box that is found, and of its refinement.
#[derive(Debug, Clone)]
pub struct DetectionSubject<M: DetectionNetwork> {
    network: M,
    classes: Classes,
    normalize: Normalize,
    device: Device,
}

impl<M: DetectionNetwork> DetectionSubject<M> {
    /// Takes a detector as it is, on the device of its weights.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if the parts of the card do not fit each other.
    pub fn new(network: &M, card: &DetectorCard<M::Config>, device: &Device) -> Result<Self> {
        card.check().map_err(|error| ExplainError::Option { option: "card", reason: error.to_string() })?;
        let transform = network.config().transform();
        let normalize = Normalize::new(transform.mean, transform.std)?;
        let (network, classes) = (network.valid(), card.classes.clone());
        Ok(Self { network, classes, normalize, device: device.clone().without_autodiff() })
    }

    /// Images `[channels, height, width]` from 0 to 1, as detectors take them, of a batch of normalized ones.
    fn images(&self, x: &Tensor<4>) -> Vec<Tensor<3>> {
        let [n, channels, height, width] = x.dims();
        let by_channel = |values: &[f32]| Tensor::<1>::from_floats(values, &self.device).reshape([1, channels, 1, 1]);
        let images = x.clone() * by_channel(self.normalize.std()) + by_channel(self.normalize.mean());
        (0..n).map(|index| images.clone().narrow(0, index, 1).reshape([channels, height, width])).collect()
    }

    /// The normalized image, `[1, channels, height, width]`.
    ///
    /// # Errors
    /// [`ExplainError::Data`] if the channels are not those that the network takes.
    pub fn input(&self, image: &Image) -> Result<Tensor<4>> {
        let mut image = image.clone();
        self.normalize.apply(&mut image)?;
        Ok(tensor(image, &self.device))
    }

    /// The objects that the network finds in an image with values from 0 to 1, best first.
    ///
    /// # Errors
    /// If the network refuses the image.
    pub fn detect(&self, image: &Image) -> Result<Vec<Detection>> {
        Ok(self.network.detect(&single(tensor(image.clone(), &self.device)))?.remove(0))
    }

    /// The objects that the network finds, as annotations that an attack is aimed at, best first. Boxes of less than a pixel are left out: no
    /// training loss takes them.
    ///
    /// # Errors
    /// As [`detect`](Self::detect).
    pub fn objects(&self, image: &Image) -> Result<Instances> {
        let instance = |found: Detection| {
            let mut instance = Instance::new(found.bbox, found.label()).expect("no object is background");
            instance.mask = found.mask;
            instance
        };
        let is_box = |found: &Detection| found.bbox.width() >= 1.0 && found.bbox.height() >= 1.0;
        let found = self.detect(image)?.into_iter().filter(is_box).map(instance).collect();
        Ok(Instances::new(image.width(), image.height(), found).expect("masks are of the image's size"))
    }

    /// The detector, whose weights are constants.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// The training loss of an image, `[1, channels, height, width]` with values from 0 to 1, and its objects, `[1]`.
    pub(crate) fn loss(&self, x: Tensor<4>, objects: &Instances, sampling: Sampling) -> Result<Tensor<1>> {
        let losses = self.network.losses(&single(x), std::slice::from_ref(objects), sampling)?;
        Ok(losses.total())
    }
}

/// An image of `[1, channels, height, width]` as detectors take it.
pub(crate) fn single(x: Tensor<4>) -> [Tensor<3>; 1] {
    let [_, channels, height, width] = x.dims();
    [x.reshape([channels, height, width])]
}

/// The detection with the largest IoU, if it is above the threshold and of the class.
fn meeting<'a>(found: &'a [DetectionTensors], bbox: &BBox, class: u32) -> Option<&'a DetectionTensors> {
    let overlap = |found: &DetectionTensors| found.detection.bbox.iou(bbox);
    let best = found.iter().reduce(|a, b| if overlap(b) > overlap(a) { b } else { a })?;
    (overlap(best) > IOU && best.detection.label() == class).then_some(best)
}

impl<M: DetectionNetwork> Subject for DetectionSubject<M> {
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
        let ExplanationTarget::Object { select, part } = target else { return Err(NO_CLASSES) };
        let found = self.network.detect_tensors(&self.images(x)[0])?;
        let select = match select {
            Select::Index(object) => {
                let missing = ExplainError::Object { object: *object, found: found.len() };
                let found = &found.get(*object).ok_or(missing)?.detection;
                Select::Best { bbox: found.bbox, class: found.label() }
            }
            Select::Best { bbox, class } => match meeting(&found, bbox, *class) {
                Some(_) => select.clone(),
                None => return Err(ExplainError::NoMatch { class: *class, threshold: IOU }),
            },
        };
        if let (ObjectPart::Mask, Select::Best { bbox, class }) = (part, &select) {
            self.network.mask_logits(&self.images(x)[0], bbox, *class)?;
        }
        Ok(ExplanationTarget::Object { select, part: *part })
    }

    /// 0 where no object of the image is the one that is asked about.
    fn score(&self, x: Tensor<4>, target: &ExplanationTarget) -> Result<Tensor<1>> {
        let ExplanationTarget::Object { select: Select::Best { bbox, class }, part } = target else {
            return Err(NO_CLASSES);
        };
        let score = |image: &Tensor<3>| -> Result<Tensor<1>> {
            if *part == ObjectPart::Mask {
                return Ok(relu(self.network.mask_logits(image, bbox, *class)?).mean());
            }
            let found = self.network.detect_tensors(image)?;
            Ok(match meeting(&found, bbox, *class) {
                // With a gradient, which is 0.
                None => image.clone().sum().mul_scalar(0.0),
                Some(found) if *part == ObjectPart::ScoreAndBox => found.score.clone() + iou(found.bbox.clone(), bbox),
                Some(found) => found.score.clone(),
            })
        };
        Ok(Tensor::cat(self.images(&x).iter().map(score).collect::<Result<_>>()?, 0))
    }

    fn layers(&self, x: &Tensor<4>, target: &ExplanationTarget) -> Result<LayerMaps> {
        let (maps, score) = LayerMaps::of(&self.network, || self.score(x.clone(), target));
        score?;
        Ok(maps)
    }

    /// All levels of the pyramid.
    fn default_layers(&self, layers: &LayerMaps) -> Vec<String> {
        let level = |name: &str| {
            let rest =
                name.strip_prefix("backbone.fpn.layer_blocks.").or(name.strip_prefix("backbone.fpn.extra_blocks."));
            rest.is_some_and(|rest| !rest.contains('.'))
        };
        layers.names().iter().filter(|map| level(map.name())).map(|map| map.name().into()).collect()
    }
}

/// Intersection over union of boxes of `[4]`, with gradients of the first one.
fn iou(found: Tensor<1>, bbox: &BBox) -> Tensor<1> {
    let [x1, y1, x2, y2] = bbox.xyxy();
    let side = |index: usize| found.clone().narrow(0, index, 1);
    let overlap = |low: usize, high: usize, from: f64, to: f64| {
        (side(high).clamp_max(to) - side(low).clamp_min(from)).clamp_min(0.0)
    };
    let both = overlap(0, 2, x1, x2) * overlap(1, 3, y1, y2);
    let area = (side(2) - side(0)) * (side(3) - side(1));
    both.clone() / (area.add_scalar((x2 - x1) * (y2 - y1)) - both)
}

const NO_CLASSES: ExplainError =
    ExplainError::Kind("a detector has objects, and no class at every pixel; ask about an object");
