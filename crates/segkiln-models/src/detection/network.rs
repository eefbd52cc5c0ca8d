use std::{fmt::Debug, path::Path};

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Device, Tensor},
};
use segkiln_core::{BBox, Detection, Instances};
use serde::{Serialize, de::DeserializeOwned};

use super::{DetectionError, DetectionLosses, DetectionTensors, ImageTransform, Sampling};
use crate::{
    ConfigError,
    backbones::Backbone,
    weights::{self, Exceptions, TorchNames, WeightsError, borrowed, load_torch_but},
};

/// A detector: a network that finds the boxes and classes of objects, and perhaps their masks.
///
/// Implement it, and [`DetectionNetworkConfig`], for a network of your own, and training, prediction, checkpoints and
/// weights take it as they take the ones of this crate. The parts that those are made of are in [this
/// module](crate::detection).
///
/// Parameters have PyTorch's names where fields have; [`TORCH_NAMES`](Self::TORCH_NAMES) lists fields that are called
/// otherwise there.
pub trait DetectionNetwork: Module + ModuleDisplay + Sync + 'static {
    /// Description of the network that a file can hold.
    type Config: DetectionNetworkConfig<Network = Self>;

    /// Names of fields of this network's modules in PyTorch's files, where they differ. Fields of this crate's layers,
    /// backbones and networks are known already.
    const TORCH_NAMES: TorchNames = &[];

    /// The config that the network was made from.
    fn config(&self) -> Self::Config;

    /// Changes sizes of images, thresholds or numbers of boxes.
    ///
    /// # Errors
    /// [`DetectionError::Config`] if the config is out of range, or is that of other layers.
    fn with_config(self, config: Self::Config) -> Result<Self, DetectionError>;

    /// The backbones in the network, in fields that are called `backbone.body` in PyTorch's files.
    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        Vec::new()
    }

    /// Prefixes of the tensors, by PyTorch's names, whose shape depends on the number of classes. They keep their random
    /// weights where a file is of a network for other classes.
    fn class_tensors(&self) -> Vec<String> {
        Vec::new()
    }

    /// Finds the objects of each image, best first, in the image's own pixels.
    ///
    /// # Shapes
    /// Each image `[channels, height, width]`, values from 0 to 1; they may differ in height and width.
    ///
    /// # Errors
    /// [`DetectionError::NoImages`], or [`DetectionError::Image`] if an image does not fit the network.
    fn detect(&self, images: &[Tensor<3>]) -> Result<Vec<Vec<Detection>>, DetectionError>;

    /// Finds the objects of an image as [`detect`](Self::detect) does, with scores and boxes as tensors, so that gradients of them can
    /// be computed for the image or a layer. Explanations need it.
    ///
    /// # Errors
    /// As [`detect`](Self::detect), and [`DetectionError::NoTensors`], which is the default.
    fn detect_tensors(&self, _image: &Tensor<3>) -> Result<Vec<DetectionTensors>, DetectionError> {
        Err(DetectionError::NoTensors)
    }

    /// Computes the mask of an object in a box of the image's own pixels, as logits of its class in a square over the box, so that
    /// gradients of them can be computed. Explanations of masks need it.
    ///
    /// # Shapes
    /// image `[channels, height, width]` → `[side, side]`
    ///
    /// # Errors
    /// As [`detect`](Self::detect), and [`DetectionError::NoMasks`], which is the default.
    fn mask_logits(&self, _image: &Tensor<3>, _bbox: &BBox, _class: u32) -> Result<Tensor<2>, DetectionError> {
        Err(DetectionError::NoMasks)
    }

    /// Computes the losses of a training step; on a device without gradients and a network in evaluation, those of
    /// validation.
    ///
    /// Crowds take no part. Difficult objects do.
    ///
    /// # Shapes
    /// As [`detect`](Self::detect), and a target of each image's size.
    ///
    /// # Errors
    /// As [`detect`](Self::detect), and where a target does not fit its image or the network.
    fn losses(
        &self,
        images: &[Tensor<3>],
        targets: &[Instances],
        sampling: Sampling,
    ) -> Result<DetectionLosses, DetectionError>;

    /// [`losses`](Self::losses) and [`detect`](Self::detect) of the same images, for validation. Networks that compute their
    /// features once for both implement it.
    ///
    /// # Errors
    /// As [`losses`](Self::losses).
    fn validate(
        &self,
        images: &[Tensor<3>],
        targets: &[Instances],
        sampling: Sampling,
    ) -> Result<(DetectionLosses, Vec<Vec<Detection>>), DetectionError> {
        Ok((self.losses(images, targets, sampling)?, self.detect(images)?))
    }

    /// Keeps all but the last `trainable` groups of the backbone's layers from learning; see [`Backbone::freeze_stages`].
    fn freeze_backbone(mut self, trainable: usize) -> Self {
        for backbone in self.backbones_mut() {
            *backbone = backbone.clone().freeze_stages(trainable);
        }
        self
    }

    /// Loads weights to begin a training with: a `.bpk` of the same network; PyTorch's of the network, also for other classes
    /// (see [`class_tensors`](Self::class_tensors)) or another number of channels (see [`Exceptions::channels`]); or PyTorch's
    /// of its backbone, also a classifier's.
    ///
    /// # Errors
    /// [`WeightsError`], naming the tensors if the file is of none of these.
    fn load_pretrained(self, path: &Path) -> Result<Self, WeightsError> {
        weights::load_pretrained(self, path, Self::backbones_mut, |network| {
            let kept = network.class_tensors();
            network.load_torch(path, Exceptions { kept: &borrowed(&kept), channels: true, ..Exceptions::default() })
        })
    }

    /// Loads the network's weights from a file of PyTorch's.
    ///
    /// # Errors
    /// As [`load_torch_but`].
    fn load_torch(self, path: &Path, exceptions: Exceptions<'_>) -> Result<Self, WeightsError> {
        load_torch_but(self, path, Exceptions { names: Self::TORCH_NAMES, ..exceptions })
    }

    /// Writes the weights as `.safetensors` under PyTorch's names.
    ///
    /// # Errors
    /// [`WeightsError::Write`]; what was there before is untouched.
    fn save_torch(&self, path: &Path) -> Result<(), WeightsError> {
        weights::save_torch_named(self, Self::TORCH_NAMES, path)
    }

    /// Returns PyTorch's names and shapes of the network's tensors, in the network's order.
    fn torch_shapes(&self) -> Vec<(String, Vec<usize>)> {
        weights::torch_shapes_named(self, Self::TORCH_NAMES)
    }
}

