//! Mix Transformer: overlapping patches instead of positional embeddings, self-attention with reduced keys and values,
//! feed-forward layers with a 3×3 convolution.

use burn::{
    module::Module,
    nn::{
        Dropout, DropoutConfig, Initializer, Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, activation::softmax},
};
use segkiln_ops::attention;

use super::SegFormerConfig;
use crate::{
    layers::{Activation, LayerNorm2d, conv2d, image_dropout, linear2d, pad_to_least, zero_bias},
    trace,
};

pub(super) fn initializer() -> Initializer {
    Initializer::Normal { mean: 0.0, std: 0.02 }
}

pub(super) fn zero_bias_linear(from: usize, to: usize, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(from, to).with_initializer(initializer()).init(device);
    linear.bias = linear.bias.map(|bias| Initializer::Zeros.init(bias.lazy_shape(), device));
    linear
}

fn conv(channels: [usize; 2], kernel: usize, stride: usize, padding: usize, groups: usize, device: &Device) -> Conv2d {
    let conv = Conv2dConfig::new(channels, [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .with_groups(groups)
        .with_initializer(initializer());
    zero_bias(conv.init(device), device)
}

fn norm(channels: usize, device: &Device) -> LayerNorm2d {
    LayerNorm2d::new(channels, 1e-5, device)
}

/// The encoder.
#[derive(Module, Debug)]
pub struct MixTransformer {
    /// Layers of the four stages.
    pub stages: SegFormerStages,
}

/// Layers of the stages, each list with one element a stage.
#[derive(Module, Debug)]
pub struct SegFormerStages {
    /// Convolutions that make maps of strides 4, 8, 16 and 32.
    pub patch_embeddings: Vec<PatchEmbedding>,
    /// Transformer blocks.
    pub block: Vec<Vec<SegFormerBlock>>,
    /// Norms at the ends of the stages.
    pub layer_norm: Vec<LayerNorm2d>,
}

impl MixTransformer {
    pub(super) fn new(config: &SegFormerConfig, device: &Device) -> Self {
        let blocks: usize = config.depths.iter().sum();
        let mut done = 0;
        let mut stages = SegFormerStages { patch_embeddings: Vec::new(), block: Vec::new(), layer_norm: Vec::new() };
        let mut from = config.in_channels;
        for (stage, channels) in config.channels.into_iter().enumerate() {
            let (kernel, stride) = if stage == 0 { (7, 4) } else { (3, 2) };
            stages.patch_embeddings.push(PatchEmbedding {
                proj: conv([from, channels], kernel, stride, kernel / 2, 1, device),
                layer_norm: norm(channels, device),
            });
            from = channels;
            let block = |_| {
                let drop_path = config.drop_path * done as f64 / (blocks - 1).max(1) as f64;
                done += 1;
                SegFormerBlock::new(config, stage, drop_path, device)
            };
            stages.block.push((0..config.depths[stage]).map(block).collect());
            stages.layer_norm.push(norm(channels, device));
        }
        Self { stages }
    }

    /// Computes the maps of strides 4, 8, 16 and 32, and pushes each block's attention where it is asked for.
    pub(super) fn forward(&self, x: Tensor<4>, mut attention: Option<&mut Vec<Tensor<4>>>) -> Vec<Tensor<4>> {
        let SegFormerStages { patch_embeddings, block, layer_norm } = &self.stages;
        let mut map = x;
        let mut maps = Vec::with_capacity(4);
        for ((embedding, blocks), norm) in patch_embeddings.iter().zip(block).zip(layer_norm) {
            map = embedding.layer_norm.forward(conv2d(&embedding.proj, map));
            for block in blocks {
                map = block.forward(map, attention.as_deref_mut());
            }
            map = norm.forward(map);
            maps.push(map.clone());
        }
        maps
    }

    /// Keeps all but the last `trainable` stages from learning.
    pub(super) fn freeze_stages(self, trainable: usize) -> Self {
        fn freeze<M: Module>(layers: Vec<M>, learning: usize) -> Vec<M> {
            let freeze = |(stage, layer): (usize, M)| if stage < learning { layer.freeze() } else { layer };
            layers.into_iter().enumerate().map(freeze).collect()
        }
        let learning = self.stages.layer_norm.len().saturating_sub(trainable);
        let SegFormerStages { patch_embeddings, block, layer_norm } = self.stages;
        let stages = SegFormerStages {
            patch_embeddings: freeze(patch_embeddings, learning),
            block: freeze(block, learning),
            layer_norm: freeze(layer_norm, learning),
        };
        Self { stages }
    }
}

/// Convolution of overlapping patches.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// 7×7 of stride 4, or 3×3 of stride 2.
    pub proj: Conv2d,
    /// Norm of each position's channels.
    pub layer_norm: LayerNorm2d,
}

/// Transformer block.
#[derive(Module, Debug)]
pub struct SegFormerBlock {
    /// Norm before the attention.
    pub layer_norm_1: LayerNorm2d,
    /// Self-attention.
    pub attention: SegFormerAttention,
    /// Norm before the feed-forward layer.
    pub layer_norm_2: LayerNorm2d,
    /// Feed-forward layer.
    pub mlp: MixFfn,
    /// Leaves a branch out for an image, in training.
    pub drop_path: Dropout,
}

impl SegFormerBlock {
    fn new(config: &SegFormerConfig, stage: usize, drop_path: f64, device: &Device) -> Self {
        let channels = config.channels[stage];
        let hidden = channels * config.expansion;
        let linear = |from, to| zero_bias_linear(from, to, device);
        let side = config.reductions[stage];
        Self {
            layer_norm_1: norm(channels, device),
            attention: SegFormerAttention {
                query: linear(channels, channels),
                key: linear(channels, channels),
                value: linear(channels, channels),
                reduction: (side > 1).then(|| SequenceReduction {
                    conv: conv([channels; 2], side, side, 0, 1, device),
                    layer_norm: norm(channels, device),
                }),
                output: linear(channels, channels),
                heads: config.heads[stage],
            },
            layer_norm_2: norm(channels, device),
            mlp: MixFfn {
                dense1: linear(channels, hidden),
                depthwise: conv([hidden; 2], 3, 1, 1, hidden, device),
                dense2: linear(hidden, channels),
            },
            drop_path: DropoutConfig::new(drop_path).init(),
        }
    }

    fn forward(&self, x: Tensor<4>, attention: Option<&mut Vec<Tensor<4>>>) -> Tensor<4> {
        let branch = self.attention.forward(self.layer_norm_1.forward(x.clone()), attention);
        let x = image_dropout(&self.drop_path, branch) + x;
        let branch = self.mlp.forward(self.layer_norm_2.forward(x.clone()));
        trace::module(self, image_dropout(&self.drop_path, branch) + x)
    }
}

/// Self-attention of all positions to the positions of a reduced map.
#[derive(Module, Debug)]
pub struct SegFormerAttention {
    /// Queries.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// Reduction of the map that keys and values are made of.
    pub reduction: Option<SequenceReduction>,
    /// Layer after the heads.
    pub output: Linear,
    #[module(skip)]
    heads: usize,
}

/// Convolution whose stride is its kernel's side.
#[derive(Module, Debug)]
pub struct SequenceReduction {
    /// The convolution.
    pub conv: Conv2d,
    /// Norm of each position's channels.
    pub layer_norm: LayerNorm2d,
}

impl SegFormerAttention {
    /// Pushes the weights, `[n, heads, positions, reduced positions]`, where they are asked for.
    fn forward(&self, x: Tensor<4>, weights: Option<&mut Vec<Tensor<4>>>) -> Tensor<4> {
        let shape = x.dims();
        let reduced = match &self.reduction {
            // Maps smaller than the kernel have one position too.
            Some(SequenceReduction { conv, layer_norm }) => {
                layer_norm.forward(conv2d(conv, pad_to_least(x.clone(), conv.kernel_size[0])))
            }
            None => x.clone(),
        };
        let project = |layer: &Linear, x| linear2d(layer, Activation::Identity, x).flatten::<3>(2, 3);
        let (query, key) = (project(&self.query, x), project(&self.key, reduced.clone()));
        let value = project(&self.value, reduced);
        if let Some(weights) = weights {
            weights.push(self.weights(&query, &key));
        }
        let seen = attention(query, key, value, self.heads);
        linear2d(&self.output, Activation::Identity, seen.reshape(shape))
    }

    /// The weights with which [`attention`] adds up values.
    fn weights(&self, query: &Tensor<3>, key: &Tensor<3>) -> Tensor<4> {
        let [n, channels, _] = query.dims();
        let width = channels / self.heads;
        let split = |x: &Tensor<3>| x.clone().reshape([n, self.heads, width, x.dims()[2]]);
        let query = split(query).mul_scalar((width as f64).powf(-0.5));
        softmax(query.swap_dims(2, 3).matmul(split(key)), 3)
    }
}

/// Feed-forward layer whose 3×3 convolution tells positions apart.
#[derive(Module, Debug)]
pub struct MixFfn {
    /// Layer to more channels.
    pub dense1: Linear,
    /// 3×3, each channel by itself.
    pub depthwise: Conv2d,
    /// Layer back.
    pub dense2: Linear,
}

impl MixFfn {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = conv2d(&self.depthwise, linear2d(&self.dense1, Activation::Identity, x));
        linear2d(&self.dense2, Activation::Identity, Activation::Gelu.forward(x))
    }
}
