//! SegFormer: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS
//! 2021, <https://arxiv.org/abs/2105.15203>. Tensors have the names of the files of Hugging Face's
//! `SegformerForSemanticSegmentation`.

mod encoder;

pub use encoder::{
    MixFfn, MixTransformer, PatchEmbedding, SegFormerAttention, SegFormerBlock, SegFormerStages, SequenceReduction,
};

use std::path::Path;

use burn::{
    config::Config,
    module::Module,
    nn::{
        Dropout, DropoutConfig, Linear,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, ops::ConvOptions},
};

use crate::{
    ConfigError, SegmentationNetwork, SegmentationNetworkConfig,
    layers::{Activation, Norm, NormConfig, add_relu, conv_norm, conv2d, linear2d, resize_to},
    precision::{self, full},
    segmentation::owned,
    summary, trace,
    weights::{self, Exceptions, TorchName, TorchNames, WeightsError, each_name, torch_contents},
};
use encoder::{initializer, zero_bias_linear};

/// Configuration of a [`SegFormer`]; the defaults are B0's.
#[derive(Config, Debug)]
pub struct SegFormerConfig {
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Channels of the image.
    #[config(default = 3)]
    pub in_channels: usize,
    /// Channels of each stage.
    #[config(default = "[32, 64, 160, 256]")]
    pub channels: [usize; 4],
    /// Transformer blocks of each stage.
    #[config(default = "[2, 2, 2, 2]")]
    pub depths: [usize; 4],
    /// Attention heads of each stage; they divide its channels.
    #[config(default = "[1, 2, 5, 8]")]
    pub heads: [usize; 4],
    /// Factor by which keys and values have fewer rows and columns than the map, for each stage.
    #[config(default = "[8, 4, 2, 1]")]
    pub reductions: [usize; 4],
    /// Channels within a feed-forward layer, by those without.
    #[config(default = 4)]
    pub expansion: usize,
    /// Channels of the decoder.
    #[config(default = 256)]
    pub decoder_channels: usize,
    /// Share of images for which the last block is left out in training; earlier blocks have less.
    #[config(default = 0.1)]
    pub drop_path: f64,
    /// Probability with which a value before the classifier is dropped in training.
    #[config(default = 0.1)]
    pub dropout: f64,
}

/// Names, and depths of the stages; B0 has other channels than the others, and B0 and B1 a smaller decoder.
const VARIANTS: [(&str, [usize; 4]); 6] = [
    ("segformer_b0", [2, 2, 2, 2]),
    ("segformer_b1", [2, 2, 2, 2]),
    ("segformer_b2", [3, 4, 6, 3]),
    ("segformer_b3", [3, 4, 18, 3]),
    ("segformer_b4", [3, 8, 27, 3]),
    ("segformer_b5", [3, 6, 40, 3]),
];

impl SegFormerConfig {
    /// Builds the network with random weights: normal, with a deviation of 0.02.
    pub fn init(&self, device: &Device) -> SegFormer {
        let width = self.decoder_channels;
        let conv = |from, to, bias| {
            Conv2dConfig::new([from, to], [1, 1]).with_bias(bias).with_initializer(initializer()).init(device)
        };
        let project = |from| SegFormerProjection { proj: zero_bias_linear(from, width, device) };
        SegFormer {
            encoder: MixTransformer::new(self, device),
            decode_head: SegFormerHead {
                projections: self.channels.map(project).into(),
                fuse: conv(4 * width, width, false),
                norm: NormConfig::default().init(width, device).expect("a batch norm"),
                dropout: DropoutConfig::new(self.dropout).init(),
                classifier: crate::layers::zero_bias(conv(width, self.classes, true), device),
            },
        }
    }
}

impl SegmentationNetworkConfig for SegFormerConfig {
    type Network = SegFormer;

    const NAMES: &'static [&'static str] =
        &["segformer_b0", "segformer_b1", "segformer_b2", "segformer_b3", "segformer_b4", "segformer_b5"];

    fn named(name: &str, classes: usize) -> Result<Option<Self>, ConfigError> {
        let Some(variant) = VARIANTS.iter().position(|(known, _)| *known == name) else { return Ok(None) };
        let config = Self::new(classes).with_depths(VARIANTS[variant].1);
        Ok(Some(match variant {
            0 => config,
            1 => config.with_channels([64, 128, 320, 512]),
            _ => config.with_channels([64, 128, 320, 512]).with_decoder_channels(768),
        }))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let within =
            |name: &'static str, values: &[usize], most: usize| match values.iter().all(|v| (1..=most).contains(v)) {
                true => Ok(()),
                false => Err(ConfigError::new(name, format!("must be from 1 to {most}, are {values:?}"))),
            };
        within("in_channels", &[self.in_channels], 4096)?;
        within("channels", &self.channels, 8192)?;
        within("depths", &self.depths, 256)?;
        within("heads", &self.heads, 8192)?;
        within("reductions", &self.reductions, 64)?;
        within("expansion", &[self.expansion], 16)?;
        within("decoder_channels", &[self.decoder_channels], 8192)?;
        if self.channels.iter().zip(self.heads).any(|(channels, heads)| !channels.is_multiple_of(heads)) {
            return Err(ConfigError::new(
                "heads",
                format!("{:?} must divide channels {:?}", self.heads, self.channels),
            ));
        }
        for (name, share) in [("drop_path", self.drop_path), ("dropout", self.dropout)] {
            if !(0.0..1.0).contains(&share) {
                return Err(ConfigError::new(name, format!("must be at least 0 and below 1, is {share}")));
            }
        }
        Ok(())
    }

    fn init(&self, device: &Device) -> SegFormer {
        self.init(device)
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        Self { in_channels, ..self }
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn has_backbone(&self) -> bool {
        true
    }
}

