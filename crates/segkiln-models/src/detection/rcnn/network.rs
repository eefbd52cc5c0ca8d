use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use rayon::prelude::*;
use segkiln_core::{BBox, CoreError, Detection, Instances, Rle};

use super::{
    super::{
        BackboneWithFpn, Corners, DetectionError, DetectionLosses, DetectionNetwork, DetectionNetworkConfig,
        DetectionTensors, ImageBatch, ImageDetections, ImageTargets, Sampling, check_images, check_targets,
        with_same_layers,
    },
    RcnnConfig, RoiHeads, Rpn, RpnHead,
    paste::paste_mask,
    roi_heads::MaskedDetections,
};
use crate::{backbones::Backbone, layers::LastLevel};

/// Images and the levels of their pyramid.
struct Features {
    images: ImageBatch,
    maps: Vec<Tensor<4>>,
}

impl Features {
    fn new(network: &Rcnn, images: &[Tensor<3>]) -> Self {
        let images = network.config.transform().forward(images);
        let maps = network.backbone.forward(images.tensor.clone(), &network.config.stages);
        Self { images, maps }
    }

    /// The maps that boxes are pooled from: as in torchvision the first four, and not the last.
    fn pooled(&self) -> &[Tensor<4>] {
        &self.maps[..(self.maps.len() - 1).min(4)]
    }
}

/// Faster R-CNN, and Mask R-CNN where the config has masks; see [`RcnnConfig`].
#[derive(Module, Debug)]
pub struct Rcnn {
    /// Feature maps.
    pub backbone: BackboneWithFpn,
    /// Proposals.
    pub rpn: Rpn,
    /// Objects.
    pub roi_heads: RoiHeads,
    #[module(skip)]
    config: RcnnConfig,
}

impl RcnnConfig {
    /// The network with random weights, as torchvision draws them.
    ///
    /// # Errors
    /// [`DetectionError::Config`] where [`check`](Self::check) gives an error.
    pub fn init(&self, device: &Device) -> Result<Rcnn, DetectionError> {
        self.check()?;
        let Self { backbone, stages, channels, pyramid_norm, .. } = self;
        Ok(Rcnn {
            backbone: BackboneWithFpn::new(backbone, stages, *channels, pyramid_norm, LastLevel::MaxPool, device),
            rpn: Rpn { head: RpnHead::new(self, device) },
            roi_heads: RoiHeads::new(self, device),
            config: self.clone(),
        })
    }
}

impl DetectionNetwork for Rcnn {
    type Config = RcnnConfig;

    fn config(&self) -> RcnnConfig {
        self.config.clone()
    }

    fn with_config(mut self, config: RcnnConfig) -> Result<Self, DetectionError> {
        self.config = with_same_layers(&self.config, config, RcnnConfig::layers)?;
        Ok(self)
    }

    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        vec![&mut self.backbone.body]
    }

    fn class_tensors(&self) -> Vec<String> {
        ["roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits."].map(String::from).into()
    }

    fn detect(&self, images: &[Tensor<3>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
        check_images(images, self.config.mean.len())?;
        self.detect_in(&Features::new(self, images))
    }

    fn detect_tensors(&self, image: &Tensor<3>) -> Result<Vec<DetectionTensors>, DetectionError> {
        let images = std::slice::from_ref(image);
        check_images(images, self.config.mean.len())?;
        let features = Features::new(self, images);
        let Features { images, maps } = &features;
        let (proposals, _) = self.rpn.forward(images, maps, &self.config, false);
        self.roi_heads.detect_tensors(images, features.pooled(), proposals, &self.config)
    }

    fn mask_logits(&self, image: &Tensor<3>, bbox: &BBox, class: u32) -> Result<Tensor<2>, DetectionError> {
        let images = std::slice::from_ref(image);
        check_images(images, self.config.mean.len())?;
        let features = Features::new(self, images);
        let [x, y] = features.images.scale(0);
        let [x1, y1, x2, y2] = bbox.xyxy().map(|side| side as f32);
        let bbox = [x1 * x, y1 * y, x2 * x, y2 * y];
        let logits = self.roi_heads.mask_logits(&features.images, features.pooled(), bbox, class, &self.config);
        logits.ok_or(DetectionError::NoMasks)
    }

    fn losses(
        &self,
        images: &[Tensor<3>],
        targets: &[Instances],
        sampling: Sampling,
    ) -> Result<DetectionLosses, DetectionError> {
        self.check_batch(images, targets)?;
        Ok(self.losses_of(&Features::new(self, images), targets, sampling))
    }

    fn validate(
        &self,
        images: &[Tensor<3>],
        targets: &[Instances],
        sampling: Sampling,
    ) -> Result<(DetectionLosses, Vec<Vec<Detection>>), DetectionError> {
        self.check_batch(images, targets)?;
        let features = Features::new(self, images);
        Ok((self.losses_of(&features, targets, sampling), self.detect_in(&features)?))
    }
}

