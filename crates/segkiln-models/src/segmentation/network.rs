use std::{fmt::Debug, path::Path};

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Device, Tensor},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    ConfigError, Summary,
    backbones::{Backbone, BackboneConfig, smp},
    weights::{self, Exceptions, TorchNames, WeightsError, borrowed, load_torch_but},
};

/// Logits of one head of a network in training.
#[derive(Debug, Clone)]
pub struct HeadLogits {
    /// Factor of the head's loss in the sum of all heads' losses.
    pub weight: f64,
    /// `[batch, classes, height, width]`, of the image's height and width.
    pub logits: Tensor<4>,
}

/// A segmentation network: logits of every pixel of an image.
///
/// Implement it, and [`SegmentationNetworkConfig`], for a network of your own, and training, prediction, checkpoints,
/// summaries and weights take it as they take the ones of this crate. Only [`Config`](Self::Config) and
/// [`forward`](Self::forward) have no default. `examples/custom_network.rs` shows one.
///
/// Parameters have PyTorch's names where fields have; [`TORCH_NAMES`](Self::TORCH_NAMES) lists fields that are called
/// otherwise there.
pub trait SegmentationNetwork: Module + ModuleDisplay + Sync + 'static {
    /// Config of the network, which `config.json` holds.
    type Config: SegmentationNetworkConfig<Network = Self>;

    /// Names of fields of this network's modules in PyTorch's files, where they differ. Fields of this crate's layers,
    /// backbones and networks are known already.
    const TORCH_NAMES: TorchNames = &[];

    /// Computes the logits of an image, at its height and width.
    ///
    /// # Shapes
    /// `[batch, in_channels, height, width]` → `[batch, classes, height, width]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;

    /// Computes the logits of every head, for a loss with deep supervision or auxiliary heads. The main head is the last.
    ///
    /// # Shapes
    /// `[batch, in_channels, height, width]` → at least one `[batch, classes, height, width]`
    fn forward_heads(&self, x: Tensor<4>) -> Vec<HeadLogits> {
        vec![HeadLogits { weight: 1.0, logits: self.forward(x) }]
    }

    /// Backbone of the network, the first where it has two; none if it has no backbone of this crate.
    fn backbone(&self) -> Option<&Backbone> {
        None
    }

    /// All backbones of this crate in the network, in fields that are called `encoder` or `backbone` in PyTorch's files.
    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        Vec::new()
    }

    /// Prefixes of the tensors, by PyTorch's names, whose shape depends on the number of classes. They keep their random
    /// weights where a file is of a network for other classes.
    fn class_tensors(&self) -> Vec<String> {
        Vec::new()
    }

    /// Prefixes of the tensors, by PyTorch's names, that files may lack because the network does not use them.
    fn unused_tensors(&self) -> Vec<String> {
        Vec::new()
    }

    /// Prefixes of the tensors, by PyTorch's names, of heads that only training needs and that this network was built
    /// without; files may have them.
    fn training_tensors(&self) -> Vec<String> {
        Vec::new()
    }

    /// Keeps all but the last `trainable` groups of each backbone's layers from learning; see
    /// [`Backbone::freeze_stages`].
    fn freeze_backbone(mut self, trainable: usize) -> Self {
        for backbone in self.backbones_mut() {
            *backbone = backbone.clone().freeze_stages(trainable);
        }
        self
    }

    /// Loads weights to begin a training with: a `.bpk` of the same network; PyTorch's of the network, also for other classes
    /// (see [`class_tensors`](Self::class_tensors)) or another number of channels (see [`Exceptions::channels`]); or
    /// PyTorch's of its backbone, also a classifier's. Of a network with two backbones both begin with those.
    ///
    /// # Errors
    /// [`WeightsError`], naming the tensors if the file is of none of these.
    fn load_pretrained(self, path: &Path) -> Result<Self, WeightsError> {
        weights::load_pretrained(self, path, Self::backbones_mut, |network| {
            let (kept, spare) = (network.class_tensors(), network.training_tensors());
            let (kept, spare) = (borrowed(&kept), borrowed(&spare));
            network.load_torch(path, Exceptions { kept: &kept, spare: &spare, channels: true, ..Default::default() })
        })
    }

    /// Loads the network's weights from a file of PyTorch's. Its [`unused_tensors`](Self::unused_tensors) may be missing.
    ///
    /// # Errors
    /// As [`load_torch_but`].
    fn load_torch(self, path: &Path, exceptions: Exceptions<'_>) -> Result<Self, WeightsError> {
        let unused = self.unused_tensors();
        let absent: Vec<&str> = exceptions.absent.iter().copied().chain(borrowed(&unused)).collect();
        load_torch_but(self, path, Exceptions { absent: &absent, names: Self::TORCH_NAMES, ..exceptions })
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

/// Config of a [`SegmentationNetwork`], which `config.json` holds.
pub trait SegmentationNetworkConfig: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The network that is made from the config.
    type Network: SegmentationNetwork<Config = Self>;

    /// Decoders whose names stand before a backbone's: `fpn` of `fpn_resnet18`.
    const DECODERS: &'static [&'static str] = &[];

    /// Names of networks that are no decoder on a backbone.
    const NAMES: &'static [&'static str] = &[];

    /// Returns the config of the network with this name; none if the name is another network's.
    ///
    /// # Errors
    /// A sentence, if the name is this network's, but its backbone cannot be used.
    fn named(_name: &str, _classes: usize) -> Result<Option<Self>, ConfigError> {
        Ok(None)
    }

    /// Checks that the network can be built. A config that came from a file is checked before anything is allocated.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    fn check(&self) -> Result<(), ConfigError>;

    /// Builds the network with random weights.
    ///
    /// # Panics
    /// May panic where [`check`](Self::check) gives an error.
    fn init(&self, device: &Device) -> Self::Network;

    /// Channels of the images that the network takes.
    fn in_channels(&self) -> usize;

    /// Changes the number of the images' channels. A network with two backbones keeps the second one's.
    fn with_in_channels(self, in_channels: usize) -> Self;

    /// Channels of the logits: 1 for a binary task, else the number of classes.
    fn classes(&self) -> usize;

    /// Adds or removes the auxiliary head that only training needs. Networks that can have none stay as they are.
    fn with_aux(self, _aux: bool) -> Self {
        self
    }

    /// Whether [`SegmentationNetwork::freeze_backbone`] freezes layers, and layers can have learning rates of their own.
    fn has_backbone(&self) -> bool {
        false
    }

    /// Counts parameters, multiply-adds and activations for an image of this height and width. The network is built and
    /// run once.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use segkiln_models::{ModelConfig, SegmentationNetworkConfig};
    ///
    /// let summary = ModelConfig::by_name("fpn_resnet18", 2)?.summary([64, 64], &Device::default());
    /// println!("{}", summary.blocks(2));
    /// # Ok::<(), segkiln_models::ConfigError>(())
    /// ```
    fn summary(&self, [height, width]: [usize; 2], device: &Device) -> Summary {
        let device = device.clone().inner();
        let image = Tensor::zeros([1, self.in_channels(), height, width], &device);
        Summary::of(&self.init(&device), |model| drop(model.forward(image)))
    }
}