/// The network; see [`SegFormerConfig`].
#[derive(Module, Debug)]
pub struct SegFormer {
    /// Transformer with maps of strides 4, 8, 16 and 32.
    pub encoder: MixTransformer,
    /// Decoder of fully connected layers.
    pub decode_head: SegFormerHead,
}

impl SegFormer {
    /// Computes logits at the image's height and width.
    ///
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let logits = self.decode_head.forward(self.encoder.forward(x, None));
        resize_to(logits, [height, width], false)
    }

    /// Computes logits and the attention of every block, in the network's order: the weight of each reduced position (the
    /// last axis) for each position of the block's map.
    ///
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]` and, of each block, `[n, heads, positions, reduced positions]`; both
    /// numbers of positions run row by row
    pub fn forward_with_attention(&self, x: Tensor<4>) -> (Tensor<4>, Vec<Tensor<4>>) {
        let [_, _, height, width] = x.dims();
        let mut attention = Vec::new();
        let maps = self.encoder.forward(x, Some(&mut attention));
        (resize_to(self.decode_head.forward(maps), [height, width], false), attention)
    }
}

impl SegmentationNetwork for SegFormer {
    type Config = SegFormerConfig;

    const TORCH_NAMES: TorchNames = &[
        ("SegFormer", "encoder", TorchName::Is("segformer.encoder")),
        ("MixTransformer", "stages", TorchName::Flat),
        ("SegFormerAttention", "query", TorchName::Is("self.query")),
        ("SegFormerAttention", "key", TorchName::Is("self.key")),
        ("SegFormerAttention", "value", TorchName::Is("self.value")),
        ("SegFormerAttention", "reduction", TorchName::Is("self")),
        ("SegFormerAttention", "output", TorchName::Is("output.dense")),
        ("SequenceReduction", "conv", TorchName::Is("sr")),
        ("MixFfn", "depthwise", TorchName::Is("dwconv.dwconv")),
        ("SegFormerHead", "projections", TorchName::Is("linear_c")),
        ("SegFormerHead", "fuse", TorchName::Is("linear_fuse")),
        ("SegFormerHead", "norm", TorchName::Is("batch_norm")),
    ];

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["decode_head.classifier."])
    }

    /// Freezes stages: there are four groups.
    fn freeze_backbone(self, trainable: usize) -> Self {
        Self { encoder: self.encoder.freeze_stages(trainable), ..self }
    }

    /// Loads also the weights of an encoder that was trained as a classifier, such as `nvidia/mit-b0`.
    fn load_pretrained(self, path: &Path) -> Result<Self, WeightsError> {
        if weights::is_own(path) {
            return weights::load(self, path);
        }
        let is_classifier = !torch_contents(path)?.iter().any(|(name, _)| name.contains("decode_head."));
        let kept: &[&str] = &["decode_head.classifier."];
        let exceptions = match is_classifier {
            true => Exceptions { absent: &["decode_head."], spare: &["classifier."], ..Exceptions::default() },
            false => Exceptions { kept, ..Exceptions::default() },
        };
        self.load_torch(path, Exceptions { channels: true, ..exceptions })
    }
}

/// The names that transformers 5 has in memory; its files have those of before.
pub(super) fn other_names(names: &[&str]) -> Vec<(String, String)> {
    each_name(names, |parts| other_name(parts).into_iter().collect())
}

fn other_name(parts: &[&str]) -> Option<String> {
    Some(match *parts {
        ["segformer", "encoder", "patch_embeddings", stage, ref rest @ ..] => {
            format!("segformer.stages.{stage}.patch_embeddings.{}", rest.join("."))
        }
        ["segformer", "encoder", "layer_norm", stage, kind] => format!("segformer.stages.{stage}.layer_norm.{kind}"),
        ["segformer", "encoder", "block", stage, block, ref rest @ .., kind] => {
            let layer = match *rest {
                ["layer_norm_1"] => "layernorm_before",
                ["layer_norm_2"] => "layernorm_after",
                ["attention", "self", "query"] => "attention.q_proj",
                ["attention", "self", "key"] => "attention.k_proj",
                ["attention", "self", "value"] => "attention.v_proj",
                ["attention", "self", "sr"] => "attention.sequence_reduction.sequence_reduction",
                ["attention", "self", "layer_norm"] => "attention.sequence_reduction.layer_norm",
                ["attention", "output", "dense"] => "attention.o_proj",
                ["mlp", "dense1"] => "mlp.fc1",
                ["mlp", "dense2"] => "mlp.fc2",
                ["mlp", "dwconv", "dwconv"] => "mlp.dwconv.dwconv",
                _ => return None,
            };
            format!("segformer.stages.{stage}.blocks.{block}.{layer}.{kind}")
        }
        ["decode_head", "linear_c", index, "proj", kind] => {
            format!("decode_head.linear_projections.{index}.proj.{kind}")
        }
        _ => return None,
    })
}

/// All maps brought to one number of channels and to the largest one's size, fused, and classified.
#[derive(Module, Debug)]
pub struct SegFormerHead {
    /// Fully connected layer of each map's channels, the largest map's first.
    pub projections: Vec<SegFormerProjection>,
    /// 1×1 over all maps, the smallest one's channels first.
    pub fuse: Conv2d,
    /// Batch norm after the fusion.
    pub norm: Norm,
    /// Dropout before the classifier.
    pub dropout: Dropout,
    /// 1×1 to the classes.
    pub classifier: Conv2d,
}

/// Fully connected layer of a map's channels.
#[derive(Module, Debug)]
pub struct SegFormerProjection {
    /// The layer.
    pub proj: Linear,
}

impl SegFormerHead {
    fn forward(&self, maps: Vec<Tensor<4>>) -> Tensor<4> {
        let [_, _, height, width] = maps[0].dims();
        let fused = match self.fused_by_map(&maps) {
            Some(fused) => fused,
            None => {
                let projected = maps.into_iter().zip(&self.projections).map(|(map, layer)| {
                    resize_to(linear2d(&layer.proj, Activation::Identity, map), [height, width], false)
                });
                let mut projected: Vec<Tensor<4>> = projected.collect();
                projected.reverse();
                conv_norm(&self.fuse, Some(&self.norm), Activation::Relu, projected)
            }
        };
        conv2d(&self.classifier, self.dropout.forward(fused))
    }

    /// The map after the fusion, where nobody asks for what is between. Projection, enlargement and fusion are linear, and the
    /// enlargement's weights add up to 1, so that each map may be projected and fused by one matrix before it is enlarged: a
    /// twentieth of the multiplications, in f32 whatever the precision.
    fn fused_by_map(&self, maps: &[Tensor<4>]) -> Option<Tensor<4>> {
        let device = maps[0].device();
        if maps[0].is_autodiff() || trace::is_active() || summary::is_counting() || !precision::may_reorder() {
            return None;
        }
        let [batch, _, height, width] = maps[0].dims();
        // Making the matrices takes as many products as some pixels would spare.
        if batch * height * width < maps.iter().map(|map| map.dims()[1]).sum() {
            return None;
        }
        let [scale, shift] = self.norm.affine(&device)?;
        let [channels, all, ..] = self.fuse.weight.dims();
        let (between, last) = (all / maps.len(), maps.len() - 1);
        // `[channels between, channels]` of each map, the smallest one's first.
        let weights = self.fuse.weight.val().reshape([channels, all]) * scale.reshape([channels, 1]);
        let weights = weights.transpose();
        let mut sum: Option<Tensor<4>> = None;
        for (index, (map, layer)) in maps.iter().zip(&self.projections).enumerate().rev() {
            let weight = weights.clone().narrow(0, (last - index) * between, between);
            let bias = layer.proj.bias.as_ref().map(|bias| bias.val().unsqueeze::<2>().matmul(weight.clone()));
            let bias = bias.map_or_else(|| shift.zeros_like(), |bias| bias.reshape([channels]));
            let bias = if index == 0 { bias + shift.clone() } else { bias };
            let matrix = layer.proj.weight.val().matmul(weight).unsqueeze::<4>().permute([3, 2, 0, 1]);
            let y =
                segkiln_ops::conv2d(full(map.clone()), matrix, Some(bias), ConvOptions::new([1, 1], [0, 0], [1, 1], 1));
            sum = Some(match sum {
                None => resize_to(y, [height, width], false),
                Some(sum) if index > 0 => sum + resize_to(y, [height, width], false),
                Some(sum) => add_relu(sum, y),
            });
        }
        sum
    }
}