/// Config of a [`DetectionNetwork`], which `config.json` holds.
pub trait DetectionNetworkConfig: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The network that is made from the config.
    type Network: DetectionNetwork<Config = Self>;

    /// Names that [`by_name`](Self::by_name) knows.
    const NAMES: &'static [&'static str] = &[];

    /// Config of the network with this name, for `classes` classes with the background; none if the name is unknown.
    fn by_name(_name: &str, _classes: usize) -> Option<Self> {
        None
    }

    /// Checks that the network can be built. A config that came from a file is checked before anything is allocated.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    fn check(&self) -> Result<(), ConfigError>;

    /// Builds the network with random weights.
    ///
    /// # Errors
    /// [`DetectionError::Config`] where [`check`](Self::check) gives an error.
    fn init(&self, device: &Device) -> Result<Self::Network, DetectionError>;

    /// Number of classes with the background, which is class 0.
    fn classes(&self) -> usize;

    /// Normalization and sizes of images; its `mean` has as many values as images have channels.
    fn transform(&self) -> ImageTransform;

    /// True if [`DetectionNetwork::freeze_backbone`] freezes layers, and layers can have learning rates of their own; false by default.
    fn has_backbone(&self) -> bool {
        false
    }

    /// Whether the network learns and finds masks.
    fn has_masks(&self) -> bool {
        false
    }

    /// Changes what can be chosen for each prediction.
    fn with_options(self, options: DetectionOptions) -> Self;

    /// Adapts the config to a file of PyTorch's weights, where they tell more than the network's name; see
    /// [`frozen_epsilon`](super::frozen_epsilon).
    ///
    /// # Errors
    /// [`WeightsError::Read`].
    fn adapted_to(self, _path: &Path) -> Result<Self, WeightsError> {
        Ok(self)
    }
}

/// Options of a prediction that every detector has; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DetectionOptions {
    /// Shorter side that images are resized to, in pixels.
    pub min_size: Option<usize>,
    /// Upper bound of the longer side, in pixels; at least `min_size` where only that is given.
    pub max_size: Option<usize>,
    /// Score that a detection must exceed, from 0 to 1.
    pub score_threshold: Option<f32>,
    /// Most detections of an image.
    pub max_detections: Option<usize>,
}

impl DetectionOptions {
    /// Replaces a config's values by those that are given.
    pub(super) fn apply(
        self,
        min_size: &mut usize,
        max_size: &mut usize,
        score_threshold: &mut f32,
        detections: &mut usize,
    ) {
        *min_size = self.min_size.unwrap_or(*min_size);
        let at_least = if self.min_size.is_some() { *min_size } else { 0 };
        *max_size = self.max_size.unwrap_or((*max_size).max(at_least));
        *score_threshold = self.score_threshold.unwrap_or(*score_threshold);
        *detections = self.max_detections.unwrap_or(*detections);
    }
}

/// Checks a config that is to replace `old`: it must be in range and, by the description that `layers` gives, have the same
/// layers.
pub(super) fn with_same_layers<C: DetectionNetworkConfig>(
    old: &C,
    new: C,
    layers: impl Fn(&C) -> String,
) -> Result<C, DetectionError> {
    new.check()?;
    if layers(&new) != layers(old) {
        let message =
            "the network has its layers already; only sizes of images, thresholds and numbers of boxes can change";
        return Err(ConfigError::with_message("model", message).into());
    }
    Ok(new)
}

/// Checks that a number is in a range.
pub(super) fn within(name: &'static str, value: usize, least: usize, most: usize) -> Result<(), ConfigError> {
    let fits = (least..=most).contains(&value);
    if fits { Ok(()) } else { Err(ConfigError::new(name, format!("must be from {least} to {most}, is {value}"))) }
}

/// Checks that a number is from 0 to 1.
pub(super) fn share(name: &'static str, value: f64) -> Result<(), ConfigError> {
    let fits = (0.0..=1.0).contains(&value);
    if fits { Ok(()) } else { Err(ConfigError::new(name, format!("must be from 0 to 1, is {value}"))) }
}