/// Checks the number of a network's logits.
///
/// # Errors
/// A sentence, if it is 0 or more than 8192.
pub fn check_classes(classes: usize) -> Result<(), ConfigError> {
    /// More than any data set has.
    const MOST_CLASSES: usize = 8192;
    match classes {
        1..=MOST_CLASSES => Ok(()),
        _ => Err(ConfigError::new("classes", format!("must be from 1 to {MOST_CLASSES}, is {classes}"))),
    }
}

/// Returns the backbone of a network's name, which is a decoder's, an underscore and a backbone's; none if the name is not
/// so, or the backbone is unknown. See [`BackboneConfig::by_name`].
pub fn decoder_backbone(name: &str, decoder: &str) -> Option<BackboneConfig> {
    BackboneConfig::by_name(backbone_name(name, decoder)?).ok()
}

/// Whether the backbone of a network's name is timm's as it is.
pub(crate) fn is_on_timm(name: &str, decoder: &str) -> bool {
    backbone_name(name, decoder).is_some_and(smp::is_timm)
}

fn backbone_name<'a>(name: &'a str, decoder: &str) -> Option<&'a str> {
    name.strip_prefix(decoder)?.strip_prefix('_')
}

/// Returns the heads of a network with an auxiliary one, whose loss weighs half as much, as in torchvision.
pub(crate) fn auxiliary(mut heads: Vec<Tensor<4>>) -> Vec<HeadLogits> {
    let main = heads.pop().expect("a network has a head");
    let aux = heads.into_iter().map(|logits| HeadLogits { weight: 0.5, logits });
    aux.chain([HeadLogits { weight: 1.0, logits: main }]).collect()
}

/// Prefixes of the tensors of an encoder's stages after the last one that a decoder uses.
pub(crate) fn unused_stages(encoder: &Backbone, last: Option<usize>) -> Vec<String> {
    let after = last.map_or(Vec::new(), |last| encoder.torch_names_after(last));
    after.into_iter().map(|name| format!("encoder.{name}")).collect()
}

/// Owned copies of prefixes.
pub(crate) fn owned(prefixes: &[&str]) -> Vec<String> {
    prefixes.iter().map(|prefix| (*prefix).into()).collect()
}

/// Implements [`SegmentationNetworkConfig`] for the config of a decoder with fields `backbone` and `classes`, inherent
/// `check` and `init`, by the decoder's name and what the backbone of that name is turned into.
macro_rules! on_backbone {
    ($config:ident => $network:ident, $decoder:literal, $adapt:expr $(, $($more:tt)*)?) => {
        impl crate::SegmentationNetworkConfig for $config {
            type Network = $network;

            const DECODERS: &'static [&'static str] = &[$decoder];

            fn named(name: &str, classes: usize) -> Result<Option<Self>, crate::ConfigError> {
                let Some(backbone) = crate::segmentation::decoder_backbone(name, $decoder) else { return Ok(None) };
                let adapt: fn(crate::backbones::BackboneConfig, &str) -> Result<_, crate::ConfigError> = $adapt;
                Ok(Some(Self::new(adapt(backbone, name)?, classes)))
            }

            fn check(&self) -> Result<(), crate::ConfigError> {
                self.check()
            }

            fn init(&self, device: &burn::tensor::Device) -> $network {
                self.init(device)
            }

            fn in_channels(&self) -> usize {
                self.backbone.in_channels()
            }

            fn with_in_channels(self, in_channels: usize) -> Self {
                Self { backbone: self.backbone.with_in_channels(in_channels), ..self }
            }

            fn classes(&self) -> usize {
                self.classes
            }

            fn has_backbone(&self) -> bool {
                true
            }

            $($($more)*)?
        }
    };
}

pub(crate) use on_backbone;
