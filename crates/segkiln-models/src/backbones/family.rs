//! Description of a family of backbones, and what decoders, detectors and classifiers derive from it.

use std::fmt::Debug;

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Device, Tensor},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{ClassifierHead, ResNetHead};
use crate::{ConfigError, layers::NormConfig, weights::TorchNames};

/// Variants of a family: names, and the configs that they stand for.
pub type Variants<C> = &'static [(&'static str, fn() -> C)];

/// Config of a family of backbones: its variants by name, its table of stages, and what sets it apart from other families. For
/// backbones of your own see [`register_backbone`](super::register_backbone).
pub trait BackboneFamily: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The network that is made from the config.
    type Network: BackboneNetwork;

    /// Variants by torchvision's names, and by timm's of those that it has not or that differ; for images of three channels.
    const VARIANTS: Variants<Self>;

    /// Returns the table of stages.
    fn stages(&self) -> Stages;

    /// Channels of the images.
    fn in_channels(&self) -> usize;

    /// Changes the channels of the images.
    fn with_in_channels(self, in_channels: usize) -> Self;

    /// The normalization of all layers, where it can be chosen.
    fn norm(&self) -> Option<&NormConfig> {
        None
    }

    /// Changes the normalization, where it can be chosen.
    fn with_norm(self, _norm: NormConfig) -> Self {
        self
    }

    /// Changes the output stride, that of the last map, to 8, 16 or 32: layers that would make it larger dilate instead. A
    /// backbone that cannot dilate keeps its strides, and decoders take its maps as they are.
    fn with_output_stride(self, _stride: usize) -> Self {
        self
    }

    /// Dilates the last stages as torchvision's segmentation networks do.
    fn with_torchvision_dilation(self) -> Self {
        self.with_output_stride(8)
    }

    /// Changes to timm's layout, where it differs.
    fn with_timm_layout(self) -> Self {
        self
    }

    /// Changes to the layout of segmentation_models_pytorch's encoder of this name, where it differs.
    fn with_encoder_layout(self, _name: &str) -> Self {
        self
    }

    /// Least score of the proposals of torchvision's R-CNNs on this family.
    fn min_proposal_score(&self) -> f32 {
        0.0
    }

    /// Checks fields that no other family has.
    ///
    /// # Errors
    /// Names the field out of range.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Upper bound of the number of parameters; 0 where no config asks for many.
    fn most_parameters(&self) -> u128 {
        0
    }

    /// Numbers of channels that are normalized within blocks.
    fn hidden_channels(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Builds the network with random weights, without a classifier.
    fn init(&self, device: &Device) -> Self::Network;

    /// Builds the classifier of torchvision's or timm's network, with random weights; by default one layer on the mean of the
    /// last map.
    fn classifier_head(&self, classes: usize, device: &Device) -> ClassifierHead {
        ClassifierHead::ResNet(ResNetHead::new(self.stages().last_channels(), classes, device))
    }
}

/// Network of a family of backbones.
pub trait BackboneNetwork: Module + ModuleDisplay + Sync + 'static {
    /// Whether maps may stay in a reduced precision between layers: true where nothing is computed with maps outside of layers.
    const KEEPS_REDUCED_MAPS: bool = false;

    /// Names of fields in PyTorch's files, where they differ.
    const TORCH_NAMES: TorchNames = &[];

    /// Finds other names that files have for tensors of this network, of which `names` are all of PyTorch's (without the
    /// field of a larger network that the backbone is in): pairs of the other name and PyTorch's; none where `names` are another
    /// network's.
    fn other_names(_names: &[&str]) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Computes the maps of some stages, in rising order, and nothing after the last of them.
    ///
    /// # Shapes
    /// `[n, in_channels, h, w]` → of each stage `[n, channels, h / stride, w / stride]`
    fn forward(&self, x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>>;

    /// Keeps all but the last `trainable` groups of layers from learning; the groups are torchvision's where it has the network.
    /// [`Module::freeze`] keeps parameters and running statistics.
    fn freeze_stages(self, trainable: usize) -> Self;

    /// Prefixes of the PyTorch names of the tensors that come after a stage.
    fn torch_names_after(&self, _stage: usize) -> Vec<String> {
        Vec::new()
    }

    /// Reason why a file of PyTorch's with these tensors is of another network although their names and shapes fit.
    fn misfit(&self, _contents: &[(String, Vec<usize>)]) -> Option<&'static str> {
        None
    }
}

/// Part of a backbone whose map can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Channels of the map.
    pub channels: usize,
    /// Pixels of the image from one value of the map to the next, were nothing dilated.
    pub natural_stride: usize,
    /// Pixels of the image from one value of the map to the next.
    pub stride: usize,
}

impl Stage {
    /// Stage of a backbone that dilates where the stride would be more than `output_stride`.
    pub fn new(channels: usize, natural_stride: usize, output_stride: usize) -> Self {
        Self { channels, natural_stride, stride: natural_stride.min(output_stride) }
    }
}

/// Table of a backbone's stages, and who takes which maps.
///
/// ```
/// use segkiln_models::backbones::{BackboneFamily, ResNetConfig};
///
/// let stages = ResNetConfig::resnet50().stages();
/// assert_eq!(stages.channels(), [64, 256, 512, 1024, 2048]);
/// assert_eq!((stages.stride2_stage(), stages.pyramid_stages()), (Some(0), [1, 2, 3, 4]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stages {
    stages: Vec<Stage>,
    decoder: Vec<usize>,
    detection: Option<Vec<usize>>,
    aux: Option<usize>,
    ends_with_pooling: bool,
}

