use burn::{
    module::Module,
    tensor::{Device, Tensor, s},
};
use rayon::prelude::*;
use segkiln_core::{BBox, CoreError, Detection, Instances, Rle};

use super::{
    Corners, RcnnConfig, RcnnLosses, RoiHeads, Rpn, RpnHead, Sampling,
    mask_target::MaskTarget,
    paste::paste_mask,
    roi_heads::{Found, Truth},
    transform::{Images, size},
};
use crate::{backbones::Backbone, layers::FeaturePyramid};

/// Why a network cannot look at images, or learn from them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RcnnError {
    /// The config cannot be built.
    #[error("config: {0}")]
    Config(String),
    /// There is no image.
    #[error("no images were given")]
    NoImages,
    /// An image has no pixel, or other channels than the network.
    #[error(
        "image {image} has shape {shape:?} (channels, height, width), the network takes [{channels}, _, _] with sides of at least 1"
    )]
    Image {
        /// Index in the batch.
        image: usize,
        /// Its shape.
        shape: [usize; 3],
        /// Channels that the network takes.
        channels: usize,
    },
    /// There are not as many targets as images, or one is of another size.
    #[error(
        "image {image} has {size:?} pixels (width, height), its target {target:?}; each image needs one of its size"
    )]
    Target {
        /// Index in the batch.
        image: usize,
        /// Width and height.
        size: [usize; 2],
        /// Width and height of the target; none if it is missing.
        target: Option<[u32; 2]>,
    },
    /// An object's class is not the network's.
    #[error("object {object} of image {image} has class {label}, the network's are 1 to {most}")]
    Label {
        /// Index in the batch.
        image: usize,
        /// Index in the image.
        object: usize,
        /// Its class.
        label: u32,
        /// The last class.
        most: usize,
    },
    /// An object has no mask, which the network is to learn.
    #[error(
        "object {object} of image {image} has no mask, but the network learns masks; give it one or use Faster R-CNN"
    )]
    NoMask {
        /// Index in the batch.
        image: usize,
        /// Index in the image.
        object: usize,
    },
    /// The mask of an image cannot be written.
    #[error(transparent)]
    Core(#[from] CoreError),
}

/// Images and their maps.
struct Features {
    images: Images,
    /// The pyramid's, and a last one of every other value of the smallest.
    maps: Vec<Tensor<4>>,
}

impl Features {
    fn new(network: &Rcnn, images: &[Tensor<3>]) -> Self {
        let images = Images::prepare(images, &network.config);
        let maps = network.backbone.body.forward(images.tensor.clone(), &network.config.stages);
        let mut maps = network.backbone.fpn.forward(maps);
        let smallest = maps[maps.len() - 1].clone();
        maps.push(smallest.slice(s![.., .., ..;2, ..;2]));
        Self { images, maps }
    }

    /// The maps that boxes are pooled from: as in torchvision the first four, and not the last.
    fn pooled(&self) -> &[Tensor<4>] {
        &self.maps[..(self.maps.len() - 1).min(4)]
    }
}

/// Backbone and pyramid.
#[derive(Module, Debug)]
pub struct BackboneWithFpn {
    /// What makes maps of the image.
    pub body: Backbone,
    /// What brings them together.
    pub fpn: FeaturePyramid,
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
    /// [`RcnnError::Config`] where [`check`](Self::check) gives an error.
    pub fn init(&self, device: &Device) -> Result<Rcnn, RcnnError> {
        self.check().map_err(RcnnError::Config)?;
        let available = self.backbone.channels();
        let channels: Vec<usize> = self.stages.iter().map(|stage| available[*stage]).collect();
        Ok(Rcnn {
            backbone: BackboneWithFpn {
                body: self.backbone.init(device),
                fpn: FeaturePyramid::new(&channels, self.channels, &self.pyramid_norm, device),
            },
            rpn: Rpn { head: RpnHead::new(self, device) },
            roi_heads: RoiHeads::new(self, device),
            config: self.clone(),
        })
    }
}

impl Rcnn {
    /// What it was made from.
    pub fn config(&self) -> &RcnnConfig {
        &self.config
    }

    /// The same with other sizes of images, thresholds or numbers of boxes.
    ///
    /// # Errors
    /// [`RcnnError::Config`] if the config is out of range, or is that of other layers.
    pub fn with_config(mut self, change: impl FnOnce(RcnnConfig) -> RcnnConfig) -> Result<Self, RcnnError> {
        let layers = self.config.layers();
        self.config = change(self.config);
        self.config.check().map_err(RcnnError::Config)?;
        if self.config.layers() != layers {
            let reason =
                "the network has its layers already; only sizes of images, thresholds and numbers of boxes can change";
            return Err(RcnnError::Config(reason.into()));
        }
        Ok(self)
    }

    /// Keeps all but the last `trainable` groups of the backbone's layers from learning; see [`Backbone::freeze_stages`].
    pub fn freeze_backbone(mut self, trainable: usize) -> Self {
        self.backbone.body = self.backbone.body.freeze_stages(trainable);
        self
    }

    /// What is in each image, best first, in the image's own pixels.
    ///
    /// # Shapes
    /// Each image `[channels, height, width]`, values from 0 to 1; they may differ in height and width.
    ///
    /// # Errors
    /// [`RcnnError::NoImages`], or [`RcnnError::Image`] if an image does not fit the network.
    pub fn detect(&self, images: &[Tensor<3>]) -> Result<Vec<Vec<Detection>>, RcnnError> {
        self.check_images(images)?;
        self.detect_in(&Features::new(self, images))
    }