impl Rcnn {
    fn check_batch(&self, images: &[Tensor<3>], targets: &[Instances]) -> Result<(), DetectionError> {
        check_images(images, self.config.mean.len())?;
        check_targets(images, targets, self.config.classes, self.config.mask.is_some())
    }

    fn detect_in(&self, features: &Features) -> Result<Vec<Vec<Detection>>, DetectionError> {
        let Features { images, maps } = features;
        let (proposals, _) = self.rpn.forward(images, maps, &self.config, false);
        let found = self.roi_heads.detect(images, features.pooled(), proposals, &self.config);
        found.into_iter().enumerate().map(|(image, found)| self.decoded(images, image, found)).collect()
    }

    fn losses_of(&self, features: &Features, targets: &[Instances], sampling: Sampling) -> DetectionLosses {
        let Features { images, maps } = features;
        let targets = ImageTargets::of_batch(images, targets);
        let (proposals, output) = self.rpn.forward(images, maps, &self.config, true);
        let [objectness, rpn_box] = self.rpn.losses(output, &targets, &self.config, sampling);
        let ([classifier, box_shift], mask) =
            self.roi_heads.losses(images, features.pooled(), proposals, &targets, &self.config, sampling);
        let mut terms = vec![
            ("loss_objectness", objectness),
            ("loss_rpn_box_reg", rpn_box),
            ("loss_classifier", classifier),
            ("loss_box_reg", box_shift),
        ];
        terms.extend(mask.map(|mask| ("loss_mask", mask)));
        DetectionLosses::new(terms)
    }

    fn decoded(
        &self,
        images: &ImageBatch,
        image: usize,
        found: MaskedDetections,
    ) -> Result<Vec<Detection>, DetectionError> {
        let MaskedDetections { detections: ImageDetections { boxes, labels, scores }, masks } = found;
        let boxes: Vec<Corners> = boxes.into_iter().map(|bbox| images.restore(image, bbox)).collect();
        let pasted: Option<Vec<Rle>> = match &self.config.mask {
            Some(config) if !masks.is_empty() => {
                let paste = |(mask, bbox): (&Vec<f32>, &Corners)| {
                    paste_mask(mask, 2 * config.size, *bbox, images.original_sizes[image], config.threshold)
                };
                Some(masks.par_iter().zip(&boxes).map(paste).collect::<Result<_, CoreError>>()?)
            }
            _ => None,
        };
        let mut pasted = pasted.into_iter().flatten();
        let mut detections = Vec::with_capacity(boxes.len());
        for ((bbox, label), score) in boxes.into_iter().zip(labels).zip(scores) {
            let [x1, y1, x2, y2] = bbox.map(f64::from);
            let mut detection = Detection::new(BBox::new(x1, y1, x2, y2)?, label, score)?;
            detection.mask = pasted.next();
            detections.push(detection);
        }
        Ok(detections)
    }
}