impl Stages {
    /// Table in which decoders take the last map of each stride from 2 on, detectors those of strides 4 to 32, and auxiliary
    /// heads that of stride 16.
    pub fn new(stages: impl IntoIterator<Item = Stage>) -> Self {
        let stages: Vec<Stage> = stages.into_iter().collect();
        let is_last = |index: &usize| {
            let stride = |index: usize| stages.get(index).map(|stage| stage.natural_stride);
            stride(*index) > Some(1) && stride(*index) != stride(index + 1)
        };
        let decoder = (0..stages.len()).filter(is_last).collect();
        Self { stages, decoder, detection: None, aux: None, ends_with_pooling: false }
    }

    /// Changes the stages of which decoders take maps, one of each stride.
    pub fn with_decoder_stages(self, stages: impl Into<Vec<usize>>) -> Self {
        Self { decoder: stages.into(), ..self }
    }

    /// Changes the stages of which torchvision's detectors take maps.
    pub fn with_detection_stages(self, stages: impl Into<Vec<usize>>) -> Self {
        Self { detection: Some(stages.into()), ..self }
    }

    /// Changes the stage of which torchvision's segmentation networks take a second map.
    pub fn with_aux_stage(self, stage: usize) -> Self {
        Self { aux: Some(stage), ..self }
    }

    /// Says that the last stage is nothing but a pooling, behind which decoders convolve.
    pub fn ending_with_pooling(self) -> Self {
        Self { ends_with_pooling: true, ..self }
    }

    /// Returns the rows of the table.
    pub fn as_slice(&self) -> &[Stage] {
        &self.stages
    }

    /// Channels of each stage's map.
    pub fn channels(&self) -> Vec<usize> {
        self.stages.iter().map(|stage| stage.channels).collect()
    }

    /// Pixels of the image from one value of each stage's map to the next.
    pub fn strides(&self) -> Vec<usize> {
        self.stages.iter().map(|stage| stage.stride).collect()
    }

    /// Channels of the last map.
    pub fn last_channels(&self) -> usize {
        self.stages.last().map_or(0, |stage| stage.channels)
    }

    /// The stage of stride 2 of which decoders take a map, if there is one.
    pub fn stride2_stage(&self) -> Option<usize> {
        self.decoder_stage(2)
    }

    /// The stages of strides 4, 8, 16 and 32 of which decoders take maps; where the backbone dilates, the last ones have less.
    ///
    /// # Panics
    /// If the table has none of one of these strides.
    pub fn pyramid_stages(&self) -> [usize; 4] {
        [4, 8, 16, 32].map(|stride| self.decoder_stage(stride).expect("backbones have maps of strides 4 to 32"))
    }

    /// The stages of which torchvision's detectors take maps.
    pub fn detection_stages(&self) -> Vec<usize> {
        self.detection.clone().unwrap_or_else(|| self.pyramid_stages().into())
    }

    /// The stage of which torchvision's segmentation networks take a second map: for an auxiliary head, or for details.
    pub fn aux_stage(&self) -> usize {
        self.aux.unwrap_or_else(|| self.pyramid_stages()[2])
    }

    /// Whether the last stage is nothing but a pooling.
    pub fn ends_with_pooling(&self) -> bool {
        self.ends_with_pooling
    }

    /// Checks that decoders find maps of strides 4 to 32, and that the stages that are named exist.
    pub(super) fn check(&self, name: &str) -> Result<(), ConfigError> {
        let refuse = |problem| Err(ConfigError::with_message("backbone", format!("the stages of {name:?} {problem}")));
        let named = self.decoder.iter().chain(self.detection.iter().flatten()).chain(&self.aux);
        if named.into_iter().any(|stage| *stage >= self.stages.len()) {
            return refuse("are fewer than those that it names");
        }
        match [4, 8, 16, 32].iter().all(|stride| self.decoder_stage(*stride).is_some()) {
            true => Ok(()),
            false => refuse("must include maps of strides 4, 8, 16 and 32"),
        }
    }

    fn decoder_stage(&self, natural_stride: usize) -> Option<usize> {
        self.decoder.iter().copied().find(|stage| self.stages[*stage].natural_stride == natural_stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_the_last_of_their_strides() {
        let rows = [(8, 1), (16, 2), (24, 4), (24, 4), (40, 8), (80, 16), (160, 32), (320, 32)];
        let stages = Stages::new(rows.map(|(channels, stride)| Stage::new(channels, stride, 16)));
        assert_eq!(stages.strides(), [1, 2, 4, 4, 8, 16, 16, 16]);
        assert_eq!((stages.stride2_stage(), stages.pyramid_stages()), (Some(1), [3, 4, 5, 7]));
        assert_eq!((stages.detection_stages(), stages.aux_stage(), stages.last_channels()), (vec![3, 4, 5, 7], 5, 320));
        let other = stages.with_decoder_stages([2, 4, 5, 6]).with_detection_stages([5, 7]).with_aux_stage(4);
        assert_eq!((other.stride2_stage(), other.pyramid_stages()), (None, [2, 4, 5, 6]));
        assert_eq!((other.detection_stages(), other.aux_stage()), (vec![5, 7], 4));
    }
}