    /// The losses of a training step; on a device without gradients and a network in evaluation, those of validation.
    ///
    /// Crowds take no part. Difficult objects do.
    ///
    /// # Shapes
    /// As [`detect`](Self::detect), and a target of each image's size.
    ///
    /// # Errors
    /// As [`detect`](Self::detect), and where a target does not fit its image or the network.
    pub fn losses(
        &self,
        images: &[Tensor<3>],
        targets: &[Instances],
        sampling: Sampling,
    ) -> Result<RcnnLosses, RcnnError> {
        self.check_images(images)?;
        self.check_targets(images, targets)?;
        Ok(self.losses_of(&Features::new(self, images), targets, sampling))
    }

    /// [`losses`](Self::losses) and [`detect`](Self::detect) of the same images, whose maps are made once: what validation
    /// asks for.
    ///
    /// # Errors
    /// As [`losses`](Self::losses).
    pub fn validate(
        &self,
        images: &[Tensor<3>],
        targets: &[Instances],
        sampling: Sampling,
    ) -> Result<(RcnnLosses, Vec<Vec<Detection>>), RcnnError> {
        self.check_images(images)?;
        self.check_targets(images, targets)?;
        let features = Features::new(self, images);
        Ok((self.losses_of(&features, targets, sampling), self.detect_in(&features)?))
    }

    fn detect_in(&self, features: &Features) -> Result<Vec<Vec<Detection>>, RcnnError> {
        let Features { images, maps, .. } = features;
        let (proposals, _) = self.rpn.forward(images, maps, &self.config, false);
        let found = self.roi_heads.find(images, features.pooled(), proposals, &self.config);
        found.into_iter().enumerate().map(|(image, found)| self.decoded(images, image, found)).collect()
    }

    fn losses_of(&self, features: &Features, targets: &[Instances], sampling: Sampling) -> RcnnLosses {
        let Features { images, maps, .. } = features;
        let truths: Vec<Truth<'_>> =
            targets.iter().enumerate().map(|(image, target)| self.truth(images, image, target)).collect();
        let (proposals, output) = self.rpn.forward(images, maps, &self.config, true);
        let objects: Vec<Vec<Corners>> = truths.iter().map(|truth| truth.boxes.clone()).collect();
        let [objectness, rpn_box] = self.rpn.losses(output, &objects, &self.config, sampling);
        let ([classifier, box_shift], mask) =
            self.roi_heads.losses(images, features.pooled(), proposals, &truths, &self.config, sampling);
        RcnnLosses { objectness, rpn_box, classifier, box_shift, mask }
    }

    fn check_images(&self, images: &[Tensor<3>]) -> Result<(), RcnnError> {
        if images.is_empty() {
            return Err(RcnnError::NoImages);
        }
        let channels = self.config.mean.len();
        for (image, tensor) in images.iter().enumerate() {
            let shape = tensor.dims();
            if shape[0] != channels || shape.contains(&0) {
                return Err(RcnnError::Image { image, shape, channels });
            }
        }
        Ok(())
    }

    fn check_targets(&self, images: &[Tensor<3>], targets: &[Instances]) -> Result<(), RcnnError> {
        for (index, image) in images.iter().enumerate() {
            let [height, width] = size(image);
            let target = targets.get(index);
            let found = target.map(|target| [target.width(), target.height()]);
            if found.map(|found| found.map(|side| side as usize)) != Some([width, height]) {
                return Err(RcnnError::Target { image: index, size: [width, height], target: found });
            }
            for (object, instance) in target.into_iter().flat_map(Instances::as_slice).enumerate() {
                let most = self.config.classes - 1;
                if instance.label() as usize > most {
                    return Err(RcnnError::Label { image: index, object, label: instance.label(), most });
                }
                if self.config.mask.is_some() && instance.mask.is_none() {
                    return Err(RcnnError::NoMask { image: index, object });
                }
            }
        }
        if targets.len() > images.len() {
            return Err(RcnnError::Target { image: images.len(), size: [0, 0], target: None });
        }
        Ok(())
    }

    fn truth<'a>(&self, images: &Images, image: usize, target: &'a Instances) -> Truth<'a> {
        let [x, y] = images.scale(image);
        let mut truth = Truth { boxes: vec![], labels: vec![], masks: vec![] };
        for instance in target.as_slice().iter().filter(|instance| !instance.crowd) {
            let [x1, y1, x2, y2] = instance.bbox.xyxy().map(|value| value as f32);
            let bbox = [x1 * x, y1 * y, x2 * x, y2 * y];
            // In f32 a box may lose its area.
            if !(bbox[2] > bbox[0] && bbox[3] > bbox[1]) {
                continue;
            }
            truth.boxes.push(bbox);
            truth.labels.push(instance.label());
            if self.config.mask.is_some() {
                truth.masks.extend(MaskTarget::new(instance, images.sizes[image]));
            }
        }
        truth
    }

    fn decoded(&self, images: &Images, image: usize, found: Found) -> Result<Vec<Detection>, RcnnError> {
        let Found { boxes, labels, scores, masks } = found;
        let boxes: Vec<Corners> = boxes.into_iter().map(|bbox| images.restore(image, bbox)).collect();
        let pasted: Option<Vec<Rle>> = match &self.config.mask {
            Some(config) if !masks.is_empty() => {
                let paste = |(mask, bbox): (&Vec<f32>, &Corners)| {
                    paste_mask(mask, 2 * config.size, *bbox, images.original[image], config.threshold)
                };
                Some(masks.par_iter().zip(&boxes).map(paste).collect::<Result<_, _>>()?)
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
